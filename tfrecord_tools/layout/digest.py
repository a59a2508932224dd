"""The digest of a dataset: equal digests mean equal records in the same order and in the same files."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrecord_tools.layout import index
from tfrecord_tools.layout.dataset_files import Rejected, Shard
from tfrecord_tools.layout.split_names import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa

DIGESTED = ("split", "shard", "label", "path", "group", "sha256", "source_sha256")


def digest_of(
    settings: Mapping[str, Any],
    class_names: Sequence[str],
    shards: Sequence[Shard],
    rejected: Sequence[Rejected],
    columns: Sequence[np.ndarray],
    paths: Iterable[str],
) -> str:
    """Hash everything that the output depends on.

    Args:
        settings: `Plan.config`.
        class_names: Class names in the order of the labels.
        shards: Shards in the order of the rows.
        rejected: Every file that did not become a record or was repaired.
        columns: Columns over the records: u8[n 32] SHA-256 of the source files, u8[n 32] SHA-256 of the stored
            images, i32[n] labels, i8[n] splits, u64[n] groups.
        paths: Paths of the records.
    """
    digest = hashlib.sha256()
    ranges = [(s.split, s.number, s.of, s.start, s.stop) for s in shards]  # Without `link`: the bytes are the same.
    bad = [dataclasses.astuple(r) for r in rejected]
    digest.update(json.dumps([settings, class_names, ranges, bad], sort_keys=True).encode())
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    for path in paths:
        digest.update(path.encode() + b"\0")
    return digest.hexdigest()


def digest_of_index(
    config: Mapping[str, Any],
    class_names: Sequence[str],
    rejected: Sequence[Rejected],
    shards: Mapping[str, int],
    table: pa.Table,
) -> str:
    """Compute the digest of a dataset from its index and its description.

    Args:
        config: `Description.config`.
        class_names: Class names in the order of the labels.
        rejected: Rows of `rejected.csv`, in the order of the file.
        shards: Split -> number of shards.
        table: Columns `DIGESTED` of all rows of the index.
    """
    splits = np.array([SPLITS.index(name) for name in table.column("split").to_pylist()], np.int8)
    columns = [index.hashes(table, name) for name in ("source_sha256", "sha256")]
    columns += [table.column("label").to_numpy().astype(np.int32), splits, table.column("group").to_numpy()]
    keys = splits.astype(np.int64) << 32 | table.column("shard").to_numpy()
    starts = [*np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]).tolist(), len(keys)]
    ranges = []
    for start, stop in itertools.pairwise(starts):
        split = SPLITS[splits[start]]
        ranges.append(Shard(split, int(keys[start] & 0xFFFFFFFF), shards[split], start, stop))
    paths = (
        path for chunk in table.column("path").chunks for path in chunk.to_pylist()
    )  # Chunk by chunk, to save memory.
    return digest_of(config, class_names, ranges, rejected, columns, paths)
