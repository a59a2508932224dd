"""TensorFlow Datasets, written and read as its guide does. It does not check the bytes of the images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from benchmarks.peers import peer
from benchmarks.peers.peer import Figures, Job

_Examples = Iterator[tuple[str, dict[str, str]]]


class Photos(tfds.core.GeneratorBasedBuilder):
    """A builder for photographs of cats and dogs, split/class/image."""

    VERSION = tfds.core.Version("1.0.0")
    SOURCE = Path()

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["cats", "dogs"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, _Examples]:
        return {split.name: self._generate_examples(split) for split in sorted(self.SOURCE.iterdir())}

    def _generate_examples(self, split: Path) -> _Examples:
        for path in split.rglob("*.jpg"):
            yield str(path), {"image": str(path), "label": path.parent.name}


def builder(job: Job, out: Path) -> tfds.core.DatasetBuilder:
    Photos.SOURCE = job.photos
    return Photos(data_dir=out)


def write(job: Job, out: Path) -> None:
    builder(job, out).download_and_prepare()


def batches(job: Job) -> tf.data.Dataset:
    # By default, TFDS keeps the decoded images of a small dataset in memory. A large dataset does not fit.
    reading = tfds.ReadConfig(try_autocache=False)
    stored = builder(job, job.written("encoded", lambda out: write(job, out)))
    data = stored.as_dataset("train", shuffle_files=True, read_config=reading)

    def resized(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.image.resize(example["image"], (job.size, job.size)), example["label"]

    pictures = data.repeat().shuffle(1000).map(resized, tf.data.AUTOTUNE)
    return pictures.batch(job.batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def sequence(job: Job) -> Figures:
    directory = job.written("encoded", lambda out: write(job, out))
    shards = sorted(map(str, directory.rglob("*-train.tfrecord-*")))
    return peer.steady(tf.data.TFRecordDataset(shards).repeat().batch(job.batch).prefetch(tf.data.AUTOTUNE), job)


if __name__ == "__main__":
    peer.main(
        {
            "convert": lambda job: peer.conversion(job, lambda out: write(job, out)),
            "plain": lambda job: peer.steady(batches(job), job),
            "first": lambda job: peer.first(batches(job), job),
            "sequence": sequence,
        },
        {
            "augmented": "has no augmentation",
            "raw": "stores encoded images",
            "random": "its records have no index",
            "resume": "has no position; skip(n) reads n batches",
            "": "does not train or predict",
        },
    )
