"""Pixels for loaders of PyTorch: Pillow decodes and torchvision resizes, as in its ImageFolder."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from benchmarks.peers import peer
from benchmarks.peers.peer import Job

Decode = Callable[[bytes], torch.Tensor]


def transform(size: int, augment: bool = False) -> v2.Transform:
    """Return a function from a Pillow image to u8[3 size size]."""
    changes = [v2.PILToTensor(), v2.Resize((size, size), antialias=True)]
    if augment:
        changes += [v2.RandomAffine(90, (0.2, 0.2), (0.8, 1.2)), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    return v2.Compose(changes)


def decoder(raw: bool, job: Job) -> Decode:
    """Return a function from the bytes of an image, or from raw pixels, to u8[3 size size]."""
    if raw:
        return functools.partial(_from_pixels, v2.Resize((job.size, job.size), antialias=True), job.side)
    return functools.partial(_from_file, transform(job.size))


def _from_pixels(resize: v2.Transform, side: int, data: bytes) -> torch.Tensor:
    pixels = np.frombuffer(bytearray(data), np.uint8).reshape(side, side, 3)
    return resize(torch.from_numpy(pixels).permute(2, 0, 1))


def _from_file(change: v2.Transform, data: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(data)) as image:
        return change(image.convert("RGB"))


class Numbered(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A PyTorch dataset over items that are read by number."""

    def __init__(self, count: int, read: Callable[[int], tuple[bytes, int]], decode: Decode):
        self._count, self._read, self._decode = count, read, decode

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        data, label = self._read(number)
        return self._decode(data), label


def batches(data: Iterable[Any], job: Job, **settings: Any) -> Iterator[Any]:
    """Return endless batches of a dataset, decoded by one worker process per processor."""
    loader = torch.utils.data.DataLoader(
        data, job.batch, num_workers=peer.WORKERS, drop_last=True, persistent_workers=True, **settings
    )
    return peer.endless(lambda: loader)
