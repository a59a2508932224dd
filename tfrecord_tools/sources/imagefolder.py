"""Find the tables of an imagefolder of Hugging Face: `metadata.csv`, `.jsonl` or `.parquet`."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Collection, Iterator, Sequence, Set

from tfrecord_tools.base import tables
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.layout.split_names import split_named
from tfrecord_tools.sources import any_files, manifest
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


def find(src: str, reading: Reading, objects: Set[str] | None) -> list[Table]:
    """Return the tables in a directory, or else those in its directories of splits.

    A table must have the column `file_name` and a column of labels.

    Args:
        src: The directory or its URL.
        reading: How tables are read.
        objects: For a URL: the paths of all files below it. None: the directory is on this machine.

    Raises:
        UserError: A directory has several such tables. Or a store cannot be read.
    """
    return _in_directory(src, "", reading, objects) or [
        table for name in _splits(src, objects) for table in _in_directory(src, name, reading, objects)
    ]


def _splits(src: str, objects: Collection[str] | None) -> list[str]:
    """Return the names of the directories of splits."""
    if objects is not None:
        return sorted(name for name in {path.partition("/")[0] for path in objects if "/" in path} if split_named(name))
    try:
        with os.scandir(src) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and split_named(entry.name))
    except OSError:  # Not a directory, or one that cannot be listed.
        return []


def _in_directory(src: str, name: str, reading: Reading, objects: Set[str] | None) -> list[Table]:
    """Return the table with labels in the directory `name` of a source. "": the source itself."""
    paths = [path for path in _tables(src, name, objects) if _has_labels(path, reading)]
    if len(paths) > 1:
        raise UserError(f"{paths[0]} and {paths[1]} both contain labels. Pass one of them as --manifest.")
    return [Table(path, name, split_named(name) if name else None) for path in paths]


def _tables(src: str, name: str, objects: Set[str] | None) -> list[str]:
    """Return the paths of the files with names of tables in the directory `name` of a source."""
    start = f"{name}/" if name else ""  # Also on Windows: the names of objects have slashes.
    names = [f"{start}{_STEM}{ending}" for ending in tables.ENDINGS]
    if objects is not None:
        return [f"{src.rstrip('/')}/{one}" for one in names if one in objects]
    return [path for one in names if tables.is_table(path := os.path.join(src, *one.split("/")))]


def check_readable(src: str, encoding: str | None, objects: Set[str] | None) -> None:
    """Raise a UserError if a table cannot be read.

    Args:
        src: The directory or its URL.
        encoding: The encoding of a CSV. None: the encoding of its byte order mark, or UTF-8 if it has no mark.
        objects: As in `find`.
    """
    for name in ("", *_splits(src, objects)):
        for path in _tables(src, name, objects):
            tables.read(path, encoding, encoding_flag="manifest_encoding", open_file=any_files.open_binary)


def _has_labels(path: str, reading: Reading) -> bool:
    try:
        table = tables.read(path, reading.encoding, open_file=any_files.open_binary)[0]
    except UserError:
        return False
    names, given = set(table.column_names), reading.columns["label"]
    if names.isdisjoint({PATH_COLUMN, reading.columns["path"]}):
        return False
    if reading.label_columns:
        return True
    columns = [name for name in names if (name == given if given in names else manifest.may_be_label(name))]
    return any(table.column_names.count(name) > 1 or any(tables.texts(table, name)) for name in columns)


def read(src: str, found: Sequence[Table], reading: Reading, objects: Collection[str] | None) -> Manifest:
    """Read the rows of all tables. Paths are relative to the source.

    If a table has no column of splits, the directories of the images give them, as in Hugging Face's `datasets`.

    Args:
        src: The directory or its URL.
        found: The tables that `find` has returned.
        reading: How tables are read.
        objects: As in `find`.

    Raises:
        UserError: As `manifest.read`, or the splits of only some images are known.
    """
    parts = [(table, manifest.read(table.path, os.path.dirname(table.path), reading)) for table in found]
    rows = sorted(itertools.chain.from_iterable(itertools.starmap(_rows, parts)), key=lambda row: row[0].split("/"))
    paths, labels, splits, groups, lines = (list(column) for column in zip(*rows))
    if any(splits) and not all(splits):
        one, other = paths[splits.index("")], next(path for path, split in zip(paths, splits) if split)
        raise UserError(
            f"--src={src}: the table says no split for {one}, but {other} is in a split. Add a column split to the"
            " table, or pass the directory of one split as --src."
        )
    used = {table.directory for table in found}
    left_out = [] if "" in used else [name for name in _splits(src, objects) if name not in used]
    return Manifest(
        paths=paths,
        labels=labels,
        splits=splits if all(splits) else None,
        groups=groups if any(groups) else None,
        lines=lines,
        notes=(
            *dict.fromkeys(note for _, part in parts for note in part.notes),
            *([f"left out, since no table in it has labels: {named(left_out)}"] if left_out else []),
        ),
    )


def _rows(table: Table, part: Manifest) -> Iterator[tuple[str, str, str, str, int]]:
    """Yield path, label, split, group and number of each row. Split and group may be ""."""
    start = f"{table.directory}/" if table.directory else ""
    empty = [""] * len(part.paths)
    splits = part.splits or [table.split or _split_of(path) for path in part.paths]
    for path, label, split, group, line in zip(part.paths, part.labels, splits, part.groups or empty, part.lines):
        yield f"{start}{path}", label, split, group, line


def _split_of(path: str) -> str:
    """Return the split in the name of the first directory of a path. "": it names no split."""
    directory, slash, _ = path.partition("/")
    return (slash and split_named(directory)) or ""
