"""The automatic split into train, validation and test, with the same fractions of every class."""

from __future__ import annotations

import hashlib
import re

import numpy as np

from tfrecord_tools import order
from tfrecord_tools.layout import duplicates

NO_GROUP = 0
FREE = -1  # The split of an image is not decided yet.
_HASHED_GROUP = re.compile(r"hash64:([0-9a-f]{16})")


def group_hash(group: str) -> int:
    """Return the hash of a group, u64, equal on every machine. "" gives `NO_GROUP`.

    The text may also be a hash, as `group_name` writes it. Then the result is this hash.
    """
    if hashed := _HASHED_GROUP.fullmatch(group):
        return int(hashed[1], 16)
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "little") if group else NO_GROUP


def group_name(number: int) -> str:
    """Return a text from which `group_hash` gets this hash, u64. `NO_GROUP` gives ""."""
    return f"hash64:{number:016x}" if number != NO_GROUP else ""


def choose_splits(
    keys: np.ndarray,
    labels: np.ndarray,
    fractions: tuple[float, float],
    seed: int,
    *,
    purpose: int = 1,
    fixed: np.ndarray | None = None,
) -> np.ndarray:
    """Choose a split for every image, stratified by class.

    Images with the same key form one unit and stay together. A split gets round(n * fraction) of the n units of a
    class. If its fraction is above 0 and the class is large enough, the split gets at least one unit. A class is large
    enough for one of validation and test with two units, and for both of them with three units. Units are assigned in
    the order of a hash of their keys: first to validation, then to test, then to train. If a class has only one unit,
    the unit goes to train. Every class has an image in train, unless all of its images are `fixed` to other splits.

    Args:
        keys: u64[n], from `split_keys`.
        labels: i32[n]. If a unit has several labels, the most frequent one counts. If two are equally frequent, the
            lower one counts.
        fractions: Fractions of validation and test, each in 0..1.
        seed: Another seed gives another, independent split.
        purpose: A number. Another number gives another, independent split. `convert` uses 1 and `Records.hold_out`
            another number. 0 is not allowed, because the order of the records uses it.
        fixed: i8[n]. If the split of an image is already decided, its index in `split_names.SPLITS`. If not, `FREE`. If
            an image is fixed, all images of its unit go to that split. The other units are distributed until each split
            has its fraction.

    Returns:
        i8[n], index into `split_names.SPLITS`.
    """
    units, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    strata = labels[first] if len(units) == len(keys) else _most_frequent(inverse, labels, len(units))
    sides = np.full(len(units), FREE, np.int8)
    if fixed is not None:
        # The order is reversed: the first image of a unit is assigned last, so it decides.
        fixed_images = np.flatnonzero(fixed != FREE)[::-1]
        sides[inverse[fixed_images]] = fixed[fixed_images]
    free = np.flatnonzero(sides == FREE)
    missing = _missing(strata, sides, fractions)
    by_hash = free[np.argsort(order.hash64(seed, purpose, units[free]), kind="stable")]
    ordered = by_hash[np.argsort(strata[by_hash].astype(np.min_scalar_type(missing.shape[1])), kind="stable")]
    classes = strata[ordered]
    starts = np.searchsorted(classes, np.arange(missing.shape[1]))
    ranks = np.arange(len(ordered)) - starts[classes]
    validation, test = missing[:, classes]
    sides[ordered] = np.select([ranks < validation, ranks < validation + test], [1, 2], 0)
    if len(units) < len(keys):
        _keep_every_class_in_train(sides, ordered, inverse, labels)
    return sides[inverse]


def split_keys(sha256: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return u64[n], equal for images that must be in the same split: copies and groups.

    Args:
        sha256: Hashes of the files, u8[n 32].
        groups: u64[n], `NO_GROUP` for an image without a group.
    """
    keys = np.where(groups == NO_GROUP, content_hashes(sha256), groups)
    return duplicates.joined(keys, duplicates.first_of(sha256)) if (groups != NO_GROUP).any() else keys


def content_hashes(sha256: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of hashes, u8[n 32], as u64[n]."""
    return np.ascontiguousarray(sha256[:, :8]).view("<u8")[:, 0]


def _missing(strata: np.ndarray, sides: np.ndarray, fractions: tuple[float, float]) -> np.ndarray:
    """Return i64[2 classes]: how many free units of each class go to validation and to test."""
    classes = int(strata.max(initial=-1)) + 1
    total = np.bincount(strata, minlength=classes)
    train, *have = (np.bincount(strata[sides == side], minlength=classes) for side in (0, 1, 2))
    free = total - train - have[0] - have[1] - (train == 0)  # One unit is kept for train.
    left = total - 1
    missing = []
    for fraction, present in zip(fractions, have):
        target = np.minimum(np.maximum(np.rint(total * fraction).astype(np.int64), fraction > 0), left)
        left = left - target
        missing.append(np.clip(target - present, 0, np.maximum(free, 0)))
        free = free - missing[-1]
    return np.stack(missing)


def _keep_every_class_in_train(sides: np.ndarray, ordered: np.ndarray, units: np.ndarray, labels: np.ndarray) -> None:
    """Move one unit into the train split for each class that has no image in that split.

    This can happen if the units of a class have several labels.
    """
    missing = np.setdiff1d(labels, labels[sides[units] == 0])
    position = np.full(len(sides), -1)
    position[ordered] = np.arange(len(ordered))
    last = np.full(int(labels.max(initial=0)) + 1, -1)  # Label -> last position of a unit with an image of the label.
    np.maximum.at(last, labels, position[units])
    moved = last[missing]
    sides[ordered[moved[moved >= 0]]] = 0


def _most_frequent(units: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return i32[count], the most frequent label of each unit; if equal, the lowest."""
    pairs, times = np.unique(np.stack([units, labels]).astype(np.int64), axis=1, return_counts=True)
    chosen = np.lexsort((pairs[1], -times, pairs[0]))
    return pairs[1, chosen[np.searchsorted(pairs[0, chosen], np.arange(count))]].astype(labels.dtype)
