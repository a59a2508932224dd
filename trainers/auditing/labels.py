"""Find wrong labels, and estimate their number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from trainers.auditing import heads, noise
from trainers.auditing.neighbors import Neighbors

_VOTERS = 10  # Number of neighbors that vote for a class.
_PRIOR_VOTES = 1.0  # Number of imaginary votes, spread evenly over the classes.
_CLASSES_NAMED = 5  # Maximum number of classes in the text of `Estimate.sentence`.


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The estimated number of wrong labels.

    Attributes:
        records: Number of records with a label that can be judged.
        wrong: Expected number of wrong labels among these records.
        low, high: 95 % interval of the number of wrong labels.
        class_records: Number of these records per given label.
        class_wrong: Expected number of wrong labels per given label.
    """

    records: int
    wrong: float
    low: float
    high: float
    class_records: tuple[int, ...]
    class_wrong: tuple[float, ...]

    def sentence(self, class_names: Sequence[str]) -> str:
        """Return the estimate as a sentence for people. It names the classes with the most wrong labels."""
        text = (
            f"About {self.wrong:,.0f} of {self.records:,} labels are probably wrong (95% interval: {self.low:,.0f} to"
            f" {self.high:,.0f})"
        )
        order = np.argsort(-np.array(self.class_wrong), kind="stable")[:_CLASSES_NAMED].tolist()
        worst = [
            f"{class_names[label]} ({self.class_wrong[label]:,.0f} of {self.class_records[label]:,})"
            for label in order
            if self.class_wrong[label] >= 0.5
        ]
        return f"{text}. Classes with the most wrong labels: {', '.join(worst)}." if worst else f"{text}."


@dataclasses.dataclass(frozen=True)
class Judgment:
    """The judgment of the labels of n records, by models that have not seen the record.

    Attributes:
        probabilities: f32[n k], probability of each class, without knowledge of the given label.
        likely: i64[n 2], the two most likely classes by `probabilities`.
        doubts: f64[n], probability that the given label is wrong. 0 if a person has decided the label. NaN if the label
            cannot be judged, because no other fold has records of its class.
        proposed: i64[n], the most likely class except the given label. The estimated error rates are considered, too.
        order: i64[m], judged records with a label that no person has decided, the most doubtful label first.
        estimate: The estimated number of wrong labels.
    """

    probabilities: np.ndarray
    likely: np.ndarray
    doubts: np.ndarray
    proposed: np.ndarray
    order: np.ndarray
    estimate: Estimate


def judge(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    units: np.ndarray,
    near: Neighbors,
    classes: int,
    decided: np.ndarray | None = None,
) -> Judgment:
    """Judge all labels.

    Two models judge each record: a linear head that was fitted to the other folds, and a vote of the nearest records.
    `noise.fit` combines both, and estimates the error rates of the labels. The heads are then fitted again with these
    error rates.

    A class cannot be judged if all its records are in one fold. No record is compared with such classes.

    Args:
        features: f32[n c]. May be a memory map of a file.
        labels: i64[n], given labels.
        folds: i64[n]. At least two classes have records in several folds.
        units: [n]. Records with equal values belong together, such as copies, and do not vote for each other.
        near: The nearest records of each record.
        classes: Number of classes, k.
        decided: bool[n], whether the given label is known to be right. If None, no label is known to be right.
    """
    decided = np.zeros(len(labels), bool) if decided is None else decided
    seen = judged(labels, folds, classes)
    known = np.unique(labels[seen])
    given = np.where(seen, np.searchsorted(known, labels), 0)
    votes = _votes(given, seen, units, near, len(known))
    prepared = heads.prepare(features)
    logits, fitted = heads.out_of_fold(prepared, given, folds, len(known), trained=seen)
    first = noise.fit([logits, votes], given, judged=seen, decided=decided)
    del logits  # For 100,000 records and 1,000 classes, they take 0.4 GB.
    logits, _ = heads.out_of_fold(prepared, given, folds, len(known), first.matrix, fitted, seen)
    final = noise.fit([logits, votes], given, judged=seen, decided=decided, interval=True)
    return _named(_judgment(final, logits, votes, given, seen, decided), known, classes)


def _named(judgment: Judgment, known: np.ndarray, classes: int) -> Judgment:
    """Convert a judgment about the classes `known` to a judgment about all classes."""
    if len(known) == classes:
        return judgment
    probabilities = np.zeros((len(judgment.probabilities), classes), np.float32)
    probabilities[:, known] = judgment.probabilities
    records, wrong = np.zeros(classes, np.int64), np.zeros(classes)
    records[known], wrong[known] = judgment.estimate.class_records, judgment.estimate.class_wrong
    return dataclasses.replace(
        judgment,
        probabilities=probabilities,
        likely=known[judgment.likely],
        proposed=known[judgment.proposed],
        estimate=dataclasses.replace(
            judgment.estimate, class_records=tuple(records.tolist()), class_wrong=tuple(wrong.tolist())
        ),
    )


def _judgment(
    fitted: noise.Noise,
    logits: np.ndarray,
    votes: np.ndarray,
    labels: np.ndarray,
    seen: np.ndarray,
    decided: np.ndarray,
) -> Judgment:
    """Judge all records in blocks.

    The records are ordered by the odds of a wrong label. Odds still differ if the probabilities are all nearly 1.
    """
    count, classes = logits.shape
    doubts, odds = np.zeros((2, count))
    proposed, likely = np.zeros(count, np.int64), np.zeros((count, 2), np.int64)
    for rows in heads.slices(count, classes):
        own = np.arange(rows.stop - rows.start), labels[rows]
        probabilities, posterior = fitted.judge([logits[rows], votes[rows]], labels[rows], decided[rows])
        logits[rows] = probabilities  # In place, to save memory.
        likely[rows] = _best_two(probabilities)
        right = posterior[own]
        doubts[rows] = np.where(decided[rows], 0, np.clip(1 - right, 0, 1))
        posterior[own] = 0
        odds[rows] = np.log(posterior.sum(1) + 1e-300) - np.log(right + 1e-300)
        posterior[own] = -1
        proposed[rows] = posterior.argmax(1)
    asked = np.flatnonzero(seen & ~decided)
    return Judgment(
        probabilities=logits,
        likely=likely,
        doubts=np.where(seen, doubts, np.nan),
        proposed=proposed,
        order=asked[np.argsort(-odds[asked], kind="stable")],
        estimate=_estimate(doubts[seen], labels[seen], classes, fitted),
    )


def _best_two(probabilities: np.ndarray) -> np.ndarray:
    """Return the two most likely classes, i64[n 2], the more likely one first."""
    best = np.argpartition(-probabilities, 1, axis=1)[:, :2]
    return np.take_along_axis(best, np.argsort(-np.take_along_axis(probabilities, best, 1), axis=1, kind="stable"), 1)


def _votes(labels: np.ndarray, seen: np.ndarray, units: np.ndarray, near: Neighbors, classes: int) -> np.ndarray:
    """Return the logarithm of the share of votes for each class, f32[n k].

    A record votes only if its value in `seen` is True.
    """
    votes = np.full((len(labels), classes), _PRIOR_VOTES / classes, np.float32)
    valid = (near.rows >= 0) & seen[near.rows] & (units[near.rows] != units[:, None])
    valid &= np.cumsum(valid, axis=1) <= _VOTERS
    np.add.at(votes, (np.nonzero(valid)[0], labels[near.rows[valid]]), 1)
    votes /= votes.sum(1, keepdims=True)
    return np.asarray(np.log(votes, out=votes))


def judged(labels: np.ndarray, folds: np.ndarray, classes: int) -> np.ndarray:
    """Return bool[n], whether a label can be judged: other folds have records of its class, too."""
    counts = np.zeros((int(folds.max()) + 1, classes), np.int64)
    np.add.at(counts, (folds, labels), 1)
    return np.asarray((counts.sum(0) - counts)[folds, labels] > 0)


def _estimate(doubts: np.ndarray, labels: np.ndarray, classes: int, fitted: noise.Noise) -> Estimate:
    """Return the estimate for the doubts f64[m] and the given labels i64[m] of the judged records."""
    total = float(doubts.sum())
    return Estimate(
        records=len(labels),
        wrong=total,
        low=min(fitted.low, total),
        high=max(fitted.high, total),
        class_records=tuple(np.bincount(labels, minlength=classes).tolist()),
        class_wrong=tuple(np.bincount(labels, doubts, minlength=classes).tolist()),
    )
