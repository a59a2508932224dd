"""webdataset: images in tar files, read in sequence with a shuffle buffer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import webdataset

from benchmarks.peers import peer
from benchmarks.peers.peer import Job, Store

_SHARD_ITEMS = 500


def write(folder: Path, raw: bool, out: Path) -> None:
    out.mkdir()
    with webdataset.ShardWriter(f"{out}/%06d.tar", maxcount=_SHARD_ITEMS, verbose=0) as writer:
        for key, data, label in peer.items(folder, raw):
            writer.write({"__key__": key, "jpg": data, "cls": str(label)})


def stream(directory: Path, **settings: Any) -> webdataset.WebDataset:
    return webdataset.WebDataset(sorted(map(str, directory.glob("*.tar"))), **settings)


def _pair(decode: Callable[[bytes], Any], sample: dict[str, bytes]) -> tuple[Any, int]:
    return decode(sample["jpg"]), int(sample["cls"])


def batches(directory: Path, raw: bool, job: Job) -> Iterator[Any]:
    from benchmarks.peers import torch_images  # Writing does not need PyTorch.

    pair = functools.partial(_pair, torch_images.decoder(raw, job))
    shuffled = stream(directory, shardshuffle=100, empty_check=False).shuffle(1000)
    return torch_images.batches(shuffled.map(pair), job)


def in_sequence(directory: Path) -> Iterable[Any]:
    return stream(directory, shardshuffle=False)


if __name__ == "__main__":
    peer.main(
        Store(write, batches, in_sequence=in_sequence).rows(),
        {
            "augmented": "has no augmentation of its own",
            "random": "reads in sequence only",
            "resume": "has no position",
            "": "does not train or predict",
        },
    )
