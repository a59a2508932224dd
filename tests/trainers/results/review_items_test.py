"""Tests of the choice of issues for the review page."""

from __future__ import annotations

import pytest

from trainers.auditing.issues import Issue
from trainers.results import review_items


def issue(rank: int, record: int, twin: int | None = None) -> Issue:
    kind = "label" if twin is None else "near_duplicate"
    return Issue(kind=kind, rank=rank, score=0.9, record=record, proposed=None, twin=twin, reason="")


@pytest.mark.parametrize(
    ("most", "ranks"),
    [
        (0, []),
        (1, [1, 5]),  # The picture of rank 5 is on the page already.
        (2, [1, 3, 5]),  # The pair of rank 2 needs three pictures.
        (3, [1, 2, 4, 5]),
        (4, [1, 2, 3, 4, 5]),
    ],
)
def test_an_issue_that_does_not_fit_leaves_room_for_later_ones(most: int, ranks: list[int]) -> None:
    issues = [issue(1, 0), issue(2, 1, twin=2), issue(3, 3), issue(4, 2), issue(5, 0)]
    assert [one.rank for one in review_items._chosen(issues, most)] == ranks
