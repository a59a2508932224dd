"""Shuffled reading through the index against sequential reading + shuffle(1000), side by side in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import flags

from tfrecord_tools import command, dataset
from tfrecord_tools.pixels import decode_pixels
from tfrecord_tools.records import Dataset

_FEATURES = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


def sequential_batches(data: Dataset, batch_size: int, image_size: int) -> tf.data.Dataset:
    """What TensorFlow's own guide does: shards in order, a shuffle buffer, parallel decode."""

    def decode(example: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_single_example(example, _FEATURES)
        return decode_pixels(parsed["image"], image_size), parsed["label"]

    batches = _sequential(data).shuffle(1000).map(decode, tf.data.AUTOTUNE)
    return batches.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def sequential_bytes(data: Dataset, batch_size: int) -> tf.data.Dataset:
    return _sequential(data).shuffle(1000).batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _sequential(data: Dataset) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(sorted(map(str, data.directory.glob("*-train.tfrecord-*")))).repeat()


def images_a_second(batches: tf.data.Dataset, batch_size: int, count: int) -> float:
    """Reads `count` images after a warm-up of a tenth, and a shuffle buffer's worth."""
    iterator = iter(batches)
    for _ in range(max(count // 10, 1000) // batch_size):
        next(iterator)
    start = time.perf_counter()
    for _ in range(count // batch_size):
        next(iterator)
    return count // batch_size * batch_size / (time.perf_counter() - start)


def compare(makers: dict[str, Callable[[], tf.data.Dataset]], batch_size: int, count: int, rounds: int) -> None:
    """Prints medians, and the ratio of the first to the second round by round."""
    figures: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            figures[name].append(images_a_second(make(), batch_size, count))
    for name, values in figures.items():
        print(f"  {name:<36} {statistics.median(values):9,.0f} images/s  ({min(values):,.0f}..{max(values):,.0f})")
    ours, theirs = figures.values()
    ratios = [a / b for a, b in zip(ours, theirs)]
    print(f"  {'ratio':<36} {statistics.median(ratios):9.2f}           ({min(ratios):.2f}..{max(ratios):.2f})")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    data = dataset.open(given.tfrecords)
    records = data.records("train")
    size, image_size = given.batch_size, given.image_size
    print(f"decode + resize, {image_size} x {image_size}, batch {size}, medians of {given.rounds}")
    compare(
        {
            "index, full shuffle": lambda: dataset.train_batches(
                records, batch_size=size, image_size=image_size, seed=0
            ),
            "sequential + shuffle(1000)": lambda: sequential_batches(data, size, image_size),
        },
        size,
        given.images,
        given.rounds,
    )
    print("bytes only")
    compare(
        {
            "index, full shuffle": lambda: dataset.serialized_batches(records, batch_size=size, seed=0),
            "sequential + shuffle(1000)": lambda: sequential_bytes(data, size),
        },
        size,
        given.images * 5,
        given.rounds,
    )


if __name__ == "__main__":
    flags.DEFINE_string("tfrecords", None, "Directory that convert wrote.", required=True)
    flags.DEFINE_integer("batch_size", 20, "Images a batch.")
    flags.DEFINE_integer("image_size", 150, "Height and width in pixels.")
    flags.DEFINE_integer("images", 4000, "Images read a round.")
    flags.DEFINE_integer("rounds", 5, "Of which the medians are taken.")
    command.run(main)
