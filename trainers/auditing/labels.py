"""Find wrong labels, and estimate their number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from trainers.auditing import heads, noise
from trainers.auditing.neighbors import Neighbors

_VOTERS = 10  # Neighbors that vote for a class.
_PRIOR_VOTES = 1.0  # Spread evenly over the classes.
_CLASSES_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The estimated number of wrong labels.

    Attributes:
        records: Number of records with a judged label.
        wrong: Expected number of wrong labels among them.
        low, high: 95 % interval of the number.
        class_records: Number of records per given label.
        class_wrong: Expected number of wrong labels per given label.
    """

    records: int
    wrong: float
    low: float
    high: float
    class_records: tuple[int, ...]
    class_wrong: tuple[float, ...]

    def sentence(self, class_names: Sequence[str]) -> str:
        """Return the estimate for people, with the classes with the most wrong labels."""
        text = (
            f"About {self.wrong:,.0f} of {self.records:,} labels are probably wrong (95% interval: {self.low:,.0f} to"
            f" {self.high:,.0f})"
        )
        order = np.argsort(-np.array(self.class_wrong), kind="stable")[:_CLASSES_NAMED].tolist()
        worst = [
            f"{class_names[label]} {self.class_wrong[label]:,.0f} of {self.class_records[label]:,}"
            for label in order
            if self.class_wrong[label] >= 0.5
        ]
        return f"{text}: {', '.join(worst)}." if worst else f"{text}."


@dataclasses.dataclass(frozen=True)
class Judgment:
    """The judgments of models about labels of records that they have not seen.

    Attributes:
        probabilities: f64[n k], probability of each class. The record's own label was not used.
        doubts: f64[n], probability that the given label is wrong; NaN if it cannot be judged.
        proposed: i64[n], the most likely class except the given label. The errors that the model expects count, too.
        order: i64[m], judged records, the most doubtful label first.
        estimate: The estimated number of wrong labels.
    """

    probabilities: np.ndarray
    doubts: np.ndarray
    proposed: np.ndarray
    order: np.ndarray
    estimate: Estimate


def judge(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, units: np.ndarray, near: Neighbors, classes: int
) -> Judgment:
    """Judge all labels.

    Two models judge each record: a linear head that was fitted to the other folds, and a vote of the nearest records.
    `noise.fit` joins both, and estimates the error rates. The heads are then fitted again with these error rates.

    Args:
        features: f32[n c], may be mapped from disk.
        labels: i64[n], given labels.
        folds: i64[n].
        units: u64[n]. Records of the same unit do not vote for each other.
        near: The nearest records.
        classes: Number of classes, k.
    """
    votes = _votes(labels, units, near, classes)
    prepared = heads.prepare(features)
    logits, fitted = heads.out_of_fold(prepared, labels, folds, classes)
    first = noise.fit([logits, votes], labels)
    logits, _ = heads.out_of_fold(prepared, labels, folds, classes, first.matrix, fitted)
    final = noise.fit([logits, votes], labels, interval=True)
    doubts = noise.wrong(final.posterior, labels)
    judged = _judged(labels, folds, classes)
    others = final.posterior.copy()
    others[np.arange(len(labels)), labels] = -1
    proposed = others.argmax(1)
    return Judgment(
        probabilities=final.probabilities,
        doubts=np.where(judged, doubts, np.nan),
        proposed=proposed,
        order=_order(final.posterior, labels, judged),
        estimate=_estimate(doubts, labels, judged, classes, final),
    )


def _votes(labels: np.ndarray, units: np.ndarray, near: Neighbors, classes: int) -> np.ndarray:
    """Return the logarithm of the share of votes for each class, f64[n k]."""
    votes = np.full((len(labels), classes), _PRIOR_VOTES / classes)
    valid = (near.rows >= 0) & (units[near.rows] != units[:, None])
    valid &= np.cumsum(valid, axis=1) <= _VOTERS
    np.add.at(votes, (np.nonzero(valid)[0], labels[near.rows[valid]]), 1)
    return np.asarray(np.log(votes / votes.sum(1, keepdims=True)))


def _judged(labels: np.ndarray, folds: np.ndarray, classes: int) -> np.ndarray:
    """Return bool[n], whether the models have seen the class of a record: it has records in another fold."""
    counts = np.zeros((int(folds.max()) + 1, classes), np.int64)
    np.add.at(counts, (folds, labels), 1)
    return np.asarray((counts.sum(0) - counts)[folds, labels] > 0)


def _order(posterior: np.ndarray, labels: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Return the judged records, the most doubtful label first.

    They are ordered by odds, which also differ where the probabilities are nearly 1.
    """
    own = posterior[np.arange(len(labels)), labels]
    others = posterior.copy()
    others[np.arange(len(labels)), labels] = 0
    odds = np.log(others.sum(1) + 1e-300) - np.log(own + 1e-300)
    rows = np.flatnonzero(judged)
    return np.asarray(rows[np.argsort(-odds[rows], kind="stable")])


def _estimate(
    doubts: np.ndarray, labels: np.ndarray, judged: np.ndarray, classes: int, fitted: noise.Noise
) -> Estimate:
    counted = np.where(judged, doubts, 0)
    total = float(counted.sum())
    return Estimate(
        records=int(judged.sum()),
        wrong=total,
        low=min(fitted.low, total),
        high=max(fitted.high, total),
        class_records=tuple(np.bincount(labels, minlength=classes).tolist()),
        class_wrong=tuple(np.bincount(labels, counted, minlength=classes).tolist()),
    )
