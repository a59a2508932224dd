"""Predictions of a model for records or files, and a list of labels that may be wrong."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfrecord_tools.base import tabular, words
from tfrecord_tools.errors import UserError, one_line
from tfrecord_tools.records import Dataset, Records
from trainers.auditing.audit_files import Doubts
from trainers.models.model_file import ModelInfo
from trainers.results import scores, views
from trainers.results.views import Predictor
from trainers.run_directory import Metrics

PREDICTIONS = "predictions.csv"
SUSPECTS = "suspects.csv"
BATCH_SIZE = 32
MAY_BE_CHOSEN_ON = "This split may have been used to choose settings, for example by early stopping."
ON_NEW_IMAGES = "Accuracy is usually a little lower on new images."  # After a result on the validation split.
_SUSPECT_COLUMNS = (
    "rank", "decision", "path", "predicted_label", "given_label", "p_predicted", "p_given", "record", "sha256",
)  # fmt: skip
_TOP_5_CLASSES = 10  # With fewer classes, the true class is nearly always one of the five most probable.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions for n images.

    Attributes:
        classes: Class names, in the order of the model's labels.
        probabilities: f32[n classes]; each row sums to 1.
        predicted: i64[n], predicted classes as indices into `classes`.
        paths: Paths of the n source files.
        labels: i64[n], true classes as indices into `classes`; None if they are not known.
        given: Names of the true classes, if some of them are not classes of the model. Then, `labels` is None.
        records: i64[n], number of each record within its split; None for files.
        splits: Name of the split of each record; None for files, and if all records are of one split.
        sha256: u8[n 32], SHA-256 of each source file; None if it is not known.
        tta: Kinds of views (`views.KINDS`); `probabilities` are the mean over the views.
    """

    classes: tuple[str, ...]
    probabilities: np.ndarray
    predicted: np.ndarray
    paths: Sequence[str]
    labels: np.ndarray | None = None
    given: Sequence[str] | None = None
    records: np.ndarray | None = None
    splits: Sequence[str] | None = None
    sha256: np.ndarray | None = None
    tta: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def names(self) -> list[str]:
        """Return the name of the predicted class of each image."""
        return [self.classes[label] for label in self.predicted.tolist()]

    def label(self, number: int) -> str:
        """Return the name of the true class of an image; "" if it is not known."""
        if self.labels is not None:
            return self.classes[self.labels[number]]
        return "" if self.given is None else self.given[number]

    @property
    def truth(self) -> np.ndarray:
        """Return `labels`.

        Raises:
            ValueError: The labels are not known.
        """
        if self.labels is None:
            raise ValueError("these predictions have no labels")
        return self.labels

    @property
    def confidence(self) -> np.ndarray:
        """Return the probability f32[n] of the predicted class."""
        return self.probabilities[np.arange(len(self)), self.predicted]


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Join predictions of the same model. Parts without images are left out."""
    parts = [part for part in parts if len(part)] or parts[:1]
    first = parts[0]

    def column(name: str) -> Any:
        return None if getattr(first, name) is None else np.concatenate([getattr(part, name) for part in parts])

    return dataclasses.replace(
        first,
        **{name: column(name) for name in ("probabilities", "predicted", "labels", "records", "sha256")},
        paths=[path for part in parts for path in part.paths],
        given=None if first.given is None else [name for part in parts for name in part.given or ()],
        splits=None if first.splits is None else [name for part in parts for name in part.splits or ()],
    )


def decide(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Return the predicted class of each row.

    Args:
        probabilities: f32[n classes].
        threshold: Smallest probability at which the second of two classes is predicted. Not used for more classes.

    Returns:
        i64[n].
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(np.int64)
    return probabilities.argmax(1)


def records_of(data: Dataset, split: str) -> Records:
    """Open the records of a split. It must have at least one record.

    Raises:
        UserError: The split does not exist, or decisions leave out all of its records.
    """
    if split not in data.splits:
        raise UserError(
            f"{data.directory}: split {split!r} does not exist. Splits: {', '.join(data.splits)}. Pass one of these"
            " splits as --split."
        )
    records = data.records(split)
    if not len(records):
        others = [name for name in data.splits if len(data.records(name))]
        raise UserError(
            f"{data.location}: split {split!r} has no images, because decisions leave out all of them. Splits with"
            f" images: {', '.join(others)}. Pass one of these splits."
        )
    return records


def of_records(
    predictor: Predictor, info: ModelInfo, records: Records, labels_of: np.ndarray | None = None
) -> Predictions:
    """Predict the classes of records. Corrupt records are left out.

    Args:
        predictor: The model, as `views.predictor` returns it.
        info: The description of the model, as `model_file.load` returns it.
        records: The records.
        labels_of: i64[classes], label of a record -> label of the model. If None, they are the same.

    Raises:
        UserError: Too many or all of the records are corrupt.
    """
    batches = list(probabilities_of_records(predictor, info, records))
    if not batches:
        raise UserError(
            f"all {len(records):,} records of {records.split} are corrupt, for example {records.corrupt[0]} Convert"
            " the dataset again."
        )
    probabilities, numbers = map(np.concatenate, zip(*batches))
    return dataclasses.replace(of_outputs(info, records, probabilities, numbers, labels_of), tta=predictor.tta)


def probabilities_of_records(
    predictor: Predictor, info: ModelInfo, records: Records
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the probabilities f32[b classes] of records, and their numbers i64[b], a batch at a time.

    Corrupt records are left out.

    Raises:
        UserError: Too many of the records are corrupt.
    """
    import tensorflow as tf

    from tfrecord_tools import dataset

    batches = dataset.eval_stream(records, batch_size=BATCH_SIZE, image_size=info.geometry)
    try:
        for batch in batches:
            yield predictor(batch.images), batch.numbers.numpy()
    except tf.errors.OpError as error:
        if records.failure:
            raise UserError(records.failure) from error
        raise


def of_outputs(
    info: ModelInfo, records: Records, outputs: np.ndarray, numbers: np.ndarray, labels_of: np.ndarray | None = None
) -> Predictions:
    """Return the predictions for records from outputs that are already computed.

    Args:
        info: The description of the model.
        records: The records.
        outputs: Outputs of the model, f32[k 1] or f32[k classes].
        numbers: i64[k], indices into `records`, one for each output.
        labels_of: As in `of_records`.
    """
    probabilities, chosen = views.both_classes(outputs), records.select(numbers)
    splits, rows = chosen.places
    return Predictions(
        classes=info.classes,
        probabilities=probabilities,
        predicted=decide(probabilities, info.threshold),
        paths=chosen.paths,
        labels=chosen.labels if labels_of is None else labels_of[chosen.labels],
        records=rows,
        splits=splits if len(records.splits) > 1 else None,
        sha256=chosen.source_sha256,
    )


def summary(predictions: Predictions) -> Metrics:
    """Return the metrics of predictions with labels, as in metrics.json."""
    labels, probabilities = predictions.truth, predictions.probabilities
    right = predictions.predicted == labels
    interval = scores.wilson(int(right.sum()), len(right))
    metrics: Metrics = {
        "loss": scores.cross_entropy(labels, probabilities),
        "accuracy": float(right.mean()),
        "accuracy_interval": [interval.low, interval.high],
        **_by_class(predictions),
        "calibration_error": scores.reliability(predictions.confidence, right).error,
    }
    if len(predictions.classes) >= _TOP_5_CLASSES:
        metrics["top_5_accuracy"] = scores.top_accuracy(labels, probabilities, 5)
    if len(predictions.classes) == 2 and len(np.unique(labels)) == 2:
        metrics["auc"] = scores.roc(labels, probabilities[:, 1]).area
        metrics["average_precision"] = scores.precision_recall(labels, probabilities[:, 1]).area
    return metrics


def _by_class(predictions: Predictions) -> Metrics:
    """Return the rates per class. Classes without images have no rates, and the means leave them out."""
    names = predictions.classes
    rates = scores.per_class(scores.confusion(predictions.truth, predictions.predicted, len(names)))
    present = rates.count > 0
    recall, precision = (
        {name: None if np.isnan(rate) else rate for name, rate in zip(names, shown)}
        for shown in np.where(present, [rates.recall, rates.precision], np.nan).tolist()
    )
    return {
        "majority_accuracy": float(rates.count.max() / rates.count.sum()),
        "balanced_accuracy": float(rates.recall[present].mean()),
        "macro_f1": float(rates.f1[present].mean()),
        "recall": recall,
        "precision": precision,
    }


def by_class_line(metrics: Metrics) -> str:
    """Return a line for the user with the metrics that show weak classes."""
    recall = {name: rate for name, rate in metrics["recall"].items() if rate is not None}
    worst = min(recall, key=lambda name: recall[name])
    return (
        f"balanced accuracy {metrics['balanced_accuracy']:.4f}, macro F1 {metrics['macro_f1']:.4f}, lowest recall"
        f" {recall[worst]:.4f} ({worst}). Always guessing the largest class: accuracy"
        f" {metrics['majority_accuracy']:.4f}"
    )


def without_issues(predictions: Predictions, doubts: Doubts | None) -> Metrics:
    """Return the metric `without_issues`: the accuracy without the images that the audit doubts.

    It is {} if there is no such accuracy.

    Args:
        predictions: The predictions, with labels.
        doubts: The open issues of the dataset's audit. None: the dataset has no audit.
    """
    if doubts is None or predictions.sha256 is None:
        return {}
    doubted = doubts.of_hashes(predictions.sha256)
    right = (predictions.predicted == predictions.truth)[~doubted]
    if not len(right):
        return {}
    interval = scores.wilson(int(right.sum()), len(right))
    return {
        "without_issues": {
            "left_out": int(doubted.sum()),
            "count": len(right),
            "accuracy": float(right.mean()),
            "accuracy_interval": [interval.low, interval.high],
        }
    }


def without_issues_line(metrics: Metrics) -> str:
    """Return a line for the user with the metric `without_issues`. The metrics must have it."""
    part = metrics["without_issues"]
    low, high = part["accuracy_interval"]
    left_out, rest = words.number(part["left_out"], "image"), words.number(part["count"], "other image")
    return (
        f"without {left_out} that the audit doubts: accuracy {part['accuracy']:.4f} ({low:.4f} to {high:.4f}) on the"
        f" {rest}"
    )


def write(directory: Path, predictions: Predictions) -> None:
    """Write predictions.csv and suspects.csv.

    suspects.csv lists all records, the most doubtful labels first. The column `given_label` is the label in the
    dataset, and `predicted_label` is the prediction. The column `decision` is empty. A person can write "label",
    "drop" or "keep" into the column `decision` of some rows. Then the file can be passed to `tfrecord_tools.convert
    --decisions`.
    """
    several = predictions.splits is not None
    tabular.write_csv(directory / PREDICTIONS, columns(predictions.classes, several), table(predictions))
    suspect_columns = [*_SUSPECT_COLUMNS, "split"] if several else _SUSPECT_COLUMNS
    tabular.write_csv(directory / SUSPECTS, suspect_columns, _suspects(predictions))


def read(directory: Path) -> Predictions:
    """Read predictions.csv of a run. The predictions have no `sha256`.

    Raises:
        UserError: The file is missing or damaged.
    """
    path = directory / PREDICTIONS
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        cells = dict(zip(header, zip(*rows)))
        first = header.index("prediction") + 1
        classes = tuple(name.removeprefix("p_") for name in header[first:])
        number_of = {name: number for number, name in enumerate(classes)}
        return Predictions(
            classes=classes,
            probabilities=np.array([row[first:] for row in rows], np.float32),
            predicted=np.array([number_of[name] for name in cells["prediction"]], np.int64),
            paths=cells["path"],
            labels=np.array([number_of[name] for name in cells["label"]], np.int64),
            records=np.array(cells["record"], np.int64),
            splits=cells.get("split"),
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: is missing or damaged ({one_line(error)}). Delete this run, and train again."
        ) from error


def columns(classes: Sequence[str], several_splits: bool = False) -> list[str]:
    """Return the names of the columns of `table`."""
    split = ["split"] if several_splits else []
    return [*split, "record", "path", "label", "prediction", *(f"p_{name}" for name in classes)]


def table(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """Yield a row per image: record, path, label, prediction, and probabilities such as `p_cats`.

    If the records are of several splits, the row also has the split.
    """
    names = predictions.classes
    for i, path in enumerate(predictions.paths):
        yield _split(predictions, i) | {
            "record": "" if predictions.records is None else int(predictions.records[i]),
            "path": path,
            "label": predictions.label(i),
            "prediction": names[predictions.predicted[i]],
            **{f"p_{name}": str(p) for name, p in zip(names, predictions.probabilities[i])},  # With all digits of f32.
        }


def ranked(predictions: Predictions) -> np.ndarray:
    """Return the indices i64[n] of the images, the most doubtful labels first.

    The doubt is the probability of the likeliest other class minus the probability of the label. A low probability of
    the label alone says little, because with many classes all probabilities may be low.
    """
    labels, rows = predictions.truth, np.arange(len(predictions))
    others = predictions.probabilities.astype(np.float64)
    own = others[rows, labels]
    others[rows, labels] = -1
    return np.argsort(own - others.max(1), kind="stable")


def _suspects(predictions: Predictions) -> Iterator[dict[str, Any]]:
    labels, names = predictions.truth, predictions.classes
    for rank, i in enumerate(ranked(predictions).tolist(), start=1):
        predicted = int(predictions.predicted[i])
        yield {
            "rank": rank,
            "decision": "",
            "path": predictions.paths[i],
            "predicted_label": names[predicted],
            "given_label": names[labels[i]],
            "p_predicted": str(predictions.probabilities[i, predicted]),
            "p_given": str(predictions.probabilities[i, labels[i]]),
            "record": "" if predictions.records is None else int(predictions.records[i]),
            "sha256": "" if predictions.sha256 is None else predictions.sha256[i].tobytes().hex(),
        } | _split(predictions, i)


def _split(predictions: Predictions, i: int) -> dict[str, str]:
    return {} if predictions.splits is None else {"split": predictions.splits[i]}
