"""Read parts of shards at random, from several threads and processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfrecord_tools.base import files

_MAX_OPEN_FILES = 128  # The usual limit of a process is 1,024.
_MAX_READ = 1 << 20  # Neighbors are read together up to about this number of bytes, so that little memory is needed.


class ShardFiles:
    """The shards of a dataset. They are opened when they are first read.

    It can be pickled, and used after a fork and in several threads.

    Attributes:
        paths: Paths of the shards.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = list(paths)
        self._open: dict[tuple[int, int], int] = {}

    def read(self, shard: int, size: int, offset: int) -> bytes:
        """Read `size` bytes at `offset` of a shard; fewer if the file is too short.

        Raises:
            OSError: The shard cannot be read. The error names the shard.
        """
        try:
            return self._read(shard, size, offset)
        except OSError as error:
            raise files.named(error, self.paths[shard], "read") from error

    def read_many(self, shards: np.ndarray, sizes: np.ndarray, offsets: np.ndarray) -> list[bytes | memoryview]:
        """Read several parts. Parts that follow each other in a shard are read together.

        Args:
            shards: i64[n], the shard of each part.
            sizes: i64[n], the number of bytes of each part.
            offsets: i64[n], the byte at which each part starts.

        Returns:
            The bytes of each part. They are empty if the shard could not be read, and fewer if it is too short.
        """
        if not len(shards):
            return []
        order = np.lexsort((offsets, shards))
        shards, sizes, starts = shards[order], sizes[order], offsets[order]
        ends = starts + sizes
        blocks = np.cumsum(sizes) // _MAX_READ
        follows = (shards[1:] == shards[:-1]) & (starts[1:] == ends[:-1]) & (blocks[1:] == blocks[:-1])
        first = np.flatnonzero(np.append(True, ~follows))
        last = np.append(first[1:], len(order))
        parts: list[bytes | memoryview] = [b""] * len(order)
        runs = zip(first.tolist(), last.tolist(), shards[first].tolist(), starts[first].tolist(), strict=True)
        number, begin, end = order.tolist(), starts.tolist(), ends.tolist()
        for low, high, shard, start in runs:
            try:
                data = self._read(shard, end[high - 1] - start, start)
            except OSError:
                continue
            if high == low + 1:
                parts[number[low]] = data
                continue
            view = memoryview(data)
            for i in range(low, high):
                parts[number[i]] = view[begin[i] - start : end[i] - start]
        return parts

    def _read(self, shard: int, size: int, offset: int) -> bytes:
        """Read from a file that this process has opened.

        A process does not use files that its parent opened before a fork. On systems without `os.pread`, both processes
        would share the position at which the next read starts, and would read wrong bytes.
        """
        key = (os.getpid(), shard)
        descriptor = self._open.get(key)
        if descriptor is not None:
            return files.read_at(descriptor, size, offset)
        descriptor = files.open_descriptor(self.paths[shard])
        shared = len(self._open) < _MAX_OPEN_FILES and self._open.setdefault(key, descriptor) == descriptor
        try:
            return files.read_at(descriptor, size, offset)
        finally:
            if not shared:  # Too many files are open, or another thread opened the same file first.
                os.close(descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def __del__(self) -> None:
        for (process, _), descriptor in getattr(self, "_open", {}).items():
            if process == os.getpid():
                os.close(descriptor)
