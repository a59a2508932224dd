"""MixUp and CutMix: mix each image of a batch, and its target, with another image of the batch."""

from __future__ import annotations

import tensorflow as tf

from tfrecord_tools.augmentation.augment import Draws, rectangles, state_of
from tfrecord_tools.errors import UserError

_MIXUP, _CUTMIX = 32, 40  # First numbers of the random draws. `augment` uses smaller numbers.


def mixup(
    images: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, probability: float = 1.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each image with the next image of its batch (Zhang et al. 2018, "mixup").

    The weight of the image itself is drawn uniformly from 0..1 (alpha = 1 in the paper). Unlike augmentation, the
    result for an image depends on the other images of the batch.

    Args:
        images: u8[b h w c].
        targets: f32[b k], one-hot, or f32[b 1] with values 0 and 1.
        keys: i64[b], keys of the random draws, from `train_batches(with_keys=True)`.
        probability: Share of the images that are blended, in 0..1. Default: all of them.

    Returns:
        Images u8[b h w c] and targets f32 of the shape of `targets`, both blended with the same shares.

    Raises:
        UserError: `probability`, the type of `images` or the shape of `targets` is wrong.
    """
    share = _share(images, targets, keys, _MIXUP, probability)
    weights = tf.cast(share, tf.float32)[:, None, None, None]
    blended = tf.cast(images, tf.float32) * weights + tf.cast(_next(images), tf.float32) * (1 - weights)
    return tf.cast(tf.round(blended), tf.uint8), _blended(targets, share)


def cutmix(
    images: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, probability: float = 1.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Paste a rectangle of the next image of the batch into each image (Yun et al. 2019, "CutMix").

    Arguments and results are those of `mixup`. Targets are blended by the area that the rectangle covers inside the
    image.
    """
    share = _share(images, targets, keys, _CUTMIX, probability)
    height, width = images.shape[1:3]
    lengths = [tf.round(tf.sqrt(1 - share) * side) for side in (height, width)]
    mask = rectangles(Draws(state_of(keys, images)), _CUTMIX + 2, lengths, (height, width))
    covered = lengths[0] / height * (lengths[1] / width)
    return tf.where(mask[..., None], _next(images), images), _blended(targets, 1 - covered)


def _share(images: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, first: int, probability: float) -> tf.Tensor:
    """Draw the share of each image that stays, f64[b] in 0..1. 1: the image is not mixed."""
    if not 0 <= probability <= 1:
        raise UserError(f"probability={probability}: must be from 0 to 1.")
    if images.dtype != tf.uint8 or len(targets.shape) != 2:
        raise UserError(
            f"images of {images.dtype!r}, targets of shape {targets.shape}: images must be uint8, and targets must have"
            " the shape (batch size, number of classes). Make targets from labels with tf.one_hot(labels, number of"
            " classes), or labels[:, None] for two classes."
        )
    draw = Draws(state_of(keys, images))
    return tf.where(draw(first) < probability, draw(first + 1), tf.constant(1.0, tf.float64))


def _next(values: tf.Tensor) -> tf.Tensor:
    return tf.roll(values, -1, axis=0)


def _blended(targets: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    targets, weights = tf.cast(targets, tf.float32), tf.cast(share, tf.float32)[:, None]
    return targets * weights + _next(targets) * (1 - weights)
