"""Keras's `ImageDataGenerator`, the loader of the reference recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keras.src.legacy.preprocessing.image import ImageDataGenerator

from benchmarks.peers import peer, reference
from benchmarks.peers.peer import Job


def batches(job: Job, augment: bool = False) -> Iterator[Any]:
    settings: dict[str, Any] = {"rescale": 1 / 255}
    if augment:
        settings |= {
            "rotation_range": 90, "width_shift_range": 0.2, "height_shift_range": 0.2, "zoom_range": 0.2,
            "horizontal_flip": True, "vertical_flip": True, "fill_mode": "nearest",
        }  # fmt: skip
    flow: Iterator[Any] = ImageDataGenerator(**settings).flow_from_directory(
        str(job.train), (job.size, job.size), batch_size=job.batch, class_mode="binary"
    )
    return flow


if __name__ == "__main__":
    peer.main(
        {
            "plain": lambda job: peer.steady(batches(job), job),
            "augmented": lambda job: peer.steady(batches(job, augment=True), job),
            "first": lambda job: peer.first(batches(job), job),
            "features": reference.features,
        },
        {
            "resume": "has no position",
            "predict": "the recipe does not predict files",
            "predict_one": "the recipe does not predict files",
            "": "writes no dataset",
        },
    )
