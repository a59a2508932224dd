"""Hashes and orders that are pure functions of a seed: who is where, without any state.

All mixing is splitmix64's finalizer (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

import functools

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 8  # Luby and Rackoff need 4 for a pseudorandom permutation; the rest is margin for the simple round function.


def mix(*values: int | np.ndarray) -> np.ndarray:
    """Hashes integers or integer arrays (broadcast together) to u64, well mixed, order-sensitive."""
    state = np.uint64(0)
    with np.errstate(over="ignore"):  # Arithmetic modulo 2**64 is meant.
        for value in values:
            state = _finalize((state ^ _as_u64(value)) + _GOLDEN)
    return state


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
    round_keys = np.stack([np.broadcast_to(mix(*key, number), np.shape(positions)) for number in range(_ROUNDS)])
    values = np.asarray(positions, np.uint64).copy()
    outside = np.arange(len(values))
    while len(outside):
        walked = _feistel(values[outside], round_keys[:, outside], half, mask)
        values[outside] = walked
        outside = outside[walked >= np.uint64(count)]
    return values.astype(np.int64)


class Order:
    """The order of training: the record at each position of an endless, fully shuffled stream.

    Position p lies in epoch p // count; each epoch is another permutation of all `count` records.
    """

    _CHUNK = 4096  # Positions permuted at once: array operations cost the same for 20 as for some thousand.

    def __init__(self, count: int, seed: int):
        self._count = count
        self._seed = seed
        self._chunks = functools.lru_cache(maxsize=4)(self._permute_chunk)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Returns the record numbers at `positions`, both i64[k]."""
        chunks, places = np.divmod(np.asarray(positions, np.int64), self._CHUNK)
        numbers = np.empty(len(places), np.int64)
        for chunk in np.unique(chunks):
            here = chunks == chunk
            numbers[here] = self._chunks(int(chunk))[places[here]]
        return numbers

    def _permute_chunk(self, chunk: int) -> np.ndarray:
        epochs, places = np.divmod(chunk * self._CHUNK + np.arange(self._CHUNK), self._count)
        return permute(places, self._count, self._seed, epochs)


def batch_positions(step: int, batch_size: int, shard: tuple[int, int] = (0, 1)) -> np.ndarray:
    """The positions of worker i of w's contiguous slice of global batch `step`; i64[batch_size / w]."""
    index, workers = shard
    share = batch_size // workers
    return np.arange(share) + (step * batch_size + index * share)


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
