"""Audit a dataset: find the issues of its records, and estimate the number of wrong labels."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from tfrecord_tools.base import words
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import duplicates, near_duplicates
from trainers.auditing import folding, labels, neighbors, outliers
from trainers.auditing.issues import ACROSS_LABELS, Issue
from trainers.auditing.labels import Estimate, Judgment
from trainers.auditing.neighbors import Neighbors
from trainers.auditing.outliers import Group

# The list of each kind of issue (such as label or off_topic) has at least this number of records, and at least this
# share of all records, even if their scores are low.
_LEAST_LISTED = 50
_LISTED_SHARE = 0.01
_LEAST_RECORDS = 10  # An audit needs at least this number of records.
# Maximum number of near-duplicates of one record that are found by the perceptual hash. Without this limit, images with
# a white background may have thousands of near-duplicates.
_PAIRS_OF_HASH = 32
# The score of near-duplicates is `ACROSS_LABELS` or one of these numbers, plus 0.24 times their similarity.
_ACROSS_SPLITS, _WITHIN = 0.5, 0.25
_BY_SIMILARITY = 0.24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """The n records of a dataset, as an audit needs them.

    Attributes:
        features: f32[n c], which may be a memory-mapped file.
        labels: i64[n], given labels.
        splits: i8[n], indices into `split_names`.
        units: u64[n]. Records with equal values belong together: copies, and images of one group.
        contents: i64[n], number of the first record with the same source file.
        facts: Structured array [n] with the fields of `appearance.FACTS`, such as brightness.
        height, width: i64[n], in pixels.
        class_names: Class names in label order.
        split_names: Names of the splits.
        paths: Paths of the source files.
        decided: bool[n], whether a person has confirmed or corrected the label. Such a record is not listed again, but
            other records are compared with it.
        dataset: The flag that names the dataset, such as "--tfrecords=out", for messages.
        kept_pairs: i64[m 2], pairs of near-duplicates from which a person has kept both images. Each image is given by
            its number in `contents`. The pairs are not listed again. The decision says nothing about labels.
    """

    features: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    units: np.ndarray
    contents: np.ndarray
    facts: np.ndarray
    height: np.ndarray
    width: np.ndarray
    class_names: Sequence[str]
    split_names: Sequence[str]
    paths: Sequence[str]
    decided: np.ndarray
    dataset: str
    kept_pairs: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 2), np.int64))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of an audit.

    Attributes:
        probabilities: f32[n k], probability of each class. It comes from models that have not seen the record.
        issues: All issues, by kind and rank.
        pairs: i64[m 2], all near-duplicates. In `issues`, each record is listed with only one of its pairs: the one
            with the highest score.
        estimate: The estimated number of wrong labels.
        notes: Sentences for the user about records that are harder to judge.
    """

    probabilities: np.ndarray
    issues: tuple[Issue, ...]
    pairs: np.ndarray
    estimate: Estimate
    notes: tuple[str, ...]


def audit(inputs: Inputs, *, folds: int = 5, seed: int = 0, progress: Callable[[int], object] | None = None) -> Audit:
    """Find the issues of all records.

    Args:
        inputs: The records.
        folds: Number of folds (parts of the dataset), at least 2. The records of each fold are judged by a model that
            was fitted to the other folds. If there are fewer groups of images than folds, each group is a fold.
        seed: Seed of the folds.
        progress: Called during the slowest step, after each block of records, with the number of records in it. If
            None, nothing is called.

    Raises:
        UserError: There are fewer than ten records, there is only one class or one group, or fewer than two classes
            have records in several folds.
    """
    _check(inputs)
    near = neighbors.find(inputs.features, inputs.labels, seed, progress)
    pairs, similarities, same = _pairs(inputs, near, seed)
    given = duplicates.joined(inputs.units, inputs.contents)
    folds = min(folds, len(np.unique(given)))
    most = max(2, len(given) // folds)  # At least 2, so that any two near-duplicates can be in one fold.
    units = folding.joined(given, pairs, similarities, most)
    judgment = _judge(inputs, near, units, folds, seed)
    notes = tuple(_notes(units, pairs, folds, most))
    found = itertools.chain(
        _label_issues(inputs, judgment),
        _off_topic_issues(inputs, near),
        _near_duplicate_issues(inputs, pairs, similarities, same),
        _ambiguous_issues(inputs, judgment),
        _low_quality_issues(inputs),
        _rare_issues(inputs, outliers.rare_groups(near, inputs.labels)),
    )
    return Audit(
        probabilities=judgment.probabilities,
        issues=_ranked(found),
        pairs=pairs,
        estimate=judgment.estimate,
        notes=notes,
    )


def _ranked(issues: Iterable[Issue]) -> tuple[Issue, ...]:
    """Number the issues within each kind, from 1. The worst issues of each kind must come first."""
    counts = Counter[str]()
    ranked = []
    for issue in issues:
        counts[issue.kind] += 1
        ranked.append(dataclasses.replace(issue, rank=counts[issue.kind]))
    return tuple(ranked)


def _check(inputs: Inputs) -> None:
    if len(inputs.labels) < _LEAST_RECORDS:
        raise UserError(
            f"{inputs.dataset}: has {words.number(len(inputs.labels), 'valid record')}. An audit needs at least"
            f" {_LEAST_RECORDS}. Convert more images."
        )
    if len(np.unique(inputs.labels)) < 2:
        raise UserError(
            f"{inputs.dataset}: all records have the same label. An audit compares the images of at least two classes."
            " Convert images of other classes, too."
        )


def _judge(inputs: Inputs, near: Neighbors, units: np.ndarray, count: int, seed: int) -> Judgment:
    assigned = folding.assign(units, inputs.labels, count, seed)
    if assigned.max() == 0:
        raise UserError(
            f"{inputs.dataset}: all records belong to one group. An audit compares each group with other groups, so at"
            " least two groups are needed. Convert the images again with smaller groups: python -m"
            " tfrecord_tools.convert --group_regex=PATTERN."
        )
    classes = len(inputs.class_names)
    if len(np.unique(inputs.labels[labels.judged(inputs.labels, assigned, classes)])) < 2:
        raise UserError(
            f"{inputs.dataset}: fewer than two classes have images in several groups. An audit compares an image with"
            " images of the same class in other groups. Convert more images, or use smaller groups."
        )
    return labels.judge(inputs.features, inputs.labels, assigned, units, near, classes, inputs.decided)


def _notes(units: np.ndarray, pairs: np.ndarray, folds: int, most: int) -> Iterator[str]:
    """Yield notes if images that belong together are too many for one fold."""
    count, largest = len(units), int(np.unique(units, return_counts=True)[1].max())
    if largest > 1 and largest * folds > count:
        yield (
            f"note: {largest:,} of {count:,} images are copies of each other or belong to one group. These images are"
            f" compared only with the other {words.number(count - largest, 'image')}."
        )
    if (units[pairs[:, 0]] != units[pairs[:, 1]]).any():
        yield (
            f"note: more than {most:,} images form a chain, in which each image is a near-duplicate of the next one."
            " The chain was cut between its least similar images, so some images are compared with near-duplicates"
            " of themselves."
        )


def _pairs(inputs: Inputs, near: Neighbors, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return near-duplicates: pairs i64[m 2], similarities f64[m] in 0..1, and bool[m], see below.

    The last array says whether both records probably show the same picture. Pairs with equal bytes, a similar hash, or
    a distance of at most half of the allowed distance nearly always do. Among the other pairs are many of two different
    pictures, such as two portraits of black cats.
    """
    copies = np.flatnonzero(inputs.contents != np.arange(len(inputs.contents)))
    copied = np.stack([inputs.contents[copies], copies], 1)
    hashed = _hashed(inputs, seed)
    pairs = np.concatenate([copied, hashed, near.pairs]).astype(np.int64)
    by_hash = neighbors.cosines(inputs.features, hashed)
    values = np.concatenate([np.ones(len(copied)), by_hash, near.pair_similarities])
    pairs, values = neighbors.distinct(pairs, values, len(inputs.labels))
    is_close = 1 - values <= (1 - near.threshold) / 2
    return pairs, np.clip(values, 0, 1), is_close | _is_among(pairs, hashed.astype(np.int64), len(inputs.labels))


def _hashed(inputs: Inputs, seed: int) -> np.ndarray:
    """Return near-duplicates by perceptual hash, i64[m 2]."""
    distance = neighbors.hash_distance(inputs.facts["phash"], inputs.labels, seed)
    if distance < 0:
        return np.empty((0, 2), np.int64)
    return near_duplicates.pairs(inputs.facts["phash"], distance, _PAIRS_OF_HASH)


def _listed(scores: np.ndarray, decided: np.ndarray, least: float = 0.0) -> Iterator[tuple[int, float]]:
    """Yield the records to list with their scores, the worst first.

    The list has the worst 50 records or the worst 1 % of the records, whichever is more. It also has all records with a
    score of 0.5 or more.

    Args:
        scores: f64[n].
        decided: bool[n], whether a person has decided the record. Such records are not listed.
        least: Records with a score of at most this are never listed.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[~decided[order]]
    most = max(_LEAST_LISTED, int(_LISTED_SHARE * len(scores)), int((scores[order] >= 0.5).sum()))
    for row in order[:most].tolist():
        if scores[row] > least:
            yield row, float(scores[row])


def _label_issues(inputs: Inputs, judgment: Judgment) -> Iterator[Issue]:
    estimate, names = judgment.estimate, inputs.class_names
    most = max(_LEAST_LISTED, int(_LISTED_SHARE * len(inputs.labels)), round(1.5 * estimate.high))
    for row in judgment.order[:most].tolist():
        given, proposed, doubt = int(inputs.labels[row]), int(judgment.proposed[row]), float(judgment.doubts[row])
        reason = (
            f"The label is {names[given]}. Compared with other images, {names[proposed]} is more likely. The label"
            f" is wrong with a probability of {doubt:.0%}."
            if doubt >= 0.5
            else f"{names[given]} is likely right: the label is wrong with a probability of {doubt:.1%}."
        )
        yield _issue("label", row, doubt, reason, proposed=proposed)


def _off_topic_issues(inputs: Inputs, near: Neighbors) -> Iterator[Issue]:
    for row, score in _listed(outliers.off_topic(near), inputs.decided):
        twin = int(near.rows[row, 0])
        similarity = float(near.similarities[row, 0])
        reason = (
            f"This image is unlike all other images. The similarity to the most similar image is {similarity:.2f} (1"
            " means equal)."
        )
        yield _issue("off_topic", row, score, reason, twin=twin if twin >= 0 else None)


def _near_duplicate_issues(
    inputs: Inputs, pairs: np.ndarray, similarities: np.ndarray, same: np.ndarray
) -> Iterator[Issue]:
    """Yield an issue for records with near-duplicates. The twin is the worst near-duplicate.

    If the records of a pair have different labels or splits, each of them is in an issue, as its record or as its twin.
    If a person has decided one record of a pair, this record is the twin. Pairs of two decided records and kept pairs
    are left out.
    """
    settled = inputs.decided[pairs].all(1) | _is_kept(inputs, pairs)
    pairs, similarities, same = pairs[~settled], similarities[~settled], same[~settled]
    left, right = np.where(inputs.decided[pairs[:, 1]], pairs[:, ::-1].T, pairs.T)
    labels_differ, splits_differ = (values[left] != values[right] for values in (inputs.labels, inputs.splits))
    base = np.select([labels_differ, splits_differ], [ACROSS_LABELS, _ACROSS_SPLITS], _WITHIN)
    scores = base + _BY_SIMILARITY * similarities
    # A record is paired with records before it. Only the worst pair is used. Otherwise, many copies of one picture
    # would give very many issues.
    first = _worst(right, scores)
    first = first[scores[first] >= _ACROSS_SPLITS]
    covered = inputs.decided[left] | np.isin(left, np.concatenate([left[first], right[first]]))
    missing = np.flatnonzero((scores >= _ACROSS_SPLITS) & ~covered)
    rows, twins = np.concatenate([right, left[missing]]), np.concatenate([left, right[missing]])
    scores, same = (np.concatenate([values, values[missing]]) for values in (scores, same))
    worst = _worst(rows, scores)
    for pair in worst[np.argsort(-scores[worst], kind="stable")].tolist():
        row, twin = int(rows[pair]), int(twins[pair])
        reason = _twin_reason(inputs, row, twin, bool(same[pair]))
        yield _issue("near_duplicate", row, float(scores[pair]), reason, twin=twin)


def _is_kept(inputs: Inputs, pairs: np.ndarray) -> np.ndarray:
    """Return bool[m], whether each pair of `pairs`, i64[m 2], is in `Inputs.kept_pairs`.

    The order of the two records of a pair does not matter."""
    return _is_among(np.sort(inputs.contents[pairs], 1), np.sort(inputs.kept_pairs, 1), len(inputs.contents))


def _is_among(pairs: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """Return bool[m], whether each row of `pairs`, i64[m 2], is a row of `others`, i64[k 2].

    All numbers are below `count`."""
    return np.isin(pairs[:, 0] * count + pairs[:, 1], others[:, 0] * count + others[:, 1])


def _worst(records: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the index of the highest score of each of the k different records, i64[k]."""
    order = np.lexsort((-scores, records))
    worst: np.ndarray = order[np.unique(records[order], return_index=True)[1]]
    return worst


def _twin_reason(inputs: Inputs, row: int, twin: int, is_same: bool) -> str:
    if inputs.contents[row] == inputs.contents[twin]:
        found = "The same file is in the dataset twice"
    elif is_same:
        found = "The same picture is probably in the dataset twice"
    else:
        found = "Two pictures are very similar, but may be different"
    names, splits = inputs.class_names, inputs.split_names
    if inputs.labels[row] != inputs.labels[twin]:
        here, there = names[inputs.labels[row]], names[inputs.labels[twin]]
        return f"{found}. They have different labels: {here} and {there}."
    if inputs.splits[row] != inputs.splits[twin]:
        here, there = splits[inputs.splits[row]], splits[inputs.splits[twin]]
        return f"{found}. They are in different splits: {here} and {there}."
    return f"{found}. Both are in the split {splits[inputs.splits[row]]}."


def _ambiguous_issues(inputs: Inputs, judgment: Judgment) -> Iterator[Issue]:
    """Yield records with two likely classes, unless the label is probably wrong or cannot be judged."""
    best, second = np.take_along_axis(judgment.probabilities, judgment.likely, 1).T.astype(np.float64)
    scores = np.where(judgment.doubts < 0.5, second / best, 0)  # Doubts are NaN if the label cannot be judged.
    for row, score in _listed(scores, inputs.decided, least=0.1):
        first, other = (inputs.class_names[label] for label in judgment.likely[row])
        reason = f"Two classes are likely: {first} ({best[row]:.0%}) and {other} ({second[row]:.0%})."
        proposed = next(int(label) for label in judgment.likely[row] if label != inputs.labels[row])
        yield _issue("ambiguous", row, score, reason, proposed=proposed)


def _low_quality_issues(inputs: Inputs) -> Iterator[Issue]:
    facts = {name: inputs.facts[name] for name in ("brightness", "contrast", "sharpness", "flat_share")}
    facts["shorter_side"] = np.minimum(inputs.height, inputs.width)
    scores, texts = outliers.low_quality(facts)
    for row, score in _listed(scores, inputs.decided, least=0.4):
        yield _issue("low_quality", row, score, f"Compared with the other images, this image is {texts[row]}.")


def _rare_issues(inputs: Inputs, groups: Sequence[Group]) -> Iterator[Issue]:
    counts = np.bincount(inputs.labels)
    listed = 0
    for group in groups:
        open_rows = int((~inputs.decided[group.rows]).sum())
        if group.score < 0.5 and listed + open_rows > _LEAST_LISTED:
            return
        listed += open_rows
        label = int(inputs.labels[group.rows[0]])
        others = words.number(int(counts[label]) - len(group.rows), "other image")
        reason = (
            f"This is one of {len(group.rows)} similar images. They are unlike the {others} of the class"
            f" {inputs.class_names[label]}."
        )
        for row, twin in zip(group.rows.tolist(), np.roll(group.rows, 1).tolist()):
            if not inputs.decided[row]:
                yield _issue("rare", row, group.score, reason, twin=twin)


def _issue(
    kind: str, record: int, score: float, reason: str, *, proposed: int | None = None, twin: int | None = None
) -> Issue:
    return Issue(kind=kind, rank=0, score=score, record=record, proposed=proposed, twin=twin, reason=reason)
