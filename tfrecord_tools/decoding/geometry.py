"""What is taken of an image, and at which scale a JPEG is decoded for it."""

from __future__ import annotations

from typing import NamedTuple

from tfrecord_tools.errors import UserError

SCALES = (1, 2, 4, 8)  # A JPEG is decoded at one of these parts of its size without decoding the rest.


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def check_crop(crop: float, name: str = "crop=") -> None:
    """Raises UserError if it is no share; `name` is what stands before it in the message."""
    if not 0 <= crop <= 1:
        raise UserError(
            f"{name}{crop}: a share of the shorter side within 0..1 is expected; 0 stretches the whole image."
        )


def taken(height: int, width: int, crop: float) -> Box:
    """The central square with sides of this share of the shorter side, at least a pixel; of 0 the whole image."""
    if not crop:
        return Box(0, 0, height, width)
    side = max(1, round(min(height, width) * crop))
    return Box((height - side) // 2, (width - side) // 2, side, side)


def decoding_scale(box: Box, image_size: int) -> int:
    """Of `SCALES`, the largest that leaves what is taken as many pixels as are wanted."""
    return max(scale for scale in SCALES if scale == 1 or min(box.height, box.width) >= scale * image_size)
