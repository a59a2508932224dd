"""Measure index, plan and order for simulated datasets that are too large for a disk.

The index is written as `index.join_parts` writes it, with one row group per shard and values that compress as poorly
as real ones. The plan has a million shards. The order is computed at positions that a training reaches after years.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from absl import flags

from benchmarks import common
from benchmarks.plan import simulated
from tfrecord_tools import order
from tfrecord_tools.base import command
from tfrecord_tools.conversion import plan
from tfrecord_tools.convert import ConvertConfig
from tfrecord_tools.layout import index
from tfrecord_tools.layout.schema import FRAME_BYTES

_CLASSES = 1000
_MEAN_BYTES = 110_000  # Mean size of ImageNet's images.
_ROWS_AT_ONCE = 500_000
_SAMPLE = 1_000_000  # Number of positions at which the order is checked.
_POSITION = 10**12
_RECORDS = 10**9
_SHARD_RECORDS = 10_000  # Records in a shard of 1.1 GB.


class Written(NamedTuple):
    """Seconds to write the index, size of the file and of its footer, and peak memory, in bytes."""

    seconds: float
    file_bytes: int
    footer_bytes: int
    peak_bytes: int


class Read(NamedTuple):
    """Seconds to read footer and one row group, seconds for another one, and growth of memory."""

    first_seconds: float
    next_seconds: float
    bytes: int


class Planned(NamedTuple):
    """Number of shards, CPU seconds of the fastest of three runs, and growth of memory in bytes."""

    shards: int
    seconds: float
    bytes: int


def write_index(path: Path, rows: int, shard_rows: int) -> Written:
    """Write the index of `rows` records of one split, in the memory of half a million rows."""
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    with pq.ParquetWriter(path, index._schema(), compression="zstd", use_dictionary=index._REPEATED) as writer:
        for table in _tables(rng, rows, shard_rows):
            writer.write_table(table, row_group_size=shard_rows)
    seconds = time.perf_counter() - start
    return Written(seconds, path.stat().st_size, pq.read_metadata(path).serialized_size, common.peak_bytes())


def _tables(rng: np.random.Generator, rows: int, shard_rows: int) -> Iterator[pa.Table]:
    """Yield the rows of some whole shards at a time."""
    names = pa.array([f"n{label:08d}" for label in range(_CLASSES)])
    shards_at_once = max(1, _ROWS_AT_ONCE // shard_rows)
    for first in range(0, rows, shards_at_once * shard_rows):
        count = min(shards_at_once * shard_rows, rows - first)
        numbers = first + np.arange(count)
        stored = rng.integers(_MEAN_BYTES // 2, _MEAN_BYTES * 3 // 2, count)
        lengths = stored + 80
        ends = np.cumsum(lengths + FRAME_BYTES)
        offsets = ends - (lengths + FRAME_BYTES)
        offsets -= offsets[np.arange(count) // shard_rows * shard_rows]
        labels = rng.integers(0, _CLASSES, count)
        name = names.take(pa.array(labels))
        file = pc.cast(pa.array(rng.permutation(numbers)), pa.string())
        stems = pc.binary_join_element_wise(name, file, "_")
        sha256 = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), count, [None, pa.py_buffer(rng.bytes(32 * count))])
        yield pa.table(
            {
                "split": _constant("train", count),
                "shard": (numbers // shard_rows).astype(np.int32),
                "offset": offsets,
                "length": lengths,
                "label": labels,
                "path": pc.binary_join_element_wise(name, pc.binary_join_element_wise(stems, "JPEG", "."), "/"),
                "group": np.zeros(count, np.uint64),
                "sha256": sha256,
                "bytes": stored,
                "type": _constant("JPEG", count),
                "height": rng.integers(200, 1000, count).astype(np.int32),
                "width": rng.integers(200, 1000, count).astype(np.int32),
                "source_sha256": sha256,  # Equal to sha256, as for all images that are stored unchanged.
                "source_type": _constant("JPEG", count),
                "changes": _constant("", count),
                "findings": _constant("", count),
                "lowest": np.zeros(count, np.float32),
                "highest": np.zeros(count, np.float32),
            },
            schema=index._schema(),
        )


def _constant(value: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


def read_shard(path: Path) -> Read:
    """Read the rows of a shard in the middle of the index, then those of the next shard."""
    before, start = common.peak_bytes(), time.perf_counter()
    file = pq.ParquetFile(path)
    file.read_row_group(file.num_row_groups // 2)
    first = time.perf_counter()
    file.read_row_group(min(file.num_row_groups // 2 + 1, file.num_row_groups - 1))
    return Read(first - start, time.perf_counter() - first, common.peak_bytes() - before)


def plan_shards(images: int, shard_bytes: int | None, shards: int | None) -> Planned:
    """Plan simulated images with a given size or number of shards."""
    config = ConvertConfig(src="simulated", shard_bytes=shard_bytes, shards=shards)
    sources, facts = simulated(images)
    before, seconds = common.peak_bytes(), []
    for _ in range(3):  # Other work on the machine slows even CPU time.
        start = time.process_time()
        result = plan.make_plan(sources, facts, config, "simulated", config.output_settings())
        seconds.append(time.process_time() - start)
        shard_count, grown = len(result.shards), common.peak_bytes() - before
        del result
    return Planned(shard_count, min(seconds), grown)


def ask_order() -> list[str]:
    """Time batches at a late position in the order of a billion records, and check the shuffling."""
    before = common.peak_bytes()
    shuffled = order.Shuffled(_RECORDS, 0)
    step = _POSITION // 32
    start = time.perf_counter()
    shuffled[order.batch_positions(step, 32)]
    first = time.perf_counter() - start
    start = time.perf_counter()
    for later in range(1, 10_001):
        shuffled[order.batch_positions(step + later, 32)]
    following = (time.perf_counter() - start) / 10_000
    start = time.perf_counter()
    for later in range(200):
        shuffled[order.batch_positions(step // 1000 + later, 32_000, (7, 1000))]
    sliced = (time.perf_counter() - start) / 200
    grown = common.peak_bytes() - before
    positions = np.arange(_SAMPLE)
    epoch = _POSITION // _RECORDS
    records, next_records = (order.permute(positions, _RECORDS, 0, np.full(_SAMPLE, e)) for e in (epoch, epoch + 1))
    distances = np.abs(np.diff(records))
    same_shard = (records[1:] // _SHARD_RECORDS == records[:-1] // _SHARD_RECORDS).mean()
    counts = np.bincount(records * 1000 // _RECORDS, minlength=1000)
    chi_square = ((counts - _SAMPLE / 1000) ** 2 / (_SAMPLE / 1000)).sum()
    slices = np.concatenate([order.batch_positions(step + i, 32_000, (7, 1000)) for i in range(100)])
    shards_read = {
        name: len(np.unique(sequence[slices] // _SHARD_RECORDS))
        for name, sequence in (("Shuffled", shuffled), ("Blocks of 256", order.Blocks(_RECORDS, 0, 256)))
    }
    return [
        f"batch of 32 at position {_POSITION:,}: first {first * 1e3:.2f} ms, following {following * 1e6:.0f} us each;"
        f" as one of 1,000 workers {sliced * 1e3:.1f} ms each; the process grew by {grown / 1e6:.1f} MB",
        f"{_SAMPLE:,} positions in a row: {len(np.unique(records)):,} different records; rank correlation with the"
        f" position {_correlation(positions, records):+.4f}, with the next epoch"
        f" {_correlation(records, next_records):+.4f} (by chance {1 / _SAMPLE**0.5:.4f})",
        f"neighbors that are also neighbors on disk: {(distances == 1).mean():.2e} (by chance {2 / _RECORDS:.0e});"
        f" neighbors in the same shard: {same_shard:.2e} (by chance {_SHARD_RECORDS / _RECORDS:.0e});"
        f" chi-square over 1,000 equal parts {chi_square:,.0f} (999 +- 45)",
        "shards that one of 1,000 workers reads for 3,200 records: "
        + ", ".join(f"{count:,} with {name}" for name, count in shards_read.items()),
    ]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's correlation of values without ties."""
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, because a process's peak memory never falls."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def show_index(directory: Path, given: Any) -> None:
    path, rows, shard_rows = directory / index.FILE_NAME, given.rows, given.rows_a_shard
    written: Written = in_new_process(write_index, path, rows, shard_rows)
    shards = -(-rows // shard_rows)
    print(f"index of {rows:,} rows in {shards:,} row groups of {shard_rows:,}")
    print(
        f"  written in {written.seconds:,.1f} s ({written.seconds / rows * 1e6:.2f} us per row):"
        f" {written.file_bytes / 1e9:,.2f} GB, {written.file_bytes / rows:.1f} B per row; footer"
        f" {written.footer_bytes / 1e6:,.1f} MB, {written.footer_bytes / shards:,.0f} B per row group;"
        f" peak memory {written.peak_bytes / 1e6:,.0f} MB"
    )
    read: Read = in_new_process(read_shard, path)
    print(
        f"  rows of one shard: {read.first_seconds * 1e3:,.1f} ms with the footer, {read.next_seconds * 1e3:,.1f} ms"
        f" without; {read.bytes / 1e6:,.1f} MB of memory"
    )


def show_plan(images: int) -> None:
    print(f"plan of {images:,} images")
    for name, settings in (
        ("default number of shards", (None, None)),
        ("two images per shard, by --shard_bytes", (_MEAN_BYTES * 2, None)),
        ("two images per shard, by --shards", (None, images // 2)),
    ):
        planned: Planned = in_new_process(plan_shards, images, *settings)
        cost = f"{planned.seconds:6.1f} s of CPU time, {planned.bytes / 1e6:,.0f} MB more memory"
        print(f"  {name:<38} {planned.shards:>9,} shards: {cost}")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    if "index" in given.parts:
        with tempfile.TemporaryDirectory(dir=given.work) as work:
            show_index(Path(work), given)
    if "plan" in given.parts:
        show_plan(given.images)
    if "order" in given.parts:
        print(f"order of {_RECORDS:,} records")
        for line in in_new_process(ask_order):
            print(f"  {line}")


if __name__ == "__main__":
    flags.DEFINE_list("parts", ["index", "plan", "order"], "Parts to measure: index, plan, order.")
    flags.DEFINE_integer("rows", 10_000_000, "Number of rows of the index. Each row needs about 100 bytes on disk.")
    flags.DEFINE_integer(
        "rows_a_shard",
        _SHARD_RECORDS,
        "Number of records per shard. A row group of the index has the same number of rows.",
    )
    flags.DEFINE_integer(
        "images", 2_000_000, "Number of images in the plan. The plan has one shard for every two images."
    )
    flags.DEFINE_string("work", None, "Directory for temporary files. Default: the temporary directory of the system.")
    command.run(main)
