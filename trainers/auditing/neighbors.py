"""Find the nearest records of each record by features, and pairs of records with the same picture."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import near_duplicates
from trainers.auditing import folding

COUNT = 30  # Neighbors per record.
_CANDIDATES = 64  # Number of nearest records that a search returns per record. They include near-duplicates.
_BLOCK = 4096  # Number of rows of features that are read at once.
_BLOCK_BYTES = 128_000_000  # Memory for the similarities of a block of records to all others.
# Maximum number of records for an exact search. A search of 120,000 records takes ten minutes on two processor cores.
_MOST_EXACT = 120_000
_CELLS = 16  # Number of cells (parts of the dataset) that Faiss searches first.
_SAMPLED_PAIRS = 100_000  # With this number of pairs, the threshold distance varies by 1 % from draw to draw.
# For wide features, fewer pairs are sampled: this number of values in total, but at least 10,000 pairs.
_LEAST_SAMPLED, _SAMPLED_NUMBERS = 10_000, 128_000_000
# Shares of the sampled pairs that are closer than the two measured distances. Near-duplicates are a smaller share.
_CLOSE, _CLOSER = 0.16, 0.05
_NONE = -2.0  # Below every cosine similarity.
# Maximum number of near-duplicates of a record that one search adds, the most similar ones. A thousand frames of one
# video would otherwise have half a million pairs. With 32 for each, all frames are still connected.
_MOST_TWINS = 32
# If near-duplicates hide the other neighbors, the search is repeated with only one in this number of near-duplicates.
_THINNED = 16
_LEAST_SIMILARITY = 0.5  # Near-duplicates have at least this similarity for every network.
_EQUAL = 1e-5  # Distances of equal features are below this in float32, also for 25,088 features.
_FALSE_PAIRS = 1e-5  # Share of the pairs of different pictures that may be called near-duplicates by mistake.
# A function that takes records i64[b], and the records to leave out as bool[n]. It returns the nearest records i64[b k]
# of each record, and their similarities f32[b k].
_Search = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """The nearest records of each record, without its near-duplicates.

    Attributes:
        rows: i64[n COUNT], rows of the neighbors, the nearest first. If there are fewer neighbors, the rest is -1.
        similarities: f32[n COUNT], cosine similarities. If there are fewer neighbors, the rest is NaN.
        pairs: i64[m 2], rows of near-duplicates, the smaller row first.
        pair_similarities: f32[m], cosine similarity of each pair.
        threshold: Smallest cosine similarity of near-duplicates.
    """

    rows: np.ndarray
    similarities: np.ndarray
    pairs: np.ndarray
    pair_similarities: np.ndarray
    threshold: float


def directions(features: np.ndarray) -> np.ndarray:
    """Return vectors of length 1, f32[m c], with the directions of the features f32[m c].

    First, each feature is replaced by the square root of its absolute value, with its sign. (For counts, this gives the
    Hellinger distance.) Without the square root, a few large features would decide the similarity. In a test with 40
    off-topic images among 2,002 photographs, 40 of them are among the 50 records that are farthest from their
    neighbors. Without the square root, only 36 are.
    """
    roots = np.sign(features) * np.sqrt(np.abs(features))
    lengths = np.linalg.norm(roots, axis=1, keepdims=True)
    return np.asarray(roots / np.where(lengths > 0, lengths, 1), np.float32)


def find(
    features: np.ndarray, labels: np.ndarray, seed: int = 0, progress: Callable[[int], object] | None = None
) -> Neighbors:
    """Find the nearest records of each record.

    The search for a record may find only near-duplicates and no other neighbors. It is then repeated
    without most of these near-duplicates. So each record of a large set of nearly equal pictures gets neighbors outside
    of the set, and the time grows only linearly with the size of the set.

    Args:
        features: f32[n c], which may be a memory-mapped file. The vectors of `directions` are held in memory.
        labels: i64[n].
        seed: Seed of the pairs that are sampled for the threshold.
        progress: Called with the number of records of each finished block.

    Raises:
        UserError: Faiss is needed for more than 120,000 records but is not installed, or all features are equal.
    """
    vectors = _vectors(features)
    search, size = _approximate(vectors, labels) if len(vectors) > _MOST_EXACT else _exact(vectors)
    found = _Found(len(vectors), _threshold(vectors, labels, seed))
    left_out, asked = np.zeros(len(vectors), bool), np.arange(len(vectors))
    while len(asked):
        crowded, hiding = [], []
        for start in range(0, len(asked), size):
            own = asked[start : start + size]
            hidden, twins = found.add(own, *search(own, left_out))
            crowded.append(hidden)
            hiding.append(twins)
            if progress and not left_out.any():
                progress(len(own))
        asked, together = np.concatenate(crowded), np.unique(np.concatenate(hiding))
        left_out[together] = np.arange(len(together)) % _THINNED > 0
    return found.neighbors()


def _vectors(features: np.ndarray) -> np.ndarray:
    """Return the directions of all features."""
    vectors, differ = np.empty(features.shape, np.float32), False
    for first in range(0, len(features), _BLOCK):
        block = slice(first, first + _BLOCK)
        vectors[block] = directions(features[block])
        differ = differ or bool(((vectors[block] - vectors[0]) ** 2).sum(1).max() > 2 * _EQUAL)
    if not differ:
        raise UserError(
            "the network computes the same features for all images, so the images cannot be compared. Pass another"
            " network as --features_from."
        )
    return vectors


class _Found:
    """The neighbors and near-duplicates that earlier searches have found."""

    def __init__(self, count: int, threshold: float) -> None:
        self._count, self._threshold = count, threshold
        self._rows = np.full((count, COUNT), -1, np.int64)
        self._similarities = np.full((count, COUNT), np.nan, np.float32)
        self._pairs, self._pair_similarities = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]

    def add(self, own: np.ndarray, numbers: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add the result of a search.

        Args:
            own: i64[b], the records that were searched for.
            numbers: i64[b k], the nearest records of each, the nearest first. -1: there are no more.
            values: f32[b k], similarities.

        Returns:
            Two arrays of record numbers. First, the records that got near-duplicates instead of enough other neighbors.
            Second, these near-duplicates.
        """
        valid = (numbers >= 0) & (numbers != own[:, None])
        near = valid & (values >= self._threshold)
        kept = near & (np.cumsum(near, axis=1) <= _MOST_TWINS)
        left, right = own[np.nonzero(kept)[0]], numbers[kept]
        self._pairs.append(np.stack([np.minimum(left, right), np.maximum(left, right)], 1))
        self._pair_similarities.append(values[kept])
        others = valid & ~near
        order = np.argsort(~others, axis=1, kind="stable")[:, :COUNT]  # Stable, so that the nearest stay first.
        known, width = np.take_along_axis(others, order, 1), order.shape[1]
        self._rows[own, :width] = np.where(known, np.take_along_axis(numbers, order, 1), -1)
        self._similarities[own, :width] = np.where(known, np.take_along_axis(values, order, 1), np.nan)
        more = numbers.shape[1] < len(self._rows)  # Otherwise, the search has returned all records.
        hidden = (others.sum(1) < COUNT) & near.any(1) & (numbers >= 0).all(1) & more
        return own[hidden], np.unique(numbers[hidden][near[hidden]])

    def neighbors(self) -> Neighbors:
        pairs, similarities = distinct(
            np.concatenate(self._pairs), np.concatenate(self._pair_similarities), self._count
        )
        return Neighbors(self._rows, self._similarities, pairs, similarities, self._threshold)


def distinct(pairs: np.ndarray, similarities: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each pair once, in ascending order, with its largest similarity.

    Args:
        pairs: i64[m 2], rows of records.
        similarities: f[m].
        count: Number of records.
    """
    order = np.argsort(-similarities, kind="stable")
    # One number per pair is sorted in a sixth of the time of two numbers.
    numbers, first = np.unique(pairs[order, 0] * count + pairs[order, 1], return_index=True)
    return np.stack(np.divmod(numbers, count), 1), similarities[order[first]]


def _threshold(vectors: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Return the threshold: the least similarity of near-duplicates.

    Only a share `_FALSE_PAIRS` of the pairs of different pictures of a class should reach the threshold. The logarithm
    of the distance (1 - cosine) is assumed to be normally distributed. The distribution is fitted to pairs that are
    close, but not as close as near-duplicates. On photographs, about 1 of 100,000 pairs reaches the threshold. Pairs
    with equal features are left out of the fit. They always reach the threshold.
    """
    size = min(_SAMPLED_PAIRS, max(_LEAST_SAMPLED, _SAMPLED_NUMBERS // vectors.shape[1]))
    left, right = _pairs_of_a_class(labels, size, seed)
    distances = 1 - _cosines(vectors, left, right)[left != right]
    distances = distances[distances > _EQUAL]
    if not len(distances):
        return 1 - _EQUAL
    close, closer = np.log(np.quantile(distances, [_CLOSE, _CLOSER]))
    distance = np.exp(_extrapolated(close, closer, _FALSE_PAIRS))
    return min(max(float(1 - distance), _LEAST_SIMILARITY), 1 - _EQUAL)


def hash_distance(hashes: np.ndarray, labels: np.ndarray, seed: int = 0) -> int:
    """Return how many bits may differ at most between the hashes of near-duplicates.

    Hashes of different photographs differ in about 32 of 64 bits. Hashes of drawings, or of objects on a plain
    background, differ in fewer bits, so equal hashes prove little. The distance is normally distributed, and is fitted
    as in `find`. Pairs within `near_duplicates.DEFAULT_DISTANCE` may be copies, so they are left out of the fit.

    Args:
        hashes: u64[n], perceptual hashes; 0 if unknown.
        labels: i64[n].
        seed: Seed of the pairs that are sampled.

    Returns:
        At most `near_duplicates.DEFAULT_DISTANCE`. About 1 of 100,000 pairs of different pictures of a class is within
        this distance, or one pair of a small dataset. -1: even equal hashes do not make a near-duplicate.
    """
    largest = near_duplicates.DEFAULT_DISTANCE
    known = hashes != near_duplicates.UNKNOWN
    hashes, labels = hashes[known], labels[known]
    count = len(hashes)
    if count < 2:
        return largest
    left, right = _pairs_of_a_class(labels, _SAMPLED_PAIRS, seed)
    values, counts = np.unique(near_duplicates.distances(hashes[left], hashes[right]), return_counts=True)
    values, counts = values[values > largest], counts[values > largest]
    if not len(values):
        return largest
    # Distances are even numbers, so their quantiles are interpolated.
    close, closer = np.interp([_CLOSE, _CLOSER], np.cumsum(counts) / counts.sum(), values)
    limit = _extrapolated(close, closer, max(_FALSE_PAIRS, 2 / (count * (count - 1))))
    return int(np.clip(np.floor(limit), -1, largest))


def cosines(features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the cosine similarities of pairs i64[m 2] of features f32[n c], f32[m]."""
    values = np.empty(len(pairs), np.float32)
    for first in range(0, len(pairs), _BLOCK):
        left, right = (directions(features[rows]) for rows in pairs[first : first + _BLOCK].T)
        values[first : first + _BLOCK] = np.einsum("ij,ij->i", left, right)
    return values


def _pairs_of_a_class(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of records of a class, i64[size] each. A record may be drawn with itself."""
    random = np.random.default_rng(seed)
    left = random.integers(len(labels), size=size)
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], labels[left])
    count = np.bincount(labels)[labels[left]]
    right = order[first + (random.random(len(left)) * count).astype(np.int64)]
    return left, right


def _cosines(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [
            np.einsum("ij,ij->i", vectors[left[i : i + 8192]], vectors[right[i : i + 8192]])
            for i in range(0, len(left), 8192)
        ]
    )


def _extrapolated(close: float, closer: float, share: float) -> float:
    """Return the quantile `share` of the normal distribution with the quantiles of `_CLOSE` and `_CLOSER`."""
    z_close, z_closer, z_false = (NormalDist().inv_cdf(value) for value in (_CLOSE, _CLOSER, share))
    return closer + (closer - close) * (z_false - z_closer) / (z_closer - z_close)


def _exact(vectors: np.ndarray) -> tuple[_Search, int]:
    """Return a search that compares with all records, and the maximum number of records for one call."""
    count = min(_CANDIDATES, len(vectors))

    def search(own: np.ndarray, left_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        similarities = vectors[own] @ vectors.T
        similarities[:, left_out] = _NONE
        rows = np.argpartition(similarities, -count, axis=1)[:, -count:]
        values = np.take_along_axis(similarities, rows, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows, values = np.take_along_axis(rows, order, 1), np.take_along_axis(values, order, 1)
        return np.where(values > _NONE, rows, -1), values

    return search, max(1, _BLOCK_BYTES // (4 * len(vectors)))


def _approximate(vectors: np.ndarray, labels: np.ndarray) -> tuple[_Search, int]:
    """Return a search by Faiss in the closest cells, and the maximum number of records for one call."""
    if importlib.util.find_spec("faiss") is None:
        raise UserError(
            f"the audit of {len(vectors):,} records needs Faiss, because a search without Faiss would take hours."
            ' Install Faiss with pip install "tfrecord-tools[audit]".'
        )
    faiss: Any = importlib.import_module("faiss")  # The type hints of Faiss lack arguments.
    count, width = vectors.shape
    cells = int(4 * count**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[folding.subset(labels, 64 * cells)])
    index.add(vectors)

    def search(own: np.ndarray, left_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        searched = faiss.IDSelectorBitmap(np.packbits(~left_out, bitorder="little"))
        rows = np.empty((len(own), _CANDIDATES), np.int64)
        values = np.empty(rows.shape, np.float32)
        few, probes = np.arange(len(own)), _CELLS
        while len(few):  # If left-out near-duplicates fill the closest cells, more cells are searched.
            parameters = faiss.SearchParametersIVF(sel=searched, nprobe=min(probes, cells))
            values[few], rows[few] = index.search(vectors[own[few]], _CANDIDATES, params=parameters)
            few = few[rows[few, COUNT] < 0] if probes < cells else few[:0]
            probes *= 16
        return rows, values

    return search, 16_384
