"""Tests of the order of training: true permutations, reproducible for ever, without visible pattern."""

from __future__ import annotations

import numpy as np
import pytest

from tfrecord_tools import order
from tfrecord_tools.order import Order, batch_positions, mix, permute

COUNTS = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 63, 64, 65, 100, 255, 256, 257, 1000, 1023, 1024, 1025, 4097, 20_000]


@pytest.mark.parametrize("count", COUNTS)
def test_each_epoch_is_a_permutation(count: int) -> None:
    for epoch in range(3):
        permuted = permute(np.arange(count), count, 7, epoch)
        assert permuted.dtype == np.int64
        assert sorted(permuted) == list(range(count))


def test_epochs_seeds_and_counts_differ() -> None:
    positions = np.arange(100)
    orders = [permute(positions, count, seed, epoch) for count in (100, 101) for seed in range(5) for epoch in range(5)]
    assert len({tuple(o) for o in orders}) == len(orders)


def test_one_at_a_time_gives_the_same_as_all_at_once() -> None:
    whole = permute(np.arange(50), 50, 3, 1)
    assert [int(permute(np.array([p]), 50, 3, 1)[0]) for p in range(50)] == whole.tolist()
    epochs = np.repeat([0, 1, 2], 50)  # A key that differs from place to place.
    mixed = permute(np.tile(np.arange(50), 3), 50, 3, epochs)
    assert mixed.reshape(3, 50).tolist() == [permute(np.arange(50), 50, 3, epoch).tolist() for epoch in range(3)]


def test_the_order_is_the_same_for_ever() -> None:
    """A change of these values changes the order of every training that is to be resumed."""
    assert [int(mix(0)), int(mix(1, 2)), int(mix(-1))] == [0xE220A8397B1DCDAF, 0xBCD9DBB49673066B, 0xE4D971771B652C20]
    assert permute(np.arange(10), 10, 0, 0).tolist() == [3, 1, 9, 2, 0, 6, 4, 5, 7, 8]
    assert permute(np.arange(8), 1000, 42, 3).tolist() == [968, 537, 192, 297, 567, 274, 570, 155]
    assert Order(10, seed=0)[np.arange(5, 15)].tolist() == [6, 4, 5, 7, 8, 9, 4, 1, 3, 6]


def test_mix_depends_on_order_and_broadcasts() -> None:
    assert mix(1, 2) != mix(2, 1)
    assert mix(1) != mix(1, 0)
    values = np.arange(3, dtype=np.uint64)
    assert mix(5, values).tolist() == [int(mix(5, int(v))) for v in values]
    assert mix(5, values).dtype == np.uint64


def test_mix_is_uniform() -> None:
    bits = np.unpackbits(mix(0, np.arange(20_000)).view(np.uint8)).reshape(-1, 64)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.02  # 0.0035 standard deviation: 5 sigma.


@pytest.mark.parametrize("count", [1000, 1024, 1025, 5000])
def test_no_pattern_is_left(count: int) -> None:
    positions = np.arange(count)
    one, two = permute(positions, count, 0, 0), permute(positions, count, 0, 1)
    limit = 5 / np.sqrt(count)
    assert abs(np.corrcoef(positions, one)[0, 1]) < limit  # Of a permutation, this is the rank correlation.
    assert abs(np.corrcoef(one, two)[0, 1]) < limit  # From epoch to epoch.
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < limit  # From record to record.
    assert abs(np.mean(np.diff(one) == 1) - 1 / count) < 5 / count  # Neighbours are torn apart.
    assert abs(np.mean(one % 2 == positions % 2) - 0.5) < limit


def test_every_record_comes_first_equally_often() -> None:
    firsts = permute(np.zeros(6000, np.int64), 6, 0, np.arange(6000))
    counts = np.bincount(firsts, minlength=6)
    assert ((counts - 1000) ** 2 / 1000).sum() < 25  # Chi square with 5 degrees of freedom, p = 1e-4.


@pytest.mark.parametrize("count", [1, 3, 10, 1000, 4096, 5000])
def test_order_is_the_permutations_one_after_the_other(count: int) -> None:
    length = max(3 * count, 10_000)
    positions = np.arange(length)
    expected = permute(positions % count, count, 9, positions // count)
    assert Order(count, seed=9)[positions].tolist() == expected.tolist()


def test_order_across_chunks_and_in_any_sequence() -> None:
    edge = Order._CHUNK
    positions = np.array([edge, edge - 1, 0, 5 * edge + 1, edge + 1, 0, 3 * edge - 1, 2 * edge, 12 * edge])
    expected = permute(positions % 700, 700, 1, positions // 700)
    shuffled = Order(700, seed=1)
    assert shuffled[positions].tolist() == expected.tolist()
    assert shuffled[positions[::-1]].tolist() == expected[::-1].tolist()  # Some from the cache now.
    assert shuffled[np.array([], np.int64)].tolist() == []


def test_order_far_out() -> None:
    position = np.array([10**15])
    assert 0 <= Order(1000, seed=0)[position][0] < 1000
    assert Order(1000, seed=0)[position] == permute(position % 1000, 1000, 0, position // 1000)


def test_batch_positions() -> None:
    assert batch_positions(0, 4).tolist() == [0, 1, 2, 3]
    assert batch_positions(3, 4).tolist() == [12, 13, 14, 15]
    assert batch_positions(3, 4, (0, 2)).tolist() == [12, 13]
    assert batch_positions(3, 4, (1, 2)).tolist() == [14, 15]


def test_a_large_seed_and_a_negative_one_are_seeds() -> None:
    orders = {tuple(order.Order(20, seed)[np.arange(20)]) for seed in (0, 1, -1, 2**63, 2**64 - 2)}
    assert len(orders) == 5
