"""The images of the review page, chosen from the issues of an audit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tfrecord_tools.base import workers
from tfrecord_tools.errors import CorruptRecord, UndecodableImage
from trainers.auditing.issues import Issue
from trainers.fitting.audited import Audited
from trainers.results import review_page
from trainers.results.review_page import Item, Picture


def items(records: Audited, issues: Sequence[Issue], most: int) -> list[Item]:
    """Return the issues with their pictures, for `review_page.Review`.

    Args:
        records: The audited records.
        issues: The issues.
        most: Largest number of pictures. If there are more, the issues with the best ranks are used, of all kinds.
    """
    chosen = _chosen(issues, most)
    rows = sorted({row for issue in chosen for row in _rows(issue)})
    with ThreadPoolExecutor(workers.default_workers()) as pool:
        pictures = dict(zip(rows, pool.map(lambda row: _picture(records, row, len(rows)), rows)))
    names = records.inputs.class_names
    return [
        Item(
            kind=issue.kind,
            rank=issue.rank,
            score=issue.score,
            picture=pictures[issue.record],
            proposed=None if issue.proposed is None else names[issue.proposed],
            twins=[] if issue.twin is None else [pictures[issue.twin]],
            reason=issue.reason,
        )
        for issue in chosen
    ]


def _chosen(issues: Sequence[Issue], most: int) -> list[Issue]:
    """Return issues with at most `most` different pictures, in the order of `issues`."""
    rows: set[int] = set()
    chosen: set[int] = set()
    for number in sorted(range(len(issues)), key=lambda number: issues[number].rank):
        new = set(_rows(issues[number])) - rows
        if len(rows) + len(new) <= most:  # If a pair does not fit, a later issue may.
            rows |= new
            chosen.add(number)
    return [issue for number, issue in enumerate(issues) if number in chosen]


def _rows(issue: Issue) -> Iterator[int]:
    yield issue.record
    if issue.twin is not None:
        yield issue.twin


def _picture(records: Audited, row: int, pictures: int) -> Picture:
    inputs = records.inputs
    return Picture(
        sha256=records.sha256[row],
        path=inputs.paths[row],
        label=inputs.class_names[inputs.labels[row]],
        split=inputs.split_names[inputs.splits[row]],
        jpeg=_jpeg(records, row, pictures),
    )


def _jpeg(records: Audited, row: int, pictures: int) -> bytes:
    """Return a small JPEG of a record's image; b"" if the image cannot be read any more."""
    try:
        return review_page.jpeg_of(records.image(row), pictures=pictures)
    except (CorruptRecord, UndecodableImage):
        return b""
