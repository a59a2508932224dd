"""Read images from a column of Parquet files, the format of datasets on Hugging Face.

An image is a struct of `bytes` and `path`, or a binary value. If `bytes` is missing, `path` names a file, relative to
the directory of the table. The metadata of the table may contain the class names for the numbers in the label column.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.sources import any_files
from tfrecord_tools.sources.base import MAX_FILE_BYTES, Content, ReadError
from tfrecord_tools.sources.directory import Directory

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW = np.dtype([("file", "<i4"), ("group", "<i4"), ("row", "<i8"), ("size", "<i8")])  # `row` counts within `group`.
USUAL_NAMES = (
    "image",
    "img",
    "picture",
    "photo",
    "images",
    "pixel_values",
    "image_bytes",
    "bytes",
    "jpg",
    "jpeg",
    "png",
)
ENDING = ".parquet"
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_BATCH_ROWS = 16  # Number of rows in memory at once, in addition to their pages.
_BUFFER_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of images.

    Attributes:
        name: Name of the column.
        struct: Whether the values are structs with `bytes` and maybe `path`. If False, they are bytes.
        path: Whether the structs have a `path`.
    """

    name: str
    struct: bool
    path: bool


@dataclasses.dataclass(frozen=True)
class ParquetImages:
    """A store: the images in the rows of Parquet files of one directory.

    Reading is fast if rows are read in their order in the file. To read another row, all rows before it in its row
    group are read, too.
    """

    root: str
    files: tuple[str, ...]
    column: Column

    def read(self, path: str, span: np.void) -> Content:
        """Read the image of a row.

        Raises:
            OSError, ReadError: The row has no image, or it cannot be read.
        """
        file = os.path.join(self.root, self.files[int(span["file"])])
        cursor = _cursor(file, self.column, int(span["group"]), os.getpid(), threading.get_ident())
        data, name = cursor.image(int(span["row"]))
        if data is None:
            if not name:
                raise ReadError("its row has no image")
            data = _beside(file, name)
        return Content(data, int(span["size"]), cursor.mtime_ns)


def _beside(file: str, name: str) -> bytes:
    """Read an image file that a table contains only as a path."""
    try:
        if files.is_url(file):
            return any_files.read_at(f"{file.rpartition('/')[0]}/{name}", MAX_FILE_BYTES + 1, 0)
        return Directory(os.path.dirname(file)).read(name, np.zeros(1, ROW)[0]).data
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ReadError(f"its row has no image, only the path {name!r}, which cannot be read: {reason}") from error


@functools.lru_cache(maxsize=1)
def _cursor(file: str, column: Column, group: int, process: int, thread: int) -> _Cursor:
    return _Cursor(file, column, group)


class _Cursor:
    """Reads the images of one row group, in batches from the first row on."""

    def __init__(self, file: str, column: Column, group: int):
        self._file, self._column, self._group = file, column, group
        self._broken: tuple[int, str] | None = None  # The first unreadable row, and the reason.
        self._batch: Sequence[Any] = ()
        self._rewind()

    def image(self, row: int) -> tuple[bytes | None, str | None]:
        """Return the bytes and the path of a row. Both may be None.

        Raises:
            OSError, ReadError: The file cannot be read.
        """
        if row < self._start or any_files.status(self._file)[1] != self.mtime_ns:
            self._rewind()
        if self._broken is not None and row >= self._broken[0]:
            raise ReadError(self._broken[1])
        while row >= self._start + len(self._batch):
            self._advance()
        value = self._batch[row - self._start].as_py()
        if value is None:
            return None, None
        return (value["bytes"], value.get("path")) if self._column.struct else (value, None)

    def _rewind(self) -> None:
        self._start, self._batch, self._broken = 0, (), None
        self.mtime_ns = any_files.status(self._file)[1]
        self._batches: Iterator[pa.RecordBatch] | None = None

    def _advance(self) -> None:
        import pyarrow as pa

        self._start += len(self._batch)
        self._batch = ()
        try:
            if self._batches is None:
                self._batches = _batches(self._file, self._column, self._group)
            self._batch = next(self._batches).column(0)
        except StopIteration:
            raise ReadError("the row no longer exists in the Parquet file") from None
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            self._broken = self._start, f"damaged Parquet file: {error}"
            raise ReadError(self._broken[1]) from error


def _batches(file: str, column: Column, group: int) -> Iterator[pa.RecordBatch]:
    """Return an iterator over the rows of a row group, in batches."""
    # This is not a generator function: Python would close an unfinished generator at exit, after it unloaded modules.
    names = [f"{column.name}.bytes", f"{column.name}.path"][: 1 + column.path] if column.struct else [column.name]
    opened = opened_file(file, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
    if group >= opened.num_row_groups:
        return iter(())
    return opened.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names, use_threads=False)


def opened_file(file: str, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file at a path or a URL.

    Raises:
        OSError, pyarrow.ArrowException: It is missing or damaged.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(any_files.open_binary(file) if files.is_url(file) else file, **options)


# --- Columns --------------------------------------------------------------------------------------------------


def is_one(path: str) -> bool:
    """Whether `path` is a Parquet file with images."""
    return path.lower().endswith(ENDING) and os.path.isfile(path) and has_images(path)


def has_images(file: str) -> bool:
    """Whether a Parquet file has a column of images. False if it cannot be read."""
    import pyarrow as pa

    try:
        return bool(image_columns(file))
    except (OSError, pa.ArrowException):
        return False


def image_columns(file: str) -> list[Column]:
    """Return the columns of images in a Parquet file."""
    with opened_file(file) as opened:
        schema = opened.schema_arrow
        described = {name for name, feature in features(schema).items() if feature.get("_type") == "Image"}
        columns = []
        for field in schema:
            column = _as_column(field)
            if column is not None and (column.struct or field.name in described or _begins_as_image(opened, field)):
                columns.append(column)
        return columns


def _as_column(field: pa.Field) -> Column | None:
    import pyarrow as pa

    if pa.types.is_struct(field.type):
        names = [field.type.field(i).name for i in range(field.type.num_fields)]
        kind = field.type.field(names.index("bytes")).type if "bytes" in names else pa.string()
        if _is_binary(kind) or (pa.types.is_null(kind) and "path" in names):  # Null: no row has bytes.
            return Column(field.name, True, "path" in names)
    return Column(field.name, False, False) if _is_binary(field.type) else None


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _begins_as_image(opened: Any, field: pa.Field) -> bool:
    """Whether the first value of a binary column begins like an image."""
    for batch in opened.iter_batches(_BATCH_ROWS, columns=[field.name], use_threads=False):
        values = [value for value in batch.column(0).to_pylist() if value]
        if values:
            return values[0].startswith(_SIGNATURES)
    return False


def features(schema: pa.Schema) -> Mapping[str, Mapping[str, Any]]:
    """Return column -> its description in the metadata of Hugging Face. {}: there is none."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        described = metadata["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: of for name, of in described.items() if isinstance(of, dict)} if isinstance(described, dict) else {}


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return name of a column -> its class names, for the columns that contain numbers of classes."""
    return {
        name: [str(label) for label in feature["names"]]
        for name, feature in features(schema).items()
        if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }


def rows_of(file: str, number: int) -> np.ndarray:
    """Return `ROW`[n], the positions of all rows of a file. `number` is the number of the file."""
    with opened_file(file) as opened:
        counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
    rows = np.zeros(sum(counts), ROW)
    rows["file"] = number
    rows["group"] = np.repeat(np.arange(len(counts)), counts)
    rows["row"] = np.concatenate([np.arange(count) for count in counts]) if counts else 0
    rows["size"] = any_files.status(file)[0] // max(len(rows), 1)  # An estimate: the size is only known after reading.
    return rows
