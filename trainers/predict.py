"""Says of images what they are: files, or all images below directories.

    python -m trainers.predict --run runs/finetune-20250131-235959 photo.jpg more_photos/

Each passes through what the converter makes of it, so that it is judged as its record would be; of a model of adopted
records, which are as they were, it is judged as it is. Images that cannot be read are listed, and the rest is judged;
the exit code is then 1. Other files in a directory, such as notes.txt, are skipped with a note.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from tfrecord_tools.base import command, usage, words
from tfrecord_tools.errors import UserError
from trainers.models import model_file
from trainers.results import image_files, predictions
from trainers.results.image_files import Found
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


def predict(config: PredictConfig, log: Callable[[str], object] = print) -> Found:
    """Judges images.

    Args:
        config: Which, by what.
        log: Takes each line of the table, or the JSON.

    Returns:
        What was found, and of it what is unreadable.

    Raises:
        UserError: No such model or files.
    """
    path = model_file.find(config.run)
    info = model_file.with_threshold(model_file.read_info(path), config.threshold)
    found = image_files.find(config.images)

    from trainers.devices import device  # Here, since it takes seconds to import TensorFlow.

    device.set_up(precision="float32")
    model, _ = model_file.load(path, info)
    answers: list[dict[str, Any]] = []

    def told() -> Iterator[Predictions]:
        for batch in image_files.judge(model, info, found):
            if config.json:
                answers.extend(_as_json(batch))
            else:
                for line in _lines(batch):
                    log(line)
            yield batch

    if config.csv:
        rows = (row for batch in told() for row in predictions.table(batch))
        predictions.write_csv(Path(config.csv), predictions.columns(info.classes), rows)
    else:
        deque(told(), maxlen=0)  # None of them is kept.
    if config.json:
        log(
            json.dumps(
                {"predictions": answers, "unreadable": found.unreadable, "skipped": found.skipped},
                indent=2,
                ensure_ascii=False,
            )
        )
    return found


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
    found = predict(command.from_flags(PredictConfig, images=argv[1:]))
    for path, reason in found.unreadable.items():
        print(f"unreadable: {path}: {reason}", file=sys.stderr)
    judged = len(found.sources) - sum(source.path in {**found.unreadable, **found.skipped} for source in found.sources)
    if found.skipped:
        what = words.number(len(found.skipped), "file that is not an image", "files that are not images")
        print(f"note: {what} skipped, such as {next(iter(found.skipped))}", file=sys.stderr)
    if not judged and not found.unreadable:
        raise UserError("no images there. Pass images, or directories of images.")
    if found.unreadable:
        rest = "Everything else was judged" if judged else "Nothing was judged"
        raise UserError(f"{words.number(len(found.unreadable), 'unreadable file')}, listed above. {rest}.")


if __name__ == "__main__":
    define_flags()
    command.run(main, arguments="IMAGE_OR_DIRECTORY ...")
