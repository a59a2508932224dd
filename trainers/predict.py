"""Classify image files, all images in directories, or the records of a dataset.

    python -m trainers.predict --run runs/finetune-20250131-235959 photo.jpg more_photos/
    python -m trainers.predict --run runs/finetune-20250131-235959 --tfrecords out/ --split test --csv predictions.csv

Images are prepared in the same way as by tfrecord_tools.convert. If the model was trained on records from
tfrecord_tools.adopt, images are used as they are.

If some images cannot be read, all other images are classified. The unreadable images are listed at the end, and the
exit code is 1. Files in a directory that are not images, such as notes.txt, are skipped with a note.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from tfrecord_tools.base import cache_options, callable_module, command, options, tabular, words
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.base.options import Option
from tfrecord_tools.errors import UserError
from trainers.models import engines, keras_files, model_file
from trainers.models.model_file import ModelInfo
from trainers.results import predict_sets, predictions, sources, views
from trainers.results.predict_sets import FileSet, PredictSet
from trainers.results.predictions import Predictions
from trainers.results.sources import Images

if TYPE_CHECKING:
    from typing_extensions import Unpack

_MODEL = (Option("run", "path", "Run directory or .keras file of a training.", default=""),)
_CODE = (keras_files.OPTION, engines.OPTION)
# Options of `answers`, which gets a model that is loaded already.
_OF_IMAGES = (
    Option(
        "tfrecords",
        "path",
        "Records to classify, instead of image files. Pass the directory of a dataset, or TFRecords of another tool as"
        " a file, a directory or a pattern in quotes, such as 'data/*.tfrecord'. The records need no labels. A dataset"
        " may also be the URL of a bucket.",
    ),
    *cache_options.OPTIONS,
    Option("split", "text", "Split of the dataset: train, validation or test. Default: test."),
    Option(
        "image_key",
        "text",
        "Name of the feature (field) of each record with the image, for example image/encoded. Only for TFRecords of"
        " another tool. Default: the command finds the feature by its name and its values.",
    ),
    Option("threshold", "number", model_file.THRESHOLD_HELP),
    views.OPTION,
)
_SHOWN = 10  # Images in the text of `Answers`.
_SHARED = (*_MODEL, *_OF_IMAGES, *_CODE)
# Only the command has these options, because the function returns the answers.
_PRINTED = (
    Option(
        "csv",
        "path",
        "CSV file to write. It has one row per image, and one column with probabilities per class.",
        written=True,
    ),
    Option("json", "switch", "Print JSON instead of a table.", default=False),
)
OPTIONS = (*_SHARED, *_PRINTED)


class PredictOptions(TypedDict, total=False):
    """Options of `Run.predict`, for editors and type checkers."""

    tfrecords: StrPath
    cache_dir: StrPath
    cache_bytes: int
    split: str
    image_key: str
    threshold: float
    tta: str | Sequence[str]


class PredictArguments(PredictOptions, total=False):
    """Options of `predict`, for editors and type checkers."""

    run: StrPath
    custom_objects: Sequence[str]
    engine: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Settings of a prediction.

    Attributes:
        run: A run directory or a model file.
        images: Image files, and directories of images. If empty, the records in `tfrecords` are classified.
        tfrecords: A dataset directory, or TFRecords of another tool. If None, `images` are classified.
        cache_dir: As in `records.open_dataset`.
        cache_bytes: As in `records.open_dataset`.
        split: Split of the dataset. If None, "test".
        image_key: Name of the feature (field) of each record that holds the image. Only for TFRecords of another tool.
            If None, the feature is found by its name and its values.
        csv: File to write all probabilities to. If None, no file is written.
        json: Whether to print JSON instead of a table.
        threshold: For two-class models: the second class is chosen if its probability is at least this value. If None,
            the threshold of the model.
        custom_objects: As in `model_file.load`.
        tta: The views of each image, some of `views.KINDS`.
        engine: One of `engines.ENGINES`.
    """

    run: str
    images: Sequence[str] = ()
    tfrecords: str | None = None
    cache_dir: str | None = None
    cache_bytes: int | None = None
    split: str | None = None
    image_key: str | None = None
    csv: str | None = None
    json: bool = False
    threshold: float | None = None
    custom_objects: Sequence[str] = ()
    tta: Sequence[str] = ()
    engine: str = engines.AUTO

    def __post_init__(self) -> None:
        _check_run(self.run)
        engines.check(self.engine)
        _check_images(bool(self.images), self.tfrecords, self.split, self.image_key)
        if self.csv:
            _check_csv(Path(self.csv))


def _check_run(run: str) -> None:
    if not run:
        raise UserError("--run is missing. Pass the run directory of a trainer, or its model.keras.")


def _check_images(has_images: bool, tfrecords: str | None, split: str | None, image_key: str | None) -> None:
    """Check that either images or records are given, and options of records only with records."""
    if tfrecords and has_images:
        raise UserError(
            f"--tfrecords={tfrecords}: images are given, too. Remove the paths of the images from the command, or"
            " remove --tfrecords."
        )
    if tfrecords:
        return
    for flag, value in (("split", split), ("image_key", image_key)):
        if value:
            raise UserError(f"--{flag}={value}: only --tfrecords uses it. Add --tfrecords, or remove --{flag}.")
    if not has_images:
        raise UserError(
            "no images given. Pass image files, or directories of images. To classify records, pass --tfrecords."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of the command.

    Attributes:
        count: Number of classified images.
        unreadable: Path -> reason, sorted, for images that cannot be read, and for files on the command line that are
            not images.
        skipped: Path -> reason, sorted, for files in directories that are not images.
    """

    count: int
    unreadable: Mapping[str, str]
    skipped: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers(Predictions):
    """Predictions for n images, and the files without a prediction.

    Images that cannot be read have no prediction. So n may be smaller than the number of images that were given:

        for number, name in zip(answers.numbers, answers.names):
            print(images[number], name)

    Attributes:
        numbers: i64[n], the position of each image in the sequence of images that was given. All images of a directory
            have the position of the directory. For `tfrecords`, it is the position of the record in its split or files.
        unreadable: Path -> reason, for images that cannot be read, and for given files that are not images.
        skipped: Path -> reason, for files in directories that are not images.
    """

    numbers: np.ndarray
    unreadable: Mapping[str, str]
    skipped: Mapping[str, str]

    def __repr__(self) -> str:
        """Show the class, the probability and the path of the first images, as the command prints them."""
        title = f"Answers: {words.number(len(self), 'image')}"
        if self.unreadable:
            title += f", {len(self.unreadable):,} unreadable"
        lines = [title, *itertools.islice(_lines(self), _SHOWN)]
        return "\n".join([*lines, *([f"and {len(self) - _SHOWN:,} more"] if len(self) > _SHOWN else [])])


@options.document(_SHARED)
def predict(
    images: Images | None = None,
    *,
    log: Callable[[str], object] = command.say,
    **given: Unpack[PredictArguments],
) -> Answers:
    """Classify images, or the records of a dataset.

    Args:
        images: As in `Run.predict`. If None, the records in `tfrecords` are classified.
        log: Receives the lines for the user, for example about images that cannot be read.
        {options}

    Returns:
        The answers, in the order of the images. Images of a directory are sorted by path.

    Raises:
        UserError: The model, an image file or the records do not exist, or pixels have another type or shape.

    Example:
        trainers.predict(run="runs/pets", images=["a.jpg", "b.jpg"]).names
    """
    values = options.checked(_SHARED, given)
    run = values.pop("run", "")
    _check_run(run)
    engine = values.pop("engine", engines.AUTO)
    engines.check(engine)
    path = model_file.find(run)
    model, info = model_file.load(path, None, values.pop("custom_objects", ()))
    return answers(views.predictor(model, engine=engine).compute, info, images, log, **values)


def answers(
    compute: Callable[[Any], Any],
    info: ModelInfo,
    images: Images | None = None,
    log: Callable[[str], object] = command.say,
    **given: Unpack[PredictOptions],
) -> Answers:
    """Classify images or records with a compiled model, as in `views.Predictor`.

    See `predict` for the other arguments.
    """
    values = options.checked(_OF_IMAGES, given)
    info = model_file.with_threshold(info, values.get("threshold"))
    split, image_key = values.get("split"), values.get("image_key")
    _check_images(images is not None, values.get("tfrecords"), split, image_key)
    judged = (
        predict_sets.of_tfrecords(
            values["tfrecords"], split, image_key, values.get("cache_dir"), values.get("cache_bytes")
        )
        if images is None
        else FileSet(sources.of_images(images))
    )
    for line in judged.notes:
        log(line)
    parts = list(judged.judge(views.of_compiled(compute, values.get("tta", ())), info))
    joined = predictions.joined([part.predictions for part in parts])
    found = Answers(
        **{field.name: getattr(joined, field.name) for field in dataclasses.fields(joined)},
        numbers=np.concatenate([part.numbers for part in parts]),
        unreadable={path: reason for part in parts for path, reason in part.unreadable.items()},
        skipped={path: reason for part in parts for path, reason in part.skipped.items()},
    )
    for line in command.left_out_notes(found.unreadable, found.skipped):
        log(line)
    return found


def print_answers(config: PredictConfig, log: Callable[[str], object] = print) -> Outcome:
    """Classify images batch by batch, and print a line for each image.

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
    images = _predict_set(config)
    for line in (*images.notes, *views.notes(config.tta, info.classes)):
        print(line, file=sys.stderr)  # Only the table or the JSON is printed to the standard output.

    from trainers.devices import device  # Imported late: wrong flags are reported without waiting for TensorFlow.

    device.set_up(precision="float32")
    model, _ = model_file.load(path, info, config.custom_objects)
    predictor = views.predictor(model, config.tta, config.engine)
    rows: list[dict[str, Any]] = []
    unreadable, skipped, count = dict[str, str](), dict[str, str](), 0
    with _csv_writer(config.csv, info.classes) as writer:
        for batch in images.judge(predictor, info):
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
        others = {"unreadable": outcome.unreadable, "skipped": outcome.skipped, "tta": list(predictor.tta)}
        log(json.dumps({"predictions": rows, **others}, indent=2, ensure_ascii=False))
    return outcome


def _predict_set(config: PredictConfig) -> PredictSet:
    if config.tfrecords:
        return predict_sets.of_tfrecords(
            config.tfrecords, config.split, config.image_key, config.cache_dir, config.cache_bytes
        )
    return FileSet(sources.find(config.images))


def _csv_writer(
    path: str | None, classes: Sequence[str]
) -> contextlib.AbstractContextManager[csv.DictWriter[str] | None]:
    """Open the file of --csv, if there is one."""
    return tabular.csv_writer(Path(path), predictions.columns(classes)) if path else contextlib.nullcontext()


def _check_csv(path: Path) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UserError(f"--csv={path}: its directory does not exist. Create the directory, or pass another --csv.")
    if path.is_dir():
        raise UserError(f"--csv={path}: is a directory. Pass the name of a file.")
    if not os.access(parent, os.W_OK):
        raise UserError(f"--csv={path}: the directory {parent} is not writable. Pass another --csv.")


def _lines(batch: Predictions) -> Iterator[str]:
    """Yield a line with class, probability and path for each image. The path may be long, so it is last."""
    width = max(map(len, batch.classes))
    for path, label, confidence in zip(batch.paths, batch.predicted, batch.confidence):
        yield f"{batch.classes[label]:<{width}}  {confidence:.4f}  {path}"


def _as_json(batch: Predictions) -> Iterator[dict[str, Any]]:
    """Yield a dict for each image. For records, it also has the number and the label of the record."""
    for i, path in enumerate(batch.paths):
        of_record = {} if batch.records is None else {"record": int(batch.records[i]), "label": batch.label(i)}
        yield {
            "path": path,
            **of_record,
            "prediction": batch.classes[batch.predicted[i]],
            "probabilities": {name: float(p) for name, p in zip(batch.classes, batch.probabilities[i])},
        }


def define_flags() -> None:
    options.define(OPTIONS)


def main(argv: Sequence[str]) -> None:
    given = options.checked(OPTIONS, options.from_flags(OPTIONS))
    outcome = print_answers(PredictConfig(**{"run": ""} | given, images=argv[1:]))
    command.print_left_out(outcome.unreadable, outcome.skipped)
    if not outcome.count and not outcome.unreadable:
        raise UserError("no images found. Pass image files, or directories of images.")
    if outcome.unreadable:
        rest = "All other images were classified" if outcome.count else "No image was classified"
        raise UserError(f"{words.number(len(outcome.unreadable), 'file')} cannot be read (see the list above). {rest}.")


callable_module.make(__name__, predict)

if __name__ == "__main__":
    define_flags()
    command.run(main, arguments="IMAGE_OR_DIRECTORY ...")
