"""Read parts of large files, on a disk or in an object store."""

from __future__ import annotations

import functools
import os
from typing import IO, Any, cast

from tfrecord_tools.base import files
from tfrecord_tools.sources import object_store
from tfrecord_tools.sources.base import MAX_FILE_BYTES


def open_binary(path: str) -> IO[bytes]:
    """Open a file or a URL for reading in any order.

    Raises:
        OSError: A local file cannot be opened.
        UserError: The store cannot be reached.
    """
    if not files.is_url(path):
        return open(path, "rb")
    system, inner = object_store.connected(path)
    with object_store.explained(path):
        return cast(IO[bytes], system.open(inner, "rb"))


def read_at(path: str, size: int, offset: int) -> bytes:
    """Read up to `size` bytes from an offset on, at most `MAX_FILE_BYTES` + 1.

    Raises:
        OSError, UserError: As `open_binary`.
    """
    size = min(size, MAX_FILE_BYTES + 1)
    if not size:
        return b""
    if not files.is_url(path):
        with open(path, "rb") as file:
            return files.read_at(file.fileno(), size, offset)
    system, inner = object_store.connected(path)
    with object_store.explained(path):
        return cast(bytes, system.cat_file(inner, start=offset, end=offset + size))


def status(path: str) -> tuple[int, int]:
    """Return the size in bytes, and the time of the last change in nanoseconds since the epoch.

    In an object store, the status is read once per process. Raises the errors of `open_binary`.
    """
    if files.is_url(path):
        return _object_status(path, os.getpid())
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=1 << 16)
def _object_status(url: str, process: int) -> tuple[int, int]:
    system, inner = object_store.connected(url)
    with object_store.explained(url):
        info: dict[str, Any] = system.info(inner)
        return int(info["size"]), object_store.mtime_ns(info)


def exists(path: str) -> bool:
    """Whether a file or an object exists."""
    if not files.is_url(path):
        return os.path.isfile(path)
    system, inner = object_store.connected(path)
    with object_store.explained(path):
        return bool(system.isfile(inner))
