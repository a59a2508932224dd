"""Sources with images and their properties in the same files: Parquet, and tar of webdataset."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfrecord_tools.base import tables, words
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.sources.base import Listing, Store

if TYPE_CHECKING:
    import pyarrow as pa

# The columns that `export` writes. A table that has both gives the paths of its records.
PATH, SOURCE_SHA256 = "path", "source_sha256"
_SHOWN = 5  # Maximum number of names in a note.


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowSource:
    """The rows that have a label, one column per property.

    Attributes:
        listing: The rows as files.
        labels: Class names.
        splits: Splits as written in a column or in the names of the files. None: unknown.
        groups: Groups as written. None: there is no such column.
        class_names: The class names that occur, in the order of the metadata. None: the metadata do not name classes.
        notes: How the files were read, for the user.
    """

    listing: Listing
    labels: list[str]
    splits: list[str] | None
    groups: list[str] | None
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """All rows of the files of a source, one column per property.

    Attributes:
        src: The source, for messages.
        noun: The word for a row in messages, such as "row".
        store: Reads the images.
        places: The file and the position of each row, such as `FILE:ROW`.
        spans: Data that the store needs to read each row.
        sizes: i64[n] in bytes, an estimate for Parquet files.
        mtimes_ns: i64[n] in nanoseconds since the epoch.
        table: The properties of the rows.
        file_splits: The split of each row, from the names of the files. None: unknown.
    """

    src: str
    noun: str
    store: Store
    places: Sequence[str]
    spans: np.ndarray
    sizes: np.ndarray
    mtimes_ns: np.ndarray
    table: pa.Table
    file_splits: Sequence[str] | None


def make(
    rows: Rows,
    columns: Mapping[str, str],
    labels: Sequence[str],
    unusable: Mapping[int, str],
    class_names: Sequence[str],
    notes: Sequence[str],
) -> RowSource:
    """Return the source of some rows.

    Args:
        rows: The rows.
        columns: Role (label, split or group) -> name of its column. Roles may be missing.
        labels: The class name of each row. "": it has none.
        unusable: Row -> why it is rejected.
        class_names: Names of all classes, in label order. Empty: unknown.
        notes: How the rows were read.

    Raises:
        UserError: No row has a label.
    """
    paths, path_notes = _paths(rows)
    used = [row for row, label in enumerate(labels) if label and row not in unusable]
    splits = _splits(rows, columns)
    groups = tables.texts(rows.table, columns["group"]) if "group" in columns else None
    left_out = _left_out(rows, labels, splits, columns, unusable)
    known = {labels[row] for row in used}
    notes = [*notes, *path_notes, *left_out, *_without_rows(rows, class_names, known)]
    if not used:
        raise UserError(
            f"{rows.src}: no {rows.noun} has a label. Name the column of labels with --label_column."
            if not any(labels)
            else f"{rows.src}: no {rows.noun} can be used. The first one is {rows.places[min(unusable)]}:"
            f" {unusable[min(unusable)]}."
        )
    splits = None if splits is None else [splits[row] for row in used]
    return RowSource(
        listing=Listing(
            store=rows.store,
            paths=[paths[row] for row in used],
            spans=rows.spans[used],
            sizes=rows.sizes[used],
            mtimes_ns=rows.mtimes_ns[used],
            rejected=[Rejected(path=paths[row], reason=reason) for row, reason in unusable.items()],
        ),
        labels=[labels[row] for row in used],
        splits=splits if splits and len(set(splits)) > 1 else None,
        groups=groups and [groups[row] for row in used],
        class_names=tuple(name for name in class_names if name in known) or None,
        notes=tuple(notes),
    )


def _without_rows(rows: Rows, class_names: Sequence[str], known: Collection[str]) -> Iterator[str]:
    """Yield a note about classes of the metadata without rows. They get no labels."""
    if empty := [name for name in class_names if name not in known]:
        yield (
            f"{words.number(len(empty), 'class has', 'classes have')} no {rows.noun}s: {named(empty, _SHOWN)}. The"
            " labels of the dataset only count classes with images"
        )


def _paths(rows: Rows) -> tuple[Sequence[str], list[str]]:
    """Return the paths of the records, and a note if the paths in the table cannot be used.

    Tables that `export` wrote contain the paths of the records. Then a converted export has the same records.
    """
    if not {PATH, SOURCE_SHA256} <= {*rows.table.column_names}:
        return rows.places, []
    paths = tables.texts(rows.table, PATH)
    if all(paths) and len(set(paths)) == len(paths):
        return paths, []
    count = len(paths) - len(set(paths) - {""})
    return rows.places, [
        f"the column {PATH!r} is not read, since {count:,} of {len(paths):,} {rows.noun}s have no path there, or the"
        f" path of another {rows.noun}. The paths of the records are those of the files, such as {rows.places[0]}"
    ]


def _splits(rows: Rows, columns: Mapping[str, str]) -> Sequence[str] | None:
    if rows.file_splits is not None:
        return rows.file_splits
    return tables.texts(rows.table, columns["split"]) if "split" in columns else None


def _left_out(
    rows: Rows,
    labels: Sequence[str],
    splits: Sequence[str] | None,
    columns: Mapping[str, str],
    unusable: Collection[int],
) -> Iterator[str]:
    """Yield a note about the rows without a label, with the number of such rows in each split."""
    missing = [row for row, label in enumerate(labels) if not label and row not in unusable]
    if missing:
        counts = collections.Counter(splits[row] for row in missing) if splits else {}
        where = "".join(f", {count:,} in {split}" for split, count in counts.items())
        yield (
            f"{len(missing):,} of {len(labels):,} {rows.noun}s are left out, since they have no label in the column"
            f" {columns.get('label')!r}{where}, for example {rows.places[missing[0]]}"
        )
