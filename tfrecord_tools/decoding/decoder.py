"""Fast decoding to the same pixels as `reference.decode_pixels`, without TensorFlow's operations.

The pixels are equal bit for bit, except for progressive JPEGs with missing scans: versions of libjpeg smooth them in
different ways. The libraries release the GIL, so that threads decode in parallel.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from tfrecord_tools.decoding import geometry
from tfrecord_tools.decoding.geometry import Box
from tfrecord_tools.errors import UndecodableImage
from tfrecord_tools.images import jpeg

if TYPE_CHECKING:
    import tensorflow as tf

try:
    import cykooz_resizer as resizer
except ImportError:  # No build for this machine: `reference.resize` is used, which takes thirty times as long.
    resizer = None

_COLORS = ("YCbCr", "Gray", "RGB")  # All decoders convert these to the same RGB.
_LEAST_SIDE = 8  # If a side is shorter, two scales can give the same size, and simplejpeg may use the wrong one.
_local = threading.local()


def decode(encoded: bytes, image_size: int, crop: float = 0.0, raw_size: int | None = None) -> np.ndarray:
    """Decode an image and resize it to a square, with the same bits as `reference.decode_pixels`.

    Args:
        encoded: A JPEG, PNG, GIF or BMP, or raw pixels.
        image_size: Height and width of the result in pixels.
        crop: Side of the central square to use, as a fraction of the shorter side, in 0..1. 0: the whole image,
            stretched to a square.
        raw_size: Height and width of raw pixels. None: the image is encoded.

    Returns:
        u8[image_size image_size 3], RGB, read-only.

    Raises:
        UndecodableImage: The bytes are not an image of these formats.
    """
    if raw_size is not None:
        return _raw(encoded, image_size, crop, raw_size)
    if not encoded.startswith(jpeg.SIGNATURE):
        return _other(encoded, image_size, crop)
    pixels = decode_plain_jpeg(encoded, image_size, crop)
    return _odd_jpeg(encoded, image_size, crop) if pixels is None else pixels


def _raw(encoded: bytes, image_size: int, crop: float, raw_size: int) -> np.ndarray:
    if len(encoded) != raw_size * raw_size * 3:
        raise UndecodableImage(f"{len(encoded):,} bytes are not {raw_size} x {raw_size} raw RGB pixels")
    image = np.frombuffer(encoded, np.uint8).reshape(raw_size, raw_size, 3)
    return resized(image, image_size, geometry.crop_box(raw_size, raw_size, crop))


def decode_plain_jpeg(encoded: bytes, image_size: int, crop: float) -> np.ndarray | None:
    """Decode a JPEG like `decode`; return None if libjpeg warns, or if TensorFlow may give other pixels."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(encoded)
        if colors not in _COLORS or min(height, width) < _LEAST_SIDE:
            return None
        box = geometry.crop_box(height, width, crop)
        scale = geometry.decoding_scale(box, image_size)
        least_height, least_width = -(-height // scale), -(-width // scale)
        image = simplejpeg.decode_jpeg(encoded, min_height=least_height, min_width=least_width, min_factor=scale)
    except (ValueError, KeyError):  # KeyError: unknown subsampling.
        return None
    return resized(image, image_size, box, scale)


def _odd_jpeg(encoded: bytes, image_size: int, crop: float) -> np.ndarray:
    import tensorflow as tf  # Imported here: most images do not need it.

    from tfrecord_tools.decoding.reference import decode_pixels

    with _tensorflow(), tf.device("CPU:0"):
        decoded: np.ndarray = decode_pixels(tf.constant(encoded), image_size, crop).numpy()
    return decoded


def _other(encoded: bytes, image_size: int, crop: float) -> np.ndarray:
    import tensorflow as tf

    with _tensorflow(), tf.device("CPU:0"):
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
    height, width, _ = image.shape
    return resized(image, image_size, geometry.crop_box(height, width, crop))


@contextlib.contextmanager
def _tensorflow() -> Iterator[None]:
    """Turn TensorFlow's error into UndecodableImage, without the names of internal operations."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        raise UndecodableImage(error.message.rpartition("}} ")[2].partition(" [Op:")[0].rstrip(". ")) from error


def resized(image: np.ndarray, side: int, box: Box, scale: int = 1) -> np.ndarray:
    """Resize the part `box` of u8[h w 3] to u8[side side 3].

    Args:
        image: Image, decoded at 1 / scale.
        side: Height and width of the result.
        box: Part to use, in pixels of the image at full scale.
        scale: Divisor at which the image was decoded.
    """
    height, width, _ = image.shape
    if (height, width, *box) == (side, side, 0, 0, side, side):
        return image
    top, left, box_height, box_width = (pixels / scale for pixels in box)
    if resizer is None:
        pixels: np.ndarray = _reference_resize(side)(image, (top, left), (box_height, box_width)).numpy()
        return pixels
    if not hasattr(_local, "resizer"):
        _local.resizer = resizer.Resizer()
    options = resizer.ResizeOptions(
        resize_alg=resizer.ResizeAlg.convolution(resizer.FilterType.bilinear),
        crop_box=resizer.CropBox(left, top, box_width, box_height),
        use_alpha=False,
    )
    source = resizer.ImageData(width, height, resizer.PixelType.U8x3, image.tobytes())
    target = resizer.ImageData(side, side, resizer.PixelType.U8x3)
    _local.resizer.resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(side, side, 3)


@functools.cache
def _reference_resize(side: int) -> Callable[..., tf.Tensor]:
    """Return `reference.resize` as a graph."""
    import tensorflow as tf

    from tfrecord_tools.decoding.reference import resize

    def on_processor(image: tf.Tensor, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):
            return resize(image, side, start, extent)

    pair = tf.TensorSpec([2], tf.float64)
    graph: Callable[..., tf.Tensor] = tf.function(
        on_processor, [tf.TensorSpec([None, None, 3], tf.uint8), pair, pair], autograph=False
    )
    return graph
