"""Neighbors and near-duplicates equal those of all pairs."""

from __future__ import annotations

import numpy as np
import planted_records
import pytest
from planted_records import features

from trainers.auditing import neighbors


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """Return features of 500 records, among them 40 nearly equal ones: more than the 30 neighbors."""
    random = np.random.default_rng(0)
    drawn = features(random.integers(0, 3, 500), random)
    drawn[100:140] = drawn[100] * random.uniform(0.99, 1.01, drawn[100:140].shape)
    return drawn.astype(np.float32)


def test_neighbors_are_those_of_all_pairs(values, monkeypatch):
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 4 * 500 * 64)  # Several blocks.
    near = neighbors.find(values, np.zeros(500, np.int64))
    vectors = neighbors.directions(values)
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -1)
    left, right = np.nonzero(np.triu(similarities >= near.threshold, 1))
    far = np.where(similarities >= near.threshold, -1, similarities)
    best = -np.sort(-far, axis=1)[:, : neighbors.COUNT]
    np.testing.assert_allclose(near.similarities, best, atol=1e-6)
    assert (near.rows != np.arange(500)[:, None]).all()
    found = {tuple(pair) for pair in near.pairs.tolist()}
    assert found <= set(zip(left.tolist(), right.tolist()))
    grouped = {row for pair in found for row in pair if 100 <= row < 140}
    assert grouped == set(range(100, 140))
    assert not {row for pair in found for row in pair} - grouped


def test_features_of_any_sign_and_size_have_directions():
    random = np.random.default_rng(0)
    drawn = random.normal(size=(20, 8)).astype(np.float32)
    drawn[3] = 0
    found = neighbors.directions(drawn)
    lengths = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(np.delete(lengths, 3), 1, atol=1e-6)
    assert lengths[3] == 0
    np.testing.assert_allclose(neighbors.directions(drawn * 7), found, atol=1e-6)


def test_few_records_have_few_neighbors():
    random = np.random.default_rng(0)
    near = neighbors.find(features(np.zeros(12, np.int64), random), np.zeros(12, np.int64))
    assert near.rows.shape == (12, neighbors.COUNT)
    assert (near.rows[:, -1] == -1).all()
    assert np.isnan(near.similarities[:, -1]).all()


def test_many_records_are_compared_by_faiss(monkeypatch):
    records = planted_records.planted(count=500).inputs
    exact = neighbors.find(records.features, records.labels)
    monkeypatch.setattr(neighbors, "_MOST_EXACT", 100)
    approximate = neighbors.find(records.features, records.labels)
    assert np.mean(exact.rows[:, 0] == approximate.rows[:, 0]) > 0.7
    assert approximate.threshold == exact.threshold
