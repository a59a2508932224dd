"""Tests of the automatic split: fractions per class, units that stay together, updates."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tfrecord_tools.layout.splitting import FREE, NO_GROUP, choose_splits, content_hashes, split_keys


def hashes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 1 << 63, count).astype(np.uint64)


def counts(splits: np.ndarray, labels: np.ndarray, label: int) -> list[int]:
    """Return the number of records of a class in train, validation and test."""
    return np.bincount(splits[labels == label], minlength=3).tolist()


@pytest.mark.parametrize(
    ("images", "fractions", "expected"),
    [
        (10, (0.2, 0.0), [8, 2, 0]),
        (20, (0.2, 0.0), [16, 4, 0]),
        (2, (0.2, 0.0), [1, 1, 0]),  # At least one of two images goes to validation.
        (5, (0.2, 0.0), [4, 1, 0]),
        (1, (0.2, 0.1), [1, 0, 0]),  # A single image goes to train.
        (2, (0.2, 0.1), [1, 1, 0]),  # Validation comes before test.
        (3, (0.2, 0.1), [1, 1, 1]),
        (1000, (0.001, 0.0), [999, 1, 0]),
        (3, (0.9, 0.0), [1, 2, 0]),  # At least one image stays in train.
        (4, (0.45, 0.45), [1, 2, 1]),
        (10, (0.0, 0.1), [9, 0, 1]),
        (10, (0.0, 0.0), [10, 0, 0]),
        (7, (0.2, 0.0), [6, 1, 0]),  # round(1.4)
        (8, (0.2, 0.0), [6, 2, 0]),  # round(1.6)
        (10, (0.25, 0.0), [8, 2, 0]),  # round(2.5) is 2, as in Python.
    ],
)
def test_fractions_of_every_class(images: int, fractions: tuple[float, float], expected: list[int]) -> None:
    classes = 7
    labels = np.tile(np.arange(classes, dtype=np.int32), images)
    splits = choose_splits(hashes(len(labels)), labels, fractions, seed=3)
    assert [counts(splits, labels, label) for label in range(classes)] == [expected] * classes


def test_classes_of_different_sizes() -> None:
    sizes = [1, 2, 10, 1000]
    labels = np.repeat(np.arange(4, dtype=np.int32), sizes)
    splits = choose_splits(hashes(len(labels)), labels, (0.2, 0.1), seed=0)
    assert [counts(splits, labels, label) for label in range(4)] == [[1, 0, 0], [1, 1, 0], [7, 2, 1], [700, 200, 100]]


def test_no_images_at_all() -> None:
    assert choose_splits(hashes(0), np.zeros(0, np.int32), (0.2, 0.0), seed=0).tolist() == []


def test_the_split_never_changes() -> None:
    """If these values change, images move between train and validation when a dataset is rewritten."""
    keys = np.arange(20, dtype=np.uint64)
    splits = choose_splits(keys, np.arange(20, dtype=np.int32) % 2, (0.3, 0.2), 0)
    assert "".join(map(str, splits)) == "22010200102001101001"
    digest = np.arange(64, dtype=np.uint8).reshape(2, 32)
    assert content_hashes(digest).tolist() == [0x0706050403020100, 0x2726252423222120]


def test_seeds_and_purposes_give_independent_splits() -> None:
    keys, labels = hashes(10_000), np.zeros(10_000, np.int32)
    first = choose_splits(keys, labels, (0.2, 0.0), 0) == 1
    for other in (choose_splits(keys, labels, (0.2, 0.0), 1), choose_splits(keys, labels, (0.2, 0.0), 0, purpose=2)):
        assert abs((first & (other == 1)).mean() - 0.04) < 0.01


def test_the_order_of_the_images_does_not_matter() -> None:
    keys, labels = hashes(500), np.random.default_rng(1).integers(0, 5, 500).astype(np.int32)
    shuffled = np.random.default_rng(2).permutation(500)
    splits = choose_splits(keys, labels, (0.2, 0.1), 0)
    assert choose_splits(keys[shuffled], labels[shuffled], (0.2, 0.1), 0).tolist() == splits[shuffled].tolist()


def test_a_unit_stays_together_and_counts_once() -> None:
    keys = np.repeat(hashes(50), 4)  # Fifty groups of four images.
    labels = np.zeros(200, np.int32)
    splits = choose_splits(keys, labels, (0.2, 0.0), 0)
    assert Counter(splits.tolist()) == {0: 160, 1: 40}
    assert all(len(set(splits[keys == key].tolist())) == 1 for key in set(keys.tolist()))


def test_a_unit_of_several_classes_counts_for_the_most_frequent_one() -> None:
    keys = np.repeat(hashes(40), 3)
    labels = np.tile(np.array([1, 0, 1], np.int32), 40)  # Every group counts as class 1.
    splits = choose_splits(keys, labels, (0.25, 0.0), 0)
    assert Counter(splits.tolist()) == {0: 90, 1: 30}


@pytest.mark.parametrize("seed", range(12))
def test_every_class_is_in_train_even_if_its_groups_belong_to_another_class(seed: int) -> None:
    keys = np.repeat(np.arange(1, 7, dtype=np.uint64), 4)
    labels = np.tile(np.array([0, 0, 0, 0], np.int32), 6)
    labels[[3, 7]] = 1  # Class 1 has one image in each of two groups of class 0.
    splits = choose_splits(keys, labels, (0.4, 0.2), seed)
    assert 1 in labels[splits == 0]
    assert all(len(set(splits[keys == key].tolist())) == 1 for key in set(keys.tolist()))


def test_fixed_splits_are_kept_and_free_images_fill_them_up() -> None:
    keys, labels = hashes(100), np.zeros(100, np.int32)
    before = choose_splits(keys[:50], labels[:50], (0.2, 0.0), 0)
    fixed = np.concatenate([before, np.full(50, FREE, np.int8)])
    after = choose_splits(keys, labels, (0.2, 0.0), 0, fixed=fixed)
    assert after[:50].tolist() == before.tolist()
    assert counts(after, labels, 0) == [80, 20, 0]


def test_a_new_image_follows_the_fixed_images_of_its_unit() -> None:
    keys = np.array([7, 8, 9, 7], np.uint64)
    fixed = np.array([1, 0, FREE, FREE], np.int8)
    assert choose_splits(keys, np.zeros(4, np.int32), (0.2, 0.0), 0, fixed=fixed).tolist() == [1, 0, 0, 1]


def test_the_next_image_of_a_class_without_train_images_goes_to_train() -> None:
    fixed = np.array([1, FREE], np.int8)
    assert choose_splits(hashes(2), np.zeros(2, np.int32), (0.5, 0.4), 0, fixed=fixed).tolist() == [1, 0]


def test_keys_join_groups_and_copies() -> None:
    sha256 = np.zeros((5, 32), np.uint8)
    sha256[:, 0] = [1, 2, 1, 3, 4]  # The first and the third have the same bytes.
    groups = np.array([10, 10, 20, 20, NO_GROUP], np.uint64)
    keys = split_keys(sha256, groups)
    assert len(set(keys[:4].tolist())) == 1
    assert keys[4] not in keys[:4]
