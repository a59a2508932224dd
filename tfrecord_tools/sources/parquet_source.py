"""List Parquet files of images: the columns, the split of each file, and the names of the labels."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfrecord_tools.base import tables
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.sources import arrange, manifest, manifest_labels, parquet_images
from tfrecord_tools.sources.base import Listing
from tfrecord_tools.sources.manifest import Reading
from tfrecord_tools.sources.parquet_images import Column, ParquetImages

if TYPE_CHECKING:
    import pyarrow as pa

_NO_LABEL = -1  # Hugging Face's label for rows without a label.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """The rows of Parquet files that have a label, one column per property.

    Attributes:
        listing: The rows as files. The path of a row is `FILE:ROW`, with rows counted from 1.
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


def read(src: str, reading: Reading, exclude: Sequence[str] = ()) -> ParquetSource:
    """Read everything except the images.

    Args:
        src: A Parquet file, or a directory of Parquet files.
        reading: Columns and encoding.
        exclude: Patterns of files to leave out.

    Raises:
        UserError: A file cannot be read, a pattern matches nothing, or several columns fit.
    """
    import pyarrow as pa

    root = src if os.path.isdir(src) else os.path.dirname(src)
    files = [_relative(file, root) for file in parquet_images.files_of(src)]
    files, excluded = arrange.without_files(files, exclude, src) if exclude else (files, [])
    if not files:
        raise UserError(f"--exclude={exclude[0]}: no Parquet file of images in {src} is left. Remove a pattern.")
    try:
        source = _read(src, root, [os.path.join(root, file) for file in files], reading)
        return dataclasses.replace(source, notes=(*excluded, *source.notes))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{src}: cannot be read as Parquet files of images: {error}. Download them again.") from error


def _relative(file: str, root: str) -> str:
    return os.path.relpath(file, root or ".").replace(os.sep, "/")


def _read(src: str, root: str, files: list[str], reading: Reading) -> ParquetSource:
    files, file_splits, notes = _split_files(files)
    column, more = _image_column(files, reading)
    table = _table(src, files)
    names = _class_names(files)
    reading, described = _with_label_column(src, table, names, reading)
    columns, usual = manifest.find_columns(src, table, reading, given=("path",))
    labels, unnamed = _labels(src, table, columns, reading, names)
    rows = [parquet_images.rows_of(file, number) for number, file in enumerate(files)]
    relative = tuple(_relative(file, root) for file in files)
    paths = [f"{name}:{row}" for name, lines in zip(relative, rows) for row in range(1, len(lines) + 1)]
    spans = np.concatenate(rows)
    labeled = [row for row, label in enumerate(labels) if label]
    splits = _splits(table, columns, file_splits, spans["file"].tolist())
    groups = tables.texts(table, columns["group"]) if "group" in columns else None
    notes = [*notes, *more, *described, *usual, *_left_out(paths, labels, splits, columns, unnamed)]
    if not labeled:
        raise UserError(f"{src}: no row has a label. Name the column of labels with --label_column.")
    mtimes = np.array([os.stat(file).st_mtime_ns for file in files], np.int64)
    splits = None if splits is None else [splits[row] for row in labeled]
    return ParquetSource(
        listing=Listing(
            store=ParquetImages(root, relative, column),
            paths=[paths[row] for row in labeled],
            spans=spans[labeled],
            sizes=spans["size"][labeled],
            mtimes_ns=mtimes[spans["file"][labeled]],
            rejected=[Rejected(path=paths[row], reason=reason) for row, reason in unnamed.items()],
        ),
        labels=[labels[row] for row in labeled],
        splits=splits if splits and len(set(splits)) > 1 else None,
        groups=groups and [groups[row] for row in labeled],
        class_names=_in_order(names.get(columns.get("label", ""), []), {labels[row] for row in labeled}),
        notes=tuple(notes),
    )


def _split_files(files: Sequence[str]) -> tuple[list[str], list[str] | None, list[str]]:
    """Return the files to read, the split of each (None: unknown), and a note on the other files."""
    splits = {file: parquet_images.split_of(file) for file in files}
    named_splits = {split for split in splits.values() if split}
    if len(named_splits) < 2:
        return list(files), None, []
    used = [file for file in files if splits[file]]
    others = [os.path.basename(file) for file in files if not splits[file]]
    notes = (
        [f"{len(others):,} files are left out, since their names do not contain a split: {named(others, 3)}"]
        if others
        else []
    )
    return used, [split for file in used if (split := splits[file])], notes


def _image_column(files: Sequence[str], reading: Reading) -> tuple[Column, list[str]]:
    """Return the column of images, and a note if other columns of images are not used.

    Raises:
        UserError: Several columns fit, or a file does not have the column.
    """
    columns = {column.name: column for column in parquet_images.image_columns(files[0])}
    given = reading.columns["path"]
    usual = [name for name in columns if name in parquet_images.USUAL_NAMES]
    candidates = [given] if given != "path" else list(columns) if len(columns) == 1 else usual
    if len(candidates) != 1 or candidates[0] not in columns:
        problem = f"there is no column of images {given!r}" if given != "path" else "several columns contain images"
        raise UserError(
            f"{files[0]}: {problem}. The columns of images are {named([repr(name) for name in columns])}. Name one with"
            " --path_column."
        )
    column = columns[candidates[0]]
    for file in files:
        if column not in parquet_images.image_columns(file):
            raise UserError(
                f"{file}: there is no column of images {column.name!r}, but {files[0]} has one. Leave {file} out with"
                " --exclude."
            )
    others = [name for name in columns if name != column.name]
    note = (
        f"the images in the column {column.name!r} are read, but the images in {', '.join(others)} are not (see"
        " --path_column)"
    )
    return column, [note] if others else []


def _table(src: str, files: Sequence[str]) -> pa.Table:
    """Read all columns that may contain labels, splits and groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for file in files:
        with pq.ParquetFile(file) as opened:
            images = {column.name for column in parquet_images.image_columns(file)}
            names = [field.name for field in opened.schema_arrow if field.name not in images and _may_be_label(field)]
            part = opened.read(columns=names) if names else None
            parts.append(part if part is not None else pa.table({"": pa.nulls(opened.metadata.num_rows)}))
    try:
        return pa.concat_tables([part.replace_schema_metadata(None) for part in parts], promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"{src}: the columns of its Parquet files differ: {error}. Pass one file as --src.") from error


def _may_be_label(field: pa.Field) -> bool:
    """Whether a column may contain labels: it has no bytes and no lists of numbers such as embeddings."""
    import pyarrow as pa

    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    numbers = pa.types.is_list(field.type) and pa.types.is_floating(kind)
    return not (numbers or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(files: Sequence[str]) -> dict[str, list[str]]:
    """Return column -> names of its classes, from the first file with metadata."""
    import pyarrow.parquet as pq

    return next((names for file in files if (names := parquet_images.class_names(pq.read_schema(file)))), {})


def _with_label_column(
    src: str, table: pa.Table, names: dict[str, list[str]], reading: Reading
) -> tuple[Reading, list[str]]:
    """Use the label column that the metadata describe, if no flag names one and none is called label."""
    described = [name for name in names if name in table.column_names]
    if reading.label_columns or reading.columns["label"] != "label" or "label" in table.column_names or not described:
        return reading, []
    if len(described) > 1:
        raise UserError(
            f"{src}: the columns {', '.join(described)} all contain classes. Name the column of labels, for example"
            f" --label_column={described[0]}."
        )
    chosen = dataclasses.replace(reading, columns={**reading.columns, "label": described[0]})
    return chosen, [f"the column {described[0]!r} is read as the labels (see --label_column)"]


def _labels(
    src: str, table: pa.Table, columns: dict[str, str], reading: Reading, names: dict[str, list[str]]
) -> tuple[list[str], dict[int, str]]:
    """Return the class name of each row ("": no label), and row -> why its label has no name."""
    import pyarrow as pa

    if reading.label_columns:
        return manifest_labels.one_hot(src, table, reading.label_columns), {}
    column = columns["label"]
    if column not in names or not pa.types.is_integer(table.schema.field(column).type):
        return manifest_labels.read(src, table, column, "", {*reading.classes, *names.get(column, ())}), {}
    known = names[column]
    values = [_NO_LABEL if value is None else value for value in table.column(column).to_pylist()]
    reason = f"its label {{}} has no name: the metadata of the table has {len(known):,} names"
    unnamed = {row: reason.format(value) for row, value in enumerate(values) if not _NO_LABEL <= value < len(known)}
    return ["" if value == _NO_LABEL or row in unnamed else known[value] for row, value in enumerate(values)], unnamed


def _splits(
    table: pa.Table, columns: dict[str, str], file_splits: list[str] | None, files: Sequence[int]
) -> list[str] | None:
    if file_splits is not None:
        return [file_splits[file] for file in files]
    return tables.texts(table, columns["split"]) if "split" in columns else None


def _left_out(
    paths: Sequence[str],
    labels: Sequence[str],
    splits: Sequence[str] | None,
    columns: dict[str, str],
    unnamed: Collection[int],
) -> Iterator[str]:
    """Yield a note about the rows without a label, with the number of such rows in each split."""
    missing = [row for row, label in enumerate(labels) if not label and row not in unnamed]
    if missing:
        counts = collections.Counter(splits[row] for row in missing) if splits else {}
        where = "".join(f", {count:,} in {split}" for split, count in counts.items())
        yield (
            f"{len(missing):,} of {len(labels):,} rows are left out, since they have no label in the column"
            f" {columns.get('label')!r}{where}, for example {paths[missing[0]]}"
        )


def _in_order(names: Sequence[str], used: set[str]) -> tuple[str, ...] | None:
    return tuple(name for name in names if name in used) or None
