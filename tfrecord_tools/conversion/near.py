"""Find images that look alike, and keep them in one split or drop them, as `--near_duplicates` says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from tfrecord_tools.conversion import copies
from tfrecord_tools.conversion.rows import Rows
from tfrecord_tools.conversion.survey import Facts
from tfrecord_tools.layout import duplicates, near_duplicates
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.duplicates import Duplicates
from tfrecord_tools.sources.scan import Sources


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alike:
    """A table of images that look alike. Images with the same bytes count as one.

    A group has the images that are connected by near-duplicates or by equal bytes. A group is a chain if not all of its
    images look like each other: the first looks like the second, the second like the third.

    Attributes:
        keys: i64[n], the first row of the image's group.
        near: bool[n], whether the image looks like an image with other bytes.
        chains: bool[n], whether the image's group is a chain.
    """

    keys: np.ndarray
    near: np.ndarray
    chains: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """The numbers of near-duplicates in a plan. `Alike` explains groups and chains.

    Attributes:
        images: Counts and examples as for identical files. Each group is counted with all of its images.
        groups: Number of groups.
        chains: Number of groups that are chains.
        longest: Number of images in the largest chain. 0: there is no chain.
        kept: Number of pairwise similar images that decisions keep: each looks like another one that decisions keep.
    """

    images: Duplicates
    groups: int
    chains: int
    longest: int
    kept: int


def look_for(rows: Rows, first: np.ndarray, facts: Facts, distance: int) -> Alike:
    """Find the rows that look alike; `first` is `duplicates.first_of` of the rows' contents."""
    contents = np.flatnonzero(first == np.arange(len(first)))
    found = near_duplicates.groups(facts.table["phash"][rows.numbers[contents]], distance)
    content = np.searchsorted(contents, first)
    several = np.bincount(found.keys, minlength=len(contents))[found.keys] > 1
    return Alike(keys=contents[found.keys][content], near=several[content], chains=found.chains[content])


def count(rows: Rows, facts: Facts, distance: int) -> int:
    """Return the number of rows that look like another row with other bytes."""
    first = duplicates.first_of(facts.table["source_sha256"][rows.numbers])
    return int(look_for(rows, first, facts, distance).near.sum())


def find(rows: Rows, alike: Alike, facts: Facts, distance: int, kept: int) -> NearDuplicates:
    """Count near-duplicates, with file numbers as examples.

    Args:
        rows: The images.
        alike: The images that look alike.
        facts: The facts about the source files.
        distance: Number of bits, 0..`near_duplicates.MAX_DISTANCE`.
        kept: The result of `count` for the images that decisions keep.
    """
    first = np.where(alike.near, alike.keys, np.arange(len(rows)))
    chains, sizes = np.unique(alike.keys[alike.chains], return_counts=True)
    hashes = facts.of(rows.numbers)["phash"]
    values = {"conflicts": rows.labels, "leaks": rows.splits, "copies": rows.numbers}

    def pair_first(kind: str, members: np.ndarray) -> np.ndarray:
        """Put two images first that look like each other, and not only like others of a chain."""
        left, right = np.triu_indices(len(members), 1)
        one, other = members[left], members[right]
        chosen = near_duplicates.distances(hashes[one], hashes[other]) <= distance
        chosen &= (values[kind][one] != values[kind][other]) & (rows.hashes[one] != rows.hashes[other])
        pair = [[left[i], right[i]] for i in np.flatnonzero(chosen)[:1]]
        return np.r_[np.sort(members[pair[0]]), np.delete(members, pair[0])] if pair else members

    return NearDuplicates(
        images=copies.find(rows, first, pair_first),
        groups=len(np.unique(alike.keys[alike.near])),
        chains=len(chains),
        longest=int(sizes.max(initial=0)),
        kept=kept,
    )


def grouped(rows: Rows, keys: np.ndarray, alike: Alike) -> Rows:
    """Put images that must stay together into one group, if some of them look alike.

    Args:
        rows: The images.
        keys: u64[n], equal for images that must stay together.
        alike: The images that look alike.

    Returns:
        The rows with these groups. Other rows keep their group.
    """
    changed = np.isin(keys, np.unique(keys[alike.near]))
    return dataclasses.replace(rows, groups=np.where(changed, keys, rows.groups))


def drop(
    rows: Rows, facts: Facts, kept: np.ndarray, sources: Sources, distance: int
) -> tuple[np.ndarray, list[Rejected]]:
    """Decide which near-duplicates to drop, so that no two images that remain are near-duplicates.

    The images are visited one by one, and an image is dropped if it looks like an earlier image that stays. The order
    is: images that a decision keeps come first. The others follow by `Rows.preference`, then by the number of pixels
    and of bytes, the largest first, then by path.

    Both ends of a chain may remain, because they need not look alike. There are two exceptions: images that decisions
    keep are never dropped, and files with the same bytes as an image that stays are left to `--duplicates`.

    Args:
        rows: The images.
        facts: The facts about the source files.
        kept: bool[n], whether a decision keeps the image.
        sources: The source files.
        distance: Number of bits, 0..`near_duplicates.MAX_DISTANCE`.

    Returns:
        bool[n], the rows to drop, and an entry for each of them.
    """
    table = facts.of(rows.numbers)
    hashes, pixels = table["phash"], table["height"].astype(np.int64) * table["width"]
    order = np.lexsort((rows.numbers, -table["bytes"], -pixels, rows.preference, ~kept))
    values, inverse = np.unique(hashes, return_inverse=True)
    inverse = inverse.reshape(-1)
    best = np.empty(len(values), np.int64)  # The first visited row with each hash.
    best[inverse[order[::-1]]] = order[::-1]
    ranks = np.empty(len(rows), np.int64)
    ranks[order] = np.arange(len(rows))
    twin = best[near_duplicates.stand_ins(values, distance, ranks[best], kept[best])][inverse]
    known = hashes != near_duplicates.UNKNOWN
    dropped = known & ~kept & (twin != np.arange(len(rows))) & (rows.hashes != rows.hashes[twin])
    return dropped, list(_rejected(rows, hashes, twin, np.flatnonzero(dropped), sources))


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
