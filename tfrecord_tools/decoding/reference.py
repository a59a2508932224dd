"""Define how a stored image becomes pixels, for training, evaluation, prediction and export.

This module uses only TensorFlow operations, so that graphs without Python can contain it. `decoder.decode` gives the
same pixels, bit for bit, in a seventh of the time. For this, resizing uses integer weights.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

from tfrecord_tools.base.sizes import Size
from tfrecord_tools.decoding.geometry import FILL, SCALES, Geometry

# As in the Rust crate fast_image_resize: weights have as many fractional bits as possible, at most 21. The limit is
# that the largest weight must fit into 15 bits.
_WEIGHT_BITS = 15
_MAX_BITS = 21
Sides: TypeAlias = Sequence[int] | tf.Tensor  # Height and width: known numbers, or i32[2].


def decode_pixels(
    encoded: tf.Tensor,
    image_size: Size | Geometry,
    crop: float = 0.0,
    raw_size: int | None = None,
    fit: str | None = None,
    mirrored: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decode an image and fit it into the input of a network, antialiased.

    Args:
        encoded: string[], a JPEG, PNG, GIF or BMP, or raw pixels.
        image_size: Height and width of the result in pixels. If it is a `Geometry`, `crop` and `fit` are not used.
        crop: As in `Geometry.of`. 0: the whole image is stretched, as Keras's `flow_from_directory` does.
        raw_size: Height and width of raw pixels, u8[h w 3]. None: the image is encoded.
        fit: As in `Geometry.of`.
        mirrored: bool[2], whether the caller will reverse the rows and the columns of the result. The result is then
            that of a mirrored image: an odd pixel beside the used part is at the other side. None: neither.

    Returns:
        u8[height width 3], RGB.
    """
    geometry = Geometry.of(image_size, crop, fit)
    if raw_size is not None:
        raw = tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [raw_size, raw_size, 3])
        return _fitted(raw, geometry, tf.shape(raw)[:2], 1, mirrored)
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: _jpeg(encoded, geometry, mirrored),
        lambda: _other(encoded, geometry, mirrored),
    )


def _other(encoded: tf.Tensor, geometry: Geometry, mirrored: tf.Tensor | None) -> tf.Tensor:
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return _fitted(image, geometry, tf.shape(image)[:2], 1, mirrored)


def _jpeg(encoded: tf.Tensor, geometry: Geometry, mirrored: tf.Tensor | None) -> tf.Tensor:
    """Decode a JPEG at the scale of `Geometry.decoding_scale`, to the same bits as `decoder.decode`."""
    size = tf.io.extract_jpeg_shape(encoded)[:2]
    extent, sides = _part(size, geometry)[1], tf.convert_to_tensor(_sides(size, geometry))
    number = sum(tf.cast(tf.reduce_all(extent >= scale * sides), tf.int32) for scale in SCALES[1:])
    decode = functools.partial(tf.io.decode_jpeg, encoded, channels=3, dct_method="INTEGER_ACCURATE")
    image = tf.switch_case(number, [functools.partial(decode, ratio=scale) for scale in SCALES])
    return _fitted(image, geometry, size, tf.gather(SCALES, number), mirrored)


def _part(size: tf.Tensor, geometry: Geometry) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `Geometry.part` of i32[2] height and width: i32[2] top and left, i32[2] height and width."""
    if geometry.fit != "crop":
        return tf.zeros_like(size), size
    height, width = tf.unstack(tf.cast(size, tf.float64))
    wide = height * geometry.width <= width * geometry.height
    rows = tf.where(wide, height, width * geometry.height / geometry.width)
    columns = tf.where(wide, height * geometry.width / geometry.height, width)
    lengths = tf.stack([rows, columns]) * tf.constant(geometry.crop, tf.float64)
    sides = tf.maximum(1, tf.cast(tf.round(lengths), tf.int32))
    return (size - sides) // 2, sides


def _sides(size: tf.Tensor, geometry: Geometry) -> Sides:
    """Return height and width of `Geometry.place` of i32[2] height and width."""
    if geometry.fit != "pad":
        return geometry.height, geometry.width
    height, width = tf.unstack(tf.cast(size, tf.float64))
    rows, columns = (tf.constant(side, tf.float64) for side in (geometry.height, geometry.width))
    wide = width * rows >= height * columns
    fitted_rows = tf.where(wide, tf.round(height * columns / width), rows)
    fitted_columns = tf.where(wide, columns, tf.round(width * rows / height))
    return tf.maximum(1, tf.cast(tf.stack([fitted_rows, fitted_columns]), tf.int32))


def _fitted(
    image: tf.Tensor, geometry: Geometry, size: tf.Tensor, scale: tf.Tensor | int, mirrored: tf.Tensor | None
) -> tf.Tensor:
    """Resize the used part of u8[h w 3], and put it in its place.

    Args:
        image: Image, decoded at 1 / scale.
        geometry: The input of the network.
        size: i32[2], height and width of the image at full scale. They cannot be computed from
            `image`, because the decoder rounds up.
        scale: Divisor at which the image was decoded.
        mirrored: As in `decode_pixels`.
    """
    start, extent = _part(size, geometry)
    if mirrored is not None:
        start = tf.where(mirrored, size - extent - start, start)
    start, extent = (tf.cast(part, tf.float64) / tf.cast(scale, tf.float64) for part in (start, extent))
    sides = _sides(size, geometry)
    resized = resize(image, sides, start, extent)
    if geometry.fit != "pad":
        return resized
    missing = tf.constant([geometry.height, geometry.width]) - sides
    before = missing // 2
    if mirrored is not None:
        before = tf.where(mirrored, missing - before, before)
    around = tf.pad(tf.stack([before, missing - before], 1), [[0, 1], [0, 0]])  # i32[3 2], with no channel.
    padded = tf.pad(resized, around, constant_values=FILL)
    padded.set_shape(geometry.shape)
    return padded


def resize(image: tf.Tensor, sides: Sides, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """Resize a part of u8[h w 3] to u8[height width 3].

    Args:
        image: The whole image.
        sides: Height and width of the result.
        start: f64[2], top and left of the part in pixels.
        extent: f64[2], height and width of the part in pixels.
    """
    height, width = tf.unstack(sides) if tf.is_tensor(sides) else sides
    # Only float32 is transposed: for integers, oneDNN prints an error on processors without AVX-512. TensorFlow's
    # optimizer would exchange a transpose and a cast, but not a transpose and `saturate_cast`.
    columns = _resized_height(image, height, start[0], extent[0])
    transposed = _resized_height(tf.transpose(columns, [1, 0, 2]), width, start[1], extent[1])
    result = tf.saturate_cast(tf.transpose(transposed, [1, 0, 2]), tf.uint8)
    if not tf.is_tensor(sides):
        result.set_shape([height, width, 3])
    return result


def _resized_height(image: tf.Tensor, side: int | tf.Tensor, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """Resize the rows from `start` (f64[]) of [h w 3] to f32[side w 3], integers in 0..255.

    `side` is a known number or i32[]. `extent`, f64[], is the number of rows.

    The weights are those of Pillow's `Resampling.BILINEAR`: a triangle as wide as two new rows, or two old rows if
    those are wider. Sums of integers are exact, so their order does not matter.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    count = tf.cast(side, tf.float64) if tf.is_tensor(side) else side
    step = extent / count
    centers = start + (tf.range(count, dtype=tf.float64) + 0.5) * step - 0.5
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
