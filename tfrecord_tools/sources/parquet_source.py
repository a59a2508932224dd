"""List Parquet files of images: the columns, the split of each file, and the names of the labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfrecord_tools.base import tables
from tfrecord_tools.errors import UserError, named, one_line
from tfrecord_tools.sources import any_files, manifest, manifest_labels, parquet_images, row_source
from tfrecord_tools.sources.base import ReadError
from tfrecord_tools.sources.file_sets import FileSet, Kind
from tfrecord_tools.sources.manifest import Reading
from tfrecord_tools.sources.parquet_images import Column, ParquetImages
from tfrecord_tools.sources.row_source import Rows, RowSource

if TYPE_CHECKING:
    import pyarrow as pa

_NO_LABEL = -1  # Hugging Face's label for rows without a label.


def _has_images(file: str) -> bool:
    """Whether a file has a column of images. Raises ReadError if the file cannot be read."""
    import pyarrow as pa

    try:
        return bool(parquet_images.image_columns(file))
    except (OSError, pa.ArrowException) as error:
        raise ReadError(one_line(error)) from error


KIND = Kind("Parquet", parquet_images.ENDING, _has_images)


def read(found: FileSet, reading: Reading, exclude: Sequence[str] = ()) -> RowSource:
    """Read everything except the images.

    Args:
        found: The Parquet files.
        reading: Columns and encoding.
        exclude: Patterns of files to leave out.

    Raises:
        UserError: A file cannot be read, a pattern matches nothing, or several columns fit.
    """
    import pyarrow as pa

    found, left_out = found.to_read(exclude)
    try:
        source = _read(found, reading)
        return dataclasses.replace(source, notes=(*left_out, *source.notes))
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{found.src}: cannot be read as Parquet files of images: {error}. Download them again."
        ) from error


def _read(found: FileSet, reading: Reading) -> RowSource:
    found, file_splits, notes = found.splits()
    files, src = found.paths, found.src
    column, more = _image_column(files, reading)
    table = _table(src, files)
    names = _class_names(files)
    reading, described = _with_label_column(src, table, names, reading)
    columns, usual = manifest.find_columns(src, table, reading, given=("path",))
    labels, unnamed = _labels(src, table, columns, reading, names)
    parts = [parquet_images.rows_of(file, number) for number, file in enumerate(files)]
    spans = np.concatenate(parts)
    mtimes = np.array([any_files.status(file)[1] for file in files], np.int64)
    rows = Rows(
        src=src,
        noun="row",
        store=ParquetImages(found.root, found.files, column),
        places=[f"{name}:{row}" for name, part in zip(found.files, parts) for row in range(1, len(part) + 1)],
        spans=spans,
        sizes=spans["size"].copy(),
        mtimes_ns=mtimes[spans["file"]],
        table=table,
        file_splits=None if file_splits is None else [file_splits[file] for file in spans["file"].tolist()],
    )
    class_names = names.get(columns.get("label", ""), [])
    return row_source.make(rows, columns, labels, unnamed, class_names, [*notes, *more, *described, *usual])


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

    parts = []
    for file in files:
        with parquet_images.opened_file(file) as opened:
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
    schemas = (parquet_images.opened_file(file).schema_arrow for file in files)
    return next((names for schema in schemas if (names := parquet_images.class_names(schema))), {})


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
    if again := tables.repeated(known):
        raise UserError(
            f"{src}: the metadata of the column {column!r} name several classes {again[0]!r}. Every class must have its"
            " own name. Correct the metadata, or pass another column as --label_column."
        )
    values = [_NO_LABEL if value is None else value for value in table.column(column).to_pylist()]
    reason = f"its label {{}} has no name: the metadata of the table has {len(known):,} names"
    unnamed = {row: reason.format(value) for row, value in enumerate(values) if not _NO_LABEL <= value < len(known)}
    return ["" if value == _NO_LABEL or row in unnamed else known[value] for row, value in enumerate(values)], unnamed
