"""Write the shards of a plan. Each shard is an independent job that can be repeated safely."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.conversion import bucket_objects
from tfrecord_tools.conversion.bucket_objects import BucketObjects, Read
from tfrecord_tools.conversion.plan import Plan
from tfrecord_tools.conversion.rows import Rows
from tfrecord_tools.conversion.survey import TYPES, Facts, change_names
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import pillow, preparation
from tfrecord_tools.images.preparation import ImageConfig
from tfrecord_tools.layout import findings, index, schema
from tfrecord_tools.layout.dataset_files import Shard
from tfrecord_tools.remote.interface import Missing, Object
from tfrecord_tools.sources.base import Files, ReadError
from tfrecord_tools.sources.parquet_images import ParquetImages
from tfrecord_tools.sources.scan import Sources

_WINDOW_BYTES = 256 << 20  # Largest size of the images in a worker's memory.
_READ_BYTES = 16 << 20  # About the bytes of an existing shard that are read at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardJob:
    """All that a worker needs to write one shard and its part of the index.

    Attributes:
        config: How images are stored.
        shard_path: The shard to write.
        index_path: The part of the index to write.
        link: Path or URL of an existing shard with exactly these records. It is linked or copied instead of written
            again. None: the records are written.
        version: The version of the object at `link`. None: `link` is a path or None.
        shard: The shard's split, number and rows.
        files: The n source files of the shard's records.
        rows: The rows of the records in the plan.
        facts: survey.FACT[n], the facts of the source files.
    """

    config: ImageConfig
    shard_path: Path
    index_path: Path
    link: str | None
    version: Object | None = None
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
    previous: StrPath | None = None,
    versions: Mapping[str, Object] = {},
) -> ShardJob:
    """Return the job that writes a shard.

    Args:
        shard: The shard.
        plan: The plan that the shard belongs to.
        sources: The source files of the plan.
        facts: The facts of the source files.
        config: How images are stored.
        shard_path: The shard file to write.
        index_path: The part of the index to write.
        previous: Directory or URL of the dataset that is updated. None: a new dataset is created.
        versions: File name -> version, for the shards of `previous` if it is a URL.

    Raises:
        UserError: A shard of `previous` does not exist.
    """
    link = f"{os.fspath(previous)}/{shard.link}" if previous is not None and shard.link else None
    version = versions.get(shard.link) if link else None
    if link and files.is_url(link) and version is None:
        raise Missing(f"{link}: does not exist. The dataset is incomplete. Copy it to the bucket again.")
    rows = plan.rows.take(slice(shard.start, shard.stop))
    return ShardJob(
        config=preparation.config_of(config),
        shard_path=shard_path,
        index_path=index_path,
        link=link,
        version=version,
        shard=shard,
        files=sources.files(rows.numbers),
        rows=rows,
        facts=facts.table[rows.numbers],
    )


@pillow.unlimited()  # Entered once per shard: nested calls cost 1 us per image instead of 15 us.
def write_shard(job: ShardJob) -> int:
    """Write a shard, then its part of the index. A shard with a part of the index is complete.

    Returns:
        The number of records.

    Raises:
        UserError: A source file has changed since its inspection, or can no longer be read.
        OSError: The shard cannot be written, for example because the disk is full.
    """
    make_shard(job)
    return complete_shard(job)


def complete_shard(job: ShardJob) -> int:
    """Write the part of the index of a shard that is in its place. Return the number of records."""
    framed = job.rows.frame_bytes
    index.write_part(job.index_path, index_part(job, np.cumsum(framed) - framed))
    return len(job.rows)


def make_shard(job: ShardJob) -> None:
    """Write the shard, or link or copy the existing shard with the same records."""
    if job.link is None:
        with files.atomic(job.shard_path) as file:
            for i, image in _images(job):
                file.writelines(frame_parts(job, i, image))
    elif job.version is not None:
        _fetch(job, job.link, job.version)
    else:
        files.link(Path(job.link), job.shard_path, os.link)
    check_size(job, job.shard_path.stat().st_size)


def _fetch(job: ShardJob, link: str, version: Object) -> None:
    """Fetch an existing shard. The file appears when all its records are as the plan says."""
    damaged = UserError(
        f"{link}: the records differ from those in {index.FILE_NAME}. The dataset is damaged. Convert without"
        " --update_from."
    )
    if version.size != job.rows.frame_bytes.sum():
        raise damaged
    read = BucketObjects(link.rpartition("/")[0]).reader(version)
    with files.atomic(job.shard_path) as file:
        for part in _right_parts(job, read):
            if part is None:
                raise damaged
            file.write(part)


def frame_parts(job: ShardJob, number: int, image: bytes) -> tuple[bytes, ...]:
    """Return the bytes of a record in the shard, in parts."""
    example = schema.example_parts(image, job.files.paths[number], int(job.rows.labels[number]))
    return schema.frame_parts(example)


def check_size(job: ShardJob, size: int) -> None:
    """Check that a shard has as many bytes as the plan says."""
    if size != job.rows.frame_bytes.sum():
        raise RuntimeError(f"{job.shard_path}: the plan's lengths do not add up to the file's size; please report this")


def has_records(job: ShardJob, read: Read) -> bool:
    """Return whether a shard has exactly the bytes that a job writes. The source files are not read.

    The bytes of a record follow from its image, path and label, and the plan has the hash of the image.

    Args:
        job: The job.
        read: Function that reads a part of the shard. The shard has the right size.
    """
    return all(part is not None for part in _right_parts(job, read))


def _right_parts(job: ShardJob, read: Read) -> Iterator[memoryview | None]:
    """Yield the bytes of a shard in parts of several records. None: the part has other bytes."""
    sizes = job.rows.frame_bytes
    stops = np.cumsum(sizes)
    windows = stops // _READ_BYTES
    for window in np.unique(windows):
        numbers = np.flatnonzero(windows == window)
        first = int(stops[numbers[0]] - sizes[numbers[0]])
        check = functools.partial(_are_records, job, numbers.tolist())
        yield bucket_objects.right_part(read, first, int(stops[numbers[-1]]), check)


def _are_records(job: ShardJob, numbers: Sequence[int], data: memoryview) -> bool:
    stop = 0
    for number in numbers:
        start, stop = stop, stop + int(job.rows.frame_bytes[number])
        if not _is_record(job, number, bytes(data[start:stop])):
            return False
    return True


def _is_record(job: ShardJob, number: int, frame: bytes) -> bool:
    try:
        image = schema.decode_example(frame[schema.HEADER_BYTES : -4])["image"]
    except (ValueError, KeyError):
        return False
    same = hashlib.sha256(image).digest() == job.facts[number]["sha256"].tobytes()
    return same and b"".join(frame_parts(job, number, image)) == frame


def _images(job: ShardJob) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the image of each record, in order.

    To read a single row of a Parquet file, all rows before it must be read. Rows are therefore read in the order of the
    file, in windows that fit into memory.
    """
    if not isinstance(job.files.store, ParquetImages):
        yield from ((number, _read_image(job, number)) for number in range(len(job.rows)))
        return
    windows = np.cumsum(job.rows.lengths) // _WINDOW_BYTES
    for window in np.unique(windows):
        numbers = np.flatnonzero(windows == window)
        order = numbers[np.argsort(job.files.spans[numbers], order=("file", "group", "row"))]
        images = {int(number): _read_image(job, int(number)) for number in order}
        yield from ((number, images.pop(number)) for number in numbers.tolist())


def _read_image(job: ShardJob, number: int) -> bytes:
    """Read a source file again, check that it is unchanged, and return the image to store."""
    path, fact = job.files.paths[number], job.facts[number]
    try:
        data = job.files.read(number).data
    except (OSError, ReadError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(
            f"{path}: the file was inspected, but can no longer be read: {reason}."
            " Restore it and run the same command again, or pass --restart to convert without it."
        ) from error
    if hashlib.sha256(data).digest() != fact["source_sha256"].tobytes():
        raise UserError(
            f"{path}: the file has changed since it was inspected. When the source no longer changes, run the command"
            " with --restart."
        )
    if not fact["changes"]:
        return data
    data = preparation.prepare(data, job.config).data
    if hashlib.sha256(data).digest() != fact["sha256"].tobytes():
        raise RuntimeError(f"{path}: the same image was encoded in two ways; please report this")
    return data


def index_part(job: ShardJob, offsets: np.ndarray) -> dict[str, object]:
    """Return the columns of a shard's part of the index.

    Args:
        job: The shard, with n records.
        offsets: i64[n], the byte at which each record starts.
    """
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
        "changes": [change_names(bits) for bits in facts["changes"].tolist()],
        "findings": [findings.names(bits) for bits in facts["findings"].tolist()],
        "lowest": facts["lowest"],
        "highest": facts["highest"],
        **{name: facts[name] for name in index.LOOK},
        "gray": [
            gray if known else None for gray, known in zip(facts["gray"].tolist(), ~np.isnan(facts["brightness"]))
        ],
    }
