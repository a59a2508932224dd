"""The page of a comparison: chart, table, intervals and the commands of all trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.base import files, page, rules, words
from tfrecord_tools.base.rules import Finding, Rule
from trainers.results import comparison
from trainers.results.comparison import Row
from trainers.results.out_of_fold import Difference
from trainers.results.report import REPORT
from trainers.results.scores import Interval

PAGE = "comparison.html"
_COLUMNS = (
    "Variant",
    "Accuracy",
    "95% interval",
    "Seeds",
    "AUC",
    "Loss",
    "Parameters",
    "Seconds",
    "Images/s",
    "MB",
    "ms/image",
)
_OVER_FOLDS = "95% interval over folds"
_DIFFERENCES = ("Variant", "Minus", "Difference", "95% interval", "Only the first is right", "Only the second is right")
_MARGIN = 0.05  # Part of the axis that is free at each end.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A training of the comparison.

    Attributes:
        title: Variant and seed.
        text: The command, as typed in a shell.
        run: Name of the run directory, relative to the page.
        finished: Whether the run has a report.
    """

    title: str
    text: str
    run: str
    finished: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """The content of the page.

    Attributes:
        dataset: Name of the dataset.
        digest: Digest of the dataset.
        rows: The variants in the given order.
        commands: The trainings in their order.
        folds: Number of folds. 0: no cross-validation.
        differences: The difference of every pair of variants, in cross-validation.
        notes: Sentences about the folds.
        trials: The rows of search.csv. Empty: there was no search.
        settings: Number of different settings that were tried in the search.
        final: Commands that train and evaluate the best setting, after a search.
    """

    dataset: str
    digest: str
    rows: Sequence[Row]
    commands: Sequence[Command]
    folds: int = 0
    differences: Sequence[Difference] = ()
    notes: Sequence[str] = ()
    trials: Sequence[Mapping[str, Any]] = ()
    settings: int = 0
    final: Sequence[str] = ()


def write(directory: Path, facts: Facts) -> None:
    """Write comparison.html completely or not at all."""
    with files.atomic(directory / PAGE) as file:
        file.write(render(facts).encode())


def render(facts: Facts) -> str:
    """Return the page as HTML. It has no scripts and loads nothing."""
    rows = comparison.best_first(facts.rows)
    finished = [row for row in rows if row.runs]
    columns = [*_COLUMNS[:3], *([_OVER_FOLDS] if facts.folds else []), *_COLUMNS[3:]]
    return page.render(
        "trainers.results",
        "comparison.html",
        heading=f"Comparison on {facts.dataset}",
        kind="comparison",
        facts=facts,
        findings=findings(facts),
        split=finished[0].runs[0]["split"] if finished else "",
        images=finished[0].runs[0]["count"] if finished else 0,
        chart=_chart(finished),
        is_grouped=any(row.effect > 1 for row in rows),
        columns=columns,
        table=[
            [
                row.name,
                *_accuracy(row),
                *([_range(row.over_folds())] if facts.folds else []),
                _seeds(row),
                *comparison.measures(row),
            ]
            for row in rows
        ],
        difference_columns=_DIFFERENCES,
        differences=[_difference(each) for each in facts.differences if each.first == rows[0].name],
        trial_columns=[name.replace("_", " ").capitalize() for name in (facts.trials[0] if facts.trials else {})],
        trials=[[_cell(value) for value in trial.values()] for trial in facts.trials],
        report=REPORT,
    )


def findings(facts: Facts) -> list[Finding]:
    """Return what a reader should know before choosing a variant; the worst first."""
    return rules.worst_first(rules.found(_RULES, facts))


def _failed(facts: Facts) -> dict[str, str] | None:
    failed = sum(row.failed for row in facts.rows)
    return {"count": words.number(failed, "training")} if failed else None


def _best(facts: Facts) -> dict[str, str] | None:
    finished = [row for row in comparison.best_first(facts.rows) if row.runs]
    if not finished:
        return None
    best = finished[0]
    text = _others(best, finished[1:], facts) if finished[1:] else ""
    return {"name": best.name, "accuracy": f"{best.mean('accuracy'):.1%}", "others": text}


def _others(best: Row, others: Sequence[Row], facts: Facts) -> str:
    """Return a sentence about the variants that may be as good as the best one."""
    if facts.folds:
        equal = [each.second for each in facts.differences if each.first == best.name and not each.is_clear]
        if equal:
            return f"The interval of the difference to {', '.join(equal)} contains 0, so the difference may be chance."
        return "For every other variant, the interval of the difference is above 0."
    low = _interval(best)[0]
    equal = [row.name for row in others if (row.mean("accuracy") or 0.0) >= low]
    if equal:
        return (
            f"The accuracy of {', '.join(equal)} is within the interval of the best variant, so the difference may be"
            " chance."
        )
    return "The accuracy of every other variant is below the interval of the best variant."


def _searched(facts: Facts) -> dict[str, str] | None:
    return {"count": words.number(facts.settings, "setting")} if facts.settings > 1 else None


def _single(facts: Facts) -> dict[str, str] | None:
    if facts.folds or facts.trials:
        return None
    return {} if max((len(row.runs) + row.failed for row in facts.rows), default=0) == 1 else None


def _single_in_search(facts: Facts) -> dict[str, str] | None:
    return {} if facts.trials and not facts.folds else None


_RULES: tuple[Rule[Facts], ...] = (
    Rule(
        name="failed",
        level="problem",
        section="commands",
        condition=_failed,
        title="{count} failed",
        text="The table has no results of failed trainings. The file NAME-seedN.log of each training shows its error.",
        advice="Correct the flags, or run the same `python -m trainers.compare` command again.",
    ),
    Rule(
        name="single",
        level="check",
        section="chart",
        condition=_single,
        title="Only one seed",
        text="The accuracy also changes with the random seed.",
        advice="Train each variant several times with `python -m trainers.compare --seeds=0,1,2`.",
    ),
    Rule(
        name="single_in_search",
        level="check",
        section="search",
        condition=_single_in_search,
        title="Only one seed",
        text="Each setting was trained with one seed. The accuracy also changes with the random seed.",
        advice="Pass the flags of the best settings as variants to `python -m trainers.compare --seeds=0,1,2`, without"
        " a search. Or repeat the search with `--folds=5`: a mean over folds changes less with the random seed.",
    ),
    Rule(
        name="searched",
        level="check",
        section="search",
        condition=_searched,
        title="The accuracy of the best setting is optimistic",
        text="The best of {count} was chosen because of its high accuracy on these images. Part of this accuracy is"
        " chance.",
        advice="For an unbiased accuracy, evaluate the model of this setting once on images that were not used for any"
        " choice: `python -m trainers.evaluate --split=test`.",
    ),
    Rule(
        name="best",
        level="note",
        section="chart",
        condition=_best,
        title="Best accuracy: {name}, {accuracy}",
        text="{others}",
        advice="The best variant was chosen by its accuracy on these images. Evaluate this variant on new images with"
        " `python -m trainers.evaluate --split=test`.",
    ),
)


def _interval(row: Row) -> tuple[float, float]:
    interval = row.interval()
    assert interval is not None, "the row has runs"
    return interval.low, interval.high


def _accuracy(row: Row) -> tuple[str, str]:
    """Return the mean accuracy and its interval as text."""
    return (f"{row.mean('accuracy'):.1%}", "{:.1%} to {:.1%}".format(*_interval(row))) if row.runs else ("-", "-")


def _chart(rows: Sequence[Row]) -> Mapping[str, Any]:
    """Return the rows of the chart, with positions on the axis in percent."""
    if not rows:
        return {"rows": [], "low": "", "high": ""}
    low = min(min(_interval(row)[0], *row.accuracies) for row in rows)
    high = max(max(_interval(row)[1], *row.accuracies) for row in rows)
    free = _MARGIN * (high - low)
    low, high = max(0.0, low - free), min(1.0, high + free)

    def position(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}"

    longest = max(row.mean("seconds") or 0.0 for row in rows) or 1.0
    return {
        "low": f"{low:.1%}",
        "high": f"{high:.1%}",
        "rows": [
            {
                "name": row.name,
                "accuracy": _accuracy(row)[0],
                "interval": _accuracy(row)[1],
                "from": position(_interval(row)[0]),
                "to": position(_interval(row)[1]),
                "mean": position(row.mean("accuracy") or 0.0),
                "dots": [position(value) for value in row.accuracies],
                "seconds": f"{row.mean('seconds') or 0.0:,.0f} s",
                "part": (row.mean("seconds") or 0.0) / longest,
            }
            for row in rows
        ],
    }


def _range(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:.1%} to {interval.high:.1%}"


def _difference(each: Difference) -> list[str]:
    """Return a row of the table of differences."""
    low, high = each.interval.low, each.interval.high
    counts = [f"{count:,.{0 if count == round(count) else 1}f}" for count in (each.only_first, each.only_second)]
    return [each.first, each.second, f"{each.value:+.2%}", f"{low:+.2%} to {high:+.2%}", *counts]


def _cell(value: Any) -> str:
    """Return a value of a trial as text."""
    if value is None:
        return "failed"
    if isinstance(value, float):
        return f"{value:.4f}" if value < 1 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _seeds(row: Row) -> str:
    return f"{len(row.runs)}" + (f", {row.failed} failed" if row.failed else "")
