"""MixUp and CutMix: batches in which each image is blended with, or has a piece of, another one of its batch."""

from __future__ import annotations

import tensorflow as tf

from tfrecord_tools.augmentation.augment import Draws, rectangles, state_of
from tfrecord_tools.errors import UserError

_MIXUP, _CUTMIX = 32, 40  # Numbers of draws from here on; `augment` uses those below.


def mixup(
    images: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, probability: float = 1.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends each image with the next one of its batch (Zhang et al. 2018, "mixup", with alpha 1: any share alike).

    Args:
        images: u8[b h w c].
        targets: f32[b k], one-hot, or f32[b 1] of 0 and 1.
        keys: i64[b], as of `augment`; the share is drawn from them.
        probability: The share of images that are blended at all.

    Returns:
        Images u8[b h w c] and targets f32, blended by the same share. They depend on who is in the batch.
    """
    share = _share(images, targets, keys, _MIXUP, probability)
    weights = tf.cast(share, tf.float32)[:, None, None, None]
    blended = tf.cast(images, tf.float32) * weights + tf.cast(_next(images), tf.float32) * (1 - weights)
    return tf.cast(tf.round(blended), tf.uint8), _blended(targets, share)


def cutmix(
    images: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, probability: float = 1.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Puts a rectangle of the next image of its batch into each (Yun et al. 2019, "CutMix", with alpha 1).

    Arguments and results are those of `mixup`; targets are blended by the area that is really covered.
    """
    share = _share(images, targets, keys, _CUTMIX, probability)
    height, width = images.shape[1:3]
    lengths = [tf.round(tf.sqrt(1 - share) * side) for side in (height, width)]
    mask = rectangles(Draws(state_of(keys, images)), _CUTMIX + 2, lengths, (height, width))
    covered = lengths[0] / height * (lengths[1] / width)
    return tf.where(mask[..., None], _next(images), images), _blended(targets, 1 - covered)


def _share(images: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, first: int, probability: float) -> tf.Tensor:
    """f64[b] in 0..1, how much of each image stays: uniform, which is Beta(1, 1); 1 where nothing is mixed."""
    if not 0 <= probability <= 1:
        raise UserError(f"probability={probability}: within 0..1 is expected.")
    if images.dtype != tf.uint8 or len(targets.shape) != 2:
        raise UserError(
            f"images of {images.dtype!r}, targets of shape {targets.shape}: uint8 and [b k] are expected; make"
            " one-hot targets of labels with tf.one_hot, or labels[:, None] for two classes."
        )
    draw = Draws(state_of(keys, images))
    return tf.where(draw(first) < probability, draw(first + 1), tf.constant(1.0, tf.float64))


def _next(values: tf.Tensor) -> tf.Tensor:
    return tf.roll(values, -1, axis=0)


def _blended(targets: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    targets, weights = tf.cast(targets, tf.float32), tf.cast(share, tf.float32)[:, None]
    return targets * weights + _next(targets) * (1 - weights)
