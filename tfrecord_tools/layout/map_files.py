"""Files of record maps: found, checked, made once, and mapped into the memory of all processes.

A map is made when a large split is first opened. The file is `.records-SPLIT.map` in the directory of the dataset, or a
file in a cache directory. The map only has what the index has: it can be deleted at any time, and `transfer` does not
copy it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import mmap
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import index, record_map
from tfrecord_tools.layout.record_map import RecordMap

_log = logging.getLogger(__name__)

IN_MEMORY = 100_000  # A split with at most this number of records has no file: its map takes 10 ms to make.
_FORMAT = 1
_RECENT = 60.0  # Seconds for which other processes rely on a check of the shards.
_LONGEST = 900.0  # Seconds to wait for another process that makes the same map.
_REPORTED = 20.0  # Seconds after which the wait is reported.


@dataclasses.dataclass(frozen=True)
class Source:
    """The origin of the map of a split.

    Attributes:
        index: Path of the index. A file in a bucket must be copied to this machine first.
        split: Name of the split.
        shards: Number of shards of the split.
        digest: Digest of the dataset.
        cache_dir: Directory for the map. None: the directory of the index, or else the system's cache directory.
    """

    index: Path
    split: str
    shards: int
    digest: str
    cache_dir: Path | None = None

    def paths(self) -> Iterator[Path]:
        """Yield the files that the map may be in, the best one first."""
        if self.cache_dir is None:
            yield self.index.parent / f".records-{self.split}.map"
        name = hashlib.sha256(os.path.realpath(self.index).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        if cache := self.cache_dir or files.cache_directory():
            yield cache / f"{name}-{self.split}.map"

    def stamp(self) -> bytes:
        """Return 32 bytes that change when the index changes.

        The digest does not depend on the positions of the records, so it is not enough.

        Raises:
            UserError: The index cannot be read.
        """
        version, changed = index.version(self.index)
        facts = [_FORMAT, self.digest, self.split, self.shards, version.size, changed, version.end]
        return hashlib.sha256(json.dumps(facts).encode()).digest()


class FileMap(RecordMap):
    """A map in a file that is mapped into memory. A pickled one has the path only, not the records."""

    def __init__(self, words: np.ndarray, path: Path, source: Source, stamp: bytes):
        super().__init__(words)
        self._path, self._source, self._stamp = path, source, stamp

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self._source, self._stamp)

    @property
    def checked_recently(self) -> bool:
        try:
            return abs(time.time() - os.stat(self._path).st_mtime) < _RECENT
        except OSError:
            return False

    def note_check(self) -> None:
        with contextlib.suppress(OSError):  # The file belongs to another user, or was deleted.
            os.utime(self._path)


def open_map(source: Source, records: int) -> RecordMap:
    """Return the map of a split.

    The map of a large split is a file. The file is made if it is missing or out of date.

    Args:
        source: The index and the split.
        records: Number of records of the split in `convert.json`. Only a large split has a file.

    Raises:
        UserError: The index is missing or damaged.
    """
    if records <= IN_MEMORY:
        return record_map.in_memory(source.index, source.split, source.shards)
    stamp = source.stamp()
    paths = list(source.paths())
    for path in paths:
        if (words := _mapped(path, stamp)) is not None:
            return FileMap(words, path, source, stamp)
    problems = []
    for path in paths:
        try:
            return FileMap(_made(path, source, stamp), path, source, stamp)
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
    _log.warning(
        "%s: no directory for a map of the records can be written (%s), so each process needs %s MB of its own. Pass a"
        " directory on a local disk as cache_dir.",
        source.index,
        "; ".join(problems),
        f"{records * 16 / 1e6:,.0f}",
    )
    return record_map.in_memory(source.index, source.split, source.shards)


def _opened_again(source: Source, stamp: bytes) -> RecordMap:
    """Open the map of pickled records."""
    if source.stamp() != stamp:
        raise UserError(f"{source.index}: has changed since the records were pickled. Open the dataset again.")
    return open_map(source, IN_MEMORY + 1)


def _mapped(path: Path, stamp: bytes) -> np.ndarray | None:
    """Map a file into memory; return None if it is missing, damaged, or the map of another index."""
    try:
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # An empty file is a ValueError.
        return None
    if len(memory) % record_map.WORD.itemsize:
        return None
    words = np.frombuffer(memory, record_map.WORD)
    return words if record_map.fits(words, stamp) else None


def _made(path: Path, source: Source, stamp: bytes) -> np.ndarray:
    """Make the file, or wait for another process that makes it.

    Raises:
        OSError: The file cannot be written, or cannot be mapped into memory.
        UserError: The index is damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _turn(path.with_name(path.name + ".lock")) as alone:
        words = _mapped(path, stamp)
        if words is None:
            if alone:  # These files are of processes that were killed.
                for old in path.parent.glob(f"{path.name}.*.tmp"):
                    old.unlink(missing_ok=True)
            _write(path, source, stamp)
            words = _mapped(path, stamp)
    if words is None:
        raise OSError(f"{path} cannot be mapped into memory")
    return words


@contextlib.contextmanager
def _turn(lock: Path) -> Iterator[bool]:
    """Hold a lock during the block; yield False if another process has held the lock for too long.

    The lock only saves work: without it, two processes write two files, and the last one remains.
    """
    start, reported = time.monotonic(), False
    while (held := files.hold(lock)) is None and (waited := time.monotonic() - start) < _LONGEST:
        if waited > _REPORTED and not reported:
            _log.warning(
                "%s: waiting for another process that makes the map of the records.%s", lock.parent, files.owner(lock)
            )
            reported = True
        time.sleep(0.05)
    if held is None:
        yield False
        return
    with held:
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):  # Windows cannot delete open files.
                lock.unlink(missing_ok=True)


def _write(path: Path, source: Source, stamp: bytes) -> None:
    """Write a map. It appears when it is complete."""
    rows = index.SplitRows(source.index, source.split)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with io.BufferedWriter(files.NamingFile(temporary, "xb")) as file:
            file.truncate(record_map.size(rows, source.shards) * record_map.WORD.itemsize)

            def put(position: int, values: np.ndarray) -> None:
                file.seek(position * record_map.WORD.itemsize)
                file.write(values.astype(record_map.WORD, copy=False).data)

            record_map.build(rows, source.shards, stamp, put)
        files.sync(temporary)
        os.utime(temporary, (0, 0))  # The time is that of the last check of the shards (`note_check`).
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
