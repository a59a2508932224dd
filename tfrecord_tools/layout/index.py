"""The table of where every record lies: `records.parquet`, one row a record, one row group a shard.

Columns:
    split: string. shard: int32, the number of the file within the split.
    offset: int64, where the record's frame starts in its file. length: int64, bytes of the serialized
        example; its frame is 16 bytes longer.
    label: int64; -1: the record is in the shard, but left out of the dataset. path: string, relative to the source; of
        adopted records that hold none: shard@offset.
    group: uint64, the hash of its group; 0: none. Images of one group lie on one side of a split that we made.
    sha256: 32 bytes, of the stored image. bytes: int64, its size. type: string, JPEG, PNG or RAW.
    height, width: int32, of the stored image in pixels.
    source_sha256: 32 bytes, of the source file. source_type: string, what that was. changes: string, what was done to
        it, joined by commas: repaired, turned, converted, resized, stripped; empty where its bytes are stored as they
        were.
    findings: string, what the record lacks of its image, or holds and perhaps should not, joined by commas: names of
        `findings.FINDINGS`. lowest, highest: float32, the levels of an image of more than 8 bits; 0 for others.

pyarrow is imported where it is used: it takes 0.2 s, which `--help` and `--dry_run` need not pay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FILE_NAME = "records.parquet"
LEFT_OUT = -1  # The label of a record that is not to be read.
_REPEATED = ["split", "shard", "label", "group", "type", "height", "width", "source_type", "changes", "findings"]


def write_part(path: Path, columns: Mapping[str, Any]) -> None:
    """Writes the rows of one shard, whole or not at all; records without findings need not have their columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = len(columns["path"])
    nothing = {"findings": [""] * count, "lowest": np.zeros(count), "highest": np.zeros(count)}
    with files.atomic(path) as file:
        pq.write_table(pa.table({**nothing, **columns}, schema=_schema()), file, use_dictionary=_REPEATED)


def place(shard: str, offset: int) -> str:
    """What stands for the path of a record that holds none."""
    return f"{shard}@{offset}"


def join_parts(
    parts: Sequence[Path], path: Path, change: Callable[[int, pa.Table], pa.Table] = lambda number, table: table
) -> None:
    """Writes the whole index of the shards' parts, one row group each: memory stays that of one shard.

    Args:
        parts: In the order of the shards.
        path: The file to write.
        change: Takes the number of a part and its rows, and returns what is written of them.
    """
    import pyarrow.parquet as pq

    with (
        files.atomic(path) as file,
        pq.ParquetWriter(file, _schema(), compression="zstd", use_dictionary=_REPEATED) as writer,
    ):
        for number, part in enumerate(parts):
            table = change(number, pq.ParquetFile(part).read())
            writer.write_table(table, row_group_size=max(1, len(table)))


def read(path: Path, columns: Sequence[str], split: str | None = None) -> pa.Table:
    """Reads some columns of one split's rows, or of all, in the order of the records.

    Raises:
        UserError: It is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=list(columns), filters=[("split", "==", split)] if split else None)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read ({error}): the dataset was not copied completely. Copy or convert it again."
        ) from error


def hashes(table: pa.Table, name: str) -> np.ndarray:
    """A column of hashes as u8[n 32]."""
    chunks = table.column(name).chunks  # Arrow holds them side by side; as Python's objects they take three times that.
    parts = [
        np.frombuffer(c.buffers()[1], np.uint8)[32 * c.offset : 32 * (c.offset + len(c))] for c in chunks if len(c)
    ]
    return np.concatenate([np.zeros(0, np.uint8), *parts]).reshape(-1, 32)


def groups(path: Path) -> int:
    """The number of row groups: of shards."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_row_groups)


def columns(path: Path) -> list[str]:
    """The names of the columns: datasets of earlier versions have fewer."""
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def read_group(path: Path, number: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads the rows of one shard, in the order of the shards; all columns or some."""
    import pyarrow.parquet as pq

    status = path.stat()
    footer = _footer(path, status.st_ino, status.st_size, status.st_mtime_ns)
    return pq.ParquetFile(path, metadata=footer).read_row_group(number, columns)


@functools.lru_cache(maxsize=1)
def _footer(path: Path, *version: int) -> pq.FileMetaData:
    """It grows with the shards: parsed anew for each of them, to go through all would take quadratic time."""
    import pyarrow.parquet as pq

    return pq.read_metadata(path)


def _schema() -> pa.Schema:
    import pyarrow as pa

    name = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        {
            "split": name,
            "shard": pa.int32(),
            "offset": pa.int64(),
            "length": pa.int64(),
            "label": pa.int64(),
            "path": pa.string(),
            "group": pa.uint64(),
            "sha256": pa.binary(32),
            "bytes": pa.int64(),
            "type": name,
            "height": pa.int32(),
            "width": pa.int32(),
            "source_sha256": pa.binary(32),
            "source_type": name,
            "changes": name,
            "findings": name,
            "lowest": pa.float32(),
            "highest": pa.float32(),
        }
    )
