"""Find near-duplicates in a plan, and keep them together or drop them (`--near_duplicates`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from tfrecord_tools.conversion import copies
from tfrecord_tools.conversion.rows import Rows
from tfrecord_tools.conversion.survey import Facts
from tfrecord_tools.layout import near_duplicates
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.duplicates import Duplicates
from tfrecord_tools.sources.scan import Sources


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alike:
    """A table of images that look alike. Images with the same bytes count as one.

    Attributes:
        keys: i64[n], the first row of all rows that are connected by near-duplicates or by the same bytes.
        near: bool[n], whether the image looks like an image with other bytes.
        chains: bool[n], whether the image is in a chain: not all of its group look like each other.
    """

    keys: np.ndarray
    near: np.ndarray
    chains: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Near-duplicates of a plan.

    Attributes:
        images: Counts and examples as for identical files. Each group is counted with all of its images.
        groups: Number of groups.
        chains: Number of groups that are chains.
        longest: Number of images in the largest chain. 0: there is none.
    """

    images: Duplicates
    groups: int
    chains: int
    longest: int


def look_for(rows: Rows, first: np.ndarray, facts: Facts, distance: int) -> Alike:
    """Find the rows that look alike; `first` is `duplicates.first_of` of the rows' contents."""
    contents = np.flatnonzero(first == np.arange(len(first)))
    found = near_duplicates.groups(facts.table["phash"][rows.numbers[contents]], distance)
    content = np.searchsorted(contents, first)
    several = np.bincount(found.keys, minlength=len(contents))[found.keys] > 1
    return Alike(keys=contents[found.keys][content], near=several[content], chains=found.chains[content])


def find(rows: Rows, alike: Alike) -> NearDuplicates:
    """Count near-duplicates, with file numbers as examples."""
    first = np.where(alike.near, alike.keys, np.arange(len(rows)))
    chains, sizes = np.unique(alike.keys[alike.chains], return_counts=True)
    return NearDuplicates(
        images=copies.find(rows, first),
        groups=len(np.unique(alike.keys[alike.near])),
        chains=len(chains),
        longest=int(sizes.max(initial=0)),
    )


def grouped(rows: Rows, keys: np.ndarray, alike: Alike) -> Rows:
    """Make a group of each set of images that must stay together because some of them look alike.

    Args:
        rows: The images.
        keys: u64[n], equal for images that must stay together.
        alike: The images that look alike.
    """
    changed = np.isin(keys, np.unique(keys[alike.near]))
    return dataclasses.replace(rows, groups=np.where(changed, keys, rows.groups))


def drop(rows: Rows, facts: Facts, sources: Sources, distance: int) -> tuple[np.ndarray, list[Rejected]]:
    """Decide which near-duplicates to drop, so that no two images that remain are near-duplicates.

    The images are visited from the largest to the smallest: by pixels, then bytes, then path. An image is dropped if it
    looks like one that was kept. So the ends of a chain may both remain. Files with the same bytes as a kept one
    remain, since `--duplicates` is about them.

    Returns:
        i64[k], the rows to keep, and an entry for each dropped row.
    """
    table = facts.table[rows.numbers]
    hashes = table["phash"]
    order = np.lexsort((rows.numbers, -table["bytes"], -(table["height"].astype(np.int64) * table["width"])))
    values, inverse = np.unique(hashes, return_inverse=True)
    inverse = inverse.reshape(-1)
    best = np.empty(len(values), np.int64)  # The largest row with each hash.
    best[inverse[order[::-1]]] = order[::-1]
    ranks = np.empty(len(rows), np.int64)
    ranks[order] = np.arange(len(rows))
    twins = best.copy()
    for value, twin in _claimed(near_duplicates.pairs(values, distance), ranks[best]).items():
        twins[value] = best[twin]
    twin = twins[inverse]
    known = hashes != near_duplicates.UNKNOWN
    dropped = known & (twin != np.arange(len(rows))) & (rows.hashes != rows.hashes[twin])
    return np.flatnonzero(~dropped), list(_rejected(rows, hashes, twin, np.flatnonzero(dropped), sources))


def _claimed(pairs: np.ndarray, ranks: np.ndarray) -> Mapping[int, int]:
    """Return dropped hash -> the kept hash that it is near to; `ranks` are 0 for the largest image."""
    swap = ranks[pairs[:, 0]] > ranks[pairs[:, 1]]
    larger, smaller = np.where(swap, pairs[:, ::-1].T, pairs.T)
    claimed: dict[int, int] = {}
    order = np.lexsort((ranks[smaller], ranks[larger]))
    for keeper, other in zip(larger[order].tolist(), smaller[order].tolist()):
        if keeper not in claimed:
            claimed.setdefault(other, keeper)
    return claimed


def _rejected(
    rows: Rows, hashes: np.ndarray, twin: np.ndarray, dropped: np.ndarray, sources: Sources
) -> Iterator[Rejected]:
    bits = near_duplicates.distances(hashes[dropped], hashes[twin[dropped]])
    for row, differing in zip(dropped.tolist(), bits.tolist()):
        other = int(twin[row])
        label = ", under another label," if rows.labels[row] != rows.labels[other] else ""
        twin_path = sources.paths[int(rows.numbers[other])]
        reason = f"looks{label} like {twin_path} (near-duplicate, {differing} of 64 bits differ)"
        yield Rejected(path=sources.paths[int(rows.numbers[row])], reason=reason, done="dropped")
