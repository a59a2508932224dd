"""Measure time and memory to open a simulated index of 10^3, 10^5 and 10^7 rows.

The shards are sparse files of the right length. The index is opened and the order of the first batch is computed.
Reading that batch is not measured, because its time does not depend on the number of records.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import flags

from benchmarks import common
from tfrecord_tools import dataset, order
from tfrecord_tools.base import command
from tfrecord_tools.conversion import plan
from tfrecord_tools.layout import dataset_files, index
from tfrecord_tools.layout.schema import FRAME_BYTES

_SHARD_RECORDS = 1_000_000
_LENGTH = 20_000


def simulate(directory: Path, rows: int) -> None:
    """Write the index of `rows` records of equal length, and shards without content."""
    shards = -(-rows // _SHARD_RECORDS)
    counts = [min(_SHARD_RECORDS, rows - shard * _SHARD_RECORDS) for shard in range(shards)]
    schema = index._schema()
    with pq.ParquetWriter(directory / index.FILE_NAME, schema) as writer:
        for shard, count in enumerate(counts):
            numbers = np.arange(count)
            zeros = np.zeros(count, np.int64)
            columns = {
                "split": ["train"] * count, "shard": zeros + shard, "offset": numbers * (_LENGTH + FRAME_BYTES),
                "length": zeros + _LENGTH, "label": numbers % 2, "path": [""] * count, "group": zeros,
                "sha256": [bytes(32)] * count, "bytes": zeros, "type": ["JPEG"] * count, "height": zeros,
                "width": zeros,
                "source_sha256": [bytes(32)] * count, "source_type": ["JPEG"] * count, "changes": [""] * count,
                "findings": [""] * count, "lowest": np.zeros(count), "highest": np.zeros(count),
            }  # fmt: skip
            writer.write_table(pa.table(columns, schema=schema))
            with open(directory / dataset_files.shard_name("simulated", "train", shard, shards), "wb") as file:
                file.truncate(count * (_LENGTH + FRAME_BYTES))
    facts = {
        "digest": "", "name": "simulated", "config": {"format_version": plan.FORMAT_VERSION, "store": "original"},
        "classes": [{"label": i, "name": name, "train": 0} for i, name in enumerate(("cats", "dogs"))],
        "splits": {"train": {"records": rows, "shards": shards}},
    }  # fmt: skip
    (directory / dataset_files.CONVERT_JSON).write_text(json.dumps(facts))


def measure(directory: Path) -> tuple[float, float, int]:
    """Return seconds to open, seconds to compute the first batch's order, and growth of memory in bytes."""
    before = common.peak_bytes()
    start = time.perf_counter()
    records = dataset.open(directory).records("train")
    opened = time.perf_counter()
    order.Shuffled(len(records), 0)[order.batch_positions(0, 32)]
    return opened - start, time.perf_counter() - opened, common.peak_bytes() - before


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    print(f"{'rows':>12} {'open':>10} {'first batch':>14} {'memory':>24}")
    for rows in map(int, flags.FLAGS.rows):
        with (
            tempfile.TemporaryDirectory() as work,
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        ):
            simulate(Path(work), rows)
            opened, first, grown = pool.submit(measure, Path(work)).result()
        memory = f"{grown / 1e6:,.0f} MB, {grown / rows:,.0f} B per row"
        print(f"{rows:>12,} {opened:>8.2f} s {first * 1e3:>11.2f} ms {memory:>24}")


if __name__ == "__main__":
    flags.DEFINE_list("rows", ["1000", "100000", "10000000"], "Row counts of the index. Each count is measured.")
    command.run(main)
