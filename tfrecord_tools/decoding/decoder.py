"""Decode images fast, to the same pixels as `reference.decode_pixels` but without TensorFlow.

The pixels are equal bit for bit. There is one exception: versions of libjpeg smooth progressive JPEGs with missing
scans in different ways. The libraries release the GIL, so that threads decode in parallel.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from tfrecord_tools.base.sizes import Size
from tfrecord_tools.decoding.geometry import FILL, Box, Geometry
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
Encoded = bytes | memoryview


def decode(
    encoded: bytes,
    image_size: Size | Geometry,
    crop: float = 0.0,
    raw_size: int | None = None,
    fit: str | None = None,
) -> np.ndarray:
    """Decode an image and fit it into the input of a network.

    The pixels are the same as those of `reference.decode_pixels`.

    Args:
        encoded: A JPEG, PNG, GIF or BMP, or raw pixels.
        image_size: Height and width of the result in pixels. If it is a `Geometry`, `crop` and `fit` are not used.
        crop: As in `Geometry.of`. 0: the whole image is stretched.
        raw_size: Height and width of raw pixels. None: the image is encoded.
        fit: As in `Geometry.of`.

    Returns:
        u8[height width 3], RGB, read-only.

    Raises:
        UndecodableImage: The bytes are not an image of these formats.
    """
    geometry = Geometry.of(image_size, crop, fit)
    pixels = np.empty(geometry.shape, np.uint8)
    decode_into(pixels, encoded, geometry, raw_size)
    pixels.setflags(write=False)
    return pixels


def decode_into(pixels: np.ndarray, encoded: Encoded, geometry: Geometry, raw_size: int | None = None) -> None:
    """Write the result of `decode` into `pixels`.

    Args:
        pixels: u8[height width 3], C-contiguous.
        encoded: As in `decode`.
        geometry: The input of the network.
        raw_size: As in `decode`.

    Raises:
        UndecodableImage: The bytes are not an image. The pixels are undefined.
    """
    if raw_size is not None:
        _decode_raw(pixels, encoded, geometry, raw_size)
    elif bytes(encoded[: len(jpeg.SIGNATURE)]) != jpeg.SIGNATURE:
        _decode_other(pixels, bytes(encoded), geometry)
    elif not decode_plain_jpeg_into(pixels, encoded, geometry):
        _decode_odd_jpeg(pixels, bytes(encoded), geometry)


def _decode_raw(pixels: np.ndarray, encoded: Encoded, geometry: Geometry, raw_size: int) -> None:
    if len(encoded) != raw_size * raw_size * 3:
        raise UndecodableImage(f"{len(encoded):,} bytes are not {raw_size} x {raw_size} raw RGB pixels")
    _fit(pixels, np.frombuffer(encoded, np.uint8).reshape(raw_size, raw_size, 3), geometry, (raw_size, raw_size))


def decode_plain_jpeg_into(pixels: np.ndarray, encoded: Encoded, geometry: Geometry) -> bool:
    """Decode a JPEG like `decode_into`.

    Returns:
        False: libjpeg warns, or TensorFlow may give other pixels. The pixels are then undefined.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(encoded)
        if colors not in _COLORS or min(height, width) < _LEAST_SIDE:
            return False
        scale = geometry.decoding_scale(height, width)
        # An image that needs no resizing is decoded to its place.
        is_fitted = geometry.is_kept(height, width, scale)
        image = simplejpeg.decode_jpeg(
            encoded,
            min_height=-(-height // scale),
            min_width=-(-width // scale),
            min_factor=scale,
            buffer=pixels if is_fitted else None,
        )
    except (ValueError, KeyError):  # KeyError: unknown subsampling.
        return False
    if not is_fitted:
        _fit(pixels, image, geometry, (height, width), scale)
    return True


def _decode_odd_jpeg(pixels: np.ndarray, encoded: bytes, geometry: Geometry) -> None:
    import tensorflow as tf  # Imported here: most images do not need it.

    from tfrecord_tools.decoding.reference import decode_pixels

    with _tensorflow(), tf.device("CPU:0"):
        pixels[:] = decode_pixels(tf.constant(encoded), geometry).numpy()


def _decode_other(pixels: np.ndarray, encoded: bytes, geometry: Geometry) -> None:
    import tensorflow as tf

    with _tensorflow(), tf.device("CPU:0"):
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
    _fit(pixels, image, geometry, image.shape[:2])


@contextlib.contextmanager
def _tensorflow() -> Iterator[None]:
    """Turn TensorFlow's error into UndecodableImage, without the names of internal operations."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        raise UndecodableImage(error.message.rpartition("}} ")[2].partition(" [Op:")[0].rstrip(". ")) from error


def _fit(pixels: np.ndarray, image: np.ndarray, geometry: Geometry, size: tuple[int, int], scale: int = 1) -> None:
    """Resize the used part of u8[h w 3], and write it to its place in `pixels`.

    Args:
        pixels: Input of the network, u8[height width 3].
        image: Image, decoded at 1 / scale.
        geometry: The input of the network.
        size: Height and width of the image at full scale.
        scale: Divisor at which the image was decoded.
    """
    top, left, height, width = geometry.place(*size)
    if (height, width) != pixels.shape[:2]:
        pixels[:] = FILL
    pixels[top : top + height, left : left + width] = resized(image, (height, width), geometry.part(*size), scale)


def resized(image: np.ndarray, sides: tuple[int, int], box: Box, scale: int = 1) -> np.ndarray:
    """Resize the part `box` of u8[h w 3] to `sides`, height and width.

    Args:
        image: Image, decoded at 1 / scale.
        sides: Height and width of the result.
        box: Part to use, in pixels of the image at full scale.
        scale: Divisor at which the image was decoded.
    """
    height, width, _ = image.shape
    top, left, box_height, box_width = (pixels / scale for pixels in box)
    if (height, width) == sides and box_height == height and box_width == width:
        return image
    if resizer is None:
        pixels: np.ndarray = _reference_resize()(image, sides, (top, left), (box_height, box_width)).numpy()
        return pixels
    if not hasattr(_local, "resizer"):
        _local.resizer = resizer.Resizer()
    options = resizer.ResizeOptions(
        resize_alg=resizer.ResizeAlg.convolution(resizer.FilterType.bilinear),
        crop_box=resizer.CropBox(left, top, box_width, box_height),
        use_alpha=False,
    )
    source = resizer.ImageData(width, height, resizer.PixelType.U8x3, image.tobytes())
    target = resizer.ImageData(sides[1], sides[0], resizer.PixelType.U8x3)
    _local.resizer.resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(*sides, 3)


@functools.cache
def _reference_resize() -> Callable[..., tf.Tensor]:
    """Return `reference.resize` as a graph."""
    import tensorflow as tf

    from tfrecord_tools.decoding.reference import resize

    def on_processor(image: tf.Tensor, sides: tf.Tensor, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):
            return resize(image, sides, start, extent)

    pair = tf.TensorSpec([2], tf.float64)
    graph: Callable[..., tf.Tensor] = tf.function(
        on_processor,
        [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int32), pair, pair],
        autograph=False,
    )
    return graph
