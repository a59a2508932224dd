"""Obeys the plan: each shard is one independent, idempotent unit of work."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.conversion.plan import Plan
from tfrecord_tools.conversion.rows import Rows
from tfrecord_tools.conversion.survey import TYPES, Facts, change_names
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import pillow, preparation
from tfrecord_tools.images.preparation import ImageConfig
from tfrecord_tools.layout import findings, index, schema
from tfrecord_tools.layout.dataset_files import Shard
from tfrecord_tools.sources.base import Files, ReadError
from tfrecord_tools.sources.parquet_images import ParquetImages
from tfrecord_tools.sources.scan import Sources

_WINDOW_BYTES = 256 << 20  # Of images held in memory, per worker.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardJob:
    """All that a worker needs to write one shard and its part of the index.

    Columns run over the shard's records, as in `index`.

    Attributes:
        link: A file that holds just these records already; None: they are read and written.
        facts: survey.FACT[n].
    """

    config: ImageConfig
    shard_path: Path
    index_path: Path
    link: Path | None
    shard: Shard
    files: Files
    rows: Rows
    facts: np.ndarray


def shard_job(
    shard: Shard,
    plan: Plan,
    sources: Sources,
    facts: Facts,
    config: ImageConfig,
    shard_path: Path,
    index_path: Path,
    previous: Path | None = None,
) -> ShardJob:
    """Cuts the shard's rows out of the plan; `previous` is the directory of the dataset that is updated."""
    rows = plan.rows.take(slice(shard.start, shard.stop))
    return ShardJob(
        config=preparation.config_of(config),
        shard_path=shard_path,
        index_path=index_path,
        link=previous / shard.link if previous is not None and shard.link else None,
        shard=shard,
        files=sources.files(rows.numbers),
        rows=rows,
        facts=facts.table[rows.numbers],
    )


@pillow.unlimited()  # Once per shard, as in the survey.
def write_shard(job: ShardJob) -> int:
    """Writes the shard, then its index part, whose existence says that the shard is complete.

    Returns:
        The number of records.

    Raises:
        UserError: A source changed since the survey, or cannot be read any more.
        OSError: The disk is full, or cannot be written for another reason.
    """
    if job.link is not None:
        files.link(job.link, job.shard_path, os.link)
    else:
        with files.atomic(job.shard_path) as file:
            for i, image in _images(job):
                file.write(schema.frame(schema.encode_example(image, job.files.paths[i], int(job.rows.labels[i]))))
    framed = job.rows.frame_bytes
    if job.shard_path.stat().st_size != framed.sum():
        raise RuntimeError(f"{job.shard_path}: the plan's lengths do not add up to the file's size; please report this")
    index.write_part(job.index_path, index_part(job, np.cumsum(framed) - framed))
    return len(job.rows)


def _images(job: ShardJob) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the image of each record, in order.

    The rows of Parquet files are read in the files' own order, as many as memory may hold: one by one they would cost
    the reading of all rows before them.
    """
    if not isinstance(job.files.store, ParquetImages):
        yield from ((number, _stored(job, number)) for number in range(len(job.rows)))
        return
    windows = np.cumsum(job.rows.lengths) // _WINDOW_BYTES
    for window in np.unique(windows):
        numbers = np.flatnonzero(windows == window)
        order = numbers[np.argsort(job.files.spans[numbers], order=("file", "group", "row"))]
        images = {int(number): _stored(job, int(number)) for number in order}
        yield from ((number, images.pop(number)) for number in numbers.tolist())


def _stored(job: ShardJob, number: int) -> bytes:
    """Reads a source again and makes of it what the survey saw."""
    path, fact = job.files.paths[number], job.facts[number]
    try:
        data = job.files.read(number).data
    except (OSError, ReadError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(
            f"{path}: was surveyed but cannot be read any more: {reason}."
            " Bring it back and run the same command again, or pass --restart to go without it."
        ) from error
    if hashlib.sha256(data).digest() != fact["source_sha256"].tobytes():
        raise UserError(
            f"{path}: changed between survey and write. When the source is at rest, run the command with --restart."
        )
    if not fact["changes"]:
        return data
    data = preparation.prepare(data, job.config).data
    if hashlib.sha256(data).digest() != fact["sha256"].tobytes():
        raise RuntimeError(f"{path}: the same image was encoded in two ways; please report this")
    return data


def index_part(job: ShardJob, offsets: np.ndarray) -> dict[str, object]:
    """Columns of the index for one shard, of which each record's frame starts at `offsets`, i64[n]."""
    count = len(job.rows)
    facts = job.facts
    return {
        "split": [job.shard.split] * count,
        "shard": np.full(count, job.shard.number, np.int32),
        "offset": offsets,
        "length": job.rows.lengths,
        "label": job.rows.labels.astype(np.int64),
        "path": job.files.paths,
        "group": job.rows.groups,
        "sha256": [row.tobytes() for row in facts["sha256"]],
        "bytes": facts["bytes"],
        "type": [TYPES[t] for t in facts["type"]],
        "height": facts["height"],
        "width": facts["width"],
        "source_sha256": [row.tobytes() for row in facts["source_sha256"]],
        "source_type": [TYPES[t] for t in facts["source_type"]],
        "changes": [change_names(int(bits)) for bits in facts["changes"]],
        "findings": [",".join(findings.names(int(bits))) for bits in facts["findings"]],
        "lowest": facts["lowest"],
        "highest": facts["highest"],
    }
