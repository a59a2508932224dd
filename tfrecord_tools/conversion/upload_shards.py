"""Write the shards of a plan into a bucket.

Each shard is an independent job that can be repeated safely.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.conversion.bucket_objects import BucketObjects, Read
from tfrecord_tools.conversion.write_shards import ShardJob, check_size, complete_shard, frame_parts, make_shard
from tfrecord_tools.images import pillow
from tfrecord_tools.layout import schema
from tfrecord_tools.remote.interface import Object

_READ_BYTES = 16 << 20  # About the bytes of an existing shard that are read at once.


@pillow.unlimited()
def upload_shard(bucket: BucketObjects, job: ShardJob) -> int:
    """Write a shard, upload it, delete the local file, and write the part of the index.

    A shard that is in the bucket already is read and compared instead. If it belongs to a dataset in the same store,
    which is updated, the store copies it.

    Args:
        bucket: The objects of the dataset.
        job: The shard. `shard_path` is used until the upload is complete.

    Returns:
        The number of records.

    Raises:
        UserError: The shard exists with other bytes, the store cannot be reached, or as in `write_shard`.
        OSError: The local file cannot be written.
    """
    uploaded = _uploaded(bucket, job)
    with files.atomic(job.index_path.with_suffix(".json")) as file:
        file.write(json.dumps(dataclasses.asdict(uploaded)).encode())
    return complete_shard(job)


def _uploaded(bucket: BucketObjects, job: ShardJob) -> Object:
    """Create the shard in the bucket, unless it is there. No file stays on this machine."""
    name = job.shard_path.name

    def is_ours(found: Object) -> bool:
        return found.size == job.rows.frame_bytes.sum() and has_records(job, bucket.reader(found))

    def write() -> Object | None:
        if job.link is not None and files.is_url(job.link) and bucket.copy_from(job.link, name):
            return None
        make_shard(job)
        return bucket.store.put(name, job.shard_path, create=True)

    try:
        found = bucket.find(name)
        uploaded = bucket.create(name, write, is_ours) if found is None else bucket.checked(found, is_ours)
    finally:
        job.shard_path.unlink(missing_ok=True)
    check_size(job, uploaded.size)
    return uploaded


def has_records(job: ShardJob, read: Read) -> bool:
    """Return whether a shard has exactly the bytes that a job writes. The source files are not read.

    The bytes of a record follow from its image, path and label, and the plan has the hash of the image.

    Args:
        job: The job.
        read: Function that reads a part of the shard. The shard has the right size.
    """
    sizes = job.rows.frame_bytes
    stops = np.cumsum(sizes)
    windows = stops // _READ_BYTES
    for window in np.unique(windows):
        numbers = np.flatnonzero(windows == window)
        first = int(stops[numbers[0]] - sizes[numbers[0]])
        data = read(first, int(stops[numbers[-1]]))
        for number in numbers.tolist():
            stop = int(stops[number]) - first
            if not _is_record(job, number, bytes(data[stop - int(sizes[number]) : stop])):
                return False
    return True


def _is_record(job: ShardJob, number: int, frame: bytes) -> bool:
    try:
        image = schema.decode_example(frame[schema.HEADER_BYTES : -4])["image"]
    except (ValueError, KeyError):
        return False
    same = hashlib.sha256(image).digest() == job.facts[number]["sha256"].tobytes()
    return same and b"".join(frame_parts(job, number, image)) == frame
