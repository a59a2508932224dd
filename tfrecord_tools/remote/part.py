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
from tfrecord_tools.layout.record_map import Frames, RecordMap
from tfrecord_tools.layout.shard_files import ShardFiles
from tfrecord_tools.remote import space as spaces
from tfrecord_tools.remote.space import Space

ABSENT, PRESENT = 0, 255
_TICK = 4  # Seconds per unit of the time of the last use.
_UNREAD = np.uint32(1 << 31)  # Bit of the time of the last use: the record was fetched, and no process has read it.
_FLAGS = 1 << 22  # Flags that are compared at once.


class Part:
    """The records of a split in the cache. It is used by one process.

    Attributes:
        flags: u8[n], the state of each record: `ABSENT`, `PRESENT`, or the number of the process that fetches it.
        whole_cost: Bytes that all records would take from the budget.
        files: The copies of the shards.
    """

    def __init__(
        self,
        space: Space,
        directory: Path,
        names: Sequence[str],
        records: RecordMap,
    ):
        """Open or create the part in `directory`.

        Args:
            space: The cache directory.
            directory: Directory of the part.
            names: File names of the shards.
            records: The map of the split.
        """
        rows = records.rows
        self.whole_cost = records.bytes + rows * files.PAGE
        self._records = records
        self._space, self._directory = space, directory
        with space.locked():
            space.remove_idle(0)
            state = spaces.create_state(directory / spaces.STATE, rows)
            space.note_change()
            self._user = spaces.User(directory / spaces.USERS)
            os.utime(directory / spaces.STATE)
        self._state = state
        self._filled = spaces.filled_field(state)
        self._used = state[spaces.HEADER_BYTES : spaces.HEADER_BYTES + 4 * rows].view(np.uint32)
        self.flags = state[spaces.HEADER_BYTES + 4 * rows :]
        self.files = ShardFiles([str(directory / name) for name in names])
        self._recover(self._user.number)  # A killed process may have had the same number.

    def frames(self, rows: np.ndarray) -> Frames:
        """Return where the frames of records i64[k] are."""
        return self._records.frames_of_rows(rows)

    def shards(self, rows: np.ndarray) -> np.ndarray:
        """Return the shards of records, i64[...]."""
        return self._records.shards_of_rows(rows)

    def cost(self, rows: np.ndarray) -> np.ndarray:
        """Return the bytes that records take from the budget, i64[k].

        A record uses one more disk block than it fills, on average.
        """
        return self.frames(rows).sizes + files.PAGE

    def rows_with(self, flag: int) -> np.ndarray:
        """Return the rows with a flag, i64[k]. Only few flags are in the memory of this process at a time."""
        starts = range(0, len(self.flags), _FLAGS)
        found = [start + np.flatnonzero(self.flags[start : start + _FLAGS] == flag) for start in starts]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def claim(self, rows: np.ndarray) -> np.ndarray:
        """Mark absent records as being fetched by this process, and return them. Hold the lock."""
        absent = rows[self.flags[rows] == ABSENT]
        self.flags[absent] = self._user.number
        self._filled[0] += self.cost(absent).sum()
        return absent

    def write(self, rows: np.ndarray, data: memoryview) -> None:
        """Write neighboring records of a shard that this process has claimed, and make them readable.

        Raises:
            OSError: The disk is full, or fails. The records are still claimed.
        """
        shard, _, start = self._records.frame_of_row(int(rows[0]))
        path = self.files.paths[shard]
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(descriptor, data[done:], start + done)
        finally:
            os.close(descriptor)
        self._used[rows] = _now() | _UNREAD
        self.flags[rows] = PRESENT

    def touch(self, rows: np.ndarray) -> None:
        """Note that records are read now."""
        self._used[rows] = _now()

    def idle(self, rows: np.ndarray) -> np.ndarray:
        """Return the seconds since records were fetched or read, i64[k]."""
        return int(time.time()) - (self._used[rows] & ~_UNREAD).astype(np.int64) * _TICK

    def unread(self, rows: np.ndarray) -> np.ndarray:
        """Return whether records were fetched and not read since then, bool[k]."""
        return (self._used[rows] & _UNREAD) != 0

    @property
    def users(self) -> int:
        """Number of processes that use this split."""
        with self._space.locked():
            return sum(map(spaces.is_alive, (self._directory / spaces.USERS).iterdir()))

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
            self._drop(self.rows_with(number))

    def _drop(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        rows = np.sort(rows)
        self.flags[rows] = ABSENT
        self._filled[0] -= self.cost(rows).sum()
        for group in np.split(rows, self.breaks(rows)):
            self._punch(int(group[0]), int(group[-1]))

    def breaks(self, rows: np.ndarray) -> np.ndarray:
        """Return the indexes in ascending rows i64[k] of records that do not follow the one before, i64[m]."""
        shards = self.shards(rows)
        return np.flatnonzero((shards[1:] != shards[:-1]) | (rows[1:] != rows[:-1] + 1)) + 1

    def _punch(self, first: int, last: int) -> None:
        """Free the disk blocks that hold nothing but these neighboring records and absent ones."""
        frame_of = self._records.frame_of_row
        shard, _, start = frame_of(first)
        _, size, offset = frame_of(last)
        low, high = start // files.PAGE * files.PAGE, -(-(offset + size) // files.PAGE) * files.PAGE
        row = first - 1
        while row >= 0 and (frame := frame_of(row))[0] == shard and frame[1] + frame[2] > low:
            if self.flags[row] != ABSENT:
                low += files.PAGE
                break
            row -= 1
        row = last + 1
        while row < len(self.flags) and (frame := frame_of(row))[0] == shard and frame[2] < high:
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


def _now() -> np.uint32:
    """Return the time in units of `_TICK`."""
    return np.uint32(int(time.time()) // _TICK)
