"""Images that are there more than once, byte for byte: copies, leaks between splits, conflicts of labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

KINDS = {"copies": "within a split", "leaks": "in several splits", "conflicts": "with different labels"}
_SHOWN = 100  # Examples kept of each kind; counts are of all.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Files with a content that another file has, too, each counted once, as the worst that applies to its content.

    Attributes:
        counts: Kind -> number of files. "conflicts": with different labels; "leaks": in different splits,
            under one label; "copies": within one split, under one label.
        files: Number of all these files.
        examples: Kind -> the file numbers of the first of these contents.
    """

    counts: dict[str, int]
    files: int
    examples: dict[str, list[list[int]]]


def first_of(sha256: np.ndarray) -> np.ndarray:
    """Returns i64[n]: for each content, u8[n 32], the position of its first file."""
    _, first, inverse = np.unique(_as_scalars(sha256), return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def find(first: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> Duplicates:
    """Sort the contents of several files by kind; all arrays are [n], `first` is `first_of`'s."""
    shared = np.flatnonzero(np.bincount(first, minlength=len(first))[first] > 1)
    conflicts = _differing(first, labels)
    leaks = _differing(first, splits) & ~conflicts
    contents, sizes = np.unique(first[shared], return_counts=True)
    kinds = {"conflicts": conflicts[contents], "leaks": leaks[contents]}
    kinds["copies"] = ~(kinds["conflicts"] | kinds["leaks"])
    return Duplicates(
        counts={kind: int(sizes[kinds[kind]].sum()) for kind in KINDS},
        files=len(shared),
        examples={kind: [p.tolist() for p in positions(first, contents[kinds[kind]][:_SHOWN])] for kind in KINDS},
    )


def positions(first: np.ndarray, contents: np.ndarray) -> Iterator[np.ndarray]:
    """Yield all positions, ascending, of each content, which is given by its first position; one sort for all."""
    order = np.argsort(first, kind="stable")
    bounds = (np.searchsorted(first[order], contents, side) for side in ("left", "right"))
    return (order[start:stop] for start, stop in zip(*bounds))


def to_drop(first: np.ndarray, labels: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """Returns bool[n]: all but one file of each content, and all of it where the labels contradict each other.

    Args:
        first: Of `first_of`.
        labels: i32[n].
        preference: [n]; the file with the smallest value is kept, of equal ones the first.
    """
    order = np.lexsort((np.arange(len(first)), preference, first))
    remaining = np.zeros(len(first), bool)
    remaining[order[np.r_[True, first[order][1:] != first[order][:-1]]]] = True
    return ~remaining | _differing(first, labels)[first]


def joined(keys: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Returns u64[n]: `keys` made equal for all that are connected by an equal key or an equal content.

    A group with a copy of an image of another group becomes one with it: both must be on the same side of a split.
    """
    names, groups = np.unique(keys, return_inverse=True)
    groups = groups.reshape(-1)
    roots = np.arange(len(names))  # Of each group the least one that it is known to be connected with.
    while True:
        least = np.full(len(first), len(names))
        np.minimum.at(least, first, roots[groups])  # Of each content.
        linked = roots.copy()
        np.minimum.at(linked, roots[groups], least[first])
        while (linked != linked[linked]).any():  # Chains are halved, not walked along.
            linked = linked[linked]
        if (linked == roots).all():
            return names[roots[groups]]
        roots = linked


def _differing(first: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns bool[n], true at the first position of each content whose files have different values."""
    differing = np.zeros(len(first), bool)
    differing[first[values != values[first]]] = True
    return differing


def _as_scalars(sha256: np.ndarray) -> np.ndarray:
    """u8[n 32] as one comparable value a row."""
    return np.ascontiguousarray(sha256).view(np.dtype((np.void, 32)))[:, 0]
