"""The budget of a cache directory, which all processes of a machine share.

A cache directory has a directory for each dataset, and in it a directory for each split (see `part`). A split that no
process uses is removed as a whole when others need its space, the least recently used one first. If a process is
killed, the system releases its locks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import filelock
import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError, refusal

STATE, USERS = "state", "users"
HEADER_BYTES = 4096
_MAGIC = 0x31454843_41435254  # "TRCACHE1"
_FILLED, _ROWS = 1, 2  # Fields of the header after the magic number: bytes of records in the cache, number of rows.
_SHARE = 0.8  # Share of the free disk space that is the default budget.
_MOST_USERS = 200
_POLL = 0.002  # Seconds between two attempts to get the lock.
_RETRY = 10.0  # Seconds until splits of other processes are looked at again.


class Space:
    """A cache directory with its lock. It is used by one process; a forked process makes its own.

    Attributes:
        root: The directory.
        budget: Largest number of bytes of records in it.
        members: The fetchers of this process that use the directory. Each may remove records of the others.
    """

    def __init__(self, root: Path, budget: int | None):
        self.root = root
        self.members: weakref.WeakSet[Any] = weakref.WeakSet()
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._lock_file = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o666)
            if os.fstat(self._lock_file).st_size < 8:
                os.ftruncate(self._lock_file, 8)
            usage = shutil.disk_usage(root)
            frees = _frees_parts(root)
        except OSError as error:
            raise unusable(root, error) from error
        if not frees:
            raise UserError(
                f"--cache_dir={root}: the file system cannot free parts of files. Pass a directory on ext4, XFS, Btrfs"
                " or tmpfs."
            )
        self._thread_lock = threading.RLock()
        self._depth = 0
        self._next_removal = 0.0
        self._version = _mapped(root / "lock", "r+")[:8].view(np.int64)  # It grows when a split is added or removed.
        self._known, self._headers = -1, list[np.ndarray]()
        with self.locked():
            self.budget = int(_SHARE * (usage.free + self.filled())) if budget is None else budget

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the only lock of the directory. Hold it for milliseconds, never while a request is under way."""
        with self._thread_lock:
            if self._depth == 0:
                filelock.lock_descriptor(self._lock_file, blocking=True, poll_interval=_POLL)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    filelock.unlock_descriptor(self._lock_file)

    def filled(self) -> int:
        """Return the bytes of records of all splits."""
        version = int(self._version[0])
        if version != self._known:
            self._headers = [_header(path) for path in self.root.glob(f"*/*/{STATE}")]
            self._known = version
        return sum(int(header[_FILLED]) for header in self._headers)

    def note_change(self) -> None:
        """Let all processes look for the splits again. The lock must be held."""
        self._version += 1

    def free(self) -> int:
        """Return the bytes that may still be written."""
        return self.budget - self.filled()

    def shrink(self) -> None:
        """Lower the budget to what is there: the disk is full."""
        self.budget = min(self.budget, self.filled())

    def remove_idle(self, need: int) -> None:
        """Remove splits that no process uses until `need` bytes are free. The lock must be held."""
        if time.monotonic() < self._next_removal:  # Every other split was in use a moment ago.
            return
        states = sorted(self.root.glob(f"*/*/{STATE}"), key=lambda path: path.stat().st_mtime)
        for path in states:
            if self.free() >= need:
                return
            if not any(is_alive(user) for user in (path.parent / USERS).iterdir()):
                shutil.rmtree(path.parent, ignore_errors=True)
                self.note_change()
        self._next_removal = time.monotonic() + _RETRY


def unusable(root: Path, error: OSError) -> UserError:
    """Return the error for a cache directory that cannot be written, or that is full."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "Free some space, or pass another directory" if is_full else "Pass a directory"
    return UserError(f"--cache_dir={root}: {refusal(error)}. {remedy} on a local disk that you may write.")


def _frees_parts(root: Path) -> bool:
    """Return whether the file system can free a part of a file."""
    with tempfile.TemporaryFile(dir=root) as file:
        file.write(bytes(2 * files.PAGE))
        file.flush()
        return files.punch(file.fileno(), 0, files.PAGE)


_spaces: dict[tuple[int, Path], Space] = {}


def of(root: Path, budget: int | None) -> Space:
    """Return the cache directory `root`, opened once per process. The budget that is given last holds."""
    key = (os.getpid(), root)
    found = _spaces.get(key)
    if found is None:
        return _spaces.setdefault(key, Space(root, budget))
    if budget is not None:
        found.budget = budget
    return found


def _header(path: Path) -> np.ndarray:
    """Map the header of a state into memory: i64[3]. It is 0 if the file is missing or damaged."""
    try:
        header = _mapped(path, "r")[:24].view(np.int64)
    except (OSError, ValueError):  # An empty file is a ValueError.
        header = np.zeros(0, np.int64)
    return header if len(header) == 3 and header[0] == _MAGIC else np.zeros(3, np.int64)


def create_state(path: Path, rows: int) -> np.ndarray:
    """Return the shared state of a split, u8[HEADER_BYTES + 5 * rows]. The lock must be held."""
    size = HEADER_BYTES + 5 * rows
    if not path.exists() or path.stat().st_size != size or _header(path)[_ROWS] != rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(path) as file:
            files.allocate(file, size)
            file.seek(0)
            file.write(np.array([_MAGIC, 0, rows], np.int64).tobytes())
    return _mapped(path, "r+")


def _mapped(path: Path, mode: Literal["r", "r+"]) -> np.ndarray:
    """Map a file into memory, u8[size]. Operations on a plain array are faster than on a `np.memmap`."""
    return np.memmap(path, np.uint8, mode).view(np.ndarray)


def filled_field(state: np.ndarray) -> np.ndarray:
    """Return the field of the header with the bytes of records: i64[1], a view."""
    return state[8 * _FILLED : 8 * _FILLED + 8].view(np.int64)


class User:
    """A process that uses a split. When the process has ended, another one can take its number.

    Attributes:
        number: A number from 1 to 200 that no other living user of the split has.
    """

    def __init__(self, directory: Path):
        """Take the first free number. The lock of the cache directory must be held."""
        directory.mkdir(parents=True, exist_ok=True)
        for number in range(1, _MOST_USERS + 1):
            descriptor = os.open(directory / str(number), os.O_RDWR | os.O_CREAT, 0o666)
            if filelock.lock_descriptor(descriptor, blocking=False):
                self.number, self._descriptor = number, descriptor
                return
            os.close(descriptor)
        raise UserError(f"{directory}: more than {_MOST_USERS} processes use this cache. Use another --cache_dir.")

    def __del__(self) -> None:
        if descriptor := getattr(self, "_descriptor", None):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def is_alive(path: Path) -> bool:
    """Return whether the process with the number `path.name` still runs. Hold the lock."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not filelock.lock_descriptor(descriptor, blocking=False)
    finally:
        os.close(descriptor)
