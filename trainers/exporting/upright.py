"""Turn decoded JPEGs upright by their EXIF orientation, with TensorFlow operations only.

An exported graph cannot call Python.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.decoding.reference import decode_pixels

_SEARCHED = 1 << 18  # EXIF is searched in this number of bytes at the start of a file. Cameras write it first.
_START_OF_SCAN, _END, _APP1, _FILL = 0xDA, 0xD9, 0xE1, 0xFF  # Markers of a JPEG.
_EXIF = tuple(b"Exif\0\0")
_LITTLE_ENDIAN = ord("I")
_ORIENTATION, _LONG = 0x0112, 4  # EXIF 2.32: a tag, and the type with 4 bytes. Other types are read as 2 bytes.
_ENTRY_BYTES = 12


def decoded(encoded: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Decode a file to the input of a network, turned upright by its EXIF orientation.

    The small result is turned, which is faster than to turn the large image. Both give the same pixels, except that a
    JPEG that is decoded at 1/2, 1/4 or 1/8 differs by up to 5 of 255 levels.

    Args:
        encoded: string[], the file. Files that are not JPEGs are not turned.
        geometry: The input of the network.

    Returns:
        u8[height width 3].
    """
    number = orientation(encoded)
    swapped = dataclasses.replace(geometry, height=geometry.width, width=geometry.height)
    rows, columns = _is_in(number, 3, 4, 7, 8), _is_in(number, 2, 3, 6, 7)  # Whether they are reversed.
    pixels = tf.cond(
        number < 5,
        lambda: decode_pixels(encoded, geometry, mirrored=tf.stack([rows, columns])),
        lambda: _transposed(decode_pixels(encoded, swapped, mirrored=tf.stack([columns, rows]))),
    )
    pixels = tf.cond(columns, lambda: pixels[:, ::-1], lambda: pixels)
    return tf.cond(rows, lambda: pixels[::-1], lambda: pixels)


def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Return the EXIF orientation of a file, i32[] in 1..8. It is 1 if the file is not a JPEG or has none."""
    head = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, _SEARCHED), tf.uint8), tf.int32)
    size = tf.size(head)
    padded = tf.pad(head, [[0, 1]])

    def byte(position: tf.Tensor) -> tf.Tensor:
        """Return the byte at a position, or 0 if it is outside of the file."""
        return tf.gather(padded, tf.where((position >= 0) & (position < size), position, size))

    def is_exif(position: tf.Tensor) -> tf.Tensor:
        return (byte(position + 1) == _APP1) & tf.reduce_all(byte(position + 4 + tf.range(len(_EXIF))) == _EXIF)

    def is_other_segment(position: tf.Tensor) -> tf.Tensor:
        marker = byte(position + 1)
        last = (marker == _START_OF_SCAN) | (marker == _END)
        return (byte(position) == _FILL) & ~last & ~is_exif(position)

    def next_segment(position: tf.Tensor) -> tf.Tensor:
        length = 256 * byte(position + 2) + byte(position + 3)
        return position + tf.where(byte(position + 1) == _FILL, 1, 2 + tf.maximum(length, 2))

    is_jpeg = (byte(tf.constant(0)) == 0xFF) & (byte(tf.constant(1)) == 0xD8)
    (segment,) = tf.while_loop(
        is_other_segment, lambda position: [next_segment(position)], [tf.where(is_jpeg, 2, size)]
    )
    found = is_exif(segment)
    tiff = segment + 4 + len(_EXIF)
    is_little = byte(tiff) == _LITTLE_ENDIAN

    def short(position: tf.Tensor) -> tf.Tensor:
        first, second = byte(position), byte(position + 1)
        return tf.where(is_little, first + 256 * second, 256 * first + second)

    def long(position: tf.Tensor) -> tf.Tensor:
        first, second = short(position), short(position + 2)
        return tf.where(is_little, first + 65536 * second, 65536 * first + second)

    directory = tiff + tf.clip_by_value(long(tiff + 4), 0, size)
    count = tf.minimum(short(directory), size // _ENTRY_BYTES)
    entries = directory + 2 + _ENTRY_BYTES * tf.range(count)
    values = tf.where(short(entries + 2) == _LONG, long(entries + 8), short(entries + 8))
    value = tf.reduce_max(tf.where(short(entries) == _ORIENTATION, values, 0))  # Without entries: the lowest i32.
    return tf.where(found & (value >= 1) & (value <= 8), value, 1)


def _transposed(pixels: tf.Tensor) -> tf.Tensor:
    # As in `reference.resize`: oneDNN prints errors when it transposes integers.
    return tf.saturate_cast(tf.transpose(tf.cast(pixels, tf.float32), [1, 0, 2]), tf.uint8)


def _is_in(number: tf.Tensor, *numbers: int) -> tf.Tensor:
    return tf.reduce_any(number == numbers)
