"""Tests of levels of more than 8 bits: every kind and byte order is mapped to 8 bits."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_sources import converted, image
from odd_files import PNG_START, chunk
from PIL import Image
from tiff_files import Order, tiff

from tfrecord_tools import convert
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import levels
from tfrecord_tools.images.preparation import BadImage, ImageConfig, prepare
from trainers.models.model_file import ModelInfo

RAMP = np.linspace(0, 1, 48).reshape(6, 8, 1)
KINDS = [  # dtype, lowest level, highest level, name in the reason. "": not rejected.
    ("u2", 0, 4095, ""),
    ("i2", -1000, 2000, "signed 16-bit"),
    ("u4", 0, 4_000_000_000, "32-bit integer"),  # Too large for Pillow's signed 32 bits.
    ("i4", -70_000, 70_000, "signed 32-bit"),
    ("f4", -0.5, 1.5, "floating-point"),
    ("f8", 0, 1, "floating-point"),
]


def ramp(dtype: str, low: float, high: float) -> np.ndarray:
    """Return number[6 8 1] from `low` to `high`."""
    return (RAMP * (high - low) + low).astype(dtype)


def stored(data: bytes, depth_range: str | None = None) -> np.ndarray:
    prepared = prepare(data, ImageConfig(depth_range=depth_range))
    assert prepared.changes == ("converted",)
    assert "deep" in prepared.findings
    return np.asarray(Image.open(io.BytesIO(prepared.data))).astype(int)


def mapped(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map levels one by one: linear, clipped, rounded, halves up."""
    flat = [min(max(int((value - low) * 255 / (high - low) + 0.5), 0), 255) for value in values.ravel().tolist()]
    return np.array(flat).reshape(values.shape)


def png16(values: np.ndarray, color: int, extra: bytes = b"") -> bytes:
    """Return a PNG of u16[h w bands]. Pillow writes only gray PNGs of 16 bits."""
    height, width = values.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(lines))
    return PNG_START + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("dtype", "low", "high", "kind"), KINDS, ids=[case[0] for case in KINDS])
def test_gray_tiff(dtype: str, low: float, high: float, kind: str, order: Order, deflate: bool) -> None:
    values = ramp(dtype, low, high)
    data = tiff(values, order, deflate=deflate)
    assert (stored(data, "auto") == mapped(values, low, high)[:, :, 0]).all()
    middle = low + (high - low) / 4, low + (high - low) / 2
    explicit = f"{middle[0]},{middle[1]}"
    assert (stored(data, explicit) == mapped(values, *middle)[:, :, 0]).all()
    if not kind:
        assert (stored(data) == values[:, :, 0] >> 8).all()
        return
    with pytest.raises(BadImage) as caught:
        prepare(data)
    assert str(caught.value).startswith(
        f"the file does not say which of its {kind} values is black and which is white (its values are"
        f" {levels.written(low)} to {levels.written(high)});"
    )
    assert "--depth_range=LO,HI (the values of black and white)" in str(caught.value)
    assert "--depth_range=auto" in str(caught.value)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_white_is_zero(order: Order, deflate: bool) -> None:
    values = ramp("u2", 0, 65535)
    data = tiff(values, order, deflate=deflate, photometric=0)
    assert (stored(data) == 255 - (values[:, :, 0] >> 8)).all()
    assert (stored(data, "auto") == 255 - mapped(values, 0, 65535)[:, :, 0]).all()


def test_twelve_bits_have_their_own_range() -> None:
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 87
    pairs = values.reshape(6, 4, 2).astype(np.uint32)
    packed = np.stack(  # Two levels in three bytes.
        [pairs[:, :, 0] >> 4, (pairs[:, :, 0] & 15) << 4 | pairs[:, :, 1] >> 8, pairs[:, :, 1] & 255], axis=-1
    ).astype(np.uint8)
    data = tiff(packed.reshape(6, 12, 1), bits=12)
    assert (stored(data) == values >> 4).all()
    assert prepare(data).levels == (0, 47 * 87 * 16)  # Scaled to 16 bits, so that the image is not dark.
    assert (stored(data, "0,4095") == mapped(values, 0, 4095)).all()
    assert prepare(data, ImageConfig(depth_range="auto")).levels == (0, 47 * 87)


COLORS = np.concatenate([RAMP, RAMP[::-1], RAMP / 2], axis=2)


@pytest.mark.parametrize(
    "data",
    [
        tiff((COLORS * 4095).astype("u2")),
        tiff((COLORS * 4095).astype("u2"), ">"),
        tiff((COLORS * 4095).astype("u2"), deflate=True),
        tiff((COLORS * 4095).astype("u2"), ">", deflate=True),
        tiff(np.concatenate([COLORS * 4095, RAMP * 9000], axis=2).astype("u2"), extra=0),  # A band that is dropped.
        png16((COLORS * 4095).astype("u2"), 2),
    ],
    ids=["II", "MM", "II deflate", "MM deflate", "four bands", "PNG"],
)
def test_colors(data: bytes) -> None:
    values = (COLORS * 4095).astype("u2")
    assert (stored(data) == values >> 8).all()
    assert (stored(data, "100,3000") == mapped(values, 100, 3000)).all()
    assert (stored(data, "auto") == mapped(values, 0, 4095)).all()  # One range for all channels.
    assert prepare(data).levels == (0, 4095)


@pytest.mark.parametrize("color", [4, 6], ids=["gray", "colors"])
def test_transparency_of_16_bits_is_laid_on_white_after_the_mapping(color: int) -> None:
    bands = RAMP if color == 4 else COLORS
    alpha = np.where(RAMP < 0.5, 0, 65535)
    values = np.concatenate([bands * 4095, alpha], axis=2).astype("u2")
    data = png16(values, color)
    shown = mapped(values[:, :, :-1], 0, 4095)
    expected = np.where(alpha == 0, 255, np.broadcast_to(shown, (6, 8, 3)))
    assert (stored(data, "0,4095") == expected).all()
    assert prepare(data).findings == ("deep", "transparent")
    visible = values[:, :, :-1][alpha[:, :, 0] > 0]
    assert prepare(data).levels == (visible.min(), visible.max())  # Transparent pixels do not count.


@pytest.mark.parametrize("color", [0, 2], ids=["gray", "colors"])
def test_one_transparent_level_of_16_bits(color: int) -> None:
    """Pillow compares the transparent level with converted pixels, so it is not used for that."""
    bands = RAMP if color == 0 else COLORS
    values = (bands * 4095).astype("u2")
    key = values[2, 3]
    data = png16(values, color, chunk(b"tRNS", key.astype(">u2").tobytes()))
    pixels = np.broadcast_to(stored(data).reshape(6, 8, -1), (6, 8, 3))
    assert (pixels[2, 3] == 255).all()
    assert (pixels[2, 2] == values[2, 2] >> 8).all()
    assert prepare(data).findings == ("deep", "transparent")


@pytest.mark.parametrize("bits", [2, 4])
def test_one_transparent_level_of_few_bits(bits: int) -> None:
    header = struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0)
    most = 2**bits - 1
    pixels = chunk(
        b"IDAT", zlib.compress(bytes([0, most << (8 - bits)]))
    )  # The first pixel is white, the others are black.
    data = PNG_START + chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", 0)) + pixels + chunk(b"IEND", b"")
    assert prepare(data).findings == ("transparent", "one_color")  # Black is transparent, so all is white.
    white = data.replace(chunk(b"tRNS", struct.pack(">H", 0)), chunk(b"tRNS", struct.pack(">H", most - 1)))
    assert prepare(white).changes == ()  # No pixel has that level.


def test_levels_that_are_not_finite() -> None:
    values = ramp("f4", 0, 1)
    values[0, :3, 0] = [np.nan, np.inf, -np.inf]
    expected = mapped(np.where(np.isfinite(values), values, 0), float(values[0, 3, 0]), 1)[:, :, 0]
    expected[0, :3] = [0, 255, 0]
    assert (stored(tiff(values), "auto") == expected).all()  # The range of the finite levels.
    for depth_range in (None, "auto", "0,1"):
        with pytest.raises(BadImage, match=r"^every pixel value of the image is NaN or infinite$"):
            prepare(tiff(values * np.float32(np.nan)), ImageConfig(depth_range=depth_range))


def test_equal_levels_become_black() -> None:
    data = tiff(np.full((4, 4, 1), 7, np.float32))
    prepared = prepare(data, ImageConfig(depth_range="auto"))
    assert Image.open(io.BytesIO(prepared.data)).getextrema() == (0, 0)
    assert prepared.findings == ("deep", "one_color")


def test_images_of_8_bits_stay_unchanged() -> None:
    for data in (image(1), image(1, "PNG"), image(1, "PNG", mode="L"), image(1, "BMP")):
        plain, ranged = (prepare(data, ImageConfig(depth_range=r)) for r in (None, "auto"))
        assert plain == ranged


@pytest.mark.parametrize("text", ["", "1", "1,1", "2,1", "a,b", "0,1,2", "nan,1", "0,inf", "0,1e301", "automatic"])
def test_wrong_ranges(text: str) -> None:
    with pytest.raises(
        UserError,
        match=r"^--depth_range=.*: must be LO,HI or auto\. LO becomes black, .* With auto, they are the lowest ",
    ):
        ImageConfig(depth_range=text)


@pytest.mark.parametrize(
    ("text", "recorded"),
    [
        ("0,4095", "0,4095"),
        (" 0 , 4095.0 ", "0,4095"),
        ("-1e3,2000", "-1000,2000"),
        ("0.1,1", "0.1,1"),
        ("AUTO", "auto"),
    ],
)
def test_a_range_is_recorded_in_its_normal_form(text: str, recorded: str) -> None:
    assert ImageConfig(depth_range=text).depth_range == recorded


def source(root: Path) -> Path:
    for name in ("cats", "dogs"):
        for number in range(5):
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / f"{number}.tif").write_bytes(tiff(ramp("i2", -1000 + number, 2000 + (name == "cats"))))
    return root


def test_updates_and_models_use_the_recorded_range(tmp_path: Path) -> None:
    src = source(tmp_path / "src")
    with pytest.raises(UserError, match=r"--depth_range=LO,HI"):
        converted(src, tmp_path / "out")
    first = converted(src, tmp_path / "out", depth_range="-1000, 2000.0", restart=True)
    assert first["config"]["depth_range"] == "-1000,2000"
    info = ModelInfo(classes=("cats", "dogs"), image_size=32, images=ImageConfig(depth_range="0,9").image_settings())
    assert info.image_config().depth_range == "0,9"  # `predict` prepares images like the training images.
    assert info.preparation() == "--depth_range=0,9"
    (src / "cats/new.tif").write_bytes(tiff(ramp("i2", -300, 300)))
    for settings in ({}, {"depth_range": "-1000,2000.0"}):
        added = converted(src, tmp_path / "out", update=True, **settings)
        assert added["config"] == first["config"]
    assert [note["text"] for note in added["notes"]] == [
        "2 images look like another image (2 in several splits), such as cats/1.tif, cats/2.tif",  # Ramps of gray.
        "11 images have levels of more than 8 bits (-1,000 to 2,001), which --depth_range=-1000,2000 maps to 8 bits; 5"
        " of these images have levels outside this range. Such levels become black or white",
    ]
    with pytest.raises(UserError, match=r"--update: --depth_range was '-1000,2000' for .* and is 'auto' now"):
        converted(src, tmp_path / "out", update=True, depth_range="auto")


def test_the_flags_are_fields_of_the_config() -> None:
    names = {field.name for field in dataclasses.fields(convert.ConvertConfig)}
    assert {"depth_range", "strip_metadata"} <= names
