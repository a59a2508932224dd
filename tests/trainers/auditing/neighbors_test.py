"""Neighbors and near-duplicates equal those of all pairs."""

from __future__ import annotations

import importlib.util

import numpy as np
import planted_records
import pytest
from planted_records import features

from tfrecord_tools.errors import UserError
from trainers.auditing import folding, neighbors


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


def unused(*arguments):
    raise AssertionError("must not be called")


def test_many_records_are_compared_by_faiss(monkeypatch):
    records = planted_records.planted(count=500).inputs
    exact = neighbors.find(records.features, records.labels)
    monkeypatch.setattr(neighbors, "_MOST_EXACT", 499)
    monkeypatch.setattr(neighbors, "_exact", unused)
    approximate = neighbors.find(records.features, records.labels)
    assert np.mean(exact.rows[:, 0] == approximate.rows[:, 0]) > 0.7
    assert (exact.rows != approximate.rows).any()  # Only the closest cells are searched.
    assert approximate.threshold == exact.threshold


def test_without_faiss_many_records_are_an_error(monkeypatch):
    monkeypatch.setattr(neighbors, "_MOST_EXACT", 499)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    records = planted_records.planted(count=500).inputs
    with pytest.raises(UserError, match=r"the audit of 500 records needs Faiss, .* Install Faiss with pip install"):
        neighbors.find(records.features, records.labels)


@pytest.mark.parametrize(("most", "path"), [(10_000, "exact"), (100, "Faiss")])
@pytest.mark.parametrize("crowd", [100, 400])
def test_records_of_a_crowd_have_neighbors_outside_of_it(most, path, crowd, monkeypatch):
    """More near-equal images than the 64 that are compared must not hide the other neighbors."""
    monkeypatch.setattr(neighbors, "_MOST_EXACT", most)
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 900)
    drawn = features(labels, random)
    drawn[200 : 200 + crowd] = drawn[200] * random.uniform(0.99, 1.01, (crowd, planted_records.WIDTH))
    near = neighbors.find(drawn, labels)
    own = near.rows[200 : 200 + crowd]
    assert (own >= 0).all(), path
    assert not ((own >= 200) & (own < 200 + crowd)).any()
    assert np.isfinite(near.similarities[200 : 200 + crowd]).all()
    paired = {row for pair in near.pairs.tolist() for row in pair}
    assert paired >= set(range(200, 200 + crowd))
    assert len(paired) <= crowd + 45  # Some pairs of other images are as similar by chance.


def test_a_dataset_of_crowds_has_neighbors_in_other_crowds():
    """Frames of 20 videos: all records have more near-duplicates than candidates."""
    random = np.random.default_rng(0)
    videos = np.repeat(np.arange(20), 80)
    drawn = features(videos, random)[::80][videos] * random.uniform(0.99, 1.01, (1600, planted_records.WIDTH))
    near = neighbors.find(drawn.astype(np.float32), videos % 2)
    assert (near.rows >= 0).all()
    assert (videos[near.rows] != videos[:, None]).all()


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_equal_features_stay_near_duplicates_if_they_are_many(share):
    random = np.random.default_rng(0)
    drawn = random.gamma(1.0, 1.0, (200, 64)).astype(np.float32)
    count = round(200 * share**0.5)  # So that this share of the pairs is equal.
    drawn[:count] = drawn[0] * random.uniform(0.5, 2, (count, 1))
    near = neighbors.find(drawn, np.zeros(200, np.int64))
    assert {row for pair in near.pairs.tolist() for row in pair} == set(range(count))
    assert 0.5 <= near.threshold < 0.999  # Near-duplicates need not be equal.


@pytest.mark.parametrize("width", [8, 1_280, 25_088])
def test_equal_features_reach_every_threshold_in_float32(width):
    random = np.random.default_rng(0)
    drawn = random.gamma(1.0, 1.0, width) * random.uniform(1e-3, 1e3, (50, 1))
    vectors = neighbors.directions(drawn.astype(np.float32))
    highest = neighbors._threshold(vectors, np.zeros(50, np.int64), 0)
    assert highest < 1
    assert (vectors @ vectors.T >= highest).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_features_are_an_error(value):
    with pytest.raises(UserError) as error:
        neighbors.find(np.full((20, 8), value, np.float32), np.arange(20) % 2)
    assert str(error.value) == (
        "the network computes the same features for all images, so the images cannot be compared. Pass another network"
        " as --features_from."
    )


def test_the_threshold_depends_little_on_the_draw():
    labels = np.arange(2_000) % 4
    drawn = features(labels, np.random.default_rng(0))
    vectors = neighbors.directions(drawn)
    distances = [1 - neighbors._threshold(vectors, labels, seed) for seed in range(8)]
    assert np.std(distances) < 0.02 * np.mean(distances)


def test_hashes_of_photographs_may_differ_in_six_bits_and_those_of_drawings_in_none():
    random = np.random.default_rng(0)
    labels = np.arange(1000) % 2
    photographs = random.integers(1, 2**64, 1000, np.uint64)
    flips = random.random((1000, 64)) < 0.12  # Two drawings differ in about 13 bits.
    drawings = np.packbits(flips, axis=1).view(">u8")[:, 0].astype(np.uint64) ^ np.uint64(0x0123456789ABCDEF)
    assert neighbors.hash_distance(photographs, labels) == 6
    assert neighbors.hash_distance(np.repeat(photographs[:100], 10), labels) == 6, "copies do not count"
    assert neighbors.hash_distance(drawings, labels) <= 1
    assert neighbors.hash_distance(np.zeros(1000, np.uint64), labels) == 6, "unknown hashes do not count"
    assert neighbors.hash_distance(photographs[:12], labels[:12]) == 6


def test_frames_of_a_video_have_few_pairs_and_stay_connected():
    random = np.random.default_rng(0)
    drawn = features(random.integers(0, 3, 800), random)
    drawn[:300] = drawn[0] * random.uniform(0.99, 1.01, drawn[:300].shape)
    near = neighbors.find(drawn.astype(np.float32), np.zeros(800, np.int64))
    assert len(near.pairs) <= 800 * neighbors._MOST_TWINS  # All pairs of 300 frames are 44,850.
    joined = folding.joined(np.arange(800, dtype=np.uint64), near.pairs, near.pair_similarities, 800)
    assert len(set(joined[:300].tolist())) == 1
    assert len(set(joined[300:].tolist())) == 500


@pytest.mark.parametrize(
    ("pairs", "similarities", "expected"),
    [
        ([(0, 1), (0, 1)], [0.5, 0.9], ([(0, 1)], [0.9])),  # The largest similarity counts.
        ([(2, 9), (0, 3)], [0.5, 0.9], ([(0, 3), (2, 9)], [0.9, 0.5])),  # In ascending order.
        ([(1, 2), (1, 3), (0, 9)], [0.7, 0.8, 0.9], ([(0, 9), (1, 2), (1, 3)], [0.9, 0.7, 0.8])),
    ],
)
def test_each_pair_is_returned_once(pairs, similarities, expected):
    found, values = neighbors.distinct(np.array(pairs), np.array(similarities), 10)
    assert (list(map(tuple, found.tolist())), values.tolist()) == expected
