"""The cropped region of an image, and the scale at which a JPEG is decoded."""

from __future__ import annotations

from typing import NamedTuple

from tfrecord_tools.errors import UserError

SCALES = (1, 2, 4, 8)  # Divisors: a JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, which is faster.


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def check_crop(crop: float, name: str = "crop=") -> None:
    """Raise UserError if `crop` is not in 0..1; `name` is the text before the value in the message."""
    if not 0 <= crop <= 1:
        raise UserError(
            f"{name}{crop}: must be between 0 and 1. It is the side of the central square divided by the image's"
            " shorter side. 0 stretches the whole image."
        )


def crop_box(height: int, width: int, crop: float) -> Box:
    """Return the central square with sides of `crop` times the shorter side (0: the whole image)."""
    if not crop:
        return Box(0, 0, height, width)
    side = max(1, round(min(height, width) * crop))
    return Box((height - side) // 2, (width - side) // 2, side, side)


def decoding_scale(box: Box, image_size: int) -> int:
    """Return the largest of `SCALES` that leaves `image_size` pixels per side of the cropped region."""
    return max(scale for scale in SCALES if scale == 1 or min(box.height, box.width) >= scale * image_size)
