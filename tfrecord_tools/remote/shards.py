"""The shards of a dataset in a bucket, with the interface of `layout.shard_files.ShardFiles`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import schema
from tfrecord_tools.layout.record_map import RecordMap
from tfrecord_tools.remote import space as spaces
from tfrecord_tools.remote.fetching import Fetcher
from tfrecord_tools.remote.interface import Object, Store
from tfrecord_tools.remote.part import Part
from tfrecord_tools.remote.plans import Plan
from tfrecord_tools.remote.threads import THREADS
from tfrecord_tools.remote.traffic import Estimate, Meter, Traffic

_BLOCK_BYTES = 64 << 20  # Records of a call that are waited for at once. Those without room in the cache are in memory.
_ATTEMPTS = 5  # A record can be removed between the moment it is there and the moment it is read.


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of a dataset in a bucket.

    Attributes:
        directory: Directory of the split in the cache.
        objects: The shards.
        map: The map of the records.
    """

    directory: Path
    objects: Sequence[Object]
    map: RecordMap


class RemoteShards:
    """The shards of one or several splits.

    They can be pickled, and used after a fork and in several threads.

    Attributes:
        paths: URLs of the shards.
    """

    def __init__(self, store: Store, cache_dir: Path, cache_bytes: int | None, splits: Sequence[Split]):
        self._store, self._cache_dir, self._cache_bytes = store, cache_dir, cache_bytes
        self._splits = list(splits)
        self.paths = [f"{store.url}/{found.path}" for split in splits for found in split.objects]
        self._starts = np.cumsum([0, *(split.map.rows for split in splits)])
        self._first_shards = np.cumsum([0, *(len(split.objects) for split in splits)]).tolist()
        self._running: dict[int, _Running] = {}

    def check(self, sizes: np.ndarray, lengths: bool = True) -> None:
        """Look for incomplete shards. Nothing is requested.

        Args:
            sizes: i64[shards], the right size of each shard in bytes.
            lengths: Not used: the lengths are known since the dataset was opened.

        Raises:
            UserError: A shard has the wrong length.
        """
        found = [shard.size for split in self._splits for shard in split.objects]
        for path, size, actual in zip(self.paths, sizes.tolist(), found):
            if actual != size:
                raise UserError(
                    f"{path}: has {actual:,} bytes and should have {size:,}. The dataset is incomplete. Copy it to the"
                    " bucket again."
                )

    @property
    def traffic(self) -> Traffic:
        """Counts of what this process has fetched so far."""
        return self._run().meter.copy()

    @property
    def budget(self) -> int:
        """Largest number of bytes of records in the cache directory."""
        return self._run().space.budget

    @property
    def cache_dir(self) -> Path:
        """The cache directory."""
        return self._cache_dir

    @property
    def size(self) -> int:
        """Bytes of all records of these splits."""
        return sum(split.map.bytes for split in self._splits)

    def estimate(self, block: int = 1) -> Estimate:
        """Estimate what an epoch fetches if the cache is smaller than the data.

        Args:
            block: Number of neighboring records that are read together.
        """
        running = self._run()
        count = int(self._starts[-1])
        missing = max(0.0, 1 - running.space.budget / sum(fetcher.part.whole_cost for fetcher in running.fetchers))
        size, requests = int(missing * self.size), math.ceil(missing * count / block)
        if not running.meter.bandwidth:
            running.fetchers[0].probe()
        bandwidth, latency = running.meter.fastest, running.meter.latency
        seconds = max(size / bandwidth, requests * latency / THREADS) if bandwidth else None
        return Estimate(size, requests, seconds)

    def read(self, shard: int, size: int, offset: int, row: int) -> bytes:
        """Read the frame of a record. If its copy in the cache is damaged, it is fetched again once."""
        part, own = self._part_of(row)
        fetcher = self._run().fetchers[part]
        frame = b""
        for _ in range(_ATTEMPTS):
            given = fetcher.need(np.array([own]))
            fetcher.part.touch(np.array([own]))
            if own in given:
                return bytes(given[own])
            try:
                frame = fetcher.part.files.read(shard - self._first_shards[part], size, offset)
            except OSError:  # The copy was deleted.
                frame = b""
            if schema.content(memoryview(frame)) is not None or not fetcher.drop_damaged(own):
                break
        return frame

    def read_many(
        self, shards: np.ndarray, sizes: np.ndarray, offsets: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[int, memoryview]]:
        """Read the frames of records, as `ShardFiles.read_many`. `rows`: i64[k], the rows of the records."""
        parts = np.searchsorted(self._starts, rows, "right") - 1
        for number in np.unique(parts).tolist():
            of_part = np.flatnonzero(parts == number)
            of_part = of_part[np.argsort(rows[of_part], kind="stable")]  # Neighbors are in one request.
            blocks = np.cumsum(sizes[of_part]) // _BLOCK_BYTES
            for chosen in np.split(of_part, np.flatnonzero(np.diff(blocks)) + 1):
                yield from self._read_block(number, chosen, shards, sizes, offsets, rows)

    def _read_block(
        self,
        number: int,
        chosen: np.ndarray,
        shards: np.ndarray,
        sizes: np.ndarray,
        offsets: np.ndarray,
        rows: np.ndarray,
    ) -> Iterator[tuple[int, memoryview]]:
        """Read some of the records of `read_many`: those at the indices `chosen`, all of one part."""
        fetcher = self._run().fetchers[number]
        own = rows[chosen] - self._starts[number]
        given = fetcher.need(own)
        is_given = np.array([row in given for row in own.tolist()], bool)
        for index in np.flatnonzero(is_given).tolist():
            yield int(chosen[index]), given[int(own[index])]
        rest = chosen[~is_given]
        fetcher.part.touch(own)
        local = shards[rest] - self._first_shards[number]
        for index, view in fetcher.part.files.read_many(local, sizes[rest], offsets[rest]):
            yield int(rest[index]), view

    def expect(self, rows: np.ndarray) -> None:
        """Begin to fetch records that will be read at once."""
        parts = np.searchsorted(self._starts, rows, "right") - 1
        for number in np.unique(parts).tolist():
            self._run().fetchers[number].expect(rows[parts == number] - self._starts[number])

    @contextlib.contextmanager
    def following(self, plan: Plan, position: int) -> Iterator[None]:
        """Fetch what a plan needs next. In the block, the records at `position` and after it are read."""
        running = self._run()
        with contextlib.ExitStack() as stack:
            for number, own in enumerate(running.plans_of(plan, self._starts)):
                stack.enter_context(running.fetchers[number].following(own, position))
            yield

    def _part_of(self, row: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        return number, row - int(self._starts[number])

    def _run(self) -> _Running:
        """Return what this process has opened. A forked process opens everything again."""
        process = os.getpid()
        running = self._running.get(process)
        if running is None:
            try:
                made = _Running(self._store, self._cache_dir, self._cache_bytes, self._splits)
            except OSError as error:
                raise spaces.unusable(self._cache_dir, error) from error
            running = self._running.setdefault(process, made)
        return running

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_running": {}}


class _Running:
    """The opened parts of a process."""

    def __init__(self, store: Store, cache_dir: Path, cache_bytes: int | None, splits: Sequence[Split]):
        self.space = spaces.of(cache_dir, cache_bytes)
        self.meter = Meter()
        self.fetchers = []
        for split in splits:
            part = Part(
                self.space,
                split.directory,
                [os.path.basename(found.path) for found in split.objects],
                split.map,
            )
            self.fetchers.append(Fetcher(store, split.objects, part, self.space, self.meter))

    def plans_of(self, plan: Plan, starts: np.ndarray) -> list[Plan]:
        """Return a plan for each part."""
        if len(self.fetchers) == 1:
            return [plan]
        return [plan.within(first, end) for first, end in itertools.pairwise(starts.tolist())]
