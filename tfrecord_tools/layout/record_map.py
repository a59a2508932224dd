"""The map of a split: positions and labels of its records, in one array of 16 bytes per record.

The index has the same values, but takes seconds to read and is read again by each process. A map is one array of 64-bit
integers, so that a file with it is mapped into memory and shared by all processes (`map_files`).

The array has these parts:
    header: 512 values, see `_Header`.
    first: i64[shards + 1], the first row of each shard, and the number of rows.
    base: i64[shards + 1], the bytes of all shards before each shard, and the bytes of all shards.
    starts: i64[rows + 1], the byte at which each record's frame starts, if the shards are one sequence of bytes. The
        next value is the end of the frame, since there is nothing between two frames.
    labels: i64[rows]. First come the labels of the n records that are not left out, then the gaps.
    gaps: i64[rows - n], ascending: for each left-out row, the number of records before it.
"""

from __future__ import annotations

import bisect
import functools
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfrecord_tools.layout import index
from tfrecord_tools.layout.schema import FRAME_BYTES

WORD = np.dtype(np.int64)  # A file from a computer with another byte order has a wrong `_MAGIC`.
HEADER = 512  # Values of the header: a page, so that the other parts are aligned.
_MAGIC = int.from_bytes(b"TFRECMAP", "big")
_COLUMNS = ("shard", "offset", "length", "label")
Put = Callable[[int, np.ndarray], object]  # Stores values from a position on.


class Frames(NamedTuple):
    """Shards of frames, their sizes in bytes and the bytes at which they start, each i64[k]."""

    shards: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray


class _Header(NamedTuple):
    """The first values of a map. The checksum is the CRC-32 of the other values and of `first` and `base`."""

    magic: int
    most: int  # Rows that the map has room for.
    rows: int
    records: int
    shards: int
    stamp: tuple[int, int, int, int]  # 32 bytes that identify the index.

    def values(self) -> np.ndarray:
        return np.array([*self[:-1], *self.stamp], WORD)

    @classmethod
    def of(cls, words: np.ndarray) -> _Header:
        magic, most, rows, records, shards, *stamp = words[:9].tolist()
        return cls(magic, most, rows, records, shards, (stamp[0], stamp[1], stamp[2], stamp[3]))


_CHECKSUM = 9  # Position of the checksum.


class _Parts(NamedTuple):
    """Positions at which the parts begin, and the number of values."""

    first: int
    base: int
    starts: int
    labels: int
    end: int

    @classmethod
    def of(cls, most: int, shards: int) -> _Parts:
        base = HEADER + shards + 1
        starts = base + shards + 1
        labels = starts + most + 1
        return cls(HEADER, base, starts, labels, labels + most)


class RecordMap:
    """The records of one split, in the order of the index, without those that are left out.

    A *number* counts the records, and a *row* counts the rows of the index. They differ if rows are left out.

    Attributes:
        labels: i64[n], the label of each record. It cannot be written.
        rows: Number of rows of the split in the index.
        bytes: Bytes of all shards.
        shard_sizes: i64[shards], the size of each shard in bytes.
    """

    def __init__(self, words: np.ndarray):
        """Use a map that `build` made.

        Args:
            words: The map, i64[m].
        """
        header = _Header.of(words)
        parts = _Parts.of(header.most, header.shards)
        self._words = words
        self._first = words[parts.first : parts.base]
        self._base = words[parts.base : parts.starts]
        self._starts = words[parts.starts : parts.starts + header.rows + 1]
        self.labels = words[parts.labels : parts.labels + header.records]
        self.labels.setflags(write=False)
        self._gaps = words[parts.labels + header.records : parts.labels + header.rows]
        self.rows = header.rows
        self.bytes = int(self._base[-1])
        self.shard_sizes = np.diff(self._base)
        # For single numbers, these are three times as fast as arrays.
        self._for_one = self._first.tolist(), self._base.tolist(), self._starts.data

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordMap, (self._words,)

    @property
    def checked_recently(self) -> bool:
        """Whether a process of any host has compared the lengths of the shards within the last minute."""
        return False

    def note_check(self) -> None:
        """Remember that the lengths of the shards are right, for the next process."""

    def rows_of(self, numbers: Any) -> Any:
        """Return the rows of record numbers: i64[k], or one number."""
        return numbers + self._gaps.searchsorted(numbers, "right") if len(self._gaps) else numbers

    def numbers_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the record numbers of rows, i64[k]. -1: the row is left out."""
        if not len(self._gaps):
            return rows
        before = self._left_out.searchsorted(rows, "right")
        left_out = self._left_out[np.maximum(before - 1, 0)] == rows
        return np.where(left_out, -1, rows - before)

    @functools.cached_property
    def _left_out(self) -> np.ndarray:
        """i64[rows - n], the rows that are left out."""
        return self._gaps + np.arange(len(self._gaps))

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the index of the split of each record, which is 0, and its row in that split."""
        return np.zeros(len(numbers), np.int64), self.rows_of(numbers)

    def labels_of(self, numbers: np.ndarray) -> np.ndarray:
        """Return the labels of records, i64[k]."""
        return self.labels[numbers]

    def frame(self, number: int) -> tuple[int, int, int]:
        """Return the shard of one record, and the size and the offset of its frame."""
        return self.frame_of_row(int(self.rows_of(number)) if len(self._gaps) else number)

    def frame_of_row(self, row: int) -> tuple[int, int, int]:
        """Return the shard of one row, and the size and the offset of its frame."""
        first, base, starts = self._for_one
        start = starts[row]
        shard = bisect.bisect_right(first, row) - 1
        return shard, starts[row + 1] - start, start - base[shard]

    def frames(self, numbers: np.ndarray) -> Frames:
        """Return where the frames of records i64[k] are."""
        return self.frames_of_rows(self.rows_of(numbers))

    def frames_of_rows(self, rows: np.ndarray) -> Frames:
        """Return where the frames of rows i64[k] are, also of those that are left out."""
        starts, shards = self._starts[rows], self.shards_of_rows(rows)
        return Frames(shards, self._starts[rows + 1] - starts, starts - self._base[shards])

    def shards_of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the shards of rows, i64[...]."""
        return self._first.searchsorted(rows, "right") - 1


class JoinedMaps:
    """The records of several splits, one split after the other. The interface is that of `RecordMap`."""

    def __init__(self, maps: Sequence[RecordMap]):
        self._maps = tuple(maps)
        self._ends = np.cumsum([len(one) for one in maps])
        self._first_rows = np.cumsum([0, *(one.rows for one in maps)])
        self._first_shards = np.cumsum([0, *(len(one.shard_sizes) for one in maps)])
        self._for_one = self._ends.tolist()  # For single numbers, a list is faster than an array.

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def rows(self) -> int:
        return int(self._first_rows[-1])

    @property
    def labels(self) -> np.ndarray:
        labels = np.concatenate([one.labels for one in self._maps])
        labels.setflags(write=False)
        return labels

    @property
    def shard_sizes(self) -> np.ndarray:
        return np.concatenate([one.shard_sizes for one in self._maps])

    @property
    def checked_recently(self) -> bool:
        return all(one.checked_recently for one in self._maps)

    def note_check(self) -> None:
        for one in self._maps:
            one.note_check()

    def rows_of(self, numbers: np.ndarray) -> np.ndarray:
        splits, rows = self.places(numbers)
        return rows + self._first_rows[splits]

    def numbers_of(self, rows: np.ndarray) -> np.ndarray:
        splits = self._first_rows[1:].searchsorted(rows, "right")
        numbers = np.empty(len(rows), np.int64)
        for split, (one, end) in enumerate(zip(self._maps, self._ends.tolist())):
            own = np.flatnonzero(splits == split)
            found = one.numbers_of(rows[own] - self._first_rows[split])
            numbers[own] = np.where(found < 0, -1, found + end - len(one))
        return numbers

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        splits, (rows,) = self._gather(numbers, lambda one, own: (one.rows_of(own),))
        return splits, rows

    def labels_of(self, numbers: np.ndarray) -> np.ndarray:
        return self._gather(numbers, lambda one, own: (one.labels[own],))[1][0]

    def frame(self, number: int) -> tuple[int, int, int]:
        split = bisect.bisect_right(self._for_one, number)
        one = self._maps[split]
        shard, size, offset = one.frame(number - self._for_one[split] + len(one))
        return shard + int(self._first_shards[split]), size, offset

    def frames(self, numbers: np.ndarray) -> Frames:
        splits, (shards, sizes, offsets) = self._gather(numbers, RecordMap.frames)
        return Frames(shards + self._first_shards[splits], sizes, offsets)

    def _gather(
        self, numbers: np.ndarray, ask: Callable[[RecordMap, np.ndarray], Sequence[np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ask the map of each split about its own records; return the splits i64[k] and the answers i64[a k]."""
        splits = self._ends.searchsorted(numbers, "right")
        answers = np.empty((0, 0), np.int64)
        for split, (one, end) in enumerate(zip(self._maps, self._ends.tolist())):
            own = np.flatnonzero(splits == split)
            found = ask(one, numbers[own] - (end - len(one)))
            if not split:
                answers = np.empty((len(found), len(numbers)), np.int64)
            answers[:, own] = found
        return splits, answers


def in_memory(path: Path, split: str, shards: int) -> RecordMap:
    """Make the map of a split in the memory of this process.

    Args:
        path: The index.
        split: Name of the split.
        shards: Number of shards of the split.

    Raises:
        UserError: The index is missing or damaged.
    """
    rows = index.SplitRows(path, split)
    words = np.zeros(size(rows, shards), WORD)

    def put(position: int, values: np.ndarray) -> None:
        words[position : position + len(values)] = values

    build(rows, shards, bytes(32), put)
    return RecordMap(words)


def size(rows: index.SplitRows, shards: int) -> int:
    """Return the number of values of a map."""
    return _Parts.of(rows.most, shards).end


def build(rows: index.SplitRows, shards: int, stamp: bytes, put: Put) -> None:
    """Make the map of a split.

    Only few rows of the index are in memory at a time, and 8 bytes for each row that is left out.

    Args:
        rows: The rows of the split.
        shards: Number of shards of the split.
        stamp: 32 bytes that identify the index.
        put: Function that stores values i64[k] from a position of the map on. All values that are not stored are 0.

    Raises:
        UserError: The index is damaged.
    """
    parts = _Parts.of(rows.most, shards)
    scan = _Scan(rows.path, shards)
    for table in rows.blocks(_COLUMNS):
        if len(table):
            shard, offset, length, label = (table.column(name).to_numpy().astype(np.int64) for name in _COLUMNS)
            put(parts.starts + scan.rows, scan.starts(shard, offset, length + FRAME_BYTES))
            put(parts.labels + scan.records, scan.labels(label))
    put(parts.starts + scan.rows, np.array([scan.bytes]))
    put(parts.labels + scan.records, np.concatenate([np.zeros(0, np.int64), *scan.gaps]))
    tables = np.concatenate([np.cumsum([0, *counts], dtype=WORD) for counts in (scan.shard_rows, scan.shard_bytes)])
    put(parts.first, tables)
    four = np.frombuffer(stamp, WORD).tolist()
    header = _Header(_MAGIC, rows.most, scan.rows, scan.records, shards, (four[0], four[1], four[2], four[3])).values()
    put(0, np.append(header, _checksum(header, tables)))


class _Scan:
    """Sums over the rows that were read so far."""

    def __init__(self, path: Path, shards: int):
        self._path = path
        self._last = (0, 0)  # Shard of the last row, and end of its frame.
        self.rows = self.records = self.bytes = 0
        self.shard_rows, self.shard_bytes = np.zeros(shards, np.int64), np.zeros(shards, np.int64)
        self.gaps: list[np.ndarray] = []

    def starts(self, shard: np.ndarray, offset: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Add rows, and return the position of each frame in the sequence of all shards."""
        ends = offset + frame
        shards_before, ends_before = np.append(self._last[0], shard[:-1]), np.append(self._last[1], ends[:-1])
        same = shard == shards_before
        follows = (shard >= shards_before) & (offset == np.where(same, ends_before, 0)) & (frame >= FRAME_BYTES)
        if not follows.all() or shard[-1] >= len(self.shard_rows):
            raise index.damaged(self._path, "its rows are not those of the shards, one record after the other")
        self.shard_rows += np.bincount(shard, minlength=len(self.shard_rows))
        first = np.flatnonzero(np.append(True, ~same[1:]))
        self.shard_bytes[shard[first]] += np.add.reduceat(frame, first)
        sums = self.bytes + np.cumsum(frame)
        self._last, self.bytes = (int(shard[-1]), int(ends[-1])), int(sums[-1])
        return sums - frame

    def labels(self, label: np.ndarray) -> np.ndarray:
        """Add the labels of the same rows, and return those of the records that are not left out."""
        left_out = label == index.LEFT_OUT
        if left_out.any():
            rows = self.rows + np.flatnonzero(left_out)
            self.gaps.append(rows - (self.rows - self.records) - np.arange(len(rows)))
            label = label[~left_out]
        self.rows += len(left_out)
        self.records += len(label)
        return label


def fits(words: np.ndarray, stamp: bytes) -> bool:
    """Return whether the values are a whole map of the index with this stamp.

    Labels and starts are not checked, because this would read the whole file.
    """
    if len(words) < HEADER:
        return False
    header = _Header.of(words)
    if header.magic != _MAGIC or header.values()[-4:].tobytes() != stamp:
        return False
    parts = _Parts.of(header.most, header.shards)
    tables = words[parts.first : parts.starts]
    return len(words) == parts.end and int(words[_CHECKSUM]) == _checksum(header.values(), tables)


def _checksum(header: np.ndarray, tables: np.ndarray) -> int:
    return zlib.crc32(np.concatenate([header, tables]).astype(WORD).tobytes())
