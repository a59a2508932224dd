"""How good predictions are: counts, rates, curves and their uncertainty, of numpy arrays alone.

`labels` are i64[n], `probabilities` f32[n classes] and `scores` f32[n], the probability of the second of two classes.
"""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np

_LEAST = 1e-7  # A probability below it counts as this in the loss, as in Keras.
BINS = 10


@dataclasses.dataclass(frozen=True)
class Interval:
    """Where a share may lie, 95 times of 100."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve over all thresholds.

    Attributes:
        x: f64[k]
        y: f64[k]
        area: Below it.
    """

    x: np.ndarray
    y: np.ndarray
    area: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threshold:
    """A threshold of the second class's probability, and the share that is right with it."""

    value: float
    accuracy: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerClass:
    """How each class fares; f64[classes], NaN where there is nothing to divide by.

    Attributes:
        count: i64[classes], its images.
        precision: Of the images that are said to be of it, the share that is.
        recall: Of its images, the share that is found.
        f1: Harmonic mean of both.
    """

    count: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliability:
    """Confidence against truth, in bins of equal width in 0..1.

    Attributes:
        count: i64[bins], the images with a confidence within.
        confidence: f64[bins], their mean; NaN where there is none.
        accuracy: f64[bins], the share that is right.
        error: The expected calibration error: mean distance of the two, weighted by count.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def wilson(right: int, count: int, together: int = 1) -> Interval:
    """Wilson's interval of a share: right also for few images and near 0 and 1, where the normal one is not.

    Args:
        right: How many.
        count: Of how many.
        together: Of how many such intervals all are to hold the truth 95 times of 100 (Bonferroni).
    """
    if not count:
        return Interval(0.0, 1.0)
    z = statistics.NormalDist().inv_cdf(1 - 0.025 / together)
    share, z2 = right / count, z**2 / count
    middle = share + z2 / 2
    half = z * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return Interval(max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2)))


def cross_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean negative logarithm of the true class's probability."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(true, _LEAST, 1)).mean())


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts i64[classes classes]: rows are the true classes, columns the predicted ones."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def per_class(counts: np.ndarray) -> PerClass:
    """Rates of each class of a confusion matrix."""
    hits = np.diag(counts).astype(np.float64)
    actual, said = counts.sum(1), counts.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return PerClass(count=actual, precision=hits / said, recall=hits / actual, f1=2 * hits / (actual + said))


def roc(labels: np.ndarray, scores: np.ndarray) -> Curve:
    """True positive rate over false positive rate. Both classes must have images."""
    hits, said, _ = _above(labels, scores)
    x = np.concatenate([[0], (said - hits) / (len(labels) - labels.sum())])
    y = np.concatenate([[0], hits / labels.sum()])
    return Curve(x=x, y=y, area=float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2))


def precision_recall(labels: np.ndarray, scores: np.ndarray) -> Curve:
    """Precision over recall; its area is the average precision, by steps. The second class must have images."""
    hits, said, _ = _above(labels, scores)
    recall, precision = hits / labels.sum(), hits / said
    area = float((np.diff(recall, prepend=0) * precision).sum())
    return Curve(x=np.concatenate([[0], recall]), y=np.concatenate([[1], precision]), area=area)


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> Threshold:
    """The threshold within 0..1, neither of them, with the most right answers; of equal ones the nearest to 0.5.

    It lies in the middle between two scores, so that no rounding of a score decides.
    """
    hits, said, values = _above(labels, scores)
    right = np.concatenate([[0], 2 * hits - said]) + len(labels) - labels.sum()  # Hits and rejected negatives.
    edges = np.concatenate([[1.0], values, [0.0]])
    middles = (edges[1:] + edges[:-1]) / 2
    right = np.where((middles > 0) & (middles < 1), right, -1)  # From 1 on, a score of 1 counts: not "none of them".
    best = np.flatnonzero(right == right.max())
    nearest = best[np.argmin(np.abs(middles[best] - 0.5))]
    return Threshold(value=float(middles[nearest]), accuracy=float(right[nearest] / len(labels)))


def reliability(confidence: np.ndarray, right: np.ndarray) -> Reliability:
    """Bins predictions by their confidence.

    Args:
        confidence: f32[n], the probability of what was predicted.
        right: bool[n], whether it was true.
    """
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(bins, confidence, BINS) / count
        accuracy = np.bincount(bins, right, BINS) / count
    error = np.nansum(np.abs(mean - accuracy) * count) / len(confidence)
    return Reliability(count=count, confidence=mean, accuracy=accuracy, error=float(error))


def _above(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each distinct score, falling: how many of class 1 and how many of all score at least it, and the score."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return np.cumsum(labels[order])[last], last + 1, ordered[last]
