"""Tables that name images: CSV or Parquet files with a path, a label, and perhaps split and group of each."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tfrecord_tools.errors import UserError, named
from tfrecord_tools.layout.split_names import split_named
from tfrecord_tools.sources import manifest_labels, parquet_images, pixel_csv, tables
from tfrecord_tools.sources.folder_names import IMAGE_ENDINGS, has_image_ending

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("path", "label", "split", "group")
_NEEDED = ("path", "label")
# Usual names of columns, as `tables.normal` has them.
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
_PICTURES = "A CSV of pixels is not a manifest: pass it as --src."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The rows of a manifest that have a label, in the order of the paths' parts.

    Attributes:
        paths: Relative to the images' source, with `/`; distinct. Absolute only where they lie outside of it.
        labels: Class names.
        splits: As written; None without such a column.
        groups: As written; "" in a row without one, None without such a column.
        lines: The number of each row in the table, from 1.
        notes: How the table was understood.
    """

    paths: list[str]
    labels: list[str]
    splits: list[str] | None
    groups: list[str] | None
    lines: list[int]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How a manifest is read.

    Attributes:
        columns: The names of the columns path, label, split, group. The last two need not be there, unless they have
            another name than these.
        also: Use of a column -> another name that the column may have instead.
        label_columns: One column per class, instead of the column of labels.
        classes: Names that are those of classes, whatever they look like.
        encoding: The encoding of a CSV. None: UTF-8, or that of its byte order mark.
        flag: By which the file was given.
        exact: The columns must have these very names, and every row must have a label.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(zip(COLUMNS, COLUMNS)))
    also: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_columns: Sequence[str] = ()
    classes: Collection[str] = ()
    encoding: str | None = None
    flag: str = "manifest"
    exact: bool = False


def is_one(path: str) -> bool:
    """Whether a file's name and first bytes say that it is a manifest."""
    return tables.is_table(path) and not pixel_csv.is_one(path) and not parquet_images.is_one(path)


def read(path: str, root: str, reading: Reading = Reading()) -> Manifest:
    """Read a manifest.

    Args:
        path: The file.
        root: The images' source.
        reading: How it is read.

    Raises:
        UserError: It cannot be read, lacks a column or a value, or names a path twice.
    """
    if not os.path.isfile(path):
        raise UserError(
            f"--{reading.flag}={path}: no such file. A CSV or Parquet file with a path and a label is expected."
        )
    table, delimiter = tables.read(
        path, reading.encoding, {*reading.columns.values(), *reading.also.values(), *reading.label_columns}
    )
    columns, notes = find_columns(path, table, reading)
    if not len(table):
        raise UserError(f"{path}: it has no rows.")
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
            raise UserError(f"{path}: row {values[name].index('') + 1:,} has no value in the column {columns[name]!r}.")
    within = os.path.join(os.path.abspath(root), "")
    # The two slashes in a row of an address are a part of it.
    paths = [p if "://" in p else os.path.normpath(p).removeprefix(within) for p in values["path"]]
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
            both = f"{paths[row]!r} stands in rows {row + 1:,} and {following + 1:,}"
            if labels[row] != labels[following]:
                both += f", with the labels {labels[row]!r} and {labels[following]!r}. {manifest_labels.ONE_LABEL}"
            raise UserError(f"{path}: {both.rstrip('.')}. Keep one.")


# --- Columns ---------------------------------------------------------------------------------------------------------


def find_columns(
    path: str, table: pa.Table, reading: Reading, given: Collection[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """Find the columns of a table; those in `given` need none.

    Returns:
        The use of a column -> its name, and notes on columns that were taken by a usual name.

    Raises:
        UserError: A column that is needed is not there, there are several, or they are named twice.
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
            raise UserError(f"{path}: {count} columns are named {column!r}; there is {_there(table)}.")
        if count:
            columns[name] = column
        elif column != name or reading.exact:
            raise UserError(f"{path}: no column {column!r}; there is {_there(table)}. {_advice(name, reading)}")
        elif (usual := _usual(path, table, name, reading)) is not None:
            columns[name] = usual
            notes.append(f"the column {usual!r} is read as the {name}s (see --{name}_column)")
    return columns, notes


def _usual(path: str, table: pa.Table, name: str, reading: Reading) -> str | None:
    """Return the only column that can be meant; None if none is needed."""
    if name == "split":
        fitting = list(_split_columns(table, reading))
        return fitting[0] if len(fitting) == 1 else None
    if name not in _NEEDED:
        return None
    taken = [column for other, column in reading.columns.items() if other != name and column != other]
    fitting = [c for c in table.column_names if tables.normal(c) in _USUAL[name] and c not in taken]
    if name == "path" and len(fitting) > 1:
        of_files = [column for column in fitting if _holds_images(table, column)]
        fitting = of_files if len(of_files) == 1 else fitting
    if len(fitting) == 1:
        return fitting[0]
    if len(fitting) > 1:
        raise UserError(
            f"{path}: no column {name!r}, but {named([repr(c) for c in fitting])}, which may each hold the {name}s."
            f" {_advice(name, reading)}"
        )
    _check_header(path, table)
    raise UserError(f"{path}: no column {name!r}; there is {_there(table)}. {_remedy(table, name, reading)}")


def _holds_images(table: pa.Table, column: str) -> bool:
    """Whether the values of a column end as names of images do."""
    if table.column_names.count(column) != 1:
        return False
    values = [value for value in tables.texts(table.slice(0, _PROBED_ROWS), column) if value]
    return bool(values) and all(map(has_image_ending, values))


def _check_header(path: str, table: pa.Table) -> None:
    """Refuse a table whose first line is a row."""
    names = table.column_names
    if any(os.path.splitext(name)[1].lower().lstrip(".") in IMAGE_ENDINGS for name in names):
        raise UserError(
            f"{path}: its first line looks like a row, {named([repr(name) for name in names])}. Write a copy that"
            " begins with a line of names, such as path,label."
        )
    if len(names) > 2 and all(name.isdecimal() for name in names):
        raise UserError(
            f"{path}: its first line holds {len(names):,} numbers and no names. If it is a CSV of pixels, write a copy"
            f" that begins with the line label,pixel0,…,pixel{len(names) - 2}."
        )


def _split_columns(table: pa.Table, reading: Reading) -> Iterator[str]:
    """Yield the columns whose values are names of splits, of two or more of them."""
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
    """Say what to do without a column."""
    if name == "label":
        path = next((c for c in table.column_names if tables.normal(c) in _USUAL["path"]), "path")
        columns = manifest_labels.one_hot_columns(table, {*reading.columns.values(), path})
        if len(columns) > 1:
            return manifest_labels.advice(table, columns)
    return _advice(name, reading)


def _advice(name: str, reading: Reading) -> str:
    if reading.exact:
        return f"The columns {' and '.join(reading.columns.values())} are expected."
    advice = f"Name the column of {name}s with --{name}_column."
    return f"{advice} ({_PICTURES})" if name == "path" else advice


def _there(table: pa.Table) -> str:
    return named([repr(name) for name in table.column_names])
