"""Distribute pictures over shards: files of one split each, up to a size."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from tfrecord_tools.exporting.pictures import Picture


class Shard(Protocol):
    """A file that is being written."""

    def bytes_with(self, picture: Picture) -> int:
        """Return the size of the complete file in bytes, if the picture is the next and the last one."""

    def write(self, picture: Picture) -> None:
        """Append a picture."""

    def close(self) -> None:
        """Complete the file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardFormat:
    """How the shards of a format are opened and named.

    Attributes:
        open: Opens a new shard at a path.
        name: Makes the name of a shard from its split, its number, and the number of shards of the split.
        shard_bytes: Largest size of a shard in bytes. A single larger picture gets a larger shard.
    """

    open: Callable[[Path], Shard]
    name: Callable[[str, int, int], str]
    shard_bytes: int


@contextlib.contextmanager
def writer(root: Path, form: ShardFormat) -> Iterator[Callable[[Picture], None]]:
    """Yield a function that appends a picture to the current shard in the directory `root`.

    Shards have temporary names until the number of shards of each split is known.
    """
    shard: Shard | None = None
    shards = Counter[str]()
    split = ""

    def write(picture: Picture) -> None:
        nonlocal shard, split
        if shard is None or split != picture.split or shard.bytes_with(picture) > form.shard_bytes:
            if shard is not None:
                shard.close()
            split = picture.split
            shard = form.open(root / _temporary(split, shards[split]))
            shards[split] += 1
        shard.write(picture)

    root.mkdir(exist_ok=True)
    try:
        yield write
    finally:
        if shard is not None:
            shard.close()
    for name, count in shards.items():
        for number in range(count):
            os.rename(root / _temporary(name, number), root / form.name(name, number, count))


def _temporary(split: str, number: int) -> str:
    return f"{split}-{number}.unfinished"


def split_of(path: Path) -> str:
    """Return the split in the name of a shard such as `train-00000-of-00002.parquet`."""
    return path.name.split("-")[0]
