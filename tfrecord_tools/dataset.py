"""`tf.data` pipelines over a converted directory: any order from any start, a pure function of (seed, step).

data = dataset.open("out")
train = dataset.train_batches(data.records("train"), batch_size=32, image_size=160, seed=0)
validation = dataset.eval_batches(data.records("validation"), batch_size=32, image_size=160)
model.fit(train, steps_per_epoch=100, epochs=10, validation_data=validation)
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfrecord_tools import order
from tfrecord_tools.augment import augment_batch
from tfrecord_tools.augment_config import AugmentConfig
from tfrecord_tools.errors import UserError
from tfrecord_tools.pixels import decode_pixels
from tfrecord_tools.records import Records, open_dataset

open = open_dataset

_READERS = 2  # Python reads in one thread at a time; while one waits for the disk, the other goes on.
_FEATURES = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


def train_batches(
    records: Records,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    crop: float = 0.0,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    augment: AugmentConfig = AugmentConfig(),
    with_numbers: bool = False,
) -> tf.data.Dataset:
    """An endless stream of shuffled batches; batch k is the same whatever came before it.

    Each epoch is another permutation of all records, and batches run on across epochs, so that nothing is
    dropped or repeated within one. A corrupt record is replaced by the next sound one of its epoch's order,
    logged and kept in `records.corrupt`; all other positions stay what they are.

    Args:
        records: What to read.
        batch_size: Of the global batch, over all workers.
        image_size: Height and width in pixels.
        seed: Of order and augmentation.
        crop: 0 stretches the whole image, above 0 takes its central square (see `pixels.decode_pixels`).
        start_step: The first batch's number.
        shard: (i, w): yield the i-th of w equal, contiguous slices of each global batch.
        augment: What may happen to the images, drawn anew for each step and worker: with another number of workers
            the images are the same, their changes are others.
        with_numbers: Yield the record numbers too.

    Returns:
        Of (images u8[b h w 3], labels i64[b]) or (images, labels, numbers i64[b]), b = batch_size / w.

    Raises:
        UserError: A size that is not positive, or a batch that w workers cannot share equally.
    """
    _check_positive(batch_size=batch_size, image_size=image_size)
    _check_crop(crop)
    data = serialized_batches(records, batch_size=batch_size, seed=seed, start_step=start_step, shard=shard)
    data = data.unbatch()
    decode = functools.partial(_decode, image_size=image_size, crop=crop, raw_size=records.raw_size)
    data = data.map(lambda example, number: (*decode(example), number), tf.data.AUTOTUNE)
    data = data.batch(batch_size // shard[1], drop_remainder=True)  # Never drops: it makes the shape static.
    if augment:
        key = int(order.mix(seed, shard[0])) >> 1
        data = tf.data.Dataset.zip(tf.data.Dataset.counter(start_step), data)
        data = data.map(lambda step, batch: (augment_batch(batch[0], augment, key, step), *batch[1:]), tf.data.AUTOTUNE)
    if not with_numbers:
        data = data.map(lambda images, labels, numbers: (images, labels))
    return data.prefetch(tf.data.AUTOTUNE)


def serialized_batches(
    records: Records, *, batch_size: int, seed: int, start_step: int = 0, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """The stream of `train_batches` before it is decoded: (serialized examples string[b], record numbers i64[b])."""
    _check_any(records)
    _check_positive(batch_size=batch_size)
    if start_step < 0:
        raise UserError(f"start_step={start_step}: at least 0.")
    index, workers = shard
    if not 0 <= index < workers or batch_size % workers:
        raise UserError(
            f"shard={shard}: worker i of w with 0 <= i < w is expected, and w must divide the batch size {batch_size}."
        )
    shuffled = order.Order(len(records), seed)

    def read(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions = order.batch_positions(int(step), batch_size, shard)
        found = [(records.sound(n), n) for n in shuffled[positions].tolist()]
        for place, (data, _) in enumerate(found):
            if data is None:
                found[place] = _next_sound(records, shuffled, int(positions[place]))
        return _as_tensors(found)

    steps = tf.data.Dataset.counter(start_step)
    return steps.map(lambda step: _numpy(read, step), num_parallel_calls=_READERS).prefetch(_READERS)


def eval_batches(
    records: Records, *, batch_size: int, image_size: int, crop: float = 0.0, with_numbers: bool = False
) -> tf.data.Dataset:
    """All records once, in order; the last batch may be smaller. A corrupt record is left out and logged.

    Args:
        records: What to read.
        batch_size: Images a batch.
        image_size: Height and width in pixels.
        crop: As in `train_batches`.
        with_numbers: Yield the record numbers too.

    Returns:
        Of (images u8[b h w 3], labels i64[b]) or (images, labels, numbers i64[b]).
    """
    _check_any(records)
    _check_positive(batch_size=batch_size, image_size=image_size)

    def read(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _as_tensors([(data, n) for n in numbers.tolist() if (data := records.sound(n)) is not None])

    data = tf.data.Dataset.range(len(records)).batch(batch_size)
    data = data.map(lambda numbers: _numpy(read, numbers), num_parallel_calls=_READERS)
    data = data.unbatch()
    decode = functools.partial(_decode, image_size=image_size, crop=crop, raw_size=records.raw_size)
    data = data.map(lambda example, number: (*decode(example), number), tf.data.AUTOTUNE)
    data = data.batch(batch_size)
    if not with_numbers:
        data = data.map(lambda images, labels, numbers: (images, labels))
    return data.prefetch(tf.data.AUTOTUNE)


def _decode(example: tf.Tensor, image_size: int, crop: float, raw_size: int | None) -> tuple[tf.Tensor, tf.Tensor]:
    parsed = tf.io.parse_single_example(example, _FEATURES)
    return decode_pixels(parsed["image"], image_size, crop, raw_size), parsed["label"]


def _next_sound(records: Records, shuffled: order.Order, position: int) -> tuple[bytes, int]:
    """The next sound record behind a position in its epoch's order (around its end), with its number."""
    start = position - position % len(records)
    for offset in range(1, len(records)):
        next_position = start + (position - start + offset) % len(records)
        number = int(shuffled[np.array([next_position])][0])
        data = records.sound(number)
        if data is not None:
            return data, number
    raise UserError("every record is corrupt. Copy or convert the dataset again.")


def _as_tensors(read: list[tuple[bytes | None, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([data for data, _ in read], object), np.array([number for _, number in read], np.int64)


def _numpy(function: Callable[..., tuple[np.ndarray, np.ndarray]], argument: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # Stateless is what it is; said, it may run in parallel also under op determinism.
    examples, numbers = tf.numpy_function(function, [argument], (tf.string, tf.int64), stateful=False)
    examples.set_shape([None])
    numbers.set_shape([None])
    return examples, numbers


def _check_any(records: Records) -> None:
    if not len(records):
        raise UserError("there are no records to read: the split, or what was selected of it, is empty.")


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{name}={value}: at least 1.")


def _check_crop(crop: float) -> None:
    if not 0 <= crop <= 1:
        raise UserError(
            f"crop={crop}: a share of the shorter side within 0..1 is expected; 0 stretches the whole image."
        )
