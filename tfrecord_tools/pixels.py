"""The one way from stored bytes to pixels: training, evaluation, prediction and export share it."""

from __future__ import annotations

import tensorflow as tf


def decode_pixels(encoded: tf.Tensor, image_size: int, crop: float = 0.0, raw_size: int | None = None) -> tf.Tensor:
    """Decodes an image and resizes it to a square, antialiased.

    Args:
        encoded: string[], a JPEG, PNG, GIF or BMP, or raw pixels.
        image_size: Height and width of the result in pixels.
        crop: 0: the whole image is stretched to the square, as Keras's `flow_from_directory` does. Above 0, to 1:
            its central square is taken, with sides of this share of the shorter side; nothing is distorted.
        raw_size: Height and width of raw pixels, u8[h w 3]; None: they are encoded.

    Returns:
        u8[image_size image_size 3], RGB.
    """
    if raw_size is None:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
    else:
        image = tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [raw_size, raw_size, 3])
    if crop:
        image = _central_square(image, crop)
    if image.shape == (image_size, image_size, 3):
        return image
    image = tf.image.resize(image, [image_size, image_size], antialias=True)
    return tf.saturate_cast(tf.round(image), tf.uint8)


def _central_square(image: tf.Tensor, share: float) -> tf.Tensor:
    """Cuts u8[h w 3] to u8[s s 3], s = `share` of the shorter side, at least 1."""
    shape = tf.shape(image)[:2]
    side = tf.maximum(1, tf.cast(tf.round(tf.cast(tf.reduce_min(shape), tf.float32) * share), tf.int32))
    start = (shape - side) // 2
    return tf.image.crop_to_bounding_box(image, start[0], start[1], side, side)
