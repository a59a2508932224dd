"""Print the images/s of a torchvision loader on the files of `--photos`, for `benchmarks.read`.

It is a separate process, because the libraries of torchvision and TensorFlow conflict in one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from absl import flags
from torchvision import datasets
from torchvision.transforms import v2

from benchmarks import common
from tfrecord_tools.base import command


def loader(photos: Path, size: int, batch_size: int, augment: bool) -> Iterator[Any]:
    changes = [v2.PILToTensor(), v2.Resize((size, size), antialias=True)]
    if augment:
        changes += [v2.RandomAffine(90, (0.2, 0.2), (0.8, 1.2)), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    data = datasets.ImageFolder(str(photos), v2.Compose(changes))
    batches = torch.utils.data.DataLoader(data, batch_size, shuffle=True, num_workers=2, drop_last=True)
    while True:
        yield from batches


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    batches = loader(Path(given.photos), given.image_size, given.batch_size, given.augment)
    print(common.images_per_second(batches, given.batch_size, given.images))


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, with the files CLASS/IMAGE.", required=True)
    flags.DEFINE_integer("batch_size", None, "Number of images per batch.", required=True)
    flags.DEFINE_integer("image_size", None, "Height and width in pixels.", required=True)
    flags.DEFINE_integer("images", None, "Number of images to read.", required=True)
    flags.DEFINE_bool("augment", None, "Use the augmentation of the reference recipe.", required=True)
    command.run(main)
