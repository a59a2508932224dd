"""Heads judge records of other folds from features of any scale."""

from __future__ import annotations

import numpy as np
import pytest
from planted_records import features

from trainers.auditing import heads


@pytest.mark.parametrize("width", [64, 400])  # With more than 256 features, components are computed.
def test_prepared_features_keep_the_distances_of_standardized_ones(width, monkeypatch):
    monkeypatch.setattr(heads, "_BLOCK", 37)
    random = np.random.default_rng(0)
    hidden = random.normal(size=(200, 20))
    drawn = (hidden @ random.normal(size=(20, width)) * random.uniform(0.01, 100, width) + 50).astype(np.float32)
    drawn[:, :3] = 7.0  # Constant features.
    prepared = heads.prepare(drawn)
    standardized = (drawn[:, 3:] - drawn[:, 3:].mean(0)) / drawn[:, 3:].std(0)
    assert prepared.width == width - 3
    assert prepared.values.shape == (200, min(width - 3, 256))
    np.testing.assert_allclose(prepared.values @ prepared.values.T, standardized @ standardized.T, atol=0.5)


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
