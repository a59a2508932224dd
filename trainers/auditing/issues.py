"""The issues of an audit, and the files that list them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.base import files, tabular
from tfrecord_tools.errors import UserError

KINDS = ("label", "off_topic", "near_duplicate", "ambiguous", "low_quality", "rare")
CSV = "issues.csv"
PARQUET = "issues.parquet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Issue:
    """A doubt about a record.

    Attributes:
        kind: One of `KINDS`.
        rank: Rank within the kind; 1 is the worst.
        score: 0..1, higher is worse. See docs/audit.md for the meaning in each kind.
        record: Row of the record in `scoring.Inputs`.
        proposed: Proposed label, or None.
        twin: Row of the image to compare with, or None.
        reason: Why the record is doubtful, a sentence.
    """

    kind: str
    rank: int
    score: float
    record: int
    proposed: int | None
    twin: int | None
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListedIssue:
    """A row of issues.parquet and issues.csv.

    Attributes:
        kind: One of `KINDS`.
        rank: Rank within the kind; 1 is the worst.
        score: 0..1, higher is worse.
        split: Split of the record.
        record: Position of the record in its split.
        path: Path of the source file.
        sha256: Hash of the source file in hexadecimal. It names the image in decisions.csv.
        given_label: Class name of the record.
        proposed_label: Class name that is proposed; "" if there is none.
        twin: Path of the image to compare with; "" if there is none.
        reason: Why the record is doubtful, a sentence.
    """

    kind: str
    rank: int
    score: float
    split: str
    record: int
    path: str
    sha256: str
    given_label: str
    proposed_label: str
    twin: str
    reason: str


_COLUMNS = tuple(field.name for field in dataclasses.fields(ListedIssue))


def write(directory: Path, rows: Sequence[ListedIssue]) -> None:
    """Write issues.parquet and issues.csv, each completely or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array([getattr(row, name) for row in rows], _type(name)) for name in _COLUMNS})
    with files.atomic(directory / PARQUET) as file:
        pq.write_table(table, file)
    tabular.write_csv(directory / CSV, _COLUMNS, _as_text(rows))


def read(path: Path) -> list[ListedIssue]:
    """Read issues.parquet.

    Raises:
        UserError: The file does not exist, or is not written by an audit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(_COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({error}). Run python -m trainers.audit again.") from error
    if table.column_names != list(_COLUMNS):
        raise UserError(f"{path}: does not have the columns {', '.join(_COLUMNS)}. Run python -m trainers.audit again.")
    return [ListedIssue(**row) for row in table.to_pylist()]


def _as_text(rows: Sequence[ListedIssue]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield dataclasses.asdict(row) | {"score": f"{row.score:.6g}"}


def _type(name: str) -> Any:
    import pyarrow as pa

    return {"rank": pa.int64(), "record": pa.int64(), "score": pa.float64()}.get(name, pa.string())
