"""An S3 server that only reads, with the delay and the bandwidth of a network.

    python -m benchmarks.slow_store DIRECTORY --latency_ms=20 --mb_per_s=50

It serves the files below DIRECTORY as objects: GET and HEAD, with ranges, ETags and If-Match. The first subdirectory is
the bucket. The address is printed. All connections share the bandwidth.
"""

from __future__ import annotations

import argparse
import dataclasses
import email.utils
import http.server
import os
import re
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


class SlowStore(http.server.ThreadingHTTPServer):
    """The server. `counts` are the requests and bytes so far."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, root: Path, line: Line, port: int = 0):
        self.root, self.line, self.counts = root, line, Counts()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Otherwise, the body would wait 40 ms for an acknowledgment of the header.
    server: SlowStore

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        if self.path == "/counts":
            counts = self.server.counts
            return self._text(200, f"{counts.requests} {counts.sent}")
        return self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.server.line.request()
        self.server.counts.requests += 1
        path = self.server.root / urllib.parse.unquote(self.path.partition("?")[0]).lstrip("/")
        if not path.is_file():
            return self._text(404, "<Error><Code>NoSuchKey</Code><Message>It does not exist.</Message></Error>")
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            if self.headers.get("If-Match", etag) != etag:
                return self._text(412, "<Error><Code>PreconditionFailed</Code></Error>")
            start, end = 0, status.st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked:
                start, end = int(asked[1]), min(end, int(asked[2] or end) + 1)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}")
            self.send_header("Content-Length", str(end - start))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Last-Modified", email.utils.formatdate(status.st_mtime, usegmt=True))
            self.send_header("ETag", etag)
            self.end_headers()
            while body and start < end:
                count = min(_PIECE, end - start)
                self.server.line.send(count)
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, count)
                self.server.counts.sent += count
        return None

    def _text(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


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
