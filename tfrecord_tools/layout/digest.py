"""The digest of a dataset: equal digests mean equal records in equal order, in equal files."""

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
        class_names: In the order of the labels.
        shards: In the order of the rows.
        rejected: Every file that is not a record, or was repaired.
        columns: Over records: u8[n 32] sha256 of the sources and of the stored images, i32[n] labels, i8[n] splits,
            u64[n] groups.
        paths: Of the records.
    """
    digest = hashlib.sha256()
    cuts = [(s.split, s.number, s.of, s.start, s.stop) for s in shards]  # Linked or written: the same bytes.
    bad = [dataclasses.astuple(r) for r in rejected]
    digest.update(json.dumps([settings, class_names, cuts, bad], sort_keys=True).encode())
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
    """Return the digest that the dataset's index and description must have.

    Args:
        config: `Description.config`.
        class_names: In the order of the labels.
        rejected: In the order of `rejected.csv`.
        shards: Split -> its number of shards.
        table: `DIGESTED` columns of all rows of the index.
    """
    splits = np.array([SPLITS.index(name) for name in table.column("split").to_pylist()], np.int8)
    columns = [index.hashes(table, name) for name in ("source_sha256", "sha256")]
    columns += [table.column("label").to_numpy().astype(np.int32), splits, table.column("group").to_numpy()]
    keys = splits.astype(np.int64) << 32 | table.column("shard").to_numpy()
    starts = [*np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]).tolist(), len(keys)]
    cuts = []
    for start, stop in itertools.pairwise(starts):
        split = SPLITS[splits[start]]
        cuts.append(Shard(split, int(keys[start] & 0xFFFFFFFF), shards[split], start, stop))
    paths = (path for chunk in table.column("path").chunks for path in chunk.to_pylist())  # Never all at once.
    return digest_of(config, class_names, cuts, rejected, columns, paths)
