"""Divide the records of a plan into shards."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfrecord_tools.base import words
from tfrecord_tools.conversion.plan_config import PlanConfig
from tfrecord_tools.conversion.previous import Previous
from tfrecord_tools.conversion.rows import Rows
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import Shard
from tfrecord_tools.layout.split_names import SPLITS

MIN_SHARD_BYTES, MAX_SHARD_BYTES = 16 << 20, 150 << 20
DEFAULT_SHARDS = 64  # This number is enough for parallel reading.


def cut(rows: Rows, config: PlanConfig, previous: Previous | None) -> Iterator[Shard]:
    """Divide each split into the shards of the previous dataset and new shards of about equal size.

    Args:
        rows: The records in the order in which they are written: by split, unchanged rows first.
        config: Holds the number or the size of the shards.
        previous: The dataset that is updated. None: all shards are new.

    Raises:
        UserError: `config.shards` is below the number of splits or above the number of records.
    """
    sizes = rows.frame_bytes
    present = np.unique(rows.splits)
    bounds = np.searchsorted(rows.splits, [present, present + 1]).T
    first_new = np.array([start + int((~rows.is_new[start:stop]).sum()) for start, stop in bounds])
    new_bytes = np.array([sizes[start:stop].sum() for start, (_, stop) in zip(first_new, bounds)])
    counts = _counts(new_bytes, bounds[:, 1] - first_new, int(sizes.sum()), config, previous is not None)
    for split, (start, stop), new, count in zip(present.tolist(), bounds, first_new, counts):
        links: list[str] = []
        edges = [np.empty(0, np.int64)]
        if previous is not None:
            starts, links = previous.whole_shards(split, rows.previous[start:new])
            edges.append(start + starts)
        if count:
            edges.append(new + _cuts(sizes[new:stop], int(count))[:-1])
        yield from _numbered(SPLITS[split], np.concatenate([*edges, [stop]]).tolist(), links)


def _numbered(split: str, edges: list[int], links: list[str]) -> Iterator[Shard]:
    """Yield the shards between `edges`. `links` are the files of the first shards."""
    total = len(edges) - 1
    for number in range(total):
        link = links[number] if number < len(links) else ""
        yield Shard(split, number, total, int(edges[number]), int(edges[number + 1]), link)


def _counts(
    split_bytes: np.ndarray, split_records: np.ndarray, total: int, config: PlanConfig, updating: bool
) -> np.ndarray:
    """Return i64[splits], the number of new shards of each split. An update ignores `config.shards`."""
    if config.shards is not None and not updating:
        if config.shards < len(split_bytes):
            raise UserError(
                f"--shards={config.shards}: there are {words.number(len(split_bytes), 'split')}, and each split needs a"
                f" shard. Pass at least {len(split_bytes)}."
            )
        if config.shards > split_records.sum():
            raise UserError(
                f"--shards={config.shards}: there are only {split_records.sum():,} records. Pass a smaller number of"
                " shards."
            )
        # Each split gets one shard. Each further shard goes to the split with the largest shards, as long as that split
        # has enough records. This is computed for all shards at once.
        more = np.minimum(split_records, config.shards) - 1
        largest = np.concatenate([size / np.arange(1, count + 1) for size, count in zip(split_bytes, more)])
        chosen = np.argsort(-largest, kind="stable")[: config.shards - len(split_bytes)]
        return 1 + np.bincount(np.repeat(np.arange(len(more)), more)[chosen], minlength=len(more))
    aim = config.shard_bytes or min(max(total // DEFAULT_SHARDS, MIN_SHARD_BYTES), MAX_SHARD_BYTES)
    return np.minimum(-(-split_bytes // aim), split_records)


def _cuts(sizes: np.ndarray, shards: int) -> np.ndarray:
    """Return where the shards of n records begin and end, i64[shards + 1] from 0 to n.

    The shards have about the same number of bytes.
    """
    ends = np.cumsum(sizes)
    targets = ends[-1] * np.arange(1, shards) / shards
    inner = np.searchsorted(ends, targets) + 1
    steps = np.arange(1, shards)
    inner = np.maximum.accumulate(np.maximum(inner, steps) - steps) + steps  # At least one record per shard.
    inner = np.minimum(inner, len(sizes) - shards + steps)  # At least one record for each shard that follows.
    return np.concatenate([[0], inner, [len(sizes)]]).astype(np.int64)
