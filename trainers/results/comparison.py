"""Compare trainings: which trainings to run, their results, a table and a chart."""

from __future__ import annotations

import dataclasses
import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfrecord_tools.base import files, tabular
from tfrecord_tools.errors import UserError
from trainers import backbones as known
from trainers import recipes, run_directory
from trainers.results import scores
from trainers.results.scores import Interval
from trainers.run_directory import Metrics

TABLE, CHART = "comparison.csv", "comparison.png"
_RESERVED = re.compile(r"--?(seed|run|tfrecords|csv)\b")
# Topics of settings.json that are equal in all runs of a variant. Seeds and paths are not among them.
_COMMON = ("recipe", "weights", "parent", "dataset", "environment")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the comparison.

    Attributes:
        name: Name in the table, and the beginning of the names of its run directories.
        trainer: Name of the trainer.
        flags: Flags of this variant, for the recipe and the model.
    """

    name: str
    trainer: str
    flags: tuple[str, ...]

    def run(self, seed: int) -> str:
        """Return the name of the run directory of a seed."""
        plain = re.sub(r"[^\w.+-]+", "_", self.name)
        return f"{plain}-seed{seed}"

    def arguments(self, seed: int) -> list[str]:
        """Return the trainer and the flags that decide the result. NAME-seedN.json keeps them."""
        return [f"trainers.{self.trainer}", f"--seed={seed}", *self.flags]


def variants(given: Sequence[str], backbones: Sequence[str]) -> list[Variant]:
    """Parse the values of --variant and --backbone.

    Args:
        given: Values `[NAME=]TRAINER [FLAGS]`, for example `flipped=scratch --augment=standard`.
        backbones: Values `[NAME=]BACKBONE [FLAGS]`, for example `small=MobileNet --backbone_kwargs=alpha=0.25`. Every
            variant is trained on each backbone, except variants of `trainers.scratch` and variants with a --backbone.

    Returns:
        The variants, each with a unique name.

    Raises:
        UserError: A trainer or backbone does not exist, a name is used twice, or a variant has a flag that `compare`
            sets.
    """
    result: list[Variant] = []
    for text in given:
        label, trainer, flags = _parsed(text)
        fixed = trainer == "scratch" or any(re.match(r"--?backbone(=|$)", flag) for flag in flags)
        for suffix, more in [("", ())] if fixed or not backbones else map(_backbone, backbones):
            _check_flags(text, (*flags, *more))
            result.append(Variant(name=" ".join(filter(None, (label, suffix))), trainer=trainer, flags=(*flags, *more)))
    runs = [variant.run(0) for variant in result]
    twice = next((variant for variant in result if runs.count(variant.run(0)) > 1), None)
    if twice:
        raise UserError(
            f"--variant: two variants are named {twice.name!r}. Names must be unique. Pass"
            f" --variant='NAME={twice.trainer} FLAGS' or --backbone='NAME=BACKBONE FLAGS'."
        )
    return result


def _parsed(text: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the name, the trainer and the flags of a variant."""
    parts = _split(text, "|".join(recipes.RECIPES))
    if parts:
        return parts
    raise UserError(
        f"--variant={text}: must be [NAME=]TRAINER [FLAGS]. TRAINER is one of {', '.join(recipes.RECIPES)}."
    )


def _backbone(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the name and the flags of a backbone."""
    parts = _split(text, r"(?!-)[^\s=]+")  # A name, or a network of the user, such as file.py:function.
    if not parts:
        raise UserError(
            f"--backbone={text}: must be [NAME=]BACKBONE [FLAGS], for example 'MobileNetV2 --weights=none'."
        )
    name, backbone, flags = parts
    known.find(backbone)
    return name, (f"--backbone={backbone}", *flags)


def _split(text: str, pattern: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Split `[NAME=]WORD [FLAGS]` where the word matches a pattern. The name defaults to the word."""
    # A name may contain spaces. It ends at the = in front of the word.
    match = re.match(rf"(?:(?P<name>(?!-)(?:(?! -)[^=])+)=)?\s*(?P<word>{pattern})(?:\s|$)", text)
    if not match:
        return None
    return (match["name"] or match["word"]).strip(), match["word"], _words(text[match.end("word") :])


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:  # For example, a quotation mark is not closed.
        raise UserError(f"{text.strip()}: these flags cannot be parsed: {error}.") from error


def _check_flags(text: str, flags: Sequence[str]) -> None:
    for flag in flags:
        if _RESERVED.match(flag):
            raise UserError(
                f"--variant={text}: {flag.split('=')[0]} is set by this command for all variants. Remove this flag."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The results of a variant over its seeds.

    Attributes:
        name: Name of the variant.
        runs: Content of metrics.json for each finished seed. In cross-validation: the metrics of the out-of-fold
            predictions for each seed with all its folds (`out_of_fold.metrics`).
        failed: Number of trainings that ended with an error.
        folds: Accuracy of each fold, as a mean over the seeds. (): no cross-validation.
        effect: Factor by which records that must stay in one fold increase the variance (`scores.design_effect`).
    """

    name: str
    runs: tuple[Metrics, ...]
    failed: int = 0
    folds: tuple[float, ...] = ()
    effect: float = 1.0

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The accuracies of the folds; without cross-validation, those of the seeds."""
        return self.folds or tuple(run["accuracy"] for run in self.runs)

    def mean(self, metric: str) -> float | None:
        """Return the mean of a metric over the seeds; None if no run has it."""
        runs: Sequence[Mapping[str, Any]] = self.runs
        values = [run[metric] for run in runs if metric in run]
        return statistics.mean(values) if values else None

    def interval(self) -> Interval | None:
        """Return the 95 % interval of the mean accuracy, for new images of the same kind; None without runs.

        All seeds are evaluated on the same images, so more seeds do not make the interval narrower. Records that must
        stay in one fold make the interval wider, by their design effect.
        """
        accuracy, count = self.mean("accuracy"), self.mean("count")
        if accuracy is None or count is None:
            return None
        return scores.wilson(round(accuracy * count) / self.effect, round(count) / self.effect)

    def over_folds(self) -> Interval | None:
        """Return the 95 % interval of the mean over the folds (`scores.corrected`); None without folds."""
        return scores.corrected(np.array(self.folds)) if self.folds else None

    def as_dict(self) -> dict[str, Any]:
        """Return the columns of the CSV. Times are means over the trainings."""
        accuracies = self.accuracies
        names = ("auc", "loss", "parameters", "seconds", "images_per_second", "model_bytes", "latency_ms")
        return {
            "variant": self.name,
            "seeds": len(self.runs),
            "failed": self.failed,
            "accuracy": self.mean("accuracy"),
            "accuracy_min": min(accuracies, default=None),
            "accuracy_max": max(accuracies, default=None),
            "accuracy_stdev": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            **{name: self.mean(name) for name in names},
        } | (self._of_folds() if self.folds else {})

    def _of_folds(self) -> dict[str, Any]:
        wilson, corrected = self.interval(), self.over_folds()
        return {
            "folds": len(self.folds),
            "accuracy_low": wilson and wilson.low,
            "accuracy_high": wilson and wilson.high,
            "over_folds_low": corrected and corrected.low,
            "over_folds_high": corrected and corrected.high,
        }


def check_alike(variants: Iterable[Sequence[Path]]) -> None:
    """Check that the finished runs of each variant differ only in the seed.

    Args:
        variants: The run directories of each variant.

    Raises:
        UserError: Two runs of a variant differ in the recipe, the weights, the parent, the dataset or the environment.
    """
    for runs in variants:
        finished = [run for run in runs if run_directory.read_metrics(run) is not None]
        for run in finished[1:]:
            differences = run_directory.differences(finished[0], run_directory.read_settings(run), _COMMON)
            if differences:
                raise UserError(
                    f"{run}: was trained with other settings than {finished[0]}: {'; '.join(differences)}. Remove one"
                    " of the two run directories, or pass another --out."
                )


def best_first(rows: Sequence[Row]) -> list[Row]:
    """Return the rows by falling accuracy, rows without runs last."""
    return sorted(rows, key=lambda row: -(row.mean("accuracy") or 0.0))


def table(rows: Sequence[Row]) -> str:
    """Return the comparison as text, the best accuracy first."""
    over = "over folds" if any(row.folds for row in rows) else "over seeds"
    lines: list[tuple[str, ...]] = [
        ("variant", "accuracy", over, "AUC", "loss", "parameters", "train s", "images/s", "MB", "ms/image")
    ]
    for row in best_first(rows):
        values = row.as_dict()
        spread = "-"
        if row.runs:
            spread = f"{values['accuracy_min']:.2%}..{values['accuracy_max']:.2%} of {len(row.accuracies)}"
        lines.append(
            (
                row.name,
                _shown(values["accuracy"], ".2%"),
                spread + (f", {row.failed} failed" if row.failed else ""),
                *measures(row),
            )
        )
    return "\n".join(tabular.aligned(lines, left=(0,)))


def measures(row: Row) -> tuple[str, ...]:
    """Return AUC, loss, parameters, training seconds, images/s, model size in MB, latency in ms, as text."""
    values = row.as_dict()
    megabytes = None if values["model_bytes"] is None else values["model_bytes"] / 1e6
    return (
        _shown(values["auc"], ".4f"),
        _shown(values["loss"], ".4f"),
        _shown(values["parameters"], ",.0f"),
        _shown(values["seconds"], ",.0f"),
        _shown(values["images_per_second"], ",.0f"),
        _shown(megabytes, ".1f"),
        _shown(values["latency_ms"], ".1f"),
    )


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write the CSV with a row for each variant, in the given order."""
    tables = [row.as_dict() for row in rows]
    tabular.write_csv(path, max(map(list, tables), key=len), tables)  # A row without finished folds has fewer columns.


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the accuracy of each variant (a dot per seed or fold, a line at the mean) and its time."""
    from matplotlib.figure import Figure

    finished = [row for row in rows if row.runs]
    figure = Figure(figsize=(9, 0.9 + 0.42 * max(len(finished), 4)), layout="constrained")
    accuracy, seconds = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    finished.sort(key=lambda row: row.mean("accuracy") or 0.0)
    for position, row in enumerate(finished):
        values, mean = [value * 100 for value in row.accuracies], (row.mean("accuracy") or 0.0) * 100
        accuracy.plot(values, [position] * len(values), "o", color="#3566a8", markersize=5, alpha=0.6)
        accuracy.plot([mean], [position], "|", color="#17324f", markersize=16, markeredgewidth=2)
        accuracy.annotate(
            f"{mean:.1f}", (max(values), position), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9
        )
        duration = row.mean("seconds") or 0.0
        seconds.barh(position, duration, height=0.55, color="#c9d6e6")
        seconds.annotate(
            f"{duration:,.{1 if duration < 10 else 0}f} s",
            (duration, position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    accuracy.set_yticks(range(len(finished)), [row.name for row in finished])
    dots = "fold" if any(row.folds for row in finished) else "seed"
    accuracy.set_xlabel(f"accuracy in % (one dot per {dots}; line: mean)")
    seconds.set_xlabel("training time in seconds")
    accuracy.margins(x=0.12)
    seconds.margins(x=0.25)
    seconds.set_xlim(left=0)
    for axes in (accuracy, seconds):
        axes.set_axisbelow(True)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(left=False)
    with files.atomic(path) as file:
        figure.savefig(file, format="png", dpi=150)
