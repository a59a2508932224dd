"""Tables that name images: CSV or Parquet files with a path, a label, and perhaps split and group of each."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfrecord_tools import pixel_csv
from tfrecord_tools.errors import UserError, named

if TYPE_CHECKING:
    import pyarrow as pa

_ENDINGS = (".csv", ".parquet")
_NEEDED = ("path", "label")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The rows of a manifest, in the order of the paths' parts.

    Attributes:
        paths: Relative to the images' source, with `/`; distinct. Absolute only where they lie outside of it.
        labels: Class names.
        splits: As written; None without such a column.
        groups: Likewise; "" in a row without one.
    """

    paths: list[str]
    labels: list[str]
    splits: list[str] | None
    groups: list[str] | None


def is_one(path: str) -> bool:
    """Whether a file's name and first bytes say that it is a manifest."""
    return path.lower().endswith(_ENDINGS) and os.path.isfile(path) and not pixel_csv.is_one(path)


def read(path: str, columns: Mapping[str, str], root: str, flag: str = "manifest") -> Manifest:
    """Reads a manifest.

    Args:
        path: The file.
        columns: The names of the columns path, label, split, group; the last two need not be there, unless they are
            named otherwise, which nobody does for nothing.
        root: The images' source.
        flag: By which the file was given.

    Raises:
        UserError: It cannot be read, lacks a column or a value, or names a path twice.
    """
    if not os.path.isfile(path):
        raise UserError(f"--{flag}={path}: no such file. A CSV or Parquet file with a path and a label is expected.")
    table = _table(path)
    for name, column in columns.items():
        count = table.column_names.count(column)
        if count > 1 or (not count and (name in _NEEDED or name != column)):
            wrong = f"{count} columns are named" if count else "no column"
            advice = (
                f" Name the column of {name}s with --{name}_column. (A CSV of pixels, which needs no manifest, begins"
                " with label,1x1,1x2.)"
            )
            there = named([repr(name) for name in table.column_names])
            raise UserError(f"{path}: {wrong} {column!r}; there is {there}.{advice * (flag == 'manifest')}")
    if not len(table):
        raise UserError(f"{path}: it has no rows.")
    values = {name: _texts(table, column) for name, column in columns.items() if column in table.column_names}
    for name in ("path", "label", "split"):
        if name in values and "" in values[name]:
            raise UserError(f"{path}: row {values[name].index('') + 1:,} has no value in the column {columns[name]!r}.")
    within = os.path.join(os.path.abspath(root), "")
    paths = [os.path.normpath(p).removeprefix(within) for p in values["path"]]
    rows = sorted(range(len(paths)), key=lambda row: paths[row].split("/"))
    for row, following in itertools.pairwise(rows):
        if paths[row] == paths[following]:
            raise UserError(f"{path}: {paths[row]!r} stands in rows {row + 1:,} and {following + 1:,}. Keep one.")
    ordered = {name: [column[row] for row in rows] for name, column in values.items()}
    return Manifest(
        paths=[paths[row] for row in rows],
        labels=ordered["label"],
        splits=ordered.get("split"),
        groups=ordered.get("group"),
    )


def _table(path: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    try:
        if path.lower().endswith(".parquet"):
            return pq.read_table(path)
        with pyarrow.csv.open_csv(path) as reader:
            names = reader.schema.names
        # Labels such as 007 are names, not numbers.
        texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        return pyarrow.csv.read_csv(path, convert_options=texts)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read as a table of images and labels: {error}."
            " A CSV in UTF-8, its values separated by commas, or a Parquet file is expected."
        ) from error


def _texts(table: pa.Table, column: str) -> list[str]:
    values: list[Any] = table.column(column).to_pylist()
    return ["" if value is None else str(value).strip() for value in values]
