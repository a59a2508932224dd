"""Read images from a column of Parquet files, the format of datasets on Hugging Face.

An image is a struct of `bytes` and `path`, or a binary value. If `bytes` is missing, `path` names a file, relative to
the directory of the table. The metadata of the table may contain the class names for the numbers in the label column.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.split_names import split_named
from tfrecord_tools.sources.base import Content, ReadError, is_litter
from tfrecord_tools.sources.directory import Directory

if TYPE_CHECKING:
    import pyarrow as pa

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
_ENDING = ".parquet"
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_BATCH_ROWS = 16  # Number of rows in memory at once, in addition to their pages.
_BUFFER_BYTES = 1 << 20
_PROBED_ENTRIES = 100
_SHARD = re.compile(r"[-_.]?\d+[-_.]of[-_.]\d+$", re.IGNORECASE)  # train-00000-of-00002


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
        if row < self._start or os.stat(self._file).st_mtime_ns != self.mtime_ns:
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
        self.mtime_ns = os.stat(self._file).st_mtime_ns
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
    import pyarrow.parquet as pq

    # This is not a generator function: Python would close an unfinished generator at exit, after it unloaded modules.
    names = [f"{column.name}.bytes", f"{column.name}.path"][: 1 + column.path] if column.struct else [column.name]
    opened = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
    if group >= opened.num_row_groups:
        return iter(())
    return opened.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names, use_threads=False)


# --- Files ----------------------------------------------------------------------------------------------------


def is_one(path: str) -> bool:
    """Whether `path` is a Parquet file with images, or a directory of such files."""
    return bool(files_of(path))


def files_of(src: str) -> list[str]:
    """Return the paths of Parquet files with images: `src` itself, or the files in the directory `src`.

    A directory must contain either Parquet files or subdirectories with Parquet files, not both. Otherwise, the result
    is [].

    Raises:
        UserError: The files are in several directories that are not splits.
    """
    if os.path.isfile(src):
        return [src] if src.lower().endswith(_ENDING) and has_images(src) else []
    tables, directories = _entries(src)
    if tables:
        return [] if directories else [file for file in tables if has_images(file)]
    inner: dict[str, list[str]] = {}
    for directory in directories:
        if not _begins_with_parquet(directory):
            return files_of(directory) if len(directories) == 1 else []
        inner[directory] = _entries(directory)[0]
    with_images = [file for files in inner.values() for file in files if has_images(file)]
    if with_images and len(inner) > 1 and not all(split_named(os.path.basename(directory)) for directory in inner):
        raise UserError(
            f"--src={src}: Parquet files with images are in several directories, for example {directories[0]} and"
            f" {directories[1]}. Pass one of them as --src."
        )
    return with_images


def _entries(directory: str) -> tuple[list[str], list[str]]:
    """Return the paths of the Parquet files and of the directories in a directory."""
    files, directories = [], []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if is_litter(entry.name):
                    continue
                if entry.name.lower().endswith(_ENDING):
                    files.append(entry.path)
                elif _is_directory(entry):
                    directories.append(entry.path)
    except OSError:
        return [], []
    return sorted(files), sorted(directories)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself.
        return False


def _begins_with_parquet(directory: str) -> bool:
    """Whether one of the first entries is a Parquet file. The rest may be millions of images."""
    try:
        with os.scandir(directory) as entries:
            return any(entry.name.lower().endswith(_ENDING) for entry in itertools.islice(entries, _PROBED_ENTRIES))
    except OSError:
        return False


def split_of(file: str) -> str | None:
    """Return the split in the name of a file. If it has none, return that of its directory, or None."""
    stem = _SHARD.sub("", os.path.splitext(os.path.basename(file))[0])
    words = {split_named(word) for word in [stem, *re.split(r"[-_.]", stem)]} - {None}
    return words.pop() if len(words) == 1 else split_named(os.path.basename(os.path.dirname(file)))


# --- Columns --------------------------------------------------------------------------------------------------


def has_images(file: str) -> bool:
    """Whether a Parquet file has a column of images. False if it cannot be read."""
    import pyarrow as pa

    try:
        return bool(image_columns(file))
    except (OSError, pa.ArrowException):
        return False


def image_columns(file: str) -> list[Column]:
    """Return the columns of images in a Parquet file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
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
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
    rows = np.zeros(sum(counts), ROW)
    rows["file"] = number
    rows["group"] = np.repeat(np.arange(len(counts)), counts)
    rows["row"] = np.concatenate([np.arange(count) for count in counts]) if counts else 0
    rows["size"] = os.path.getsize(file) // max(len(rows), 1)  # An estimate: the size is only known after reading.
    return rows
