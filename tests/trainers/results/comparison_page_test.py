"""The page of a comparison: chart, table, intervals and commands, safe for all names of variants."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from judged_runs import EVIL, Page

from trainers.results import comparison_page
from trainers.results.comparison import Row
from trainers.results.comparison_page import Command, Facts
from trainers.run_directory import Metrics


def metrics(accuracy: float, count: int = 100, seconds: float = 10.0) -> Metrics:
    return {"accuracy": accuracy, "count": count, "split": f"the split {EVIL}", "seconds": seconds, "loss": 0.25}


def facts(*rows: Row) -> Facts:
    commands = [
        Command(
            title=f"{row.name}, seed {seed}",
            text=f"python -m trainers.frozen '--x={EVIL}' --seed={seed}",
            run=f"{i} {EVIL}-seed{seed}",
            finished=seed < len(row.runs),
        )
        for i, row in enumerate(rows)
        for seed in range(len(row.runs) + row.failed)
    ]
    return Facts(dataset=EVIL, digest="0123456789abcdef", rows=rows, commands=commands)


BAD = Row(name="bad", runs=(metrics(0.5, seconds=20.0), metrics(0.6, seconds=20.0)))
BEST = Row(name=EVIL, runs=(metrics(0.9), metrics(0.92)))
BROKEN = Row(name="broken", runs=(), failed=2)


def test_page_shows_chart_table_intervals_and_commands() -> None:
    text = comparison_page.render(facts(BAD, BEST, BROKEN))
    page = Page(text)
    shown = " ".join(page.text.split())
    assert f"Comparison on {EVIL}" in shown
    assert f"Accuracy on 100 images: the split {EVIL}." in shown
    # By the best accuracy: name, mean accuracy, 95 % interval, seeds.
    table = shown[shown.index("Variant Accuracy 95% interval Seeds") :]
    positions = [
        table.index(row)
        for row in (f"{EVIL} 91.0% 83.8% to 95.2% 2 ", "bad 55.0% 45.2% to 64.4% 2 ", "broken - - 0, 2 failed")
    ]
    assert positions == sorted(positions)
    assert page.elements["circle"] == 4  # One for each run.
    assert shown.count(f"python -m trainers.frozen '--x={EVIL}' --seed=") == 6
    assert shown.count("not finished") == 2
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href") and value[0] != "#"]
    assert len(links) == 4
    assert all(link.endswith(("-seed0/report.html", "-seed1/report.html")) for link in links)
    assert "script" not in page.elements
    assert EVIL not in text  # Escaped only.


def test_positions_are_those_of_the_values() -> None:
    text = comparison_page.render(facts(BAD, BEST))
    ends = re.search(r"<span>([\d.]+)%</span><span>([\d.]+)%</span>", text)
    assert ends
    low, high = (float(value) / 100 for value in ends.groups())
    for value, position in zip((0.9, 0.92, 0.5, 0.6), re.findall(r'<circle cx="([\d.]+)%"', text), strict=True):
        assert low + (high - low) * float(position) / 100 == pytest.approx(value, abs=2e-3)
    assert re.findall(r'<i style="width:([\d.]+)%">', text) == ["50.0", "100.0"]  # Training times.


def test_page_without_finished_trainings() -> None:
    page = Page(comparison_page.render(facts(BROKEN)))
    assert "No training is finished." in page.text
    assert "4 trainings" not in page.text


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((BAD, BEST, BROKEN), ["2 trainings failed", f"Best accuracy: {EVIL}, 91.0%"]),
        ((Row(name="a", runs=(metrics(0.9),)),), ["Only one seed", "Best accuracy: a, 90.0%"]),
        ((Row(name="a", runs=(), failed=1),), ["1 training failed", "Only one seed"]),
    ],
)
def test_findings(rows: tuple[Row, ...], expected: list[str]) -> None:
    assert [finding.title.striptags() for finding in comparison_page.findings(facts(*rows))] == expected


@pytest.mark.parametrize(
    ("accuracy", "text"),
    [
        (0.88, "The accuracy of second lies within its interval: the difference may be chance."),
        (0.5, "The accuracy of every other variant lies below its interval."),
    ],
)
def test_differences_within_the_interval_may_be_chance(accuracy: float, text: str) -> None:
    second = Row(name="second", runs=(metrics(accuracy), metrics(accuracy)))
    *_, best = comparison_page.findings(facts(second, BEST))
    assert best.text.startswith(text)


def test_page_is_written(tmp_path: Path) -> None:
    comparison_page.write(tmp_path, facts(BAD))
    assert (tmp_path / "comparison.html").read_text() == comparison_page.render(facts(BAD))
