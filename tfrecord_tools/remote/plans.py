"""The order in which records will be read. It says what to fetch next and what to drop."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Protocol

import numpy as np

_SOME = 1024  # Positions that are computed at once.
NEVER = 1 << 40  # A position that no training reaches.


class Sequence(Protocol):
    """Record numbers by position. `order.Order` is one."""

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Return the record numbers, i64[k], at positions i64[k]."""

    def next_use(self, numbers: np.ndarray, position: int) -> np.ndarray:
        """Return the first position, i64[k], at or after `position`, of each of the records i64[k]."""


@dataclasses.dataclass(frozen=True)
class Once:
    """All records once, by their numbers, as an evaluation reads them.

    Attributes:
        count: Number of records.
    """

    count: int

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Return the record numbers, i64[k], at positions i64[k]; fewer at the end."""
        return positions[positions < self.count]

    def next_use(self, numbers: np.ndarray, position: int) -> np.ndarray:
        """Return the positions, i64[k], of records i64[k]; `NEVER` for the ones before `position`."""
        return np.where(numbers >= position, numbers, NEVER)


class Rows(Protocol):
    """The rows of record numbers. `layout.record_map.RecordMap` has them, without memory for each record."""

    def rows_of(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows of record numbers, i64[k]."""

    def numbers_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the record numbers of rows, i64[k]. -1: the row has no number."""


class Chosen:
    """The rows of a selection of records. It takes 24 bytes per record of the selection.

    Args:
        rows: i64[n], the row of each record number.
    """

    def __init__(self, rows: np.ndarray):
        self._rows, self._numbers = rows, np.argsort(rows)
        self._sorted = rows[self._numbers]

    def rows_of(self, numbers: np.ndarray) -> np.ndarray:
        return self._rows[numbers]

    def numbers_of(self, rows: np.ndarray) -> np.ndarray:
        places = np.minimum(np.searchsorted(self._sorted, rows), len(self._sorted) - 1)
        return np.where(self._sorted[places] == rows, self._numbers[places], -1)


class Plan:
    """A sequence of the rows of an index.

    Args:
        sequence: Record numbers by position.
        rows: The rows of the record numbers.
    """

    def __init__(self, sequence: Sequence, rows: Rows):
        self._sequence, self._rows = sequence, rows
        self._parts: dict[tuple[int, int], Plan] = {}
        # The first of the positions that were computed last, and their rows. Several threads plan: it is read once.
        self._ahead = (0, np.zeros(0, np.int64))

    def upcoming(self, position: int, count: int) -> np.ndarray:
        """Return the rows, i64[<=count], of the next `count` positions, in their order."""
        first, ahead = self._ahead
        behind = position - first
        kept = ahead[behind:] if 0 <= behind <= len(ahead) else ahead[:0]
        if len(kept) < count:
            following = np.arange(position + len(kept), position + count + _SOME)
            kept = np.concatenate([kept, self._rows.rows_of(self._sequence[following])])
        self._ahead = (position, kept)
        return kept[:count]

    def within(self, first: int, end: int) -> Plan:
        """Return this plan for the rows from `first` to `end`, counted from `first`. Positions stay the same.

        The result is the same object each time, and lives as long as this plan.
        """
        return self._parts.setdefault((first, end), _Within(self, first, end))

    def next_use(self, rows: np.ndarray, position: int) -> np.ndarray:
        """Return the next position, i64[k], of rows i64[k]. `NEVER`: the plan does not read the row."""
        numbers = self._rows.numbers_of(rows)
        planned = numbers >= 0
        found = np.full(len(rows), NEVER)
        found[planned] = self._sequence.next_use(numbers[planned], position)
        return found


class _Within(Plan):
    def __init__(self, whole: Plan, first: int, end: int):
        self._whole = weakref.proxy(whole)  # No cycle: a plan that nobody follows must disappear at once.
        self._first_row, self._end = first, end

    def upcoming(self, position: int, count: int) -> np.ndarray:
        rows = self._whole.upcoming(position, count)
        return rows[(rows >= self._first_row) & (rows < self._end)] - self._first_row

    def next_use(self, rows: np.ndarray, position: int) -> np.ndarray:
        return self._whole.next_use(rows + self._first_row, position)
