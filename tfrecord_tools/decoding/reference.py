"""Define how a stored image becomes pixels, for training, evaluation, prediction and export.

This module has the definition as TensorFlow operations, for graphs without Python. `decoder.decode` gives the same bits
in a seventh of the time. Resizing uses integer weights, so that both can give the same bits.
"""

from __future__ import annotations

import functools

import tensorflow as tf

from tfrecord_tools.decoding.geometry import SCALES

# As in the Rust crate fast_image_resize: weights have as many fractional bits as possible, at most 21. The limit is
# that the largest weight must fit into 15 bits.
_WEIGHT_BITS = 15
_MAX_BITS = 21


def decode_pixels(encoded: tf.Tensor, image_size: int, crop: float = 0.0, raw_size: int | None = None) -> tf.Tensor:
    """Decode an image and resize it to a square, antialiased.

    Args:
        encoded: string[], a JPEG, PNG, GIF or BMP, or raw pixels.
        image_size: Height and width of the result in pixels.
        crop: Side of the central square to use, as a fraction of the shorter side, in 0..1. 0: the whole image is
            stretched to a square, as Keras's `flow_from_directory` does.
        raw_size: Height and width of raw pixels, u8[h w 3]. None: the image is encoded.

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
    """Decode a JPEG at the scale of `geometry.decoding_scale`, to the same bits as `decoder.decode`."""
    size = tf.io.extract_jpeg_shape(encoded)[:2]
    least = tf.reduce_min(_crop_box(size, crop)[1])
    number = sum(tf.cast(least >= scale * image_size, tf.int32) for scale in SCALES[1:])
    decode = functools.partial(tf.io.decode_jpeg, encoded, channels=3, dct_method="INTEGER_ACCURATE")
    image = tf.switch_case(number, [functools.partial(decode, ratio=scale) for scale in SCALES])
    return _resized(image, image_size, size, crop, tf.gather(SCALES, number))


def _crop_box(size: tf.Tensor, crop: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `geometry.crop_box` of i32[2] height and width: i32[2] top and left, i32[2] height and width."""
    if not crop:
        return tf.zeros_like(size), size
    length = tf.cast(tf.reduce_min(size), tf.float64) * tf.constant(crop, tf.float64)
    side = tf.maximum(1, tf.cast(tf.round(length), tf.int32))
    return (size - side) // 2, tf.repeat(side, 2)


def _resized(image: tf.Tensor, side: int, size: tf.Tensor, crop: float, scale: tf.Tensor | int) -> tf.Tensor:
    """Resize the cropped region of u8[h w 3].

    Args:
        image: Image, decoded at 1 / scale.
        side: Height and width of the result.
        size: i32[2], height and width of the image at full scale. They cannot be computed from
            `image`, because the decoder rounds up.
        crop: As in `decode_pixels`.
        scale: Divisor at which the image was decoded.
    """
    start, extent = (tf.cast(part, tf.float64) / tf.cast(scale, tf.float64) for part in _crop_box(size, crop))
    return resize(image, side, start, extent)


def resize(image: tf.Tensor, side: int, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """Resize a part of u8[h w 3] to u8[side side 3].

    Args:
        image: The whole image.
        side: Height and width of the result.
        start: f64[2], top and left of the part in pixels.
        extent: f64[2], height and width of the part in pixels.
    """
    # Only float32 is transposed: for integers, oneDNN prints an error on processors without AVX-512. TensorFlow's
    # optimizer would exchange a transpose and a cast, but not a transpose and `saturate_cast`.
    columns = _resized_height(image, side, start[0], extent[0])
    transposed = _resized_height(tf.transpose(columns, [1, 0, 2]), side, start[1], extent[1])
    result = tf.saturate_cast(tf.transpose(transposed, [1, 0, 2]), tf.uint8)
    result.set_shape([side, side, 3])
    return result


def _resized_height(image: tf.Tensor, side: int, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """Resize the rows from `start` (f64[]) of [h w 3] to f32[side w 3], integers in 0..255.

    `extent`, f64[], is the number of rows.

    The weights are those of Pillow's `Resampling.BILINEAR`: a triangle as wide as two new rows, or two old rows if
    those are wider. Sums of integers are exact, so their order does not matter.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    step = extent / side
    centers = start + (tf.range(side, dtype=tf.float64) + 0.5) * step - 0.5
    distances = tf.abs(tf.range(tf.cast(height, tf.float64), dtype=tf.float64) - centers[:, None])
    weights = tf.maximum(1 - distances * (1 / tf.maximum(step, 1)), 0)
    weights /= tf.reduce_sum(weights, 1, keepdims=True)

    powers = 2.0 ** tf.range(1, _MAX_BITS + 1, dtype=tf.float64)
    bits = tf.math.count_nonzero(_rounded(tf.reduce_max(weights) * powers) < 2.0**_WEIGHT_BITS, dtype=tf.float64)
    unit = 2.0**bits
    rows = tf.reshape(tf.cast(image, tf.float64), [height, width * 3])
    # Sparse, since a new row needs only few old rows.
    sums = tf.sparse.sparse_dense_matmul(tf.sparse.from_dense(_rounded(weights * unit)), rows)
    levels = tf.clip_by_value(tf.floor((sums + unit / 2) / unit), 0.0, 255.0)
    return tf.reshape(tf.cast(levels, tf.float32), [side, width, 3])


def _rounded(values: tf.Tensor) -> tf.Tensor:
    """Round numbers that are not negative to integers, halves up."""
    return tf.floor(values + 0.5)
