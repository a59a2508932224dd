"""Tests of the table that compares this package with other projects."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from image_sources import REPOSITORY, image

from benchmarks import table
from benchmarks.side_by_side import contenders, machine, markdown, rounds
from benchmarks.side_by_side.contenders import LIMITS, OURS, PEERS, VARIANTS, Contender, Outcome
from benchmarks.side_by_side.markdown import END, START, Absent
from benchmarks.side_by_side.rows import GROUPS, ROWS, Row
from tfrecord_tools.errors import UserError

NAMED = {group.row: group for group in GROUPS}
FAST = Contender("fast", "Fast", "fast", {"plain": "plain", "first": "first", "convert": "convert"})
UNABLE = Contender("unable", "Unable", "unable", {"plain": "plain"})
LIMIT = Contender("limit", "limit: nothing", "limits", {"plain": "nothing"})
PAGE = f"# Page\n\n{START}\n{END}\n\nEnd\n"


READING = {"reading, images/s"}


def row(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def rates(**values: list[float]) -> rounds.Measure:
    """Measure in turn what is given per contender, as images/s and as seconds."""
    turns = {name: iter(figures) for name, figures in values.items()}

    def measure(contender: Contender, row: str, photos: str) -> Outcome:
        value = next(turns[contender.name])
        return Outcome(figures={"images_per_second": value, "seconds": value})

    return measure


def test_medians_and_ratios_of_rates() -> None:
    """The first round is not counted. The ratios are of the same round: 30/20, 10/20, 40/10."""
    measure = rates(this_package=[9, 30, 10, 40], fast=[9, 20, 20, 10])
    entries = rounds.measure(NAMED["plain"], [OURS, FAST], 3, measure)
    found = rounds.cells(row("plain"), entries)
    assert found == {"this_package": rounds.Cell(30, None), "fast": rounds.Cell(20, (1.5, 0.5, 4.0))}


def test_a_ratio_above_1_is_better_for_seconds_too() -> None:
    entries = rounds.measure(NAMED["first"], [OURS, FAST], 1, rates(this_package=[1, 2], fast=[1, 5]))
    assert rounds.cells(row("first"), entries)["fast"] == rounds.Cell(5, (2.5, 2.5, 2.5))


def test_a_round_that_was_too_short_has_no_ratio() -> None:
    entries = rounds.measure(NAMED["plain"], [OURS, FAST], 2, rates(this_package=[1, 1, 1], fast=[1, math.nan, 1]))
    found = rounds.cells(row("plain"), entries)
    assert math.isnan(found["fast"].value)
    assert found["fast"].ratios is None


def test_every_second_round_is_in_the_opposite_order() -> None:
    order = []

    def measure(contender: Contender, row: str, photos: str) -> Outcome:
        order.append(contender.name)
        return Outcome(figures={"images_per_second": 1})

    rounds.measure(NAMED["plain"], [OURS, FAST], 2, measure)
    assert order == ["this_package", "fast", "fast", "this_package", "this_package", "fast"]


@pytest.mark.parametrize("answer", [Outcome(cannot="has no index"), Outcome(failed="KeyError: 'jpg'")])
def test_who_cannot_do_it_or_fails_is_not_tried_again(answer: Outcome) -> None:
    tried = []

    def measure(contender: Contender, row: str, photos: str) -> Outcome:
        tried.append(contender.name)
        return answer if contender is UNABLE else Outcome(figures={"images_per_second": 1})

    entries = rounds.measure(NAMED["plain"], [OURS, UNABLE], 3, measure)
    assert tried.count("unable") == 1
    assert (entries[1].cannot, entries[1].failed, entries[1].turns) == (answer.cannot, answer.failed, [])
    assert rounds.cells(row("plain"), entries).keys() == {"this_package"}


def test_a_failure_in_a_later_round_discards_the_earlier_ones() -> None:
    answers = iter([Outcome(figures={"images_per_second": 1}), Outcome(figures={"images_per_second": 1})])
    entries = rounds.measure(
        NAMED["plain"], [FAST], 3, lambda contender, row, photos: next(answers, Outcome(failed="killed"))
    )
    assert (entries[0].turns, entries[0].failed) == ([], "killed")


def test_steady_state_is_the_difference_of_two_conversions() -> None:
    few, many = {"images": 100, "seconds": 3, "bytes": 1, "peak": 5e6}, {"images": 1100, "seconds": 5, "bytes": 2}
    turn = {"photos": few, "many": {**many, "peak": 7e6, "share": 1.5}}
    figures = {each.name: each.figure(turn) for each in NAMED["convert"].rows}
    assert figures == {"convert": 500, "convert_whole": 220, "memory": 7, "disk": 1.5}
    assert row("convert").text(row("convert").figure({"photos": many, "many": few})) == "too short to measure"
    limit = {"photos": {"images_per_second": 7.0}, "many": {"images_per_second": 8.0}}
    assert row("convert").figure(limit) == 8


def entries_of_plain() -> list[rounds.Entry]:
    entries = [
        rounds.Entry(one, [{"photos": {"images_per_second": rate}}]) for one, rate in ((OURS, 3515), (FAST, 3e3))
    ]
    return [*entries, rounds.Entry(UNABLE, cannot="has no index"), rounds.Entry(LIMIT, failed="no such file")]


def test_lines_of_a_row() -> None:
    entries = entries_of_plain()
    absent = [Absent(Contender("a", "A", "a", {}), "make .venv-a/installed")]
    made = markdown.lines(row("plain"), entries, rounds.cells(row("plain"), entries), absent, "2026-11-29, 0.1")
    assert made == [
        "| reading, images/s | this package | 3,515 | | 2026-11-29, 0.1 |",
        "| reading, images/s | Fast | 3,000 | 1.17 (1.17 to 1.17) | 2026-11-29, 0.1 |",
        "| reading, images/s | Unable | cannot: has no index | | 2026-11-29, 0.1 |",
        "| reading, images/s | limit: nothing | failed: no such file | | 2026-11-29, 0.1 |",
        "| reading, images/s | A | not installed: `make .venv-a/installed` | | 2026-11-29, 0.1 |",
    ]


def test_tools_with_the_same_reason_share_a_line() -> None:
    entries = [rounds.Entry(one, cannot="has no position") for one in (FAST, UNABLE)]
    made = markdown.lines(row("resume"), entries, {}, [], "today")
    assert made == ["| first batch at a later step, the same, s | Fast, Unable | cannot: has no position | | today |"]


def test_an_error_in_the_table_has_no_path_and_no_column() -> None:
    entries = [rounds.Entry(FAST, failed="OSError: /home/me/a|b/file: no space")]
    assert (
        markdown.lines(row("plain"), entries, {}, [], "now")[0].split(" | ")[2] == "failed: OSError: …/file: no space"
    )


def test_put_writes_between_the_markers() -> None:
    page = markdown.put(PAGE, "Machine: X.", ["| reading, images/s | A | 1 | | d |"], READING, "page.md")
    assert page == (
        f"# Page\n\n{START}\n\nMachine: X.\n\n| what | tool | measured | ratio (lowest to highest) | date, load |\n"
        f"|---|---|---|---|---|\n| reading, images/s | A | 1 | | d |\n\n{END}\n\nEnd\n"
    )


def test_put_replaces_rows_and_keeps_others_in_the_order_of_the_table() -> None:
    old = ["| first batch, from the start of the process, s | A | 1 | | d |", "| reading, images/s | A | 1 | | d |"]
    page = markdown.put(PAGE, "Machine: X.", old, {each.title for each in ROWS}, "page.md")
    new = ["| reading, images/s | A | 2 | | e |", "| converting in steady state, images/s | A | 3 | | e |"]
    lines = markdown.put(page, "Machine: X.", new, {row("plain").title, row("convert").title}, "page.md").splitlines()
    assert [line for line in lines if " | A | " in line] == [new[1], new[0], old[0]]


def test_put_refuses_to_mix_machines() -> None:
    page = markdown.put(PAGE, "Machine: X.", ["| reading, images/s | A | 1 | | d |"], READING, "page.md")
    with pytest.raises(UserError, match=re.escape("page.md: keeps rows that were measured on another machine or with")):
        markdown.put(page, "Machine: Y.", [], {row("first").title}, "page.md")
    every = [f"| {each.title} | A | 1 | | d |" for each in ROWS]
    assert "Machine: Y." in markdown.put(page, "Machine: Y.", every, {each.title for each in ROWS}, "page.md")


def test_put_needs_markers() -> None:
    with pytest.raises(UserError, match=re.escape(f"--write=p.md: must have the lines {START} and {END}.")):
        markdown.put("# Page\n", "Machine: X.", [], READING, "p.md")


def test_the_page_has_a_place_for_the_table() -> None:
    markdown.check_markers((REPOSITORY / "docs/benchmarks.md").read_text(), "docs/benchmarks.md")


@pytest.mark.parametrize(
    ("code", "out", "err", "outcome"),
    [
        (0, 'noise\n{"images_per_second": 5.5}\n', "warning", Outcome(figures={"images_per_second": 5.5})),
        (0, '{"cannot": "has no index"}\n', "", Outcome(cannot="has no index")),
        (1, '{"seconds": 1}\n', "Traceback\nValueError: x\n\n", Outcome(failed="ValueError: x")),
        (-9, "", "", Outcome(failed="exit code -9 without a message")),
        (0, "nothing\n", "", Outcome(failed="exit code 0 without a message")),
    ],
)
def test_answers_of_scripts(code: int, out: str, err: str, outcome: Outcome) -> None:
    assert contenders.answer(code, out, err) == outcome


def test_a_peer_that_is_not_installed_has_no_version() -> None:
    assert Contender("a", "A", "a", {}, ".venv-missing", "a").version() == ""
    assert Contender("a", "A", "a", {}, "", "no_such_module").version() == ""
    assert re.fullmatch(r"\d+\.\d+.*", Contender("a", "A", "a", {}, "", "absl", "absl-py").version())
    assert Contender("a", "A", "a", {}, ".venv-missing").missing == "make .venv-missing/installed"


def test_every_contender_has_a_script_and_every_environment_a_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for one in (*VARIANTS, *PEERS, *LIMITS):
        assert (REPOSITORY / f"benchmarks/peers/{one.script}.py").exists()
        assert not one.environment or f":= {one.environment}\n" in makefile
        assert set(one.rows) <= {group.row for group in GROUPS}
    assert all(set(peer.rows) == set(NAMED) for peer in PEERS)


def test_rows_and_peers_are_chosen_by_name() -> None:
    assert [(group.row, names) for group, names in table.chosen_groups(["memory", "first"])] == [
        ("convert", {"memory"}),
        ("first", {"first"}),
    ]
    assert len(table.chosen_groups([])) == len(GROUPS)
    assert [peer.name for peer in table.chosen_peers(["grain", "tfds"])] == ["tfds", "grain"]
    with pytest.raises(
        UserError, match="--rows=fast: must be a row of the table: convert, convert_whole, memory, disk"
    ):
        table.chosen_groups(["fast"])
    with pytest.raises(UserError, match="--peers=dali: must be a peer: tfds, keras_directory, image_data_generator"):
        table.chosen_peers(["dali"])


def test_photographs_need_two_splits(tmp_path: Path) -> None:
    (tmp_path / "train/cats").mkdir(parents=True)
    (tmp_path / "train/cats/1.jpg").touch()
    with pytest.raises(
        UserError, match=re.escape(f"--photos={tmp_path}: has no files validation/CLASS/NAME.jpg. It must")
    ):
        table.check_photos(tmp_path)


def test_the_machine_is_described_in_one_line() -> None:
    line = machine.description({"FFCV": "1.0.2, Python 3.11.7"})
    assert re.fullmatch(
        r"Machine: .+, \d+ cores, \w+ \S+\. Versions: this package .*; FFCV 1\.0\.2, Python 3\.11\.7\.", line
    )


@pytest.mark.slow
def test_two_rows_of_drawings(tmp_path: Path) -> None:
    for split, count in (("train", 30), ("validation", 6)):
        for name in ("cats", "dogs"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.jpg").write_bytes(image(f"{split}{name}{number}", size=(200, 180)))
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    options = ["--rounds=1", "--rows=random,first", "--images=40", f"--work={tmp_path}"]
    command = [sys.executable, "-m", "benchmarks.table", f"--photos={tmp_path / 'photos'}", *options]
    ended = subprocess.run([*command, f"--write={page}"], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (ended.returncode, ended.stderr) == (0, "")
    for title in ("bytes of records in random order, records/s", "first batch, from the start of the process, s"):
        assert re.search(
            rf"^\| {title} \| this package \| [\d.,]+ \| \| 2\d+-\d+-\d+, [\d.]+ \|$", page.read_text(), re.M
        )
    first = re.escape("| first batch, from the start of the process, s | TensorFlow Datasets |")
    assert re.search(rf"^{first} [\d.]+ \| [\d.]+ \([\d.]+ to [\d.]+\) \|", page.read_text(), re.M)
    assert "| TensorFlow Datasets | cannot: its records have no index |" in page.read_text()
    assert "failed:" not in page.read_text()
    again = subprocess.run([*command, "--peers=tfds", "--write=x.md"], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr == "error: --write: needs all peers, because a row is measured side by side. Remove --peers.\n"
