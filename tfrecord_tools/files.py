"""Files that are there whole or not at all: atomic writes, durable renames, exchange, lock; and what is no file."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tfrecord_tools.errors import UserError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_LOCK_SECONDS = 5.0  # How long the workers of a killed run may take to notice and end.


def is_url(path: str) -> bool:
    """Whether this names something in an object store, such as s3://bucket/prefix."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Opens `path` for writing under a temporary name; it appears, durable, when the block succeeds."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable, as fsync of the files alone does not."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), os.fspath(one))


@contextlib.contextmanager
def lock(path: Path, in_use: str) -> Iterator[None]:
    """Holds an exclusive lock on `path` for the block; the system releases it when the process dies.

    Raises:
        UserError: Another process holds it, with `in_use` as the message.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while (file := _open_locked(path)) is None:
        if time.monotonic() > deadline:
            raise UserError(in_use)
        time.sleep(0.05)
    with file:
        yield


def _open_locked(path: Path) -> BinaryIO | None:
    """Opens and locks `path`; None while somebody holds it, or removed it and its directory under our hands."""
    path.parent.mkdir(exist_ok=True)
    try:
        file = open(path, "wb")  # noqa: SIM115  The caller closes it.
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None
