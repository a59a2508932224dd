"""Classify image files, or all images in directories.

    python -m trainers.predict --run runs/finetune-20250131-235959 photo.jpg more_photos/

Each image is prepared in the same way as by `convert`. If the model was trained on records from `adopt`, images are
used as they are. Images that cannot be read are listed at the end, and the exit code is 1. All other images are
classified. Files in a directory that are not images, such as notes.txt, are skipped with a note.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from tfrecord_tools.base import callable_module, command, files, tabular, usage, words
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.errors import UserError
from trainers.models import keras_files, model_file
from trainers.models.model_file import ModelInfo
from trainers.results import image_files, predictions
from trainers.results.image_files import Images
from trainers.results.predictions import Predictions

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Settings of a prediction.

    Attributes:
        run: A run directory or a model file.
        images: Image files, and directories of images.
        csv: File to write all probabilities to. If None, no file is written.
        json: Whether to print JSON instead of a table.
        threshold: For two-class models: the second class is chosen if its probability is at least this. If None, the
            threshold of the model.
        custom_objects: As in `model_file.load`.
    """

    run: str
    images: Sequence[str]
    csv: str | None = None
    json: bool = False
    threshold: float | None = None
    custom_objects: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("--run is missing: the model to use. Pass the run directory of a trainer.")
        if not self.images:
            raise UserError("no images given. Pass image files, or directories of images.")
        if self.csv:
            _check_csv(Path(self.csv))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of the command.

    Attributes:
        count: Number of classified images.
        unreadable: Path -> reason, sorted, for images that cannot be read, and for files that are not images but were
            given on the command line.
        skipped: Path -> reason, sorted, for files that are not images and were found in directories.
    """

    count: int
    unreadable: Mapping[str, str]
    skipped: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers(Predictions):
    """Predictions for n images, and the files that have none.

    Attributes:
        unreadable: Path -> reason, for images that cannot be read, and for files that were named but are not images.
        skipped: Path -> reason, for files that are not images and were found in directories.
    """

    unreadable: Mapping[str, str]
    skipped: Mapping[str, str]


def predict(
    *, run: StrPath, images: Images, threshold: float | None = None, custom_objects: Sequence[str] = ()
) -> Answers:
    """Classify images.

    Args:
        run: A run directory or a model file.
        images: As in `Run.predict`.
        threshold: For two-class models: the second class is chosen if its probability is at least this. If None, the
            threshold of the model.
        custom_objects: Modules and files that register the custom layers of the model. They are imported.

    Returns:
        The answers, in the order of the images; those of a directory are sorted by path.

    Raises:
        UserError: The model or an image file does not exist, or pixels are not u8[h w 3].

    Example:
        trainers.predict(run="runs/pets", images=["a.jpg", "b.jpg"]).names
    """
    path = model_file.find(files.paths(run=run)["run"])
    info = model_file.with_threshold(model_file.read_info(path), threshold)
    model, _ = model_file.load(path, info, custom_objects)
    return answers(model, info, images)


def answers(model: keras.Model, info: ModelInfo, images: Images) -> Answers:
    """Classify images with a model that is loaded already. See `predict` for the arguments."""
    found = image_files.of_images(images)
    parts = list(image_files.judge(model, info, found.sources))
    none = np.zeros((0, len(info.classes)), np.float32)
    probabilities = np.concatenate([none, *(part.predictions.probabilities for part in parts)])
    return Answers(
        classes=info.classes,
        probabilities=probabilities,
        predicted=predictions.decide(probabilities, info.threshold),
        paths=[path for part in parts for path in part.predictions.paths],
        unreadable=dict(found.unreadable) | {k: v for part in parts for k, v in part.unreadable.items()},
        skipped={k: v for part in parts for k, v in part.skipped.items()},
    )


def print_answers(config: PredictConfig, log: Callable[[str], object] = print) -> Outcome:
    """Classify images and print a line for each, a batch at a time.

    Args:
        config: The model and the images.
        log: Receives each line of the table, or the JSON.

    Returns:
        The number of classified images, and the files that were not classified.

    Raises:
        UserError: The model or an image file does not exist.
    """
    path = model_file.find(config.run)
    info = model_file.with_threshold(model_file.read_info(path), config.threshold)
    found = image_files.find(config.images)

    from trainers.devices import device  # Imported late: wrong flags are reported without waiting for TensorFlow.

    device.set_up(precision="float32")
    model, _ = model_file.load(path, info, config.custom_objects)
    rows: list[dict[str, Any]] = []
    unreadable, skipped, count = dict(found.unreadable), dict[str, str](), 0
    with _csv_writer(config.csv, info.classes) as writer:
        for batch in image_files.judge(model, info, found.sources):
            count += len(batch.predictions)
            unreadable |= batch.unreadable
            skipped |= batch.skipped
            if config.json:
                rows.extend(_as_json(batch.predictions))
            else:
                for line in _lines(batch.predictions):
                    log(line)
            if writer:
                writer.writerows(predictions.table(batch.predictions))
    outcome = Outcome(count=count, unreadable=dict(sorted(unreadable.items())), skipped=dict(sorted(skipped.items())))
    if config.json:
        others = {"unreadable": outcome.unreadable, "skipped": outcome.skipped}
        log(json.dumps({"predictions": rows, **others}, indent=2, ensure_ascii=False))
    return outcome


def _csv_writer(
    path: str | None, classes: Sequence[str]
) -> contextlib.AbstractContextManager[csv.DictWriter[str] | None]:
    """Open the file of --csv, if there is one."""
    return tabular.csv_writer(Path(path), predictions.columns(classes)) if path else contextlib.nullcontext()


def _check_csv(path: Path) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UserError(f"--csv={path}: its directory does not exist. Create it, or pass another --csv.")
    if path.is_dir():
        raise UserError(f"--csv={path}: is a directory. Pass the name of a file.")
    if not os.access(parent, os.W_OK):
        raise UserError(f"--csv={path}: {parent} is not writable. Pass another --csv.")


def _lines(batch: Predictions) -> Iterator[str]:
    """Yield a line with class, probability and path for each image. The path may be long, so it is last."""
    width = max(map(len, batch.classes))
    for path, label, confidence in zip(batch.paths, batch.predicted, batch.confidence):
        yield f"{batch.classes[label]:<{width}}  {confidence:.4f}  {path}"


def _as_json(batch: Predictions) -> Iterator[dict[str, Any]]:
    for path, label, probabilities in zip(batch.paths, batch.predicted, batch.probabilities):
        yield {
            "path": path,
            "prediction": batch.classes[label],
            "probabilities": {name: float(p) for name, p in zip(batch.classes, probabilities)},
        }


def define_flags() -> None:
    usage.define_path("run", "", "Run directory of a trainer, or a .keras file of a trainer.")
    usage.define_path("csv", None, "CSV file to write: one row per image, one column of probabilities per class.")
    flags.DEFINE_float("threshold", None, model_file.THRESHOLD_HELP)
    flags.DEFINE_list("custom_objects", [], keras_files.CUSTOM_OBJECTS_HELP)
    flags.DEFINE_boolean("json", PredictConfig.json, "Print JSON instead of a table.")


def main(argv: Sequence[str]) -> None:
    outcome = print_answers(command.from_flags(PredictConfig, images=argv[1:]))
    unreadable, skipped = outcome.unreadable, outcome.skipped
    for path, reason in unreadable.items():
        print(f"unreadable: {path}: {reason}", file=sys.stderr)
    if skipped:
        count = words.number(len(skipped), "file that is not an image", "files that are not images")
        print(f"note: {count} skipped, for example {next(iter(skipped))}", file=sys.stderr)
    if not outcome.count and not unreadable:
        raise UserError("no images found. Pass image files, or directories of images.")
    if unreadable:
        rest = "All other images were classified" if outcome.count else "No image was classified"
        raise UserError(f"{words.number(len(unreadable), 'file')} cannot be read, listed above. {rest}.")


callable_module.make(__name__, predict)

if __name__ == "__main__":
    define_flags()
    command.run(main, arguments="IMAGE_OR_DIRECTORY ...")
