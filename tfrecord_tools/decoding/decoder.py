"""The pixels that `reference.decode_pixels` defines, from libraries that are faster than TensorFlow's operations.

Both have the same bits, but of progressive JPEGs that lack scans: versions of libjpeg smooth those in different ways.
Python holds its lock only between calls of the libraries, so that threads decode side by side.
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
except ImportError:  # There is none for this machine: the definition is computed, which takes thirty times as long.
    resizer = None

_COLOURS = ("YCbCr", "Gray", "RGB")  # Of which all decoders make the same RGB.
_LEAST_SIDE = 8  # Of smaller ones, parts of one block, a scale is not found by the size that it gives.
_of_thread = threading.local()


def decode(encoded: bytes, image_size: int, crop: float = 0.0, raw_size: int | None = None) -> np.ndarray:
    """Decodes an image and resizes it to a square, as `reference.decode_pixels` does, to the bit.

    Args:
        encoded: A JPEG, PNG, GIF or BMP, or raw pixels.
        image_size: Height and width of the result in pixels.
        crop: 0 stretches the whole image; above 0, its central square with sides of this share of the shorter one.
        raw_size: Height and width of raw pixels; None: they are encoded.

    Returns:
        u8[image_size image_size 3], RGB; not to be written to.

    Raises:
        UndecodableImage: It is none of these.
    """
    if raw_size is not None:
        return _raw(encoded, image_size, crop, raw_size)
    if not encoded.startswith(jpeg.SIGNATURE):
        return _other(encoded, image_size, crop)
    pixels = decode_plain_jpeg(encoded, image_size, crop)
    return _odd_jpeg(encoded, image_size, crop) if pixels is None else pixels


def _raw(encoded: bytes, image_size: int, crop: float, raw_size: int) -> np.ndarray:
    if len(encoded) != raw_size * raw_size * 3:
        raise UndecodableImage(f"{len(encoded):,} bytes are no {raw_size} x {raw_size} raw pixels of three")
    image = np.frombuffer(encoded, np.uint8).reshape(raw_size, raw_size, 3)
    return _resized(image, image_size, geometry.taken(raw_size, raw_size, crop))


def decode_plain_jpeg(encoded: bytes, image_size: int, crop: float) -> np.ndarray | None:
    """`decode` of a JPEG that gives no warning; None of others, and of those that not all decoders decode alike."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        if colours not in _COLOURS or min(height, width) < _LEAST_SIDE:
            return None
        box = geometry.taken(height, width, crop)
        scale = geometry.decoding_scale(box, image_size)
        least_height, least_width = -(-height // scale), -(-width // scale)
        image = simplejpeg.decode_jpeg(encoded, min_height=least_height, min_width=least_width, min_factor=scale)
    except (ValueError, KeyError):  # KeyError: a subsampling that it does not know.
        return None
    return _resized(image, image_size, box, scale)


def _odd_jpeg(encoded: bytes, image_size: int, crop: float) -> np.ndarray:
    import tensorflow as tf  # For those that need it alone.

    from tfrecord_tools.decoding.reference import decode_pixels

    with _tensorflow(), tf.device("CPU:0"):
        decoded: np.ndarray = decode_pixels(tf.constant(encoded), image_size, crop).numpy()
    return decoded


def _other(encoded: bytes, image_size: int, crop: float) -> np.ndarray:
    import tensorflow as tf

    with _tensorflow(), tf.device("CPU:0"):
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
    height, width, _ = image.shape
    return _resized(image, image_size, geometry.taken(height, width, crop))


@contextlib.contextmanager
def _tensorflow() -> Iterator[None]:
    """Turns TensorFlow's error into that of `decode`, without what it says of its own workings."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        raise UndecodableImage(error.message.rpartition("}} ")[2].partition(" [Op:")[0].rstrip(". ")) from error


def _resized(image: np.ndarray, side: int, box: Box, scale: int = 1) -> np.ndarray:
    """Resizes a part of u8[h w 3], which was decoded at 1 / scale, to u8[side side 3]; `box` is in pixels of before."""
    height, width, _ = image.shape
    if (height, width, *box) == (side, side, 0, 0, side, side):
        return image
    top, left, box_height, box_width = (pixels / scale for pixels in box)
    if resizer is None:
        slowly: np.ndarray = _by_definition(side)(image, (top, left), (box_height, box_width)).numpy()
        return slowly
    if not hasattr(_of_thread, "resizer"):
        _of_thread.resizer = resizer.Resizer()
    options = resizer.ResizeOptions(
        resize_alg=resizer.ResizeAlg.convolution(resizer.FilterType.bilinear),
        crop_box=resizer.CropBox(left, top, box_width, box_height),
        use_alpha=False,
    )
    source = resizer.ImageData(width, height, resizer.PixelType.U8x3, image.tobytes())
    target = resizer.ImageData(side, side, resizer.PixelType.U8x3)
    _of_thread.resizer.resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(side, side, 3)


@functools.cache
def _by_definition(side: int) -> Callable[..., tf.Tensor]:
    """`pixels.resize` as a graph."""
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
