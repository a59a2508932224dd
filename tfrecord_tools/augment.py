"""Random geometric changes of whole batches of training images, a pure function of (images, seed, step)."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrecord_tools import order
from tfrecord_tools.augment_config import AugmentConfig


def augment_batch(images: tf.Tensor, config: AugmentConfig, seed: int, step: tf.Tensor) -> tf.Tensor:
    """Augments a whole batch with Keras's preprocessing layers, one after the other, in float32.

    The result is a pure function of the arguments, so that it may run in a parallel `map`: the draws do not
    come from the layers' own seed generators, which count calls in whatever order these happen.

    Args:
        images: u8[b h w 3].
        config: What may happen.
        seed: Any integer.
        step: i64[], the number of the batch.

    Returns:
        u8[b h w 3]. Another batch size gives other draws: an image's change depends on its place.
    """
    pixels = tf.cast(images, tf.float32)
    for number, layer in enumerate(_layers(config)):
        drawn = layer.get_random_transformation(pixels, training=True, seed=_StepSeed(seed, number, step))
        pixels = layer.transform_images(pixels, drawn, training=True)
    return tf.saturate_cast(tf.round(pixels), tf.uint8)


@functools.cache
def _layers(config: AugmentConfig) -> tuple[keras.Layer, ...]:
    shift = (config.height_shift_range, config.width_shift_range)
    zoom = (-config.zoom_range, config.zoom_range)
    edges: dict[str, Any] = {"fill_mode": "nearest", "dtype": "float32"}
    # Two flip layers, since "horizontal_and_vertical" draws once for both.
    candidates = {
        keras.layers.RandomFlip("horizontal", dtype="float32"): config.horizontal_flip,
        keras.layers.RandomFlip("vertical", dtype="float32"): config.vertical_flip,
        keras.layers.RandomRotation(config.rotation_range / 360, **edges): config.rotation_range,
        keras.layers.RandomTranslation(*shift, **edges): any(shift),
        keras.layers.RandomZoom(zoom, zoom, **edges): config.zoom_range,
    }
    return tuple(layer for layer, wanted in candidates.items() if wanted)


class _StepSeed(keras.random.SeedGenerator):
    """Hands Keras's random functions the n-th seed of (seed, layer, step) instead of that of a variable."""

    def __init__(self, seed: int, layer: int, step: tf.Tensor):  # Without super(): it would make the variable.
        self._key = (seed, layer)
        self._step = step
        self._calls = 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        self._calls += 1
        fixed = np.int64(order.mix(*self._key, self._calls) >> np.uint64(1))
        return tf.stack([fixed, tf.cast(self._step, tf.int64)])
