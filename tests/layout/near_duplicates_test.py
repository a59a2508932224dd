"""Tests of near-duplicates, compared with a loop over all pairs."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from tfrecord_tools.layout import near_duplicates

DISTANCES = (0, 1, 2, 3, 4, 6, 8, 11)


def clustered(count: int = 60, seed: int = 0) -> np.ndarray:
    """Return random hashes, copies of them with up to 12 changed bits, equal hashes, and unknown ones."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(1, 2**63, count, np.uint64)
    copies = [hashes, hashes[:10], np.zeros(5, np.uint64)]
    for bits in range(1, 13):
        positions = np.stack([rng.permutation(64)[:bits] for _ in range(10)])
        masks = np.bitwise_or.reduce(np.uint64(1) << positions.astype(np.uint64), axis=1)
        copies.append(hashes[bits : bits + 10] ^ masks)
    return rng.permutation(np.concatenate(copies))


def near(hashes: np.ndarray, distance: int) -> set[tuple[int, int]]:
    """Return all pairs of near hashes, without the unknown ones."""
    values = hashes.tolist()
    return {
        (i, j)
        for i, j in itertools.combinations(range(len(values)), 2)
        if values[i] and values[j] and (values[i] ^ values[j]).bit_count() <= distance
    }


def roots(count: int, pairs: set[tuple[int, int]]) -> list[int]:
    keys = list(range(count))
    for _ in range(count):
        for i, j in pairs:
            keys[i] = keys[j] = min(keys[i], keys[j])
    return keys


@pytest.mark.parametrize("distance", DISTANCES)
def test_pairs_are_those_of_a_loop(distance: int) -> None:
    hashes = clustered()
    values = hashes.tolist()
    first = {value: values.index(value) for value in values}
    expected = {
        (i, j)
        for i, j in near(hashes, distance)
        if values[i] != values[j] and first[values[i]] == i and first[values[j]] == j
    }
    for value in filter(None, set(values)):
        equal = [i for i, other in enumerate(values) if other == value]
        expected |= set(itertools.pairwise(equal))
    found = [tuple(pair) for pair in near_duplicates.pairs(hashes, distance).tolist()]
    assert found == sorted(expected)


@pytest.mark.parametrize("distance", DISTANCES)
def test_groups_are_connected_pairs(distance: int) -> None:
    hashes = clustered(seed=1)
    pairs = near(hashes, distance)
    found = near_duplicates.groups(hashes, distance)
    assert found.keys.tolist() == roots(len(hashes), pairs)
    for i, j in itertools.combinations(range(len(hashes)), 2):
        if found.keys[i] == found.keys[j] and (i, j) not in pairs:
            assert found.chains[[i, j]].all()
    for key in np.unique(found.keys[found.chains]).tolist():
        members = np.flatnonzero(found.keys == key).tolist()
        assert any(pair not in pairs for pair in itertools.combinations(members, 2))


def test_a_chain() -> None:
    hashes = np.array([0b1, 0b111, 0b11111, 0xFF << 50], np.uint64)
    found = near_duplicates.groups(hashes, 2)
    assert found.keys.tolist() == [0, 0, 0, 3]
    assert found.chains.tolist() == [True, True, True, False]
    assert near_duplicates.groups(hashes, 4).chains.tolist() == [False] * 4


def test_very_frequent_hashes_do_not_explode() -> None:
    hashes = np.concatenate([np.full(200_000, 5, np.uint64), np.zeros(100_000, np.uint64), [np.uint64(7)]])
    tracemalloc.start()
    pairs = near_duplicates.pairs(hashes, 8)
    found = near_duplicates.groups(hashes, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pairs) == 200_000
    assert np.bincount(found.keys)[0] == 200_001
    assert not found.chains.any()
    assert peak < 100 << 20


def test_limited_pairs_are_all_pairs_except_in_crowds() -> None:
    hashes = clustered()
    assert near_duplicates.pairs(hashes, 6, most=64).tolist() == near_duplicates.pairs(hashes, 6).tolist()
    few = near_duplicates.pairs(hashes, 6, most=1)
    assert set(map(tuple, few.tolist())) < set(map(tuple, near_duplicates.pairs(hashes, 6).tolist()))


def test_a_crowd_has_limited_pairs_and_stays_connected() -> None:
    """Each of 5,000 hashes differs in four bits from one hash, so all 10^7 pairs are near."""
    rng = np.random.default_rng(0)
    positions = np.stack([rng.permutation(64)[:4] for _ in range(5_000)]).astype(np.uint64)
    hashes = np.unique(np.uint64(1 << 40 | 1) ^ np.bitwise_or.reduce(np.uint64(1) << positions, axis=1))
    pairs = near_duplicates.pairs(hashes, 8, most=16)
    assert len(hashes) > 4_900
    assert 8 * len(hashes) < len(pairs) <= 16 * len(hashes)
    assert (near_duplicates.joined(np.arange(len(hashes)), [pairs]) == 0).all()


def test_unknown_hashes_and_no_hashes() -> None:
    assert near_duplicates.pairs(np.zeros(3, np.uint64), 8).tolist() == []
    assert near_duplicates.groups(np.zeros(3, np.uint64), 8).keys.tolist() == [0, 1, 2]
    assert near_duplicates.pairs(np.zeros(0, np.uint64), 8).shape == (0, 2)
    assert len(near_duplicates.groups(np.zeros(0, np.uint64), 8).keys) == 0


@pytest.mark.parametrize("distance", [-1, 17])
def test_wrong_distances(distance: int) -> None:
    with pytest.raises(ValueError, match=f"the distance must be from 0 to 16 bits, not {distance}"):
        near_duplicates.pairs(np.ones(2, np.uint64), distance)


def test_without_bitwise_count(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = clustered(30)
    expected = near_duplicates.pairs(hashes, 5)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert near_duplicates.pairs(hashes, 5).tolist() == expected.tolist()
