"""Hashes and orders that are pure functions of a seed: who is where, without any state.

All mixing is splitmix64's finalizer (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

import abc
import functools
import warnings

import numpy as np

from tfrecord_tools.errors import UserError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 8  # Luby and Rackoff need 4 for a pseudorandom permutation; the rest is margin for the simple round function.


def hash64(*values: int | np.ndarray) -> np.ndarray:
    """Hashes integers or integer arrays (broadcast together) to u64, well mixed, order-sensitive."""
    state = np.uint64(0)
    with np.errstate(over="ignore"):  # Arithmetic modulo 2**64 is meant.
        for value in values:
            state = _finalize((state ^ _as_u64(value)) + _GOLDEN)
    return state


def mix(*values: int | np.ndarray) -> np.ndarray:
    """Return `hash64(*values)`: the former name, to be removed in the next release."""
    warnings.warn("order.mix was renamed: use order.hash64.", DeprecationWarning, stacklevel=2)
    return hash64(*values)


def permute(positions: np.ndarray, count: int, *key: int | np.ndarray) -> np.ndarray:
    """Returns where `positions` go in a pseudorandom permutation of 0..count-1, in O(1) memory.

    A Feistel network over the smallest even number of bits that holds `count`; a result outside is
    permuted again until it is inside ("cycle walking", Black and Rogaway 2002), fewer than 4 times on average.

    Args:
        positions: i64[k], each in 0..count-1.
        count: The size of the permuted set.
        *key: What selects the permutation: integers, or arrays of one per position.
    """
    half = np.uint64(max(1, -(-max(count - 1, 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half)) - 1)
    round_keys = np.stack([np.broadcast_to(hash64(*key, number), np.shape(positions)) for number in range(_ROUNDS)])
    values = np.asarray(positions, np.uint64).copy()
    outside = np.arange(len(values))
    while len(outside):
        walked = _feistel(values[outside], round_keys[:, outside], half, mask)
        values[outside] = walked
        outside = outside[walked >= np.uint64(count)]
    return values.astype(np.int64)


class Order(abc.ABC):
    """Which record stands at each position of an endless stream: a pure function of a seed.

    A subclass says it for some thousand positions at once: array operations cost the same for 20.

    Attributes:
        count: Records are 0..count-1.
    """

    _CHUNK = 4096

    def __init__(self, count: int) -> None:
        self.count = count
        self._chunks = functools.lru_cache(maxsize=4)(self._chunk)

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the round and the record number of i64[k] `positions`, both i64[k].

        No record occurs twice in a round; with its number, the round is a name for each occurrence.
        """
        chunks, places = np.divmod(np.asarray(positions, np.int64), self._CHUNK)
        pairs = np.empty((2, len(places)), np.int64)
        for chunk in np.unique(chunks):
            here = chunks == chunk
            pairs[:, here] = self._chunks(int(chunk))[:, places[here]]
        return pairs[0], pairs[1]

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Returns the record numbers at `positions`, both i64[k]."""
        return self.at(positions)[1]

    def _chunk(self, chunk: int) -> np.ndarray:
        return np.stack(self._at(chunk * self._CHUNK + np.arange(self._CHUNK)))

    @abc.abstractmethod
    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


class Shuffled(Order):
    """Each round, an epoch, is another permutation of all `count` records."""

    def __init__(self, count: int, seed: int):
        super().__init__(count)
        self._seed = seed

    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs, places = np.divmod(positions, self.count)
        return epochs, permute(places, self.count, self._seed, epochs)


class Blocks(Order):
    """Shuffled by blocks of neighbours, for storage that is slow to seek: a permutation each epoch, but a coarser one.

    An epoch begins its blocks at another record, and takes them in another order. The records of `window` of them
    are then mixed with each other: about what `shuffle(window * block)` does to shuffled files.
    """

    def __init__(self, count: int, seed: int, block: int, window: int = 16):
        super().__init__(count)
        if block < 1 or window < 1:
            raise UserError(f"block={block}, window={window}: at least 1 each.")
        self._seed = seed
        self._block = min(block, count)
        self._window = min(window * self._block, count)

    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs, places = np.divmod(positions, self.count)
        windows, within = np.divmod(places, self._window)
        whole, rest = divmod(self.count, self._window)
        for here, length in ((windows < whole, self._window), (windows == whole, rest)):
            mixed = permute(within[here], length, self._seed, 1, epochs[here], windows[here])
            places[here] = windows[here] * self._window + mixed
        blocks, within = np.divmod(places, self._block)
        whole = self.count // self._block
        moved = permute(np.where(blocks < whole, blocks, 0), whole, self._seed, 2, epochs)
        start = (hash64(self._seed, 3, epochs) % np.uint64(self.count)).astype(np.int64)
        blocks = np.where(blocks < whole, moved, blocks)
        return epochs, (blocks * self._block + within + start) % self.count


class Balanced(Order):
    """Every class equally often: `classes` consecutive positions hold one record of each, in shuffled order.

    Each class runs through permutations of its own records. A round is that of the class: small ones are in
    their tenth while large ones are still in their first.
    """

    def __init__(self, labels: np.ndarray, seed: int):
        """Takes i64[n], the label of each record; classes without records are passed over."""
        super().__init__(len(labels))
        self._seed = seed
        self._records = np.argsort(labels, kind="stable")
        _, self._starts, self._counts = np.unique(labels[self._records], return_index=True, return_counts=True)

    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turns, places = np.divmod(positions, len(self._counts))
        classes = permute(places, len(self._counts), self._seed, 4, turns)
        rounds = turns // self._counts[classes]
        records = np.empty_like(positions)
        for number in range(len(self._counts)):
            here = classes == number
            count = int(self._counts[number])
            within = permute(turns[here] % count, count, self._seed, 5, number, rounds[here])
            records[here] = self._records[self._starts[number] + within]
        return rounds, records


def batch_positions(step: int, batch_size: int, shard: tuple[int, int] = (0, 1)) -> np.ndarray:
    """The positions of worker i of w's contiguous slice of global batch `step`; i64[batch_size / w]."""
    share = batch_size // shard[1]
    return stream_positions(step * share + np.arange(share), batch_size, shard)


def stream_positions(places: np.ndarray, batch_size: int, shard: tuple[int, int] = (0, 1)) -> np.ndarray:
    """The positions of what worker i of w reads as its `places`-th, counted from the first batch on; both i64[k]."""
    index, workers = shard
    share = batch_size // workers
    steps, rest = np.divmod(places, share)
    return steps * batch_size + index * share + rest


def _feistel(values: np.ndarray, round_keys: np.ndarray, half: np.uint64, mask: np.uint64) -> np.ndarray:
    left = np.right_shift(values, half)
    right = np.bitwise_and(values, mask)
    with np.errstate(over="ignore"):
        for key in round_keys:
            left, right = right, left ^ (_finalize(right ^ key) & mask)
    return left << half | right


def _finalize(state: np.ndarray) -> np.ndarray:
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)


def _as_u64(value: int | np.ndarray) -> np.ndarray:
    if isinstance(value, int):
        return np.uint64(value & 0xFFFFFFFFFFFFFFFF)
    return np.asarray(value).astype(np.uint64)
