"""Trainings side by side: which to run, what came out, and a table and a chart of it."""

from __future__ import annotations

import dataclasses
import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.base import files, tabular
from tfrecord_tools.errors import UserError
from trainers import backbones as known
from trainers import recipes, run_directory
from trainers.run_directory import Metrics

TABLE, CHART = "comparison.csv", "comparison.png"
_RESERVED = re.compile(r"--?(seed|run|tfrecords|csv)\b")
# What the runs of a variant have in common, as topics of settings.json; seeds and paths are not among them.
_COMMON = ("recipe", "weights", "dataset", "environment")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the comparison.

    Attributes:
        name: As it is shown; also the beginning of its run directories.
        trainer: Which.
        flags: Its own flags, of recipe and model.
    """

    name: str
    trainer: str
    flags: tuple[str, ...]

    def run(self, seed: int) -> str:
        """The name of the run directory of a seed."""
        plain = re.sub(r"[^\w.+-]+", "_", self.name)
        return f"{plain}-seed{seed}"

    def arguments(self, seed: int) -> list[str]:
        """What decides what a run trains, as its JSON file beside the run directory keeps it."""
        return [f"trainers.{self.trainer}", f"--seed={seed}", *self.flags]


def variants(given: Sequence[str], backbones: Sequence[str]) -> list[Variant]:
    """Reads what is to be compared.

    Args:
        given: Each `[NAME=]TRAINER [FLAGS]`, as in `flipped=scratch --augment=standard`.
        backbones: Each `[NAME=]BACKBONE [FLAGS]`, as in `small=MobileNet --backbone_kwargs=alpha=0.25`: every variant
            is trained on each of them, but for those of `trainers.scratch` and those that name one themselves.

    Raises:
        UserError: There is no such trainer, a name stands there twice, or a flag that compare sets itself.
    """
    made: list[Variant] = []
    for text in given:
        label, trainer, flags = _parsed(text)
        own = trainer == "scratch" or any(re.match(r"--?backbone(=|$)", flag) for flag in flags)
        for place, more in [("", ())] if own or not backbones else map(_backbone, backbones):
            _check_flags(text, (*flags, *more))
            made.append(Variant(name=" ".join(filter(None, (label, place))), trainer=trainer, flags=(*flags, *more)))
    runs = [variant.run(0) for variant in made]
    twice = next((one for one in made if runs.count(one.run(0)) > 1), None)
    if twice:
        raise UserError(
            f"--variant: the runs of two are called {twice.name!r}. Give them names, as in"
            f" --variant='NAME={twice.trainer} FLAGS' or --backbone='NAME=BACKBONE FLAGS'."
        )
    return made


def _parsed(text: str) -> tuple[str, str, tuple[str, ...]]:
    """The name, the trainer and the flags of a variant."""
    found = _split(text, "|".join(recipes.RECIPES))
    if found:
        return found
    raise UserError(f"--variant={text}: [NAME=]TRAINER [FLAGS] is expected, with one of {', '.join(recipes.RECIPES)}.")


def _backbone(text: str) -> tuple[str, tuple[str, ...]]:
    """The name and the flags of a backbone."""
    found = _split(text, r"\w+")
    if not found:
        raise UserError(f"--backbone={text}: [NAME=]BACKBONE [FLAGS] is expected, as in MobileNetV2 --weights=none.")
    name, backbone, flags = found
    known.find(backbone)
    return name, (f"--backbone={backbone}", *flags)


def _split(text: str, pattern: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Takes `[NAME=]WHAT [FLAGS]` apart, WHAT being of a pattern; the name is WHAT where there is none."""
    # A name may have blanks in it: it ends at the = in front of what it names.
    match = re.match(rf"(?:(?P<name>(?!-)(?:(?! -)[^=])+)=)?\s*(?P<what>{pattern})(?:\s|$)", text)
    if not match:
        return None
    return (match["name"] or match["what"]).strip(), match["what"], _words(text[match.end("what") :])


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:  # A quotation that does not end.
        raise UserError(f"{text.strip()}: not understood: {error}.") from error


def _check_flags(text: str, flags: Sequence[str]) -> None:
    for flag in flags:
        if _RESERVED.match(flag):
            raise UserError(
                f"--variant={text}: {flag.split('=')[0]} is the same for all variants: this command sets it."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What came out of a variant, over its seeds.

    Attributes:
        name: Of the variant.
        runs: metrics.json of each finished seed.
        failed: How many seeds ended with an error.
    """

    name: str
    runs: tuple[Metrics, ...]
    failed: int = 0

    def mean(self, metric: str) -> float | None:
        """The mean over seeds; None where there is no such value."""
        runs: Sequence[Mapping[str, Any]] = self.runs
        values = [run[metric] for run in runs if metric in run]
        return statistics.mean(values) if values else None

    def as_dict(self) -> dict[str, Any]:
        """The columns of the CSV; times are those of one seed, on the mean."""
        accuracies = [run["accuracy"] for run in self.runs]
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
        }


def check_alike(variants: Iterable[Sequence[Path]]) -> None:
    """Raises UserError if finished runs, the seeds of each variant, are not otherwise the same training."""
    for runs in variants:
        finished = [run for run in runs if run_directory.read_metrics(run) is not None]
        for run in finished[1:]:
            differences = run_directory.differences(finished[0], run_directory.read_settings(run), _COMMON)
            if differences:
                raise UserError(
                    f"{run}: not trained as {finished[0]} was: {'; '.join(differences)}. Remove one of the two, or"
                    " pass another --out."
                )


def table(rows: Sequence[Row]) -> str:
    """The comparison as text, the best accuracy first."""
    lines = [
        ("variant", "accuracy", "over seeds", "AUC", "loss", "parameters", "train s", "images/s", "MB", "ms/image")
    ]
    for row in sorted(rows, key=lambda row: -(row.mean("accuracy") or 0.0)):
        values = row.as_dict()
        spread = f"{values['accuracy_min']:.2%}..{values['accuracy_max']:.2%} of {len(row.runs)}" if row.runs else "-"
        megabytes = None if values["model_bytes"] is None else values["model_bytes"] / 1e6
        lines.append(
            (
                row.name,
                _shown(values["accuracy"], ".2%"),
                spread + (f", {row.failed} failed" if row.failed else ""),
                _shown(values["auc"], ".4f"),
                _shown(values["loss"], ".4f"),
                _shown(values["parameters"], ",.0f"),
                _shown(values["seconds"], ",.0f"),
                _shown(values["images_per_second"], ",.0f"),
                _shown(megabytes, ".1f"),
                _shown(values["latency_ms"], ".1f"),
            )
        )
    return "\n".join(tabular.aligned(lines, left=(0,)))


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Writes the CSV, a line a variant in the order given."""
    tabular.write_csv(path, list(rows[0].as_dict()), (row.as_dict() for row in rows))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw each variant's accuracy (a dot per seed, an upright line at the mean) and, beside it, its training time."""
    from matplotlib.figure import Figure

    finished = [row for row in rows if row.runs]
    figure = Figure(figsize=(9, 0.9 + 0.42 * max(len(finished), 4)), layout="constrained")
    accuracy, seconds = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    finished.sort(key=lambda row: row.mean("accuracy") or 0.0)
    for place, row in enumerate(finished):
        values = [run["accuracy"] * 100 for run in row.runs]
        mean = statistics.mean(values)
        accuracy.plot(values, [place] * len(values), "o", color="#3566a8", markersize=5, alpha=0.6)
        accuracy.plot([mean], [place], "|", color="#17324f", markersize=16, markeredgewidth=2)
        accuracy.annotate(
            f"{mean:.1f}", (max(values), place), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9
        )
        taken = row.mean("seconds") or 0.0
        seconds.barh(place, taken, height=0.55, color="#c9d6e6")
        seconds.annotate(
            f"{taken:,.{1 if taken < 10 else 0}f} s",
            (taken, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    accuracy.set_yticks(range(len(finished)), [row.name for row in finished])
    accuracy.set_xlabel("accuracy in %, a dot a seed, a bar their mean")
    seconds.set_xlabel("seconds of one training")
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
