"""Heads judge records of other folds from features of any scale."""

from __future__ import annotations

import numpy as np
import pytest
from planted_records import features

from trainers.auditing import heads


@pytest.mark.parametrize(
    ("width", "widest", "reason"),
    [
        (64, 2_560, "with at most 256 features, no component is computed"),
        (400, 2_560, "components from the matrix of all pairs of features"),
        (400, 300, "components from a subspace iteration"),
    ],
)
def test_prepared_features_keep_the_distances_of_standardized_ones(width, widest, reason, monkeypatch):
    monkeypatch.setattr(heads, "_BLOCK", 37)
    monkeypatch.setattr(heads, "_WIDEST", widest)
    random = np.random.default_rng(0)
    hidden = random.normal(size=(200, 20))
    drawn = (hidden @ random.normal(size=(20, width)) * random.uniform(0.01, 100, width) + 50).astype(np.float32)
    drawn[:, :3] = 7.0  # Constant features.
    prepared = heads.prepare(drawn)
    standardized = (drawn[:, 3:] - drawn[:, 3:].mean(0)) / drawn[:, 3:].std(0)
    assert prepared.width == width - 3
    assert prepared.values.shape == (200, min(width - 3, 256))
    np.testing.assert_allclose(
        prepared.values @ prepared.values.T, standardized @ standardized.T, atol=0.5, err_msg=reason
    )


def test_components_of_wide_features_agree_with_exact_ones(monkeypatch):
    """The features have no hidden rank: their variances fall slowly, which is the hardest case."""
    random = np.random.default_rng(0)
    mixing = np.linalg.qr(random.normal(size=(500, 500)))[0] * (np.arange(1, 501) ** -0.7)[:, None]
    drawn = (random.normal(size=(700, 500)) @ mixing).astype(np.float32)
    exact = heads.prepare(drawn).values
    monkeypatch.setattr(heads, "_WIDEST", 300)
    found = heads.prepare(drawn).values
    assert found.shape == exact.shape
    assert (found**2).sum() > 0.995 * (exact**2).sum()
    np.testing.assert_allclose(
        np.abs((found[:, -20:] * exact[:, -20:]).sum(0)), (exact[:, -20:] ** 2).sum(0), rtol=1e-3
    )


def test_a_head_of_many_records_is_fitted_to_all_classes(monkeypatch):
    """Labels that alternate must not leave one class only."""
    monkeypatch.setattr(heads, "_MOST_TRAINING", 100)
    random = np.random.default_rng(0)
    labels = np.arange(600) % 2
    logits, _ = heads.out_of_fold(heads.prepare(features(labels, random)), labels, np.arange(600) // 120, 2)
    assert np.mean(logits.argmax(1) == labels) > 0.95


def test_the_fit_does_not_depend_on_the_size_of_blocks(monkeypatch):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    prepared = heads.prepare(features(labels, random))
    whole, _ = heads.out_of_fold(prepared, labels, np.arange(300) % 5, 3)
    monkeypatch.setattr(heads, "_BLOCK_NUMBERS", 3 * 70)
    blocks, _ = heads.out_of_fold(prepared, labels, np.arange(300) % 5, 3)
    np.testing.assert_allclose(whole, blocks, atol=0.05)


def test_records_do_not_change_the_judgment_of_their_own_fold():
    random = np.random.default_rng(0)
    labels, folds = random.integers(0, 3, 300), np.arange(300) % 5
    prepared = heads.prepare(features(labels, random))
    changed = np.where(folds == 2, (labels + 1) % 3, labels)
    (one, _), (other, _) = (heads.out_of_fold(prepared, given, folds, 3) for given in (labels, changed))
    np.testing.assert_array_equal(one[folds == 2], other[folds == 2])
    assert (one[folds != 2] != other[folds != 2]).any()
    assert np.mean(one.argmax(1) == labels) > 0.9


def test_constant_features_say_nothing():
    labels, folds = np.arange(60) % 2, np.arange(60) % 3
    prepared = heads.prepare(np.full((60, 5), 3.0, np.float32))
    logits, _ = heads.out_of_fold(prepared, labels, folds, 2)
    np.testing.assert_allclose(logits[:, 0], logits[:, 1], atol=0.1)


def test_known_errors_are_corrected():
    """With 40 % of class 0 labeled as class 1, the head still predicts class 0 for its images."""
    random = np.random.default_rng(0)
    truth, folds = random.integers(0, 2, 600), np.arange(600) % 5
    labels = np.where((truth == 0) & (random.random(600) < 0.4), 1, truth)
    prepared = heads.prepare(features(truth, random, 0.25))
    plain, fitted = heads.out_of_fold(prepared, labels, folds, 2)
    corrected, _ = heads.out_of_fold(prepared, labels, folds, 2, np.array([[0.6, 0.4], [0.0, 1.0]]), fitted)
    right = [np.mean((logits[:, 1] > logits[:, 0]) == truth) for logits in (plain, corrected)]
    assert right[1] > right[0]
