"""What the pixels of stored bytes are, for training, evaluation, prediction and export.

Here it stands as TensorFlow's operations, for graphs that must do without Python; `decoder.decode` gives the same bits
in a seventh of the time. That they can be the same is why images are resized by whole numbers.
"""

from __future__ import annotations

import functools

import tensorflow as tf

from tfrecord_tools.decoding.geometry import SCALES

_WEIGHT_BITS = 15  # The largest weight is the largest that fits into these, as in the crate fast_image_resize.
_MAX_BITS = 21  # Of the fraction of weights; likewise.


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
    if raw_size is not None:
        raw = tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [raw_size, raw_size, 3])
        return _resized(raw, image_size, tf.shape(raw)[:2], crop, 1)
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: _jpeg(encoded, image_size, crop),
        lambda: _other(encoded, image_size, crop),
    )


def _other(encoded: tf.Tensor, image_size: int, crop: float) -> tf.Tensor:
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return _resized(image, image_size, tf.shape(image)[:2], crop, 1)


def _jpeg(encoded: tf.Tensor, image_size: int, crop: float) -> tf.Tensor:
    """Decodes a JPEG at the scale of `geometry.decoding_scale`, by a transform that all decoders compute alike."""
    size = tf.io.extract_jpeg_shape(encoded)[:2]
    least = tf.reduce_min(_taken(size, crop)[1])
    number = sum(tf.cast(least >= scale * image_size, tf.int32) for scale in SCALES[1:])
    decode = functools.partial(tf.io.decode_jpeg, encoded, channels=3, dct_method="INTEGER_ACCURATE")
    image = tf.switch_case(number, [functools.partial(decode, ratio=scale) for scale in SCALES])
    return _resized(image, image_size, size, crop, tf.gather(SCALES, number))


def _taken(size: tf.Tensor, crop: float) -> tuple[tf.Tensor, tf.Tensor]:
    """`geometry.taken` of i32[2] height and width: i32[2] top and left, i32[2] height and width."""
    if not crop:
        return tf.zeros_like(size), size
    share = tf.cast(tf.reduce_min(size), tf.float64) * tf.constant(crop, tf.float64)
    side = tf.maximum(1, tf.cast(tf.round(share), tf.int32))
    return (size - side) // 2, tf.repeat(side, 2)


def _resized(image: tf.Tensor, side: int, size: tf.Tensor, crop: float, scale: tf.Tensor | int) -> tf.Tensor:
    """Resizes what is taken of u8[h w 3].

    Args:
        image: Decoded at 1 / scale.
        side: Of the result.
        size: i32[2], height and width of the image at its own scale: an odd one has no whole half.
        crop: As in `decode_pixels`.
        scale: As in `image`.
    """
    start, extent = (tf.cast(part, tf.float64) / tf.cast(scale, tf.float64) for part in _taken(size, crop))
    return resize(image, side, start, extent)


def resize(image: tf.Tensor, side: int, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """Resizes a part of u8[h w 3] to u8[side side 3].

    Args:
        image: Of which it is a part.
        side: Of the result.
        start: f64[2], top and left.
        extent: f64[2], height and width.
    """
    lower = _resized_height(image, side, start[0], extent[0])
    turned = _resized_height(tf.transpose(lower, [1, 0, 2]), side, start[1], extent[1])
    result = tf.transpose(turned, [1, 0, 2])
    result.set_shape([side, side, 3])
    return result


def _resized_height(image: tf.Tensor, side: int, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """Weighs the rows of u8[h w 3] from `start` on over `extent` rows, f64[] both, to u8[side w 3].

    The weights are those of Pillow's `Resampling.BILINEAR`: a triangle as wide as two new rows, or two old ones if
    those are wider. In whole numbers, with all bits that 16 have room for, sums are the same in any order.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    step = extent / side
    centres = start + (tf.range(side, dtype=tf.float64) + 0.5) * step - 0.5
    distances = tf.abs(tf.range(tf.cast(height, tf.float64), dtype=tf.float64) - centres[:, None])
    weights = tf.maximum(1 - distances * (1 / tf.maximum(step, 1)), 0)
    weights /= tf.reduce_sum(weights, 1, keepdims=True)

    powers = 2.0 ** tf.range(1, _MAX_BITS + 1, dtype=tf.float64)
    bits = tf.math.count_nonzero(_whole(tf.reduce_max(weights) * powers) < 2.0**_WEIGHT_BITS, dtype=tf.float64)
    one = 2.0**bits
    rows = tf.reshape(tf.cast(image, tf.float64), [height, width * 3])
    # Sparse, since a new row needs few of the old ones.
    sums = tf.sparse.sparse_dense_matmul(tf.sparse.from_dense(_whole(weights * one)), rows)
    return tf.reshape(tf.saturate_cast(tf.floor((sums + one / 2) / one), tf.uint8), [side, width, 3])


def _whole(values: tf.Tensor) -> tf.Tensor:
    """Rounds numbers that are not negative, halves up."""
    return tf.floor(values + 0.5)
