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
from trainers.results.report import REPORT

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
    """

    dataset: str
    digest: str
    rows: Sequence[Row]
    commands: Sequence[Command]


def write(directory: Path, facts: Facts) -> None:
    """Write comparison.html completely or not at all."""
    with files.atomic(directory / PAGE) as file:
        file.write(render(facts).encode())


def render(facts: Facts) -> str:
    """Return the page as HTML. It has no scripts and loads nothing."""
    rows = comparison.best_first(facts.rows)
    finished = [row for row in rows if row.runs]
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
        columns=_COLUMNS,
        table=[[row.name, *_accuracy(row), _seeds(row), *comparison.measures(row)] for row in rows],
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
    best, low = finished[0], _interval(finished[0])[0]
    equal = [row.name for row in finished[1:] if (row.mean("accuracy") or 0.0) >= low]
    if equal:
        text = f"The accuracy of {', '.join(equal)} lies within its interval: the difference may be chance."
    else:
        text = "The accuracy of every other variant lies below its interval." if finished[1:] else ""
    return {"name": best.name, "accuracy": f"{best.mean('accuracy'):.1%}", "others": text}


def _single(facts: Facts) -> dict[str, str] | None:
    return {} if max((len(row.runs) + row.failed for row in facts.rows), default=0) == 1 else None


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
        name="best",
        level="note",
        section="chart",
        condition=_best,
        title="Best accuracy: {name}, {accuracy}",
        text="{others}",
        advice="The choice of the best variant was made on this split. Evaluate this variant on new images with"
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
    low = min(_interval(row)[0] for row in rows)
    high = max(_interval(row)[1] for row in rows)
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
                "seeds": [position(run["accuracy"]) for run in row.runs],
                "seconds": f"{row.mean('seconds') or 0.0:,.0f} s",
                "part": (row.mean("seconds") or 0.0) / longest,
            }
            for row in rows
        ],
    }


def _seeds(row: Row) -> str:
    return f"{len(row.runs)}" + (f", {row.failed} failed" if row.failed else "")
