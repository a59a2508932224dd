"""The index of all records: `records.parquet`, one row per record, one row group per shard.

Columns:
    split: string.
    shard: int32, number of the file within the split.
    offset: int64, position of the record's frame in its file, in bytes.
    length: int64, bytes of the serialized example; the frame is 16 bytes longer.
    label: int64. -1: the record is in the shard, but left out of the dataset.
    path: string, relative to the source. If an adopted record has no path: shard@offset.
    group: uint64, hash of the image's group. 0: no group. The automatic split keeps a group together.
    sha256: 32 bytes, hash of the stored image.
    bytes: int64, size of the stored image.
    type: string, type of the stored image: JPEG, PNG or RAW.
    height, width: int32, of the stored image in pixels.
    source_sha256: 32 bytes, hash of the source file.
    source_type: string, type of the source file.
    changes: string, changes to the image, separated by commas: repaired, turned, converted, resized, stripped. Empty if
        the bytes of the source file are stored unchanged.
    findings: string, names of `findings.FINDINGS`, separated by commas.
    lowest, highest: float32, lowest and highest pixel value of an image with more than 8 bits. 0: other images.
    phash: uint64, perceptual hash of the stored image. 0: unknown.
    brightness, contrast, sharpness, flat_share: float32; gray: bool. See `images.appearance`. NaN and null: unknown.

Datasets of earlier versions lack the last six columns. `read` then returns them as unknown.

pyarrow takes 0.2 s to import, so it is imported inside functions: `--help` and `--dry_run` do not need it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FILE_NAME = "records.parquet"
LEFT_OUT = -1  # Label of a record that is not read.
_BLOCK_ROWS = 1 << 18  # Rows that `SplitRows` reads at once.
_TAIL = 1 << 16  # Bytes at the end of the index that are part of its `Version`.
LOOK = ("phash", "brightness", "contrast", "sharpness", "flat_share", "gray")
_REPEATED = ["split", "shard", "label", "group", "type", "height", "width", "source_type", "changes", "findings"]


class Version(NamedTuple):
    """Facts that change when the content of an index changes.

    The end of the index has the positions of the last columns, which depend on the sizes of all columns before them.

    Attributes:
        size: Size of the file in bytes.
        end: CRC-32 of the end of the file.
    """

    size: int
    end: int


def version(path: Path) -> tuple[Version, int]:
    """Return the version of an index, and the time of its last change in nanoseconds.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            file.seek(max(0, status.st_size - _TAIL))
            return Version(status.st_size, zlib.crc32(file.read())), status.st_mtime_ns
    except OSError as error:
        raise damaged(path, error) from error


def write_part(path: Path, columns: Mapping[str, Any]) -> None:
    """Write the rows of one shard atomically. The columns from `findings` to `gray` have defaults."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = len(columns["path"])
    defaults = {"findings": [""] * count, "lowest": np.zeros(count), "highest": np.zeros(count)}
    defaults |= {name: _unknown(name, count) for name in LOOK}
    with files.atomic(path) as file:
        pq.write_table(pa.table({**defaults, **columns}, schema=_schema()), file, use_dictionary=_REPEATED)
    pa.default_memory_pool().release_unused()  # Otherwise, mimalloc keeps 20 to 30 MB.


def place(shard: str, offset: int) -> str:
    """Return the text that replaces the path of a record without a path."""
    return f"{shard}@{offset}"


def join_parts(
    parts: Iterable[Path], path: Path, change: Callable[[int, pa.Table], pa.Table] = lambda number, table: table
) -> None:
    """Join the parts of all shards into the index: one row group per shard.

    Only the rows of one shard are in memory at a time.

    Args:
        parts: Files of the parts, in the order of the shards. An iterator is read as the work proceeds.
        path: File to write.
        change: Function from the number of a part and its rows to the rows that are written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        files.atomic(path) as file,
        pq.ParquetWriter(file, _schema(), compression="zstd", use_dictionary=_REPEATED) as writer,
    ):
        for number, part in enumerate(parts):
            # With `use_threads`, each thread would keep memory of its own.
            table = change(number, _with_look(pq.ParquetFile(part).read(use_threads=False), LOOK))
            writer.write_table(table, row_group_size=max(1, len(table)))
            del table
            pa.default_memory_pool().release_unused()


def read(path: Path, columns: Sequence[str], split: str | None = None) -> pa.Table:
    """Read some columns of the rows of one split (None: of all splits), in the order of the records.

    Raises:
        UserError: The file is missing or damaged.
    """
    import pyarrow.parquet as pq

    with _as_user_error(path):
        wanted = list(columns)
        if not set(LOOK).isdisjoint(columns):
            wanted = _present(pq.read_schema(path).names, columns)
        table = pq.read_table(path, columns=wanted, filters=[("split", "==", split)] if split else None)
        return _with_look(table, columns).select(list(columns))


class SplitRows:
    """The rows of one split, read some row groups at a time, so that only few of them are in memory.

    Attributes:
        path: The index.
        most: Number of rows of the row groups that hold the split. The split has at most this number of rows.
    """

    def __init__(self, path: Path, split: str):
        """Read the footer.

        Raises:
            UserError: The file is missing or damaged.
        """
        import pyarrow.parquet as pq

        self.path, self._split = path, split
        with _as_user_error(path):
            self._file = pq.ParquetFile(path)
            column = self._file.schema_arrow.names.index("split")
            groups = (self._file.metadata.row_group(number) for number in range(self._file.num_row_groups))
            held = [
                (number, group.num_rows, limits == (split, split))
                for number, group in enumerate(groups)
                if group.num_rows
                and ((limits := _limits(group.column(column).statistics)) is None or limits[0] <= split <= limits[1])
            ]
        self._groups = [(number, rows) for number, rows, _ in held]
        # Other tools that write the index again may put rows of several splits into a row group.
        self._unmixed = all(unmixed for _, _, unmixed in held)
        self.most = sum(rows for _, rows in self._groups)

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Read the rows i64[k] of the split, in this order. Only their row groups are read.

        If row groups have rows of other splits, too, all of them are read, because the place of a row is unknown.

        Raises:
            UserError: The file is damaged.
        """
        numbers, counts = np.array(self._groups, np.int64).reshape(-1, 2).T
        read = np.ones(len(counts), bool)
        if self._unmixed:
            groups = np.cumsum(counts).searchsorted(rows, "right")
            read = np.bincount(groups, minlength=len(counts)) > 0
            rows = rows - np.cumsum(np.where(read, 0, counts))[groups]
        table = self._read(numbers[read].tolist(), _present(self._file.schema_arrow.names, columns))
        return _with_look(table, columns).select(list(columns)).take(rows)

    def _read(self, groups: list[int], columns: Sequence[str]) -> pa.Table:
        """Read the rows of the split in some row groups."""
        import pyarrow.compute as pc

        with _as_user_error(self.path):
            table = self._file.read_row_groups(groups, ["split", *columns])
            return table.filter(pc.equal(table.column("split"), self._split))

    def blocks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows in the order of the records, about a quarter of a million rows at a time.

        Raises:
            UserError: The file is damaged.
        """
        block: list[int] = []
        waiting = 0
        for number, rows in [*self._groups, (-1, _BLOCK_ROWS)]:
            if block and waiting + rows > _BLOCK_ROWS:
                yield self._read(block, columns)
                block, waiting = [], 0
            block.append(number)
            waiting += rows


def _limits(statistics: pq.Statistics | None) -> tuple[str, str] | None:
    """Return the first and the last name in a row group, in alphabetical order. None: unknown."""
    return None if statistics is None or not statistics.has_min_max else (statistics.min, statistics.max)


@contextlib.contextmanager
def _as_user_error(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def damaged(path: Path, reason: object) -> UserError:
    """Return the error for an index that cannot be used."""
    return UserError(
        f"{path}: cannot be read ({reason}). The dataset is incomplete or damaged. Copy or convert it again."
    )


def _present(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the columns without those of `LOOK` that the index lacks."""
    return [name for name in columns if name in names or name not in LOOK]


def _with_look(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Add the columns in both `columns` and `LOOK` that the table lacks, with unknown values."""
    import pyarrow as pa

    for name in columns:
        if name in LOOK and name not in table.column_names:
            field = _schema().field(name)
            table = table.append_column(field, pa.table({name: _unknown(name, len(table))}, pa.schema([field]))[name])
    return table


def _unknown(name: str, count: int) -> Any:
    """Return unknown values of a column of `LOOK`.

    The result is a list or a NumPy array, which `pa.table` accepts. To create a `pa.array`, pyarrow would import
    pandas.
    """
    if name == "gray":
        return [None] * count
    return np.zeros(count, np.uint64) if name == "phash" else np.full(count, np.nan, np.float32)


def hashes(table: pa.Table, name: str) -> np.ndarray:
    """Return a column of hashes as u8[n 32]."""
    chunks = table.column(name).chunks  # Python objects would take three times the memory of Arrow's buffers.
    parts = [
        np.frombuffer(c.buffers()[1], np.uint8)[32 * c.offset : 32 * (c.offset + len(c))] for c in chunks if len(c)
    ]
    return np.concatenate([np.zeros(0, np.uint8), *parts]).reshape(-1, 32)


def counts(table: pa.Table) -> pa.Table:
    """Return the number of rows of each label in each split: the columns split, label and count_all."""
    import pyarrow as pa

    # The shards have different dictionaries of names, which pyarrow cannot group.
    columns = {"split": table.column("split").cast(pa.string()), "label": table.column("label")}
    return pa.table(columns).group_by(["split", "label"]).aggregate([([], "count_all")])


def groups(path: Path) -> int:
    """Return the number of row groups, which is the number of shards."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_row_groups)


def columns(path: Path) -> list[str]:
    """Return the names of the columns; datasets of earlier versions have fewer columns."""
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def read_group(path: Path, number: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the rows of shard `number`, all columns or some."""
    import pyarrow.parquet as pq

    status = path.stat()
    footer = _footer(path, status.st_ino, status.st_size, status.st_mtime_ns)
    return pq.ParquetFile(path, metadata=footer).read_row_group(number, columns)


@functools.lru_cache(maxsize=1)
def _footer(path: Path, *version: int) -> pq.FileMetaData:
    """Read the footer only once, because its size grows with the number of shards."""
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
            "phash": pa.uint64(),
            **dict.fromkeys(("brightness", "contrast", "sharpness", "flat_share"), pa.float32()),
            "gray": pa.bool_(),
        }
    )
