"""Find, refuse or drop files with the same bytes, as `--duplicates` says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from tfrecord_tools.conversion.rows import Rows
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import duplicates
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.duplicates import Duplicates
from tfrecord_tools.sources.scan import Sources

_NAMED = 3  # Files that an error names of a set of identical files.


def find(
    rows: Rows, first: np.ndarray, arrange: Callable[[str, np.ndarray], np.ndarray] = lambda kind, members: members
) -> Duplicates:
    """Find rows with the same content, or rows that look alike.

    Args:
        rows: The images.
        first: i64[n]. For each row, the first row with the same content (`duplicates.first_of`), or the first row of
            the same group of images that look alike.
        arrange: Function from a kind and the rows of a set, i64[k], to the same rows in the order of the examples.

    Returns:
        The duplicates, with file numbers as examples.
    """
    same = duplicates.find(first, rows.labels, rows.splits)
    examples = {
        kind: [rows.numbers[arrange(kind, np.array(members))].tolist() for members in sets]
        for kind, sets in same.examples.items()
    }
    return dataclasses.replace(same, examples=examples)


def refuse(same: Duplicates, sources: Sources) -> None:
    """Raise UserError if there are duplicates."""
    for kind in reversed(duplicates.KINDS):
        if same.counts[kind]:
            paths = ", ".join(sources.paths[i] for i in same.examples[kind][0][:_NAMED])
            raise UserError(
                f"--duplicates=fail: {same.files:,} files have the same bytes as another file ({counted(same)}), for"
                f" example {paths}. Remove the duplicates, or pass --duplicates=drop or --duplicates=keep."
            )


def counted(same: Duplicates) -> str:
    """Return the number of duplicates of each kind, as text for the console."""
    return ", ".join(f"{same.counts[kind]:,} {what}" for kind, what in duplicates.KINDS.items() if same.counts[kind])


def drop(rows: Rows, first: np.ndarray, kept: np.ndarray, sources: Sources) -> tuple[np.ndarray, list[Rejected]]:
    """Decide which duplicates to drop.

    If several rows have the same content, the row with the smallest `Rows.preference` stays. If the labels differ, all
    these rows are dropped.

    Args:
        rows: The images.
        first: i64[n], the first row with the same content (`duplicates.first_of`).
        kept: bool[n], whether a decision keeps the image. All copies of an image have the same decision.
        sources: The source files.

    Returns:
        bool[n], the rows to drop, and an entry for each of them.

    Raises:
        UserError: A decision keeps an image, and its copies have different labels.
    """
    dropped = duplicates.to_drop(first, rows.labels, rows.preference)
    entries = list(_dropped(rows, first, np.flatnonzero(dropped), sources))
    lost = np.setdiff1d(first[kept], first[~dropped])
    if len(lost):
        same = next(duplicates.positions(first, lost[:1]))
        differing = same[rows.labels[same] != rows.labels[same[0]]]
        paths = [sources.paths[number] for number in rows.numbers[[same[0], differing[0]]].tolist()]
        raise UserError(
            f"--duplicates=drop: {paths[0]} and {paths[1]} have the same bytes and different labels. The decision"
            " 'keep' does not say which label is right. In the file of --decisions, write the decision 'label' and the"
            " right class for this image, or pass --duplicates=keep."
        )
    return dropped, entries


def _dropped(rows: Rows, first: np.ndarray, dropped: np.ndarray, sources: Sources) -> Iterator[Rejected]:
    """Yield an entry per dropped row. The reason names a duplicate, if possible with another label."""
    twins = duplicates.twins(first, rows.labels)[dropped]
    differing = rows.labels[dropped] != rows.labels[twins]
    for number, twin, differs in zip(rows.numbers[dropped].tolist(), rows.numbers[twins].tolist(), differing.tolist()):
        what = "the same bytes, under another label, as" if differs else "the same bytes as"
        yield Rejected(path=sources.paths[number], reason=f"{what} {sources.paths[twin]}", done="dropped")
