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

from tfrecord_tools.base.sizes import Size
from tfrecord_tools.decoding import decoder
from tfrecord_tools.decoding.geometry import FILL, Box, Geometry
from tfrecord_tools.decoding.reference import decode_pixels
from tfrecord_tools.errors import UndecodableImage, UserError

SIZES = [
    (640, 480),  # Decoded at 1/2, 1/4 and 1/8, depending on the target size.
    (499, 375),  # Half of an odd size is not a whole number.
    (1500, 1100),
    (3, 900),  # The height shrinks, the width grows.
    (20, 15),  # The image is enlarged.
    (5, 3),  # Smaller than a JPEG block.
    (1, 1),
]


# Inputs that are not squares, and whole images with gray beside them: with and without a smaller decoding scale.
GEOMETRIES = [
    Geometry.of((40, 90), 0.875),
    Geometry.of((90, 41), 1.0),
    Geometry.of((7, 150), 0.3),
    Geometry.of((150, 8)),  # Stretched.
    Geometry.of(60, fit="pad"),
    Geometry.of(151, fit="pad"),
    Geometry.of((50, 120), fit="pad"),
    Geometry.of((121, 30), fit="pad"),
    Geometry.of((1, 1), fit="pad"),
]


def encoded(kind: str, size: tuple[int, int], mode: str = "RGB", **save: Any) -> bytes:
    return image(f"{kind}{size}", kind, size=size, mode=mode, **save)


def reference_pixels(data: bytes, size: Size | Geometry, crop: float = 0.0, raw_size: int | None = None) -> np.ndarray:
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


@pytest.mark.parametrize("size", [*SIZES, (480, 640), (900, 3), (1024, 768), (2, 7)], ids=str)
@pytest.mark.parametrize(
    ("kind", "mode", "save"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {"progressive": True}),
        ("JPEG", "CMYK", {}),  # TensorFlow decodes it.
        ("PNG", "RGB", {}),
    ],
    ids=str,
)
def test_bits_equal_the_reference_in_every_geometry(
    kind: str, mode: str, save: dict[str, Any], size: tuple[int, int]
) -> None:
    data = encoded(kind, size, mode, **save)
    for geometry in GEOMETRIES:
        pixels = decoder.decode(data, geometry)
        assert (pixels.shape, pixels.dtype) == (geometry.shape, np.dtype(np.uint8))
        expected = decode_pixels(tf.constant(data), geometry)
        assert expected.shape == geometry.shape
        np.testing.assert_array_equal(pixels, expected.numpy(), str(geometry))


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("more", [0, -1, 1])
@pytest.mark.parametrize(
    "geometry", [Geometry(48, 64), Geometry(48, 64, "crop", 1.0), Geometry(48, 64, "pad")], ids=str
)
def test_a_jpeg_that_needs_no_resizing_is_decoded_to_its_place(
    scale: int, more: int, geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded("JPEG", (64 * scale, 48 * scale + more))
    expected = decode_pixels(tf.constant(data), geometry).numpy()
    pixels = np.full((3, *geometry.shape), 7, np.uint8)
    decode_jpeg, buffers = decoder.simplejpeg.decode_jpeg, []

    def decode(data: bytes, **options: Any) -> np.ndarray:
        buffers.append(options["buffer"])
        return decode_jpeg(data, **options)

    monkeypatch.setattr(decoder.simplejpeg, "decode_jpeg", decode)
    monkeypatch.delattr(decoder, "_decode_odd_jpeg")  # TensorFlow is not needed.
    decoder.decode_into(pixels[1], data, geometry)
    np.testing.assert_array_equal(pixels[1], expected)
    assert (pixels[[0, 2]] == 7).all()
    assert [buffer is not None for buffer in buffers] == [more == 0]


def test_padding_is_written_over_old_pixels() -> None:
    data, geometry = encoded("PNG", (64, 48)), Geometry(64, 64, "pad")
    pixels = np.full(geometry.shape, 7, np.uint8)
    decoder.decode_into(pixels, memoryview(data), geometry)
    np.testing.assert_array_equal(pixels, decoder.decode(data, geometry))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_raw_pixels_in_every_geometry(geometry: Geometry) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8).tobytes()
    expected = decode_pixels(tf.constant(raw), geometry, raw_size=40).numpy()
    np.testing.assert_array_equal(decoder.decode(raw, geometry, raw_size=40), expected)


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
    for geometry in GEOMETRIES:
        slow = decoder.decode(data, geometry)
        np.testing.assert_array_equal(slow, reference_pixels(data, geometry), str(geometry))


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


# --- Geometry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "geometry", "part"),
    [
        (20, 40, Geometry.of(8), Box(0, 0, 20, 40)),
        (20, 40, Geometry.of(8, 1.0), Box(0, 10, 20, 20)),
        (40, 21, Geometry.of(8, 0.5), Box(15, 5, 10, 10)),  # A half is rounded to an even number.
        (9, 3, Geometry.of(8, 0.1), Box(4, 1, 1, 1)),  # At least one pixel.
        (20, 40, Geometry.of((8, 16), 1.0), Box(0, 0, 20, 40)),  # The same aspect.
        (30, 40, Geometry.of((8, 16), 1.0), Box(5, 0, 20, 40)),
        (30, 40, Geometry.of((16, 8), 1.0), Box(0, 12, 30, 15)),  # An odd rest goes to the end.
        (30, 40, Geometry.of((16, 8), 0.5), Box(7, 16, 15, 8)),
        (20, 40, Geometry.of((8, 16), fit="crop"), Box(0, 0, 20, 40)),  # Without a share, it is 1.
        (20, 40, Geometry.of(8, fit="pad"), Box(0, 0, 20, 40)),
    ],
)
def test_used_part(height: int, width: int, geometry: Geometry, part: Box) -> None:
    assert geometry.part(height, width) == part


@pytest.mark.parametrize(
    ("height", "width", "image_size", "place"),
    [
        (20, 40, 8, Box(2, 0, 4, 8)),
        (40, 20, 8, Box(0, 2, 8, 4)),
        (30, 30, 8, Box(0, 0, 8, 8)),
        (30, 40, (8, 16), Box(0, 2, 8, 11)),  # An odd rest goes to the end.
        (10, 40, (8, 16), Box(2, 0, 4, 16)),
        (1, 900, 8, Box(3, 0, 1, 8)),  # At least one pixel.
        (900, 1, (8, 16), Box(0, 7, 8, 1)),
        (3, 4, 8, Box(1, 0, 6, 8)),  # The image is enlarged.
    ],
)
def test_place_with_padding(height: int, width: int, image_size: Size, place: Box) -> None:
    geometry = Geometry.of(image_size, fit="pad")
    assert geometry.place(height, width) == place
    pixels = np.full((height, width, 3), 200, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    expected = np.full(geometry.shape, FILL, np.uint8)
    expected[place.top : place.top + place.height, place.left : place.left + place.width] = 200
    np.testing.assert_array_equal(decoder.decode(stream.getvalue(), geometry), expected)


def test_parts_of_squares_are_those_of_the_first_versions() -> None:
    """The definition of squares was: `round(shorter side * crop)`, centered."""
    random = np.random.default_rng(0)
    for height, width in random.integers(1, 9000, (500, 2)).tolist():
        for crop in (0.875, 1.0, 0.3, float(random.uniform(0.01, 1))):
            side = max(1, round(min(height, width) * crop))
            box = Box((height - side) // 2, (width - side) // 2, side, side)
            assert Geometry.of(160, crop).part(height, width) == box


@pytest.mark.parametrize(
    ("shorter", "scale"), [(1, 1), (299, 1), (300, 2), (599, 2), (600, 4), (1199, 4), (1200, 8), (9999, 8)]
)
def test_scale_of_jpeg_decoding(shorter: int, scale: int) -> None:
    assert Geometry.of(150).decoding_scale(shorter, 2 * shorter) == scale


@pytest.mark.parametrize(
    ("geometry", "scale"),
    [
        (Geometry.of(100), 4),  # The height allows 4, the width 8.
        (Geometry.of((50, 100)), 8),
        (Geometry.of((50, 250)), 2),
        (Geometry.of((50, 100), 1.0), 8),
        (Geometry.of((50, 100), 0.5), 4),  # Half of the image is used.
        (Geometry.of(100, fit="pad"), 8),  # The image takes 50 of the 100 rows.
        (Geometry.of((400, 100), fit="pad"), 8),
        (Geometry.of((100, 400), fit="pad"), 4),  # The image takes 200 of the 400 columns.
    ],
    ids=str,
)
def test_scale_of_jpeg_decoding_by_geometry(geometry: Geometry, scale: int) -> None:
    assert geometry.decoding_scale(400, 800) == scale


@pytest.mark.parametrize(
    ("geometry", "text", "stored"),
    [
        (Geometry.of(160), "160 px, stretch", {"image_size": 160, "crop": 0.0}),
        (Geometry.of(160, 0.875), "160 px, crop 0.875", {"image_size": 160, "crop": 0.875}),
        (Geometry.of((96, 256), fit="crop"), "96x256 px, crop 1", {"image_size": [96, 256], "crop": 1.0}),
        (Geometry.of((8, 8), fit="pad"), "8 px, pad", {"image_size": 8, "crop": 0.0, "fit": "pad"}),
    ],
)
def test_texts_and_stored_values(geometry: Geometry, text: str, stored: dict[str, Any]) -> None:
    assert str(geometry) == text
    assert geometry.stored() == stored
    size = stored["image_size"]
    again = Geometry.of(tuple(size) if isinstance(size, list) else size, stored["crop"], stored.get("fit"))
    assert again == geometry == Geometry.of(geometry, 0.1, "pad")  # A geometry stays the same.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "image_size=0: must be at least 1."),
        ({"image_size": (8, -1)}, "image_size=8x-1: must be at least 1."),
        ({"image_size": 1.5}, "image_size=1.5: must be a whole number of pixels, or HEIGHTxWIDTH, as in 96x256."),
        ({"image_size": "8x"}, "image_size=8x: must be a whole number of pixels, or HEIGHTxWIDTH, as in 96x256."),
        ({"image_size": (1, 2, 3)}, "image_size=(1, 2, 3): must be a whole number of pixels, or HEIGHTxWIDTH,"),
        ({"image_size": True}, "image_size=True: must be a whole number of pixels, or HEIGHTxWIDTH, as in 96x256."),
        ({"image_size": 8, "crop": 1.5}, "crop=1.5: must be between 0 and 1."),
        ({"image_size": 8, "fit": "padding"}, "fit=padding: must be one of crop, pad, stretch."),
        (
            {"image_size": 8, "crop": 0.5, "fit": "pad"},
            "crop=0.5 with fit=pad: only fit=crop cuts a part out of the image. Remove one of them.",
        ),
        ({"image_size": 8, "crop": 0.5, "fit": "stretch", "prefix": "--"}, "--crop=0.5 with --fit=stretch: only --fit"),
    ],
)
def test_wrong_values(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Geometry.of(**settings)
    assert str(error.value).startswith(message)


# --- Quality -------------------------------------------------------------------------------------------------------


def psnr(pixels: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((pixels.astype(float) - expected) ** 2)))


@pytest.mark.parametrize(
    ("geometry", "least"),
    [
        (Geometry.of(150), 48),
        (Geometry.of(150, 0.875), 48),
        (Geometry.of(150, fit="pad"), 52),
        (Geometry.of((100, 225)), 48),
        (Geometry.of((100, 225), 0.875), 54),
        (Geometry.of((100, 225), fit="pad"), 54),
    ],
    ids=str,
)
def test_pixels_are_those_of_pillow(geometry: Geometry, least: float) -> None:
    """Compare JPEGs that are decoded at each scale with full decoding and antialiased resizing in Pillow."""
    for size in ((499, 375), (1021, 767), (2003, 1501)):
        stream = io.BytesIO()
        smooth(*size).save(stream, "JPEG", quality=95)
        with Image.open(io.BytesIO(stream.getvalue())) as image:
            top, left, height, width = geometry.part(image.height, image.width)
            place = geometry.place(image.height, image.width)
            box = (left, top, left + width, top + height)
            resized = image.resize((place.width, place.height), Image.Resampling.BILINEAR, box=box)
        expected = Image.new("RGB", (geometry.width, geometry.height), (FILL,) * 3)
        expected.paste(resized, (place.left, place.top))
        assert psnr(decoder.decode(stream.getvalue(), geometry), np.asarray(expected)) > least, size
