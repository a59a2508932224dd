"""Read parts of shards at any position, from several threads and processes."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError

_MAX_OPEN_FILES = 128  # The usual limit of a process is 1,024.
_MAX_READ = 1 << 18  # Parts that follow each other are read in one call, up to about this number of bytes.
_LARGE_BLOCK = 16 << 20  # Each thread may then keep twice this number of bytes of freed memory.
_local = threading.local()
Result = TypeVar("Result")


@functools.cache
def _keep_memory() -> None:
    """Make the process keep freed memory, so that it can use this memory for the next records.

    The C library of Linux returns freed memory to the system at once if it is more than 128 kB. The system then
    provides new memory in pieces of 4 kB (page faults). Together, these take twice as long as reading the records. When
    a large block is freed, the library raises this limit (`M_MMAP_THRESHOLD` in the manual page mallopt). The block is
    not used, so it takes no memory.
    """
    np.empty(_LARGE_BLOCK, np.uint8)


@contextlib.contextmanager
def _buffer_of_thread() -> Iterator[memoryview]:
    """Lend the buffer of this thread. Until it is back, further reads of the thread get another buffer.

    A buffer that is used again is faster than new memory: the system does not have to provide and clear it.
    """
    buffer = _local.__dict__.pop("buffer", None)
    if buffer is None:
        buffer = memoryview(bytearray(2 * _MAX_READ))
    try:
        yield buffer
    finally:
        _local.buffer = buffer


class ShardFiles:
    """The shards of a dataset. They are opened when they are first read.

    It can be pickled, and used after a fork and in several threads.

    Attributes:
        paths: Paths of the shards.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = list(paths)
        self._open: dict[tuple[int, int], int] = {}

    def check(self, sizes: np.ndarray, lengths: bool = True) -> None:
        """Look for missing and incomplete shards. File contents are not read.

        Args:
            sizes: i64[shards], the right size of each shard in bytes.
            lengths: False: look for missing shards only. This takes one listing of the directory. If shards are links,
                their targets are looked up, too.

        Raises:
            UserError: A shard is missing or has the wrong length.
        """
        found = _listed(frozenset(self.paths), lengths)
        for path, size in zip(self.paths, sizes.tolist()):
            actual = found.get(path)
            if actual == size or (actual is not None and not lengths):
                continue
            if actual is None and os.path.islink(path):
                raise UserError(
                    f"{path}: is a link to {os.readlink(path)}, which does not exist. Put the file back, or adopt the"
                    " records again from their new location."
                )
            state = "does not exist" if actual is None else f"has {actual:,} bytes and should have {size:,}"
            raise UserError(f"{path}: {state}. The dataset is incomplete. Copy or convert it again.")

    def read(self, shard: int, size: int, offset: int) -> bytes:
        """Read `size` bytes at `offset` of a shard; fewer if the file is too short.

        Raises:
            OSError: The shard cannot be read. The error names the shard.
        """
        try:
            return self._with_file(shard, lambda file: files.read_at(file, size, offset))
        except OSError as error:
            raise files.named(error, self.paths[shard], "read") from error

    def read_into(self, shard: int, buffers: Sequence[memoryview | bytearray], offset: int) -> int:
        """Read bytes at `offset` of a shard into buffers, one after the other. Return the number of bytes.

        Raises:
            OSError: The shard cannot be read.
        """
        return self._with_file(shard, lambda file: files.read_into(file, buffers, offset))

    def read_many(self, shards: np.ndarray, sizes: np.ndarray, offsets: np.ndarray) -> Iterator[tuple[int, memoryview]]:
        """Read several parts. Parts that follow each other in a shard are read together.

        Args:
            shards: i64[n], the shard of each part.
            sizes: i64[n], the number of bytes of each part.
            offsets: i64[n], the byte at which each part starts.

        Yields:
            Index and bytes of each part, in the order of the files. The bytes are only valid until the next part. If a
            shard is too short, there are fewer bytes. A part in a shard that cannot be read is left out.
        """
        order = np.lexsort((offsets, shards))
        shards, sizes, starts = shards[order], sizes[order], offsets[order]
        ends = starts + sizes
        blocks = np.cumsum(sizes) // _MAX_READ
        follows = (shards[1:] == shards[:-1]) & (starts[1:] == ends[:-1]) & (blocks[1:] == blocks[:-1])
        stops = np.append(np.flatnonzero(~follows) + 1, len(order))[: len(order)]
        indexes, starts, ends = order.tolist(), starts.tolist(), ends.tolist()
        first = 0
        with _buffer_of_thread() as buffer:
            for shard, stop in zip(shards[stops - 1].tolist(), stops.tolist()):
                start = starts[first]
                view = self._view(shard, ends[stop - 1] - start, start, buffer)
                if view is not None:
                    for i in range(first, stop):
                        yield indexes[i], view[starts[i] - start : ends[i] - start]
                first = stop

    def _view(self, shard: int, size: int, offset: int, buffer: memoryview) -> memoryview | None:
        """Read into the buffer, or into new memory if it is too small. None: the shard cannot be read."""
        target = buffer[:size] if size <= len(buffer) else memoryview(bytearray(size))
        try:
            count = self._with_file(shard, lambda file: files.read_into(file, [target], offset))
        except OSError:
            return None
        return target[:count]

    def _with_file(self, shard: int, read: Callable[[int], Result]) -> Result:
        """Call a function with the descriptor of a shard that this process has opened.

        A process does not use files that its parent opened before a fork. On systems without `os.pread`, both processes
        would share the position at which the next read starts, and would read wrong bytes.
        """
        key = (os.getpid(), shard)
        descriptor = self._open.get(key)
        if descriptor is not None:
            return read(descriptor)
        _keep_memory()
        descriptor = files.open_descriptor(self.paths[shard])
        shared = len(self._open) < _MAX_OPEN_FILES and self._open.setdefault(key, descriptor) == descriptor
        try:
            return read(descriptor)
        finally:
            if not shared:  # Too many files are open, or another thread opened the same file first.
                os.close(descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def __del__(self) -> None:
        for (process, _), descriptor in getattr(self, "_open", {}).items():
            if process == os.getpid():
                os.close(descriptor)


def _listed(paths: frozenset[str], lengths: bool) -> dict[str, int]:
    """Return path -> size in bytes of the files that exist. Without `lengths`, all sizes are 0.

    On network file systems, a listing gets many sizes with one request. A question for each file is a request for each.
    """
    found = {}
    listed: dict[str, os.DirEntry[str] | Path]
    for directory in {os.path.dirname(path) for path in paths}:
        try:
            with os.scandir(directory or ".") as entries:
                listed = {path: entry for entry in entries if (path := os.path.join(directory, entry.name)) in paths}
        except OSError:  # The directory does not exist, or it has files that may be read but no listing.
            listed = {path: Path(path) for path in paths if os.path.dirname(path) == directory}
        for path, entry in listed.items():
            with contextlib.suppress(OSError):  # The file, or the target of a link, does not exist.
                must_exist = isinstance(entry, os.DirEntry) and not entry.is_symlink()
                found[path] = 0 if must_exist and not lengths else entry.stat().st_size
    return found
