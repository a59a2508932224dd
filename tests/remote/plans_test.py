"""Tests of plans: the next use of each row, also of rows that the plan does not read."""

from __future__ import annotations

import numpy as np
import pytest

from tfrecord_tools.order import Blocks, Order, Shuffled
from tfrecord_tools.remote.plans import NEVER, Chosen, Plan

ROWS = np.array([7, 2, 9, 4, 11, 0])  # The rows of six records of a selection.


@pytest.mark.parametrize("order", [Shuffled(6, 3), Blocks(6, 3, 2, 2)], ids=["shuffled", "blocks"])
@pytest.mark.parametrize("position", [0, 4, 6, 11])
def test_the_next_use_is_that_of_the_sequence(order: Order, position: int) -> None:
    plan = Plan(order, Chosen(ROWS))
    sequence = ROWS[order[np.arange(position, position + 30)]].tolist()
    assert plan.upcoming(position, 30).tolist() == sequence
    expected = [position + sequence.index(row) if row in ROWS else NEVER for row in range(13)]
    assert plan.next_use(np.arange(13), position).tolist() == expected


def test_a_part_of_a_plan() -> None:
    order = Shuffled(6, 0)
    whole = Plan(order, Chosen(ROWS))
    part = whole.within(4, 12)
    assert part.upcoming(0, 6).tolist() == [row - 4 for row in ROWS[order[np.arange(6)]].tolist() if row >= 4]
    assert part.next_use(np.array([0, 1, 3]), 0).tolist() == whole.next_use(np.array([4, 5, 7]), 0).tolist()


class Interrupted(int):
    """A position. While it is compared with the positions of a plan, another thread uses the plan."""

    plan: Plan

    def __sub__(self, other: int) -> int:
        self.plan.upcoming(2, 8)
        return int(self) - other


def test_threads_share_a_plan() -> None:
    """The threads of several splits ask one plan for rows."""
    order = Shuffled(6, 3)
    plan = Plan(order, Chosen(ROWS))
    expected = ROWS[order[np.arange(20)]].tolist()
    plan.upcoming(0, 8)
    position = Interrupted(4)
    position.plan = plan
    assert plan.upcoming(position, 8).tolist() == expected[4:12]
    assert plan.upcoming(5, 8).tolist() == expected[5:13]
