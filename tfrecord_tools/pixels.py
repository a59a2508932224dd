"""The one way from stored bytes to pixels: training, evaluation, prediction and export share it."""

from __future__ import annotations

import tensorflow as tf


def decode_pixels(encoded: tf.Tensor, image_size: int) -> tf.Tensor:
    """Decodes an image and stretches it to a square, antialiased.

    Args:
        encoded: string[], a JPEG, PNG, GIF or BMP.
        image_size: Height and width of the result in pixels.

    Returns:
        u8[image_size image_size 3], RGB.
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    image = tf.image.resize(image, [image_size, image_size], antialias=True)
    return tf.saturate_cast(tf.round(image), tf.uint8)
