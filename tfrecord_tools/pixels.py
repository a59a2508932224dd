"""The one way from stored bytes to pixels: training, evaluation, prediction and export share it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

_SCALES = (1, 2, 4, 8)  # At which libjpeg decodes without decoding the rest.


def decode_pixels(encoded: tf.Tensor, image_size: int, crop: float = 0.0, raw_size: int | None = None) -> tf.Tensor:
    """Decodes an image and resizes it to a square, antialiased.

    Of a JPEG only what is needed is decoded: the crop, at the smallest scale that is not below the size wanted.

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
        image = tf.cond(
            tf.io.is_jpeg(encoded),
            lambda: _decode_jpeg(encoded, image_size, crop),
            lambda: _cropped(tf.io.decode_image(encoded, channels=3, expand_animations=False), crop),
        )
        image.set_shape([None, None, 3])
    else:
        image = _cropped(tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [raw_size, raw_size, 3]), crop)
    return _resized(image, image_size)


def _resized(image: tf.Tensor, side: int) -> tf.Tensor:
    """Shrinks u8[h w 3] by the mean of the area of each new pixel, or enlarges it bilinearly, to a square.

    The mean is an antialiasing filter that takes a quarter of the time of `tf.image.resize(antialias=True)`;
    benchmarks.read prints how near both are to Pillow. What has the size already passes as it is.
    """
    size = tf.shape(image)[:2]

    def resize(operation: Callable[..., tf.Tensor], **options: bool) -> tf.Tensor:
        resized = operation(images=image[None], size=[side, side], **options)[0]
        return tf.saturate_cast(tf.round(resized), tf.uint8)

    result = tf.case(
        [
            (tf.reduce_all(size == side), lambda: image),
            (tf.reduce_max(size) > side, lambda: resize(tf.raw_ops.ResizeArea)),
        ],
        default=lambda: resize(tf.raw_ops.ResizeBilinear, half_pixel_centers=True),
    )
    # Not in the branches: TensorFlow may evaluate those that are not taken, where a check of the shape would fail.
    result.set_shape([side, side, 3])
    return result


def _decode_jpeg(encoded: tf.Tensor, image_size: int, crop: float) -> tf.Tensor:
    size = tf.io.extract_jpeg_shape(encoded)[:2]
    box = _box(size, crop)
    least = tf.reduce_min(box[2:]) // image_size
    scale = sum(tf.cast(least >= scale, tf.int32) for scale in _SCALES[1:])

    def decode(scale: int) -> tf.Tensor:
        if not crop:
            return tf.io.decode_jpeg(encoded, channels=3, ratio=scale)
        return tf.image.decode_and_crop_jpeg(encoded, box // scale, channels=3, ratio=scale)

    return tf.switch_case(scale, [functools.partial(decode, scale) for scale in _SCALES])


def _cropped(image: tf.Tensor, crop: float) -> tf.Tensor:
    """Cuts the `_box` out of u8[h w 3]."""
    if not crop:
        return image
    top, left, height, width = tf.unstack(_box(tf.shape(image)[:2], crop))
    return image[top : top + height, left : left + width]


def _box(size: tf.Tensor, crop: float) -> tf.Tensor:
    """Top, left, height, width of what is taken of an image of i32[2] height and width; at least one pixel."""
    if not crop:
        return tf.concat([[0, 0], size], 0)
    side = tf.maximum(1, tf.cast(tf.round(tf.cast(tf.reduce_min(size), tf.float32) * crop), tf.int32))
    return tf.concat([(size - side) // 2, [side, side]], 0)
