"""Parquet files with the images in a column, as Hugging Face hands out datasets.

An image is a struct of `bytes` and `path`, or a binary value. If `bytes` is missing, `path` names a file beside the
table. The table's metadata may hold the names of the classes, by which numbers in the label column are told.
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
_BATCH_ROWS = 16  # Held in memory at once, beside the pages that they come from.
_BUFFER_BYTES = 1 << 20
_PROBED_ENTRIES = 100
_SHARD = re.compile(r"[-_.]?\d+[-_.]of[-_.]\d+$", re.IGNORECASE)  # train-00000-of-00002


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of images.

    Attributes:
        name: The column.
        struct: Whether it holds structs of bytes and path; else bytes alone.
        path: Whether the structs have a path.
    """

    name: str
    struct: bool
    path: bool


@dataclasses.dataclass(frozen=True)
class ParquetImages:
    """Images in the rows of Parquet files of one directory.

    Rows are read fastest in the order of `ROW`: the rows before one in its row group have to be read too, unless the
    one before was just read.
    """

    root: str
    files: tuple[str, ...]
    column: Column

    def read(self, path: str, span: np.void) -> Content:
        """Read the image of a row.

        Raises:
            OSError, ReadError: It cannot be read, or there is none.
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
    """Read an image that a table only names."""
    try:
        return Directory(os.path.dirname(file)).read(name, np.zeros(1, ROW)[0]).data
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ReadError(f"its row has no image, only the path {name!r}, which cannot be read: {reason}") from error


@functools.lru_cache(maxsize=1)
def _cursor(file: str, column: Column, group: int, process: int, thread: int) -> _Cursor:
    return _Cursor(file, column, group)


class _Cursor:
    """The images of one row group, read in batches from the first on."""

    def __init__(self, file: str, column: Column, group: int):
        self._file, self._column, self._group = file, column, group
        self._broken: tuple[int, str] | None = None  # From which row on, and why.
        self._batch: Sequence[Any] = ()
        self._rewind()

    def image(self, row: int) -> tuple[bytes | None, str | None]:
        """Return the bytes and the path of a row; either may be None.

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
            raise ReadError("the Parquet file has no such row any more") from None
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            self._broken = self._start, f"damaged Parquet file: {error}"
            raise ReadError(self._broken[1]) from error


def _batches(file: str, column: Column, group: int) -> Iterator[pa.RecordBatch]:
    """Return the rows of a row group, a few at a time."""
    import pyarrow.parquet as pq

    # Not a generator of ours: one that is not used up would be closed when Python ends, with its modules gone.
    names = [f"{column.name}.bytes", f"{column.name}.path"][: 1 + column.path] if column.struct else [column.name]
    opened = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
    if group >= opened.num_row_groups:
        return iter(())
    return opened.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names, use_threads=False)


# --- Which files ----------------------------------------------------------------------------------------------------


def is_one(path: str) -> bool:
    """Whether this is a Parquet file with images in it, or a directory of such files."""
    return bool(files_of(path))


def files_of(src: str) -> list[str]:
    """Return the Parquet files with images that `src` is or holds; none if it is anything else.

    A directory is one of Parquet files if it has no other directories than those that hold them.

    Raises:
        UserError: They lie in several directories that are not splits.
    """
    if os.path.isfile(src):
        return [src] if src.lower().endswith(_ENDING) and has_images(src) else []
    here, below = _parts_of(src)
    if here:
        return [] if below else [file for file in here if has_images(file)]
    inner: dict[str, list[str]] = {}
    for directory in below:
        if not _begins_with_parquet(directory):
            return files_of(directory) if len(below) == 1 else []
        inner[directory] = _parts_of(directory)[0]
    found = [file for files in inner.values() for file in files if has_images(file)]
    if found and len(inner) > 1 and not all(split_named(os.path.basename(directory)) for directory in inner):
        raise UserError(
            f"--src={src}: Parquet files with images lie in several directories, such as {below[0]} and {below[1]}."
            " Pass the one that is meant as --src."
        )
    return found


def _parts_of(directory: str) -> tuple[list[str], list[str]]:
    """Return the Parquet files and the directories in a directory."""
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
    """Whether there is a Parquet file among the first entries: a directory of images may have a million of them."""
    try:
        with os.scandir(directory) as entries:
            return any(entry.name.lower().endswith(_ENDING) for entry in itertools.islice(entries, _PROBED_ENTRIES))
    except OSError:
        return False


def split_of(file: str) -> str | None:
    """Return the split that the name of a file says, or else that of its directory."""
    stem = _SHARD.sub("", os.path.splitext(os.path.basename(file))[0])
    words = {split_named(word) for word in [stem, *re.split(r"[-_.]", stem)]} - {None}
    return words.pop() if len(words) == 1 else split_named(os.path.basename(os.path.dirname(file)))


# --- Which columns --------------------------------------------------------------------------------------------------


def has_images(file: str) -> bool:
    """Whether a Parquet file has a column of images; False for what cannot be read."""
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
        found = []
        for field in schema:
            column = _as_column(field)
            if column is not None and (column.struct or field.name in described or _begins_as_image(opened, field)):
                found.append(column)
        return found


def _as_column(field: pa.Field) -> Column | None:
    import pyarrow as pa

    if pa.types.is_struct(field.type):
        names = [field.type.field(i).name for i in range(field.type.num_fields)]
        kind = field.type.field(names.index("bytes")).type if "bytes" in names else pa.string()
        if _is_binary(kind) or (pa.types.is_null(kind) and "path" in names):  # Null: only paths in all rows.
            return Column(field.name, True, "path" in names)
    return Column(field.name, False, False) if _is_binary(field.type) else None


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _begins_as_image(opened: Any, field: pa.Field) -> bool:
    """Whether the first value of a binary column begins as images do."""
    for batch in opened.iter_batches(_BATCH_ROWS, columns=[field.name], use_threads=False):
        values = [value for value in batch.column(0).to_pylist() if value]
        if values:
            return values[0].startswith(_SIGNATURES)
    return False


def features(schema: pa.Schema) -> Mapping[str, Mapping[str, Any]]:
    """Return what Hugging Face's metadata says of each column; nothing where there is none."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        described = metadata["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: of for name, of in described.items() if isinstance(of, dict)} if isinstance(described, dict) else {}


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the columns of class numbers, and the names of their classes."""
    return {
        name: [str(label) for label in feature["names"]]
        for name, feature in features(schema).items()
        if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }


def rows_of(file: str, number: int) -> np.ndarray:
    """Return ROW[n], where the rows of a file lie; `number` is the file's own."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
    rows = np.zeros(sum(counts), ROW)
    rows["file"] = number
    rows["group"] = np.repeat(np.arange(len(counts)), counts)
    rows["row"] = np.concatenate([np.arange(count) for count in counts]) if counts else 0
    rows["size"] = os.path.getsize(file) // max(len(rows), 1)  # Nobody knows before it is read.
    return rows
