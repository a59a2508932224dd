"""Out-of-fold predictions: every record once, its accuracy by construction, and paired differences."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import converted, with_splits
from judged_runs import read_csv

from tfrecord_tools.records import Dataset, open_dataset
from trainers.fitting import folds as folding
from trainers.fitting.folds import Folds
from trainers.results import out_of_fold, predictions, scores
from trainers.results.out_of_fold import OutOfFold
from trainers.results.predictions import Predictions
from trainers.run_directory import Metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("oof")
    converted(with_splits(root / "src", train=7, validation=4), root / "out")
    return open_dataset(root / "out")


@pytest.fixture(scope="module")
def folds(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Folds:
    return folding.assign(data, 3, 0, tmp_path_factory.mktemp("features"), lambda line: None)[0]


def write_run(directory: Path, data: Dataset, folds: Folds, fold: int, seed: int = 0, lost: int = 0) -> Metrics:
    """Write random predictions for the records of a fold. The first `lost` records are corrupt."""
    _, records = folds.divided(fold)
    records = records.select(np.arange(lost, len(records)))
    random = np.random.default_rng([seed, fold])
    p = random.random(len(records)).astype(np.float32)
    probabilities = np.stack([1 - p, p], 1)
    splits, numbers = records.places
    predicted = Predictions(
        classes=data.class_names,
        probabilities=probabilities,
        predicted=predictions.decide(probabilities, 0.5),
        paths=records.paths,
        labels=records.labels,
        records=numbers,
        splits=splits,
    )
    directory.mkdir(parents=True)
    predictions.write(directory, predicted)
    return {
        **predictions.summary(predicted),
        "count": len(records),
        "corrupt": ["a message"] * lost,
        "seconds": float(fold),
        "images_per_second": 10.0,
        "parameters": 5,
        "model_bytes": 7,
        "latency_ms": 1.0,
    }


def test_predictions_of_all_folds_are_joined(data: Dataset, folds: Folds, tmp_path: Path) -> None:
    runs = [tmp_path / str(fold) for fold in folds.numbers]
    written = [write_run(run, data, folds, fold) for run, fold in zip(runs, folds.numbers)]
    found = out_of_fold.gather("a", 4, folds, runs[::-1])
    assert found.positions.tolist() == list(range(22))
    assert list(found.predictions.paths) == list(folds.records.paths)
    np.testing.assert_array_equal(found.predictions.truth, folds.records.labels)
    one = predictions.read(runs[1])
    for path, probabilities in zip(one.paths, one.probabilities):
        position = list(folds.records.paths).index(path)
        np.testing.assert_array_equal(found.predictions.probabilities[position], probabilities)
        assert folds.folds[position] == 2

    metrics = out_of_fold.metrics(found, written)
    counts = [run["count"] for run in written]
    for name in ("accuracy", "loss", "auc"):  # The mean over the folds, weighted by their records.
        values: list[Any] = [dict(run)[name] for run in written]
        assert dict(metrics)[name] == pytest.approx(np.average(values, weights=counts)), name
    assert (metrics["count"], metrics["corrupt"], metrics["seconds"]) == (22, [], 2.0)
    assert metrics["split"] == "all records of train and validation, each by the model of its fold"

    out_of_fold.write(tmp_path / out_of_fold.FILE, [found, dataclasses.replace(found, seed=5)], folds)
    rows = read_csv(tmp_path / out_of_fold.FILE)
    assert list(rows[0]) == [
        "variant", "seed", "fold", "split", "record", "path", "label", "prediction", "p_cats", "p_dogs",
    ]  # fmt: skip
    assert [row["path"] for row in rows] == 2 * list(folds.records.paths)
    assert [int(row["fold"]) for row in rows[:22]] == folds.folds.tolist()
    assert [row["seed"] for row in rows] == ["4"] * 22 + ["5"] * 22
    assert sum(row["label"] == row["prediction"] for row in rows[:22]) / 22 == metrics["accuracy"]


def test_corrupt_records_have_no_prediction(data: Dataset, folds: Folds, tmp_path: Path) -> None:
    runs = [tmp_path / str(fold) for fold in folds.numbers]
    written = [write_run(run, data, folds, fold, lost=int(fold == 2)) for run, fold in zip(runs, folds.numbers)]
    found = out_of_fold.gather("a", 0, folds, runs)
    assert len(found.positions) == len(found.predictions) == 21
    assert out_of_fold.metrics(found, written)["corrupt"] == ["a message"]
    right = out_of_fold.right([found], 22)
    assert np.isnan(right).sum() == 1
    assert np.nanmean(right) == written_accuracy(written)
    (difference,) = out_of_fold.differences({"a": right, "b": np.ones(22)}, folds)
    assert difference.count == 21


def written_accuracy(runs: list[Metrics]) -> float:
    return sum(run["accuracy"] * run["count"] for run in runs) / sum(run["count"] for run in runs)


def out(variant: str, seed: int, right: list[int], folds: Folds) -> OutOfFold:
    """Return predictions that are right where `right` is 1."""
    labels = folds.records.labels
    predicted = np.where(np.array(right, bool), labels, 1 - labels)
    own = Predictions(
        classes=("cats", "dogs"),
        probabilities=np.eye(2, dtype=np.float32)[predicted],
        predicted=predicted,
        paths=folds.records.paths,
        labels=labels,
    )
    return OutOfFold(variant=variant, seed=seed, predictions=own, positions=np.arange(len(labels)))


def test_differences_are_those_of_the_same_records(folds: Folds) -> None:
    rest = [1] * 16
    right = {
        "a": out_of_fold.right([out("a", 0, [1, 1, 1, 1, 0, 0, *rest], folds)], 22),
        "b": out_of_fold.right([out("b", s, [0, 0, s, 1, 1, 0, *rest], folds) for s in (0, 1)], 22),  # A mean of two.
        "c": np.full(22, np.nan),  # All its folds failed.
    }
    (difference,) = out_of_fold.differences(right, folds)
    assert (difference.first, difference.second, difference.count) == ("a", "b", 22)
    assert difference.value == pytest.approx((1 + 1 + 0.5 - 1) / 22)
    assert (difference.only_first, difference.only_second) == (2.5, 1.0)
    expected = scores.paired(right["a"] - right["b"], folds.units, folds.folds)
    assert difference.interval == expected
    assert not difference.is_clear
    assert str(difference) == (f"a - b: +6.82% (95% interval {expected.low:+.2%} to {expected.high:+.2%})")
    assert difference.as_dict()["interval"] == [expected.low, expected.high]


def test_units_make_an_interval_longer(folds: Folds) -> None:
    """Eleven pairs of equal images are eleven observations."""
    left, right = np.tile(np.repeat([1.0, 1, 0, 0, 0], 2), 2), np.zeros(20)  # The same in both folds.
    alone, pairs = (
        scores.paired(left - right, units, np.arange(20) // 10).high for units in (np.arange(20), np.arange(20) // 2)
    )
    middle = (20 * 0.4) / 22
    assert (pairs - middle) / (alone - middle) == pytest.approx(np.sqrt(2 * (10 / 9) / (20 / 19)))
