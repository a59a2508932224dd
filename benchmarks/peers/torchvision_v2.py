"""torchvision's `ImageFolder` and transforms v2 in PyTorch's `DataLoader`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torchvision import datasets

from benchmarks.peers import peer, torch_images
from benchmarks.peers.peer import Job


def batches(job: Job, augment: bool = False) -> Iterator[Any]:
    data = datasets.ImageFolder(str(job.train), torch_images.transform(job.size, augment))
    return torch_images.batches(data, job, shuffle=True)


if __name__ == "__main__":
    peer.main(
        {
            "plain": lambda job: peer.steady(batches(job), job),
            "augmented": lambda job: peer.steady(batches(job, augment=True), job),
            "first": lambda job: peer.first(batches(job), job),
        },
        {
            "resume": "DataLoader has no position",
            "features": "does not run Keras models",
            "predict": "does not run Keras models",
            "predict_one": "does not run Keras models",
            "": "writes no dataset",
        },
    )
