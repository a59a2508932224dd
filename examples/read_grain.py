"""Read a dataset with Grain: shuffled records, decoded in worker processes.

python examples/read_grain.py out/ prints the shape of a batch and the number of images. It needs the package grain.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import grain
import numpy as np
from PIL import Image

from tfrecord_tools.records import Records, open_dataset


class Decode(grain.transforms.Map):
    """Turn a record into (u8[size size 3], label)."""

    def __init__(self, size: int):
        self.size = size

    def map(self, record: dict[str, Any]) -> tuple[np.ndarray, int]:
        with Image.open(io.BytesIO(record["image"])) as image:
            return np.asarray(image.convert("RGB").resize((self.size, self.size))), record["label"]


def loader(records: Records, size: int, batch_size: int, workers: int) -> grain.DataLoader:
    """Return one epoch of batches (u8[b size size 3], i64[b]). A checkpoint can store its iterator."""
    return grain.DataLoader(
        data_source=records,
        sampler=grain.samplers.IndexSampler(len(records), shuffle=True, num_epochs=1, seed=0),
        operations=[Decode(size), grain.transforms.Batch(batch_size)],
        worker_count=workers,
    )


if __name__ == "__main__":
    train = open_dataset(sys.argv[1]).records("train")
    shapes = [images.shape for images, _ in loader(train, size=160, batch_size=32, workers=2)]
    print(shapes[0], sum(shape[0] for shape in shapes))
