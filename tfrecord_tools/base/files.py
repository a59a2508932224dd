"""Files that are there whole or not at all: atomic writes, durable renames, exchange, locks, reads by offset.

File systems differ: some have no locks (Lustre without its option, some NFS, Google Drive), no fsync of directories, no
links. The functions here take the next best way then. What only Unix has is looked up when it is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from tfrecord_tools.errors import UserError

if TYPE_CHECKING:
    import filelock

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_LOCK_SECONDS = 5.0  # How long the workers of a killed run may take to notice and end.
_OWNER = ".owner"  # Added to a lock's name: the file that stands for the lock where the system cannot lock files.
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_READ_LOCK = threading.Lock()
_ZEROS = 1 << 20

_UNSUPPORTED = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_NO_LOCKS = _UNSUPPORTED | {errno.ENOLCK}
_NO_SYNC = _UNSUPPORTED | {errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
_REFUSED = _UNSUPPORTED | {errno.EINVAL}
_NO_LINKS = _UNSUPPORTED | {errno.EPERM, errno.EACCES, errno.EINVAL, errno.EXDEV, errno.EMLINK}


def is_url(path: str) -> bool:
    """Whether this names something in an object store, such as s3://bucket/prefix."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def expand_user(path: str, flag: str = "") -> str:
    """Expands `~` and `~user` at the start of a path; shells leave them as they are behind an `=`.

    Args:
        path: A path, a pattern or a URL.
        flag: What stands in front of the path in messages, such as "--out=".

    Raises:
        UserError: There is no such user and no such file: a directory of that name would be made.
    """
    if not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)
    first = re.split(r"[/\\]", path)[0]
    if expanded == path and not os.path.lexists(first):
        user = f"user {first[1:]!r}" if first[1:] else "home directory known"
        raise UserError(f"{flag}{path}: there is no {user}. Write ./{path} for a name that starts with ~.")
    return expanded


def expand_fields(config: object, *names: str) -> None:
    """Expands `~` in fields of a frozen dataclass, for its `__post_init__`; a field may be None."""
    for name in names:
        if value := getattr(config, name):
            object.__setattr__(config, name, expand_user(value, f"--{name}="))


@contextlib.contextmanager
def naming(path: str | os.PathLike[str], call: str) -> Iterator[None]:
    """Adds the file and the call to an OSError that has no file's name, as those of descriptors have not."""
    try:
        yield
    except OSError as error:
        raise named(error, path, call) from error


def named(error: OSError, path: str | os.PathLike[str], call: str) -> OSError:
    """Returns the error with the file and the call; as it is, if it has a file's name."""
    if error.filename is not None or error.errno is None:
        return error
    return OSError(error.errno, f"{os.strerror(error.errno)} ({call})", os.fspath(path))


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Opens `path` for writing under a temporary name; it appears, durable, when the block succeeds."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(temporary, "write"), open(temporary, "wb") as file:
            yield file
            file.flush()
            _sync(file.fileno(), temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Makes a file, or the names in a directory, durable; does nothing where the system cannot open or sync it.

    fsync of a new file alone does not make its name durable.
    """
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        if error.errno in _NO_SYNC:  # Windows opens no directories.
            return
        raise
    try:
        _sync(descriptor, path)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Makes all files below a directory durable; at once where the system can, since they may be millions."""
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
    """Opens a file for `read_at`; the caller closes the descriptor. Programs that are started do not inherit it."""
    return os.open(path, _READ)


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Reads up to `size` bytes at `offset`; threads may share the descriptor, forked processes may not.

    Args:
        descriptor: Of `open_descriptor`, or the `fileno()` of a binary file, whose position may be moved.
        size: The most bytes to read; fewer come at the end of the file.
        offset: Where to begin, in bytes.
    """
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    with _READ_LOCK:  # Windows has the position of the file alone, which all threads share.
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


def allocate(file: BinaryIO, size: int) -> None:
    """Fills a new file with `size` zeros, so that a full disk shows at once and not as a bus error of a memory map."""
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


def exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step; False where the system or the file system cannot."""
    try:
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    except (OSError, TypeError):  # Windows knows no library of the process itself.
        return False
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _REFUSED:
        return False
    raise OSError(code, f"{os.strerror(code)} (renameat2)", os.fspath(one))


def link(source: Path, path: Path, how: Callable[[Path, Path], None]) -> bool:
    """Makes a file appear at `path` as well, by `os.link` or `os.symlink`; by a copy where there are no links.

    Returns:
        Whether it is a link.
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
    """A lock that this process holds, as a context manager that releases it.

    Attributes:
        file: The locked file, open.
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
    """Opens a file and locks it exclusively; None if somebody else holds it.

    The system releases the lock when the process and those that it forked are gone. Where files cannot be locked, a
    file `path` + ".owner" with process and host stands for the lock. A process that finds that process gone, on the
    same host, takes the lock over.

    Raises:
        FileNotFoundError: There is no such file and `create` is False, or no such directory.
    """
    while True:
        file: BinaryIO = open(path, "ab+" if create else "rb+")  # noqa: SIM115  For writing: NFS locks no others.
        try:
            held = _locked(file, path)
        except BaseException:
            file.close()
            raise
        if held is None:
            file.close()
            return None
        if _is_at(file, path):
            return held
        with held:
            pass  # The one before removed the file under our hands: what is locked has no name any more.


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _locked(file: BinaryIO, path: Path) -> Held | None:
    """Locks an open file, or makes the file that stands for its lock; None if somebody else holds it."""
    import filelock  # Here, since workers and most commands take no lock, and it takes 17 ms to import.

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
    """The names of the files that a lock consists of."""
    return frozenset({name, name + _OWNER})


@contextlib.contextmanager
def lock(path: Path, in_use: str, keep: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Holds an exclusive lock on `path` for the block, as `hold` does; makes its directory.

    Args:
        path: The lock file.
        in_use: The message if another process holds it.
        keep: Whether the file stays at the end; called while the lock is still held.

    Raises:
        UserError: Another process holds it.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while (held := _hold_in_made_directory(path)) is None:
        if time.monotonic() > deadline:
            raise UserError(in_use + owner(path))
        time.sleep(0.05)
    with held:
        try:
            yield
        finally:
            if not keep():
                with contextlib.suppress(PermissionError):  # Windows removes no open files.
                    path.unlink(missing_ok=True)


def owner(path: Path) -> str:
    """A sentence on who holds a lock where files cannot be locked, and what to do; "" elsewhere."""
    marker = path.with_name(path.name + _OWNER)
    try:
        process, host = marker.read_text().splitlines()[:2]
    except (OSError, ValueError):
        return f" If no such process runs, remove {marker}." if marker.exists() else ""
    return f" It is process {process} on {host}. If that process does not run any more, remove {marker}."


def _hold_in_made_directory(path: Path) -> Held | None:
    path.parent.mkdir(exist_ok=True)
    try:
        return hold(path)
    except FileNotFoundError:  # Another one removed the directory under our hands.
        return None
