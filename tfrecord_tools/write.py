"""Obeys the plan: each shard is one independent, idempotent unit of work."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from tfrecord_tools import files, index, schema
from tfrecord_tools.errors import UserError
from tfrecord_tools.plan import Plan, Shard
from tfrecord_tools.scan import Sources
from tfrecord_tools.survey import IMAGE_TYPES, Facts


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardJob:
    """All that a worker needs to write one shard and its part of the index.

    Columns run over the shard's records, as in `index`.
    """

    root: str
    shard_path: Path
    index_path: Path
    shard: Shard
    paths: list[str]
    labels: np.ndarray
    lengths: np.ndarray
    sha256: np.ndarray
    types: np.ndarray
    heights: np.ndarray
    widths: np.ndarray


def shard_job(shard: Shard, plan: Plan, sources: Sources, facts: Facts, shard_path: Path, index_path: Path) -> ShardJob:
    """Cuts the shard's rows out of the plan."""
    rows = slice(shard.start, shard.stop)
    numbers = plan.numbers[rows]
    table = facts.table[numbers]
    return ShardJob(
        root=sources.root,
        shard_path=shard_path,
        index_path=index_path,
        shard=shard,
        paths=[sources.paths[i] for i in numbers],
        labels=plan.labels[rows],
        lengths=plan.lengths[rows],
        sha256=table["sha256"],
        types=table["type"],
        heights=table["height"],
        widths=table["width"],
    )


def write_shard(job: ShardJob) -> int:
    """Writes the shard, then its index part, whose existence says that the shard is complete.

    Returns:
        The number of records.

    Raises:
        UserError: A source changed since the survey, or cannot be read any more.
        OSError: The disk is full, or cannot be written for another reason.
    """
    with files.atomic(job.shard_path) as file:
        for i, path in enumerate(job.paths):
            image = _read_unchanged(os.path.join(job.root, path), path, job.sha256[i].tobytes())
            file.write(schema.frame(schema.encode_example(image, path, int(job.labels[i]))))
    framed = job.lengths + schema.FRAME_BYTES
    if job.shard_path.stat().st_size != framed.sum():
        raise RuntimeError(f"{job.shard_path}: the plan's lengths do not add up to the file's size; please report this")
    index.write_part(job.index_path, _index_part(job, np.cumsum(framed) - framed))
    return len(job.paths)


def _read_unchanged(path: str, name: str, sha256: bytes) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UserError(
            f"{name}: was surveyed but cannot be read any more: {error.strerror}."
            " Bring it back and run the same command again, or pass --restart to go without it."
        ) from error
    if hashlib.sha256(data).digest() != sha256:
        raise UserError(
            f"{name}: changed between survey and write. When the source is at rest, run the command with --restart."
        )
    return data


def _index_part(job: ShardJob, offsets: np.ndarray) -> dict[str, object]:
    count = len(job.paths)
    return {
        "split": [job.shard.split] * count,
        "shard": np.full(count, job.shard.number, np.int32),
        "offset": offsets,
        "length": job.lengths,
        "label": job.labels.astype(np.int64),
        "path": job.paths,
        "sha256": [row.tobytes() for row in job.sha256],
        "type": [IMAGE_TYPES[t] for t in job.types],
        "height": job.heights,
        "width": job.widths,
    }
