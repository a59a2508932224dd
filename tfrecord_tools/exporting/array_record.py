"""Write pictures to ArrayRecord files, which Grain and TensorFlow Datasets read in any order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.exporting import shard_writer
from tfrecord_tools.exporting.pictures import Counts, Picture, filled_splits
from tfrecord_tools.exporting.shard_writer import ShardFormat
from tfrecord_tools.layout import dataset_files, metadata, schema
from tfrecord_tools.layout.metadata import Description
from tfrecord_tools.records import Dataset

_SHARD_BYTES = 250_000_000
_FORMAT = "array_record"
_OPTIONS = "group_size:1"  # Each record is compressed alone. Otherwise a reader of one record reads its group.
_RECORD_BYTES = 64  # More than a record takes in addition to its image and its path.
_ROWS = 16  # Records that are read again at once.


class ArrayRecord:
    """Files of `tf.train.Example` with the names and the metadata of TensorFlow Datasets."""

    def __init__(self, data: Dataset, shard_bytes: int | None):
        module = _module()
        self._data = data
        self._form = ShardFormat(
            open=lambda path: _File(module.ArrayRecordWriter(str(path), _OPTIONS)),
            name=lambda split, number, count: dataset_files.shard_name(data.name, split, number, count, _FORMAT),
            shard_bytes=shard_bytes or _SHARD_BYTES,
        )

    @contextlib.contextmanager
    def writer(self, root: Path) -> Iterator[Callable[[Picture], None]]:
        """Yield a function that appends a picture to the current file below `root`."""
        with shard_writer.writer(root, self._form) as write:
            yield write
        described = _description(self._data, root)
        for name, text in metadata.tfds_files(described, _FORMAT).items():
            with files.atomic(root / name) as file:
                file.write(text.encode())

    def count(self, root: Path) -> Counts:
        """Read the files, and count their images per split and label."""
        counts = Counts()
        for split in self._data.splits:
            for path in _paths(self._data.name, split, root):
                for example in _examples(path):
                    record = schema.decode_example(example)
                    counts[split, record["label"]] += bool(record["image"])
        return counts

    def notes(self, out: Path) -> Iterator[str]:
        """Yield how TensorFlow Datasets and Grain read the files."""
        split = next(iter(filled_splits(self._data)))
        yield f"to load them: tensorflow_datasets.builder_from_directory({str(out)!r}).as_data_source({split!r})"


class _File:
    def __init__(self, writer: Any):
        self._writer = writer
        self._bytes = 0

    def bytes_with(self, picture: Picture) -> int:
        return self._bytes + len(picture.image) + len(picture.path) + _RECORD_BYTES

    def write(self, picture: Picture) -> None:
        example = schema.encode_example(picture.image, picture.path, picture.label)
        self._writer.write(example)
        self._bytes += len(example) + _RECORD_BYTES

    def close(self) -> None:
        self._writer.close()


def _module() -> Any:
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise UserError(
            f"--to=array_record: a package is missing ({error}): pip install 'tfrecord-tools[array_record]'"
        ) from error
    return array_record_module


def _paths(name: str, split: str, root: Path) -> list[Path]:
    return sorted(root.glob(f"{name}-{split}.{_FORMAT}-*"))


def _examples(path: Path) -> Iterator[bytes]:
    reader = _module().ArrayRecordReader(str(path))
    try:
        count = reader.num_records()
        for start in range(0, count, _ROWS):
            yield from reader.read(start, min(start + _ROWS, count))
    finally:
        reader.close()


def _description(data: Dataset, root: Path) -> Description:
    """Describe the files below `root` as TensorFlow Datasets needs them."""
    lengths = {
        split: [[len(example) for example in _examples(path)] for path in _paths(data.name, split, root)]
        for split in filled_splits(data)
    }
    return Description(
        name=data.name,
        class_names=data.class_names,
        config={},
        digest=data.digest,
        counts={},
        shards={split: np.array(list(map(len, shards)), np.int64) for split, shards in lengths.items()},
        split_bytes={split: sum(map(sum, shards)) for split, shards in lengths.items()},
        rejected=[],
    )
