"""Pillow images made into what every TensorFlow decoder reads the same: 8-bit grey or RGB, upright, small, encoded."""

from __future__ import annotations

import io
import math

from PIL import Image

RESIZE_MODES = ("shorter", "longer", "exact", "center_crop")
_BACKGROUND = 255  # White: what most transparent pictures were drawn for.
_TURNS = {  # EXIF 2.32, tag 0x0112.
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DRAFT = 2.0  # A JPEG is decoded at no less than twice the size wanted; the rest is left to the resampling.


def is_opaque(image: Image.Image) -> bool:
    """Whether no pixel is transparent; decodes an image that may be."""
    if not image.has_transparency_data:
        return True
    alpha = image.convert("RGBA").getchannel("A")
    return alpha.getextrema() == (255, 255)


def scale_transparency(image: Image.Image, bits: int) -> None:
    """Scale the transparent gray level of a PNG with 2 or 4 bits as Pillow scales its pixels."""
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int) and bits in (2, 4):
        image.info["transparency"] = key * 255 // (2**bits - 1)


def plain(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits in mode L or RGB, transparent pixels laid on white."""
    if image.has_transparency_data:
        upon = Image.new("RGBA", image.size, (_BACKGROUND,) * 4)
        image = Image.alpha_composite(upon, image.convert("RGBA")).convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def has_one_color(image: Image.Image) -> bool:
    """Whether all pixels of an image in mode L or RGB are equal."""
    return all(low == high for low, high in (band.getextrema() for band in image.split()))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Applies an EXIF orientation, 1..8; Pillow's own way reads and writes all of the EXIF, which may be broken."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def target_size(size: tuple[int, int], side: int, mode: str, upscale: bool) -> tuple[int, int]:
    """Returns width and height after resizing.

    Args:
        size: Width and height.
        side: Wanted length in pixels.
        mode: "shorter" or "longer": that side becomes `side`, the aspect is kept. "exact": stretched to a square.
            "center_crop": the central square becomes one of `side`.
        upscale: Else `side` is at most the shorter side (for "longer": the longer one), and nothing is enlarged.
    """
    reference = max(size) if mode == "longer" else min(size)
    side = side if upscale else min(side, reference)
    if mode in ("exact", "center_crop"):
        return side, side
    width, height = (max(1, round(length * side / reference)) for length in size)
    return width, height


def draft(image: Image.Image, size: tuple[int, int], mode: str) -> None:
    """Has a JPEG decoded at 1/2, 1/4 or 1/8 scale where `size`, the aim of its resizing, allows; others ignore it."""
    width, height = image.size
    scale = max(size) / min(width, height) if mode == "center_crop" else max(size[0] / width, size[1] / height)
    image.draft(None, (math.ceil(width * scale * _DRAFT), math.ceil(height * scale * _DRAFT)))


def resized(image: Image.Image, size: tuple[int, int], mode: str) -> Image.Image:
    """Resamples to `size` with an antialiasing Lanczos filter."""
    box = None
    if mode == "center_crop":
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        box = (left, top, left + side, top + side)
    return image.resize(size, Image.Resampling.LANCZOS, box=box)


def encoded(image: Image.Image, kind: str, quality: int) -> bytes:
    """Encodes mode L or RGB as JPEG (all of the colour kept, 4:4:4), PNG or RAW (u8[h w 3], row-major)."""
    if kind == "RAW":
        return image.convert("RGB").tobytes()
    stream = io.BytesIO()
    if kind == "JPEG":
        image.save(stream, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(stream, "PNG", icc_profile=None)  # The source's profile is not that of these pixels.
    return stream.getvalue()
