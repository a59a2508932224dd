"""Images with identical bytes: copies, leaks between splits, conflicting labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

KINDS = {"copies": "within a split", "leaks": "in several splits", "conflicts": "with different labels"}
HARMS = {  # Harm of each kind to the training, for the console and the card. Copies in one split do no harm.
    "conflicts": "the network is trained on contradictory labels",
    "leaks": "the model is evaluated on images that it was trained on, so the scores are too good",
}
_SHOWN = 100  # Examples of each kind. The counts are of all files.
_MEMBERS = 100  # Files named in each example. A placeholder image can be in a dataset a million times.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Files with the same bytes as another file, by kind.

    If several kinds apply to a file, only the worst one is counted.

    Attributes:
        counts: Kind -> number of files. "conflicts": identical files with different labels. "leaks": same label,
            different splits. "copies": same label and split.
        files: Number of files of all kinds.
        examples: Kind -> up to 100 groups of identical files, each a list of up to 100 file numbers. The first two
            files of a conflict have different labels, and those of a leak are in different splits.
        sizes: Kind -> number of files in each of these groups.
    """

    counts: dict[str, int]
    files: int
    examples: dict[str, list[list[int]]]
    sizes: dict[str, list[int]]


def first_of(sha256: np.ndarray) -> np.ndarray:
    """Return for each file the position of the first file with the same hash.

    Args:
        sha256: u8[n 32], hashes of the files.

    Returns:
        i64[n].
    """
    _, first, inverse = np.unique(_as_scalars(sha256), return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def find(first: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> Duplicates:
    """Count identical files by kind; all arrays are [n], `first` is the result of `first_of`."""
    shared = np.flatnonzero(np.bincount(first, minlength=len(first))[first] > 1)
    conflicts = _differing(first, labels)
    leaks = _differing(first, splits) & ~conflicts
    contents, sizes = np.unique(first[shared], return_counts=True)
    kinds = {"conflicts": conflicts[contents], "leaks": leaks[contents]}
    kinds["copies"] = ~(kinds["conflicts"] | kinds["leaks"])
    differing = {"conflicts": labels, "leaks": splits, "copies": labels}  # The values that make a kind.
    return Duplicates(
        counts={kind: int(sizes[kinds[kind]].sum()) for kind in KINDS},
        files=len(shared),
        examples={
            kind: [_named(same, differing[kind]) for same in positions(first, contents[kinds[kind]][:_SHOWN])]
            for kind in KINDS
        },
        sizes={kind: sizes[kinds[kind]][:_SHOWN].tolist() for kind in KINDS},
    )


def _named(same: np.ndarray, values: np.ndarray) -> list[int]:
    """Return up to 100 of the files `same`, i64[n]: the first one, one with another value, and the others."""
    other = np.flatnonzero(values[same] != values[same[0]])[:1]
    return np.r_[same[:1], same[other], np.delete(same, [0, *other])][:_MEMBERS].tolist()


def positions(first: np.ndarray, contents: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the sorted positions of identical files. `contents` has the first position of each group."""
    order = np.argsort(first, kind="stable")
    bounds = (np.searchsorted(first[order], contents, side) for side in ("left", "right"))
    return (order[start:stop] for start, stop in zip(*bounds))


def twins(first: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return an identical file for each file, i64[n].

    The identical file is the first one with another label. If all have the same label, it is the first other one. If
    there is none, it is the file itself.

    Args:
        first: Result of `first_of`.
        labels: i32[n].
    """
    files = np.arange(len(first))
    second = _first_where(files != first, first)
    differing = _first_where(labels != labels[first], first)
    return np.select(
        [labels != labels[first], differing[first] != first, files != first], [first, differing[first], first], second
    )


def _first_where(chosen: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return a file for each file, i64[n].

    For the first of identical files, return the first one in `chosen`, bool[n]. If there is none, and for all other
    files, return the file itself.
    """
    result = np.arange(len(first))
    files = np.flatnonzero(chosen)[::-1]  # The smallest position is assigned last, so it counts.
    result[first[files]] = files
    return result


def to_drop(first: np.ndarray, labels: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """Return which files to drop, bool[n].

    One of several identical files is kept. If their labels differ, none of them is kept.

    Args:
        first: Result of `first_of`.
        labels: i32[n].
        preference: A number for each file, [n]. The identical file with the smallest number is kept. If several have
            the smallest number, the first of them is kept.
    """
    order = np.lexsort((np.arange(len(first)), preference, first))
    remaining = np.zeros(len(first), bool)
    remaining[order[np.r_[True, first[order][1:] != first[order][:-1]]]] = True
    return ~remaining | _differing(first, labels)[first]


def joined(keys: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return a common key, u64[n], for all images that are connected by equal keys or identical bytes.

    Two groups with a common image are merged, since both must be in the same split.
    """
    names, groups = np.unique(keys, return_inverse=True)
    groups = groups.reshape(-1)
    roots = np.arange(len(names))  # For each group: the smallest group known to be connected with it.
    while True:
        least = np.full(len(first), len(names))
        np.minimum.at(least, first, roots[groups])  # For each set of identical files: its smallest group.
        linked = roots.copy()
        np.minimum.at(linked, roots[groups], least[first])
        while (linked != linked[linked]).any():  # Each pass halves the length of the chains.
            linked = linked[linked]
        if (linked == roots).all():
            return names[roots[groups]]
        roots = linked


def _differing(first: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return bool[n]. It is true for the first of identical files if not all of them have the same value."""
    differing = np.zeros(len(first), bool)
    differing[first[values != values[first]]] = True
    return differing


def _as_scalars(sha256: np.ndarray) -> np.ndarray:
    """Turn u8[n 32] into one comparable value per row."""
    return np.ascontiguousarray(sha256).view(np.dtype((np.void, 32)))[:, 0]
