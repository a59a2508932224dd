"""FFCV: images in one file of its own format, decoded by compiled code in threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder

from benchmarks.peers import peer
from benchmarks.peers.peer import Job


class _Images(ImageFolder):  # FFCV wants arrays or Pillow images, and writes the files again as JPEG.
    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        image, label = super().__getitem__(number)
        return np.array(image), label


def write(folder: Path, path: Path, raw: bool) -> None:
    field = RGBImageField(write_mode="raw" if raw else "jpg")
    writer = DatasetWriter(str(path), {"image": field, "label": IntField()}, num_workers=peer.WORKERS)
    writer.from_indexed_dataset(_Images(str(folder)))


def write_splits(job: Job, out: Path) -> None:
    out.mkdir()
    for split in sorted(job.photos.iterdir()):
        write(split, out / f"{split.name}.beton", raw=False)


def batches(job: Job, raw: bool = False) -> Iterator[Any]:
    path = job.written("raw.beton" if raw else "encoded.beton", lambda out: write(job.train, out, raw))
    image = [CenterCropRGBImageDecoder((job.size, job.size), ratio=1), ToTensor(), ToTorchImage()]
    loader = Loader(
        str(path), job.batch, num_workers=peer.WORKERS, order=OrderOption.RANDOM, os_cache=True, drop_last=True,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor()]},
    )  # fmt: skip
    return peer.endless(lambda: loader)


if __name__ == "__main__":
    peer.main(
        {
            "convert": lambda job: peer.conversion(job, lambda out: write_splits(job, out)),
            "plain": lambda job: peer.steady(batches(job), job),
            "raw": lambda job: peer.steady(batches(job, raw=True), job),
            "first": lambda job: peer.first(batches(job), job),
        },
        {
            "augmented": "does not rotate or zoom",
            "random": "does not give the bytes of an image",
            "sequence": "does not give the bytes of an image",
            "resume": "has no position",
            "": "does not train or predict",
        },
    )
