"""Evaluate a trained model on a split of any dataset with the same classes, and write a report.

    python -m trainers.evaluate --run runs/finetune-20250131-235959 --tfrecords out/ --split test

Classes are matched by name. The order may differ from that of the training dataset.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from tfrecord_tools.base import callable_module, command, files, html_frame, usage, words
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Dataset, open_dataset
from trainers import run_directory
from trainers.auditing import audit_files
from trainers.models import model_file
from trainers.models.model_file import ModelInfo
from trainers.results import predictions, report
from trainers.results.predictions import Predictions
from trainers.run_directory import Metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of an evaluation.

    Attributes:
        run: A run directory or a model file.
        tfrecords: A dataset directory.
        split: Split of the dataset: "train", "validation" or "test".
        out: Directory to write. If None, evaluation-DATASET-SPLIT-DIGEST next to the model.
        threshold: For two-class models: the second class is chosen if its probability is at least this. If None, the
            threshold of the model.
        audit: Directory of the dataset's audit. If None, `audits/NAME-DIGEST`, if it exists.
    """

    run: str
    tfrecords: str
    split: str = "test"
    out: str | None = None
    threshold: float | None = None
    audit: str | None = None

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("--run is missing: the model to evaluate. Pass the run directory of a trainer.")
        if not self.tfrecords:
            raise UserError(
                "--tfrecords is missing: the images to evaluate on. Pass the --out of python -m tfrecord_tools.convert."
            )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation. In a notebook, its last line in a cell shows its report.

    Attributes:
        path: Directory with metrics.json, report.html, predictions.csv, suspects.csv and plots/.
        metrics: The content of metrics.json.
        predictions: The predictions, with true labels.
    """

    path: Path
    metrics: Metrics
    predictions: Predictions

    def _repr_html_(self) -> str:
        return html_frame.of_file(self.path / report.REPORT, html.escape(repr(self)))

    def __repr__(self) -> str:
        return f"Evaluation({str(self.path)!r}): accuracy {self.metrics['accuracy']:.4f} on {self.metrics['split']}"


def evaluate(
    *,
    run: StrPath,
    tfrecords: StrPath,
    split: str = EvaluateConfig.split,
    out: StrPath | None = None,
    threshold: float | None = None,
    audit: StrPath | None = None,
    log: Callable[[str], object] = command.say,
) -> Evaluation:
    """Evaluate a model and write metrics.json, report.html, predictions.csv, suspects.csv and plots/.

    It does the same as `python -m trainers.evaluate`.

    Args:
        run: A run directory or a model file.
        tfrecords: A dataset directory.
        split: Split of the dataset: "train", "validation" or "test".
        out: Directory to write. If None, evaluation-DATASET-SPLIT-DIGEST next to the model.
        threshold: For two-class models: the second class is chosen if its probability is at least this. If None, the
            threshold of the model.
        audit: Directory of the dataset's audit. If None, `audits/NAME-DIGEST`, if it exists.
        log: Receives the lines for the user.

    Raises:
        UserError: The model, the dataset or the split does not exist, or the dataset has other classes.

    Example:
        trainers.evaluate(run="runs/pets", tfrecords="out", split="validation").metrics["accuracy"]
    """
    config = EvaluateConfig(
        **files.paths(run=run, tfrecords=tfrecords, out=out, audit=audit), split=split, threshold=threshold
    )
    path = model_file.find(config.run)
    info = model_file.with_threshold(model_file.read_info(path), config.threshold)
    data = open_dataset(config.tfrecords)
    predictions.check_classes(info, data)
    records = data.records(config.split)
    doubts = audit_files.find(data, config.audit, log)
    name = f"evaluation-{data.name}-{config.split}-{data.digest[:8]}"  # Several datasets may have the same name.
    out = Path(config.out) if config.out else path.parent / name
    _check_out(out)
    trained = _run_of(config.run, info)

    from trainers.devices import device  # Imported late: wrong flags are reported without waiting for TensorFlow.

    device.set_up(precision="float32")
    model, _ = model_file.load(path, info)
    predicted = predictions.of_records(model, info, records, data.class_names)
    metrics: Metrics = {
        **predictions.summary(predicted),
        **predictions.without_issues(predicted, doubts),
        "split": f"the {config.split} split of {data.name}",
        "note": _note(info, data, config.split),
        "count": len(predicted),
        "corrupt": list(records.corrupt.values()),
        "dataset": data.name,
        "digest": data.digest,
    }
    out.mkdir(parents=True, exist_ok=True)
    # Written first: it allows the next evaluation to replace an unfinished one.
    run_directory.write_json(out / run_directory.METRICS, metrics)
    low, high = metrics["accuracy_interval"]
    log(
        f"accuracy {metrics['accuracy']:.4f} ({low:.4f} to {high:.4f}), loss {metrics['loss']:.4f} on the"
        f" {words.number(len(predicted), 'image')} of {metrics['split']}"
    )
    log(predictions.by_class_line(metrics))
    if "without_issues" in metrics:
        log(predictions.without_issues_line(metrics))
    report.write(
        out, model=model, info=info, records=records, predicted=predicted, metrics=metrics, run=trained, log=log
    )
    log(f"{out}/ with {', '.join(sorted(path.name for path in out.iterdir()))}")
    return Evaluation(out, metrics, predicted)


def _check_out(out: Path) -> None:
    """Check that the directory is new, empty, or an earlier evaluation, which is replaced."""
    if any((out / name).exists() for name in (run_directory.SETTINGS, run_directory.MODEL)):
        raise UserError(
            f"--out={out}: is the directory of a training, and the evaluation would replace its report. Pass"
            " another --out."
        )
    run_directory.check_replaceable(out, run_directory.METRICS, "an evaluation")


def _run_of(run: str, info: ModelInfo) -> Path | None:
    """Return the run directory if the user passed one and it was trained on the dataset of the model."""
    directory = Path(run)
    settings = run_directory.read_settings(directory) if directory.is_dir() else {}
    trained_on = settings.get("dataset", {}).get("digest")
    return directory if trained_on == info.dataset_digest else None


def _note(info: ModelInfo, data: Dataset, split: str) -> str:
    """Return a note for the user on what the results on this split mean for new images."""
    if data.digest != info.dataset_digest:
        return "The model was trained on another dataset. It was not checked whether both datasets share images."
    return {
        "train": "The model was trained on this split. The results say nothing about new images.",
        "validation": f"{predictions.MAY_BE_CHOSEN_ON} {predictions.ON_NEW_IMAGES}",
    }.get(split, "This split was not used for training.")


def define_flags() -> None:
    usage.define_path("run", "", "Run directory of a trainer, or a .keras file of a trainer.")
    usage.define_path("tfrecords", "", "Directory of the dataset: the --out of tfrecord_tools.convert.")
    flags.DEFINE_string("split", EvaluateConfig.split, "Split to evaluate on: train, validation or test.")
    usage.define_path("out", None, "Directory to write. Default: evaluation-DATASET-SPLIT-DIGEST in the run directory.")
    flags.DEFINE_float("threshold", None, model_file.THRESHOLD_HELP)
    usage.define_path(
        "audit",
        None,
        "Directory of an audit of the dataset, written by trainers.audit. The accuracy on the images without issues is"
        " reported, too. Default: audits/NAME-DIGEST, if it exists.",
    )


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    evaluate(**command.flag_values(EvaluateConfig))


callable_module.make(__name__, evaluate)

if __name__ == "__main__":
    define_flags()
    command.run(main)
