"""The nearest records by their features, and pairs that show the same picture."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import numpy as np

from tfrecord_tools.errors import UserError

COUNT = 30  # Neighbors per record, as in the measurements of `COUNT` in docs/audit.md.
_CANDIDATES = 64  # Nearest records per record, near-duplicates included.
_BLOCK = 4096  # Rows of features that are read at once.
_BLOCK_BYTES = 128_000_000  # Memory for the similarities of a block of records to all others.
_MOST_EXACT = 120_000  # Records. On two processor cores, exact neighbors take ten minutes.
_SAMPLED_PAIRS = 400_000
_CLOSE, _CLOSER = 0.16, 0.05  # Shares of pairs at which the distances are measured. Near-duplicates are fewer.
_NONE = -2.0  # Below every cosine similarity.
_LEAST_SIMILARITY = 0.5  # Near-duplicates have at least this similarity, whatever the network sees.
_SMALLEST = 1e-6  # Smallest distance that float32 tells from 0.
_FALSE_PAIRS = 1e-5  # Share of different pictures that may be taken for near-duplicates.


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """The nearest records of each record, without its near-duplicates.

    Attributes:
        rows: i64[n COUNT], the nearest first; -1 if there are fewer.
        similarities: f32[n COUNT], cosine similarities; NaN if there are fewer.
        pairs: i64[m 2], near-duplicates, the smaller row first.
        pair_similarities: f32[m].
        threshold: Least similarity of near-duplicates.
    """

    rows: np.ndarray
    similarities: np.ndarray
    pairs: np.ndarray
    pair_similarities: np.ndarray
    threshold: float


def directions(features: np.ndarray) -> np.ndarray:
    """Return features f32[m c] as directions of length 1: f32[m c].

    The square root comes first (the Hellinger distance, if features are counts). It keeps a few large features from
    deciding everything. In a test with 40 strangers among 2,002 photographs, 40 instead of 36 strangers are among the
    50 records that are farthest from their neighbors.
    """
    roots = np.sign(features) * np.sqrt(np.abs(features))
    lengths = np.linalg.norm(roots, axis=1, keepdims=True)
    return np.asarray(roots / np.where(lengths > 0, lengths, 1), np.float32)


def find(
    features: np.ndarray, labels: np.ndarray, seed: int = 0, progress: Callable[[int], object] | None = None
) -> Neighbors:
    """Find the nearest records of each record.

    Args:
        features: f32[n c], may be mapped from disk. The directions are held in memory.
        labels: i64[n].
        seed: Seed of the pairs that are sampled for the threshold.
        progress: Called with the number of records of each finished block.

    Raises:
        UserError: There are more than 120,000 records, and Faiss is not installed.
    """
    vectors = np.empty(features.shape, np.float32)
    for first in range(0, len(features), _BLOCK):
        block = slice(first, first + _BLOCK)
        vectors[block] = directions(features[block])
    threshold = _threshold(vectors, labels, seed)
    rows = np.full((len(vectors), COUNT), -1, np.int64)
    similarities = np.full((len(vectors), COUNT), np.nan, np.float32)
    pairs, pair_similarities = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    for start, numbers, values in _candidates(vectors, threshold):
        own = np.arange(start, start + len(numbers))
        near = (values >= threshold) & (numbers != own[:, None])
        left, right = own[np.nonzero(near)[0]], numbers[near]
        pairs.append(np.stack([np.minimum(left, right), np.maximum(left, right)], 1))
        pair_similarities.append(values[near])
        others = ~near & (numbers != own[:, None]) & (numbers >= 0)
        order = np.argsort(~others, axis=1, kind="stable")[:, :COUNT]  # Keeps the nearest first.
        width = order.shape[1]
        valid = np.take_along_axis(others, order, 1)
        rows[own, :width] = np.where(valid, np.take_along_axis(numbers, order, 1), -1)
        similarities[own, :width] = np.where(valid, np.take_along_axis(values, order, 1), np.nan)
        if progress:
            progress(len(numbers))
    unique, where = np.unique(np.concatenate(pairs), axis=0, return_index=True)
    return Neighbors(rows, similarities, unique, np.concatenate(pair_similarities)[where], threshold)


def _threshold(vectors: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Return the similarity that `_FALSE_PAIRS` of the pairs of different pictures of a class reach.

    The logarithm of the distance (1 - cosine) is taken as normally distributed. The distribution is fitted to pairs
    that are close, but not as close as near-duplicates. On photographs, about 1 of 100,000 pairs reaches it.
    """
    random = np.random.default_rng(seed)
    left = random.integers(len(labels), size=_SAMPLED_PAIRS)
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], labels[left])
    count = np.bincount(labels)[labels[left]]
    right = order[first + (random.random(len(left)) * count).astype(np.int64)]
    values = np.concatenate(
        [
            np.einsum("ij,ij->i", vectors[left[i : i + 8192]], vectors[right[i : i + 8192]])
            for i in range(0, len(left), 8192)
        ]
    )[left != right]
    if not len(values):
        return 1.0
    close, closer = np.log(np.quantile(np.maximum(1 - values, _SMALLEST), [_CLOSE, _CLOSER]))
    z_close, z_closer, z_false = (NormalDist().inv_cdf(share) for share in (_CLOSE, _CLOSER, _FALSE_PAIRS))
    distance = np.exp(closer + (closer - close) * (z_false - z_closer) / (z_closer - z_close))
    return max(float(1 - distance), _LEAST_SIMILARITY)


def _candidates(vectors: np.ndarray, threshold: float) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield blocks: the first row, and rows i64[b k] and similarities f32[b k] of the nearest records."""
    if len(vectors) > _MOST_EXACT:
        yield from _approximate(vectors)
        return
    size = max(1, _BLOCK_BYTES // (4 * len(vectors)))
    for start in range(0, len(vectors), size):
        yield start, *_nearest(vectors[start : start + size] @ vectors.T, threshold)


def _nearest(similarities: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and similarities of the nearest records.

    If a record has many near-duplicates, only some of them are returned, so that other neighbors are left.
    """
    count = min(_CANDIDATES, similarities.shape[1])
    rows = np.argpartition(similarities, -count, axis=1)[:, -count:]
    values = np.take_along_axis(similarities, rows, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    rows, values = np.take_along_axis(rows, order, 1), np.take_along_axis(values, order, 1)
    twins = count - COUNT
    crowded = np.flatnonzero((values >= threshold).sum(1) > (twins if similarities.shape[1] > count else count))
    if len(crowded):
        far = similarities[crowded]
        far[far >= threshold] = _NONE
        best = np.argpartition(far, -COUNT, axis=1)[:, -COUNT:]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(far, best, 1), axis=1, kind="stable"), 1)
        rows[crowded, twins:], values[crowded, twins:] = best, np.take_along_axis(far, best, 1)
    return np.where(values > _NONE, rows, -1), values


def _approximate(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the nearest records as Faiss finds them in the closest cells of an inverted file."""
    if importlib.util.find_spec("faiss") is None:
        raise UserError(
            f"the audit of {len(vectors):,} records needs Faiss, because exact neighbors would take hours. Install it"
            ' with pip install "tfrecord-tools[audit]".'
        )
    import faiss

    count, width = vectors.shape
    cells = int(4 * count**0.5)
    quantizer = faiss.IndexFlatIP(width)
    found: Any = faiss.IndexIVFFlat(quantizer, width, cells, faiss.METRIC_INNER_PRODUCT)
    found.train(vectors[:: max(1, count // (64 * cells))])
    found.add(vectors)
    found.nprobe = 16
    size = 16_384
    for start in range(0, count, size):
        values, rows = found.search(vectors[start : start + size], _CANDIDATES)
        yield start, rows, values
