"""Compare PyTorch's DataLoader on records with torchvision's ImageFolder; measure random access.

Both shuffle fully, and decode and resize with Pillow in the same number of workers. Only the source of the bytes
differs.
"""

from __future__ import annotations

import functools
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from absl import flags
from PIL import Image
from torchvision import datasets

from benchmarks import common
from tfrecord_tools.base import command
from tfrecord_tools.records import Records, open_dataset


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A PyTorch dataset of images, u8[size size 3], and labels from records."""

    def __init__(self, records: Records, size: int):
        self._records, self._size = records, size

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        record = self._records[number]
        with Image.open(io.BytesIO(record["image"])) as image:
            return pixels(image.convert("RGB"), self._size), record["label"]


def pixels(image: Image.Image, size: int) -> torch.Tensor:
    return torch.from_numpy(np.array(image.resize((size, size), Image.Resampling.BILINEAR)))


def images_per_second(data: torch.utils.data.Dataset[tuple[torch.Tensor, int]], batch_size: int, workers: int) -> float:
    """Measure one shuffled epoch after its first batch, so that the workers' start is not counted."""
    loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True, num_workers=workers, drop_last=True)
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    count = sum(len(labels) for _, labels in batches)
    return count / (time.perf_counter() - start)


def microseconds(read: Callable[[int], object], numbers: np.ndarray) -> np.ndarray:
    """Return the time of each single read in microseconds, f64[n]."""
    seconds = []
    for number in numbers.tolist():
        start = time.perf_counter()
        read(number)
        seconds.append(time.perf_counter() - start)
    return np.array(seconds) * 1e6


def latencies(records: Records, files: Sequence[str], size: int, seed: int) -> None:
    """Print the time to read one image in one thread, from files in the page cache."""
    numbers = np.random.default_rng(seed).integers(0, len(records), 2000)
    contents = [records[number]["image"] for number in numbers[:200].tolist()]

    def decode(number: int) -> None:
        with Image.open(io.BytesIO(contents[number])) as image:
            pixels(image.convert("RGB"), size)

    rows = {
        "records[i], checksum verified": microseconds(records.__getitem__, numbers),
        "open, read and close the file": microseconds(lambda number: Path(files[number]).read_bytes(), numbers),
        "decode and resize with Pillow": microseconds(decode, np.arange(len(contents))),
    }
    print("microseconds per image, one thread, in random order: median (99th percentile)")
    for name, times in rows.items():
        print(f"  {name:<32} {np.median(times):8.1f} ({np.percentile(times, 99):.1f})")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    folder = Path(given.photos) / "train"
    with tempfile.TemporaryDirectory() as work:
        common.convert(f"--src={given.photos}", f"--out={work}/out")
        records = open_dataset(Path(work) / "out").records("train")
        files = datasets.ImageFolder(str(folder), functools.partial(pixels, size=given.image_size))
        sides = {"records": Images(records, given.image_size), "ImageFolder": files}
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(1 + given.rounds):  # In turn, so that a slow moment hits both. The first round fills caches.
            for name, data in sides.items():
                rates[name].append(images_per_second(data, given.batch_size, given.workers))
        ratios = [ours / theirs for ours, theirs in zip(rates["records"][1:], rates["ImageFolder"][1:])]
        for name, values in rates.items():
            print(f"{name:<12} {statistics.median(values[1:]):8,.0f} images/s, median of {given.rounds} epochs")
        print(f"records : ImageFolder {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})")
        latencies(records, [path for path, _ in files.samples], given.image_size, seed=0)


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, with the files SPLIT/CLASS/IMAGE.", required=True)
    flags.DEFINE_integer("batch_size", 20, "Number of images per batch.")
    flags.DEFINE_integer("image_size", 150, "Height and width in pixels.")
    flags.DEFINE_integer("workers", 2, "Number of worker processes of each DataLoader.")
    flags.DEFINE_integer("rounds", 5, "Number of measurements; medians are printed.")
    command.run(main)
