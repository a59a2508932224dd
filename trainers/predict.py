"""Says of images what they are: files, or all images below directories.

    python -m trainers.predict --run runs/finetune-20250131-235959 photo.jpg more_photos/

Each passes through what the converter makes of it, so that it is judged as its record would be; of a model of adopted
records, which are as they were, it is judged as it is. Images that cannot be read are listed, and the rest is judged;
the exit code is then 1. Other files in a directory, such as notes.txt, are skipped with a note.
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
    """What is judged, and what comes of it.

    Attributes:
        run: The run directory of a trainer, or a model file.
        images: Files and directories.
        csv: A file for all probabilities; None: none.
        json: Print them as JSON instead of a table.
        threshold: Of two classes, the probability from which an image is said to be of the second; None: the model's.
    """

    run: str
    images: Sequence[str]
    csv: str | None = None
    json: bool = False
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("--run is missing: the model to ask. Pass the run directory of a trainer.")
        if not self.images:
            raise UserError("no images are given. Pass images, or directories of images.")
        if self.csv:
            _check_csv(Path(self.csv))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a call of `predict`.

    Attributes:
        count: Number of images with a prediction.
        unreadable: Path -> reason, sorted, for images that cannot be read and for other files that the user named.
        skipped: Path -> reason, sorted, for files within directories that are not images.
    """

    count: int
    unreadable: Mapping[str, str]
    skipped: Mapping[str, str]


def predict(config: PredictConfig, log: Callable[[str], object] = print) -> Outcome:
    """Predict the classes of images.

    Args:
        config: The model and the images.
        log: Takes each line of the table, or the JSON.

    Raises:
        UserError: The model or a file does not exist.
    """
    path = model_file.find(config.run)
    info = model_file.with_threshold(model_file.read_info(path), config.threshold)
    found = image_files.find(config.images)

    from trainers.devices import device  # Here, since it takes seconds to import TensorFlow.

    device.set_up(precision="float32")
    model, _ = model_file.load(path, info)
    answers: list[dict[str, Any]] = []
    unreadable, skipped, count = dict(found.unreadable), dict[str, str](), 0
    with _csv_writer(config.csv, info.classes) as writer:
        for judged in image_files.judge(model, info, found.sources):
            count += len(judged.predictions)
            unreadable |= judged.unreadable
            skipped |= judged.skipped
            if config.json:
                answers.extend(_as_json(judged.predictions))
            else:
                for line in _lines(judged.predictions):
                    log(line)
            if writer:
                writer.writerows(predictions.table(judged.predictions))
    outcome = Outcome(count=count, unreadable=dict(sorted(unreadable.items())), skipped=dict(sorted(skipped.items())))
    if config.json:
        files = {"unreadable": outcome.unreadable, "skipped": outcome.skipped}
        log(json.dumps({"predictions": answers, **files}, indent=2, ensure_ascii=False))
    return outcome


def _csv_writer(
    path: str | None, classes: Sequence[str]
) -> contextlib.AbstractContextManager[csv.DictWriter[str] | None]:
    """Open the file of --csv, if the user wants one."""
    return tabular.csv_writer(Path(path), predictions.columns(classes)) if path else contextlib.nullcontext()


def _check_csv(path: Path) -> None:
    above = path.absolute().parent
    if not above.is_dir():
        raise UserError(f"--csv={path}: there is no directory to write it to.")
    if path.is_dir():
        raise UserError(f"--csv={path}: a directory. Pass the name of a file.")
    if not os.access(above, os.W_OK):
        raise UserError(f"--csv={path}: nothing can be written in {above}. Pass another --csv.")


def _lines(batch: Predictions) -> Iterator[str]:
    """The prediction, its probability and the path of each image; paths last, since they may be long."""
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
    usage.define_path("run", "", "The run directory of a trainer, or a .keras file that one wrote.")
    usage.define_path("csv", None, "Also write all probabilities to this file, with the columns of predictions.csv.")
    flags.DEFINE_float("threshold", None, model_file.THRESHOLD_HELP)
    flags.DEFINE_boolean("json", PredictConfig.json, "Print JSON instead of the table.")


def main(argv: Sequence[str]) -> None:
    outcome = predict(command.from_flags(PredictConfig, images=argv[1:]))
    unreadable, skipped = outcome.unreadable, outcome.skipped
    for path, reason in unreadable.items():
        print(f"unreadable: {path}: {reason}", file=sys.stderr)
    if skipped:
        what = words.number(len(skipped), "file that is not an image", "files that are not images")
        print(f"note: {what} skipped, such as {next(iter(skipped))}", file=sys.stderr)
    if not outcome.count and not unreadable:
        raise UserError("no images there. Pass images, or directories of images.")
    if unreadable:
        rest = "Everything else was judged" if outcome.count else "Nothing was judged"
        raise UserError(f"{words.number(len(unreadable), 'unreadable file')}, listed above. {rest}.")


if __name__ == "__main__":
    define_flags()
    command.run(main, arguments="IMAGE_OR_DIRECTORY ...")
