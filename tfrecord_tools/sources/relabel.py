"""Read the table of --relabel. Each row gives a new label to one image, by the path of the image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from tfrecord_tools.base import tables
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import decisions
from tfrecord_tools.layout.decisions import Decision, Decisions
from tfrecord_tools.sources import manifest
from tfrecord_tools.sources.manifest import Manifest, Reading


class NewLabel(NamedTuple):
    """A row of the table: the path of an image, its new label, and the number of the row, from 1."""

    path: str
    label: str
    line: int


def labels(table: str, src: str, classes: Collection[str]) -> frozenset[str]:
    """Return the class names in the table of new labels. The arguments are those of `read`.

    Raises:
        UserError: The table cannot be read, or is a decisions file.
    """
    return frozenset(_rows(table, src, classes).labels)


def read(
    table: str,
    src: str,
    paths: Sequence[str],
    classes: Collection[str],
    new_class: str = Decisions.new_class,
) -> list[NewLabel]:
    """Read the table of new labels.

    Args:
        table: Path of a CSV or Parquet file with the columns `path` and `label` (or `predicted_label`).
        src: The source of the images, for messages.
        paths: The path of each image.
        classes: The class names.
        new_class: As in `Decisions`.

    Returns:
        The rows, sorted by path.

    Raises:
        UserError: The table cannot be read, is a decisions file, has a path that is not an image, or a label that is
            not a class.
    """
    rows = _rows(table, src, classes)
    known = set(paths)
    unknown = [path for path in rows.paths if path not in known]
    if unknown:
        raise UserError(
            f"--relabel={table}: {len(unknown):,} of {len(rows.paths):,} paths do not match any image in {src}, for"
            f" example {unknown[0]!r}. Write paths as in predictions.csv and records.parquet, for example"
            f" {next(iter(paths), 'none')!r}."
        )
    by_label = {name: path for path, name in reversed(list(zip(rows.paths, rows.labels)))}
    made = (Decision("", "label", name, path) for name, path in by_label.items())
    decisions.check_labels(made, classes, f"--relabel={table}", new_class=new_class)
    return [NewLabel(*row) for row in zip(rows.paths, rows.labels, rows.lines)]


def _rows(table: str, src: str, classes: Collection[str]) -> Manifest:
    _refuse_decisions(table)
    reading = Reading(
        columns={"path": "path", "label": "label"},
        also={"label": "predicted_label"},  # The column's name in suspects.csv. Earlier releases wrote `label`.
        classes=set(classes),
        flag="relabel",
        exact=True,
    )
    return manifest.read(table, src, reading)


def _refuse_decisions(table: str) -> None:
    """Refuse a decisions file: there, a row without a label may be a decision to drop an image."""
    if tables.is_table(table):
        contents, _ = tables.read(table, known=decisions.COLUMNS)
        if {"sha256", "decision"} <= set(contents.column_names) and any(tables.texts(contents, "decision")):
            raise UserError(f"--relabel={table}: is a decisions file. Pass it as --decisions={table}.")
