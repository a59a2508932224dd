"""The page of a comparison: chart, table, intervals and commands, safe for all names of variants."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from judged_runs import EVIL, Page, read_csv

from trainers.results import comparison, comparison_page, scores
from trainers.results.comparison import Row
from trainers.results.comparison_page import Command, Facts
from trainers.results.out_of_fold import Difference
from trainers.results.scores import Interval
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


def test_a_search_without_folds_has_one_seed() -> None:
    """The advice does not name --seeds for the search, which refuses several."""
    found = dataclasses.replace(facts(Row(name="a", runs=(metrics(0.9),))), trials=({"setting": "a"},))
    single, _ = comparison_page.findings(found)
    assert single.title.striptags() == "Only one seed"
    assert single.section == "search"
    assert single.text.striptags() == (
        "Each setting was trained with one seed. The accuracy also changes with the random seed. Pass the flags of"
        " the best settings as variants to python -m trainers.compare --seeds=0,1,2, without a search. Or repeat the"
        " search with --folds=5: a mean over folds changes less with the random seed."
    )
    folded = dataclasses.replace(found, folds=2)
    assert [finding.name for finding in comparison_page.findings(folded)] == ["best"]


@pytest.mark.parametrize(
    ("accuracy", "text"),
    [
        (0.88, "The accuracy of second is within the interval of the best variant, so the difference may be chance."),
        (0.5, "The accuracy of every other variant is below the interval of the best variant."),
    ],
)
def test_differences_within_the_interval_may_be_chance(accuracy: float, text: str) -> None:
    second = Row(name="second", runs=(metrics(accuracy), metrics(accuracy)))
    *_, best = comparison_page.findings(facts(second, BEST))
    assert best.text.startswith(text)


def test_page_is_written(tmp_path: Path) -> None:
    comparison_page.write(tmp_path, facts(BAD))
    assert (tmp_path / "comparison.html").read_text() == comparison_page.render(facts(BAD))


FOLDED = (
    Row(name="second", runs=(metrics(0.88),), folds=(0.8, 0.96)),
    Row(name=EVIL, runs=(metrics(0.91),), folds=(0.9, 0.92), effect=2.0),
    Row(name="broken", runs=(), failed=2),
)


def difference(second: str, low: float, high: float) -> Difference:
    return Difference(
        first=EVIL, second=second, value=0.03, interval=Interval(low, high), only_first=5.5, only_second=2, count=100
    )


def folded(*differences: Difference) -> Facts:
    return dataclasses.replace(facts(*FOLDED), folds=2, differences=differences, notes=(f"class {EVIL} is rare.",))


def test_page_of_a_cross_validation() -> None:
    text = comparison_page.render(folded(difference("second", -0.01, 0.07), difference(EVIL, 0.01, 0.07)))
    page = Page(text)
    shown = " ".join(page.text.split())
    assert "Each dot is a fold. The vertical line is the accuracy on all images, and the band is" in shown
    assert "(Wilson; images that belong together make it wider)" in shown
    assert f"Class {EVIL} is rare." in shown
    assert page.elements["circle"] == 4
    wilson, corrected = scores.wilson(45.5, 50), FOLDED[1].over_folds()  # 100 images that say as much as 50.
    assert corrected is not None
    intervals = f"{wilson.low:.1%} to {wilson.high:.1%} {corrected.low:.1%} to {corrected.high:.1%}"
    assert f"{EVIL} 91.0% {intervals} 1 " in shown
    assert "broken - - - 0, 2 failed" in shown
    assert f"{EVIL} second +3.00% -1.00% to +7.00% 5.5 2" in shown
    assert EVIL not in text


@pytest.mark.parametrize(
    ("low", "text"),
    [
        (-0.01, "The interval of the difference to second contains 0, so the difference may be chance."),
        (0.01, "For every other variant, the interval of the difference is above 0."),
    ],
)
def test_the_best_of_a_cross_validation_is_judged_by_its_differences(low: float, text: str) -> None:
    findings = comparison_page.findings(folded(difference("second", low, 0.07)))
    assert [finding.name for finding in findings] == ["failed", "best"]  # The folds show how the accuracy changes.
    assert findings[-1].text.startswith(text)


def test_page_of_a_search() -> None:
    trials = [
        {"round": 1, "setting": f"{EVIL} lr=0.1", "variant": EVIL, "accuracy": 0.91234, "seconds": 1234.5},
        {"round": 1, "setting": "b", "variant": "b", "accuracy": None, "seconds": 3.0},
    ]
    searched = dataclasses.replace(facts(BEST), trials=trials, settings=2, final=(f"python '{EVIL}'", "python b"))
    text = comparison_page.render(searched)
    shown = " ".join(Page(text).text.split())
    assert f"1 {EVIL} lr=0.1 {EVIL} 0.9123 1,234.5 1 b b failed 3.0" in shown
    assert f"Train and evaluate the best setting: python '{EVIL}' python b" in shown
    assert "Settings tried 2" in shown
    assert [finding.name for finding in comparison_page.findings(searched)] == ["single_in_search", "searched", "best"]
    assert EVIL not in text


def test_table_and_csv_of_a_cross_validation(tmp_path: Path) -> None:
    lines = [re.split(r"\s{2,}", line) for line in comparison.table(FOLDED).splitlines()]
    assert lines[0][2] == "over folds"
    assert lines[1][:3] == [EVIL, "91.00%", "90.00%..92.00% of 2"]
    assert lines[3][:3] == ["broken", "-", "-, 2 failed"]
    comparison.write_table(FOLDED[::-1], tmp_path / "table.csv")  # A variant without results comes first.
    broken, best, _ = read_csv(tmp_path / "table.csv")
    assert (broken["accuracy_low"], best["folds"]) == ("", "2")
    interval = FOLDED[1].interval()
    assert interval is not None
    assert (float(best["accuracy_low"]), float(best["accuracy_high"])) == (interval.low, interval.high)
