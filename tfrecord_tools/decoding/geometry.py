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
        fit: "crop": a part from the center of the image is used, with the aspect ratio of the input. "pad": the whole
            image keeps its aspect ratio, and the rest of the input is gray (`FILL`). "stretch": the whole image is
            stretched to the input.
        crop: For "crop": size of the used part, above 0 and at most 1. 1 is the largest part with the aspect ratio of
            the input, and 0.5 is a part with half its height and width. 0 for "pad" and "stretch".
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
            crop: As in the class. With `fit="crop"`, 1 is used instead of 0.
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
        """Return the geometry as JSON values, for files and for comparisons with other runs.

        Only "pad" has the key `fit`.

        Earlier versions had only squares without padding. For such squares, the values are the same as then: `crop` is
        0 for "stretch".
        """
        size = self.height if self.height == self.width else [self.height, self.width]
        return {"image_size": size, "crop": self.crop} | ({"fit": "pad"} if self.fit == "pad" else {})

    def __str__(self) -> str:
        """Return a text such as "160 px, crop 0.875" or "96x256 px, pad"."""
        fit = f"crop {self.crop:g}" if self.fit == "crop" else self.fit
        return f"{sizes.text(self.image_size)} px, {fit}"

    def part(self, height: int, width: int) -> Box:
        """Return which part of an image with this height and width is used.

        The order of the operations must stay: `decoding.reference` computes the same with TensorFlow's float64.
        """
        if self.fit != "crop":
            return Box(0, 0, height, width)
        if height * self.width <= width * self.height:  # The aspect ratio is at least that of the input.
            lengths = float(height), height * self.width / self.height
        else:
            lengths = width * self.height / self.width, float(width)
        rows, columns = (max(1, round(length * self.crop)) for length in lengths)
        return Box((height - rows) // 2, (width - columns) // 2, rows, columns)

    def place(self, height: int, width: int) -> Box:
        """Return where the used part of an image with this height and width is in the network's input."""
        if self.fit != "pad":
            return Box(0, 0, self.height, self.width)
        if width * self.height >= height * self.width:  # The aspect ratio is at least that of the input.
            rows, columns = max(1, round(height * self.width / width)), self.width
        else:
            rows, columns = self.height, max(1, round(width * self.height / height))
        return Box((self.height - rows) // 2, (self.width - columns) // 2, rows, columns)

    def is_kept(self, height: int, width: int, scale: int = 1) -> bool:
        """Return whether an image needs no change to be the input of the network.

        Args:
            height: Height of the image at full scale.
            width: Width of the image at full scale.
            scale: Divisor at which the image is decoded.
        """
        sides = scale * self.height, scale * self.width
        return (height, width) == sides and self.part(height, width) == (0, 0, height, width)

    def decoding_scale(self, height: int, width: int) -> int:
        """Return the largest divisor in `SCALES` that makes the used part not smaller than its `place`."""
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
    """Raise UserError if `fit` is neither None nor one of `FITS`.

    `name` is the text before the value in the message.
    """
    if fit is not None and fit not in FITS:
        raise UserError(f"{name}{fit}: must be one of {', '.join(FITS)}.")
