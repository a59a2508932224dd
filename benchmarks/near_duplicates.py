"""Measure near-duplicates by hash: recall for twelve changes, false pairs, time and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import audit_images
from tfrecord_tools.base import command
from tfrecord_tools.images import appearance
from tfrecord_tools.layout import near_duplicates

DISTANCES = (0, 2, 3, 4, 5, 6, 7, 8, 10)


def recalls(photos: Sequence[bytes], hashes: np.ndarray, each: int, distances: Sequence[int]) -> None:
    """Print the share of changed photographs with a hash near to that of the original."""
    print(f"recall of {each:,} photographs by distance\n  {'':<24}" + "".join(f"{d:>8}" for d in distances))
    chosen = np.random.default_rng(0).permutation(len(photos))[:each]
    for name in audit_images.CHANGES:
        others = appearance.facts_of([audit_images.changed(photos[i], name) for i in chosen])["phash"]
        bits = near_duplicates.distances(hashes[chosen], others)
        known = others != near_duplicates.UNKNOWN
        print(f"  {name:<24}" + "".join(f"{((bits <= d) & known).mean():8.3f}" for d in distances))


def false_pairs(hashes: np.ndarray, origins: np.ndarray, distances: Sequence[int]) -> None:
    """Print the number of near pairs of different photographs. Some of them may really look alike.

    Args:
        hashes: u64[n].
        origins: i64[n], the photograph that each image was made from.
        distances: The numbers of bits.
    """
    total = len(hashes) * (len(hashes) - 1) // 2 - int((np.bincount(origins) * (np.bincount(origins) - 1) // 2).sum())
    print(f"near pairs of different photographs among {len(hashes):,} images")
    for distance in distances:
        found = near_duplicates.pairs(hashes, distance)
        count = int((origins[found[:, 0]] != origins[found[:, 1]]).sum())
        print(f"  distance {distance:>2}: {count:,} of {total:,} pairs, {count / total * 1e5:.4f} in 10^5")


def times(count: int, distances: Sequence[int]) -> None:
    """Print time and memory of all groups, and of leaving out near-duplicates, for two kinds of hashes.

    Random hashes are not near to each other. Similar hashes differ in up to five bits from one hash, as those of
    thousands of drawings on white do.
    """
    rng = np.random.default_rng(0)
    flips = np.uint64(1) << rng.integers(0, 64, (5, count)).astype(np.uint64)
    similar = np.uint64(2**63 - 12345) ^ np.bitwise_xor.reduce(flips, axis=0)
    for kind, hashes in {"random": rng.integers(1, 2**63, count, np.uint64), "similar": similar}.items():
        different = np.unique(hashes)
        for distance in distances:
            start = time.perf_counter()
            near_duplicates.groups(hashes, distance)
            grouped = time.perf_counter()
            near_duplicates.stand_ins(different, distance, np.arange(len(different)), np.zeros(len(different), bool))
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            print(
                f"  {count:,} {kind} hashes, distance {distance}: groups {grouped - start:.1f} s, hashes that stay"
                f" {time.perf_counter() - grouped:.1f} s, peak memory so far {memory:,.0f} MB",
                flush=True,
            )


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    if given.photos:
        photos = [path.read_bytes() for path in sorted(Path(given.photos).rglob("*.jpg"))]
        hashes = appearance.facts_of(photos)["phash"]
        recalls(photos, hashes, given.each, DISTANCES)
        numbers = np.arange(len(photos))
        false_pairs(hashes, numbers, DISTANCES)
        if given.copies:
            made = ([audit_images.changed(photo, name) for photo in photos] for name in audit_images.CHANGES)
            parts = [hashes, *(appearance.facts_of(images)["phash"] for images in made)]
            false_pairs(np.concatenate(parts), np.tile(numbers, len(parts)), DISTANCES)
    times(given.hashes, (5, 6, 7, 8))


if __name__ == "__main__":
    flags.DEFINE_string(
        "photos", None, "Directory of photographs. Without this flag, only time and memory are measured."
    )
    flags.DEFINE_integer("each", 500, "Number of photographs to which each kind of change is applied.")
    flags.DEFINE_bool(
        "copies",
        False,
        "Also count the pairs of near-duplicates among all photographs and twelve changed copies of each photograph.",
    )
    flags.DEFINE_integer("hashes", 1_000_000, "Number of image hashes for the measurement of time and memory.")
    command.run(main)
