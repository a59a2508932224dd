"""Report what a training fetches from a bucket: an estimate, and columns of the history."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfrecord_tools.records import Records
from tfrecord_tools.remote.shards import RemoteShards
from tfrecord_tools.remote.traffic import Traffic
from trainers.fitting.inputs import Splits
from trainers.recipes import Recipe, TrainConfig


class BucketTraffic(keras.callbacks.Callback):
    """Callback that adds what was fetched from a bucket to the logs of each epoch, and logs a line.

    The columns are `fetched_mb`, `fetch_requests`, `cache_hits` (0..1, share of the records that were there in time)
    and `fetch_wait` (seconds, over all threads). For files on this machine, it adds nothing.
    """

    def __init__(self, splits: Splits, log: Callable[[str], object]) -> None:
        super().__init__()
        self._shards = _distinct(splits.train, splits.validation_share)
        self._log = log
        self._before = self._total()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._shards or logs is None:
            return
        total = self._total()
        fetched, self._before = total - self._before, total
        logs["fetched_mb"] = round(fetched.bytes / 1e6, 1)
        logs["fetch_requests"] = fetched.requests
        logs["cache_hits"] = round(fetched.hit_rate, 4)
        logs["fetch_wait"] = round(fetched.waited, 1)
        self._log(f"bucket: {fetched}")

    def _total(self) -> Traffic:
        return sum((shards.traffic for shards in self._shards), Traffic())


def _distinct(*records: Records) -> list[RemoteShards]:
    """Return the shards in buckets. A split and its held-out part have the same shards."""
    return list({id(one.remote): one.remote for one in records if one.remote is not None}.values())


def lines(splits: Splits, recipe: Recipe, config: TrainConfig) -> Iterator[str]:
    """Yield lines about a dataset in a bucket: its size, its cache, and what an epoch will fetch."""
    remote = splits.train.remote
    if remote is None:
        return
    size = remote.size
    yield f"bucket: {size / 1e6:,.1f} MB of records, at most {remote.budget / 1e6:,.1f} MB in {remote.cache_dir}"
    if size <= remote.budget or _read_once(splits.train, recipe, config):
        return
    block = config.block if config.order == "blocks" else 1
    estimate = remote.estimate(block)
    yield f"        an epoch fetches about {estimate}"
    if config.order != "blocks":
        in_blocks = remote.estimate(config.block)
        yield f"        --order=blocks would need about {in_blocks.requests:,} requests per epoch instead"


def _read_once(records: Records, recipe: Recipe, config: TrainConfig) -> bool:
    """Return whether the training reads each record only in its first epoch."""
    needed = len(records) * math.prod(recipe.geometry.shape)
    in_memory = config.cache != "off" and needed <= config.cache_mb * 1_000_000
    return recipe.from_features or in_memory or sum(phase.epochs for phase in recipe.phases) < 2
