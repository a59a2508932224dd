"""Measure the audit of a dataset: wrong labels beside cleanlab, strangers, near-duplicates, time.

    python -m benchmarks.audit --photos=DIRECTORY --weights=FILE

Cleanlab and scikit-learn, which has the set of digits, are in the extra `peers`. Features are computed once, if
--features names a file.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from scipy.stats import rankdata

from benchmarks import audit_images, common
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import appearance
from tfrecord_tools.layout import near_duplicates
from trainers.auditing import folding, heads, labels, neighbors, scoring
from trainers.auditing.labels import Judgment

FOLDS = 5
DRAWN, DRAWN_CLASSES, DRAWN_WIDTH = 3_000, 7, 128
# Name -> share of wrong labels, and whether only half of the classes have them, each in one direction.
FLIPS = {"5 %": (0.05, False), "30 %": (0.3, False), "5 % one way": (0.05, True), "30 % one way": (0.3, True)}
ESTIMATED = ((0.0, False), (0.01, False), (0.05, False), (0.2, False), (0.05, True), (0.2, True))
CHANGED = 500  # Photographs that are changed in each way.
Set = tuple[np.ndarray, np.ndarray]  # Features f32[n c] and right labels i64[n].


def flipped(truth: np.ndarray, rate: float, one_way: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels i64[n], and bool[n], which ones were made wrong.

    Args:
        truth: i64[n], right labels.
        rate: Share of wrong labels. One way: share within the classes that have wrong labels.
        one_way: Whether only the first half of the classes has wrong labels, always those of the next class.
        seed: Seed of the choice.
    """
    random, classes = np.random.default_rng(seed), int(truth.max()) + 1
    pool = np.flatnonzero(truth < classes // 2) if one_way else np.arange(len(truth))
    rows = random.choice(pool, round(rate * len(pool)), replace=False)
    given = truth.copy()
    given[rows] = (truth[rows] + (1 if one_way else random.integers(1, classes, len(rows)))) % classes
    return given, given != truth


def area(scores: np.ndarray, wrong: np.ndarray) -> float:
    """Return the area under the ROC curve.

    It is the chance that a wrong label has a higher score than a right one.
    """
    count = int(wrong.sum())
    return float((rankdata(scores)[wrong].sum() - count * (count + 1) / 2) / (count * (len(wrong) - count)))


def judged(features: np.ndarray, given: np.ndarray, seed: int) -> tuple[Judgment, np.ndarray]:
    """Judge labels as `scoring.audit` does; return the judgment and the folds i64[n]."""
    units = np.arange(len(given), dtype=np.uint64)
    folds = folding.assign(units, given, FOLDS, seed)
    near = neighbors.find(features, given, seed)
    return labels.judge(features, given, folds, units, near, int(given.max()) + 1), folds


def scores_of(judgment: Judgment) -> np.ndarray:
    """Return scores f64[n] in the order of the judgment, the most doubtful label highest."""
    scores = np.zeros(len(judgment.probabilities))
    scores[judgment.order] = np.arange(len(judgment.order), 0, -1)
    return scores


def with_right_labels(features: np.ndarray, given: np.ndarray, truth: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the scores of linear heads that were fitted to the right labels, as a limit."""
    classes = int(truth.max()) + 1
    logits, _ = heads.out_of_fold(heads.prepare(features), truth, folds, classes)
    own = logits[np.arange(len(given)), given]
    logits[np.arange(len(given)), given] = -np.inf
    return np.asarray(logits.max(1) - own)


def by_cleanlab(given: np.ndarray, judgment: Judgment) -> dict[str, np.ndarray]:
    """Return the scores of cleanlab's rankings on the audit's out-of-fold probabilities."""
    from cleanlab.rank import get_label_quality_scores

    chances = judgment.probabilities / judgment.probabilities.sum(1, keepdims=True)
    return {
        f"cleanlab, {method}, same probabilities": -get_label_quality_scores(given, chances, method=method)
        for method in ("self_confidence", "normalized_margin")
    }


def cleanlab_default(features: np.ndarray, given: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the scores of CleanLearning with its default classifier, on the audit's folds."""
    from cleanlab.classification import CleanLearning
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    split = PredefinedSplit(folds)
    with warnings.catch_warnings():
        # CleanLearning's own classifier stops after 100 steps, too.
        warnings.simplefilter("ignore", ConvergenceWarning)
        chances = cross_val_predict(LogisticRegression(), features, given, cv=split, method="predict_proba")
    return -CleanLearning().find_label_issues(labels=given, pred_probs=chances)["label_quality"].to_numpy()


def drawn_set(seed: int = 1) -> Set:
    """Draw clusters of seven classes. Two pairs of classes overlap, so that some images belong to either."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(DRAWN_CLASSES, DRAWN_WIDTH))
    centers[1] = centers[0] + 0.5 * random.normal(size=DRAWN_WIDTH)
    centers[4] = centers[3] + 0.7 * random.normal(size=DRAWN_WIDTH)
    truth = random.integers(0, DRAWN_CLASSES, DRAWN)
    return (0.8 * centers[truth] + 2 * random.normal(size=(DRAWN, DRAWN_WIDTH))).astype(np.float32), truth


def digits() -> Set:
    """Return the 1,797 digits of scikit-learn with their pixels as features."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.data.astype(np.float32), data.target.astype(np.int64)


def print_flips(sets: dict[str, Set], seeds: int) -> None:
    for name, (features, truth) in sets.items():
        for errors, (rate, one_way) in FLIPS.items():
            areas: dict[str, list[float]] = {}
            for seed in range(seeds):
                given, wrong = flipped(truth, rate, one_way, seed)
                judgment, folds = judged(features, given, seed)
                found = {"audit": scores_of(judgment), **by_cleanlab(given, judgment)}
                found["cleanlab, default pipeline, same folds"] = cleanlab_default(features, given, folds)
                found["limit: heads fitted to the right labels"] = with_right_labels(features, given, truth, folds)
                for method, scores in found.items():
                    areas.setdefault(method, []).append(area(scores, wrong))
            print(f"{name}, {errors} of the labels wrong, {seeds} seeds: AUROC mean (worst)")
            for method, values in areas.items():
                print(f"  {np.mean(values):.4f} ({min(values):.4f})  {method}")


def print_estimates(sets: dict[str, Set], seeds: int) -> None:
    for name, (features, truth) in sets.items():
        for rate, one_way in ESTIMATED:
            held, widths, centers = 0, [], []
            for seed in range(seeds):
                given, wrong = flipped(truth, rate, one_way, seed)
                estimate = judged(features, given, seed)[0].estimate
                held += estimate.low <= wrong.sum() <= estimate.high
                centers.append(estimate.wrong)
                widths.append(estimate.high - estimate.low)
            print(
                f"{name}, {rate:.0%} wrong{' one way' if one_way else ''}: {wrong.sum()} of {len(truth):,}, estimate"
                f" {np.mean(centers):.1f}, interval {np.mean(widths):.1f} wide, holds the truth {held} of {seeds} times"
            )


def inputs_of(features: np.ndarray, given: np.ndarray, phash: np.ndarray | None = None) -> scoring.Inputs:
    """Return the inputs of an audit in which all other facts are unknown."""
    count = len(given)
    facts = np.full(count, np.array(appearance.UNKNOWN, appearance.FACTS))
    if phash is not None:
        facts["phash"] = phash
    return scoring.Inputs(
        features=features,
        labels=given,
        splits=np.zeros(count, np.int8),
        units=np.arange(count, dtype=np.uint64),
        contents=np.arange(count),
        facts=facts,
        height=np.full(count, 300),
        width=np.full(count, 300),
        class_names=[f"class {number}" for number in range(int(given.max()) + 1)],
        split_names=["train"],
        paths=[str(number) for number in range(count)],
        decided=np.zeros(count, bool),
        dataset="--tfrecords=drawn",
    )


def print_strangers(photos: Set, strangers: np.ndarray) -> None:
    features = np.concatenate([photos[0], strangers])
    given = np.concatenate([photos[1], np.arange(len(strangers)) % 2])
    found = scoring.audit(inputs_of(features, given)).issues
    ranked = [issue.record for issue in found if issue.kind == "off_topic"]
    counts = {first: sum(row >= len(photos[1]) for row in ranked[:first]) for first in (40, 50, 100)}
    shown = ", ".join(f"{count} in the first {first}" for first, count in counts.items())
    print(f"{len(strangers)} strangers: {shown}")


def print_near_duplicates(arrays: Mapping[str, np.ndarray]) -> None:
    """Print how many copies are found with their originals, for each change."""
    features, truth, rows = arrays["features"], arrays["labels"], arrays["rows"]
    possible, copies = len(truth) * len(rows) / 1e5, len(truth) + np.arange(len(rows))
    right = set(zip(rows.tolist(), copies.tolist()))
    print("near-duplicates: recall by features, by hash, by either; false pairs of 100,000 by features, by hash")
    totals = []
    for name in audit_images.CHANGES:
        labels = np.concatenate([truth, truth[rows]])
        near = neighbors.find(np.concatenate([features, arrays[name]]), labels)
        hashes = np.concatenate([arrays["phash"], arrays[f"phash {name}"]])
        hashed = near_duplicates.pairs(hashes, neighbors.hash_distance(hashes, labels))
        by_features, by_hash = (_crossing(pairs, len(truth)) for pairs in (near.pairs, hashed))
        recalls = [len(found & right) / len(rows) for found in (by_features, by_hash, by_features | by_hash)]
        false = [len(found - right) / possible for found in (by_features, by_hash)]
        totals.append([*recalls, *false])
        print(f"  {name:22}" + "".join(f" {value:6.3f}" for value in totals[-1]))
    print(f"  {'mean':22}" + "".join(f" {value:6.3f}" for value in np.mean(totals, 0)))


def _crossing(pairs: np.ndarray, start: int) -> set[tuple[int, int]]:
    """Return the pairs of an original, a row before `start`, and a copy."""
    crossing = pairs[(pairs[:, 0] < start) & (pairs[:, 1] >= start)]
    return {(int(left), int(right)) for left, right in crossing}


def print_speed(photos: Set, records: int) -> None:
    """Audit photographs, repeated with changes, from a memory map. Print time and peak memory."""
    features, truth = photos
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        values = np.lib.format.open_memmap(
            Path(directory) / "features.npy", "w+", np.float32, (records, features.shape[1])
        )
        rows = np.arange(records) % len(truth)
        for start in range(0, records, 10_000):
            part = features[rows[start : start + 10_000]]
            mixed = part + 0.5 * features[random.permutation(len(truth))[rows[start : start + 10_000]]]
            values[start : start + 10_000] = mixed * random.uniform(0.5, 1.5, part.shape)
        _print_costs(values, flipped(truth[rows], 0.05, False, 0)[0])


def print_simulated(records: int) -> None:
    """Audit drawn records of ten classes, from a memory map. Print time and peak memory."""
    random = np.random.default_rng(0)
    truth = np.arange(records) % 10
    centers = random.gamma(1.0, 1.5, (10, 2 * DRAWN_WIDTH))
    with tempfile.TemporaryDirectory() as directory:
        values = np.lib.format.open_memmap(
            Path(directory) / "features.npy", "w+", np.float32, (records, centers.shape[1])
        )
        for start in range(0, records, 10_000):
            part = centers[truth[start : start + 10_000]]
            values[start : start + 10_000] = np.maximum(part + 2 * random.normal(size=part.shape), 0)
        _print_costs(values, flipped(truth, 0.05, False, 0)[0])


def print_many_classes() -> None:
    """Audit 20 drawn records of each of 1,000 classes. Print time and peak memory."""
    random = np.random.default_rng(0)
    truth = np.arange(20_000) % 1_000
    centers = random.gamma(1.0, 1.5, (1_000, DRAWN_WIDTH))
    values = np.maximum(centers[truth] + random.normal(size=(20_000, DRAWN_WIDTH)), 0)
    _print_costs(values.astype(np.float32), flipped(truth, 0.05, False, 0)[0])


def _print_costs(values: np.ndarray, given: np.ndarray) -> None:
    before, began, worked = common.peak_bytes(), time.perf_counter(), time.process_time()
    found = scoring.audit(inputs_of(values, given))
    seconds, worked, peak = time.perf_counter() - began, time.process_time() - worked, common.peak_bytes()
    print(
        f"{len(given):,} records x {values.shape[1]:,} features, {int(given.max()) + 1:,} classes: {seconds:.1f} s"
        f" ({worked:.1f} s of all cores), peak memory {peak / 1e9:.2f} GB ({(peak - before) / 1e9:.2f} GB more than"
        f" before), {len(found.issues):,} issues"
    )


def read_or_extract(path: Path | None, given: Any) -> dict[str, np.ndarray]:
    """Return the features of photographs, strangers and changed photographs, from a file if there is one."""
    if path and path.exists():
        return dict(np.load(path))
    if not given.photos or not given.weights:
        raise UserError("--photos and --weights are missing. Pass them, or pass --features with an existing file.")
    arrays = dict(_extracted(given))
    if path:
        np.savez(path, allow_pickle=False, **arrays)
    return arrays


def _extracted(given: Any) -> Iterator[tuple[str, np.ndarray]]:
    photos = audit_images.find_photos(Path(given.photos))

    def extract(images: Sequence[Callable[[], bytes]]) -> np.ndarray:
        return audit_images.extract(images, given.backbone, given.backbone_kwargs, given.weights, given.image_size)

    yield "features", extract([path.read_bytes for path in photos.paths])
    yield "labels", photos.labels
    yield "phash", appearance.facts_of([path.read_bytes() for path in photos.paths])["phash"]
    yield "strangers", extract([_giving(data) for data in audit_images.strangers()])
    rows = np.random.default_rng(0).permutation(len(photos.paths))[:CHANGED]
    yield "rows", rows
    for name in audit_images.CHANGES:
        yield name, extract([_changing(photos.paths[row], name) for row in rows])
        yield (
            f"phash {name}",
            appearance.facts_of([audit_images.changed(photos.paths[row].read_bytes(), name) for row in rows])["phash"],
        )


def _giving(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _changing(path: Path, name: str) -> Callable[[], bytes]:
    return lambda: audit_images.changed(path.read_bytes(), name)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    # Only some measures need the photographs.
    arrays = functools.cache(lambda: read_or_extract(Path(given.features) if given.features else None, given))

    def photos() -> Set:
        return arrays()["features"], arrays()["labels"]

    makers: dict[str, Callable[[], Set]] = {"photographs": photos, "digits": digits, "drawn classes": drawn_set}

    def sets() -> dict[str, Set]:
        return {name: make() for name, make in makers.items() if name in given.sets}

    measures: dict[str, Callable[[], None]] = {
        "flips": lambda: print_flips(sets(), given.seeds),
        "estimate": lambda: print_estimates(sets(), 2 * given.seeds),
        "strangers": lambda: print_strangers(photos(), arrays()["strangers"]),
        "near_duplicates": lambda: print_near_duplicates(arrays()),
        "speed": lambda: print_speed(photos(), given.records),
        "simulated": lambda: print_simulated(given.records),
        "many_classes": print_many_classes,
    }
    for flag, allowed in (("sets", makers), ("measure", measures)):
        if wrong := [name for name in given[flag].value if name not in allowed]:
            raise UserError(f"--{flag}={wrong[0]}: must be one or more of {', '.join(allowed)}, separated by commas.")
    for name in given.measure:
        measures[name]()
        sys.stdout.flush()


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, with the files SPLIT/CLASS/IMAGE.")
    flags.DEFINE_string("weights", None, "Weights file of the backbone without its classification layers.")
    flags.DEFINE_string("features", None, "File (.npz) for the features. It is written if it does not exist.")
    flags.DEFINE_string("backbone", "MobileNetV2", "Network that computes the features.")
    flags.DEFINE_string("backbone_kwargs", "", "Arguments of the backbone, as in alpha=0.25.")
    flags.DEFINE_integer("image_size", 160, "Height and width in pixels.")
    flags.DEFINE_integer(
        "seeds",
        5,
        "Number of random choices of wrong labels. The estimate is measured with twice this number of choices.",
    )
    flags.DEFINE_integer("records", 25_000, "Number of records for the measurement of time and memory.")
    flags.DEFINE_list("sets", ["photographs", "digits", "drawn classes"], "Datasets with wrong labels.")
    flags.DEFINE_list(
        "measure",
        ["flips", "estimate", "strangers", "near_duplicates", "speed", "simulated", "many_classes"],
        "Parts to measure.",
    )
    command.run(main)
