"""Read manifests: CSV or Parquet files with a path and a label per image."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tfrecord_tools.base import tables
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.layout.split_names import split_named
from tfrecord_tools.sources import any_files, manifest_labels, parquet_images, pixel_csv
from tfrecord_tools.sources.folder_names import IMAGE_ENDINGS, has_image_ending

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("path", "label", "split", "group")
_NEEDED = ("path", "label")
# Usual names of columns, as `tables.normal` returns them.
_USUAL = {
    "path": frozenset(
        {
            "path", "filepath", "imagepath", "imgpath", "imgfilepath", "file", "filename", "fname", "image", "img",
            "imagename", "imgname", "imagefile", "imgfile", "imageid", "imgid", "imageindex", "photo", "picture", "id",
            "idcode", "filenameid",
        }
    ),
    "label": frozenset(
        {
            "label", "labelname", "class", "classe", "classname", "classlabel", "classid", "category", "categorie",
            "categoryname", "categoryid", "target", "breed", "specie", "diagnosis", "diagnose", "dx", "tag", "y",
        }
    ),
}  # fmt: skip
_PROBED_ROWS = 1000
_PIXELS = "A CSV of pixels is not a manifest: pass it as --src."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The rows of a manifest that have a label. Rows are sorted by the parts of their paths.

    Attributes:
        paths: Distinct paths with `/` as separator, relative to the source of the images. Paths outside of the source
            are absolute.
        labels: Class names.
        splits: Splits as written. None: there is no such column.
        groups: Groups as written, "" for a row without a group. None: there is no such column.
        lines: The number of each row in the table, from 1.
        notes: How the table was read, for the user.
    """

    paths: list[str]
    labels: list[str]
    splits: list[str] | None
    groups: list[str] | None
    lines: list[int]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """Settings for reading a manifest.

    Attributes:
        columns: Role (path, label, split or group) -> name of its column. The columns "split" and "group" may be
            missing. If another name is given here for one of these two, a column with this name must exist.
        also: Role -> a second name that its column may have.
        label_columns: Columns of 0 and 1, one per class. Empty: one column contains the labels.
        classes: Known class names. They are used as they are, even if they look like numbers or lists.
        encoding: The encoding of a CSV. None: the one of its byte order mark, or UTF-8 if there is none.
        flag: Name of the flag that gives the path of the file, for messages.
        exact: Require exactly these column names, and a label in every row.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(zip(COLUMNS, COLUMNS)))
    also: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_columns: Sequence[str] = ()
    classes: Collection[str] = ()
    encoding: str | None = None
    flag: str = "manifest"
    exact: bool = False


def is_one(path: str) -> bool:
    """Whether the file is a manifest, by its name and first bytes."""
    return tables.is_table(path) and not pixel_csv.is_one(path) and not parquet_images.is_one(path)


def may_be_label(column: str) -> bool:
    """Whether a column with this name usually contains labels."""
    return tables.normal(column) in _USUAL["label"]


def read(path: str, root: str, reading: Reading = Reading()) -> Manifest:
    """Read a manifest.

    Args:
        path: The file.
        root: The source of the images.
        reading: Columns, encoding and checks.

    Raises:
        UserError: The file cannot be read, a column or a value is missing, or a path occurs twice.
    """
    if not any_files.exists(path):
        raise UserError(
            f"--{reading.flag}={path}: does not exist. Pass a CSV or Parquet file with columns for path and label."
        )
    table, delimiter = tables.read(
        path,
        reading.encoding,
        {*reading.columns.values(), *reading.also.values(), *reading.label_columns},
        "manifest_encoding" if reading.flag == "manifest" else "",
        any_files.open_binary,
    )
    columns, notes = find_columns(path, table, reading)
    if not len(table):
        raise UserError(f"{path}: the table has no rows. Pass a table with one row per image.")
    values = {name: tables.texts(table, column) for name, column in columns.items() if name != "label"}
    if reading.label_columns:
        labels = manifest_labels.one_hot(path, table, reading.label_columns)
    else:
        labels = manifest_labels.read(path, table, columns["label"], delimiter, reading.classes)
        notes += manifest_labels.without(labels, columns["label"])
    if not any(labels) and not reading.exact:
        raise UserError(f"{path}: no row has a value in the column {columns['label']!r}. {_advice('label', reading)}")
    if reading.exact:
        values["label"] = labels
    for name in ("path", "label", "split"):
        if name in values and "" in values[name]:
            raise UserError(
                f"{path}: row {values[name].index('') + 1:,} has no value in the column {columns[name]!r}. Fill in the"
                " value, or delete the row."
            )
    prefix = os.path.join(os.path.abspath(root), "")
    # normpath would remove one of the two slashes of a URL.
    paths = [p if "://" in p else os.path.normpath(p).removeprefix(prefix) for p in values["path"]]
    rows = sorted((row for row, label in enumerate(labels) if label), key=lambda row: paths[row].split("/"))
    _check_distinct(path, paths, labels if not reading.exact else [""] * len(labels), rows)
    ordered = {name: [column[row] for row in rows] for name, column in values.items()}
    return Manifest(
        paths=[paths[row] for row in rows],
        labels=[labels[row] for row in rows],
        splits=ordered.get("split"),
        groups=ordered.get("group"),
        lines=[row + 1 for row in rows],
        notes=tuple(notes),
    )


def _check_distinct(path: str, paths: Sequence[str], labels: Sequence[str], rows: Sequence[int]) -> None:
    for row, following in itertools.pairwise(rows):
        if paths[row] == paths[following]:
            message = f"{path}: rows {row + 1:,} and {following + 1:,} have the same path, {paths[row]!r}"
            if labels[row] != labels[following]:
                message += f", with the labels {labels[row]!r} and {labels[following]!r}. {manifest_labels.ONE_LABEL}"
            raise UserError(f"{message.rstrip('.')}. Keep one of the rows.")


# --- Columns ---------------------------------------------------------------------------------------------------------


def find_columns(
    path: str, table: pa.Table, reading: Reading, given: Collection[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """Find the columns of a table.

    Args:
        path: Path of the table, for messages.
        table: The table.
        reading: The names of the columns.
        given: Roles that need no column.

    Returns:
        Role -> name of its column, and notes on columns that were found by a usual name.

    Raises:
        UserError: A required column is missing, or several columns fit.
    """
    columns, notes = {}, []
    for name, column in reading.columns.items():
        if name in given or (name == "label" and reading.label_columns):
            continue
        other = reading.also.get(name)
        if other is not None and other in table.column_names:
            if column in table.column_names:
                raise UserError(f"{path}: the columns {column!r} and {other!r} both hold {name}s. Remove one of them.")
            column = other
        count = table.column_names.count(column)
        if count > 1:
            raise UserError(
                f"{path}: {count} columns are named {column!r}. Rename all but one. The columns are {_columns(table)}."
            )
        if count:
            columns[name] = column
        elif column != name or reading.exact:
            raise UserError(
                f"{path}: there is no column {column!r}. The columns are {_columns(table)}. {_advice(name, reading)}"
            )
        elif (usual := _usual(path, table, name, reading)) is not None:
            columns[name] = usual
            notes.append(f"the column {usual!r} is read as the {name}s (see --{name}_column)")
    return columns, notes


def _usual(path: str, table: pa.Table, name: str, reading: Reading) -> str | None:
    """Find the column of a role by its usual names or its values.

    Return None if the role is optional and not exactly one column fits.
    """
    if name == "split":
        candidates = list(_split_columns(table, reading))
        return candidates[0] if len(candidates) == 1 else None
    if name not in _NEEDED:
        return None
    used = [column for other, column in reading.columns.items() if other != name and column != other]
    candidates = [c for c in table.column_names if tables.normal(c) in _USUAL[name] and c not in used]
    if name == "path" and len(candidates) > 1:
        of_files = [column for column in candidates if _holds_images(table, column)]
        candidates = of_files if len(of_files) == 1 else candidates
    if len(candidates) == 1:
        return candidates[0]
    if len(candidates) > 1:
        raise UserError(
            f"{path}: there is no column {name!r}. Several columns may contain the {name}s:"
            f" {named([repr(c) for c in candidates])}. {_advice(name, reading)}"
        )
    _check_header(path, table)
    raise UserError(
        f"{path}: there is no column {name!r}. The columns are {_columns(table)}. {_remedy(table, name, reading)}"
    )


def _holds_images(table: pa.Table, column: str) -> bool:
    """Whether the first values of a column have image endings, such as .jpg."""
    if table.column_names.count(column) != 1:
        return False
    values = [value for value in tables.texts(table.slice(0, _PROBED_ROWS), column) if value]
    return bool(values) and all(map(has_image_ending, values))


def _check_header(path: str, table: pa.Table) -> None:
    """Refuse a table without a header."""
    names = table.column_names
    if any(os.path.splitext(name)[1].lower().lstrip(".") in IMAGE_ENDINGS for name in names):
        raise UserError(
            f"{path}: the first line must name the columns, but it looks like a row of data:"
            f" {named([repr(name) for name in names])}. Add a line such as path,label as the first line."
        )
    if len(names) > 2 and all(name.isdecimal() for name in names):
        raise UserError(
            f"{path}: the first line must name the columns, but it has {len(names):,} numbers. If this is a CSV of"
            f" pixels, add this line as the first line: label,pixel0,…,pixel{len(names) - 2}."
        )


def _split_columns(table: pa.Table, reading: Reading) -> Iterator[str]:
    """Yield the columns that contain only names of splits, and at least two splits."""
    for column in dict.fromkeys(table.column_names):
        if table.column_names.count(column) == 1 and column not in reading.columns.values():
            values = table.column(column).slice(0, _PROBED_ROWS)
            if _is_text(values.type) and None not in (splits := _splits_in(values)) and len(splits) > 1:
                yield from [column] if None not in _splits_in(table.column(column)) else []


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _splits_in(values: pa.ChunkedArray) -> set[str | None]:
    distinct = values.unique().to_pylist()
    return {split_named(value.strip()) if value else None for value in distinct}


def _remedy(table: pa.Table, name: str, reading: Reading) -> str:
    """Return what to do about a missing column."""
    if name == "label":
        path = next((c for c in table.column_names if tables.normal(c) in _USUAL["path"]), "path")
        columns = manifest_labels.one_hot_columns(table, {*reading.columns.values(), path})
        if len(columns) > 1:
            return manifest_labels.advice(table, columns)
    return _advice(name, reading)


def _advice(name: str, reading: Reading) -> str:
    if reading.exact:
        return f"The columns {' and '.join(reading.columns.values())} must exist."
    advice = f"Name the column of {name}s with --{name}_column."
    return f"{advice} ({_PIXELS})" if name == "path" else advice


def _columns(table: pa.Table) -> str:
    return named([repr(name) for name in table.column_names])
