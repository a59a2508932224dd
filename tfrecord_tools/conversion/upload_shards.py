"""Write the shards of a plan into a bucket.

Each shard is an independent job that can be repeated safely.
"""

from __future__ import annotations

import dataclasses
import json

from tfrecord_tools.base import files
from tfrecord_tools.conversion.bucket_objects import BucketObjects
from tfrecord_tools.conversion.write_shards import ShardJob, check_size, complete_shard, has_records, make_shard
from tfrecord_tools.images import pillow
from tfrecord_tools.remote.interface import Object


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
        if job.link is not None and job.version is not None and bucket.copy_from(job.link, job.version, name):
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
