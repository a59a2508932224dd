"""Tables as CSV files and as text with aligned columns."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.base import files


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically, row by row, so that the rows need not fit into memory.

    Args:
        path: File to write.
        columns: Names of the columns. If empty, the file is empty.
        rows: Rows, each a mapping from column to value.
    """
    with csv_writer(path, columns) as writer:
        writer.writerows(rows)


@contextlib.contextmanager
def csv_writer(path: Path, columns: Sequence[str]) -> Iterator[csv.DictWriter[str]]:
    """Open a CSV file for writing. The file appears only when the block succeeds."""
    with files.atomic(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        if columns:
            writer.writeheader()
        yield writer
        text.detach()  # Flushes the text, but leaves the file open.


def aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> Iterator[str]:
    """Yield rows as lines of text with aligned columns; `left`: the columns aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        yield "  ".join(cells).rstrip()
