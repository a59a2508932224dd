"""Judges a trained model on a split of any dataset of the same classes, and writes the report.

    python -m trainers.evaluate --run runs/finetune-20250131-235959 --tfrecords out/ --split test

The dataset may have its classes in another order than the one trained on: they are matched by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from tfrecord_tools.base import command, usage, words
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Dataset, open_dataset
from trainers import run_directory
from trainers.models import model_file
from trainers.models.model_file import ModelInfo
from trainers.results import predictions, report
from trainers.run_directory import Metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is judged on what.

    Attributes:
        run: The run directory of a trainer, or a model file.
        tfrecords: A dataset directory.
        split: Of it.
        out: The directory to write; None: one beside the model, named after dataset and split.
        threshold: Of two classes, the probability from which an image is said to be of the second; None: the model's.
    """

    run: str
    tfrecords: str
    split: str = "test"
    out: str | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("--run is missing: the model to judge. Pass the run directory of a trainer.")
        if not self.tfrecords:
            raise UserError(
                "--tfrecords is missing: the images to judge it on. Pass the --out of python -m tfrecord_tools.convert."
            )


def evaluate(config: EvaluateConfig, log: Callable[[str], object] = print) -> Metrics:
    """Judges a model and writes metrics.json, report.html, predictions.csv, suspects.csv and plots/.

    Args:
        config: The model and the dataset.
        log: Takes the lines for the user.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: No such model, dataset or split, or other classes.
    """
    path = model_file.find(config.run)
    info = model_file.with_threshold(model_file.read_info(path), config.threshold)
    data = open_dataset(config.tfrecords)
    predictions.check_classes(info, data)
    records = data.records(config.split)
    name = f"evaluation-{data.name}-{config.split}-{data.digest[:8]}"  # Several datasets may be of one name.
    out = Path(config.out) if config.out else path.parent / name
    _check_out(out)
    run = _run_of(config.run, info)

    from trainers.devices import device  # Here, since it takes seconds to import TensorFlow.

    device.set_up(precision="float32")
    model, _ = model_file.load(path, info)
    predicted = predictions.of_records(model, info, records, data.class_names)
    metrics: Metrics = {
        **predictions.summary(predicted),
        "split": f"the {config.split} split of {data.name}",
        "note": _note(info, data, config.split),
        "count": len(predicted),
        "corrupt": list(records.corrupt.values()),
        "dataset": data.name,
        "digest": data.digest,
    }
    out.mkdir(parents=True, exist_ok=True)
    run_directory.write_json(out / run_directory.METRICS, metrics)  # First: by it the directory is known again.
    low, high = metrics["accuracy_interval"]
    log(
        f"accuracy {metrics['accuracy']:.4f} ({low:.4f} to {high:.4f}), loss {metrics['loss']:.4f} on"
        f" {words.number(len(predicted), 'image')}: {metrics['split']}"
    )
    report.write(out, model=model, info=info, records=records, predicted=predicted, metrics=metrics, run=run, log=log)
    log(f"{out}/ with {', '.join(sorted(path.name for path in out.iterdir()))}")
    return metrics


def _check_out(out: Path) -> None:
    """Refuses what is no place for an evaluation: only an earlier one is replaced."""
    run_directory.check_directory("out", out)
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if names & {run_directory.SETTINGS, run_directory.MODEL}:
        raise UserError(f"--out={out}: a run directory, whose own report is not replaced. Pass another --out.")
    if names and run_directory.METRICS not in names:
        raise UserError(
            f"--out={out}: not empty, and no evaluation (it has no {run_directory.METRICS}). Pass another --out."
        )


def _run_of(run: str, info: ModelInfo) -> Path | None:
    """The run directory, if that is what was given and the model was trained as its settings say."""
    directory = Path(run)
    settings = run_directory.read_settings(directory) if directory.is_dir() else {}
    trained_on = settings.get("dataset", {}).get("digest")
    return directory if trained_on == info.dataset_digest else None


def _note(info: ModelInfo, data: Dataset, split: str) -> str:
    """What to think of figures of this split."""
    if data.digest != info.dataset_digest:
        return "This is another dataset than the model was trained on; whether they share images was not looked at."
    return {
        "train": "The model was trained on this split: its figures say nothing of new images.",
        "validation": "The choices of its training were made on this split: expect somewhat less on new images.",
    }.get(split, "No choice of its training was made on this split.")


def define_flags() -> None:
    usage.define_path("run", "", "The run directory of a trainer, or a .keras file that one wrote.")
    usage.define_path("tfrecords", "", "The dataset directory, as tfrecord_tools.convert wrote it.")
    flags.DEFINE_string("split", EvaluateConfig.split, "Of it: train, validation or test.")
    usage.define_path("out", None, "The directory to write; by default one in --run, by dataset and split.")
    flags.DEFINE_float("threshold", None, model_file.THRESHOLD_HELP)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    evaluate(command.from_flags(EvaluateConfig))


if __name__ == "__main__":
    define_flags()
    command.run(main)
