"""Tests that the fast decoder gives the same bits as the reference in TensorFlow operations."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from image_sources import image
from odd_files import smooth
from PIL import Image

from tfrecord_tools.decoding import decoder, geometry
from tfrecord_tools.decoding.geometry import Box
from tfrecord_tools.decoding.reference import decode_pixels
from tfrecord_tools.errors import UndecodableImage

SIZES = [
    (640, 480),  # Decoded at 1/2, 1/4 and 1/8, depending on the target size.
    (499, 375),  # Half of an odd size is not a whole number.
    (1500, 1100),
    (3, 900),  # The height shrinks, the width grows.
    (20, 15),  # The image is enlarged.
    (5, 3),  # Smaller than a JPEG block.
    (1, 1),
]


def encoded(kind: str, size: tuple[int, int], mode: str = "RGB", **save: Any) -> bytes:
    return image(f"{kind}{size}", kind, size=size, mode=mode, **save)


def reference_pixels(data: bytes, size: int, crop: float = 0.0, raw_size: int | None = None) -> np.ndarray:
    return decode_pixels(tf.constant(data), size, crop, raw_size).numpy()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("kind", "mode", "save"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"subsampling": 0}),
        ("JPEG", "RGB", {"subsampling": 1}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"keep_rgb": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),  # TensorFlow decodes it.
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "1", {}),
        ("GIF", "RGB", {}),
        ("BMP", "RGB", {}),
    ],
    ids=lambda value: str(value),
)
def test_bits_equal_the_reference(kind: str, mode: str, save: dict[str, Any], size: tuple[int, int]) -> None:
    data = encoded(kind, size, mode, **save)
    for wanted, crop in ((1, 0.0), (8, 0.0), (60, 0.875), (150, 0.0), (97, 1.0)):
        pixels = decoder.decode(data, wanted, crop)
        assert (pixels.shape, pixels.dtype) == ((wanted, wanted, 3), np.dtype(np.uint8))
        np.testing.assert_array_equal(pixels, reference_pixels(data, wanted, crop))


@pytest.mark.parametrize("crop", [0.0, 0.3, 0.875, 1.0])
def test_raw_pixels(crop: float) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8).tobytes()
    for size in (40, 17, 60):
        np.testing.assert_array_equal(decoder.decode(raw, size, crop, 40), reference_pixels(raw, size, crop, 40))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_without_the_resizer_the_reference_is_used(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(kind, (499, 375))
    fast = decoder.decode(data, 150, 0.9)
    monkeypatch.setattr(decoder, "resizer", None)
    np.testing.assert_array_equal(decoder.decode(data, 150, 0.9), fast)


def test_threads() -> None:
    images = [encoded("JPEG", (200 + 7 * number, 150)) for number in range(40)]
    expected = [decoder.decode(data, 64).tobytes() for data in images]
    with ThreadPoolExecutor(4) as pool:
        assert [pixels.tobytes() for pixels in pool.map(lambda data: decoder.decode(data, 64), images)] == expected


@pytest.mark.parametrize("size", [(499, 375), (1021, 767), (2003, 1501)], ids=["half", "quarter", "an eighth"])
def test_scaled_decoding_is_close_to_full_decoding(size: tuple[int, int]) -> None:
    """A shift by a fraction of a pixel, for example by wrong rounding, would give more than 0.4."""
    picture = smooth(*size)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=95)
    with Image.open(io.BytesIO(stream.getvalue())) as full:
        expected = np.asarray(full.resize((150, 150), Image.Resampling.BILINEAR), int)
    assert np.abs(decoder.decode(stream.getvalue(), 150) - expected).mean() < 0.3


def test_pngs_are_resized_as_in_pillow() -> None:
    data = encoded("PNG", (301, 222))
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.resize((64, 64), Image.Resampling.BILINEAR), int)
    assert np.abs(decoder.decode(data, 64) - expected).max() <= 1


@pytest.mark.parametrize(
    ("data", "raw_size", "message"),
    [
        (b"<html>", None, "Unknown image file format"),
        (b"", None, "Input is empty"),
        (image(1)[:200], None, "Invalid JPEG data"),  # The file is truncated.
        (image(1, "PNG")[:100], None, "Invalid PNG data"),
        (b"1234", 8, "4 bytes are not 8 x 8 raw RGB pixels"),
    ],
)
def test_bytes_that_are_not_an_image(data: bytes, raw_size: int | None, message: str) -> None:
    with pytest.raises(UndecodableImage) as error:
        decoder.decode(data, 8, raw_size=raw_size)
    assert str(error.value).startswith(message)
    assert "{{" not in str(error.value)  # The message must not contain names of TensorFlow nodes.


def test_subsampling_that_simplejpeg_does_not_support() -> None:
    data = bytearray(encoded("JPEG", (64, 64), subsampling=0))
    factors = data.index(b"\xff\xc0") + 11
    assert data[factors] == 0x11
    data[factors] = 0x14  # 4:4:1. The rest of the file does not match, but TensorFlow decodes it.
    np.testing.assert_array_equal(decoder.decode(bytes(data), 8), reference_pixels(bytes(data), 8))


@pytest.mark.parametrize(
    ("height", "width", "crop", "box"),
    [
        (20, 40, 0.0, Box(0, 0, 20, 40)),
        (20, 40, 1.0, Box(0, 10, 20, 20)),
        (40, 21, 0.5, Box(15, 5, 10, 10)),  # A half is rounded to an even number; an odd rest goes to the end.
        (9, 3, 0.1, Box(4, 1, 1, 1)),  # At least one pixel.
    ],
)
def test_crop_box(height: int, width: int, crop: float, box: Box) -> None:
    assert geometry.crop_box(height, width, crop) == box


@pytest.mark.parametrize(
    ("shorter", "scale"), [(1, 1), (299, 1), (300, 2), (599, 2), (600, 4), (1199, 4), (1200, 8), (9999, 8)]
)
def test_scale_of_jpeg_decoding(shorter: int, scale: int) -> None:
    assert geometry.decoding_scale(Box(0, 0, shorter, 2 * shorter), 150) == scale
