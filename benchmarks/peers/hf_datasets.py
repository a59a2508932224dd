"""Hugging Face datasets: images in Arrow files, read by number."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from benchmarks.peers import peer
from benchmarks.peers.peer import Job, Store

_FEATURES = datasets.Features({"image": datasets.Value("binary"), "label": datasets.Value("int64")})


def write(folder: Path, raw: bool, out: Path) -> None:
    datasets.disable_progress_bars()
    cache = out.with_name(f"{out.name}.cache")

    def rows() -> Iterator[dict[str, Any]]:
        yield from ({"image": data, "label": label} for _, data, label in peer.items(folder, raw))

    # A fingerprint of its own, because the generator cannot be hashed.
    built = datasets.Dataset.from_generator(rows, _FEATURES, cache_dir=str(cache), fingerprint=out.parent.name)
    built.save_to_disk(str(out))
    shutil.rmtree(cache)


def by_number(directory: Path) -> tuple[int, Callable[[Sequence[int]], Any]]:
    data = datasets.load_from_disk(str(directory))
    return len(data), lambda numbers: data[numbers]["image"]


def batches(directory: Path, raw: bool, job: Job) -> Iterator[Any]:
    from benchmarks.peers import torch_images  # Writing does not need PyTorch.

    data = datasets.load_from_disk(str(directory))

    def read(number: int) -> tuple[bytes, int]:
        row = data[number]
        return row["image"], row["label"]

    numbered = torch_images.Numbered(len(data), read, torch_images.decoder(raw, job))
    return torch_images.batches(numbered, job, shuffle=True)


if __name__ == "__main__":
    peer.main(
        Store(write, batches, by_number).rows(),
        {
            "augmented": "has no augmentation of its own",
            "resume": "needs the StatefulDataLoader of torchdata",
            "": "does not train or predict",
        },
    )
