"""A proxy in front of an S3 server that does to answers what networks and busy stores do."""

from __future__ import annotations

import collections
import hashlib
import http.client
import http.server
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

FAULTS = ("busy", "closed", "cut", "wrong", "stalled")


class BadNetwork(http.server.ThreadingHTTPServer):
    """The proxy. It runs in a thread until `stop`.

    Attributes:
        fault: Function from the number of a request for a range, from 0, to the name of its fault, or "".
            busy: 503, try again. closed: no answer. cut: half of the answer. wrong: changed bytes. stalled: half of the
            answer, and then nothing for 3 seconds. down: as closed. silent: nothing for 10 seconds, and then as closed.
        rule: Function from the method and the path of each request to the name of its fault, or "". Further faults are
            lost: the server does what it is asked, and there is no answer. denied: 403, access denied. replaced: the
            server does not see the condition that the object must not exist. slow: the body is read at 4 MB/s. late:
            400, the request took too long. altered: a byte of the body is changed. refused: as altered, and the server
            compares the body with the sum in the signature, as Amazon's server does and moto does not. encrypted:
            the ETag is not the MD5 sum, as in a bucket with keys of its own.
        requests: Method, path and bytes of the body of each request so far.
        ranges: Number of requests for ranges so far.
        faults: Number of faults of each kind so far.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urllib.parse.urlsplit(upstream).netloc
        self.fault: Callable[[int], str] = lambda number: ""
        self.rule: Callable[[str, str], str] = lambda method, path: ""
        self.requests: list[tuple[str, str, int]] = []
        self.ranges = 0
        self.faults: collections.Counter[str] = collections.Counter()
        self.counting = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # Clients close connections.

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


def at_random(seed: int, share: float = 0.1) -> Callable[[int], str]:
    """Return a schedule of faults: the first request fails, and each other one with this probability."""
    chosen = random.Random(seed)
    drawn = [chosen.choice(FAULTS) if chosen.random() < share else "" for _ in range(100_000)]
    drawn[0] = chosen.choice(FAULTS)
    return lambda number: drawn[number]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: BadNetwork

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _forward(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        with self.server.counting:
            self.server.requests.append((self.command, self.path, size))
            fault = self.server.rule(self.command, self.path)
            if "Range" in self.headers:
                fault = fault or self.server.fault(self.server.ranges)
                self.server.ranges += 1
            if fault or "Range" in self.headers:
                self.server.faults[fault] += 1
        body = bytearray(b"".join(self._received(size, fault == "slow")))
        if fault in ("closed", "down", "silent"):
            time.sleep(10 if fault == "silent" else 0)
            self.close_connection = True
            return
        if fault == "busy":
            self._refuse(503, "SlowDown", "Reduce your request rate.")
            return
        if fault == "denied":
            self._refuse(403, "AccessDenied", "Access Denied")
            return
        if fault == "late":
            self._refuse(400, "RequestTimeout", "Your socket connection to the server was not read from in time.")
            return
        if fault in ("altered", "refused") and body:
            body[len(body) // 2] ^= 0x55
        if fault == "refused" and hashlib.sha256(body).hexdigest() != self.headers["x-amz-content-sha256"]:
            self._refuse(400, "XAmzContentSHA256Mismatch", "The provided header does not match what was computed.")
            return
        if fault == "replaced":
            del self.headers["If-None-Match"]
        if fault == "encrypted" and "If-Match" in self.headers:
            condition = self.headers["If-Match"]
            self.headers.replace_header("If-Match", condition[::-1])
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)
        connection.request(self.command, self.path, bytes(body), dict(self.headers))
        answer = connection.getresponse()
        data = bytearray(answer.read())
        connection.close()
        if fault == "lost":
            self.close_connection = True
            return
        if fault == "wrong" and data:
            for place in range(len(data) // 2, min(len(data), len(data) // 2 + 40)):
                data[place] ^= 0x55
        headers = dict(_kept(answer))
        if fault == "encrypted" and "Etag" in headers:
            headers["Etag"] = headers["Etag"][::-1]
        self._send(answer.status, headers, bytes(data), fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward

    def _received(self, size: int, slow: bool) -> Iterator[bytes]:
        while size:
            part = self.rfile.read(min(size, 1 << 20))
            yield part
            size -= len(part)
            time.sleep(0.25 if slow else 0)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, {}, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())

    def _send(self, status: int, headers: dict[str, str], data: bytes, fault: str = "") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault in ("cut", "stalled"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            time.sleep(3 if fault == "stalled" else 0)
            self.close_connection = True
            return
        self.wfile.write(data)


def _kept(answer: http.client.HTTPResponse) -> Iterator[tuple[str, str]]:
    for name, value in answer.getheaders():
        if name.lower() not in ("date", "server", "connection", "transfer-encoding"):
            yield name.title(), value
