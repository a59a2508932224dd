"""Use a store after a fork.

The threads of obstore do not exist in a forked process, so its calls would never return.

A forked process, such as a worker of PyTorch's DataLoader, therefore starts a helper process, and asks it through a
pipe. The helper ends when the process that started it ends.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tfrecord_tools.remote.interface import Object, Store, Unreachable

_LENGTH = struct.Struct("<Q")
_THREADS = 64
_first_user = 0  # The process that used obstore first. Forked children of this process cannot use it.


class ForkSafe:
    """A store that works before and after a fork; see `interface.Store`."""

    def __init__(self, store: Store):
        self._store = store
        self.url = store.url

    def head(self, path: str) -> Object:
        found: Object = self._call("head", path)
        return found

    def get(self, path: str, start: int = 0, end: int | None = None, tag: str = "") -> memoryview:
        return memoryview(self._call("get", path, start, end, tag))

    def list(self, prefix: str = "", below: bool = True) -> Iterator[Object]:
        return iter(self._call("list", prefix, below))

    def put(self, path: str, data: bytes | Path, create: bool = False) -> Object:
        written: Object = self._call("put", path, data, create)
        return written

    def copy(self, source: str, destination: str, create: bool = False) -> None:
        self._call("copy", source, destination, create)

    def delete(self, path: str) -> None:
        self._call("delete", path)

    def _call(self, method: str, *arguments: object) -> Any:
        global _first_user
        process = os.getpid()
        _first_user = _first_user or process
        if _first_user == process:
            return getattr(self._store, method)(*arguments)
        helper = _helpers.get(process)
        if helper is None or helper.ended:
            with _lock_of(process):
                helper = _helpers.get(process)
                if helper is None or helper.ended:
                    helper = _helpers[process] = _Helper()
        return helper.call(self._store, method, arguments)


class _Helper:
    """A process that calls stores for this one.

    Attributes:
        ended: The process has ended, so that another one is needed.
    """

    def __init__(self) -> None:
        program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._waiting: dict[int, concurrent.futures.Future[Any]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self.ended = False
        threading.Thread(target=self._receive, daemon=True, name="store").start()

    def call(self, store: Store, method: str, arguments: tuple[object, ...]) -> Any:
        """Call a method of a store in the other process. Return its result or raise its error."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        number = next(self._numbers)
        self._waiting[number] = future
        assert self._process.stdin is not None
        try:
            with self._lock:
                _send(self._process.stdin, (number, store, method, arguments))
        except OSError:
            self._end()
        if self.ended:  # Also if it ended before the future was noted.
            self._end()
        return future.result()

    def _receive(self) -> None:
        assert self._process.stdout is not None
        while (message := _received(self._process.stdout)) is not None:
            number, result, error = message
            future = self._waiting.pop(number)
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        self._end()

    def _end(self) -> None:
        self.ended = True
        while self._waiting:
            try:
                future = self._waiting.popitem()[1]
            except KeyError:  # Another thread was faster.
                return
            future.set_exception(
                Unreachable("the process that reads the bucket has ended. Run the same command again.")
            )


_helpers: dict[int, _Helper] = {}
_locks: dict[int, threading.Lock] = {}


def _lock_of(process: int) -> threading.Lock:
    """Return a lock that was made in this process. A lock of the parent may be held for ever."""
    return _locks.setdefault(process, threading.Lock())


def serve() -> None:
    """Answer calls from standard input until it ends."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Printed lines must not end up in the answers.
    lock = threading.Lock()

    def answer(number: int, store: Store, method: str, arguments: tuple[object, ...]) -> None:
        result, error = None, None
        try:
            result = getattr(store, method)(*arguments)
            if isinstance(result, memoryview):
                result = bytes(result)
            elif method == "list":
                result = list(result)
        except Exception as raised:  # noqa: BLE001  The caller raises it.
            error = raised
        with lock:
            _send(output, (number, result, error))

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        while (message := _received(sys.stdin.buffer)) is not None:
            pool.submit(answer, *message)
        os._exit(0)


def _send(file: IO[bytes], message: object) -> None:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    file.write(_LENGTH.pack(len(data)) + data)
    file.flush()


def _received(file: IO[bytes]) -> Any:
    """Return the next message. None: there are no more."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    data = file.read(_LENGTH.unpack(head)[0])
    return pickle.loads(data)
