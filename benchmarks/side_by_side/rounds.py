"""Measure contenders in turn, and compare their medians."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from benchmarks.side_by_side.contenders import Contender, Outcome
from benchmarks.side_by_side.rows import Group, Row, Turn

Measure = Callable[[Contender, str, str], Outcome]  # Measures (contender, row of its script, photographs).


@dataclasses.dataclass
class Entry:
    """All turns of one contender, or why there are none.

    Attributes:
        contender: The side that was measured.
        turns: The figures of each counted round.
        cannot: Why the contender cannot do the row.
        failed: The error of the measurement that failed.
    """

    contender: Contender
    turns: list[Turn] = dataclasses.field(default_factory=list)
    cannot: str = ""
    failed: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """The figure of one contender in one row.

    Attributes:
        value: The median of all rounds. NaN if a round was too short to measure.
        ratios: How many times as good this package was: median, lowest, highest. None for this package itself,
            and if it is not known.
    """

    value: float
    ratios: tuple[float, float, float] | None


def measure(group: Group, contenders: Iterable[Contender], rounds: int, measure_one: Measure) -> list[Entry]:
    """Measure all contenders in each round, so that a slow moment hits all of them.

    Every second round is in the opposite order. A contender that cannot do the row, or that fails, is not tried again.
    """
    entries = [Entry(contender) for contender in contenders]
    for number in range(rounds + group.warm_up):
        for entry in entries if number % 2 == 0 else entries[::-1]:
            if not entry.cannot and not entry.failed:
                _take_turn(entry, group, counted=number >= group.warm_up, measure_one=measure_one)
    return entries


def _take_turn(entry: Entry, group: Group, counted: bool, measure_one: Measure) -> None:
    row = entry.contender.rows[group.row]
    turn = {}
    for photos in group.photos:
        outcome = measure_one(entry.contender, row, photos)
        entry.cannot, entry.failed = outcome.cannot, outcome.failed
        if outcome.cannot or outcome.failed:
            entry.turns.clear()
            return
        turn[photos] = outcome.figures
    if counted:
        entry.turns.append(turn)


def cells(row: Row, entries: Sequence[Entry]) -> dict[str, Cell]:
    """Return the figures of a row, by the name of the contender. The first entry is this package.

    A contender without this figure, such as a limit of another row of the group, is left out.
    """
    ours = _values(row, entries[0])
    found = {}
    for entry in entries:
        values = _values(row, entry)
        if values:
            pairs = [row.ratio(mine, other) for mine, other in zip(ours, values)]
            unknown = entry is entries[0] or not pairs or any(map(math.isnan, pairs))
            ratios = None if unknown else (statistics.median(pairs), min(pairs), max(pairs))
            value = math.nan if any(map(math.isnan, values)) else statistics.median(values)
            found[entry.contender.name] = Cell(value, ratios)
    return found


def _values(row: Row, entry: Entry) -> list[float]:
    try:
        return [row.figure(turn) for turn in entry.turns]
    except KeyError:
        return []
