"""Gray levels of more than 8 bits: which of them an image uses, and how they become 0..255."""

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
_MOST = 1e300  # Beyond, differences of two levels overflow.
_BLOCK = 1 << 20  # Values that are mapped at once: they take eight bytes each meanwhile.
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 262, 258, 339  # TIFF tags.
_WHITE_IS_ZERO, _SIGNED = 0, 2
_NATIVE = {  # Of compressed TIFFs libtiff returns values in the machine's byte order, which Pillow forgets for these.
    "I;16BS": "I;16NS", "I;32B": "I;32N", "I;32BS": "I;32NS", "F;32BF": "F;32NF", "F;64BF": "F;64NF",
}  # fmt: skip
_OTHER_BYTES = {  # Raw modes that take the high bytes of 16 bits -> those that take the low ones.
    "B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L",
}  # fmt: skip


class UnknownRangeError(Exception):
    """The levels have no range that could be mapped to 0..255."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels:
    """The pixels of an image with more than 8 bits.

    Attributes:
        values: number[h w] gray levels or u16[h w 3] colors, as they are stored in the file.
        alpha: u8[h w], 0 where a pixel is transparent; None if none is.
        bits: Black is 0 and white 2**bits - 1. 0: the format does not say which levels black and white are.
        kind: Names the levels, as in "signed 16-bit".
        inverted: Whether the lowest level is white.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    bits: int
    kind: str
    inverted: bool = False

    def span(self) -> tuple[float, float]:
        """Return the lowest and the highest level of the pixels that are visible and finite.

        Raises:
            UnknownRangeError: No level is a number.
        """
        values = self.values
        if self.alpha is not None and self.alpha.any():
            values = values[self.alpha > 0]
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if not values.size:
            raise UnknownRangeError("none of its levels is a finite number")
        return float(values.min()), float(values.max())

    def span_of_16_bits(self) -> tuple[float, float]:
        """Return `span` as it would be if white were 65535, so that files of 12 and of 16 bits compare."""
        low, high = self.span()
        scale = 2 ** (16 - self.bits) if self.bits else 1
        return low * scale, high * scale


def parse_range(text: str) -> tuple[float, float] | None:
    """Return the levels of black and white in `LO,HI`; None for `auto`.

    Raises:
        ValueError: The text is neither.
    """
    if text.strip().lower() == AUTO:
        return None
    low, high = (float(part) for part in text.split(","))
    if not -_MOST < low < high < _MOST:
        raise ValueError("the first level must be below the second")
    return low, high


def normalized_range(text: str) -> str:
    """Return the one way in which a range is recorded: `0,4095` for `0, 4095.0`."""
    limits = parse_range(text)
    return AUTO if limits is None else ",".join(written(limit, "") for limit in limits)


def written(level: float, thousands: str = ",") -> str:
    """Write a level, whole numbers without a point."""
    if level == int(level) and abs(level) < 1e15:
        return f"{int(level):{thousands}}"
    return repr(level) if not thousands else f"{level:,.4g}"


def read(image: Image.Image, reopen: Callable[[], Image.Image], bits: int = 8) -> Levels | None:
    """Read the levels of an opened image; None if it has 8 bits or fewer.

    Args:
        image: The image, whose pixels may be decoded by this.
        reopen: Opens the same image again.
        bits: What the file's header says, for PNG.
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
    """Return the image with 8 bits, in mode L or RGB, with A where pixels are transparent.

    Without a range the highest 8 bits are kept, as TensorFlow's decoder does. With a range, its first level becomes 0
    and its second one 255; levels between are mapped linearly and rounded to the nearest, halves up; levels outside
    become 0 or 255, and NaN becomes 0. `auto` takes the image's own lowest and highest level; if all are equal,
    they become 0.

    Raises:
        UnknownRangeError: A range is needed and not given.
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
    """Have Pillow read the values of a compressed TIFF in the right byte order."""
    if isinstance(image, ImageFile.ImageFile):
        compressed = (tile.codec_name == "libtiff" for tile in image.tile)
        image.tile = [_with_mode(tile, _NATIVE.get) if c else tile for tile, c in zip(image.tile, compressed)]


@functools.cache
def extend_pillow() -> None:
    """Let Pillow open TIFFs whose values it can read, but does not know by their header."""
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
    """Return number[h w], what kind of levels they are, and their bits if black and white are agreed on."""
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
    if low is None:  # Colors that are computed, of CMYK and of alpha that is multiplied in.
        rgba = np.asarray(image.convert("RGBA"))
        return Levels(values=rgba[:, :, :3].astype(np.uint16) * 257, alpha=rgba[:, :, 3], bits=16, kind="16-bit")
    values = high[:, :, :3].astype(np.uint16) << 8 | low[:, :, :3]
    alpha = high[:, :, 3] if image.mode == "RGBA" else None
    if (key := image.info.get("transparency")) is not None:
        alpha = np.where((values == np.array(key)).all(axis=2), 0, 255).astype(np.uint8)
    return Levels(values=values, alpha=alpha, bits=16, kind="16-bit")


def _low_bytes(reopen: Callable[[], Image.Image], shape: tuple[int, ...]) -> np.ndarray | None:
    """Return u8[h w bands]: Pillow keeps the high bytes of colors of 16 bits, unless told that bytes are swapped."""
    with reopen() as image:
        modes = {_mode(tile) for tile in image.tile}
        if modes == {"LA;16B"}:  # Its four bytes fit into the four bands.
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
    """The same part of a file, read in another of Pillow's raw modes."""
    args: Any = tile.args
    new = change(_mode(tile)) or _mode(tile)
    return tile._replace(args=new if isinstance(args, str) else (new, *args[1:]))


def _high_bits(levels: Levels) -> np.ndarray:
    if not levels.bits:
        low, high = (written(level) for level in levels.span())
        raise UnknownRangeError(
            f"its {levels.kind} levels (here {low} to {high}) have no agreed black and white;"
            " tfrecord_tools.convert takes them with --depth_range=LO,HI, these two levels, or --depth_range=auto"
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
