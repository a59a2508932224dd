"""Tables that name images: CSV or Parquet files with a path, a label, and perhaps split and group of each."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfrecord_tools import pixel_csv
from tfrecord_tools.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_ENDINGS = (".csv", ".parquet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The rows of a manifest, in the order of the paths' parts.

    Attributes:
        paths: Relative to the images' source, with `/`; distinct.
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


def read(path: str, columns: Mapping[str, str]) -> Manifest:
    """Reads a manifest.

    Args:
        path: The file.
        columns: The names of the columns path, label, split, group; the last two need not be there.

    Raises:
        UserError: It cannot be read, lacks a column or a value, or names a path twice.
    """
    table = _table(path)
    for name in ("path", "label"):
        if columns[name] not in table.column_names:
            raise UserError(
                f"{path}: no column {columns[name]!r}; there is {', '.join(table.column_names)}."
                f" Name it with --{name}_column."
            )
    if not len(table):
        raise UserError(f"{path}: it has no rows.")
    values = {name: _texts(table, column) for name, column in columns.items() if column in table.column_names}
    for name in ("path", "label", "split"):
        if name in values and "" in values[name]:
            raise UserError(f"{path}: row {values[name].index('') + 1:,} has no value in the column {columns[name]!r}.")
    paths = [os.path.normpath(p) for p in values["path"]]
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
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as a table of images and labels: {error}") from error


def _texts(table: pa.Table, column: str) -> list[str]:
    values: list[Any] = table.column(column).to_pylist()
    return ["" if value is None else str(value).strip() for value in values]
