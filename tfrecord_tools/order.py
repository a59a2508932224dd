"""Hashes and orders of records that are computed from a seed alone, without any state.

Hashing uses splitmix64's finalizer (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

import abc
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tfrecord_tools.base.checks import check_whole
from tfrecord_tools.errors import UserError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Rounds of the Feistel network in `permute`. Luby and Rackoff need 4 rounds for a pseudorandom permutation. Our round
# function is weaker than theirs, so we use 8.
_ROUNDS = 8
_SEARCHED = 65_536
_BLOCK = 1 << 18  # Labels that `Balanced` sorts at once.


def hash64(*values: int | np.ndarray) -> np.ndarray:
    """Hash integers or integer arrays to u64. Arrays are broadcast; the order of the arguments matters."""
    state = np.uint64(0)
    with np.errstate(over="ignore"):  # Arithmetic modulo 2**64 is intended.
        for value in values:
            state = _finalize((state ^ _as_u64(value)) + _GOLDEN)
    return state


def mix(*values: int | np.ndarray) -> np.ndarray:
    """Deprecated name of `hash64`. It will be removed in the next release."""
    warnings.warn("order.mix was renamed: use order.hash64.", DeprecationWarning, stacklevel=2)
    return hash64(*values)


def permute(positions: np.ndarray, count: int, *key: int | np.ndarray) -> np.ndarray:
    """Map positions through a pseudorandom permutation of 0..count-1, without storing the permutation.

    It is a Feistel network: a method of cryptography that permutes all numbers of a given number of bits. The number of
    bits is the smallest even number that is enough for `count`. Too large results are permuted again until they fit
    ("cycle walking", Black and Rogaway 2002), fewer than 4 times on average.

    Args:
        positions: i64[k], each in 0..count-1.
        count: Size of the permuted set.
        *key: Integers that select the permutation. An array gives each position its own integer.

    Returns:
        i64[k], the permuted positions.
    """
    half, mask, round_keys = _network(np.shape(positions), count, *key)
    return _walked(positions, count, lambda values, rows: _feistel(values, round_keys[:, rows], half, mask))


def unpermute(values: np.ndarray, count: int, *key: int | np.ndarray) -> np.ndarray:
    """Return the positions, i64[k], that `permute` with the same count and key maps to `values`, i64[k]."""
    half, mask, round_keys = _network(np.shape(values), count, *key)
    return _walked(values, count, lambda positions, rows: _unfeistel(positions, round_keys[:, rows], half, mask))


def _walked(values: np.ndarray, count: int, step: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Permute values with `step` until all results are below `count`. Return the results, i64[k].

    Args:
        values: i64[k], each in 0..count-1.
        count: Size of the permuted set.
        step: Function of some of the values, u64[m], and of their indexes, i64[m]. It returns u64[m].
    """
    results = np.asarray(values, np.uint64).copy()
    outside = np.arange(len(results))
    while len(outside):
        walked = step(results[outside], outside)
        results[outside] = walked
        outside = outside[walked >= np.uint64(count)]
    return results.astype(np.int64)


class Order(abc.ABC):
    """Order of an endless stream of records: the record number at each position.

    Attributes:
        count: Number of records; record numbers are 0..count-1.
    """

    _CHUNK = 4096  # Positions per call of `_at`. A call for 20 positions would take about the same time.

    def __init__(self, count: int) -> None:
        check_whole(1, count=count)
        self.count = int(count)
        self._chunks = functools.lru_cache(maxsize=4)(self._chunk)

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the epochs and the record numbers at `positions`, i64[k].

        Returns:
            (epochs i64[k], record numbers i64[k]). A record occurs at most once per epoch.
        """
        chunks, offsets = np.divmod(np.asarray(positions, np.int64), self._CHUNK)
        pairs = np.empty((2, len(offsets)), np.int64)
        for chunk in np.unique(chunks):
            in_chunk = chunks == chunk
            pairs[:, in_chunk] = self._chunks(int(chunk))[:, offsets[in_chunk]]
        return pairs[0], pairs[1]

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Return the record numbers, i64[k], at `positions`, i64[k]."""
        return self.at(positions)[1]

    def _chunk(self, chunk: int) -> np.ndarray:
        return np.stack(self._at(chunk * self._CHUNK + np.arange(self._CHUNK)))

    @abc.abstractmethod
    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def next_use(self, numbers: np.ndarray, position: int) -> np.ndarray:
        """Return the positions, i64[k], from `position` on, at which records i64[k] are read next.

        The orders of this module compute it by their inverse, without the positions in between. For other orders, the
        next 65,536 positions are searched, and records that do not occur there count as read after them.
        """
        found = self._in_epoch(numbers, position, 0)
        if found is None:
            return self._searched(numbers, position)
        past = np.flatnonzero(found < position)
        if len(past):
            found[past] = self._in_epoch(numbers[past], position, 1)
        return found

    def _in_epoch(self, numbers: np.ndarray, position: int, later: int) -> np.ndarray | None:
        """Return the positions of records in the epoch of `position`, or in a later one. None: unknown.

        For `Balanced`, each class has its own epoch.
        """
        return None

    def _searched(self, numbers: np.ndarray, position: int) -> np.ndarray:
        following = self[position + np.arange(_SEARCHED)]
        records, first = np.unique(following, return_index=True)
        places = np.minimum(np.searchsorted(records, numbers), len(records) - 1)
        return position + np.where(records[places] == numbers, first[places], _SEARCHED)


class Shuffled(Order):
    """Fully shuffled: each epoch is a new permutation of all `count` records."""

    def __init__(self, count: int, seed: int):
        super().__init__(count)
        check_whole(seed=seed)
        self._seed = seed

    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs, offsets = np.divmod(positions, self.count)
        return epochs, permute(offsets, self.count, self._seed, epochs)

    def _in_epoch(self, numbers: np.ndarray, position: int, later: int) -> np.ndarray:
        epoch = position // self.count + later
        return epoch * self.count + unpermute(numbers, self.count, self._seed, epoch)


class Blocks(Order):
    """Shuffled in blocks of neighboring records, for disks on which random access is slow.

    Each epoch is a new permutation. The records are cut into blocks, and the first block starts at a different record
    in each epoch. The blocks are shuffled. Then the records in each group of `window` blocks are shuffled. The result
    is about as random as reading files in random order through `shuffle(window * block)`.

    Args:
        count: Number of records.
        seed: Any integer.
        block: Records per block, at least 1.
        window: Number of blocks that are shuffled together, at least 1.
    """

    def __init__(self, count: int, seed: int, block: int = 256, window: int = 16):
        super().__init__(count)
        check_whole(seed=seed)
        check_whole(1, block=block, window=window)
        self._seed = seed
        self._block = min(int(block), self.count)
        self._window = min(int(window) * self._block, self.count)

    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs, offsets = np.divmod(positions, self.count)
        windows, within = np.divmod(offsets, self._window)
        full, rest = divmod(self.count, self._window)
        for mask, length in ((windows < full, self._window), (windows == full, rest)):
            shuffled = permute(within[mask], length, self._seed, 1, epochs[mask], windows[mask])
            offsets[mask] = windows[mask] * self._window + shuffled
        blocks, within = np.divmod(offsets, self._block)
        full = self.count // self._block
        shuffled = permute(np.where(blocks < full, blocks, 0), full, self._seed, 2, epochs)
        start = (hash64(self._seed, 3, epochs) % np.uint64(self.count)).astype(np.int64)
        blocks = np.where(blocks < full, shuffled, blocks)
        return epochs, (blocks * self._block + within + start) % self.count

    def _in_epoch(self, numbers: np.ndarray, position: int, later: int) -> np.ndarray:
        epoch = position // self.count + later
        start = int(hash64(self._seed, 3, epoch) % np.uint64(self.count))
        blocks, within = np.divmod((numbers - start) % self.count, self._block)
        full = self.count // self._block
        shuffled = unpermute(np.where(blocks < full, blocks, 0), full, self._seed, 2, epoch)
        offsets = np.where(blocks < full, shuffled, blocks) * self._block + within
        windows, within = np.divmod(offsets, self._window)
        full, rest = divmod(self.count, self._window)
        for mask, length in ((windows < full, self._window), (windows == full, rest)):
            unshuffled = unpermute(within[mask], length, self._seed, 1, epoch, windows[mask])
            offsets[mask] = windows[mask] * self._window + unshuffled
        return epoch * self.count + offsets


class Balanced(Order):
    """An order in which every class occurs equally often. For imbalanced datasets.

    With k classes, each group of k positions holds one record of each class, in shuffled order. Each class counts its
    own epochs and is shuffled again in each of them. A small class may be in its tenth epoch while a large
    class is still in its first.
    """

    def __init__(self, labels: Sequence[int] | np.ndarray, seed: int):
        """Make the order from the label of each record, i64[n]. Classes without records are ignored.

        The labels need not be classes. They can be the numbers of other groups, for example of the hospital that each
        record comes from.

        Raises:
            UserError: The labels are not whole numbers.
        """
        labels = np.asarray(labels)
        if labels.ndim != 1 or not labels.size or labels.dtype.kind not in "iub":
            raise UserError("labels: must be a whole number for each record, such as records.labels.")
        super().__init__(len(labels))
        check_whole(seed=seed)
        self._seed = seed
        self._records, self._counts = _by_label(labels)
        self._starts = np.cumsum(self._counts) - self._counts

    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turns, offsets = np.divmod(positions, len(self._counts))
        classes = permute(offsets, len(self._counts), self._seed, 4, turns)
        epochs = turns // self._counts[classes]
        records = np.empty_like(positions)
        for number, of_class in _each(classes):
            count = int(self._counts[number])
            within = permute(turns[of_class] % count, count, self._seed, 5, number, epochs[of_class])
            records[of_class] = self._records[self._starts[number] + within]
        return epochs, records

    @functools.cached_property
    def _places(self) -> np.ndarray:
        """i64[n], the place of each record in `_records`."""
        places = np.empty_like(self._records)
        places[self._records] = np.arange(len(places))
        return places

    def _in_epoch(self, numbers: np.ndarray, position: int, later: int) -> np.ndarray:
        classes_count = len(self._counts)
        places = self._places[numbers]
        classes = np.searchsorted(self._starts, places, "right") - 1
        epochs = position // classes_count // self._counts[classes] + later
        turns = np.empty_like(places)
        for number, of_class in _each(classes):
            count = int(self._counts[number])
            within = places[of_class] - self._starts[number]
            within = unpermute(within, count, self._seed, 5, number, epochs[of_class])
            turns[of_class] = epochs[of_class] * count + within
        return turns * classes_count + unpermute(classes, classes_count, self._seed, 4, turns)


def _each(classes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each class in i64[n] with its positions, i64[k]. There may be as many classes as positions."""
    order = np.argsort(classes, kind="stable")
    values, starts = np.unique(classes[order], return_index=True)
    return zip(values.tolist(), np.split(order, starts[1:]))


def _by_label(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort record numbers by label.

    The result has 4 bytes per record, and nothing else in memory has the size of the labels: there may be 10^8.

    Args:
        labels: i64[n].

    Returns:
        (record numbers [n], ascending within a label; i64[k], the count of each of the k labels that occur)
    """
    starts = range(0, len(labels), _BLOCK)
    parts = [np.unique(labels[start : start + _BLOCK], return_counts=True) for start in starts]
    values = np.unique(np.concatenate([labels[:0], *(found for found, _ in parts)]))
    counts = np.zeros(len(values), np.int64)
    for found, times in parts:
        counts[values.searchsorted(found)] += times
    records = np.empty(len(labels), np.uint32 if len(labels) < 1 << 32 else np.int64)
    ends = np.cumsum(counts) - counts  # The end of the numbers of each label that are stored already.
    for start, (found, times) in zip(starts, parts):
        of_label = values.searchsorted(found)
        positions = np.repeat(ends[of_label] - (np.cumsum(times) - times), times) + np.arange(times.sum())
        records[positions] = start + np.argsort(labels[start : start + _BLOCK], kind="stable")
        ends[of_label] += times
    return records, counts


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of batches, at least 1, in which each of `count` records is used about once."""
    return max(1, round(count / int(batch_size)))


def batch_positions(step: int, batch_size: int, shard: tuple[int, int] = (0, 1)) -> np.ndarray:
    """Return the positions that worker i of w reads for global batch `step`.

    Args:
        step: Number of the batch, from 0.
        batch_size: Images per step, over all workers.
        shard: (i, w), with w a divisor of `batch_size`.

    Returns:
        i64[batch_size / w], contiguous.
    """
    share = batch_size // shard[1]
    return stream_positions(step * share + np.arange(share), batch_size, shard)


def stream_positions(places: np.ndarray, batch_size: int, shard: tuple[int, int] = (0, 1)) -> np.ndarray:
    """Convert positions in one worker's stream to positions in the order that all workers share.

    Args:
        places: i64[k], positions in the stream of worker i, counted from 0 at its first batch.
        batch_size: Images per step, over all workers.
        shard: (i, w), with w a divisor of `batch_size`.

    Returns:
        i64[k].
    """
    index, workers = shard
    share = batch_size // workers
    steps, rest = np.divmod(places, share)
    return steps * batch_size + index * share + rest


def _network(shape: tuple[int, ...], count: int, *key: int | np.ndarray) -> tuple[np.uint64, np.uint64, np.ndarray]:
    """Return bits and mask of a half in `permute`, and the keys of all rounds u64[rounds k]."""
    half = np.uint64(max(1, -(-max(count - 1, 1).bit_length() // 2)))
    round_keys = np.stack([np.broadcast_to(hash64(*key, number), shape) for number in range(_ROUNDS)])
    return half, np.uint64((1 << int(half)) - 1), round_keys


def _feistel(values: np.ndarray, round_keys: np.ndarray, half: np.uint64, mask: np.uint64) -> np.ndarray:
    left = np.right_shift(values, half)
    right = np.bitwise_and(values, mask)
    with np.errstate(over="ignore"):
        for key in round_keys:
            left, right = right, left ^ (_finalize(right ^ key) & mask)
    return left << half | right


def _unfeistel(values: np.ndarray, round_keys: np.ndarray, half: np.uint64, mask: np.uint64) -> np.ndarray:
    left = np.right_shift(values, half)
    right = np.bitwise_and(values, mask)
    with np.errstate(over="ignore"):
        for key in round_keys[::-1]:
            left, right = right ^ (_finalize(left ^ key) & mask), left
    return left << half | right


def _finalize(state: np.ndarray) -> np.ndarray:
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)


def _as_u64(value: int | np.ndarray) -> np.ndarray:
    if isinstance(value, int):
        return np.uint64(value & 0xFFFFFFFFFFFFFFFF)
    return np.asarray(value).astype(np.uint64)
