"""Scores of predictions: counts, rates, curves and intervals, computed with NumPy.

`labels` is i64[n], `probabilities` is f32[n classes], and `scores` is f32[n], the probability of the second of two
classes.
"""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np

_Z = statistics.NormalDist().inv_cdf(0.975)
_LEAST = 1e-7  # The loss uses this value instead of lower probabilities, as in Keras.
BINS = 10


@dataclasses.dataclass(frozen=True)
class Interval:
    """The 95 % confidence interval of a proportion, a mean or a difference."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve over all thresholds.

    Attributes:
        x: f64[k], positions on the horizontal axis.
        y: f64[k], positions on the vertical axis.
        area: Area under the curve.
    """

    x: np.ndarray
    y: np.ndarray
    area: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threshold:
    """A threshold for the probability of the second class, and the accuracy with it."""

    value: float
    accuracy: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerClass:
    """Rates of each class, f64[classes]. A rate is NaN if it would be divided by 0.

    This happens if a class has no images, or if no image is predicted as the class.

    Attributes:
        count: i64[classes], number of images of the class.
        precision: Proportion of right predictions among the images that are predicted as the class.
        recall: Proportion of right predictions among the images of the class.
        f1: Harmonic mean of precision and recall.
    """

    count: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliability:
    """Confidence and accuracy, in bins of equal width over the confidence 0..1.

    Attributes:
        count: i64[bins], number of images in the bin.
        confidence: f64[bins], mean confidence of these images; NaN without images.
        accuracy: f64[bins], proportion of right predictions; NaN without images.
        error: Expected calibration error: mean distance of confidence and accuracy, weighted by count.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def wilson(right: float, count: float, together: int = 1) -> Interval:
    """Return Wilson's 95 % interval of the proportion `right` / `count`.

    It is also accurate for few images and for proportions near 0 and 1. The interval from the normal distribution is
    not.

    Args:
        right: Number of right predictions. It need not be a whole number if it is a mean over several models.
        count: Number of predictions. If it is 0, the interval is 0..1.
        together: Number of intervals that are used together. With a probability of 95 %, all of them contain their true
            values (Bonferroni).
    """
    if not count:
        return Interval(0.0, 1.0)
    z = statistics.NormalDist().inv_cdf(1 - 0.025 / together)
    share, z2 = right / count, z**2 / count
    middle = share + z2 / 2
    half = z * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return Interval(max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2)))


def design_effect(values: np.ndarray, units: np.ndarray) -> float:
    """Return the factor by which units increase the variance of a mean; at least 1.

    A unit is a set of similar records, such as copies of an image. Ten records of one unit say less than ten records of
    ten units, because a model that is right for one record of a unit is usually right for all of them. The variance
    with units is computed from the sum of each unit. It is known as cluster-robust variance.

    Args:
        values: f64[n].
        units: i64[n], equal for records of one unit.
    """
    _, numbers, sizes = np.unique(units, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return 1.0
    rest = values - values.mean()
    independent = float((rest**2).sum()) * len(values) / (len(values) - 1)
    together = float((np.bincount(numbers.reshape(-1), rest) ** 2).sum()) * len(sizes) / (len(sizes) - 1)
    return max(1.0, together / independent) if independent else 1.0


def paired(differences: np.ndarray, units: np.ndarray, folds: np.ndarray) -> Interval:
    """Return the 95 % interval of the mean of paired differences.

    A difference is, for example, 1 if only the first of two models is right, and -1 if only the second is. The method
    is that of Bonett and Price (2012) for paired proportions. Two records are added: one for which only the first model
    is right, and one for which only the second is. So the interval of two models with equal answers is short, but its
    length is not 0. Units make the interval longer (see `design_effect`).

    Each fold has its own trainings. By chance, a training can be good or bad for all records of its fold. If the folds
    differ too much for records that are independent, the design effect of the folds is used. Then the t distribution
    replaces the normal one; its degrees of freedom are the number of folds minus 1. So the interval is also right for
    variants with results that depend on the seed.

    Args:
        differences: f64[n], each in -1..1, at least one.
        units: As in `design_effect`. A unit is in one fold.
        folds: i64[n], the fold of each record.
    """
    count = len(differences) + 2
    mean = float(differences.sum()) / count
    variance = (float((differences**2).sum()) + 2) / count - mean**2
    quantile, effect, of_folds = _Z, design_effect(differences, units), design_effect(differences, folds)
    if of_folds > effect:
        quantile, effect = _t(len(np.unique(folds)) - 1), of_folds
    half = quantile * math.sqrt(variance / count * effect)
    return Interval(max(-1.0, mean - half), min(1.0, mean + half))


def _t(freedom: int) -> float:
    """Return the quantile of Student's t distribution for two-sided 95 % intervals."""
    from scipy.special import stdtrit  # Imported here, because most commands do not need it.

    return float(stdtrit(freedom, 0.975))


def corrected(folds: np.ndarray) -> Interval | None:
    """Return the 95 % interval of the mean over folds, by Nadeau and Bengio (2003).

    Any two folds share most of their training records. So their results are not independent, and the usual t interval
    is too short. The variance is corrected for that.

    Args:
        folds: f64[k], the result of each fold.

    Returns:
        The interval; None for fewer than two folds.
    """
    count = len(folds)
    if count < 2:
        return None
    variance = float(folds.var(ddof=1)) * (1 / count + 1 / (count - 1))
    mean, half = float(folds.mean()), _t(count - 1) * math.sqrt(variance)
    return Interval(max(0.0, mean - half), min(1.0, mean + half))


def cross_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean negative logarithm of the probability of the true class."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(true, _LEAST, 1)).mean())


def top_accuracy(labels: np.ndarray, probabilities: np.ndarray, count: int) -> float:
    """Return the proportion of images with a true class that is one of the `count` most probable classes."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities > own[:, None]).sum(1) < count).mean())


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix i64[classes classes]; rows are true classes, columns predicted classes."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def per_class(counts: np.ndarray) -> PerClass:
    """Return the rates of each class of a confusion matrix."""
    hits = np.diag(counts).astype(np.float64)
    actual, predicted = counts.sum(1), counts.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return PerClass(
            count=actual, precision=hits / predicted, recall=hits / actual, f1=2 * hits / (actual + predicted)
        )


def roc(labels: np.ndarray, scores: np.ndarray) -> Curve:
    """Return the ROC curve: x is the false positive rate, y is the true positive rate.

    Both classes must have images.
    """
    hits, positives, _ = _above(labels, scores)
    x = np.concatenate([[0], (positives - hits) / (len(labels) - labels.sum())])
    y = np.concatenate([[0], hits / labels.sum()])
    return Curve(x=x, y=y, area=float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2))


def precision_recall(labels: np.ndarray, scores: np.ndarray) -> Curve:
    """Return a curve: x is the recall, y is the precision, and the area is the average precision.

    The second class must have images.
    """
    hits, positives, _ = _above(labels, scores)
    recall, precision = hits / labels.sum(), hits / positives
    area = float((np.diff(recall, prepend=0) * precision).sum())
    return Curve(x=np.concatenate([[0], recall]), y=np.concatenate([[1], precision]), area=area)


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> Threshold:
    """Return the threshold above 0 and below 1 with the highest accuracy.

    If several thresholds have it, the one nearest to 0.5 is returned. The threshold lies in the middle between two
    scores, so that rounding of a score does not change a prediction.
    """
    hits, positives, values = _above(labels, scores)
    right = np.concatenate([[0], 2 * hits - positives]) + len(labels) - labels.sum()  # True positives + true negatives.
    edges = np.concatenate([[1.0], values, [0.0]])
    middles = (edges[1:] + edges[:-1]) / 2
    right = np.where((middles > 0) & (middles < 1), right, -1)  # 0 and 1 are excluded.
    best = np.flatnonzero(right == right.max())
    nearest = best[np.argmin(np.abs(middles[best] - 0.5))]
    return Threshold(value=float(middles[nearest]), accuracy=float(right[nearest] / len(labels)))


def reliability(confidence: np.ndarray, right: np.ndarray) -> Reliability:
    """Return confidence and accuracy of predictions, binned by confidence.

    Args:
        confidence: f32[n], probability of the predicted class.
        right: bool[n], whether the prediction is right.
    """
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(bins, confidence, BINS) / count
        accuracy = np.bincount(bins, right, BINS) / count
    error = np.nansum(np.abs(mean - accuracy) * count) / len(confidence)
    return Reliability(count=count, confidence=mean, accuracy=accuracy, error=float(error))


def _above(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the images with a score of at least s, for each distinct score s.

    Returns:
        The number of such images of class 1, the number of all such images, and the scores, the highest first.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return np.cumsum(labels[order])[last], last + 1, ordered[last]
