"""Cross-validation: out-of-fold predictions, their metrics, and differences between variants.

Each record is predicted by the model that was trained without the fold of this record.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from tfrecord_tools.base import tabular
from trainers.fitting.folds import Folds
from trainers.results import predictions, scores
from trainers.results.predictions import Predictions
from trainers.results.scores import Interval
from trainers.run_directory import Metrics

FILE = "predictions_oof.csv"
# Metrics that rank images by probability. The probabilities of the models of different folds have different scales. So
# these metrics are computed for each fold and averaged, and not computed from the predictions of all folds (Forman and
# Scholz 2010).
_OF_RANKS = ("auc", "average_precision")
_OF_TRAININGS = ("seconds", "images_per_second", "parameters", "model_bytes", "latency_ms")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutOfFold:
    """The predictions of the trainings of a variant and a seed, one training per fold.

    Attributes:
        variant: Name of the variant.
        seed: The seed.
        predictions: The predictions for all valid records.
        positions: i64[m], positions of these records in `Folds.records`, ascending.
    """

    variant: str
    seed: int
    predictions: Predictions
    positions: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """bool[m], whether each prediction is right."""
        return self.predictions.predicted == self.predictions.truth


def gather(variant: str, seed: int, folds: Folds, runs: Sequence[Path]) -> OutOfFold:
    """Join the predictions of the runs of all folds.

    Raises:
        UserError: A file of predictions is missing or damaged.
    """
    splits, numbers = folds.records.places
    position_of = {place: position for position, place in enumerate(zip(splits, numbers.tolist()))}
    found = predictions.joined([predictions.read(run) for run in runs])
    names = [folds.records.split] * len(found) if found.splits is None else found.splits
    rows = np.array([position_of[place] for place in zip(names, np.asarray(found.records).tolist())])
    order = np.argsort(rows)
    positions = rows[order]
    joined = Predictions(
        classes=found.classes,
        probabilities=found.probabilities[order],
        predicted=found.predicted[order],
        paths=[found.paths[number] for number in order.tolist()],
        labels=found.truth[order],
        records=numbers[positions],
        splits=[splits[position] for position in positions.tolist()],
    )
    return OutOfFold(variant=variant, seed=seed, predictions=joined, positions=positions)


def metrics(found: OutOfFold, runs: Sequence[Metrics]) -> Metrics:
    """Return the metrics of all predictions, and the mean times and sizes of the trainings.

    The accuracy is the mean of the accuracies of the folds, weighted by their numbers of records.

    Args:
        found: The predictions.
        runs: Content of metrics.json of each fold.
    """
    counts = [run["count"] for run in runs]
    listed: Sequence[Mapping[str, Any]] = runs
    result: dict[str, Any] = {**predictions.summary(found.predictions)}
    for name in _OF_RANKS:
        if result.pop(name, None) is not None and all(name in run for run in runs):
            result[name] = float(np.average([run[name] for run in listed], weights=counts))
    result |= {name: float(np.mean([run[name] for run in listed])) for name in _OF_TRAININGS}
    splits = " and ".join(dict.fromkeys(found.predictions.splits or ()))
    result["split"] = f"all records of {splits}, each by the model of its fold"
    result["count"] = len(found.predictions)
    result["corrupt"] = [text for run in runs for text in run["corrupt"]]
    return cast(Metrics, result)


def right(found: Sequence[OutOfFold], count: int) -> np.ndarray:
    """Return f64[count]: for each record, the share of seeds with a right prediction; NaN without one."""
    values = np.full((len(found), count), np.nan)
    for row, one in zip(values, found):
        row[one.positions] = one.right
    return values.mean(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of two variants on the same records.

    Attributes:
        first, second: Names of the variants.
        value: Accuracy of the first variant minus that of the second one.
        interval: 95 % interval of the difference (`scores.paired`).
        only_first, only_second: Number of records that only this variant classifies right, as a mean over the seeds.
        count: Number of records.
    """

    first: str
    second: str
    value: float
    interval: Interval
    only_first: float
    only_second: float
    count: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.interval.low > 0 or self.interval.high < 0

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as JSON values."""
        return {**dataclasses.asdict(self), "interval": [self.interval.low, self.interval.high]}

    def __str__(self) -> str:
        low, high = self.interval.low, self.interval.high
        return f"{self.first} - {self.second}: {self.value:+.2%} (95% interval {low:+.2%} to {high:+.2%})"


def differences(variants: Mapping[str, np.ndarray], folds: Folds) -> list[Difference]:
    """Compare every pair of variants, on the records for which both have predictions.

    Args:
        variants: Name of each variant -> result of `right`, f64[n].
        folds: The folds of the n records.
    """
    found = []
    for (first, left), (second, other) in itertools.combinations(variants.items(), 2):
        known = np.isfinite(left) & np.isfinite(other)
        if known.any():
            interval = scores.paired((left - other)[known], folds.units[known], folds.folds[known])
            found.append(_difference(first, second, (left - other)[known], interval))
    return found


def _difference(first: str, second: str, values: np.ndarray, interval: Interval) -> Difference:
    return Difference(
        first=first,
        second=second,
        value=float(values.mean()),
        interval=interval,
        only_first=float(values.clip(0).sum()),
        only_second=float((-values).clip(0).sum()),
        count=len(values),
    )


def write(path: Path, found: Sequence[OutOfFold], folds: Folds) -> None:
    """Write predictions_oof.csv: variant, seed, fold, and the columns of predictions.csv."""
    if not found:
        path.unlink(missing_ok=True)  # A file of earlier runs would have wrong results.
        return
    names = ["variant", "seed", "fold", *predictions.columns(found[0].predictions.classes, several_splits=True)]
    tabular.write_csv(path, names, _rows(found, folds))


def _rows(found: Sequence[OutOfFold], folds: Folds) -> Iterator[dict[str, Any]]:
    for one in found:
        own = {"variant": one.variant, "seed": one.seed}
        numbers = folds.folds[one.positions].tolist()
        for fold, row in zip(numbers, predictions.table(one.predictions)):
            yield {**own, "fold": fold, **row}
