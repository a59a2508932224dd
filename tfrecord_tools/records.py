"""Read any record of a dataset by its number. Checksums are verified, and TensorFlow is not needed.

Docstrings give types and shapes of arrays: "i64[n]" is an int64 array of shape (n,), and "u8[h w 3]" is a uint8 array
of shape (h, w, 3).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import html
import logging
import operator
import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tfrecord_tools.base import files, words
from tfrecord_tools.errors import CorruptRecord, UndecodableImage, UserError, one_line
from tfrecord_tools.layout import dataset_files, index, map_files, schema
from tfrecord_tools.layout.dataset_files import partial_of
from tfrecord_tools.layout.record_map import Frames, JoinedMaps, RecordMap
from tfrecord_tools.layout.schema import Example, Keys
from tfrecord_tools.layout.shard_files import ShardFiles

if TYPE_CHECKING:
    import pyarrow as pa

    from tfrecord_tools.remote.opening import Bucket
    from tfrecord_tools.remote.plans import Plan
    from tfrecord_tools.remote.shards import RemoteShards

_log = logging.getLogger(__name__)

# `hold_out` and the automatic split of `convert` choose images by a hash. This number makes the choices independent.
_HOLD_OUT = 2
_MAX_CORRUPT = (10, 0.01)  # Reading stops when both are exceeded: the number, and the share of all records.
_BLOCK = 1 << 18  # Where all records are visited, the numbers of this many records are in memory at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset directory that `convert` or `adopt` wrote.

    Attributes:
        directory: Path of the directory.
        name: The first part of the names of the shards.
        class_names: Class names; a label is an index into them.
        splits: Split name -> number of records.
        shards: Split name -> number of shards.
        digest: Hexadecimal. Equal digests mean equal records in the same order.
        raw_size: Height and width in pixels of images that are stored as raw pixels, u8[h w 3]. None: images are
            encoded.
        keys: Names of the features that hold image, label and path.
        cache_dir: As in `open_dataset`.
        bucket: Where the shards are. None: in `directory`. If the dataset is in a bucket, `directory` is its directory
            in the cache.
    """

    directory: Path
    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, int]
    shards: Mapping[str, int]
    digest: str
    raw_size: int | None = None
    keys: Keys = schema.OURS
    cache_dir: Path | None = None
    bucket: Bucket | None = None

    @property
    def location(self) -> str:
        """The directory or the URL that was opened, for messages."""
        return str(self.directory) if self.bucket is None else self.bucket.url

    def file(self, name: str) -> Path:
        """Return the path of a file of the dataset on this machine. If it is in a bucket, it is fetched first.

        Raises:
            UserError: The file does not exist in the bucket, or cannot be fetched.
        """
        return self.directory / name if self.bucket is None else self.bucket.fetch(name)

    def __fspath__(self) -> str:
        """Return the directory or the URL. So functions that take the path of a dataset also take a `Dataset`."""
        return self.location

    def _repr_html_(self) -> str:
        """Show the report card in a notebook: the class table, samples and notes."""
        from tfrecord_tools.base import html_frame  # Imported here, because most readers do not need it.

        counts = ", ".join(f"{words.number(count, 'record')} in {split}" for split, count in self.splits.items())
        title = f"{self.location}: {words.number(len(self.class_names), 'class', 'classes')}, {counts}"
        return html_frame.of_file(self.file(dataset_files.CARD), html.escape(title))

    def records(self, split: str, *others: str) -> Records:
        """Open the records of a split, or of several splits one after the other.

        A split with more than 100,000 records is read from the index (records.parquet) only once. A file keeps the
        positions and labels, and all processes map this file into memory (see `open_dataset`).

        Args:
            split: "train", "validation" or "test", if the dataset has that split.
            *others: Further splits.

        Raises:
            UserError: A split does not exist, or a shard is missing or has the wrong length.
        """
        splits = (split, *others)
        for name in splits:
            if name not in self.splits:
                raise UserError(f"{self.location}: split {name!r} does not exist. Splits: {', '.join(self.splits)}.")
        version, _ = index.version(self.directory / index.FILE_NAME)  # Before the index is read.
        maps = [self._map(name) for name in splits]
        joined = maps[0] if len(maps) == 1 else JoinedMaps(maps)
        shards = self._shards(splits, maps)
        path = self.directory / index.FILE_NAME
        records = Records(str(path), splits, shards, joined, version, raw_size=self.raw_size, keys=self.keys)
        records.check_shards(lengths=not joined.checked_recently)
        return records

    def _shards(self, splits: Sequence[str], maps: Sequence[RecordMap]) -> ShardFiles | RemoteShards:
        names = {split: self._shard_names(split) for split in splits}
        if self.bucket is not None:
            return self.bucket.shards(names, dict(zip(splits, maps)))
        return ShardFiles([str(self.directory / name) for split in splits for name in names[split]])

    def _shard_names(self, split: str) -> list[str]:
        total = self.shards[split]
        return [dataset_files.shard_name(self.name, split, i, total) for i in range(total)]

    def _map(self, split: str) -> RecordMap:
        path = self.directory / index.FILE_NAME
        source = map_files.Source(path, split, self.shards[split], self.digest, self.cache_dir)
        return map_files.open_map(source, self.splits[split])


class Sequenced(Protocol):
    """Record numbers by position, and the next position of each; `order.Order` is one."""

    def __getitem__(self, positions: np.ndarray) -> np.ndarray: ...

    def next_use(self, numbers: np.ndarray, position: int) -> np.ndarray: ...


def _not_integers(what: str) -> str:
    return f"record numbers must be integers, not {what}; for several records, call select"


def _outside(number: int, count: int) -> str:
    return f"record {number:,} does not exist: there are {words.number(count, 'record')}"


def read_numbers(path: str, count: int) -> np.ndarray:
    """Read a list of record numbers from a text file or from the first column of a Parquet file.

    Args:
        path: The file. A text file has one number per line.
        count: Number of records; valid numbers are 0 to count - 1.

    Returns:
        i64[k], in the order of the file.

    Raises:
        UserError: The file cannot be read, or a number is out of range or occurs twice.
    """
    try:
        if path.endswith(".parquet"):
            import pyarrow.parquet as pq

            table = pq.read_table(path)
            values = table.column(0).to_numpy() if table.num_columns else np.zeros(0)
        else:
            values = np.loadtxt(path, ndmin=1, dtype=np.int64)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors.
        raise UserError(
            f"{path}: not a list of record numbers: {one_line(error)}. The file must be a text file with one number per"
            " line, or a Parquet file with the numbers in its first column."
        ) from error
    if values.dtype.kind not in "iu" or not values.size or values.ndim > 1:
        shape = " x ".join(map(str, values.shape))
        raise UserError(
            f"{path}: has {shape} values of type {values.dtype}. The file must have record numbers (whole numbers),"
            " one per row."
        )
    outside = values[(values < 0) | (values >= count)]
    if len(outside):
        raise UserError(f"{path}: record {outside[0]:,} does not exist. Record numbers must be 0 to {count - 1:,}.")
    numbers = values.astype(np.int64)
    if len(np.unique(numbers)) < len(numbers):
        raise UserError(f"{path}: a record number occurs twice. Each number may occur only once.")
    return numbers


class Records:
    """The records of one or several splits, or a selection of them, with `len(records)` and `records[i]`.

    It works directly as a map-style dataset of PyTorch and as a random-access data source of Grain. It can be pickled,
    and used after a fork and in several threads. All processes use the same copy of the positions and labels in memory:
    numpy arrays, or a file if there are many records. With Python lists, each worker would get its own copy: reading an
    item changes the item's reference count, and the system copies all memory that changes.

    Attributes:
        corrupt: Record number -> message, for the corrupt records that `get_or_none` has met so far.
        failure: The message of the UserError that `get_or_none` raised, else "". It is kept here because
            TensorFlow hides an error that is raised inside `tf.data`.

    Example:
        records = open_dataset("out").records("train")
        image, label = records[0]["image"], records[0]["label"]
    """

    def __init__(
        self,
        index_path: str,
        splits: Sequence[str],
        shards: ShardFiles | RemoteShards,
        records: RecordMap | JoinedMaps,
        version: index.Version,
        chosen: np.ndarray | None = None,
        raw_size: int | None = None,
        keys: Keys = schema.OURS,
    ):
        """Use `Dataset.records` instead of this constructor.

        Args:
            index_path: Path of the index. Source paths are read from it when they are needed.
            splits: Names of the splits.
            shards: The shards, one split after the other.
            records: Positions and labels of *all* records of the splits, one split after the other.
            version: Version of the index that the positions were read from.
            chosen: i64[n], the numbers of the records that belong to this object. None: all records.
            raw_size: As in `Dataset`.
            keys: As in `Dataset`.
        """
        self._index_path = index_path
        self._splits = tuple(splits)
        self._shards = shards
        self._map = records
        self._version = version
        self._chosen = chosen
        self._count = len(records) if chosen is None else len(chosen)
        self._labels: np.ndarray | None = None
        self.raw_size = raw_size
        self.keys = keys
        self.corrupt: dict[int, str] = {}
        self.failure = ""

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_labels": None}

    @property
    def labels(self) -> np.ndarray:
        """i64[n], the label of each record. The array cannot be written."""
        if self._labels is None:
            self._labels = self._map.labels if self._chosen is None else self._map.labels_of(self._chosen)
            self._labels.setflags(write=False)
        return self._labels

    @property
    def split(self) -> str:
        """Name of the split. Several names are joined: train+validation."""
        return "+".join(self._splits)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return self._splits

    @property
    def rows(self) -> np.ndarray:
        """i64[n], the position of each record in its split, in the order of the index.

        If there are several splits, the positions do not start again at 0: the second split continues after the last
        record of the first.
        """
        return self._map.rows_of(self._in_map(slice(None)))

    @property
    def places(self) -> tuple[list[str], np.ndarray]:
        """Two values: the split of each record, and i64[n], the position of each record in its split.

        Positions follow the order of the index."""
        splits, rows = self._map.places(self._in_map(slice(None)))
        return [self._splits[number] for number in splits.tolist()], rows

    def _in_map(self, part: slice) -> np.ndarray:
        """Return the numbers that the map has for a part of the records, i64[k]."""
        return np.arange(*part.indices(len(self))) if self._chosen is None else self._chosen[part]

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield the numbers that the map has for all records, some of them at a time."""
        for start in range(0, len(self), _BLOCK):
            yield self._in_map(slice(start, start + _BLOCK))

    def _frame(self, number: int) -> tuple[int, int, int]:
        """Return the shard of one record, and the size and the offset of its frame."""
        return self._map.frame(number if self._chosen is None else int(self._chosen[number]))

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows of records i64[k]."""
        rows: np.ndarray = self._map.rows_of(numbers if self._chosen is None else self._chosen[numbers])
        return rows

    def _frames(self, numbers: np.ndarray) -> Frames:
        """Return where the frames of records i64[k] are."""
        return self._map.frames(numbers if self._chosen is None else self._chosen[numbers])

    def __getitem__(self, number: int) -> Example:
        """Return a record, with the keys image (bytes), label (int) and path (str).

        If the record holds no path, `path` is the shard's name and the record's byte offset.

        Raises:
            CorruptRecord: The stored bytes are damaged.
        """
        number = self._number(number)
        return self._example(number, self._read(number))

    def __getitems__(self, numbers: Sequence[int] | np.ndarray) -> list[Example]:
        """Return several records, faster than one by one. PyTorch's DataLoader calls this method."""
        numbers = self._numbers(numbers)
        return [self._example(number, data) for number, data in zip(numbers.tolist(), self.serialized_batch(numbers))]

    _getitems = __getitems__  # Grain calls this name.

    def _example(self, number: int, serialized: bytes) -> Example:
        record = schema.decode_example(serialized, self.keys)
        # The label is taken from the index: a decision may have changed it there, and an adopted file still has the old
        # label.
        record["label"] = int(self.labels[number])
        if not record["path"]:
            shard, _, offset = self._frame(number)
            record["path"] = index.place(os.path.basename(self._shards.paths[shard]), offset)
        return record

    def _number(self, number: int) -> int:
        """Return a record number as an int in 0..n-1. A negative number counts from the end, as in a list."""
        try:
            return range(self._count)[operator.index(number)]
        except TypeError:
            raise TypeError(_not_integers(type(number).__name__)) from None
        except IndexError:
            raise IndexError(_outside(number, self._count)) from None

    def _numbers(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return record numbers as i64[k] in 0..n-1. Negative numbers count from the end, as in a list."""
        given, count = np.asarray(numbers), len(self)
        if given.size and given.dtype.kind not in "iu":
            raise TypeError(_not_integers(str(given.dtype)))
        if given.ndim != 1:
            raise TypeError(f"record numbers must be a list of integers, not an array with {given.ndim} dimensions")
        outside = given[(given < -count) | (given >= count)]  # Before the conversion, which large numbers overflow.
        if len(outside):
            raise IndexError(_outside(outside[0], count))
        numbers = given.astype(np.int64)
        return np.where(numbers < 0, numbers + count, numbers)

    def __repr__(self) -> str:
        """Return a text that identifies the records, also in other processes. Grain stores it in checkpoints."""
        rows = _crc(self._map.rows_of(numbers) for numbers in self._blocks())
        return f"Records({self._shown_index!r}, {self.split!r}, n={len(self)}, rows={rows:08x})"

    @property
    def _shown_index(self) -> str:
        """The path of the index, or its URL, which is the same on other machines."""
        return f"{self._location}/{index.FILE_NAME}" if self.remote else self._index_path

    @property
    def _location(self) -> str:
        """The directory or the URL of the dataset."""
        return os.path.dirname(self._index_path if self.remote is None else self.remote.paths[0])

    @functools.cached_property
    def identity(self) -> str:
        """A text that is equal for the same records of the same dataset in the same order.

        The text contains the absolute path of the index. The text is computed only once, so that it stays the same if
        the working directory changes.
        """
        rows = _crc(self._map.rows_of(numbers) for numbers in self._blocks())
        offsets = _crc(self._map.frames(numbers).offsets for numbers in self._blocks())
        path = self._shown_index if self.remote else os.path.realpath(self._index_path)
        return f"{path} {self.split} {len(self)} {rows:08x} {offsets:08x}"

    def serialized(self, number: int) -> bytes:
        """Return the serialized `tf.train.Example` of a record, after its checksums were verified.

        Raises:
            CorruptRecord: The stored bytes are damaged. The message names shard, offset and source path.
            IndexError: The record does not exist.
        """
        return self._read(self._number(number))

    def _read(self, number: int) -> bytes:
        """Return `serialized` of a record. `number` does not count from the end."""
        shard, size, offset = self._map.frame(number if self._chosen is None else int(self._chosen[number]))
        reason = "corrupt"
        try:
            if isinstance(self._shards, ShardFiles):
                framed = self._shards.read(shard, size, offset)
            else:
                framed = self._shards.read(shard, size, offset, int(self._rows(np.array([number]))[0]))
            data = schema.unframe(framed)
        except UserError as error:  # The bucket cannot be read.
            self.failure = str(error)
            raise
        except OSError as error:  # A bad sector, or a deleted file.
            data, reason = None, f"unreadable ({error.strerror})"
        if data is None:
            raise CorruptRecord(
                f"{self._shards.paths[shard]}: the record at byte {offset:,} is {reason}:"
                f" {self.describe(number)}. Copy the shard again from an undamaged copy, or convert again."
            )
        return data

    def serialized_batch(self, numbers: Sequence[int] | np.ndarray) -> list[bytes]:
        """Return `serialized` of several records. Neighbors in a shard are read together, which is faster.

        Args:
            numbers: k record numbers, in any order. A number may occur more than once.

        Raises:
            CorruptRecord: The stored bytes of a record are damaged.
            IndexError: A record does not exist.
        """
        numbers = self._numbers(numbers)
        read: list[bytes | None] = [None] * len(numbers)
        for i, data in self._valid(numbers):
            read[i] = bytes(data)
        return [self.serialized(number) if data is None else data for number, data in zip(numbers.tolist(), read)]

    def get_or_none(self, number: int, decode: Callable[[bytes], Any] = bytes) -> Any:
        """Return `decode(serialized)` of a record, or None if the record is corrupt.

        A corrupt record is logged once and added to `corrupt`.

        Args:
            number: Number of the record.
            decode: Function of the serialized example. If it raises `UndecodableImage`, KeyError or ValueError, the
                record counts as corrupt.

        Raises:
            UserError: More than 10 records and more than 1 % of all records are corrupt.
        """
        return self._decoded(self._number(number), None, lambda serialized: decode(bytes(serialized)))

    def batch_or_none(self, numbers: np.ndarray, decode: Callable[[bytes], Any] = bytes) -> list[Any]:
        """Return `get_or_none` of several records. Neighbors in a shard are read together, which is faster.

        Neighbors of up to 256 kB are read at once, and decoded before the next ones are read.

        Args:
            numbers: i64[k], record numbers, in any order.
            decode: As in `get_or_none`.
        """
        return self.visit(numbers, lambda _, serialized: decode(bytes(serialized)))

    def visit(self, numbers: np.ndarray, use: Callable[[int, memoryview], Any]) -> list[Any]:
        """Return what `batch_or_none` returns, for a function of views. The records are not copied.

        Args:
            numbers: i64[k], record numbers, in any order.
            use: Function of an index in `numbers` and a view of the serialized example. The view is only valid during
                the call. The order of the calls is that of the files.
        """
        numbers = self._numbers(numbers)
        results: list[Any] = [None] * len(numbers)
        unread = set(range(len(numbers)))
        for i, data in self._valid(numbers):
            unread.discard(i)
            results[i] = self._decoded(int(numbers[i]), data, functools.partial(use, i))
        for i in sorted(unread):  # Corrupt, probably. Reading one of them alone tells why.
            results[i] = self._decoded(int(numbers[i]), None, functools.partial(use, i))
        return results

    @property
    def mean_bytes(self) -> int:
        """Mean number of bytes of a record in the splits."""
        return int(self._map.shard_sizes.sum()) // max(1, self._map.rows)

    def read_pixels(
        self, numbers: np.ndarray, pixels: np.ndarray, before: Callable[[], object] = lambda: None
    ) -> np.ndarray:
        """Read raw pixels from the shards straight into an array.

        This is faster than `visit`, but only for records that `convert` wrote, in shards on this machine.

        Args:
            numbers: i64[k], record numbers, in any order.
            pixels: u8[k h w 3], C-contiguous, with the stored height and width. The images are written into it.
            before: Called before each record. It may raise an error to end the reading.

        Returns:
            bool[k], whether each record was read and is valid. The pixels of the others are undefined: `visit` reads
            them, or tells why they are corrupt.

        Raises:
            IndexError: A record does not exist.
            ValueError: `pixels` is not C-contiguous u8, or has another length.
        """
        numbers = self._numbers(numbers)
        if pixels.dtype != np.uint8 or not pixels.flags.c_contiguous or len(pixels) != len(numbers):
            raise ValueError("pixels must be a C-contiguous array of uint8 with an image for each record number")
        if not isinstance(self._shards, ShardFiles) or self.keys != schema.OURS:
            return np.zeros(len(numbers), bool)
        from tfrecord_tools.layout import raw_pixels  # Imported here, because most datasets do not need it.

        valid = raw_pixels.read(self._shards, self._frames(numbers), pixels, before)
        return valid & ~np.isin(numbers, list(self.corrupt)) if self.corrupt else valid

    def _valid(self, numbers: np.ndarray) -> Iterator[tuple[int, memoryview]]:
        """Yield index and `serialized` of records i64[k], in the order of the files.

        A view is only valid until the next one. A record that cannot be read, or has a wrong checksum, is left out.
        """
        self._expect(numbers)
        frames = self._frames(numbers)
        try:
            if isinstance(self._shards, ShardFiles):
                found = self._shards.read_many(*frames)
            else:
                found = self._shards.read_many(*frames, self._rows(numbers))
            for i, framed in found:
                data = schema.content(framed)
                if data is not None:
                    yield i, data
        except UserError as error:  # The bucket cannot be read.
            self.failure = str(error)
            raise

    def _expect(self, numbers: np.ndarray) -> None:
        """Tell a bucket which records are read next. Files on this machine need no hint."""
        if self.remote is not None:
            self.remote.expect(self._rows(numbers))

    @property
    def remote(self) -> RemoteShards | None:
        """The shards in a bucket, with their `traffic`. None: the shards are files on this machine."""
        return None if isinstance(self._shards, ShardFiles) else self._shards

    def plan(self, sequence: Sequenced | None = None) -> Callable[[int], contextlib.AbstractContextManager[None]]:
        """Return a function of a position, for `with` blocks that read the records at this position.

        If the records are in a bucket, those of the next positions are fetched in the background. Otherwise, the
        function does nothing.

        Args:
            sequence: The order in which the records are read, such as `order.Shuffled`. None: each record once, in
                order of the numbers.

        Example:
            order = Shuffled(len(records), seed=0)
            reading = records.plan(order)
            for position in range(0, len(records), 32):
                with reading(position):
                    batch = records.serialized_batch(order[position + np.arange(32)])
        """
        remote = self.remote
        if remote is None:
            return lambda position: contextlib.nullcontext()
        from tfrecord_tools.remote import plans  # Imported here, because local datasets do not need it.

        rows = self._map if self._chosen is None else plans.Chosen(self.rows)
        plan: Plan = plans.Plan(sequence or plans.Once(len(self)), rows)
        return lambda position: remote.following(plan, position)

    def _decoded(self, number: int, serialized: memoryview | None, decode: Callable[[Any], Any]) -> Any:
        """Return the result of `get_or_none`. If `serialized` is None, the record is read."""
        if number in self.corrupt:
            return None
        try:
            return decode(memoryview(self.serialized(number)) if serialized is None else serialized)
        except CorruptRecord as error:
            message = str(error)
        except (UndecodableImage, KeyError, ValueError) as error:
            message = f"{self.describe(number)}: cannot be decoded: {one_line(error, 'all')}."
        self.corrupt[number] = message
        _log.warning(message)
        count, share = _MAX_CORRUPT
        if len(self.corrupt) > max(count, share * len(self)):
            self.failure = (
                f"{len(self.corrupt):,} of {len(self):,} records are corrupt. The last one is {self.corrupt[number]}"
                " Was the dataset replaced while it was read? Run the verify command to see all damage: python -m"
                f" tfrecord_tools.verify {self._location}"
            )
            raise UserError(self.failure)
        return None

    def sound(self, number: int, decode: Callable[[bytes], Any] = bytes) -> Any:
        """Deprecated name of `get_or_none`. It will be removed in the next release."""
        warnings.warn("Records.sound was renamed: use Records.get_or_none.", DeprecationWarning, stacklevel=2)
        return self.get_or_none(number, decode)

    @property
    def damage(self) -> str:
        """Deprecated name of `failure`. It will be removed in the next release."""
        warnings.warn("Records.damage was renamed: use Records.failure.", DeprecationWarning, stacklevel=2)
        return self.failure

    def describe(self, number: int) -> str:
        """Return split, row and source path of a record, for messages."""
        one = self.select(np.array([number]))
        (split,), (row,) = one.places
        try:
            path = one.paths[0]
        except UserError:
            path = f"path unknown, because {self._index_path} is missing or has changed"
        return f"{split} record {row:,}, {path}"

    @property
    def paths(self) -> Sequence[str]:
        """Source path of each record. Each access reads the index."""
        paths: list[str] = self.indexed("path").column("path").to_pylist()
        return paths

    @property
    def sizes(self) -> np.ndarray:
        """i32[n 2], height and width of each stored image in pixels. Each access reads the index."""
        table = self.indexed("height", "width")
        return np.stack([table.column(name).to_numpy() for name in ("height", "width")], 1)

    @property
    def source_sha256(self) -> np.ndarray:
        """u8[n 32], SHA-256 of each source file. Each access reads the index."""
        return index.hashes(self.indexed("source_sha256"), "source_sha256")

    def indexed(self, *columns: str) -> pa.Table:
        """Return columns of the index, one row per record. Each call reads the index.

        Only the shards of these records are read, so that a few records take little time and memory.

        Raises:
            UserError: The index is missing or damaged, or it was replaced since the dataset was opened.
        """
        import pyarrow as pa

        path = Path(self._index_path)
        if index.version(path)[0] != self._version:  # The rows may be those of other records now.
            raise UserError(f"{path}: has changed since the dataset was opened. Open the dataset again.")
        if self._chosen is None and len(self) == self._map.rows:
            return pa.concat_tables([index.read(path, columns, split) for split in self._splits])
        splits, rows = self._map.places(self._in_map(slice(None)))
        own = [rows[splits == number] for number in range(len(self._splits))]
        tables = [index.SplitRows(path, name).take(rows, columns) for name, rows in zip(self._splits, own)]
        if len(tables) == 1:
            return tables[0]
        positions = np.empty(len(rows), np.int64)
        positions[np.argsort(splits, kind="stable")] = np.arange(len(rows))
        return pa.concat_tables(tables).take(positions)

    def select(self, numbers: Sequence[int] | np.ndarray) -> Records:
        """Return some of the records. Nothing is read.

        Args:
            numbers: The numbers of the records, i64[k], in the order of the result. Negative numbers count from the
                end. Or bool[n]: whether a record is in the result.

        Raises:
            TypeError: The numbers are not integers.
            IndexError: There is no record with a number, or the length is not n.
        """
        given = np.asarray(numbers)
        if given.dtype == bool:
            if given.shape != (len(self),):
                shape = " x ".join(map(str, given.shape))
                raise IndexError(f"a mask of {shape} values does not fit {words.number(len(self), 'record')}")
            given = np.flatnonzero(given)
        chosen = self._numbers(given)
        if self._chosen is not None:
            chosen = self._chosen[chosen]
        return Records(
            self._index_path, self._splits, self._shards, self._map, self._version, chosen, self.raw_size, self.keys
        )

    def hold_out(self, fraction: float, seed: int = 0) -> tuple[Records, Records]:
        """Split the records into two parts. All classes are split in the same ratio.

        The hash of the image file decides in which part an image is.

        Args:
            fraction: Size of the second part, as a fraction of all records, in 0..1. Images of one group (see
                `group_regex` of `convert`) stay together, and so do copies of an image. If the fraction is above 0, the
                second part has images of each class, except classes that consist of one image or one group.
            seed: Another seed gives another split.

        Returns:
            (rest, held out)

        Raises:
            UserError: The fraction is not a number from 0 to 1, or the seed is not a whole number.
        """
        from tfrecord_tools.base import checks  # Imported here, because most readers do not need them.
        from tfrecord_tools.layout import splitting

        checks.check_fraction(fraction=fraction)
        checks.check_whole(seed=seed)

        def keys() -> np.ndarray:  # The hashes are freed before the keys are sorted.
            table = self.indexed("source_sha256", "group")
            return splitting.split_keys(index.hashes(table, "source_sha256"), table.column("group").to_numpy())

        held_out = splitting.choose_splits(keys(), self.labels, (fraction, 0.0), seed, purpose=_HOLD_OUT) == 1
        return self.select(np.flatnonzero(~held_out)), self.select(np.flatnonzero(held_out))

    def check_shards(self, lengths: bool = True) -> None:
        """Raise UserError if a shard is missing or has the wrong length. File contents are not read.

        Args:
            lengths: False: only look for missing shards, with one listing of the directory.
        """
        self._shards.check(self._map.shard_sizes, lengths)
        if lengths:
            self._map.note_check()


def _crc(arrays: Iterator[np.ndarray]) -> int:
    """Return the CRC-32 of the bytes of arrays, one after the other."""
    return functools.reduce(lambda crc, array: zlib.crc32(np.ascontiguousarray(array).data, crc), arrays, 0)


def open_dataset(
    directory: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
) -> Dataset:
    """Open a dataset directory, or a dataset in a bucket.

    Only its `convert.json` is read. If it is in a bucket, the index (records.parquet) is fetched to the cache once.

    Args:
        directory: The directory that `convert` or `adopt` wrote, or the URL of a copy, such as s3://bucket/pets.
        cache_dir: Directory for the files that `Dataset.records` makes when it opens a split of more than 100,000
            records for the first time: 16 bytes per record, used by all processes. A local disk is best. None: the
            directory of the dataset or, if it cannot be written, the cache directory of the user. For a URL, copies of
            records are in this directory, too, and None is `~/.cache/tfrecord_tools`.
        cache_bytes: Only for a URL: largest number of bytes of records in `cache_dir`. None: 80 % of the free space.

    Raises:
        UserError: The directory does not exist, is unfinished, or is not a dataset of this tool. Or the bucket cannot
            be read.

    Example:
        records = open_dataset("out").records("train")
    """
    paths = files.paths(directory=directory, cache_dir=cache_dir)
    given, cache = paths["directory"], paths["cache_dir"]
    if cache and files.is_url(cache):
        raise UserError(f"--cache_dir={cache}: must be a directory on this machine.")
    if files.is_url(given):
        from tfrecord_tools.remote.opening import open_bucket  # Imported here, because most readers do not need it.

        bucket = open_bucket(given, cache, cache_bytes)
        return _opened(bucket.directory, None, bucket)
    if cache_bytes is not None:
        raise UserError(
            f"--cache_bytes={cache_bytes}: only datasets in a bucket use it. Remove it, or pass a URL such as"
            f" s3://bucket/pets instead of {directory}."
        )
    _check_is_dataset(Path(given))
    return _opened(Path(given), None if cache is None else Path(cache))


def _check_is_dataset(directory: Path) -> None:
    if not (directory / dataset_files.CONVERT_JSON).exists():
        if partial_of(directory).exists():
            raise UserError(f"{directory}: the conversion is unfinished. Run the same convert command again.")
        problem = "is a file, not a directory" if directory.exists() else "does not exist"
        if directory.is_dir():
            problem = "is not a dataset (it has no convert.json)"
        out = "OUT" if directory.exists() else directory
        raise UserError(
            f"{directory}: {problem}. Pass a directory that was written by"
            f" python -m tfrecord_tools.convert --src=IMAGES --out={out}"
        )


def _opened(directory: Path, cache_dir: Path | None, bucket: Bucket | None = None) -> Dataset:
    """Return the dataset with the convert.json in `directory`."""
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
            cache_dir=cache_dir,
            bucket=bucket,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{directory / dataset_files.CONVERT_JSON}: is damaged ({error!r}). Copy the dataset again, or"
            " convert again."
        ) from error
