"""Tests of the comparison of reading from a bucket: only rounds with the same settings are compared."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from benchmarks import remote_peers
from benchmarks.side_by_side import contenders
from benchmarks.side_by_side.contenders import Contender, Outcome
from tfrecord_tools.errors import UserError

TOOLS = [Contender(name, name.title(), name, {"bucket": "bucket"}) for name in ("ours", "other")]
OURS, OTHER = TOOLS


def bench(root: Path, cache: float = 0.1, latency_ms: float = 20) -> remote_peers.Bench:
    made = remote_peers.Bench(root, types.SimpleNamespace(photos=root, cache=cache, latency_ms=latency_ms))
    made._sizes = {tool.script: 1000 for tool in TOOLS}
    return made


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The speed that the next measurement of each tool has."""
    speeds: dict[str, float] = {}

    def run(tool: Contender, row: str, arguments: Any) -> Outcome:
        figures = {"images_per_second": speeds[tool.name], "fetched_sent": 900, "fetched_requests": 30}
        return Outcome(figures=figures)

    monkeypatch.setattr(contenders, "run", run)
    return speeds


@pytest.mark.parametrize("is_empty", [False, True])
def test_no_results_give_no_lines(tmp_path: Path, is_empty: bool) -> None:
    if is_empty:
        (tmp_path / "results.jsonl").touch()
    assert bench(tmp_path).next_round() == 0
    assert list(remote_peers.lines(bench(tmp_path), TOOLS, "bytes", "50")) == []


def test_lines_without_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('["50", "bytes", "ours", {"images_per_second": 9}]\n')
    message = r"results\.jsonl: has lines without settings and rounds, or damaged lines\. Delete the file\.$"
    with pytest.raises(UserError, match=message):
        bench(tmp_path).next_round()


def test_ratios_are_of_the_same_round(tmp_path: Path, speed: dict[str, float]) -> None:
    for number, ours, other in ((0, 30, 10), (1, 40, None), (2, 20, 20), (3, 50, 10)):
        speed |= {"ours": ours, "other": other or 0}
        bench(tmp_path).measure(OURS, "bytes", "50", number)
        if other:  # In round 1, the other tool failed.
            bench(tmp_path).measure(OTHER, "bytes", "50.0", number)
    assert bench(tmp_path).next_round() == 4
    first, second = remote_peers.lines(bench(tmp_path), TOOLS, "bytes", "50")
    assert first.startswith("| 50 | bytes | Ours | 35 |  | 0.900 | 30 | 20")
    assert second.startswith("| 50 | bytes | Other | 10 | 3.00 (1.00 to 5.00) | 0.900 | 30 | 20")


def test_other_settings_are_left_out(tmp_path: Path, speed: dict[str, float]) -> None:
    speed |= {"ours": 30, "other": 10}
    for tool in TOOLS:
        bench(tmp_path).measure(tool, "bytes", "50", 0)
    speed |= {"ours": 99, "other": 99}
    for tool in TOOLS:
        bench(tmp_path, cache=0.5).measure(tool, "bytes", "50", 1)
        bench(tmp_path, latency_ms=1).measure(tool, "bytes", "50", 2)
        bench(tmp_path).measure(tool, "bytes", "200", 3)
        bench(tmp_path).measure(tool, "decoded", "50", 4)
    first, second = remote_peers.lines(bench(tmp_path), TOOLS, "bytes", "50")
    assert first.startswith("| 50 | bytes | Ours | 30 |")
    assert second.startswith("| 50 | bytes | Other | 10 | 3.00, one round |")
