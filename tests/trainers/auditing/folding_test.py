"""Folds, units of near-duplicates and subsets of records."""

from __future__ import annotations

import time

import numpy as np
import pytest

from trainers.auditing import folding


@pytest.mark.parametrize(
    ("units", "pairs", "similarities", "most", "expected", "reason"),
    [
        ([0, 1, 2, 3], [[0, 1], [1, 2], [2, 3]], [0.9, 0.9, 0.9], 4, [[0, 1, 2, 3]], "a chain within the limit"),
        ([0, 1, 2, 3], [[0, 1], [1, 2], [2, 3]], [0.9, 0.8, 0.9], 3, [[0, 1], [2, 3]], "cut at the weakest pair"),
        ([7, 7, 7, 3], [[2, 3]], [0.99], 3, [[0, 1, 2], [3]], "a unit of the limit's size is not joined"),
        ([7, 7, 7, 7, 3, 4], [[4, 5]], [0.9], 2, [[0, 1, 2, 3], [4, 5]], "a given unit is larger than the limit"),
        ([5, 6, 5, 6], [[0, 1], [2, 3], [0, 3]], [0.7, 1.0, 0.8], 4, [[0, 1, 2, 3]], "several pairs of the same units"),
        ([5, 5, 6], [[0, 1]], [1.0], 3, [[0, 1], [2]], "a pair within a unit"),
        ([1, 2, 3], np.zeros((0, 2), np.int64), [], 3, [[0], [1], [2]], "no pair"),
    ],
)
def test_near_duplicates_are_joined_up_to_a_limit(units, pairs, similarities, most, expected, reason):
    found = folding.joined(np.array(units, np.uint64), np.array(pairs), np.array(similarities), most)
    assert sorted(np.flatnonzero(found == unit).tolist() for unit in np.unique(found)) == expected, reason


def test_a_long_chain_is_cut_into_parts_in_little_time():
    count = 200_000
    pairs = np.stack([np.arange(count - 1), np.arange(1, count)], 1)
    began = time.process_time()
    found = folding.joined(np.arange(count, dtype=np.uint64), pairs, np.full(count - 1, 0.9), count // 5)
    assert time.process_time() - began < 20
    assert count // 10 < np.bincount(found).max() <= count // 5


def test_a_subset_has_the_same_share_of_each_class():
    labels = np.r_[np.arange(1000) % 2, np.full(3, 2)]  # Classes that alternate, and a rare one.
    rows = folding.subset(labels, 500)
    assert (np.diff(rows) > 0).all()
    assert np.bincount(labels[rows]).tolist() == [250, 250, 2]
    np.testing.assert_array_equal(rows, folding.subset(labels, 500))
    assert set(np.bincount(labels[folding.subset(labels, 3)]).tolist()) <= {1, 2}


def test_a_subset_of_few_records_has_all_of_them():
    np.testing.assert_array_equal(folding.subset(np.array([4, 0, 4]), 3), [0, 1, 2])
