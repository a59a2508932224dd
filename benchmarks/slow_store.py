"""An S3 server that only reads, with the delay and the bandwidth of a network.

    python -m benchmarks.slow_store DIRECTORY --latency_ms=20 --mb_per_s=50

It serves the files below DIRECTORY as objects: GET and HEAD, with ranges, ETags and If-Match. The first subdirectory is
the bucket. The address is printed. All connections share the bandwidth. GET /counts, without a delay, gives the
requests and bytes so far as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import email.utils
import json
import os
import re
import socket
import socketserver
import threading
import time
import urllib.parse
from pathlib import Path

_PIECE = 64 << 10  # Bytes that are sent at once. The line gives the next piece its time slot.


class Line:
    """A network connection that all requests share: a delay for each request, and a bandwidth."""

    def __init__(self, latency: float, bytes_per_second: float):
        self._latency, self._rate = latency, bytes_per_second
        self._free = 0.0
        self._lock = threading.Lock()

    def request(self) -> None:
        """Wait as long as a request and the start of its answer travel."""
        time.sleep(self._latency)

    def send(self, count: int) -> None:
        """Wait until the line has sent `count` bytes."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + count / self._rate
            wait = self._free - time.monotonic()
        if wait > 0.001:
            time.sleep(wait)


@dataclasses.dataclass
class Counts:
    """Requests and bytes so far."""

    requests: int = 0
    sent: int = 0


class SlowStore(socketserver.ThreadingTCPServer):
    """The server. `counts` are the requests and bytes so far."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, root: Path, line: Line, port: int = 0):
        self.root, self.line, self.counts = root, line, Counts()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.BaseRequestHandler):
    """Answers the requests of a connection.

    The handler of the standard library takes 1 ms of processor time per request, which would be the limit.
    """

    server: SlowStore
    request: socket.socket

    def handle(self) -> None:
        # Otherwise, the body would wait 40 ms for an acknowledgment of the header.
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        with contextlib.suppress(ConnectionError):
            while True:
                while b"\r\n\r\n" not in received:
                    data = self.request.recv(65536)
                    if not data:
                        return
                    received += data
                head, _, received = received.partition(b"\r\n\r\n")
                self._answer(head.decode("latin-1"))

    def _answer(self, head: str) -> None:
        method, target = head.split(" ", 2)[:2]
        if target == "/counts":
            return self._send("200 OK", {}, json.dumps(dataclasses.asdict(self.server.counts)).encode())
        self.server.line.request()
        self.server.counts.requests += 1
        path = self.server.root / urllib.parse.unquote(target.partition("?")[0]).lstrip("/")
        if method not in ("GET", "HEAD") or not path.is_file():
            return self._send("404 Not Found", {}, b"<Error><Code>NoSuchKey</Code></Error>" * (method != "HEAD"))
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            wanted = re.search(r"(?im)^if-match: *(\S+)\r?$", head)
            if wanted and wanted[1] != etag:
                return self._send("412 Precondition Failed", {}, b"<Error><Code>PreconditionFailed</Code></Error>")
            start, end = 0, status.st_size
            asked = re.search(r"(?im)^range: *bytes=(\d+)-(\d*)\r?$", head)
            headers = {"ETag": etag, "Last-Modified": email.utils.formatdate(status.st_mtime, usegmt=True)}
            if asked:
                start, end = int(asked[1]), min(end, int(asked[2] or end) + 1)
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{status.st_size}"
            self._send("206 Partial Content" if asked else "200 OK", headers, b"", end - start)
            while method == "GET" and start < end:
                count = min(_PIECE, end - start)
                self.server.line.send(count)
                start += os.sendfile(self.request.fileno(), file.fileno(), start, count)
                self.server.counts.sent += count
        return None

    def _send(self, status: str, headers: dict[str, str], body: bytes, length: int | None = None) -> None:
        given = {**headers, "Content-Length": str(len(body) if length is None else length)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self.request.sendall(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--latency_ms", type=float, default=20)
    parser.add_argument("--mb_per_s", type=float, default=50)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    server = SlowStore(given.directory, Line(given.latency_ms / 1e3, given.mb_per_s * 1e6), given.port)
    print(server.url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
