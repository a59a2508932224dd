"""Divide records into folds, so that each record can be judged by a model that has not seen it."""

from __future__ import annotations

import numpy as np

from tfrecord_tools import order

_PURPOSE = 3  # A constant in the hash: other numbers than those of the converter's split and of `hold_out`.


def assign(units: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Assign each record to a fold. Every fold has the same share of each class, up to one unit.

    Args:
        units: u64[n]. Records with equal values stay in one fold.
        labels: i64[n]. The label of a unit's first record counts.
        count: Number of folds. If there are fewer units, each unit is a fold.
        seed: Another seed gives other folds.

    Returns:
        i64[n], numbers from 0.
    """
    names, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    by_hash = np.argsort(order.hash64(seed, _PURPOSE, names), kind="stable")
    by_class = by_hash[np.argsort(labels[first][by_hash], kind="stable")]
    folds = np.empty(len(names), np.int64)
    folds[by_class] = np.arange(len(names)) % count  # Dealt like cards, one class after the other.
    return folds[inverse.reshape(-1)]
