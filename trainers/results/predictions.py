"""What a model says of images, each of them traceable to its record and its file; and which labels look wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrecord_tools.base import tabular
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.records import Dataset, Records
from trainers.models.model_file import ModelInfo
from trainers.results import scores
from trainers.run_directory import Metrics

if TYPE_CHECKING:
    import keras

PREDICTIONS = "predictions.csv"
SUSPECTS = "suspects.csv"
BATCH_SIZE = 32
_SUSPECT_COLUMNS = ("rank", "path", "predicted_label", "given_label", "p_predicted", "p_given", "record")
_DIFFERENCES_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model says of images. Columns run over images.

    Attributes:
        classes: The names, in the order of the model's labels.
        probabilities: f32[n classes], each row adding up to 1.
        predicted: i64[n], index into `classes`.
        paths: Of the sources.
        labels: i64[n], index into `classes`; None where the truth is not known.
        records: i64[n], the number of each within its split; None for files.
    """

    classes: tuple[str, ...]
    probabilities: np.ndarray
    predicted: np.ndarray
    paths: Sequence[str]
    labels: np.ndarray | None = None
    records: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def truth(self) -> np.ndarray:
        """The labels i64[n], of predictions that have them."""
        if self.labels is None:
            raise ValueError("predictions without labels cannot be judged")
        return self.labels

    @property
    def confidence(self) -> np.ndarray:
        """f32[n], the probability of what is predicted."""
        return self.probabilities[np.arange(len(self)), self.predicted]


def both_classes(output: np.ndarray) -> np.ndarray:
    """Makes f32[n classes] of a model's output: f32[n 1], the probability of the second class, is given the first's."""
    return np.concatenate([1 - output, output], 1) if output.shape[1] == 1 else output


def decide(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the predicted class i64[n] of each row of f32[n classes]; of two, the second from the threshold on."""
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(np.int64)
    return probabilities.argmax(1)


def of_records(
    model: keras.Model, info: ModelInfo, records: Records, classes: Sequence[str] | None = None
) -> Predictions:
    """Judges records; the corrupt ones are left out.

    Args:
        model: As of `model_file.load`.
        info: Likewise.
        records: What to judge.
        classes: The names of the records' labels; None: those of the model, in its order.

    Raises:
        UserError: The records are of other classes, or too many or all of them are corrupt.
    """
    import tensorflow as tf

    from tfrecord_tools import dataset
    from trainers.models import inference

    labels_of = _mapped(info.classes, info.classes if classes is None else classes)  # Before anything slow is done.
    batches = dataset.eval_stream(records, batch_size=BATCH_SIZE, image_size=info.image_size, crop=info.crop)
    predict = inference.compiled(model)
    try:
        answers = [(predict(batch.images).numpy(), batch.numbers.numpy()) for batch in batches]
    except tf.errors.OpError as error:
        if records.damage:
            raise UserError(records.damage) from error
        raise
    if not answers:
        raise UserError(f"all {len(records):,} records of {records.split} are corrupt, such as {records.corrupt[0]}")
    outputs, numbers = map(np.concatenate, zip(*answers))
    return of_outputs(info, records, outputs, numbers, labels_of)


def of_outputs(
    info: ModelInfo, records: Records, outputs: np.ndarray, numbers: np.ndarray, labels_of: np.ndarray | None = None
) -> Predictions:
    """What a model's outputs say of records.

    Args:
        info: Of the model.
        records: What was judged.
        outputs: f32[k 1] or f32[k classes], as the model puts them out.
        numbers: i64[k], the records that these are of.
        labels_of: Label of a record -> that of the model; None: they are the same.
    """
    probabilities = both_classes(outputs)
    paths, labels = records.paths, records.labels[numbers]
    return Predictions(
        classes=info.classes,
        probabilities=probabilities,
        predicted=decide(probabilities, info.threshold),
        paths=[paths[i] for i in numbers.tolist()],
        labels=labels if labels_of is None else labels_of[labels],
        records=records.rows[numbers],
    )


def check_classes(info: ModelInfo, data: Dataset) -> None:
    """Raises UserError, which names the difference, if a dataset is of other classes than a model."""
    _mapped(info.classes, data.class_names, f"{data.directory}: ")


def summary(predictions: Predictions) -> Metrics:
    """The figures of predictions with labels, as metrics.json has them."""
    labels, probabilities = predictions.truth, predictions.probabilities
    right = predictions.predicted == labels
    interval = scores.wilson(int(right.sum()), len(right))
    metrics: Metrics = {
        "loss": scores.cross_entropy(labels, probabilities),
        "accuracy": float(right.mean()),
        "accuracy_interval": [interval.low, interval.high],
        "calibration_error": scores.reliability(predictions.confidence, right).error,
    }
    if len(predictions.classes) == 2 and len(np.unique(labels)) == 2:
        metrics["auc"] = scores.roc(labels, probabilities[:, 1]).area
        metrics["average_precision"] = scores.precision_recall(labels, probabilities[:, 1]).area
    return metrics


def write(directory: Path, predictions: Predictions) -> None:
    """Writes predictions.csv, and suspects.csv, which ranks all records by how wrong their labels look.

    Lines of the latter, kept in a file of their own, are what `tfrecord_tools.convert --relabel` takes: its column
    `predicted_label` is what the model says, and `given_label` what the dataset does.
    """
    tabular.write_csv(directory / PREDICTIONS, columns(predictions.classes), table(predictions))
    tabular.write_csv(directory / SUSPECTS, _SUSPECT_COLUMNS, _suspects(predictions))


def columns(classes: Sequence[str]) -> list[str]:
    """The names of the columns of `table`."""
    return ["record", "path", "label", "prediction", *(f"p_{name}" for name in classes)]


def table(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """A row an image: record, path, label, prediction, and the probability of each class, `p_cats`, `p_dogs`."""
    names = predictions.classes
    for i, path in enumerate(predictions.paths):
        yield {
            "record": "" if predictions.records is None else int(predictions.records[i]),
            "path": path,
            "label": "" if predictions.labels is None else names[predictions.labels[i]],
            "prediction": names[predictions.predicted[i]],
        } | {f"p_{name}": str(p) for name, p in zip(names, predictions.probabilities[i])}  # In full: f32 has 9 digits.


def ranked(predictions: Predictions) -> np.ndarray:
    """The numbers of the images i64[n], those first whose label the model most surely contradicts.

    By how much the likeliest other class exceeds the label's own: for more than two classes, that a label is
    improbable does not suffice, since all may be.
    """
    labels, rows = predictions.truth, np.arange(len(predictions))
    others = predictions.probabilities.astype(np.float64)
    own = others[rows, labels]
    others[rows, labels] = -1
    return np.argsort(own - others.max(1), kind="stable")


def _suspects(predictions: Predictions) -> Iterator[dict[str, Any]]:
    labels, names = predictions.truth, predictions.classes
    for rank, i in enumerate(ranked(predictions).tolist(), start=1):
        said = int(predictions.predicted[i])
        yield {
            "rank": rank,
            "path": predictions.paths[i],
            "predicted_label": names[said],
            "given_label": names[labels[i]],
            "p_predicted": str(predictions.probabilities[i, said]),
            "p_given": str(predictions.probabilities[i, labels[i]]),
            "record": "" if predictions.records is None else int(predictions.records[i]),
        }


def _mapped(wanted: Sequence[str], given: Sequence[str], where: str = "") -> np.ndarray:
    """For each given class, its number among the wanted ones."""
    if set(wanted) != set(given):
        only = {
            "only the model has": sorted(set(wanted) - set(given)),
            "only the dataset has": sorted(set(given) - set(wanted)),
        }
        differences = "; ".join(
            f"{which} {named(names, most=_DIFFERENCES_NAMED)}" for which, names in only.items() if names
        )
        raise UserError(
            f"{where}other classes than those the model was trained on: {differences}. Pass a dataset of the same"
            " classes; their order may differ."
        )
    number_of = {name: number for number, name in enumerate(wanted)}
    return np.array([number_of[name] for name in given], np.int64)
