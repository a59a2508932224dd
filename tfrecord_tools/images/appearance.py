"""Measure how an image looks: brightness, contrast, sharpness and a hash for finding similar images.

The facts are computed from a gray thumbnail of 32 x 32 pixels. No neural network is used.

phash: Perceptual hash of 64 bits. Images that look alike have hashes that differ in few bits. It is defined as in
    `ImageHash.phash`. The 8 x 8 lowest frequencies of the thumbnail are computed by the discrete cosine transform
    (DCT-II). A bit is 1 if its coefficient is above the median of the 64 (Zauner, "Implementation and Benchmarking of
    Perceptual Image Hash Functions", 2010). The highest bit is the coefficient of the mean. The other bits follow row
    by row. Each row has one vertical frequency. The transform uses whole numbers, so all machines compute the same
    bits. The hash is 0 if it is unknown, or if the contrast of the image is too small for a meaningful hash.
brightness: Mean of the gray levels, 0..255.
contrast: Standard deviation of the gray levels, 0..127.5.
sharpness: Standard deviation of the Laplacian of the thumbnail, divided by `contrast`. 0: no details. Photographs have
    0.3 to 2. Only a blur that is wider than about 1/32 of the image lowers this number.
flat_share: The gray levels are divided into 16 equal bands. This is the fraction of the pixels in the most frequent
    band, 1/16..1.
gray: Whether the file has one channel. A gray picture in a file with three channels counts as colored: decoding the
    colors of a JPEG, even at 1/8 scale, would make the preparation of a photograph 7 to 13 % slower.

Unknown numbers are NaN.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from tfrecord_tools.images import jpeg, pillow, recode

SIDE = 32  # Pixels of the thumbnail's sides.
FACTS = np.dtype(
    [
        ("phash", "<u8"), ("brightness", "<f4"), ("contrast", "<f4"), ("sharpness", "<f4"), ("flat_share", "<f4"),
        ("gray", "?"),
    ]
)  # fmt: skip
UNKNOWN = (0, *(float("nan"),) * 4, False)  # The facts of an image that was not decoded.
MIN_CONTRAST = 4.0  # Below this contrast, compression noise decides the bits of the hash.
_ROW_SUM, _COLUMN_SUM = 128, 256  # Sums of the filter weights. With gray levels of 8 bits, products are below 2^23.
_FREQUENCIES = 8
# The transform is exact in float64, which has 53 bits. It needs 2 * 16 bits for the scale, 8 for the gray levels and 10
# for the sums.
_SCALE = 1 << 16
_MAX_KEPT = 1 << 16  # Pixels per image that wait for `facts`, to bound the memory.
_BANDS = 16  # A band has 16 levels.
_BLOCK = 12  # Number of images that are processed at once. Larger arrays would get new memory pages in each step.


class Thumbnail(NamedTuple):
    """A small gray version of an image. `facts` scales it to 32 x 32 pixels.

    Attributes:
        levels: u8[h w], gray levels of the small version.
        size: Width and height of the full image if `levels` is a JPEG that was decoded at a smaller scale. Otherwise
            width and height of `levels`.
        gray: Whether the image has one channel.
    """

    levels: np.ndarray
    size: tuple[int, int]
    gray: bool


def of_jpeg(small: np.ndarray, size: tuple[int, int], gray: bool) -> Thumbnail:
    """Return the thumbnail of a JPEG.

    Args:
        small: u8[h w 1], from `jpeg.decoded_small`.
        size: Width and height of the JPEG in pixels.
        gray: Whether the JPEG has one channel.
    """
    # `facts` scales it later: directly after decoding, the processor's caches are full of other data.
    thumbnail = Thumbnail(small[:, :, 0], size, gray)
    return thumbnail if small.size <= _MAX_KEPT else Thumbnail(_shrunk(thumbnail), (SIDE, SIDE), gray)


def _shrunk(thumbnail: Thumbnail) -> np.ndarray:
    """Return the levels of the thumbnail, u8[32 32].

    A JPEG decoder rounds sizes up: at 1/8 scale, 441 pixels become 56, but the image covers only 55.125 of the 56.
    """
    (height, width), (full_width, full_height) = thumbnail.levels.shape, thumbnail.size
    scale = max(1, round(8 * max(width, height) / max(full_width, full_height))) / 8
    rows = _triangles(height, min(height, full_height * scale), _ROW_SUM)
    columns = _triangles(width, min(width, full_width * scale), _COLUMN_SUM)
    # Whole numbers below 2^24 are exact in float32, so that all machines compute the same pixels.
    levels = rows @ thumbnail.levels.astype(np.float32) @ columns.T
    levels *= 1 / (_ROW_SUM * _COLUMN_SUM)
    levels += 0.5
    return levels.astype(np.uint8)


@functools.lru_cache(maxsize=4096)  # Sides repeat more often than pairs of sides.
def _triangles(count: int, covered: float, total: int) -> np.ndarray:
    """Return f32[32 count], a triangle filter for each of 32 pixels over the first `covered` pixels.

    The weights of each filter are whole numbers and have the sum `total`. The filter is that of Pillow's `BILINEAR`.
    """
    step = covered / SIDE
    centers = (np.arange(SIDE) + 0.5) * step
    weights = np.maximum(0, 1 - np.abs(np.arange(count) + 0.5 - centers[:, None]) / max(step, 1))
    weights = np.rint(weights * (total / weights.sum(axis=1, keepdims=True)))
    weights[np.arange(SIDE), weights.argmax(axis=1)] += total - weights.sum(axis=1)
    return weights.astype(np.float32)


def of_image(image: Image.Image) -> Thumbnail:
    """Return the thumbnail of the pixels that the trainers decode (`recode.as_decoded`)."""
    plain = recode.as_decoded(image)
    small = plain.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return Thumbnail(np.asarray(small), (SIDE, SIDE), plain.mode == "L")


def facts(thumbnails: Sequence[Thumbnail]) -> np.ndarray:
    """Return FACTS[n], the facts of n thumbnails."""
    result = np.zeros(len(thumbnails), FACTS)
    for start in range(0, len(thumbnails), _BLOCK):
        block = thumbnails[start : start + _BLOCK]
        _compute(np.stack([_shrunk(thumbnail) for thumbnail in block]), result[start : start + _BLOCK])
    result["gray"] = [thumbnail.gray for thumbnail in thumbnails]
    return result


def facts_of(images: Sequence[bytes], shapes: Sequence[tuple[int, int]] | None = None) -> np.ndarray:
    """Compute the facts of stored images, for datasets with an index that does not contain these facts.

    Args:
        images: The stored bytes of n images: JPEG, PNG, or raw pixels u8[h w 3].
        shapes: Height and width of raw pixels; (0, 0) for encoded images. None: all images are encoded.

    Returns:
        FACTS[n]; `UNKNOWN` where an image cannot be decoded.
    """
    with pillow.unlimited():
        found = [_thumbnail(data, shape) for data, shape in zip(images, shapes or [(0, 0)] * len(images))]
    result = np.full(len(images), np.array(UNKNOWN, FACTS))
    known = [i for i, thumbnail in enumerate(found) if thumbnail is not None]
    result[known] = facts([thumbnail for thumbnail in found if thumbnail is not None])
    return result


def _thumbnail(data: bytes, shape: tuple[int, int]) -> Thumbnail | None:
    height, width = shape
    if height:
        return of_image(Image.frombytes("RGB", (width, height), data))
    frame = jpeg.plain_frame(data) if data.startswith(jpeg.SIGNATURE) else None
    if frame is not None and (small := jpeg.decoded_small(data)) is not None:
        return of_jpeg(small, frame[:2], frame.components == 1)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft(None, (8 * SIDE, 8 * SIDE))
            return of_image(image)
    except Exception:  # noqa: BLE001  Pillow's parsers and their libraries may raise anything.
        return None


def _compute(pixels: np.ndarray, result: np.ndarray) -> None:
    """Compute the facts of the thumbnails `pixels`, u8[n 32 32], except `gray`. Write them to `result`."""
    count = len(pixels)
    levels = pixels.astype(np.float64)
    flat = levels.reshape(count, -1)
    mean = flat.mean(1)
    contrast = np.sqrt(np.maximum(np.einsum("ij,ij->i", flat, flat) / SIDE**2 - mean**2, 0))
    result["brightness"], result["contrast"] = mean, contrast
    result["sharpness"] = np.where(contrast > 0, _details(pixels) / np.maximum(contrast, 1), 0)
    cells = (pixels.reshape(count, -1) >> 4) + np.arange(0, _BANDS * count, _BANDS)[:, None]
    bands = np.bincount(cells.reshape(-1), minlength=_BANDS * count)
    result["flat_share"] = bands.reshape(count, _BANDS).max(1) / SIDE**2
    result["phash"] = np.where(contrast < MIN_CONTRAST, 0, _hashes(levels))


def _details(pixels: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the Laplacian (4 neighbors, without the border), f64[n]."""
    levels = pixels.astype(np.int16).reshape(-1)
    laplacian = 4 * levels
    for step in (1, SIDE):  # On contiguous arrays, this is three times faster. Only the border gets wrong neighbors.
        laplacian[step:] -= levels[:-step]
        laplacian[:-step] -= levels[step:]
    inner = laplacian.reshape(-1, SIDE, SIDE)[:, 1:-1, 1:-1]
    values = inner.astype(np.float64).reshape(len(pixels), -1)
    variance = np.einsum("ij,ij->i", values, values) / values.shape[1] - values.mean(1) ** 2
    return np.asarray(np.sqrt(np.maximum(variance, 0)))


def _hashes(levels: np.ndarray) -> np.ndarray:
    """Return the hashes u64[n] of gray levels f64[n 32 32]."""
    count = len(levels)
    basis = _basis()
    rows = (levels.reshape(-1, SIDE) @ basis).reshape(count, SIDE, _FREQUENCIES)
    coefficients = rows.transpose(0, 2, 1).reshape(-1, SIDE) @ basis
    low = coefficients.reshape(count, _FREQUENCIES, _FREQUENCIES).transpose(0, 2, 1).reshape(count, -1)
    middle = np.sort(low, axis=1)[:, 31:33].sum(1, keepdims=True)  # Twice the median.
    return np.packbits(2 * low > middle, axis=1).view(">u8")[:, 0].astype(np.uint64)


@functools.cache
def _basis() -> np.ndarray:
    """Return the scaled cosines of the DCT-II as whole numbers, f64[32 8]."""
    positions, frequencies = np.arange(SIDE)[:, None], np.arange(_FREQUENCIES)
    return np.rint(np.cos(np.pi * (2 * positions + 1) * frequencies / (2 * SIDE)) * _SCALE)
