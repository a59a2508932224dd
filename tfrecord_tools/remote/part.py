"""The records of one split in a cache: copies of its shards with holes, and a state per record.

Only the records that were fetched take space: the rest of each copy is a hole. The state of a record is a byte in a
file that all processes map into memory. It says whether the record is absent, is there, or is being fetched by the
process with this number. A record becomes readable after it was written, so nothing that a killed process leaves is
read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.layout.shard_files import ShardFiles
from tfrecord_tools.remote import space as spaces
from tfrecord_tools.remote.space import Space

ABSENT, PRESENT = 0, 255
_TICK = 4  # Seconds per unit of the time of the last use.


class Part:
    """The records of a split in the cache. It is used by one process.

    Attributes:
        shard: [n], the shard of each record of the split.
        offset: i64[n], first byte of the frame of each record in its shard.
        size: i64[n], bytes of the frame of each record.
        cost: i64[n], bytes that a record takes from the budget: it uses one more disk block than it fills, on average.
        files: The copies of the shards.
    """

    def __init__(
        self,
        space: Space,
        directory: Path,
        names: Sequence[str],
        shard: np.ndarray,
        offset: np.ndarray,
        size: np.ndarray,
    ):
        """Open or create the part in `directory`.

        Args:
            space: The cache directory.
            directory: Directory of the part.
            names: File names of the shards.
            shard: As in the attributes.
            offset: As in the attributes.
            size: As in the attributes.
        """
        self.shard, self.offset, self.size = shard, offset, size
        self.cost = size + files.PAGE
        self._space, self._directory = space, directory
        with space.locked():
            space.remove_idle(0)
            state = spaces.create_state(directory / spaces.STATE, len(shard))
            self._user = spaces.User(directory / spaces.USERS)
            os.utime(directory / spaces.STATE)
        self._state = state
        self._filled = spaces.filled_field(state)
        rows = len(shard)
        self._used = state[spaces.HEADER_BYTES : spaces.HEADER_BYTES + 4 * rows].view(np.uint32)
        self.flags = state[spaces.HEADER_BYTES + 4 * rows :]
        self.files = ShardFiles([str(directory / name) for name in names])
        self._recover(self._user.number)  # A killed process may have had the same number.

    def claim(self, rows: np.ndarray) -> np.ndarray:
        """Mark absent records as being fetched by this process, and return them. Hold the lock."""
        absent = rows[self.flags[rows] == ABSENT]
        self.flags[absent] = self._user.number
        self._filled[0] += self.cost[absent].sum()
        return absent

    def write(self, rows: np.ndarray, data: memoryview) -> None:
        """Write neighboring records of a shard that this process has claimed, and make them readable.

        Raises:
            OSError: The disk is full, or fails. The records are still claimed.
        """
        path = self.files.paths[self.shard[rows[0]]]
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            start, done = int(self.offset[rows[0]]), 0
            while done < len(data):
                done += os.pwrite(descriptor, data[done:], start + done)
        finally:
            os.close(descriptor)
        self.touch(rows)
        self.flags[rows] = PRESENT

    def touch(self, rows: np.ndarray) -> None:
        """Note that records are used now."""
        self._used[rows] = int(time.time()) // _TICK

    def idle(self, rows: np.ndarray) -> np.ndarray:
        """Return the seconds since records were used, i64[k]."""
        return int(time.time()) - self._used[rows].astype(np.int64) * _TICK

    def release(self, rows: np.ndarray) -> None:
        """Make claimed records absent again: they could not be fetched or written."""
        with self._space.locked():
            self._drop(rows[self.flags[rows] == self._user.number])

    def evict(self, rows: np.ndarray) -> None:
        """Remove records. Hold the lock."""
        self._drop(rows[self.flags[rows] == PRESENT])

    def discard(self, rows: np.ndarray) -> None:
        """Remove damaged records."""
        with self._space.locked():
            self.evict(rows)

    def rescue(self, rows: np.ndarray) -> bool:
        """Make records absent that ended processes were fetching. Return whether there were any."""
        rescued = False
        with self._space.locked():
            for number in set(self.flags[rows].tolist()) - {ABSENT, PRESENT, self._user.number}:
                if not spaces.is_alive(self._directory / spaces.USERS / str(number)):
                    self._recover(number)
                    rescued = True
        return rescued

    def _recover(self, number: int) -> None:
        with self._space.locked():
            self._drop(np.flatnonzero(self.flags == number))

    def _drop(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        rows = np.sort(rows)
        self.flags[rows] = ABSENT
        self._filled[0] -= self.cost[rows].sum()
        ends = self.offset[rows] + self.size[rows]
        breaks = np.flatnonzero((self.shard[rows][1:] != self.shard[rows][:-1]) | (self.offset[rows][1:] != ends[:-1]))
        for group in np.split(rows, breaks + 1):
            self._punch(int(group[0]), int(group[-1]))

    def _punch(self, first: int, last: int) -> None:
        """Free the disk blocks that hold nothing but these neighboring records and absent ones."""
        start, end = int(self.offset[first]), int(self.offset[last] + self.size[last])
        low, high = start // files.PAGE * files.PAGE, -(-end // files.PAGE) * files.PAGE
        shard, row = self.shard[first], first - 1
        while row >= 0 and self.shard[row] == shard and self.offset[row] + self.size[row] > low:
            if self.flags[row] != ABSENT:
                low += files.PAGE
                break
            row -= 1
        row = last + 1
        while row < len(self.flags) and self.shard[row] == shard and self.offset[row] < high:
            if self.flags[row] != ABSENT:
                high -= files.PAGE
                break
            row += 1
        if low >= high:
            return
        try:
            descriptor = os.open(self.files.paths[shard], os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            files.punch(descriptor, low, high)
        finally:
            os.close(descriptor)
