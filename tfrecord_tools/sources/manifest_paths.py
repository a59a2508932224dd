"""Match the paths in a table to files, even if the table was written on another machine.

A row matches the file with exactly the same path. If there is none, more and more differences are ignored: first
separators (`\\` and `/`), prefixes (`C:`) and Unicode forms; then also capital letters; then the ending; then leading
zeros of numbers. If there is still no match, the row matches the file that shares the longest end of the path with it.
A row that matches several files is an error.
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
_LAST = "\U0010ffff"  # Sorts after all other characters.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ID = re.compile(r"\d+(?:\.0+)?/")  # A number that was 0007 before a spreadsheet changed it.
_NUMBER = re.compile(r"0*(\d+?)(?:\.0+)?")
_DRIVE = re.compile(r"[A-Za-z]:$")
_DIFFERENCES_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Matches:
    """The files that match the rows of a table.

    Attributes:
        numbers: i64[rows], the number of the file of each row. `MISSING`: no file matches.
        notes: How rows differ from the names of their files, for the user.
    """

    numbers: np.ndarray
    notes: tuple[str, ...]


def match(table: str, rows: Sequence[str], names: Sequence[str], lines: Sequence[int]) -> Matches:
    """Find the file of each row.

    Args:
        table: Path of the table, for messages.
        rows: The paths in the table.
        names: Paths of the files, with `/` as separator.
        lines: The number of each row in the table, for messages.

    Raises:
        UserError: Several files match a row, or two rows match the same file.
    """
    number_of = {name: number for number, name in enumerate(names)}
    numbers = np.array([number_of.get(row, MISSING) for row in rows], np.int64)
    files = _Files(names)
    keys = {row: _key(rows[row]) for row in np.flatnonzero(numbers == MISSING).tolist()}
    for find in (files.at, files.below):
        for fold in _FOLDS:
            matched = set(numbers.tolist()) if keys else set()  # Files of rows with a more exact match.
            for row, key in list(keys.items()):
                if fold is _without_zeros and not _ID.match(key):
                    continue
                matches = find(fold, fold(key))
                if len(matches) > 1:
                    raise UserError(_several(table, rows[row], lines[row], [names[number] for number in matches]))
                if matches and matches[0] not in matched:
                    numbers[row] = matches[0]
                    del keys[row]
    _check_distinct(table, rows, names, lines, numbers)
    return Matches(numbers, tuple(_notes(rows, names, numbers)))


def _several(table: str, row: str, line: int, matches: Sequence[str]) -> str:
    return (
        f"{table}: row {line:,} ({row!r}) matches several files, for example {matches[0]!r} and {matches[1]!r}. Each"
        " row must match one file. Pass the name of a column with full paths as --path_column, or pass the directory of"
        " the files as --src."
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
            f"{table}: rows {lines[first]:,} ({rows[first]!r}) and {lines[second]:,} ({rows[second]!r}) match the same"
            f" file, {names[int(numbers[first])]!r}. Keep one of the rows, or pass the name of a column with full paths"
            " as --path_column."
        )


# --- Keys for comparing paths ----------------------------------------------------------------------------------------


def parts(path: str) -> list[str]:
    """Return the names in a path of any system, in NFC. Drive, server, scheme, `.` and `..` are removed."""
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
    """Return the parts of a path from last to first, each followed by `/`."""
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
_FOLDS: tuple[Fold, ...] = (_as_written, str.casefold, _without_ending, _without_zeros)  # Each ignores more details.


class _Files:
    """The files of a source, indexed by the parts of their paths.

    A table and a source may have millions of entries. Keys are therefore sorted once for each function in `_FOLDS`, and
    each row is found by binary search.
    """

    def __init__(self, names: Sequence[str]):
        self._names = names

    def at(self, fold: Fold, key: str) -> list[int]:
        """Return at most two files with exactly this key."""
        keys, numbers = self._sorted(fold)
        start = bisect.bisect_left(keys, key)
        return [numbers[i] for i in range(start, min(start + 2, len(keys))) if key and keys[i] == key]

    def below(self, fold: Fold, key: str) -> list[int]:
        """Return at most two of the files that share the longest end of the path with this key.

        If the directory in the row exists, only files in or below it match. If the row names a split, files of other
        splits do not match.
        """
        keys, numbers = self._sorted(fold)
        position = bisect.bisect_left(keys, key)
        tail = max((_common(key, keys[i]) for i in (position - 1, position) if 0 <= i < len(keys)), key=len, default="")
        if not tail:
            return []
        start, stop = bisect.bisect_left(keys, tail), bisect.bisect_left(keys, tail + _LAST)
        above = _directory_of(key, tail)
        matches: Iterable[int] = range(start, stop)
        if above in self._directories:
            matches = (i for i in matches if f"/{above}" in keys[i].casefold())
        if split := _split_of(key):
            matches = (i for i in matches if _split_of(keys[i]) in (split, None))
        return [numbers[i] for i in itertools.islice(matches, 2)]

    @functools.cached_property
    def _keys(self) -> list[str]:
        return [_key(name) for name in self._names]

    @functools.cache  # noqa: B019  The cache lives only as long as the matching.
    def _sorted(self, fold: Fold) -> tuple[list[str], list[int]]:
        keys = [fold(key) for key in self._keys]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return [keys[number] for number in order], order

    @functools.cached_property
    def _directories(self) -> frozenset[str]:
        """All neighboring parts of directory paths (b/c of a/b/c/d), reversed and in lower case like keys."""
        directories = set()
        for directory in {name.rpartition("/")[0] for name in self._names}:
            names = [part.casefold() for part in parts(directory)]
            for start, stop in itertools.combinations(range(len(names) + 1), 2):
                directories.add("/".join([*reversed(names[start:stop]), ""]))
        return frozenset(directories)


def _common(key: str, other: str) -> str:
    """Return the parts that are equal at the start of two keys."""
    if key.partition("/")[0] != other.partition("/")[0]:
        return ""
    same = 0
    for a, b in zip(key.split("/")[:-1], other.split("/")[:-1]):
        if a != b:
            break
        same += len(a) + 1
    return key[:same]


def _split_of(key: str) -> str | None:
    """Return the split of the innermost directory with a split name. None: there is no such directory."""
    return next((split for name in key.split("/")[1:-1] if (split := split_named(name))), None)


def _directory_of(key: str, tail: str) -> str:
    """Return the directory of a row as a folded key, up to the first part that is not in `tail`."""
    rest = key[len(tail) :].partition("/")[0]
    return f"{tail.partition('/')[2]}{rest}/".casefold() if rest else ""


# --- Notes ------------------------------------------------------------------------------------------------------------


def _notes(rows: Sequence[str], names: Sequence[str], numbers: np.ndarray) -> Iterator[str]:
    counts: collections.Counter[str] = collections.Counter()
    first: dict[str, int] = {}
    for row, number in enumerate(numbers.tolist()):
        if number != MISSING and rows[row] != names[number]:
            difference = _difference(rows[row], names[number])
            counts[difference] += 1
            first.setdefault(difference, row)
    for difference, count in counts.most_common(_DIFFERENCES_SHOWN):
        row = first[difference]
        yield (
            f"{count:,} of {len(rows):,} rows name files {difference}, for example {rows[row]}"
            f" (read as {names[int(numbers[row])]})"
        )
    rest = counts.total() - sum(count for _, count in counts.most_common(_DIFFERENCES_SHOWN))
    if rest:
        yield f"{rest:,} more rows differ from the names of their files in other ways"


def _difference(row: str, name: str) -> str:
    """Return how a row differs from the name of its file, for a note."""
    return " and ".join(_differences(row, name)) or "in another form"


def _differences(row: str, name: str) -> Iterator[str]:
    if _URL.match(row):
        yield "by URLs"
    elif "\\" in row:
        yield "with backslashes"
    if not (unicodedata.is_normalized("NFC", row) and unicodedata.is_normalized("NFC", name)):
        yield "in another Unicode form"
    (*above, last), (*directories, base) = parts(row), parts(name)
    row_ending, file_ending = _ending(last), _ending(base)
    if row_ending.casefold() != file_ending.casefold():
        yield "with another ending" if row_ending else "without their ending"
    if _without_ending(last) != _without_ending(base):
        yield "without leading zeros"
    tail = directories[-len(above) :] if above else []
    same = _folded(above) == _folded(tail)
    stems = last.removesuffix(row_ending), base.removesuffix(file_ending)
    if _differs_by_case(row_ending, file_ending) or _differs_by_case(*stems) or (same and above != tail):
        yield "with other capital letters"
    if not same:
        yield "with directories that are not in the source"
    elif len(above) < len(directories):
        yield "without the first directories of their path" if above else "without their directory"


def _folded(names: Sequence[str]) -> list[str]:
    return [name.casefold() for name in names]


def _ending(name: str) -> str:
    return name[len(_without_ending(name)) :]


def _differs_by_case(name: str, other: str) -> bool:
    return name != other and name.casefold() == other.casefold()
