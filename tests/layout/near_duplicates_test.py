"""Tests of near-duplicates, compared with a loop over all pairs."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable

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


def crowds(seed: int) -> np.ndarray:
    """Return hashes around four centers, and random hashes with the same band.

    Two of the centers are near to each other.
    """
    rng = np.random.default_rng(seed)
    centers = rng.integers(1, 2**63, 4, np.uint64)
    centers[1] = centers[0] ^ np.uint64(0b1011)
    flips = np.uint64(1) << rng.integers(0, 64, (2, 120)).astype(np.uint64)
    band = np.uint64(0x1111111111111111)  # The bits of the first band.
    others = (rng.integers(1, 2**63, 60, np.uint64) & ~band) | (centers[0] & band)
    return rng.permutation(np.concatenate([np.repeat(centers, 30) ^ flips[0] ^ flips[1], others]))


@pytest.mark.parametrize("window", [near_duplicates._WINDOW, 5, 1])  # A smaller window: more pairs are left out first.
@pytest.mark.parametrize("make", [lambda: clustered(seed=1), lambda: crowds(0), lambda: crowds(1)])
@pytest.mark.parametrize("distance", DISTANCES)
def test_groups_are_connected_pairs(
    monkeypatch: pytest.MonkeyPatch, distance: int, make: Callable[[], np.ndarray], window: int
) -> None:
    hashes = make()
    monkeypatch.setattr(near_duplicates, "_WINDOW", window)
    pairs = near(hashes, distance)
    found = near_duplicates.groups(hashes, distance)
    assert found.keys.tolist() == roots(len(hashes), pairs)
    for i, j in itertools.combinations(range(len(hashes)), 2):
        if found.keys[i] == found.keys[j] and (i, j) not in pairs:
            assert found.chains[[i, j]].all()
    for key in np.unique(found.keys[found.chains]).tolist():
        members = np.flatnonzero(found.keys == key).tolist()
        assert any(pair not in pairs for pair in itertools.combinations(members, 2))


@pytest.mark.parametrize("seed", range(20))
def test_chains_have_hashes_that_are_not_near(seed: int) -> None:
    rng = np.random.default_rng(seed)
    flips = np.uint64(1) << rng.integers(0, 64, (1 + seed % 4, 30)).astype(np.uint64)
    hashes = np.unique(np.uint64(CENTER) ^ np.bitwise_or.reduce(flips, axis=0))
    for distance in range(10):
        chain = len(near(hashes, distance)) < len(hashes) * (len(hashes) - 1) // 2
        assert near_duplicates._is_chain(hashes, distance) == chain


CENTER = 2**63 - 12345
BITS = [1 << bit for bit in range(62)]
CROWD = [CENTER, *(CENTER ^ bit for bit in BITS), *(CENTER ^ a ^ b for a, b in itertools.combinations(BITS, 2))]


@pytest.mark.parametrize(
    ("more", "distance", "chain"),
    [
        ([], 4, False),
        ([], 3, True),
        ([CENTER ^ 0b1111], 6, False),
        ([CENTER ^ 0b1111, CENTER ^ (0b111 << 40)], 6, True),  # Only these two of 1,956 are not near to each other.
    ],
)
def test_one_pair_makes_a_crowd_a_chain(more: list[int], distance: int, chain: bool) -> None:
    found = near_duplicates.groups(np.array([*CROWD, *more], np.uint64), distance)
    assert (found.keys == 0).all()
    assert (found.chains == chain).all()


def around_one(count: int) -> np.ndarray:
    """Return hashes that differ in up to three bits from one hash."""
    flips = np.uint64(1) << np.random.default_rng(0).integers(0, 64, (3, count)).astype(np.uint64)
    return np.unique(np.uint64(CENTER) ^ flips[0] ^ flips[1] ^ flips[2])


def with_late_groups(count: int) -> np.ndarray:
    """Return random hashes, and then groups of 50 hashes that differ in up to two bits."""
    rng = np.random.default_rng(0)
    flips = np.uint64(1) << rng.integers(0, 64, (2, count // 4)).astype(np.uint64)
    centers = np.repeat(rng.integers(1, 2**63, count // 200, np.uint64), 50)
    hashes = np.concatenate([rng.integers(1, 2**63, count, np.uint64), centers ^ flips[0] ^ flips[1]])
    return hashes[np.sort(np.unique(hashes, return_index=True)[1])]


def stay(hashes: np.ndarray) -> np.ndarray:
    return near_duplicates.stand_ins(hashes, 6, np.arange(len(hashes)), np.zeros(len(hashes), bool))


@pytest.mark.parametrize("work", [lambda hashes: near_duplicates.groups(hashes, 6), stay])
@pytest.mark.parametrize("make", [around_one, with_late_groups])
def test_work_per_hash_does_not_grow(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[int], np.ndarray], work: Callable[[np.ndarray], object]
) -> None:
    """If all pairs were compared, twice as many hashes would mean twice the work for each."""
    for name, value in {"_FEW": 1 << 12, "_WINDOW": 64, "_BLOCK": 1 << 12}.items():
        monkeypatch.setattr(near_duplicates, name, value)
    compared: list[int] = []
    bits = near_duplicates._bits
    monkeypatch.setattr(near_duplicates, "_bits", lambda numbers: compared.append(len(numbers)) or bits(numbers))
    each = []
    for count in (4000, 8000, 16000):
        hashes = make(count)
        compared.clear()
        work(hashes)
        each.append(sum(compared) / len(hashes))
    assert each[2] < 1.5 * each[0] + 50, each


def visited(hashes: list[int], distance: int, order: list[int], kept: list[bool]) -> list[int]:
    """Return the hashes that stay: visit one after the other."""
    stays: list[int] = []
    for i in order:
        near = any((hashes[i] ^ hashes[j]).bit_count() <= distance for j in stays)
        if kept[i] or not near or not hashes[i]:
            stays.append(i)
    return stays


@pytest.mark.parametrize("few", [1 << 20, 100, 10, 0])  # If more pairs are found, one half is visited first.
@pytest.mark.parametrize("seed", range(6))
def test_stand_ins_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch, seed: int, few: int) -> None:
    monkeypatch.setattr(near_duplicates, "_FEW", few)
    hashes, rng = np.unique(clustered(seed=seed) if seed % 2 else crowds(seed)), np.random.default_rng(seed)
    order, kept = rng.permutation(len(hashes)), np.zeros(len(hashes), bool)
    kept[order[:5]] = True
    ranks = np.empty(len(hashes), np.int64)
    ranks[order] = np.arange(len(hashes))
    stays = visited(hashes.tolist(), 8, order.tolist(), kept.tolist())
    found = near_duplicates.stand_ins(hashes, 8, ranks, kept)
    assert sorted(stays) == np.flatnonzero(found == np.arange(len(hashes))).tolist()
    assert 20 < len(stays) < len(hashes)
    rank = ranks.tolist()
    for i, stand_in in enumerate(found.tolist()):
        near = [j for j in stays if int(hashes[i] ^ hashes[j]).bit_count() <= 8 and hashes[i] and hashes[j]]
        assert stand_in == (i if i in stays else min(near, key=rank.__getitem__))


def test_memory_does_not_grow_with_the_square_of_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of images that all look alike, such as drawings on white or the frames of a video."""
    monkeypatch.setattr(near_duplicates, "_FEW", 1 << 14)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 1 << 14)
    hashes = around_one(3000)
    tracemalloc.start()
    found = stay(hashes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(hashes) > 2800
    assert (found == 0).all()  # All look like the first one. There are 4 million pairs, which take 70 MB.
    assert peak < 12e6


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
