"""Random access to the records of a dataset, with numpy alone: any record in any order, checksums proven."""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import CorruptRecord, UndecodableImage, UserError
from tfrecord_tools.layout import dataset_files, index, schema
from tfrecord_tools.layout.dataset_files import partial_of
from tfrecord_tools.layout.schema import Example, Keys

_log = logging.getLogger(__name__)

_HOLD_OUT = 2  # The purpose of this division: the converter made its own by the same hashes.
_MAX_OPEN_FILES = 128  # Of each `Records`; a process may usually open 1,024.
_MAX_CORRUPT = (10, 0.01)  # That many, or that share if it is more, are lost without an end of everything.
_COLUMNS = ("shard", "offset", "length", "label")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A converted directory.

    Attributes:
        directory: Where it lies.
        name: The first part of the shards' names.
        class_names: A label is an index into it.
        splits: Split name -> number of records.
        shards: Split name -> number of shards.
        digest: Hex; equal digests mean equal records in equal order.
        raw_size: Height and width in pixels where images are stored as raw pixels, u8[h w 3]; None: encoded.
        keys: Under which names the examples hold what.
    """

    directory: Path
    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, int]
    shards: Mapping[str, int]
    digest: str
    raw_size: int | None = None
    keys: Keys = schema.OURS

    def records(self, split: str) -> Records:
        """Opens the records of a split; reads its part of the index.

        Raises:
            UserError: There is no such split, or a shard is missing or has another length than written.
        """
        if split not in self.splits:
            raise UserError(f"{self.directory}: no split {split!r}; there is {', '.join(self.splits)}.")
        of = self.shards[split]
        paths = [str(self.directory / dataset_files.shard_name(self.name, split, i, of)) for i in range(of)]
        index_path = self.directory / index.FILE_NAME
        table = index.read(index_path, _COLUMNS, split)
        columns = {name: table.column(name).to_numpy() for name in _COLUMNS}
        rows = np.flatnonzero(columns["label"] != index.LEFT_OUT)
        records = Records(str(index_path), split, paths, columns, rows, self.raw_size, self.keys)
        records.check_shards()
        return records


def read_numbers(path: str, count: int) -> np.ndarray:
    """Reads a list of record numbers: a text file with one a line, or the first column of a Parquet file.

    Args:
        path: The file.
        count: How many records there are; the first is 0.

    Returns:
        i64[k], in the order of the file.

    Raises:
        UserError: It cannot be read, or a number is none of a record, or stands there twice.
    """
    try:
        if path.endswith(".parquet"):
            import pyarrow.parquet as pq

            table = pq.read_table(path)
            values = table.column(0).to_numpy() if table.num_columns else np.zeros(0)
        else:
            values = np.loadtxt(path, ndmin=1, dtype=np.int64)
    except (OSError, ValueError) as error:  # pyarrow's errors are among the latter.
        raise UserError(f"{path}: no list of record numbers, one a line or a column of Parquet: {error}") from error
    if values.dtype.kind not in "iu" or not values.size or values.ndim > 1:
        shape = " x ".join(map(str, values.shape))
        raise UserError(f"{path}: {shape} values of type {values.dtype}; record numbers, one a row, are expected.")
    outside = values[(values < 0) | (values >= count)]
    if len(outside):
        raise UserError(f"{path}: {outside[0]:,} is no record; there are 0 to {count - 1:,}.")
    numbers = values.astype(np.int64)
    if len(np.unique(numbers)) < len(numbers):
        raise UserError(f"{path}: a number stands there twice.")
    return numbers


class Records:
    """The records of a split, or some of them; `len`, `[i]`, picklable, safe to use after fork and in threads.

    It is what PyTorch calls a map-style dataset and Grain a random-access data source. Its columns are numpy's, so that
    forked workers share their memory; that of a list of Python objects would be copied, page by page, as it is read.

    Attributes:
        labels: i64[n].
        corrupt: Record number -> message, of those that `get_or_none` found so far.
        failure: The message with which `get_or_none` gave up, if it did. TensorFlow wraps the error itself beyond
            recognition.
    """

    def __init__(
        self,
        index_path: str,
        split: str,
        shards: Sequence[str],
        columns: Mapping[str, np.ndarray],
        rows: np.ndarray,
        raw_size: int | None = None,
        keys: Keys = schema.OURS,
    ):
        """Use `Dataset.records`.

        Args:
            index_path: The index, from which paths are read when asked for.
            split: The name of the split.
            shards: Paths of its files, by number.
            columns: shard, offset, length, label of *all* records of the split.
            rows: i64[n], which of them these are.
            raw_size: As in `Dataset`.
            keys: Likewise.
        """
        self._index_path = index_path
        self._split = split
        self._shards = list(shards)
        self._all = columns
        self._rows = rows
        self.raw_size = raw_size
        self.keys = keys
        self._shard = columns["shard"][rows]
        self._offset = columns["offset"][rows]
        self._frame_bytes = columns["length"][rows] + schema.FRAME_BYTES
        self.labels = columns["label"][rows].astype(np.int64)
        self.corrupt: dict[int, str] = {}
        self.failure = ""
        self._open_files: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def split(self) -> str:
        """The name of the split that they belong to."""
        return self._split

    @property
    def rows(self) -> np.ndarray:
        """i64[n], their places in that split, in the order of the index."""
        return self._rows

    def __getitem__(self, number: int) -> Example:
        """Return a record; a record that holds no path gets its place in the shards as its path.

        Raises:
            CorruptRecord: Its bytes are not what was written.
        """
        number = range(len(self))[number]
        record = schema.decode_example(self.serialized(number), self.keys)
        if not record["path"]:
            record["path"] = index.place(os.path.basename(self._shards[self._shard[number]]), int(self._offset[number]))
        return record

    def __repr__(self) -> str:
        """The same in every process, and another one for other records: by it, Grain knows its source again."""
        rows = zlib.crc32(self._rows.tobytes())
        return f"Records({self._index_path!r}, {self._split!r}, n={len(self)}, rows={rows:08x})"

    def serialized(self, number: int) -> bytes:
        """Returns the serialized `tf.train.Example` of a record, its checksums proven.

        Raises:
            CorruptRecord: Its bytes are not what was written; names shard, offset and source path.
        """
        shard = self._shard[number]
        reason = "corrupt"
        try:
            data = schema.unframe(self._read(int(shard), int(self._frame_bytes[number]), int(self._offset[number])))
        except OSError as error:  # A bad sector, a file that is gone.
            data, reason = None, f"unreadable ({error.strerror})"
        if data is None:
            raise CorruptRecord(
                f"{self._shards[shard]}: the record at byte {self._offset[number]:,} is {reason}:"
                f" {self.describe(number)}. Copy the shard again from where it is sound, or convert again."
            )
        return data

    def get_or_none(self, number: int, decode: Callable[[bytes], Any] = bytes) -> Any:
        """Like `serialized`, but a corrupt record gives None; it is logged once and kept in `corrupt`.

        Args:
            number: Of the record.
            decode: What is wanted of the serialized example; records where it raises `UndecodableImage`, KeyError or
                ValueError are corrupt too.

        Raises:
            UserError: So many are corrupt that the dataset must be damaged as a whole, or was replaced.
        """
        if number in self.corrupt:
            return None
        try:
            return decode(self.serialized(number))
        except CorruptRecord as error:
            message = str(error)
        except (UndecodableImage, KeyError, ValueError) as error:
            message = f"{self.describe(number)}: cannot be decoded: {error}"
        self.corrupt[number] = message
        _log.warning(message)
        count, share = _MAX_CORRUPT
        if len(self.corrupt) > max(count, share * len(self)):
            self.failure = (
                f"{len(self.corrupt):,} of {len(self):,} records are corrupt, the last one: {self.corrupt[number]}"
                " Was the dataset replaced meanwhile?"
            )
            raise UserError(self.failure)
        return None

    def sound(self, number: int, decode: Callable[[bytes], Any] = bytes) -> Any:
        """Return `get_or_none(number, decode)`: the former name, to be removed in the next release."""
        warnings.warn("Records.sound was renamed: use Records.get_or_none.", DeprecationWarning, stacklevel=2)
        return self.get_or_none(number, decode)

    @property
    def damage(self) -> str:
        """The former name of `failure`, to be removed in the next release."""
        warnings.warn("Records.damage was renamed: use Records.failure.", DeprecationWarning, stacklevel=2)
        return self.failure

    def describe(self, number: int) -> str:
        """Says which record that is, for messages: split, row and source path."""
        row = self._rows[number]
        return f"{self._split} record {row:,}, {self.paths[number]}"

    @property
    def paths(self) -> Sequence[str]:
        """The source path of each record; read from the index at each call."""
        table = index.read(Path(self._index_path), ["path"], self._split)
        paths: list[str] = table.column("path").take(self._rows).to_pylist()
        return paths

    def select(self, numbers: np.ndarray) -> Records:
        """Returns some of these records, i64[k], in the order given; nothing is read."""
        rows = self._rows[numbers]
        return Records(self._index_path, self._split, self._shards, self._all, rows, self.raw_size, self.keys)

    def hold_out(self, fraction: float, seed: int = 0) -> tuple[Records, Records]:
        """Divide the records in two by the converter's rule: the same share of every class, by the hash of the content.

        Args:
            fraction: Share of the second part, in 0..1; at least one image of each class that has two or more.
            seed: Another seed gives another division.

        Returns:
            (rest, held out). Duplicates of an image, and images of one group, are on the same side.
        """
        from tfrecord_tools.layout import splitting  # Here: readers that hold nothing out do not need it.

        table = index.read(Path(self._index_path), ["source_sha256", "group"], self._split)
        sha256 = index.hashes(table, "source_sha256")
        keys = splitting.split_keys(sha256[self._rows], table.column("group").to_numpy()[self._rows])
        held = splitting.choose_splits(keys, self.labels, (fraction, 0.0), seed, purpose=_HOLD_OUT) == 1
        return self.select(np.flatnonzero(~held)), self.select(np.flatnonzero(held))

    def check_shards(self) -> None:
        """Raises UserError if a shard is missing or was cut; one look at the file's length each."""
        ends = self._all["offset"] + self._all["length"] + schema.FRAME_BYTES
        expected = np.zeros(len(self._shards), np.int64)
        np.maximum.at(expected, self._all["shard"], ends)
        for path, size in zip(self._shards, expected):
            actual = os.path.getsize(path) if os.path.exists(path) else None
            if actual is None and os.path.islink(path):
                raise UserError(
                    f"{path} is a link to {os.readlink(path)}, which is not there any more. Bring it back, or adopt the"
                    " records again from where they are now."
                )
            if actual != size:
                state = "is missing" if actual is None else f"has {actual:,} bytes and should have {size:,}"
                raise UserError(f"{path} {state}: the dataset was not copied completely. Copy or convert it again.")

    def _read(self, shard: int, count: int, offset: int) -> bytes:
        """Reads `count` bytes at `offset`.

        Raises:
            OSError: With the shard's name.
        """
        try:
            return self._read_at(shard, count, offset)
        except OSError as error:
            raise files.named(error, self._shards[shard], "read") from error

    def _read_at(self, shard: int, count: int, offset: int) -> bytes:
        """Each process opens its own files, since a fork shares the position."""
        key = (os.getpid(), shard)
        descriptor = self._open_files.get(key)
        if descriptor is not None:
            return files.read_at(descriptor, count, offset)
        descriptor = files.open_descriptor(self._shards[shard])
        shared = len(self._open_files) < _MAX_OPEN_FILES and self._open_files.setdefault(key, descriptor) == descriptor
        try:
            return files.read_at(descriptor, count, offset)
        finally:
            if not shared:  # Too many are open, or another thread was faster.
                os.close(descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open_files": {}}

    def __del__(self) -> None:
        for (process, _), descriptor in getattr(self, "_open_files", {}).items():
            if process == os.getpid():
                os.close(descriptor)


def open_dataset(directory: str | os.PathLike[str]) -> Dataset:
    """Opens a converted directory; reads its `convert.json` only.

    Raises:
        UserError: There is no such directory, it is unfinished, or it is no dataset of this tool.
    """
    if files.is_url(os.fspath(directory)):
        raise UserError(
            f"{directory}: datasets are read from local directories, at random. Copy it here first:"
            f" python -m tfrecord_tools.transfer {directory} DIRECTORY"
        )
    directory = Path(files.expand_user(os.fspath(directory)))
    if not (directory / dataset_files.CONVERT_JSON).exists():
        if partial_of(directory).exists():
            raise UserError(f"{directory}: the conversion is unfinished. Repeat its command to finish it.")
        what = "a file, not a directory" if directory.exists() else "no such directory"
        if directory.is_dir():
            what = "no dataset (it has no convert.json)"
        out = "OUT" if directory.exists() else directory
        raise UserError(
            f"{directory}: {what}. Expected a directory that"
            f" `python -m tfrecord_tools.convert --src=IMAGES --out={out}` wrote."
        )
    try:
        facts = dataset_files.read(directory)
        return Dataset(
            directory=directory,
            name=facts["name"],
            class_names=tuple(c["name"] for c in facts["classes"]),
            splits={name: split["records"] for name, split in facts["splits"].items()},
            shards={name: split["shards"] for name, split in facts["splits"].items()},
            digest=facts["digest"],
            raw_size=facts["config"]["resize"] if facts["config"].get("store") == "raw" else None,
            keys=Keys(**facts.get("keys", {})),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{directory / dataset_files.CONVERT_JSON}: damaged ({error!r}). Copy or convert it again."
        ) from error
