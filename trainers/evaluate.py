"""Evaluate a trained model on a split of any dataset, or on a folder of images, and write a report.

    python -m trainers.evaluate --run runs/finetune-20250131-235959 --tfrecords out/ --split test
    python -m trainers.evaluate --run runs/finetune-20250131-235959 --images new_photos/

Classes are matched by name. The order may differ from that of the training dataset. If the names differ, pass the pairs
of names that belong together as --class_map. Images of a folder that cannot be read are listed at the end, and the exit
code is 1.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from tfrecord_tools.base import cache_options, callable_module, command, files, html_frame, options, words
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.base.options import Option
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Dataset, open_dataset
from trainers import run_directory
from trainers.auditing import audit_files
from trainers.models import keras_files, model_file
from trainers.models.model_file import ModelInfo
from trainers.results import eval_sets, predictions, report, views
from trainers.results.eval_sets import EvalSet, RecordSet
from trainers.results.predictions import Predictions
from trainers.run_directory import Metrics

if TYPE_CHECKING:
    from typing_extensions import Unpack

OPTIONS = (
    Option("run", "path", "Run directory or .keras file of a training.", default=""),
    Option(
        "tfrecords",
        "path",
        "Directory of the dataset to evaluate on, as written by tfrecord_tools.convert, or its URL in a bucket. Pass"
        " either --tfrecords or --images.",
    ),
    *cache_options.OPTIONS,
    Option(
        "images",
        "path",
        "Folder of images to evaluate on, with a subfolder for each class, or an archive of such a folder. The images"
        " are read in the same way as by tfrecord_tools.convert. Pass either --images or --tfrecords.",
    ),
    Option(
        "split",
        "text",
        "Split to evaluate on: train, validation or test. Default: test. If a folder has no splits, all of its images"
        " are used.",
    ),
    Option(
        "out",
        "path",
        "Directory to write. Default: evaluation-NAME-SPLIT-DIGEST in the run directory. NAME is the name of the"
        " dataset, and DIGEST is a checksum of the dataset. With --images, DIGEST is a checksum of the folder's path.",
        written=True,
    ),
    Option("threshold", "number", model_file.THRESHOLD_HELP),
    Option(
        "audit",
        "path",
        "Directory of an audit of the dataset, written by trainers.audit. The report also shows the accuracy on the"
        " images without issues. Default: the audit of this dataset in audits/, if there is such an audit.",
    ),
    Option(
        "class_map",
        "mapping",
        "Pairs of a class of the images and a class of the model, as in Cat=cats,Dog=dogs. Bird= leaves out the images"
        " of the class Bird. Default: classes with the same name belong together.",
        example="Cat=cats,Dog=dogs",
    ),
    views.OPTION,
    keras_files.OPTION,
)


class EvaluateOptions(TypedDict, total=False):
    """Options of `Run.evaluate`, for editors and type checkers."""

    images: StrPath
    split: str
    out: StrPath
    cache_dir: StrPath
    cache_bytes: int
    threshold: float
    audit: StrPath
    class_map: Mapping[str, str]
    tta: str | Sequence[str]
    custom_objects: Sequence[str]


class EvaluateArguments(EvaluateOptions, total=False):
    """Options of `evaluate`, for editors and type checkers."""

    run: StrPath
    tfrecords: StrPath


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of an evaluation.

    Attributes:
        run: A run directory or a model file.
        tfrecords: A dataset directory. If None, the model is evaluated on `images`.
        images: A folder of images with a subfolder for each class. If None, the model is evaluated on `tfrecords`.
        split: "train", "validation" or "test". If None, "test", or the whole folder if it has no splits.
        out: Directory to write. If None, evaluation-NAME-SPLIT-DIGEST next to the model.
        threshold: For two-class models: the second class is chosen if its probability is at least this value. If None,
            the threshold of the model.
        audit: Directory of the dataset's audit. If None, `audits/NAME-DIGEST`, if it exists.
        custom_objects: As in `model_file.load`.
        class_map: Class of the images -> class of the model. "" instead of a class leaves out the images.
        tta: The views of each image, some of `views.KINDS`.
        cache_dir: As in `records.open_dataset`.
        cache_bytes: As in `records.open_dataset`.
    """

    run: str
    tfrecords: str | None = None
    images: str | None = None
    split: str | None = None
    out: str | None = None
    threshold: float | None = None
    audit: str | None = None
    custom_objects: Sequence[str] = ()
    class_map: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tta: Sequence[str] = ()
    cache_dir: str | None = None
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("--run is missing. Pass the run directory of a trainer, or its model.keras.")
        if not self.tfrecords and not self.images:
            raise UserError(
                "--tfrecords is missing. Pass the directory of a dataset, as written by python -m"
                " tfrecord_tools.convert, or a folder of images as --images."
            )
        if self.tfrecords and self.images:
            raise UserError(
                f"--tfrecords={self.tfrecords} and --images={self.images}: only one of these flags is allowed. Remove"
                " one of them."
            )
        if self.images and self.audit:
            raise UserError(f"--audit={self.audit}: an audit belongs to a dataset, not to --images. Remove --audit.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation. If it is the last line of a cell in a notebook, its report is shown.

    Attributes:
        path: Directory with metrics.json, report.html, predictions.csv, suspects.csv and plots/.
        metrics: The content of metrics.json.
        predictions: The predictions for the images, with their true labels.
        unreadable: Path -> reason, for images of a folder that cannot be read.
        skipped: Path -> reason, for files of a folder that are not images.
    """

    path: Path
    metrics: Metrics
    predictions: Predictions
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __fspath__(self) -> str:
        """Return the directory. So functions that take a path also take this result."""
        return str(self.path)

    def _repr_html_(self) -> str:
        return html_frame.of_file(self.path / report.REPORT, html.escape(repr(self)))

    def __repr__(self) -> str:
        return f"Evaluation({str(self.path)!r}): accuracy {self.metrics['accuracy']:.4f} on {self.metrics['split']}"


@options.document(OPTIONS)
def evaluate(*, log: Callable[[str], object] = command.say, **given: Unpack[EvaluateArguments]) -> Evaluation:
    """Evaluate a model and write metrics.json, report.html, predictions.csv, suspects.csv and plots/.

    It does the same as `python -m trainers.evaluate`. Images of a folder that cannot be read raise no error. They are
    listed in `Evaluation.unreadable`.

    Args:
        log: Receives the lines for the user.
        {options}

    Raises:
        UserError: The model, the images or the split do not exist, or the model lacks a class of the images.

    Example:
        trainers.evaluate(run="runs/pets", tfrecords="out", split="validation").metrics["accuracy"]
    """
    evaluation = evaluate_model(_config(given), log)
    for line in command.left_out_notes(evaluation.unreadable, evaluation.skipped):
        log(line)
    return evaluation


def _config(given: Mapping[str, Any]) -> EvaluateConfig:
    return EvaluateConfig(**{"run": ""} | options.checked(OPTIONS, given))


def evaluate_model(config: EvaluateConfig, log: Callable[[str], object] = print) -> Evaluation:
    """Evaluate a model. If anything fails, an earlier evaluation in the same directory stays as it is.

    Args:
        config: The model and the images.
        log: Receives the lines for the user.

    Raises:
        UserError: As in `evaluate`.
    """
    path = model_file.find(config.run)
    info = model_file.with_threshold(model_file.read_info(path), config.threshold)
    if config.out:  # Before a dataset in a bucket is fetched.
        _check_out(Path(config.out))
    images = _eval_set(config, info)
    for line in (*images.notes, *images.match.lines(), *views.notes(config.tta, info.classes)):
        log(line)
    doubts = audit_files.find(images.data, config.audit, log) if isinstance(images, RecordSet) else None
    out = Path(config.out) if config.out else path.parent / images.name
    _check_out(out)

    from trainers.devices import device  # Imported late: wrong flags are reported without waiting for TensorFlow.

    device.set_up(precision="float32")
    model, _ = model_file.load(path, info, config.custom_objects)
    evaluated = images.evaluate(model, info, config.tta)
    predicted = evaluated.predicted
    metrics: Metrics = {
        **predictions.summary(predicted),
        **(predictions.without_issues(predicted, doubts) if isinstance(images, RecordSet) else {}),
        "split": images.title,
        "note": images.note(info),
        "count": len(predicted),
        **evaluated.facts,
        **_choices(config, images, predicted),
    }
    _log_scores(metrics, log)
    with files.staged(out, run_directory.METRICS) as directory:
        report.write(
            directory,
            model=model,
            info=info,
            pictures=evaluated.pictures,
            predicted=predicted,
            metrics=metrics,
            run=_run_of(config.run, info),
            log=log,
        )
        run_directory.write_json(directory / run_directory.METRICS, metrics)
    log(f"{out}/ with {', '.join(sorted(path.name for path in out.iterdir()))}")
    return Evaluation(
        path=out,
        metrics=metrics,
        predictions=predicted,
        unreadable=evaluated.unreadable,
        skipped=evaluated.skipped,
    )


def _eval_set(config: EvaluateConfig, info: ModelInfo) -> EvalSet:
    if config.images:
        return eval_sets.of_folder(config.images, config.split, info, config.class_map)
    return eval_sets.of_dataset(_opened(config), config.split, info, config.class_map)


def _opened(config: EvaluateConfig) -> Dataset:
    return open_dataset(str(config.tfrecords), cache_dir=config.cache_dir, cache_bytes=config.cache_bytes)


def _choices(config: EvaluateConfig, images: EvalSet, predicted: Predictions) -> Metrics:
    """Return the choices of the user that change the results, as in metrics.json."""
    choices: Metrics = {}
    if config.class_map:
        choices["class_map"] = dict(config.class_map)
    if images.match.left_out:
        choices["left_out"] = dict(images.match.left_out)
    if predicted.tta:
        choices["tta"] = list(predicted.tta)
    return choices


def _log_scores(metrics: Metrics, log: Callable[[str], object]) -> None:
    low, high = metrics["accuracy_interval"]
    log(
        f"accuracy {metrics['accuracy']:.4f} ({low:.4f} to {high:.4f}), loss {metrics['loss']:.4f} on the"
        f" {words.number(metrics['count'], 'image')} of {metrics['split'].removeprefix('the images of ')}"
    )
    log(predictions.by_class_line(metrics))
    if "without_issues" in metrics:
        log(predictions.without_issues_line(metrics))


def _check_out(out: Path) -> None:
    """Check that the directory is new, empty, or an earlier evaluation. An earlier evaluation is replaced."""
    if any((out / name).exists() for name in (run_directory.SETTINGS, run_directory.MODEL)):
        raise UserError(
            f"--out={out}: is the run directory of a training. The evaluation would replace its report. Pass another"
            " --out."
        )
    run_directory.check_replaceable(out, run_directory.METRICS, "an evaluation")


def _run_of(run: str, info: ModelInfo) -> Path | None:
    """Return the run directory if the user passed one and it was trained on the dataset of the model."""
    directory = Path(run)
    settings = run_directory.read_settings(directory) if directory.is_dir() else {}
    trained_on = settings.get("dataset", {}).get("digest")
    return directory if trained_on == info.dataset_digest else None


def define_flags() -> None:
    options.define(OPTIONS)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    evaluation = evaluate_model(_config(options.from_flags(OPTIONS)), command.say)
    command.print_left_out(evaluation.unreadable, evaluation.skipped)
    if evaluation.unreadable:
        count = words.number(len(evaluation.unreadable), "file")
        raise UserError(f"{count} cannot be read (see the list above). All other images were evaluated.")


callable_module.make(__name__, evaluate)

if __name__ == "__main__":
    define_flags()
    command.run(main)
