"""Convert images to 8-bit gray or RGB, which every decoder reads alike; rotate, resize, encode them."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

RESIZE_MODES = ("shorter", "longer", "exact", "center_crop")
_BACKGROUND = 255  # White, since most transparent pictures are made for a white page.
_TURNS = {  # EXIF 2.32, tag 0x0112.
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DRAFT = 2.0  # A JPEG is decoded at twice the target size or more. Resampling does the rest.


def is_opaque(image: Image.Image) -> bool:
    """Return whether no pixel is transparent. This may decode the image."""
    if not image.has_transparency_data:
        return True
    alpha = image.convert("RGBA").getchannel("A")
    return alpha.getextrema() == (255, 255)


def scale_transparency(image: Image.Image, bits: int) -> None:
    """Scale the transparent gray level of a PNG with 2 or 4 bits in the same way as Pillow scales pixels."""
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int) and bits in (2, 4):
        image.info["transparency"] = key * 255 // (2**bits - 1)


def plain(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits in mode L or RGB. Transparent pixels are drawn on white."""
    if image.has_transparency_data:
        background = Image.new("RGBA", image.size, (_BACKGROUND,) * 4)
        image = Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def as_decoded(image: Image.Image) -> Image.Image:
    """Return an image in mode L or RGB with the pixels that the trainers decode.

    16-bit values keep their high byte, and transparency is ignored. `convert` stores no such images. Adopted
    records may have them.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        high = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(np.clip(high, 0, 255).astype(np.uint8))
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def has_one_color(image: Image.Image) -> bool:
    """Return whether all pixels of an image in mode L or RGB are equal."""
    return all(low == high for low, high in (band.getextrema() for band in image.split()))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Apply an EXIF orientation, 1..8. Pillow's own function is not used, since it fails on broken EXIF."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def target_size(size: tuple[int, int], side: int, mode: str, upscale: bool) -> tuple[int, int]:
    """Return width and height after resizing.

    Args:
        size: Width and height of the image.
        side: Target length in pixels.
        mode: "shorter", "longer": that side becomes `side`, and the aspect ratio is kept. "exact": the image is
            stretched to a square. "center_crop": the central square is cropped and resized.
        upscale: Whether small images are enlarged. If False, `side` is at most the shorter side of the image (the
            longer side for "longer").
    """
    reference = max(size) if mode == "longer" else min(size)
    side = side if upscale else min(side, reference)
    if mode in ("exact", "center_crop"):
        return side, side
    width, height = (max(1, round(length * side / reference)) for length in size)
    return width, height


def draft(image: Image.Image, size: tuple[int, int], mode: str) -> None:
    """Decode a JPEG at 1/2, 1/4 or 1/8 scale if that is enough for the target size; ignore other formats."""
    width, height = image.size
    scale = max(size) / min(width, height) if mode == "center_crop" else max(size[0] / width, size[1] / height)
    image.draft(None, (math.ceil(width * scale * _DRAFT), math.ceil(height * scale * _DRAFT)))


def resized(image: Image.Image, size: tuple[int, int], mode: str) -> Image.Image:
    """Resize to `size` (width, height) with an antialiasing Lanczos filter."""
    box = None
    if mode == "center_crop":
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        box = (left, top, left + side, top + side)
    return image.resize(size, Image.Resampling.LANCZOS, box=box)


def encoded(image: Image.Image, kind: str, quality: int) -> bytes:
    """Encode an image in mode L or RGB as JPEG (4:4:4, full color resolution), PNG or RAW (u8[h w 3])."""
    if kind == "RAW":
        return image.convert("RGB").tobytes()
    stream = io.BytesIO()
    if kind == "JPEG":
        image.save(stream, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(stream, "PNG", icc_profile=None)  # The color profile of the file does not apply to these pixels.
    return stream.getvalue()
