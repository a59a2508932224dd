"""Find the tables of an imagefolder of Hugging Face: `metadata.csv`, `.jsonl` or `.parquet`."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence

from tfrecord_tools.base import tables
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.split_names import split_named
from tfrecord_tools.sources import manifest
from tfrecord_tools.sources.manifest import Manifest, Reading

PATH_COLUMN = "file_name"
_STEM = "metadata"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with the labels of images.

    Attributes:
        path: Path of the table.
        directory: Directory of the table, relative to the source. "": the source itself.
        split: The split in the name of the directory. None: it is not the name of a split.
    """

    path: str
    directory: str
    split: str | None


def find(src: str, reading: Reading) -> list[Table]:
    """Return the tables in a directory, or else those in its directories of splits.

    A table must have the column `file_name` and a column of labels.

    Raises:
        UserError: A directory has several such tables.
    """
    try:
        with os.scandir(src) as entries:
            splits = sorted(entry.name for entry in entries if entry.is_dir() and split_named(entry.name))
    except OSError:  # Not a directory, or one that cannot be listed.
        return []
    return _in_directory(src, "", reading) or [
        table for name in splits for table in _in_directory(os.path.join(src, name), name, reading)
    ]


def _in_directory(directory: str, name: str, reading: Reading) -> list[Table]:
    paths = [os.path.join(directory, f"{_STEM}{ending}") for ending in tables.ENDINGS]
    paths = [path for path in paths if tables.is_table(path) and _has_labels(path, reading)]
    if len(paths) > 1:
        raise UserError(f"{paths[0]} and {paths[1]} both contain labels. Pass one of them as --manifest.")
    return [Table(path, name, split_named(name) if name else None) for path in paths]


def _has_labels(path: str, reading: Reading) -> bool:
    try:
        names = tables.read(path, reading.encoding)[0].column_names
    except UserError:
        return False
    given = reading.columns["label"]
    if PATH_COLUMN not in names and reading.columns["path"] not in names:
        return False
    return bool(reading.label_columns) or given in names or any(map(manifest.may_be_label, names))


def read(found: Sequence[Table], reading: Reading) -> Manifest:
    """Read the rows of all tables. Paths are relative to the source.

    Raises:
        UserError: As `manifest.read`.
    """
    parts = [(table, manifest.read(table.path, os.path.dirname(table.path), reading)) for table in found]
    rows = sorted(itertools.chain.from_iterable(itertools.starmap(_rows, parts)), key=lambda row: row[0].split("/"))
    paths, labels, splits, groups, lines = (list(column) for column in zip(*rows))
    return Manifest(
        paths=paths,
        labels=labels,
        splits=splits if all(splits) else None,
        groups=groups if any(groups) else None,
        lines=lines,
        notes=tuple(dict.fromkeys(note for _, part in parts for note in part.notes)),
    )


def _rows(table: Table, part: Manifest) -> Iterator[tuple[str, str, str, str, int]]:
    """Yield path, label, split, group and number of each row. Split and group may be ""."""
    start = f"{table.directory}/" if table.directory else ""
    empty = [""] * len(part.paths)
    splits = part.splits or [table.split or ""] * len(part.paths)
    for path, label, split, group, line in zip(part.paths, part.labels, splits, part.groups or empty, part.lines):
        yield f"{start}{path}", label, split, group, line
