"""Read pixel values with more than 8 bits, and map them to 0..255.

A level is the value of a pixel in one channel.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

AUTO = "auto"
_MAX_LEVEL = 1e300  # The difference of two larger levels could overflow.
_BLOCK = 1 << 20  # Number of values that are mapped at once, with 8 bytes of temporary memory each.
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 262, 258, 339  # TIFF tags.
_WHITE_IS_ZERO, _SIGNED = 0, 2
# The bytes of a value have another order on some machines and in some files. libtiff returns values of compressed TIFFs
# in the order of the machine, but Pillow expects the order of the file, so it would read wrong values.
_NATIVE = {
    "I;16BS": "I;16NS", "I;32B": "I;32N", "I;32BS": "I;32NS", "F;32BF": "F;32NF", "F;64BF": "F;64NF",
}  # fmt: skip
# Pillow's raw modes name the layout of pixels in a file. The key is the suffix of a mode that reads the upper 8 of 16
# bits, and the value is the suffix of the mode that reads the lower 8.
_OTHER_BYTES = {
    "B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L",
}  # fmt: skip


class UnknownRangeError(Exception):
    """The levels of black and white are not known, so levels cannot be mapped to 0..255."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels:
    """The pixels of an image with more than 8 bits.

    Attributes:
        values: Gray levels of any numeric type, [h w], or colors, u16[h w 3], as stored in the file.
        alpha: u8[h w], 0 where a pixel is transparent. None: no pixel is transparent.
        bits: Number of bits of a level. Black is 0 and white is 2**bits - 1. If `bits` is 0, the format does not define
            black and white.
        kind: Description of the levels, such as "signed 16-bit".
        inverted: Whether the lowest level is white.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    bits: int
    kind: str
    inverted: bool = False

    def span(self) -> tuple[float, float]:
        """Return the lowest and the highest finite level. Transparent pixels are ignored, if others exist.

        Raises:
            UnknownRangeError: Every level is NaN or infinite.
        """
        values = self.values
        if self.alpha is not None and self.alpha.any():
            values = values[self.alpha > 0]
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if not values.size:
            raise UnknownRangeError("every pixel value of the image is NaN or infinite")
        return float(values.min()), float(values.max())

    def span_of_16_bits(self) -> tuple[float, float]:
        """Return `span`, scaled so that white is 65535. Files with 12 and 16 bits can then be compared."""
        low, high = self.span()
        scale = 2 ** (16 - self.bits) if self.bits else 1
        return low * scale, high * scale


def parse_range(text: str) -> tuple[float, float] | None:
    """Parse `LO,HI`, the levels of black and white; return None for `auto`.

    Raises:
        ValueError: The text is not `auto` or two numbers.
    """
    if text.strip().lower() == AUTO:
        return None
    low, high = (float(part) for part in text.split(","))
    if not -_MAX_LEVEL < low < high < _MAX_LEVEL:
        raise ValueError("the first level must be below the second")
    return low, high


def normalized_range(text: str) -> str:
    """Return a range in its normal form: `0,4095` for `0, 4095.0`."""
    limits = parse_range(text)
    return AUTO if limits is None else ",".join(written(limit, "") for limit in limits)


def written(level: float, thousands: str = ",") -> str:
    """Format a level; whole numbers have no decimal point."""
    if level == int(level) and abs(level) < 1e15:
        return f"{int(level):{thousands}}"
    return repr(level) if not thousands else f"{level:,.4g}"


def read(image: Image.Image, reopen: Callable[[], Image.Image], bits: int = 8) -> Levels | None:
    """Read the levels of an opened image; return None if it has 8 bits or fewer.

    Args:
        image: Opened image. This function may decode its pixels.
        reopen: Function that opens the same image again.
        bits: For PNG, the number of bits in the header.
    """
    tags = getattr(image, "tag_v2", {})
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image.load()
        values, kind, bits = _gray(image, tags)
        key = image.info.get("transparency")
        alpha = None if key is None else np.where(values == key, 0, 255).astype(np.uint8)
        return Levels(values=values, alpha=alpha, bits=bits, kind=kind, inverted=inverted)
    if max(bits, *tags.get(_BITS, (8,))) <= 8:
        return None
    return _color(image, reopen)


def reduced(levels: Levels, depth_range: str | None) -> Image.Image:
    """Return the image with 8 bits in mode L or RGB, with an alpha channel if pixels are transparent.

    Without a range, the highest 8 bits are kept, as in TensorFlow's decoder. With a range, its first level becomes 0
    and its second level 255. Levels between them are mapped linearly and rounded to the nearest integer (0.5 is rounded
    up). Levels outside of the range become 0 or 255, and NaN becomes 0. With `auto`, the range is the lowest and the
    highest level of the image; if all levels are equal, they become 0.

    Raises:
        UnknownRangeError: A range is needed but not given.
    """
    if depth_range is None:
        pixels = _high_bits(levels)
    else:
        low, high = parse_range(depth_range) or levels.span()
        pixels = _mapped(levels.values, low, high)
    image = Image.fromarray(255 - pixels if levels.inverted else pixels)
    if levels.alpha is not None and (levels.alpha < 255).any():
        image.putalpha(Image.fromarray(levels.alpha))
    return image


def correct_tiff(image: Image.Image) -> None:
    """Make Pillow read the values of a compressed TIFF in the right byte order."""
    if isinstance(image, ImageFile.ImageFile):
        compressed = (tile.codec_name == "libtiff" for tile in image.tile)
        image.tile = [_with_mode(tile, _NATIVE.get) if c else tile for tile, c in zip(image.tile, compressed)]


@functools.cache
def extend_pillow() -> None:
    """Register TIFFs that Pillow can decode but does not open, because it does not know their headers."""
    unsigned, real = (1,), (3,)
    TiffImagePlugin.OPEN_INFO.update(
        {
            (b"MM", 1, unsigned, 1, (32,), ()): ("I", "I;32B"),
            (b"MM", 0, unsigned, 1, (16,), ()): ("I;16B", "I;16B"),
            (b"II", 1, real, 1, (64,), ()): ("F", "F;64F"),
            (b"MM", 1, real, 1, (64,), ()): ("F", "F;64BF"),
        }
    )


def _gray(image: Image.Image, tags: Any) -> tuple[np.ndarray, str, int]:
    """Return number[h w], the kind of the levels, and their bits (0: black and white are not defined)."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        bits = tags.get(_BITS, (16,))[0]
        return values.astype(np.uint16), f"{bits}-bit", bits
    if image.mode == "F":
        return values, "floating-point", 0
    bits = tags.get(_BITS, (32,))[0]
    if tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED:
        return values, f"signed {bits}-bit", 0
    return values.view(np.uint32), f"{bits}-bit integer", 0


def _color(image: Image.Image, reopen: Callable[[], Image.Image]) -> Levels:
    image.load()
    high = np.asarray(image)
    low = _low_bytes(reopen, high.shape)
    if low is None:  # Only Pillow can compute these colors, from CMYK or premultiplied alpha.
        rgba = np.asarray(image.convert("RGBA"))
        return Levels(values=rgba[:, :, :3].astype(np.uint16) * 257, alpha=rgba[:, :, 3], bits=16, kind="16-bit")
    values = high[:, :, :3].astype(np.uint16) << 8 | low[:, :, :3]
    alpha = high[:, :, 3] if image.mode == "RGBA" else None
    if (key := image.info.get("transparency")) is not None:
        alpha = np.where((values == np.array(key)).all(axis=2), 0, 255).astype(np.uint8)
    return Levels(values=values, alpha=alpha, bits=16, kind="16-bit")


def _low_bytes(reopen: Callable[[], Image.Image], shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the low bytes of 16-bit colors, u8[h w bands]. By default, Pillow keeps the high bytes."""
    with reopen() as image:
        modes = {_mode(tile) for tile in image.tile}
        if modes == {"LA;16B"}:  # The four bytes of a pixel are read as four bands.
            image.tile = [_with_mode(tile, lambda mode: "RGBA") for tile in image.tile]
            image.load()
            return np.repeat(np.asarray(image)[:, :, 1:2], 3, axis=2)
        if any(mode[:-1] not in ("RGB;16", "RGBX;16", "RGBA;16") for mode in modes):
            return None
        image.tile = [_with_mode(tile, lambda mode: mode[:-1] + _OTHER_BYTES[mode[-1]]) for tile in image.tile]
        image.load()
        low = np.asarray(image)
    return low if low.shape == shape else None


def _mode(tile: ImageFile._Tile) -> str:
    args: Any = tile.args
    return str(args if isinstance(args, str) else args[0])


def _with_mode(tile: ImageFile._Tile, change: Callable[[str], str | None]) -> ImageFile._Tile:
    """Return a copy of the tile (the part of a file that Pillow decodes) with another raw mode."""
    args: Any = tile.args
    new = change(_mode(tile)) or _mode(tile)
    return tile._replace(args=new if isinstance(args, str) else (new, *args[1:]))


def _high_bits(levels: Levels) -> np.ndarray:
    if not levels.bits:
        low, high = (written(level) for level in levels.span())
        raise UnknownRangeError(
            f"the file does not say which of its {levels.kind} values is black and which is white (its values are {low}"
            f" to {high}); run tfrecord_tools.convert with --depth_range=LO,HI (the values of black and white) or"
            " --depth_range=auto"
        )
    return (levels.values >> (levels.bits - 8)).astype(np.uint8)


def _mapped(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map low..high to 0..255."""
    pixels = np.zeros(values.shape, np.uint8)
    if high == low:
        return pixels
    rows = max(1, _BLOCK // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), rows):
        block = values[start : start + rows].astype(np.float64)
        scaled = np.clip((np.nan_to_num(block, nan=low, posinf=high, neginf=low) - low) * 255 / (high - low), 0, 255)
        pixels[start : start + rows] = np.floor(scaled + 0.5)
    return pixels
