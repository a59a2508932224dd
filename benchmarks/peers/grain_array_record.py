"""Grain over ArrayRecord files. Pillow decodes to a smaller size, in the threads of Grain."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python import array_record_module
from PIL import Image

from benchmarks.peers import peer
from benchmarks.peers.peer import Job, Store

_LABEL = struct.Struct("<q")


def write(folder: Path, raw: bool, out: Path) -> None:
    out.mkdir()
    writer = array_record_module.ArrayRecordWriter(str(out / "data.array_record"), "group_size:1")
    for _, data, label in peer.items(folder, raw):
        writer.write(_LABEL.pack(label) + data)
    writer.close()


def _source(directory: Path) -> grain.sources.ArrayRecordDataSource:
    return grain.sources.ArrayRecordDataSource([str(directory / "data.array_record")])


def by_number(directory: Path) -> tuple[int, Callable[[Sequence[int]], Any]]:
    source = _source(directory)
    return len(source), source.__getitems__


def _decoded(size: int, record: bytes) -> tuple[np.ndarray, int]:
    with Image.open(io.BytesIO(record[_LABEL.size :])) as image:
        image.draft("RGB", (size, size))
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)), _label(record)


def _from_pixels(size: int, side: int, record: bytes) -> tuple[np.ndarray, int]:
    image = Image.frombytes("RGB", (side, side), record[_LABEL.size :])
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)), _label(record)


def _label(record: bytes) -> int:
    label: int = _LABEL.unpack_from(record)[0]
    return label


def _data(directory: Path, raw: bool, job: Job) -> grain.MapDataset[Any]:
    decode = functools.partial(_from_pixels, job.size, job.side) if raw else functools.partial(_decoded, job.size)
    data = grain.MapDataset.source(_source(directory)).seed(0).shuffle().repeat()
    return data.map(decode).batch(job.batch, drop_remainder=True)


def batches(directory: Path, raw: bool, job: Job) -> Iterator[Any]:
    return iter(_data(directory, raw, job).to_iter_dataset(grain.ReadOptions(num_threads=16, prefetch_buffer_size=64)))


def resumed(directory: Path, raw: bool, job: Job) -> Iterator[Any]:
    later = _data(directory, raw, job).slice(slice(job.step, None))
    return iter(later.to_iter_dataset(grain.ReadOptions(num_threads=16, prefetch_buffer_size=64)))


if __name__ == "__main__":
    peer.main(
        Store(write, batches, by_number, resumed=resumed).rows(),
        {"augmented": "has no augmentation of its own", "": "does not train or predict"},
    )
