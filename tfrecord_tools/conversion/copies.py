"""What becomes of files with the same bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from tfrecord_tools.conversion.rows import Rows
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import duplicates
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.duplicates import Duplicates
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.sources.scan import Sources


def find(rows: Rows, first: np.ndarray) -> Duplicates:
    """Find the contents that several rows have; `first` is `duplicates.first_of` of the rows' contents."""
    same = duplicates.find(first, rows.labels, rows.splits)
    examples = {kind: [rows.numbers[positions].tolist() for positions in sets] for kind, sets in same.examples.items()}
    return dataclasses.replace(same, examples=examples)


def refuse(same: Duplicates, sources: Sources) -> None:
    """Raise UserError if there are duplicates."""
    for kind in reversed(duplicates.KINDS):
        if same.counts[kind]:
            paths = ", ".join(sources.paths[i] for i in same.examples[kind][0])
            raise UserError(
                f"--duplicates=fail: {same.files:,} files have the same bytes as another file ({counted(same)}), such"
                f" as {paths}."
                " Remove them, or pass --duplicates=drop or keep."
            )


def counted(same: Duplicates) -> str:
    """Return the counts of the kinds that there are, for the screen."""
    return ", ".join(f"{same.counts[kind]:,} {what}" for kind, what in duplicates.KINDS.items() if same.counts[kind])


def drop(rows: Rows, first: np.ndarray, sources: Sources) -> tuple[np.ndarray, list[Rejected]]:
    """Return the rows to keep, i64[k], and an entry for each other one.

    A record of the previous dataset stays; of others, one of the last split stays.
    """
    dropped = duplicates.to_drop(first, rows.labels, np.where(rows.is_new, len(SPLITS) - rows.splits, 0))
    return np.flatnonzero(~dropped), list(_dropped(rows, first, np.flatnonzero(dropped), sources))


def _dropped(rows: Rows, first: np.ndarray, dropped: np.ndarray, sources: Sources) -> Iterator[Rejected]:
    """Name for each dropped row another file with the same bytes, one with another label if there is one."""
    for row, same in zip(dropped.tolist(), duplicates.positions(first, first[dropped])):
        differing = same[rows.labels[same] != rows.labels[row]]
        other = sources.paths[int(rows.numbers[(differing if len(differing) else same[same != row])[0]])]
        what = "the same bytes, under another label, as" if len(differing) else "the same bytes as"
        yield Rejected(path=sources.paths[int(rows.numbers[row])], reason=f"{what} {other}", done="dropped")
