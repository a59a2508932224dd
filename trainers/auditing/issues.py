"""The issues of an audit, and the files that list them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.base import files, tabular
from tfrecord_tools.errors import one_line

KINDS = ("label", "off_topic", "near_duplicate", "ambiguous", "low_quality", "rare")
CSV = "issues.csv"
PARQUET = "issues.parquet"
PAIRS = "near_duplicates.parquet"
ACROSS_LABELS = 0.75  # Minimum score of near-duplicates with different labels.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Issue:
    """An issue of a record: something that a person should look at.

    Attributes:
        kind: One of `KINDS`.
        rank: Rank within the kind; 1 is the worst.
        score: 0..1, higher is worse. See docs/audit.md for the meaning in each kind.
        record: Row of the record in `scoring.Inputs`.
        proposed: Proposed label. None if no label is proposed.
        twin: Row of the record to compare with. None if there is none.
        reason: A sentence about why the record is doubtful.
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
        record: Number of the record in its split, from 0.
        path: Path of the source file.
        sha256: SHA-256 of the source file in hexadecimal. It identifies the image in decisions.csv.
        given_label: Class name of the record.
        proposed_label: Class name that is proposed; "" if there is none.
        twin: Path of the image to compare with; "" if there is none.
        twin_sha256: Hash of the twin's source file in hexadecimal; "" if there is no twin.
        reason: A sentence about why the record is doubtful.
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
    twin_sha256: str
    reason: str


_COLUMNS = tuple(field.name for field in dataclasses.fields(ListedIssue))


def write(directory: Path, rows: Sequence[ListedIssue]) -> None:
    """Write issues.parquet and issues.csv. If this is interrupted, no incomplete file is left."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array([getattr(row, name) for row in rows], _type(name)) for name in _COLUMNS})
    with files.atomic(directory / PARQUET) as file:
        pq.write_table(table, file)
    tabular.write_csv(directory / CSV, _COLUMNS, _as_text(rows))


def write_pairs(directory: Path, left: Sequence[str], right: Sequence[str]) -> None:
    """Write near_duplicates.parquet: the hashes of both source files of each pair, in hexadecimal.

    issues.parquet has only the worst twin of each record. A training needs all pairs, because its validation images may
    be another part of the dataset.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"sha256": pa.array(left, pa.string()), "twin_sha256": pa.array(right, pa.string())})
    with files.atomic(directory / PAIRS) as file:
        pq.write_table(table, file)


def read_pairs(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield both hashes of each pair of near-duplicates.

    An audit of an older version has only the listed pairs.

    Raises:
        ValueError: The file is damaged.
    """
    path = directory / PAIRS
    if path.exists():
        yield from _columns(path, ["sha256", "twin_sha256"])
        return
    for kind, sha256, twin in _columns(directory / PARQUET, ["kind", "sha256", "twin_sha256"]):
        if kind == "near_duplicate":
            yield sha256, twin


def read(path: Path, least: float) -> Iterator[tuple[str, str, str, float]]:
    """Yield kind, sha256, twin_sha256 and score of the issues with a score of at least `least`.

    Raises:
        ValueError: The file does not exist, is damaged, or was not written by an audit.
    """
    yield from _columns(path, ["kind", "sha256", "twin_sha256", "score"], [("score", ">=", least)])


def _columns(path: Path, names: Sequence[str], filters: Any = None) -> Iterator[tuple[Any, ...]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(names), filters=filters)
        columns = [table.column(name).to_pylist() for name in names]
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"{path.name} cannot be read: {one_line(error)}") from error
    yield from zip(*columns)


def _as_text(rows: Sequence[ListedIssue]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield dataclasses.asdict(row) | {"score": f"{row.score:.6g}"}


def _type(name: str) -> Any:
    import pyarrow as pa

    return {"rank": pa.int64(), "record": pa.int64(), "score": pa.float64()}.get(name, pa.string())
