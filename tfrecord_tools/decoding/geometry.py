"""Fit an image into the input of a network: which part is used, and where it is in the input."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from tfrecord_tools.base import sizes
from tfrecord_tools.base.sizes import Size
from tfrecord_tools.errors import UserError

SCALES = (1, 2, 4, 8)  # Divisors: a JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, which is faster.
FITS = ("crop", "pad", "stretch")
# Gray level around a padded image. Networks that scale pixels to -1..1 see nearly 0, as in the padding of their
# convolutions. The preset `strong` fills erased rectangles with the same gray.
FILL = 127


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Size of the input of a network, and how an image is fitted into it. `Geometry.of` checks it.

    Attributes:
        height: Height of the input in pixels.
        width: Width of the input in pixels.
        fit: "crop": the center of the image, with the aspect of the input, is used. "pad": the whole image keeps its
            aspect, and the rest of the input is gray (`FILL`). "stretch": the whole image is stretched to the input.
        crop: For "crop": the side of the used part divided by that of the largest part with this aspect, above 0 and at
            most 1. For a square, it is the side divided by the shorter side of the image. 0 for "pad" and "stretch".
    """

    height: int
    width: int
    fit: str = "stretch"
    crop: float = 0.0

    @classmethod
    def of(cls, image_size: Size | Geometry, crop: float = 0.0, fit: str | None = None, prefix: str = "") -> Geometry:
        """Return the geometry of some settings.

        Args:
            image_size: Height and width of the input in pixels, as one number or as a pair. A geometry is returned
                unchanged.
            crop: As in the class. With `fit="crop"`, 0 stands for 1.
            fit: As in the class. None: "crop" if `crop` is above 0, else "stretch".
            prefix: Text before the names in messages, such as "--" for flags.

        Raises:
            UserError: A value is not allowed, or `crop` is given for another fit than "crop".
        """
        if isinstance(image_size, Geometry):
            return image_size
        height, width = _sides(image_size, prefix)
        check_crop(crop, f"{prefix}crop=")
        check_fit(fit, f"{prefix}fit=")
        if crop and fit in ("pad", "stretch"):
            raise UserError(
                f"{prefix}crop={crop:g} with {prefix}fit={fit}: only {prefix}fit=crop cuts a part out of the image."
                f" Remove one of them."
            )
        fit = fit or ("crop" if crop else "stretch")
        return cls(height, width, fit, float(crop or 1) if fit == "crop" else 0.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the input: height, width, 3."""
        return self.height, self.width, 3

    @property
    def image_size(self) -> Size:
        """Height and width: one number for a square, else a pair."""
        return sizes.parse((self.height, self.width))

    def stored(self) -> dict[str, Any]:
        """Return the geometry as JSON values, for files and keys. Only "pad" has the key `fit`.

        Earlier versions had only squares without padding. The values for these stay the same: `crop` is 0 for
        "stretch".
        """
        size = self.height if self.height == self.width else [self.height, self.width]
        return {"image_size": size, "crop": self.crop} | ({"fit": "pad"} if self.fit == "pad" else {})

    def __str__(self) -> str:
        """Return a text such as "160 px, crop 0.875" or "96x256 px, pad"."""
        fit = f"crop {self.crop:g}" if self.fit == "crop" else self.fit
        return f"{sizes.text(self.image_size)} px, {fit}"

    def part(self, height: int, width: int) -> Box:
        """Return the part of an image of this size that is used.

        `reference` computes the same with TensorFlow's float64, so the order of the operations must stay.
        """
        if self.fit != "crop":
            return Box(0, 0, height, width)
        if height * self.width <= width * self.height:  # The image is at least as wide as the input.
            lengths = float(height), height * self.width / self.height
        else:
            lengths = width * self.height / self.width, float(width)
        rows, columns = (max(1, round(length * self.crop)) for length in lengths)
        return Box((height - rows) // 2, (width - columns) // 2, rows, columns)

    def place(self, height: int, width: int) -> Box:
        """Return the box of the network's input that the used part of an image of this size fills."""
        if self.fit != "pad":
            return Box(0, 0, self.height, self.width)
        if width * self.height >= height * self.width:  # The image is at least as wide as the input.
            rows, columns = max(1, round(height * self.width / width)), self.width
        else:
            rows, columns = self.height, max(1, round(width * self.height / height))
        return Box((self.height - rows) // 2, (self.width - columns) // 2, rows, columns)

    def decoding_scale(self, height: int, width: int) -> int:
        """Return the largest divisor in `SCALES` at which the used part is not smaller than `place`."""
        part, place = self.part(height, width), self.place(height, width)
        return max(
            scale
            for scale in SCALES
            if scale == 1 or (part.height >= scale * place.height and part.width >= scale * place.width)
        )


def _sides(image_size: Any, prefix: str) -> tuple[int, int]:
    try:
        sides = sizes.pair(sizes.parse(image_size))
    except (TypeError, ValueError):
        raise UserError(f"{prefix}image_size={image_size}: must be {sizes.WHAT}.") from None
    if min(sides) < 1:
        raise UserError(f"{prefix}image_size={sizes.text(sizes.parse(sides))}: must be at least 1.")
    return sides


def check_crop(crop: float, name: str = "crop=") -> None:
    """Raise UserError if `crop` is not in 0..1; `name` is the text before the value in the message."""
    if not 0 <= crop <= 1:
        raise UserError(
            f"{name}{crop}: must be between 0 and 1. It is the side of the central square divided by the image's"
            " shorter side. 0 stretches the whole image."
        )


def check_fit(fit: str | None, name: str = "fit=") -> None:
    """Raise UserError if `fit` is not None or one of `FITS`; `name` stands before it in the message."""
    if fit is not None and fit not in FITS:
        raise UserError(f"{name}{fit}: must be one of {', '.join(FITS)}.")
