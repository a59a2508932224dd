"""File operations that never leave half a file: atomic writes, locks, links, reads at an offset.

Some file systems have no locks (Lustre without its lock option, some NFS, Google Drive), no links, or no fsync of
directories. The functions then use the next best method. Functions that exist only on Unix are looked up at the time
of the call.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import io
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from tfrecord_tools.errors import UserError, short

if TYPE_CHECKING:
    import filelock
    from typing_extensions import Buffer

StrPath = str | os.PathLike[str]
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_LOCK_SECONDS = 5.0  # The workers of a killed run exit within this time.
_OWNER = ".owner"  # Suffix of the file that replaces a lock where the file system cannot lock files.
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_READ_LOCK = threading.Lock()
_ZEROS = 1 << 20
_BLOCK_BYTES = 1 << 20  # Writing records of 30 kB in blocks of this size takes half the time.
PAGE = 4096  # Size of a disk block of the usual file systems.
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE in linux/fs.h

_UNSUPPORTED = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_NO_LOCKS = _UNSUPPORTED | {errno.ENOLCK}
_NO_SYNC = _UNSUPPORTED | {errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
_REFUSED = _UNSUPPORTED | {errno.EINVAL}
_NO_LINKS = _UNSUPPORTED | {errno.EPERM, errno.EACCES, errno.EINVAL, errno.EXDEV, errno.EMLINK}


def is_url(path: str) -> bool:
    """Return whether a path is an address in an object store, such as s3://bucket/prefix."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def expand_user(path: str, flag: str = "") -> str:
    """Expand `~` and `~user` at the start of a path, since shells do not expand them after `=`.

    Args:
        path: A path, a pattern or a URL.
        flag: Text in front of the path in messages, such as "--out=".

    Raises:
        UserError: Neither the user nor a file of that name exists. (Otherwise, a directory `~user` would be created.)
    """
    if not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)
    first = re.split(r"[/\\]", path)[0]
    if expanded == path and not os.path.lexists(first):
        problem = f"user {first[1:]!r} does not exist" if first[1:] else "the home directory is not known"
        raise UserError(f"{flag}{path}: {problem}. For a file name that starts with ~, write ./{path}.")
    return expanded


def paths(**given: StrPath | None) -> dict[str, Any]:
    """Return the path arguments of a function as texts with `~` expanded. None stays None.

    Raises:
        UserError: A value is not a path. Or as in `expand_user`.
    """
    return {name: path if path is None else _path(path, f"--{name}=") for name, path in given.items()}


def _path(given: StrPath, flag: str) -> str:
    path = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(path, str):  # A path of bytes is refused.
        raise UserError(f"{flag}{short(given)}: must be a path.")
    return expand_user(path, flag)


def expand_fields(config: object, *names: str) -> None:
    """Expand `~` in fields of a frozen dataclass, for a `__post_init__`. A field may be None."""
    for name in names:
        if value := getattr(config, name):
            object.__setattr__(config, name, expand_user(value, f"--{name}="))


def check_local(flag: str, path: StrPath | None, dataset: bool = False) -> None:
    """Raise a UserError if a path to write is a URL: its directory would be called `s3:` here.

    Args:
        flag: Name of the flag with the path, for the message.
        path: The path. None is allowed.
        dataset: Whether a dataset is written, which `transfer` can copy to a bucket.
    """
    if path is None or not is_url(os.fspath(path)):
        return
    copy = f"run python -m tfrecord_tools.transfer {flag.upper()} {path}"
    if not dataset:
        copy = "copy the result with a tool of the store, such as aws s3 cp or rclone"
    raise UserError(
        f"--{flag}={path}: must be a path on this machine, not a URL. Pass such a path as --{flag}={flag.upper()}, and"
        f" then {copy}."
    )


def cache_directory() -> Path | None:
    """Return this user's directory for files that can be made again; None if there is no home directory.

    The directory may not exist yet.
    """
    if os.name == "nt":
        root = os.environ.get("LOCALAPPDATA") or os.path.expanduser(r"~\AppData\Local")
    elif sys.platform == "darwin":
        root = os.path.expanduser("~/Library/Caches")
    else:
        root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if root.startswith("~") else Path(root) / "tfrecord_tools"


@contextlib.contextmanager
def naming(path: str | os.PathLike[str], call: str) -> Iterator[None]:
    """Add a file name and a system call to an OSError without a file name, as file descriptors raise it."""
    try:
        yield
    except OSError as error:
        raise named(error, path, call) from error


def named(error: OSError, path: str | os.PathLike[str], call: str) -> OSError:
    """Return the error with file name and system call, or unchanged if it already has a file name."""
    if error.filename is not None or error.errno is None:
        return error
    return OSError(error.errno, f"{os.strerror(error.errno)} ({call})", os.fspath(path))


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears at `path`, synced to disk, only if the block succeeds."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with io.BufferedWriter(_EagerFile(temporary, "wb"), _BLOCK_BYTES) as file:
            yield file
            file.flush()
            _sync(file.fileno(), temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


class NamingFile(io.FileIO):
    """A file on disk with errors that have its name. Those of `io.FileIO` have none after it is open."""

    def write(self, data: Buffer, /) -> int:
        with naming(self.name, "write"):
            return super().write(data)

    def truncate(self, size: int | None = None, /) -> int:
        with naming(self.name, "truncate"):
            return super().truncate(size)

    def close(self) -> None:
        with naming(self.name, "close"):
            super().close()


class _EagerFile(NamingFile):
    """A new file. The system starts to write each block to disk, so that `fsync` has little left to do."""

    def write(self, data: Buffer, /) -> int:
        count = super().write(data)
        if (start_writing := _libc("sync_file_range")) is not None:
            whole = ctypes.c_int64(0)
            start_writing(self.fileno(), whole, whole, _START_WRITING)  # Only a hint: `fsync` reports all errors.
        return count


@contextlib.contextmanager
def staged(directory: Path, last: str) -> Iterator[Path]:
    """Yield an empty directory. If the block succeeds, the files in it appear in `directory`.

    A new directory appears in one step. If the directory exists already, its files are replaced one by one, and a
    subdirectory is replaced as a whole. Files with other names stay.

    Args:
        directory: The directory to write, new or existing.
        last: Name of the file that is replaced last.
    """
    missing = [parent for parent in directory.absolute().parents if not parent.exists()]
    directory.parent.mkdir(parents=True, exist_ok=True)
    # `mkdtemp` makes a name that no other process uses, but private permissions. The subdirectory has the usual ones.
    holder = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    made = holder / "made"
    try:
        made.mkdir()
        yield made
        for path in (made, *made.rglob("*")):
            sync(path)
        if directory.exists():
            for path in sorted(made.iterdir(), key=lambda path: path.name == last):
                if path.is_dir():
                    shutil.rmtree(directory / path.name, ignore_errors=True)
                os.replace(path, directory / path.name)
            sync(directory)
        else:
            os.rename(made, directory)
        sync(directory.parent)
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):  # It is not empty: it holds the directory.
                parent.rmdir()


def sync(path: Path) -> None:
    """Sync a file, or the file names in a directory, to disk. Do nothing where the system cannot.

    To make a new file durable, sync the file and its directory.
    """
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        if error.errno in _NO_SYNC:  # Windows cannot open directories.
            return
        raise
    try:
        _sync(descriptor, path)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Sync all files below a directory to disk: with one call if possible, since there may be millions."""
    if hasattr(os, "sync"):
        os.sync()
        return
    for path in root.rglob("*"):
        sync(path)


def _sync(descriptor: int, path: Path) -> None:
    try:
        with naming(path, "fsync"):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def open_descriptor(path: str | os.PathLike[str]) -> int:
    """Open a file for `read_at`. The caller closes the descriptor; child programs do not inherit it."""
    return os.open(path, _READ)


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Read up to `size` bytes at `offset`. Threads may share the descriptor, forked processes may not.

    Args:
        descriptor: Result of `open_descriptor`, or the `fileno()` of a binary file. The file position may change.
        size: Largest number of bytes to read. The result is shorter at the end of the file.
        offset: Start of the bytes in the file.
    """
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    with _READ_LOCK:  # On Windows, a read uses the file position, which all threads share.
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


def read_into(descriptor: int, buffers: Sequence[memoryview | bytearray], offset: int) -> int:
    """Read like `read_at`, but into buffers, one after the other.

    Args:
        descriptor: As in `read_at`.
        buffers: Buffers of single bytes.
        offset: As in `read_at`.

    Returns:
        The number of bytes that were read: less than the size of the buffers at the end of the file.
    """
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, buffers, offset)
    data, start = read_at(descriptor, sum(map(len, buffers)), offset), 0
    for buffer in buffers:
        part = data[start : start + len(buffer)]
        buffer[: len(part)] = part
        start += len(part)
    return len(data)


def allocate(file: IO[bytes], size: int) -> None:
    """Fill a new file with `size` zero bytes, so that it can be memory-mapped safely.

    If the disk is full, this raises OSError. A memory map would crash the process instead.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            with naming(file.name, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
        else:
            return
    with naming(file.name, "write"):
        file.seek(0)
        for start in range(0, size, _ZEROS):
            file.write(bytes(min(_ZEROS, size - start)))


def punch(descriptor: int, start: int, end: int) -> bool:
    """Give the disk blocks of a part of a file back to the system; return False where the system cannot.

    The part then reads as zeros. The size of the file stays the same.

    Args:
        descriptor: Descriptor of the file, open for writing.
        start: First byte, a multiple of `PAGE`.
        end: Byte after the last one, a multiple of `PAGE`.
    """
    fallocate = _fallocate()
    if fallocate is None:
        return False
    result = fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(end - start))
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in _REFUSED:
        return False
    raise OSError(code, f"{os.strerror(code)} (fallocate)")


@functools.cache
def _fallocate() -> Any:
    """Return the function of the C library. A cache removes thousands of records, so it is looked up once."""
    return _libc("fallocate64") or _libc("fallocate")


def exchange(first: Path, second: Path) -> bool:
    """Swap two files or directories in one atomic step; return False where the system cannot."""
    renameat2 = _libc("renameat2")
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _REFUSED:
        return False
    raise OSError(code, f"{os.strerror(code)} (renameat2)", os.fspath(first))


def _libc(name: str) -> Any:
    """Return a function of the C library, or None if there is no such function."""
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name, None)
    except (OSError, TypeError):  # `CDLL(None)` does not exist on Windows.
        return None


def link(source: Path, path: Path, how: Callable[[Path, Path], None]) -> bool:
    """Link `path` to the file `source`, or copy the file where the file system has no links.

    Args:
        source: Existing file.
        path: New file. An existing file is replaced.
        how: `os.link` or `os.symlink`.

    Returns:
        True for a link, False for a copy.
    """
    path.unlink(missing_ok=True)
    try:
        how(source, path)
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return True
    with atomic(path) as file, open(source, "rb") as old:
        shutil.copyfileobj(old, file)
    return False


class Held:
    """A lock that this process holds. The end of its `with` block releases it.

    Attributes:
        file: The open, locked file.
    """

    def __init__(self, file: BinaryIO, soft: filelock.SoftFileLock | None):
        self.file = file
        self._soft = soft

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        if self._soft is not None:
            self._soft.release()


def hold(path: Path, create: bool = True) -> Held | None:
    """Open a file and lock it exclusively; return None if another process holds the lock.

    The system releases the lock when the process and its forked children have exited. Where files cannot be locked,
    a file `path` + ".owner" with the process number and the host replaces the lock. If that process does not run any
    more, another process on the same host takes over the lock.

    Raises:
        FileNotFoundError: The directory does not exist, or the file does not exist and `create` is False.
    """
    while True:
        file: BinaryIO = open(path, "ab+" if create else "rb+")  # noqa: SIM115  Opened for writing, as NFS locks require.
        try:
            lock = _locked(file, path)
        except BaseException:
            file.close()
            raise
        if lock is None:
            file.close()
            return None
        if _is_at(file, path):
            return lock
        with lock:
            pass  # The previous holder deleted the file before we locked it: release it and try again.


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _locked(file: BinaryIO, path: Path) -> Held | None:
    """Lock an open file, or create its ".owner" file; return None if another process holds the lock."""
    import filelock  # Imported here: it takes 17 ms, and workers and most commands do not need it.

    try:
        with naming(path, "flock"):
            return Held(file, None) if filelock.lock_descriptor(file.fileno(), blocking=False) else None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    soft = filelock.SoftFileLock(f"{path}{_OWNER}")
    try:
        soft.acquire(blocking=False)
    except filelock.Timeout:
        return None
    return Held(file, soft)


def lock_names(name: str) -> frozenset[str]:
    """Return the names of the files that belong to a lock."""
    return frozenset({name, name + _OWNER})


@contextlib.contextmanager
def lock(path: Path, in_use: str, keep: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Hold an exclusive lock on `path` during the block; create the directory if necessary.

    Args:
        path: Lock file.
        in_use: Error message if another process holds the lock.
        keep: Returns whether the lock file is kept at the end. It is called while the lock is still held.

    Raises:
        UserError: Another process holds the lock.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while (held := _hold_in_new_directory(path)) is None:
        if time.monotonic() > deadline:
            raise UserError(in_use + owner(path))
        time.sleep(0.05)
    with held:
        try:
            yield
        finally:
            if not keep():
                with contextlib.suppress(PermissionError):  # Windows cannot delete open files.
                    path.unlink(missing_ok=True)


def owner(path: Path) -> str:
    """Return a sentence about the holder of a lock and what to do; "" where the file system has locks."""
    marker = path.with_name(path.name + _OWNER)
    try:
        process, host = marker.read_text().splitlines()[:2]
    except (OSError, ValueError):
        return f" If that process does not run any more, delete {marker}." if marker.exists() else ""
    return (
        f" The directory is in use by process {process} on {host}. If that process does not run any more, delete"
        f" {marker}."
    )


def _hold_in_new_directory(path: Path) -> Held | None:
    path.parent.mkdir(exist_ok=True)
    try:
        return hold(path)
    except FileNotFoundError:  # Another process has just deleted the directory.
        return None
