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
from typing import Any

from absl import flags

from tfrecord_tools.base import command, tabular, usage, words
from tfrecord_tools.errors import UserError
from trainers.models import model_file
from trainers.results import image_files, predictions
from trainers.results.predictions import Predictions


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
    """

    run: str
    images: Sequence[str]
    csv: str | None = None
    json: bool = False
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("--run is missing: the model to use. Pass the run directory of a trainer.")
        if not self.images:
            raise UserError("no images given. Pass image files, or directories of images.")
        if self.csv:
            _check_csv(Path(self.csv))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of `predict`.

    Attributes:
        count: Number of classified images.
        unreadable: Path -> reason, sorted, for images that cannot be read, and for files that are not images but were
            given on the command line.
        skipped: Path -> reason, sorted, for files that are not images and were found in directories.
    """

    count: int
    unreadable: Mapping[str, str]
    skipped: Mapping[str, str]


def predict(config: PredictConfig, log: Callable[[str], object] = print) -> Outcome:
    """Classify images and print a line for each.

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
    files = image_files.find(config.images)

    from trainers.devices import device  # Imported late: wrong flags are reported without waiting for TensorFlow.

    device.set_up(precision="float32")
    model, _ = model_file.load(path, info)
    answers: list[dict[str, Any]] = []
    unreadable, skipped, count = dict(files.unreadable), dict[str, str](), 0
    with _csv_writer(config.csv, info.classes) as writer:
        for batch in image_files.judge(model, info, files.sources):
            count += len(batch.predictions)
            unreadable |= batch.unreadable
            skipped |= batch.skipped
            if config.json:
                answers.extend(_as_json(batch.predictions))
            else:
                for line in _lines(batch.predictions):
                    log(line)
            if writer:
                writer.writerows(predictions.table(batch.predictions))
    outcome = Outcome(count=count, unreadable=dict(sorted(unreadable.items())), skipped=dict(sorted(skipped.items())))
    if config.json:
        others = {"unreadable": outcome.unreadable, "skipped": outcome.skipped}
        log(json.dumps({"predictions": answers, **others}, indent=2, ensure_ascii=False))
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
    flags.DEFINE_boolean("json", PredictConfig.json, "Print JSON instead of a table.")


def main(argv: Sequence[str]) -> None:
    outcome = predict(command.from_flags(PredictConfig, images=argv[1:]))
    unreadable, skipped = outcome.unreadable, outcome.skipped
    for path, reason in unreadable.items():
        print(f"unreadable: {path}: {reason}", file=sys.stderr)
    if skipped:
        files = words.number(len(skipped), "file that is not an image", "files that are not images")
        print(f"note: {files} skipped, for example {next(iter(skipped))}", file=sys.stderr)
    if not outcome.count and not unreadable:
        raise UserError("no images found. Pass image files, or directories of images.")
    if unreadable:
        rest = "All other images were classified" if outcome.count else "No image was classified"
        raise UserError(f"{words.number(len(unreadable), 'file')} cannot be read, listed above. {rest}.")


if __name__ == "__main__":
    define_flags()
    command.run(main, arguments="IMAGE_OR_DIRECTORY ...")
