"""Measure time and memory to open a simulated index of 10^3, 10^5 and 10^7 rows.

The dataset is opened in one and in several processes. The index has the columns that opening reads, with sizes and
labels as in real datasets. The shards are sparse files of the right length. The order of the first batch is computed.
Reading that batch is not measured, because its time does not depend on the number of records. The files are in the page
cache.

The dataset is also opened as one in a bucket, by a file:// URL, with a cache of 10 GB. The records that a training
needs first are fetched.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import flags

from tfrecord_tools import order
from tfrecord_tools.base import command
from tfrecord_tools.conversion import plan
from tfrecord_tools.layout import dataset_files, index
from tfrecord_tools.layout.schema import FRAME_BYTES
from tfrecord_tools.records import open_dataset

_CLASSES = 1000
_MEAN_BYTES = 110_000
_BLOCK = 1 << 20
_barrier: Barrier | None = None


class Opened(NamedTuple):
    """Seconds to open and to compute the first batch's order, and growth of own memory in bytes."""

    seconds: float
    first_batch: float
    private: int


class Memory(NamedTuple):
    """Memory of a process in bytes: its own, what it has with others, and its own plus its share of that."""

    private: int
    shared: int
    share: int


def simulate(directory: Path, rows: int, shard_rows: int) -> None:
    """Write the index of `rows` records of one split, and shards without content."""
    shards = -(-rows // shard_rows)
    rng, schema = np.random.default_rng(0), index._schema()
    with pq.ParquetWriter(directory / index.FILE_NAME, schema, use_dictionary=index._REPEATED) as writer:
        for shard in range(shards):
            count = min(shard_rows, rows - shard * shard_rows)
            length = rng.integers(_MEAN_BYTES // 2, _MEAN_BYTES * 3 // 2, count)
            ends = np.cumsum(length + FRAME_BYTES)
            columns = {
                "split": "train", "shard": np.full(count, shard, np.int32), "offset": ends - length - FRAME_BYTES,
                "length": length, "label": rng.integers(0, _CLASSES, count),
            }  # fmt: skip
            arrays = [_column(columns.get(field.name), field.type, count) for field in schema]
            writer.write_table(pa.table(arrays, schema=schema), row_group_size=count)
            with open(directory / dataset_files.shard_name("simulated", "train", shard, shards), "wb") as file:
                file.truncate(ends[-1])
    facts = {
        "digest": "", "name": "simulated", "config": {"format_version": plan.FORMAT_VERSION, "store": "original"},
        "classes": [{"label": i, "name": str(i), "train": 0} for i in range(_CLASSES)],
        "splits": {"train": {"records": rows, "shards": shards}},
    }  # fmt: skip
    (directory / dataset_files.CONVERT_JSON).write_text(json.dumps(facts))


def _column(values: Any, kind: pa.DataType, count: int) -> pa.Array:
    """Return a column; a text stands for a constant, and None for unknown values."""
    if values is None:
        return pa.nulls(count, kind)
    if isinstance(values, str):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([values]))
    return pa.array(values, kind)


def measure(directory: Path) -> Opened:
    """Open the dataset in this process, which has done nothing before."""
    before, start = memory().private, time.perf_counter()
    records = open_dataset(directory).records("train")
    opened = time.perf_counter()
    order.Shuffled(len(records), 0)[order.batch_positions(0, 32)]
    return Opened(opened - start, time.perf_counter() - opened, memory().private - before)


def measure_bucket(directory: Path) -> tuple[float, int]:
    """Open the dataset by its URL, and fetch ahead for a second.

    Returns:
        Seconds to open, and growth of the memory in bytes. Pages of files that the process maps do not count, because
        the system can take them back.
    """
    before, start = anonymous(), time.perf_counter()
    cache = directory.parent / f"{directory.name}-cache"
    records = open_dataset(directory.as_uri(), cache_dir=cache, cache_bytes=10_000_000_000).records("train")
    assert records.remote is not None
    with records.plan(order.Shuffled(len(records), 0))(0):
        opened = time.perf_counter()
        time.sleep(1)
    records.remote._run().fetchers[0].present()  # As when records must leave a full cache.
    return opened - start, anonymous() - before


def anonymous() -> int:
    """Return the memory of this process without files, in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def use_all(directory: Path) -> Memory:
    """Open the dataset, use all positions and labels, and return how much memory grew while all do this."""
    assert _barrier is not None
    _barrier.wait()
    before = memory()
    _barrier.wait()
    records = open_dataset(directory).records("train")
    for start in range(0, len(records), _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, len(records)))
        records._frames(numbers).sizes.sum()
    np.bincount(records.labels)
    _barrier.wait()
    after = memory()
    _barrier.wait()
    return Memory(*(now - then for now, then in zip(after, before)))


def memory() -> Memory:
    """Return the memory of this process."""
    fields = dict.fromkeys(("Private_Clean", "Private_Dirty", "Shared_Clean", "Shared_Dirty", "Pss"), 0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        if name in fields:
            fields[name] = int(value.split()[0]) * 1024
    private_clean, private_dirty, shared_clean, shared_dirty, share = fields.values()
    return Memory(private_clean + private_dirty, shared_clean + shared_dirty, share)


def _keep(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def in_new_processes(count: int, function: Callable[[Path], Any], directory: Path) -> list[Any]:
    """Call a function in new processes at the same time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=_keep, initargs=(context.Barrier(count),)) as pool:
        return list(pool.map(function, [directory] * count))


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    for rows in map(int, given.rows):
        with tempfile.TemporaryDirectory(dir=given.work) as work:
            simulate(Path(work), rows, given.rows_a_shard)
            show(Path(work), rows, given.processes)


def show(directory: Path, rows: int, processes: int) -> None:
    print(f"{rows:,} rows in {len(list(directory.glob('*.tfrecord-*'))):,} shards")
    for name in ("first", "second", "third"):
        opened: Opened = in_new_processes(1, measure, directory)[0]
        print(
            f"  opened for the {name} time in {opened.seconds:.3f} s; first batch {opened.first_batch * 1e3:.2f} ms;"
            f" memory of the process alone {opened.private / 1e6:,.1f} MB"
        )
    for name in ("first", "second"):
        seconds, private = in_new_processes(1, measure_bucket, directory)[0]
        print(
            f"  as in a bucket, for the {name} time in {seconds:.3f} s; memory of the process {private / 1e6:,.1f} MB"
        )
    shutil.rmtree(directory.parent / f"{directory.name}-cache")
    maps = sum(path.stat().st_size for path in directory.glob(".records-*.map"))
    print(f"  map: {maps / 1e6:,.1f} MB, {maps / rows:.2f} bytes per row")
    used: list[Memory] = in_new_processes(processes, use_all, directory)
    private, shared, share = (np.array(column) / 1e6 for column in zip(*used))
    print(
        f"  {processes} processes that use all positions and labels: each grew by {private.max():,.1f} MB of its own"
        f" and {shared.max():,.1f} MB that it has with others; together {share.sum():,.1f} MB"
    )


if __name__ == "__main__":
    flags.DEFINE_list("rows", ["1000", "100000", "10000000"], "Row counts of the index. Each count is measured.")
    flags.DEFINE_integer("rows_a_shard", 10_000, "Number of records per shard, and of rows per row group of the index.")
    flags.DEFINE_integer("processes", 4, "Number of processes that open the dataset at the same time.")
    flags.DEFINE_string("work", None, "Directory for temporary files. Default: the temporary directory of the system.")
    command.run(main)
