"""Find near-duplicates: images with perceptual hashes that differ in few bits (`images.appearance`).

All pairs are found without comparing each hash with each other hash. The 64 bits are divided into four bands of 16
bits. Each band b has a limit r[b]. The limits are chosen so that the sum over b of (r[b] + 1) is d + 1, where d is the
allowed distance. If two hashes differ in at most d bits, then there is a band b in which they differ in at most r[b]
bits (Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", 2012). Only pairs that are
within the limit of a band are compared.

Equal hashes are found first and count as one: a million copies of one picture are one hash, not 10^12 pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

UNKNOWN = 0  # Stands for a missing hash. It is not near any hash.
MAX_DISTANCE = 16
DEFAULT_DISTANCE = 6  # Chosen by `benchmarks.near_duplicates`.
_BANDS = 4
_BAND_BITS = 16
_BLOCK = 1 << 20  # Hashes that are compared at once; each takes about 50 bytes.
_MOST_PAIRS = 1 << 22  # Pairs that are in memory at once.
_FEW = 1 << 20  # Pairs from which `stand_ins` chooses at once.
# In the first pass of `groups`, and with `most`, a hash is compared with at most this many hashes with a given value in
# a band. Fewer of 10 million random hashes share a value.
_WINDOW = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """Groups of hashes that are connected by pairs.

    Attributes:
        keys: i64[n], the position of the first hash of the same group. A hash that is not near any other hash
            is its own group.
        chains: bool[n], whether the group of the hash is a chain: not all of its hashes are near to each other.
    """

    keys: np.ndarray
    chains: np.ndarray


def pairs(hashes: np.ndarray, distance: int, most: int | None = None) -> np.ndarray:
    """Find the hashes that differ in at most `distance` bits.

    The benchmark `near_duplicates` shows time and memory for 10^6 random hashes. Both also grow with the number of
    pairs. A large group of similar images, such as drawings on white, has about as many pairs as the square of its
    size.

    Args:
        hashes: u64[n]. `UNKNOWN` is not near any hash.
        distance: Number of bits, 0..`MAX_DISTANCE`.
        most: Limit for time and memory. Each pair is assigned to one of its two hashes. At most this many pairs are
            assigned to a hash. For each value that a band can have, a hash is compared with at most 256 hashes with
            that value. Among random hashes, fewer than 256 share a value. Only large groups of similar images lose
            pairs, and these groups nearly always stay connected. None: all pairs.

    Returns:
        i64[m 2], positions i < j of near hashes, sorted. Each hash is paired with the next equal hash. Only the first
        of several equal hashes is paired with different hashes.
    """
    values, first, inverse = _distinct(hashes)
    found = [first[block] for block in _blocks(values, distance, most, None if most is None else _WINDOW)]
    together = np.concatenate([np.empty((0, 2), np.int64), _equal(hashes, inverse), *found])
    together.sort(axis=1)
    return together[np.lexsort((together[:, 1], together[:, 0]))]


def groups(hashes: np.ndarray, distance: int) -> Groups:
    """Group all hashes that are connected by pairs; see `pairs` for the arguments.

    A crowd of thousands of hashes that are near to each other takes time that grows with its size: hashes are not
    compared if they are known to be in one group. If thousands of hashes have the same 16 bits in a band, but are not
    near to each other, such as those of symmetric images, the time grows with the square of their number.
    """
    values, first, inverse = _distinct(hashes)
    roots, degrees, waiting = np.arange(len(values)), np.zeros(len(values), np.int64), []
    for block in _blocks(values, distance, window=_WINDOW):
        degrees += np.bincount(block.reshape(-1), minlength=len(values))
        waiting.append(block)
        if sum(map(len, waiting)) > _MOST_PAIRS:
            roots, waiting = joined(roots, waiting), []
    roots, crowded = _with_crowds(values, distance, joined(roots, waiting))
    sizes = np.bincount(roots, minlength=len(values))[roots]
    # In a group of k hashes that are all near to each other, each hash has k - 1 pairs.
    chains = np.bincount(roots, degrees < sizes - 1, minlength=len(values))[roots] > 0
    cut, order = np.unique(roots[crowded & (sizes > 1)]), np.argsort(roots, kind="stable")
    for start, size in zip(np.searchsorted(roots[order], cut).tolist(), sizes[cut].tolist()):
        members = order[start : start + size]
        chains[members] = _is_chain(values[members], distance)  # Not all pairs of this group were found.
    first_of_root = np.full(len(values), len(hashes), np.int64)
    np.minimum.at(first_of_root, roots, first)
    known = inverse >= 0
    keys = np.arange(len(hashes))
    keys[known] = first_of_root[roots][inverse[known]]
    result = np.zeros(len(hashes), bool)
    result[known] = chains[inverse[known]]
    return Groups(keys=keys, chains=result)


def _with_crowds(values: np.ndarray, distance: int, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add the pairs that `_WINDOW` left out to groups, unless both hashes are in one group already.

    Args:
        values: u64[n], different hashes.
        distance: As in `pairs`.
        roots: i64[n], for each hash, the first member of its group.

    Returns:
        The roots with these pairs, and bool[n], whether pairs of a hash may have been left out before.
    """
    crowded = np.zeros(len(values), bool)
    for band, radius in zip(_bands(values), _radii(distance)):
        if radius < 0 or np.bincount(band).max(initial=0) <= _WINDOW:
            continue
        order = np.lexsort((roots, band))
        keys = band[order]
        starts = _starts(keys)
        for mask in _masks(radius):
            before, other = roots, keys ^ mask
            crowd = np.flatnonzero((other >= keys) & (starts[other + 1] - starts[other] > _WINDOW))
            crowded[order[crowd]] = True
            for left, right in _apart(keys, roots[order], starts, crowd, mask):
                near = _bits(values[order[left]] ^ values[order[right]]) <= distance
                if near.any():
                    roots = joined(roots, [np.stack([order[left[near]], order[right[near]]], axis=1)])
            if roots is not before:
                order = np.lexsort((roots, band))
    return roots, crowded


def _apart(
    keys: np.ndarray, roots: np.ndarray, starts: np.ndarray, crowd: np.ndarray, mask: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of positions with keys that differ exactly by a mask, and with different roots.

    Args:
        keys: i64[n], ascending.
        roots: i64[n], ascending among equal keys.
        starts: The result of `_starts`.
        crowd: i64[k], the first positions of the pairs.
        mask: The bits that differ.
    """
    both, other = keys * len(keys) + roots, keys[crowd] ^ mask
    same = other * len(keys) + roots[crowd]
    after = np.searchsorted(both, same, side="right")
    yield from _ranges(crowd, after, starts[other + 1] - after)
    if mask:
        yield from _ranges(crowd, starts[other], np.searchsorted(both, same) - starts[other])


def _is_chain(values: np.ndarray, distance: int) -> bool:
    """Return whether some of the hashes u64[n] are not near to each other."""
    ones = [int((values >> np.uint64(bit) & np.uint64(1)).sum()) for bit in range(64)]
    center = sum(1 << bit for bit, count in enumerate(ones) if 2 * count > len(values))
    radii = _bits(values ^ np.uint64(center)).astype(np.int64)
    # Two hashes that are not near to each other have radii with a sum above the distance. The larger one is above half.
    for one in np.argsort(-radii, kind="stable")[: int((radii > distance // 2).sum())].tolist():
        others = values[radii > distance - radii[one]]
        if (_bits(others ^ values[one]) > distance).any():
            return True
    return False


def stand_ins(hashes: np.ndarray, distance: int, ranks: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Choose hashes that stay, so that no hash is near to another one that stays.

    The hashes are visited by rank. A hash stays if it is in `kept`, or if it is not near to an earlier hash that stays.

    Args:
        hashes: u64[n], different hashes. `UNKNOWN` is not near any hash.
        distance: As in `pairs`.
        ranks: i64[n], a different number for each hash. The hashes in `kept` have the smallest numbers.
        kept: bool[n].

    Returns:
        i64[n]. For a hash that stays, its own position. For another hash, the position of the first near hash that
        stays.
    """
    result, order = np.arange(len(hashes)), np.argsort(ranks)
    order = order[hashes[order] != UNKNOWN]
    result[order] = order[_visited(hashes[order], distance, kept[order])]
    return result


def _visited(hashes: np.ndarray, distance: int, kept: np.ndarray) -> np.ndarray:
    """Return the result of `stand_ins` for hashes in the order of the visits.

    If there are too many pairs, such as in a crowd, one half is visited after the other. The hashes of the first half
    that stay are few, and claim most hashes of the second half.
    """
    found = _few(hashes, distance)
    if found is not None:
        return _claimed(found, kept)
    result, half = np.arange(len(hashes)), len(hashes) // 2
    result[:half] = _visited(hashes[:half], distance, kept[:half])
    stays = np.flatnonzero(result[:half] == np.arange(half))
    near = _first_near(hashes[stays], hashes[half:], distance)
    claimed = (near < len(stays)) & ~kept[half:]
    result[half:][claimed] = stays[near[claimed]]
    rest = half + np.flatnonzero(~claimed)
    result[rest] = rest[_visited(hashes[rest], distance, kept[rest])]
    return result


def _few(hashes: np.ndarray, distance: int) -> np.ndarray | None:
    """Return all pairs of near hashes, i64[m 2]. None: there are too many."""
    found, count = [np.empty((0, 2), np.int64)], 0
    for block in _blocks(hashes, distance):
        found.append(block)
        count += len(block)
        if count > _FEW and len(hashes) > 2:
            return None
    return np.concatenate(found)


def _claimed(near: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return the result of `_visited` from all pairs of near hashes, i64[m 2]."""
    earlier, later = np.sort(near, axis=1).T
    order = np.lexsort((later, earlier))
    order = order[~kept[later[order]]]
    earlier, later, result = earlier[order], later[order], np.arange(len(kept))
    keepers, starts = np.unique(earlier, return_index=True)
    for keeper, others in zip(keepers.tolist(), np.split(later, starts[1:])):
        if result[keeper] == keeper:
            result[others[result[others] == others]] = keeper
    return result


def _first_near(index: np.ndarray, hashes: np.ndarray, distance: int) -> np.ndarray:
    """Return i64[n], for each hash, the first position of a near hash in `index`.

    If there is none, return the length of `index`.
    """
    first = np.full(len(hashes), len(index))
    for band, other_band, radius in zip(_bands(index), _bands(hashes), _radii(distance)):
        order = np.argsort(band, kind="stable")
        starts = _starts(band[order])
        for mask in _masks(radius):
            keys = other_band ^ mask
            for left, right in _ranges(np.arange(len(hashes)), starts[keys], starts[keys + 1] - starts[keys]):
                positions = order[right]
                near = _bits(hashes[left] ^ index[positions]) <= distance
                np.minimum.at(first, left[near], positions[near])
    return first


def joined(roots: np.ndarray, blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Add pairs to groups.

    Args:
        roots: i64[n], for each position, any position of the same group. `arange(n)`: each one is its own group.
        blocks: Pairs of positions, i64[m 2] each.

    Returns:
        i64[n], the first member of the group of each position.
    """
    count = len(roots)
    left, right = np.concatenate([np.stack([np.arange(count), roots], axis=1), *blocks]).T
    firsts = np.arange(count)
    # If a pair connects two groups, both groups get the smaller of their two first members. This is repeated until no
    # pair connects two groups. scipy's `connected_components` is not used, because its import takes 0.2 s of each
    # conversion.
    while (apart := firsts[left] != firsts[right]).any():
        left, right = left[apart], right[apart]
        ends = np.sort(np.stack([firsts[left], firsts[right]]), axis=0)
        np.minimum.at(firsts, ends[1], ends[0])
        while ((earlier := firsts[firsts]) != firsts).any():
            firsts = earlier
    return firsts


def distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the number of bits in which hashes differ, u8[n]; both arrays are u64[n]."""
    return _bits(left ^ right)


def _bits(numbers: np.ndarray) -> np.ndarray:
    """Return the number of bits that are 1, u8[n], of u64[n] or of i64[n] without negative numbers."""
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(numbers))
    rows = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, 8)  # NumPy 1.
    return np.unpackbits(rows, axis=1).sum(1, dtype=np.uint8)


def _distinct(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct known hashes, their first positions, and each position's index (-1: unknown)."""
    values, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    unknown = int(len(values) > 0 and values[0] == UNKNOWN)  # 0 is the smallest hash.
    return values[unknown:], first[unknown:], inverse - unknown


def _equal(hashes: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Return the positions of each hash and of the next equal hash, i64[m 2]."""
    order = np.argsort(inverse, kind="stable")
    chained = np.stack([order[:-1], order[1:]], axis=1)
    same = (inverse[order[:-1]] == inverse[order[1:]]) & (inverse[order[1:]] >= 0)
    return np.asarray(chained[same])


def _blocks(
    values: np.ndarray, distance: int, most: int | None = None, window: int | None = None
) -> Iterator[np.ndarray]:
    """Yield each pair of near hashes once, in blocks i64[m 2] of positions in the distinct `values`.

    Args:
        values: u64[n].
        distance: As in `pairs`.
        most: As in `pairs`.
        window: A hash is compared with at most this many hashes that have a given value in a band. None: with all.
    """
    bands, radii = _bands(values), _radii(distance)
    left_over = np.full(len(values), np.iinfo(np.int64).max if most is None else most)  # Pairs that a hash may get.
    limit = len(values) if window is None else window
    for band, radius in enumerate(radii):
        if radius < 0:
            continue
        order = np.argsort(bands[band], kind="stable")
        ordered, keys = values[order], bands[band][order]
        starts, positions = _starts(keys), np.arange(len(keys))
        for mask in _masks(radius):
            begin, counts = _candidates(keys, starts, mask)
            counts = np.where(left_over[order] > 0, np.minimum(counts, limit), 0)
            for left, right in _ranges(positions, begin, counts):
                near = np.flatnonzero(_bits(ordered[left] ^ ordered[right]) <= distance)
                left, right = order[left[near]], order[right[near]]
                for before in range(band):  # A pair that an earlier band has found is not found again.
                    new = _bits(bands[before][left] ^ bands[before][right]) > radii[before]
                    left, right = left[new], right[new]
                if most is not None:
                    kept = _ranks(left) < left_over[left]
                    left, right = left[kept], right[kept]
                    np.subtract.at(left_over, left, 1)
                if len(left):
                    yield np.stack([left, right], axis=1)


def _radii(distance: int) -> list[int]:
    """Return the limit of each band."""
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"the distance must be from 0 to {MAX_DISTANCE} bits, not {distance}")
    return [(distance + 1 + band) // _BANDS - 1 for band in range(_BANDS)]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return i64[n], the position of each value in its run of equal values."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])
    return np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))


def _bands(values: np.ndarray) -> list[np.ndarray]:
    """Return the bands of hashes, i64[n] below 2^16 each. Band b has the bits b, b + 4, b + 8 and so on.

    Neighboring bits depend on each other. Bands of neighboring bits would have fewer different values.
    """
    bits = np.unpackbits(values.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)
    parts = [np.packbits(bits[:, band::_BANDS], axis=1) for band in range(_BANDS)]
    return [part[:, 0].astype(np.int64) << 8 | part[:, 1] for part in parts]


def _masks(radius: int) -> np.ndarray:
    """Return all 16-bit masks in which at most `radius` bits are 1, i64[k]."""
    masks = np.arange(1 << _BAND_BITS)
    bits = np.unpackbits(masks.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1).sum(1)
    return masks[bits <= radius]


def _starts(keys: np.ndarray) -> np.ndarray:
    """Return i64[2^16 + 1], for each possible key, the number of smaller keys."""
    return np.searchsorted(keys, np.arange((1 << _BAND_BITS) + 1))


def _candidates(keys: np.ndarray, starts: np.ndarray, mask: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the positions with keys that differ exactly by a mask, each pair at its smaller position.

    Args:
        keys: i64[n], ascending.
        starts: The result of `_starts`.
        mask: The bits that differ.

    Returns:
        For each position, the first other position and the number of positions from there, i64[n] each.
    """
    other = keys ^ mask
    begin = np.arange(1, len(keys) + 1) if mask == 0 else starts[other]
    return begin, np.where(other >= keys, starts[other + 1] - begin, 0)


def _ranges(positions: np.ndarray, begin: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of each position and the `counts` positions from `begin`, in blocks.

    All arrays are i64[n].
    """
    ends = np.cumsum(counts)
    first = 0
    while first < len(positions):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _BLOCK, side="right")))
        block = counts[first:last]
        left = np.repeat(positions[first:last], block)
        right = np.arange(len(left)) + np.repeat(begin[first:last] - (ends[first:last] - block - done), block)
        yield left, right
        first = last
