"""Measure time and memory of plan and index for simulated images: both must grow linearly."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from benchmarks import common
from tfrecord_tools.base import command
from tfrecord_tools.conversion.plan import make_plan
from tfrecord_tools.conversion.survey import FACT, TYPES, Facts
from tfrecord_tools.conversion.write_shards import index_part, shard_job
from tfrecord_tools.convert import ConvertConfig
from tfrecord_tools.layout import index
from tfrecord_tools.sources.base import SPAN
from tfrecord_tools.sources.directory import Directory
from tfrecord_tools.sources.folder_rules import TO_BE_SPLIT
from tfrecord_tools.sources.scan import Sources

_CLASSES = 1000
_IMAGE_BYTES = 110_000  # ImageNet's mean size.


class Measured(NamedTuple):
    """Seconds of each stage, and the process's peak memory in bytes at the end of the stage."""

    sources_bytes: int
    plan_seconds: float
    plan_bytes: int
    index_seconds: float
    index_bytes: int
    file_bytes: int
    shards: int


def simulated(entries: int) -> tuple[Sources, Facts]:
    """Return the result of scan and inspection for `entries` different JPEGs, without files."""
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, _CLASSES, entries, np.int32))
    table = np.zeros(entries, FACT)
    table["source_sha256"] = table["sha256"] = rng.integers(0, 256, (entries, 32), np.uint8)
    table["size"] = table["bytes"] = rng.integers(_IMAGE_BYTES // 2, _IMAGE_BYTES * 3 // 2, entries)
    table["source_type"] = table["type"] = TYPES.index("JPEG")
    table["height"], table["width"] = rng.integers(200, 1000, (2, entries))
    sources = Sources(
        root="simulated",
        store=Directory("simulated"),
        class_names=tuple(f"n{label:08d}" for label in range(_CLASSES)),
        paths=[f"n{label:08d}/n{label:08d}_{number}.JPEG" for number, label in enumerate(labels.tolist())],
        spans=np.broadcast_to(np.zeros(1, SPAN), entries),
        labels=labels,
        splits=np.full(entries, TO_BE_SPLIT, np.int8),
        groups=np.zeros(entries, np.uint64),
        sizes=table["size"].copy(),
        mtimes_ns=table["mtime_ns"].copy(),
        has_splits=False,
        rejected=(),
        left_out={},
    )
    return sources, Facts(table=table, reasons={}, repaired={})


def measure(entries: int) -> Measured:
    """Plan and index simulated images. Call this in a new process, because the peak memory never falls."""
    config = ConvertConfig(src="simulated")
    sources, facts = simulated(entries)
    before = common.peak_bytes()
    start = time.perf_counter()
    plan = make_plan(sources, facts, config, "simulated", config.output_settings())
    planned = time.perf_counter()
    plan_bytes = common.peak_bytes()
    with tempfile.TemporaryDirectory() as work:
        parts = []
        for number, shard in enumerate(plan.shards):
            parts.append(Path(work) / f"{number:07d}.parquet")
            job = shard_job(shard, plan, sources, facts, config, Path(work) / "shard", parts[-1])
            framed = job.rows.frame_bytes
            index.write_part(job.index_path, index_part(job, np.cumsum(framed) - framed))
        whole = Path(work) / index.FILE_NAME
        index.join_parts(parts, whole)
        return Measured(
            before,
            planned - start,
            plan_bytes,
            time.perf_counter() - planned,
            common.peak_bytes(),
            whole.stat().st_size,
            len(parts),
        )


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    print(f"{'images':>12} {'inspection':>14} {'plan':>20} {'index':>30}")
    for entries in map(int, flags.FLAGS.entries):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            result = pool.submit(measure, entries).result()
        print(
            f"{entries:>12,} {result.sources_bytes / entries:>7,.0f} B each"
            f" {result.plan_seconds:>7.1f} s, {(result.plan_bytes - result.sources_bytes) / entries:>4,.0f} B more"
            f" {result.index_seconds:>7.1f} s, {(result.index_bytes - result.plan_bytes) / entries:>4,.0f} B more,"
            f" {result.file_bytes / entries:,.0f} B in {result.shards:,} row groups"
        )


if __name__ == "__main__":
    flags.DEFINE_list("entries", ["100000", "300000", "1000000"], "Image counts of the plan. Each count is measured.")
    command.run(main)
