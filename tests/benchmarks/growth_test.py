"""Tests of the measurement of growth: the fitted figures, and a measurement of tiny datasets."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import growth
from benchmarks.growth import Cost
from tfrecord_tools.errors import UserError

SIZES = (1_000, 10_000, 100_000)


@pytest.mark.parametrize(
    ("seconds", "slope", "further"),
    [
        ([1.0, 10.0, 100.0], 1.0, 1.0),  # Linear.
        ([1.0, 100.0, 10_000.0], 2.0, 10.0),  # Quadratic.
        ([5.0, 5.9, 14.9], 0.24, 1.0),  # Linear after a start of 4.9 s.
        ([5.0, 6.0, 36.0], 0.43, 3.0),  # A start hides in the slope that the work grows faster than the dataset.
    ],
)
def test_growth_of_known_times(seconds: list[float], slope: float, further: float) -> None:
    assert growth.exponent(SIZES, seconds) == pytest.approx(slope, abs=0.01)
    assert growth.further(SIZES, seconds) == pytest.approx(further, rel=0.01)


def test_no_growth_at_first_gives_no_ratio() -> None:
    assert math.isnan(growth.further(SIZES, [1.0, 1.0, 2.0]))


@pytest.mark.parametrize("texts", [["1000"], ["1000", "1000"], ["1000", "many"], ["0", "10"], ["-5", "10"], []])
def test_wrong_sizes_are_refused(texts: list[str]) -> None:
    with pytest.raises(UserError, match=r"must be two or more different numbers, as in 1000,10000\.$"):
        growth.sizes_of(texts)
    assert growth.sizes_of(["100", "20"]) == [20, 100]


def test_line_has_seconds_memory_and_growth() -> None:
    costs = [Cost(1, 100e6), Cost(10, 101e6), Cost(100, 110e6)]
    assert growth.line("open", SIZES, costs).split() == [
        *("open", "1.00", "s", "100", "MB", "10.00", "s", "101", "MB", "100.00", "s", "110", "MB"),
        *("1.00", "1.00", "0.02", "101"),
    ]


def test_rows_read_what_convert_has_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = growth.measure(tmp_path, (20, 40), ["convert again, nothing changed", "open"], rounds=1)
    assert list(found) == ["convert again, nothing changed", "open"]
    assert all(cost.seconds > 0 and cost.peak > 1e6 for costs in found.values() for cost in costs)
    assert len(capsys.readouterr().out.splitlines()) == 2
