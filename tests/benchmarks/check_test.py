"""Tests of the guard against slower code: comparison, stored costs, and the counts of Callgrind."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import pytest

from benchmarks import counting, expectations, hot_paths
from benchmarks.expectations import Finding
from benchmarks.hot_paths import HotPath
from tfrecord_tools.errors import UserError

EXPECTED = {"read": {"cost": 100.0, "tolerance": 0.05}, "decode": {"cost": 10.0, "tolerance": 0.25}}


@pytest.mark.parametrize(
    ("cost", "slower", "faster", "line"),
    [
        (100, False, False, "ok      read                         1.000 of the expected cost (at most 1.05)"),
        (104.9, False, False, "ok      read                         1.049 of the expected cost (at most 1.05)"),
        (130, True, False, "SLOWER  read                         1.300 of the expected cost (at most 1.05)"),
        (70, False, True, "faster  read                         0.700 of the expected cost (at most 1.05)"),
    ],
)
def test_a_cost_is_compared_with_its_tolerance(cost: float, slower: bool, faster: bool, line: str) -> None:
    finding = expectations.compare({"read": cost, "decode": 10}, EXPECTED)[0]
    assert (finding.is_slower, finding.is_faster, finding.line()) == (slower, faster, line)


def test_each_path_has_its_own_tolerance() -> None:
    assert [finding.is_slower for finding in expectations.compare({"read": 120, "decode": 12}, EXPECTED)] == [
        True,
        False,
    ]


def test_a_new_or_missing_path_is_an_error() -> None:
    with pytest.raises(
        UserError, match=re.escape("expected.json: has other hot paths than the code: decode, order. Run")
    ):
        expectations.compare({"read": 1, "order": 1}, EXPECTED)


def test_costs_are_stored_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "expected.json"
    expectations.save("time", "here", {"read": 0.123456789}, path)
    expectations.save("instructions", "here", {"read": 1234567.0}, path)
    assert expectations.load("time", "here", path) == {"read": {"cost": 0.12346, "tolerance": 0.15}}
    assert expectations.load("instructions", "here", path) == {"read": {"cost": 1234600.0, "tolerance": 0.05}}


def test_an_update_keeps_tolerances_that_were_changed_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "expected.json"
    expectations.save("time", "here", {"read": 1.0}, path)
    path.write_text(path.read_text().replace("0.15", "0.4"))
    expectations.save("time", "there", {"read": 2.0, "new": 3.0}, path)
    stored = expectations.load("time", "there", path)
    assert stored == {"read": {"cost": 2.0, "tolerance": 0.4}, "new": {"cost": 3.0, "tolerance": 0.15}}


def test_costs_of_another_environment_are_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "expected.json"
    with pytest.raises(
        UserError, match=r"expected.json: has no costs by time. Run python -m benchmarks.check --update on"
    ):
        expectations.load("time", "here", path)
    expectations.save("time", "here", {"read": 1.0}, path)
    with pytest.raises(UserError, match=r"is for another environment \(here\). This one is there. Run python -m"):
        expectations.load("time", "there", path)


def test_instructions_per_call_are_those_between_two_marks() -> None:
    paths = [HotPath("a", 10, list), HotPath("b", 4, list)]
    dumps = [f"version: 1\nsummary: {total}\ntotals: {total}\n" for total in (999, 50, 7, 8)]
    assert counting.per_call(paths, dumps) == {"a": 5, "b": 2}
    with pytest.raises(UserError, match=r"adler32 was called 3 times, not 4 times. Nothing else may call it."):
        counting.per_call(paths, dumps[:3])


def test_the_marks_surround_each_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored costs, the hot paths and the marks fit together. Every path really calls its function."""
    hot_paths.prepare(tmp_path)
    marks: list[bytes] = []
    monkeypatch.setattr(zlib, "adler32", marks.append)
    hot_paths.main(str(tmp_path))
    names = [path.name for path in hot_paths.hot_paths(tmp_path)]
    assert len(marks) == 2 * len(names)
    stored = json.loads(expectations.PATH.read_text())
    assert all(list(stored[method]["paths"]) == names for method in expectations.TOLERANCES)
    costs = counting.times(tmp_path, rounds=1)
    assert list(costs) == names
    assert all(cost > 0 for cost in costs.values())


def test_the_smallest_slowdown_to_find_is_above_all_tolerances() -> None:
    stored = json.loads(expectations.PATH.read_text())
    for method in stored.values():
        for name, path in method["paths"].items():
            assert Finding(name, 1.3, path["tolerance"]).is_slower
