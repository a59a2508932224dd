"""Which files the rows of a table mean: their paths may be nearly right, made on another machine or by another program.

A row means the file of its path. If there is none, the path is compared without regard to what differs from machine to
machine, in this order: separators and prefixes, the Unicode form, capital letters, the ending, leading zeros of a
number. Then as much of the end of the path as agrees decides. A row that fits several files stops everything.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import functools
import itertools
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.split_names import split_named
from tfrecord_tools.sources.folder_names import IMAGE_ENDINGS

MISSING = -1
_LAST = "\U0010ffff"  # Sorts behind all else.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ID = re.compile(r"\d+(?:\.0+)?/")  # A number as spreadsheets leave it of 0007.
_NUMBER = re.compile(r"0*(\d+?)(?:\.0+)?")
_DRIVE = re.compile(r"[A-Za-z]:$")
_WAYS_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Matches:
    """The files that rows mean.

    Attributes:
        numbers: i64[rows], of the file that each row means; `MISSING` if there is none.
        notes: How rows were read that are not written as the files are called.
    """

    numbers: np.ndarray
    notes: tuple[str, ...]


def match(table: str, rows: Sequence[str], names: Sequence[str], lines: Sequence[int]) -> Matches:
    """Find the file that each row means.

    Args:
        table: The table's own path, for messages.
        rows: Paths as the table has them.
        names: Paths of the files, with `/`.
        lines: The number of each row in the table, for messages.

    Raises:
        UserError: Several files fit a row, or two rows mean one file.
    """
    number_of = {name: number for number, name in enumerate(names)}
    numbers = np.array([number_of.get(row, MISSING) for row in rows], np.int64)
    files = _Files(names)
    keys = {row: _key(rows[row]) for row in np.flatnonzero(numbers == MISSING).tolist()}
    for find in (files.at, files.below):
        for fold in _FOLDS:
            taken = set(numbers.tolist()) if keys else set()  # By rows that say it more clearly.
            for row, key in list(keys.items()):
                if fold is _without_zeros and not _ID.match(key):
                    continue
                fitting = find(fold, fold(key))
                if len(fitting) > 1:
                    raise UserError(_several(table, rows[row], lines[row], [names[number] for number in fitting]))
                if fitting and fitting[0] not in taken:
                    numbers[row] = fitting[0]
                    del keys[row]
    _check_distinct(table, rows, names, lines, numbers)
    return Matches(numbers, tuple(_notes(rows, names, numbers)))


def _several(table: str, row: str, line: int, fitting: Sequence[str]) -> str:
    return (
        f"{table}: row {line:,}, {row!r}, fits several files, such as {fitting[0]!r} and {fitting[1]!r}. Each row must"
        " name one file. Name a column of whole paths with --path_column, or pass the directory that is meant as --src."
    )


def _check_distinct(
    table: str, rows: Sequence[str], names: Sequence[str], lines: Sequence[int], numbers: np.ndarray
) -> None:
    matched = np.flatnonzero(numbers != MISSING)
    order = matched[np.argsort(numbers[matched], kind="stable")]
    same = np.flatnonzero(numbers[order[1:]] == numbers[order[:-1]])
    if len(same):
        first, second = int(order[same[0]]), int(order[same[0] + 1])
        raise UserError(
            f"{table}: rows {lines[first]:,} and {lines[second]:,}, {rows[first]!r} and {rows[second]!r}, both mean the"
            f" file {names[int(numbers[first])]!r}."
            " Keep one of them, or name a column of whole paths with --path_column."
        )


# --- What is compared ------------------------------------------------------------------------------------------------


def parts(path: str) -> list[str]:
    """Return the names in a path as any system writes it, without drive, server, scheme, `.` and `..`; in NFC."""
    if "://" in path and (scheme := _URL.match(path)):
        path = urllib.parse.unquote(path[scheme.end() :].partition("?")[0].partition("#")[0])
    names = unicodedata.normalize("NFC", path).replace("\\", "/").split("/")
    if not {"", ".", ".."}.isdisjoint(names):
        names = _resolved(names)
    return names[1:] if names and _DRIVE.match(names[0]) else names


def _resolved(names: Sequence[str]) -> list[str]:
    resolved: list[str] = []
    for name in names:
        if name == "..":
            del resolved[-1:]
        elif name not in ("", "."):
            resolved.append(name)
    return resolved


def _key(path: str) -> str:
    """Return the parts of a path from the last to the first, each ending with `/`: what ends alike, begins alike."""
    return "/".join([*reversed(parts(path)), ""])


def _as_written(key: str) -> str:
    return key


def _without_ending(key: str) -> str:
    name, slash, above = key.casefold().partition("/")
    stem, _, ending = name.rpartition(".")
    return f"{stem if stem and ending in IMAGE_ENDINGS else name}{slash}{above}"


def _without_zeros(key: str) -> str:
    name, slash, above = _without_ending(key).partition("/")
    number = _NUMBER.fullmatch(name)
    return f"{number[1] if number else name}{slash}{above}"


Fold = Callable[[str], str]
_FOLDS: tuple[Fold, ...] = (_as_written, str.casefold, _without_ending, _without_zeros)  # Each leaves out more.


class _Files:
    """The files of a source, found by what their paths have in common with a row's.

    A table and a source may have millions of entries: keys are sorted once a fold, and each row is a binary search.
    """

    def __init__(self, names: Sequence[str]):
        self._names = names

    def at(self, fold: Fold, key: str) -> list[int]:
        """Return the files of this very path, two at most."""
        keys, numbers = self._sorted(fold)
        start = bisect.bisect_left(keys, key)
        return [numbers[i] for i in range(start, min(start + 2, len(keys))) if key and keys[i] == key]

    def below(self, fold: Fold, key: str) -> list[int]:
        """Return the files whose paths end as this one does, by as many parts as possible; two at most.

        A row that names a directory which is there is looked for in and below that alone: a file of the same name
        elsewhere is another one. So is a file of another split.
        """
        keys, numbers = self._sorted(fold)
        position = bisect.bisect_left(keys, key)
        tail = max((_common(key, keys[i]) for i in (position - 1, position) if 0 <= i < len(keys)), key=len, default="")
        if not tail:
            return []
        start, stop = bisect.bisect_left(keys, tail), bisect.bisect_left(keys, tail + _LAST)
        above = _directory_of(key, tail)
        fitting: Iterable[int] = range(start, stop)
        if above in self._directories:
            fitting = (i for i in fitting if f"/{above}" in keys[i].casefold())
        if split := _split_of(key):
            fitting = (i for i in fitting if _split_of(keys[i]) in (split, None))
        return [numbers[i] for i in itertools.islice(fitting, 2)]

    @functools.cached_property
    def _keys(self) -> list[str]:
        return [_key(name) for name in self._names]

    @functools.cache  # noqa: B019  It lives no longer than the matching.
    def _sorted(self, fold: Fold) -> tuple[list[str], list[int]]:
        keys = [fold(key) for key in self._keys]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return [keys[number] for number in order], order

    @functools.cached_property
    def _directories(self) -> frozenset[str]:
        """All directories by the ends of their paths, reversed and folded as keys are."""
        directories = set()
        for directory in {name.rpartition("/")[0] for name in self._names}:
            names = [part.casefold() for part in parts(directory)]
            for start, stop in itertools.combinations(range(len(names) + 1), 2):
                directories.add("/".join([*reversed(names[start:stop]), ""]))
        return frozenset(directories)


def _common(one: str, other: str) -> str:
    """Return the parts with which both keys begin."""
    if one.partition("/")[0] != other.partition("/")[0]:
        return ""
    same = 0
    for a, b in zip(one.split("/")[:-1], other.split("/")[:-1]):
        if a != b:
            break
        same += len(a) + 1
    return one[:same]


def _split_of(key: str) -> str | None:
    """Return the split that the innermost directory with a split's name means."""
    return next((split for name in key.split("/")[1:-1] if (split := split_named(name))), None)


def _directory_of(key: str, tail: str) -> str:
    """Return the directory of a row up to the first part that a match by `tail` does not have, as a folded key."""
    rest = key[len(tail) :].partition("/")[0]
    return f"{tail.partition('/')[2]}{rest}/".casefold() if rest else ""


# --- Notes ------------------------------------------------------------------------------------------------------------


def _notes(rows: Sequence[str], names: Sequence[str], numbers: np.ndarray) -> Iterator[str]:
    counts: collections.Counter[str] = collections.Counter()
    first: dict[str, int] = {}
    for row, number in enumerate(numbers.tolist()):
        if number != MISSING and rows[row] != names[number]:
            way = _way(rows[row], names[number])
            counts[way] += 1
            first.setdefault(way, row)
    for way, count in counts.most_common(_WAYS_SHOWN):
        row = first[way]
        yield (
            f"{count:,} of {len(rows):,} rows name files {way}, such as {rows[row]}"
            f" (read as {names[int(numbers[row])]})"
        )
    rest = counts.total() - sum(count for _, count in counts.most_common(_WAYS_SHOWN))
    if rest:
        yield f"{rest:,} rows more name files in other ways that are nearly right"


def _way(row: str, name: str) -> str:
    """Say how a row differs from the name of the file that it means."""
    return " and ".join(_differences(row, name)) or "in another form"


def _differences(row: str, name: str) -> Iterator[str]:
    if _URL.match(row):
        yield "by addresses"
    elif "\\" in row:
        yield "with backslashes"
    if not (unicodedata.is_normalized("NFC", row) and unicodedata.is_normalized("NFC", name)):
        yield "in another Unicode form"
    (*above, last), (*directories, base) = parts(row), parts(name)
    written, there = _ending(last), _ending(base)
    if written.casefold() != there.casefold():
        yield "with another ending" if written else "without their ending"
    if _without_ending(last) != _without_ending(base):
        yield "without leading zeros"
    tail = directories[-len(above) :] if above else []
    same = _folded(above) == _folded(tail)
    endings = _differs_by_case(written, there)
    if endings or _differs_by_case(last.removesuffix(written), base.removesuffix(there)) or (same and above != tail):
        yield "in other capital and small letters"
    if not same:
        yield "with directories that are not in the source"
    elif len(above) < len(directories):
        yield "without the first of their directories" if above else "without their directory"


def _folded(names: Sequence[str]) -> list[str]:
    return [name.casefold() for name in names]


def _ending(name: str) -> str:
    return name[len(_without_ending(name)) :]


def _differs_by_case(one: str, other: str) -> bool:
    return one != other and one.casefold() == other.casefold()
