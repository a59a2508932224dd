"""Read a dataset with TensorFlow alone, without this package.

python examples/read_tf_data.py out/ prints the shape of a batch and the number of images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf

FEATURES = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


def decode(example: tf.Tensor, image_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode a record, string[], to (f32[image_size image_size 3] in 0..255, label i64[])."""
    parsed = tf.io.parse_single_example(example, FEATURES)
    image = tf.io.decode_image(parsed["image"], channels=3, expand_animations=False)
    return tf.image.resize(image, [image_size, image_size], antialias=True), parsed["label"]


def batches(directory: str, split: str, image_size: int, batch_size: int) -> tf.data.Dataset:
    """Return one epoch of batches (f32[b h w 3], i64[b]).

    A small shuffle buffer is enough, because `convert` stores the records in shuffled order.
    """
    shards = sorted(map(str, Path(directory).glob(f"*-{split}.tfrecord-*")))
    data = tf.data.Dataset.from_tensor_slices(shards).shuffle(len(shards))
    data = data.interleave(tf.data.TFRecordDataset, num_parallel_calls=tf.data.AUTOTUNE).shuffle(1000)
    data = data.map(lambda example: decode(example, image_size), tf.data.AUTOTUNE)
    return data.batch(batch_size).prefetch(tf.data.AUTOTUNE)


if __name__ == "__main__":
    counts = [images.shape for images, labels in batches(sys.argv[1], "train", image_size=160, batch_size=32)]
    print(counts[0], sum(shape[0] for shape in counts))
