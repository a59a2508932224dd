"""Tests of the orders: permutations that are reproducible and have no visible pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tfrecord_tools import order
from tfrecord_tools.errors import UserError
from tfrecord_tools.order import Balanced, Blocks, Order, Shuffled, batch_positions, hash64, permute

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


def test_single_positions_equal_arrays() -> None:
    whole = permute(np.arange(50), 50, 3, 1)
    assert [int(permute(np.array([p]), 50, 3, 1)[0]) for p in range(50)] == whole.tolist()
    epochs = np.repeat([0, 1, 2], 50)  # A key with one value per position.
    mixed = permute(np.tile(np.arange(50), 3), 50, 3, epochs)
    assert mixed.reshape(3, 50).tolist() == [permute(np.arange(50), 50, 3, epoch).tolist() for epoch in range(3)]


def test_order_is_pinned() -> None:
    """If these values change, no earlier training can be resumed in its order."""
    assert [int(hash64(0)), int(hash64(1, 2)), int(hash64(-1))] == [
        0xE220A8397B1DCDAF,
        0xBCD9DBB49673066B,
        0xE4D971771B652C20,
    ]
    assert permute(np.arange(10), 10, 0, 0).tolist() == [3, 1, 9, 2, 0, 6, 4, 5, 7, 8]
    assert permute(np.arange(8), 1000, 42, 3).tolist() == [968, 537, 192, 297, 567, 274, 570, 155]
    assert Shuffled(10, seed=0)[np.arange(5, 15)].tolist() == [6, 4, 5, 7, 8, 9, 4, 1, 3, 6]


def test_hash64_depends_on_order_and_broadcasts() -> None:
    assert hash64(1, 2) != hash64(2, 1)
    assert hash64(1) != hash64(1, 0)
    values = np.arange(3, dtype=np.uint64)
    assert hash64(5, values).tolist() == [int(hash64(5, int(v))) for v in values]
    assert hash64(5, values).dtype == np.uint64


def test_the_former_name_of_hash64_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"^order\.mix was renamed: use order\.hash64\.$"):
        assert order.mix(1, 2) == hash64(1, 2)


def test_hash64_is_uniform() -> None:
    bits = np.unpackbits(hash64(0, np.arange(20_000)).view(np.uint8)).reshape(-1, 64)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.02  # 5 sigma, because the standard deviation is 0.0035.


@pytest.mark.parametrize("count", [1000, 1024, 1025, 5000])
def test_order_has_no_pattern(count: int) -> None:
    positions = np.arange(count)
    one, two = permute(positions, count, 0, 0), permute(positions, count, 0, 1)
    limit = 5 / np.sqrt(count)
    assert abs(np.corrcoef(positions, one)[0, 1]) < limit  # For permutations, this is the rank correlation.
    assert abs(np.corrcoef(one, two)[0, 1]) < limit  # Between epochs.
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < limit  # Between records.
    assert abs(np.mean(np.diff(one) == 1) - 1 / count) < 5 / count  # Neighbors do not stay together.
    assert abs(np.mean(one % 2 == positions % 2) - 0.5) < limit


def test_every_record_comes_first_equally_often() -> None:
    firsts = permute(np.zeros(6000, np.int64), 6, 0, np.arange(6000))
    counts = np.bincount(firsts, minlength=6)
    assert ((counts - 1000) ** 2 / 1000).sum() < 25  # Chi-squared test with 5 degrees of freedom, p = 1e-4.


@pytest.mark.parametrize("count", [1, 3, 10, 1000, 4096, 5000])
def test_order_joins_the_permutations(count: int) -> None:
    length = max(3 * count, 10_000)
    positions = np.arange(length)
    expected = permute(positions % count, count, 9, positions // count)
    assert Shuffled(count, seed=9)[positions].tolist() == expected.tolist()


def test_order_across_chunks_and_in_any_sequence() -> None:
    edge = Order._CHUNK
    positions = np.array([edge, edge - 1, 0, 5 * edge + 1, edge + 1, 0, 3 * edge - 1, 2 * edge, 12 * edge])
    expected = permute(positions % 700, 700, 1, positions // 700)
    shuffled = Shuffled(700, seed=1)
    assert shuffled[positions].tolist() == expected.tolist()
    assert shuffled[positions[::-1]].tolist() == expected[::-1].tolist()  # Some chunks come from the cache.
    assert shuffled[np.array([], np.int64)].tolist() == []


def test_order_at_large_positions() -> None:
    position = np.array([10**15])
    assert 0 <= Shuffled(1000, seed=0)[position][0] < 1000
    assert Shuffled(1000, seed=0)[position] == permute(position % 1000, 1000, 0, position // 1000)


def test_batch_positions() -> None:
    assert batch_positions(0, 4).tolist() == [0, 1, 2, 3]
    assert batch_positions(3, 4).tolist() == [12, 13, 14, 15]
    assert batch_positions(3, 4, (0, 2)).tolist() == [12, 13]
    assert batch_positions(3, 4, (1, 2)).tolist() == [14, 15]


def test_large_and_negative_seeds() -> None:
    orders = {tuple(order.Shuffled(20, seed)[np.arange(20)]) for seed in (0, 1, -1, 2**63, 2**64 - 2)}
    assert len(orders) == 5


# --- Other orders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "block", "window"), [(1, 1, 1), (97, 7, 4), (1000, 64, 16), (1000, 2000, 1), (64, 8, 8)]
)
def test_blocks_are_permutations(count: int, block: int, window: int) -> None:
    epochs, chosen = Blocks(count, 3, block, window).at(np.arange(5 * count))
    assert epochs.tolist() == np.repeat(np.arange(5), count).tolist()
    streams = chosen.reshape(5, count)
    assert (np.sort(streams, 1) == np.arange(count)).all()
    assert count == 1 or len({tuple(s) for s in streams.tolist()}) == 5


@pytest.mark.parametrize("count", [200, 2000, 4000, 6000])
def test_blocks_shuffle_small_datasets_and_the_end_of_an_epoch(count: int) -> None:
    chosen = Blocks(count, 0, block=256)[np.arange(count)]
    for part in (chosen, chosen[-count // 4 :]):
        assert np.mean(np.diff(part) % count == 1) < 0.1  # Neighbors on the disk that follow each other.


def test_blocks_are_read_together() -> None:
    """A window of 4 blocks of 50 records has 200 positions in at most five parts of the storage."""
    chosen = np.sort(Blocks(10_000, 0, block=50, window=4)[np.arange(200)])
    stretches = 1 + np.sum(np.diff(chosen) > 1)
    assert stretches <= 5


@pytest.mark.parametrize("order", [Shuffled(20_000, 1), Blocks(20_000, 1, block=64, window=64)], ids=["all", "blocks"])
def test_quality_against_a_shuffle_buffer(order: Order) -> None:
    """Positions must not correlate with the stored order. With `shuffle(1000)` they still do."""
    positions = np.arange(20_000)
    buffered = np.array(list(tf.data.Dataset.range(20_000).shuffle(1000, seed=0).as_numpy_iterator()))
    assert abs(scipy.stats.spearmanr(positions, buffered).statistic) > 0.98
    assert abs(scipy.stats.spearmanr(positions, order[positions]).statistic) < (
        0.05 if type(order) is Shuffled else 0.35
    )


def test_runs_of_a_class_are_random() -> None:
    labels = np.repeat([0, 1], 5000)  # The records are stored class by class.
    seen = labels[Shuffled(10_000, 1)[np.arange(10_000)]]
    runs = np.diff(np.flatnonzero(np.r_[True, np.diff(seen) != 0, True]))
    assert 1.9 < runs.mean() < 2.1
    assert runs.max() < 25


def test_balanced() -> None:
    labels = np.array([0] * 500 + [2] * 50 + [3] * 7)  # Class 1 has no records.
    rounds, chosen = Balanced(labels, seed=0).at(np.arange(3 * 500))
    assert np.bincount(labels[chosen]).tolist() == [500, 0, 500, 500]
    assert all(sorted(labels[chosen[i : i + 3]].tolist()) == [0, 2, 3] for i in range(0, 1500, 3))
    assert len(set(zip(rounds.tolist(), chosen.tolist()))) == 1500  # A record occurs once per epoch.
    assert sorted(chosen[labels[chosen] == 0].tolist()) == list(range(500))
    assert np.bincount(chosen[labels[chosen] == 3] - 550).tolist() == pytest.approx([500 / 7] * 7, abs=1)


def test_errors() -> None:
    wrong: list[tuple[Any, tuple[Any, ...], str]] = [
        (Blocks, (10, 0, 0), r"block=0: must be at least 1\."),
        (Blocks, (10, 0, 2, 1.5), r"window=1\.5: must be a whole number\."),
        (Blocks, (10, None), r"seed=None: must be a whole number\."),
        (Shuffled, (0, 0), r"count=0: must be at least 1\."),
        (Shuffled, ("ten", 0), r"count=ten: must be a whole number\."),
        (Shuffled, (10, 0.5), r"seed=0\.5: must be a whole number\."),
        (Balanced, ([], 0), r"labels: must be a whole number for each record, such as records\.labels\."),
        (Balanced, (["cats", "dogs"], 0), r"labels: must be a whole number for each record"),
    ]
    for kind, given, message in wrong:
        with pytest.raises(UserError, match=f"^{message}"):
            kind(*given)


def test_lists_and_numbers_of_numpy_are_accepted() -> None:
    positions = np.arange(30)
    np.testing.assert_array_equal(
        Balanced([0, 0, 0, 1], 3)[positions], Balanced(np.array([0, 0, 0, 1]), np.int64(3))[positions]
    )
    np.testing.assert_array_equal(Shuffled(np.int32(9), 0)[positions], Shuffled(9, 0)[positions])
    np.testing.assert_array_equal(Blocks(1000, 0)[positions], Blocks(1000, 0, block=256, window=16)[positions])
    for block, window in ((np.uint8(200), np.uint8(16)), (256, np.uint8(16))):  # The product is above 255.
        expected = Blocks(9000, 0, block=int(block), window=16)
        np.testing.assert_array_equal(Blocks(9000, 0, block=block, window=window)[positions], expected[positions])
    assert order.steps_per_epoch(1000, np.int8(100)) == 10


class Backwards(Order):
    """An order of a user, which does not know its inverse."""

    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs, offsets = np.divmod(positions, self.count)
        return epochs, self.count - 1 - offsets


@pytest.mark.parametrize(
    "order",
    [
        Shuffled(1000, 3),
        Shuffled(1, 3),
        Blocks(1003, 5, 7, 4),
        Blocks(10, 5, 256),
        Blocks(4096, 1, 64),
        Balanced(np.random.default_rng(0).integers(0, 5, 777) ** 2, 9),
        Backwards(50),
    ],
    ids=["shuffled", "one", "blocks", "a block", "windows", "balanced", "own"],
)
def test_next_use_is_the_first_position_of_each_record(order: Order) -> None:
    count = order.count
    for position in (0, 1, count // 2, count - 1, count, 5 * count + 3):
        following = order[position + np.arange(40 * count)]
        first = np.full(count, -1)
        first[following[::-1]] = position + np.arange(40 * count)[::-1]
        assert (order.next_use(np.arange(count), position) == first).all()


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 18])
@pytest.mark.parametrize(("count", "classes"), [(0, 1), (1, 1), (500, 3), (500, 400)])
def test_records_by_label_equal_a_stable_sort(
    monkeypatch: pytest.MonkeyPatch, block: int, count: int, classes: int
) -> None:
    """The labels are sorted in blocks, which saves memory."""
    monkeypatch.setattr(order, "_BLOCK", block)
    labels = np.random.default_rng(0).integers(-2, classes, count) * 10**12  # Any numbers of groups.
    records, counts = order._by_label(labels)
    assert records.tolist() == np.argsort(labels, kind="stable").tolist()
    assert counts.tolist() == np.unique(labels, return_counts=True)[1].tolist()
