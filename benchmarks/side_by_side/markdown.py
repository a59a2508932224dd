"""The table as Markdown, and its place in a page."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from benchmarks.side_by_side.contenders import Contender
from benchmarks.side_by_side.rounds import Cell, Entry
from benchmarks.side_by_side.rows import ROWS, Row
from tfrecord_tools.errors import UserError

START, END = "<!-- python -m benchmarks.table -->", "<!-- end of the table -->"
_HEAD = "| what | tool | measured | ratio (lowest to highest) | date, load |"
_RULE = "|---|---|---|---|---|"
_COLUMNS = 5


@dataclasses.dataclass(frozen=True)
class Absent:
    """Peers that are not installed.

    Attributes:
        contender: The peer.
        make: The command that installs it.
    """

    contender: Contender
    make: str


def lines(
    row: Row, entries: Sequence[Entry], found: Mapping[str, Cell], absent: Iterable[Absent], when: str
) -> list[str]:
    """Return the lines of one row of the table: one per figure, and one for those that have none."""
    made = []
    for entry in entries:
        if cell := found.get(entry.contender.name):
            ratio = "" if cell.ratios is None else "{:.2f} ({:.2f} to {:.2f})".format(*cell.ratios)
            made.append(_line(row.title, entry.contender.title, row.text(cell.value), ratio, when))
    reasons: dict[str, list[str]] = {}
    for entry in entries:
        if reason := _why_not(entry):
            reasons.setdefault(reason, []).append(entry.contender.title)
    for one in absent:
        reasons.setdefault(f"not installed: `{one.make}`", []).append(one.contender.title)
    made.extend(_line(row.title, ", ".join(titles), reason, "", when) for reason, titles in reasons.items())
    return made


def _why_not(entry: Entry) -> str:
    if entry.failed:
        return f"failed: {_plain(entry.failed)}"
    return f"cannot: {entry.cannot}" if entry.cannot else ""


def _plain(text: str) -> str:
    """Return a text that does not end a cell of a table, without paths of this machine."""
    return re.sub(r"(?<!\w)/\S+/", "…/", text.replace("|", "/"))[:200]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def block(machine: str, made: Iterable[str]) -> str:
    """Return all that stands between the markers."""
    return "\n".join([START, "", machine, "", _HEAD, _RULE, *made, "", END])


def check_markers(page: str, name: str) -> None:
    """Raise UserError if a page has no place for the table."""
    if START not in page or END not in page.partition(START)[2]:
        raise UserError(f"--write={name}: must have the lines {START} and {END}. Add them where the table belongs.")


def put(page: str, machine: str, made: Sequence[str], titles: Collection[str], name: str) -> str:
    """Return the page with new lines in its table, in place of its old lines for the same rows.

    The lines of other rows stay, because the rows may be measured one after the other. All must be of one machine.

    Args:
        page: The text of the page.
        machine: The description of the machine.
        made: The lines of the rows that were measured.
        titles: Titles of the rows that are replaced.
        name: Path of the page, for error messages.

    Raises:
        UserError: The page has no markers, or it keeps rows of another machine or of other versions.
    """
    check_markers(page, name)
    before, _, rest = page.partition(START)
    inside, _, after = rest.partition(END)
    kept = [line for line in inside.splitlines() if line.startswith("| ") and line.count(" | ") >= _COLUMNS - 2]
    kept = [line for line in kept if line != _HEAD and _title(line) not in titles]
    old = next((line for line in inside.splitlines() if line and not line.startswith("|")), machine)
    if kept and old != machine:
        raise UserError(
            f"--write={name}: keeps rows that were measured on another machine or with other versions ({old})."
            " Remove --rows to measure all rows, or remove the old rows from the page."
        )
    places = {row.title: number for number, row in enumerate(ROWS)}
    every = sorted([*kept, *made], key=lambda line: places.get(_title(line), len(places)))
    return before + block(machine, every) + after


def _title(line: str) -> str:
    return line.removeprefix("| ").partition(" | ")[0]
