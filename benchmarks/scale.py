"""What grows with a dataset, simulated at sizes that no disk here holds: the index, the plan, the order.

The index is written as `index.join_parts` writes it, a row group a shard, with contents that compress as badly as real
ones. The plan is of a million shards. The order is asked for positions that a training reaches after years.
"""

from __future__ import annotations

import json
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
from tfrecord_tools.layout import dataset_files, index
from tfrecord_tools.layout.schema import FRAME_BYTES
from tfrecord_tools.records import open_dataset

_CLASSES = 1000
_MEAN_BYTES = 110_000  # Of an image, the mean of ImageNet.
_AT_ONCE = 500_000  # Rows that are made at once.
_SAMPLE = 1_000_000  # Positions that the order is judged by.
_POSITION = 10**12
_RECORDS = 10**9
_SHARD_RECORDS = 10_000  # What a shard of 1.1 GB holds.


class Written(NamedTuple):
    """Seconds to write the index, bytes of the file and of its footer, and what the process has taken at most."""

    seconds: float
    file_bytes: int
    footer_bytes: int
    peak_bytes: int


class Read(NamedTuple):
    """Seconds to the first row group, footer included, and to another one; bytes that the process has grown by."""

    first_seconds: float
    next_seconds: float
    bytes: int


class Planned(NamedTuple):
    """Shards, seconds of the processor, the fastest of three, and what the process has grown by, in bytes."""

    shards: int
    seconds: float
    bytes: int


def write_index(path: Path, rows: int, a_shard: int) -> Written:
    """Writes `records.parquet` of so many records of one split, in memory of half a million."""
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    with pq.ParquetWriter(path, index._schema(), compression="zstd", use_dictionary=index._REPEATED) as writer:
        for table in _tables(rng, rows, a_shard):
            writer.write_table(table, row_group_size=a_shard)
    seconds = time.perf_counter() - start
    return Written(seconds, path.stat().st_size, pq.read_metadata(path).serialized_size, common.peak_bytes())


def _tables(rng: np.random.Generator, rows: int, a_shard: int) -> Iterator[pa.Table]:
    """The rows of whole shards, some at once."""
    names = pa.array([f"n{label:08d}" for label in range(_CLASSES)])
    shards_at_once = max(1, _AT_ONCE // a_shard)
    for first in range(0, rows, shards_at_once * a_shard):
        count = min(shards_at_once * a_shard, rows - first)
        numbers = first + np.arange(count)
        stored = rng.integers(_MEAN_BYTES // 2, _MEAN_BYTES * 3 // 2, count)
        lengths = stored + 80
        ends = np.cumsum(lengths + FRAME_BYTES)
        offsets = ends - (lengths + FRAME_BYTES)
        offsets -= offsets[np.arange(count) // a_shard * a_shard]
        labels = rng.integers(0, _CLASSES, count)
        name = names.take(pa.array(labels))
        file = pc.cast(pa.array(rng.permutation(numbers)), pa.string())
        stems = pc.binary_join_element_wise(name, file, "_")
        sha256 = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), count, [None, pa.py_buffer(rng.bytes(32 * count))])
        yield pa.table(
            {
                "split": _constant("train", count),
                "shard": (numbers // a_shard).astype(np.int32),
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
                "source_sha256": sha256,  # As of every image that is stored as it is.
                "source_type": _constant("JPEG", count),
                "changes": _constant("", count),
            },
            schema=index._schema(),
        )


def _constant(value: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


def read_shard(path: Path) -> Read:
    """Reads the rows of a shard in the middle, and of the next one of the same opened file."""
    before, start = common.peak_bytes(), time.perf_counter()
    file = pq.ParquetFile(path)
    file.read_row_group(file.num_row_groups // 2)
    first = time.perf_counter()
    file.read_row_group(min(file.num_row_groups // 2 + 1, file.num_row_groups - 1))
    return Read(first - start, time.perf_counter() - first, common.peak_bytes() - before)


def open_split(directory: Path, rows: int, a_shard: int) -> tuple[float, int]:
    """Seconds and bytes to open all records of the split as trainings do; the shards are holes of the right length."""
    shards = -(-rows // a_shard)
    file = pq.ParquetFile(directory / index.FILE_NAME)
    for shard in range(shards):
        last = file.read_row_group(shard, ["offset", "length"]).slice(-1 + min(a_shard, rows - shard * a_shard))
        end = last.column("offset")[0].as_py() + last.column("length")[0].as_py() + FRAME_BYTES
        with open(directory / dataset_files.shard_name("simulated", "train", shard, shards), "wb") as shard_file:
            shard_file.truncate(end)
    facts = {
        "digest": "", "name": "simulated", "config": {"format_version": plan.FORMAT_VERSION, "store": "original"},
        "classes": [{"label": i, "name": str(i), "train": 0} for i in range(_CLASSES)],
        "splits": {"train": {"records": rows, "shards": shards}},
    }  # fmt: skip
    (directory / dataset_files.CONVERT_JSON).write_text(json.dumps(facts))
    return apart(_opened, directory)


def _opened(directory: Path) -> tuple[float, int]:
    before, start = common.peak_bytes(), time.perf_counter()
    open_dataset(directory).records("train")
    return time.perf_counter() - start, common.peak_bytes() - before


def plan_shards(images: int, shard_bytes: int | None, shards: int | None) -> Planned:
    """Plans simulated images into shards of so many bytes, or so many shards."""
    config = ConvertConfig(src="simulated", shard_bytes=shard_bytes, shards=shards)
    sources, facts = simulated(images)
    before, seconds = common.peak_bytes(), []
    for _ in range(3):  # It is one thread; what else the machine does slows it all the same.
        start = time.process_time()
        decided = plan.make_plan(sources, facts, config, "simulated", config.output_settings())
        seconds.append(time.process_time() - start)
        shard_count, grown = len(decided.shards), common.peak_bytes() - before
        del decided
    return Planned(shard_count, min(seconds), grown)


def ask_order() -> list[str]:
    """Times batches far out in the order of a billion records, and says how well it is shuffled."""
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
    places = np.arange(_SAMPLE)
    epoch = _POSITION // _RECORDS
    here, there = (order.permute(places, _RECORDS, 0, np.full(_SAMPLE, e)) for e in (epoch, epoch + 1))
    steps = np.abs(np.diff(here))
    same_shard = (here[1:] // _SHARD_RECORDS == here[:-1] // _SHARD_RECORDS).mean()
    filled = np.bincount(here * 1000 // _RECORDS, minlength=1000)
    chi_square = ((filled - _SAMPLE / 1000) ** 2 / (_SAMPLE / 1000)).sum()
    slices = np.concatenate([order.batch_positions(step + i, 32_000, (7, 1000)) for i in range(100)])
    touched = {
        name: len(np.unique(one[slices] // _SHARD_RECORDS))
        for name, one in (("Shuffled", shuffled), ("Blocks of 256", order.Blocks(_RECORDS, 0, 256)))
    }
    return [
        f"batch of 32 at position {_POSITION:,}: first {first * 1e3:.2f} ms, following {following * 1e6:.0f} us each;"
        f" as one of 1,000 workers {sliced * 1e3:.1f} ms each; the process grew by {grown / 1e6:.1f} MB",
        f"of {_SAMPLE:,} positions in a row: {len(np.unique(here)):,} different records; rank correlation with the"
        f" position {_correlation(places, here):+.4f}, with the next epoch {_correlation(here, there):+.4f}"
        f" (of chance {1 / _SAMPLE**0.5:.4f})",
        f"neighbours that are neighbours on disk too: {(steps == 1).mean():.2e} (chance {2 / _RECORDS:.0e});"
        f" of the same shard: {same_shard:.2e} (chance {_SHARD_RECORDS / _RECORDS:.0e});"
        f" chi-square over 1,000 equal parts {chi_square:,.0f} (999 +- 45)",
        "shards that one of 1,000 workers touches for 3,200 records: "
        + ", ".join(f"{count:,} with {name}" for name, count in touched.items()),
    ]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, of values without ties."""
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls in a process of its own, since the peak of memory never falls."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def show_index(directory: Path, given: Any) -> None:
    path, rows, a_shard = directory / index.FILE_NAME, given.rows, given.rows_a_shard
    written: Written = apart(write_index, path, rows, a_shard)
    shards = -(-rows // a_shard)
    print(f"index of {rows:,} rows in {shards:,} row groups of {a_shard:,}")
    print(
        f"  written in {written.seconds:,.1f} s ({written.seconds / rows * 1e6:.2f} us a row):"
        f" {written.file_bytes / 1e9:,.2f} GB, {written.file_bytes / rows:.1f} B a row, of which the footer"
        f" {written.footer_bytes / 1e6:,.1f} MB, {written.footer_bytes / shards:,.0f} B a row group;"
        f" peak {written.peak_bytes / 1e6:,.0f} MB"
    )
    read: Read = apart(read_shard, path)
    print(
        f"  one shard's rows: {read.first_seconds * 1e3:,.1f} ms with the footer, {read.next_seconds * 1e3:,.1f} ms"
        f" without; {read.bytes / 1e6:,.1f} MB"
    )
    if rows <= given.open_rows:
        seconds, grown = open_split(directory, rows, a_shard)
        print(f"  all records of the split opened: {seconds:.2f} s, {grown / 1e6:,.0f} MB, {grown / rows:.0f} B a row")
    else:
        print(f"  all records of the split opened: not tried above --open_rows={given.open_rows:,}")


def show_plan(images: int) -> None:
    print(f"plan of {images:,} images")
    for name, settings in (
        ("as many shards as by default", (None, None)),
        ("two images a shard, by --shard_bytes", (_MEAN_BYTES * 2, None)),
        ("two images a shard, by --shards", (None, images // 2)),
    ):
        found: Planned = apart(plan_shards, images, *settings)
        took = f"{found.seconds:6.1f} s of the processor, {found.bytes / 1e6:,.0f} MB more"
        print(f"  {name:<37} {found.shards:>9,} shards: {took}")


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
        for line in apart(ask_order):
            print(f"  {line}")


if __name__ == "__main__":
    flags.DEFINE_list("parts", ["index", "plan", "order"], "What to measure.")
    flags.DEFINE_integer("rows", 10_000_000, "Rows of the index: 100 bytes of disk each.")
    flags.DEFINE_integer("rows_a_shard", _SHARD_RECORDS, "Rows of a row group: records of a shard.")
    flags.DEFINE_integer("open_rows", 20_000_000, "Most rows that are opened whole: 80 bytes of memory each.")
    flags.DEFINE_integer("images", 2_000_000, "Images of the plan; half as many shards.")
    flags.DEFINE_string("work", None, "Where the index is written for a while; by default the system's place for that.")
    command.run(main)
