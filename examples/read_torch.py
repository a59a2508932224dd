"""Read a dataset with a DataLoader of PyTorch, without TensorFlow.

python examples/read_torch.py out/ prints the shape of a batch and the number of images. It needs the package torch.
"""

from __future__ import annotations

import io
import sys

import numpy as np
import torch
from PIL import Image

from tfrecord_tools.layout.schema import Example
from tfrecord_tools.records import Records, open_dataset


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Decoded records: (image stretched to a square, u8[3 size size], label)."""

    def __init__(self, records: Records, size: int):
        self.records, self.size = records, size

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return self._decoded(self.records[number])

    def __getitems__(self, numbers: list[int]) -> list[tuple[torch.Tensor, int]]:
        """Return the images of a batch. The DataLoader calls this, because reading a batch at once is faster."""
        return [self._decoded(record) for record in self.records.__getitems__(numbers)]

    def _decoded(self, record: Example) -> tuple[torch.Tensor, int]:
        with Image.open(io.BytesIO(record["image"])) as image:
            pixels = np.array(image.convert("RGB").resize((self.size, self.size)))
        return torch.from_numpy(pixels).permute(2, 0, 1), record["label"]


def loader(records: Records, size: int, batch_size: int, workers: int) -> torch.utils.data.DataLoader:
    """Return batches (u8[b 3 size size], i64[b]). Each epoch is fully shuffled in a new order."""
    return torch.utils.data.DataLoader(Images(records, size), batch_size, shuffle=True, num_workers=workers)


if __name__ == "__main__":
    train = open_dataset(sys.argv[1]).records("train")
    shapes = [tuple(images.shape) for images, _ in loader(train, size=160, batch_size=32, workers=2)]
    print(shapes[0], sum(shape[0] for shape in shapes))
