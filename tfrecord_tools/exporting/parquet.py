"""Write pictures to Parquet files for Hugging Face's `datasets`, with a dataset card and Croissant."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfrecord_tools.base import files
from tfrecord_tools.exporting import croissant, dataset_card, pictures, shard_writer
from tfrecord_tools.exporting.pictures import Counts, Picture
from tfrecord_tools.exporting.shard_writer import ShardFormat, split_of
from tfrecord_tools.records import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

DIRECTORY = "data"
_SHARD_BYTES = 500_000_000  # `datasets` makes files of this size, too.
_GROUP_BYTES = 32 << 20  # Size of the images in a row group. Readers load whole row groups, and so does the writer.
_GROUP_ROWS = 1000
_ROW_BYTES = 512  # More than the other columns take in a row.
_BATCH_ROWS = 64
_BUFFER_BYTES = 1 << 20
_CHUNKED_SINCE = 21  # Version of pyarrow.


class Parquet:
    """Parquet files of one split each in the directory data/, README.md and croissant.json."""

    def __init__(self, data: Dataset, shard_bytes: int | None):
        self._data = data
        self._group = pictures.has_groups(data)
        self._form = ShardFormat(
            open=lambda path: _File(path, data.class_names, self._group),
            name=lambda split, number, count: f"{split}-{number:05d}-of-{count:05d}.parquet",
            shard_bytes=shard_bytes or _SHARD_BYTES,
        )

    @contextlib.contextmanager
    def writer(self, root: Path) -> Iterator[Callable[[Picture], None]]:
        """Yield a function that appends a picture to the current Parquet file below `root`."""
        with shard_writer.writer(root / DIRECTORY, self._form) as write:
            yield write
        columns = {name: feature["_type"] for name, feature in _features(self._data.class_names, self._group).items()}
        for name, text in {
            "README.md": dataset_card.text(self._data, root / DIRECTORY, columns),
            "croissant.json": croissant.text(self._data, root / DIRECTORY, columns),
        }.items():
            with files.atomic(root / name) as file:
                file.write(text.encode())

    def count(self, root: Path) -> Counts:
        """Read the Parquet files, and count their images per split and label."""
        counts = Counts()
        for path in (root / DIRECTORY).iterdir():
            for batch in _batches(path):
                labels = batch.column("label").to_pylist()
                for image, label in zip(batch.column("image").field("bytes"), labels):
                    counts[split_of(path), label] += len(image.as_buffer()) > 0
        return counts

    def notes(self, out: Path) -> Iterator[str]:
        """Yield how `datasets` and `convert` read the files."""
        yield f"to load them: datasets.load_dataset({str(out)!r})"
        yield f"to convert them back: python -m tfrecord_tools.convert {shlex.join([f'--src={out}'])}"


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the images and the labels of a file.

    Row groups are read one by one, since pyarrow would hold the whole file in memory.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, page_checksum_verification=True) as opened:
        for group in range(opened.num_row_groups):
            yield from opened.iter_batches(
                _BATCH_ROWS, row_groups=[group], columns=["image.bytes", "label"], use_threads=False
            )


class _File:
    """A Parquet file. The pictures of one row group are in memory."""

    def __init__(self, path: Path, class_names: tuple[str, ...], group: bool):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = _schema(class_names, group)
        others = [name for name in self._schema.names if name != "image"]
        chunked = {"use_content_defined_chunking": True} if int(pa.__version__.split(".")[0]) >= _CHUNKED_SINCE else {}
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression=dict.fromkeys(["image.path", *others], "snappy") | {"image.bytes": "none"},
            use_dictionary=["label"],
            write_statistics=others,
            write_page_index=True,
            write_page_checksum=True,
            **chunked,
        )
        self._rows: list[Picture] = []
        self._pending = self._written = 0  # Bytes of the images, with the other columns.

    def bytes_with(self, picture: Picture) -> int:
        return self._written + self._pending + len(picture.image) + _ROW_BYTES

    def write(self, picture: Picture) -> None:
        size = len(picture.image) + _ROW_BYTES
        if self._rows and (self._pending + size > _GROUP_BYTES or len(self._rows) == _GROUP_ROWS):
            self._flush()
        self._rows.append(picture)
        self._pending += size

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        rows = [_row(picture) for picture in self._rows]
        self._writer.write_table(pa.Table.from_pylist(rows, self._schema), row_group_size=len(rows))
        self._written += self._pending
        self._rows, self._pending = [], 0


def _row(picture: Picture) -> dict[str, Any]:
    name = picture.path.rpartition("/")[2]
    return {
        "image": {"bytes": picture.image, "path": name},
        "label": picture.label,
        "path": picture.path,
        "group": picture.group or None,
        "source_sha256": picture.source_sha256,
    }


def _features(class_names: tuple[str, ...], group: bool) -> dict[str, dict[str, Any]]:
    """Return column -> its feature, as `datasets` writes them."""
    text = {"dtype": "string", "_type": "Value"}
    return {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
        "path": text,
        **({"group": text} if group else {}),
        "source_sha256": text,
    }


def _schema(class_names: tuple[str, ...], group: bool) -> pa.Schema:
    import pyarrow as pa

    types = {"Image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "ClassLabel": pa.int64()}
    features = _features(class_names, group)
    fields = {name: types.get(feature["_type"], pa.string()) for name, feature in features.items()}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})
