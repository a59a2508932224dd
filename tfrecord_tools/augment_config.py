"""Settings of the augmentation, with the names and meanings of Keras's `ImageDataGenerator`.

This module does not need TensorFlow, so that commands can check their flags quickly.
"""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

from tfrecord_tools.errors import UserError

FILL_MODES = ("nearest", "constant", "reflect", "wrap")
Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of training images, each drawn uniformly and independently. Default: no changes.

    The arguments of an `ImageDataGenerator` can be copied: `AugmentConfig(rotation_range=90, width_shift_range=0.2)`.
    Some arguments have another meaning in Keras's preprocessing layers. Here, they mean the same as in
    `ImageDataGenerator`.

    Attributes:
        rotation_range: Largest rotation to either side in degrees, 0..180.
        width_shift_range: Largest horizontal shift to either side. Below 1: share of the width; from 1: pixels.
        height_shift_range: Largest vertical shift to either side. Below 1: share of the height; from 1: pixels.
        shear_range: Largest shear to either side in degrees, 0..89.
        zoom_range: Width and height are each scaled by a factor within 1 - zoom_range .. 1 + zoom_range, or within the
            two given factors. A factor above 1 zooms out.
        horizontal_flip: Flip left-right with probability 0.5.
        vertical_flip: Flip top-bottom with probability 0.5.
        fill_mode: Filling of the area outside the image. "nearest": its edge pixels; "constant": `cval`; "reflect": its
            mirror image; "wrap": its opposite side.
        cval: Gray level, 0..255, of the area that "constant" fills and of erased rectangles.
        channel_shift_range: Largest number of levels, 0..255, that is added to or subtracted from all channels.
        brightness_range: (lowest, highest) factor, 0..5, of all values.
        contrast_range: (lowest, highest) factor, 0..5. The difference between each value and the mean of the image is
            multiplied by it.
        saturation_range: (lowest, highest) factor, 0..5. The difference between each pixel and its gray level is
            multiplied by it.
        erasing: Probability that a rectangle is filled with `cval` (Zhong et al. 2017, "Random erasing").
        erasing_area: (smallest, largest) area of the rectangle, as a share of the image.
    """

    rotation_range: float = 0.0
    width_shift_range: float = 0.0
    height_shift_range: float = 0.0
    shear_range: float = 0.0
    zoom_range: float | Range = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    fill_mode: str = "nearest"
    cval: float = 0.0
    channel_shift_range: float = 0.0
    brightness_range: Range | None = None
    contrast_range: Range | None = None
    saturation_range: Range | None = None
    erasing: float = 0.0
    erasing_area: Range = (0.02, 0.2)

    def __post_init__(self) -> None:
        _check_within("rotation_range", self.rotation_range, 0, 180, "degrees")
        _check_within("shear_range", self.shear_range, 0, 89, "degrees")
        _check_within(
            "width_shift_range", self.width_shift_range, 0, _MOST_PIXELS, "a fraction below 1, or a number of pixels,"
        )
        _check_within(
            "height_shift_range", self.height_shift_range, 0, _MOST_PIXELS, "a fraction below 1, or a number of pixels,"
        )
        _check_within("channel_shift_range", self.channel_shift_range, 0, 255, "gray levels")
        _check_within("cval", self.cval, 0, 255, "a gray level")
        _check_within("erasing", self.erasing, 0, 1, "a probability")
        for name in ("horizontal_flip", "vertical_flip"):
            if getattr(self, name) not in (True, False):
                raise UserError(f"{name}={getattr(self, name)}: must be True or False.")
        if self.fill_mode not in FILL_MODES:
            raise UserError(f"fill_mode={self.fill_mode!r}: must be one of {', '.join(FILL_MODES)}.")
        if not isinstance(self.zoom_range, (tuple, list)):
            _check_within("zoom_range", self.zoom_range, 0, 0.99, "a fraction")
        for name, most in _MOST.items():
            value = getattr(self, name)
            single = isinstance(value, numbers.Real) if name == "zoom_range" else value is None and name in _OPTIONAL
            if not single:
                object.__setattr__(self, name, _checked_range(name, value, most))  # JSON gives lists.
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if hasattr(value, "item"):  # A number of NumPy, which JSON does not have.
                object.__setattr__(self, field.name, value.item())
        if self.zoom_factors[0] <= 0:
            raise UserError(f"zoom_range={self.zoom_range}: both zoom factors must be above 0.")

    def __bool__(self) -> bool:
        """Whether any change is possible."""
        return self != dataclasses.replace(
            AugmentConfig(), fill_mode=self.fill_mode, cval=self.cval, erasing_area=self.erasing_area
        )

    @property
    def zoom_factors(self) -> Range:
        """Smallest and largest factor of width and height."""
        if isinstance(self.zoom_range, tuple):
            return self.zoom_range
        return 1 - self.zoom_range, 1 + self.zoom_range

    @property
    def moves(self) -> bool:
        """Whether there are geometric changes."""
        flips = self.horizontal_flip or self.vertical_flip
        shifts = self.width_shift_range or self.height_shift_range
        return bool(flips or shifts or self.rotation_range or self.shear_range or self.zoom_factors != (1, 1))

    @property
    def recolors(self) -> bool:
        """Whether there are color changes."""
        ranges = (self.brightness_range, self.contrast_range, self.saturation_range)
        return bool(self.channel_shift_range) or any(r is not None for r in ranges)


_MOST_PIXELS = 8192
_OPTIONAL = ("brightness_range", "contrast_range", "saturation_range")  # None: no change.
# Attribute that is a pair of numbers -> the highest number that is allowed. `zoom_range` may also be a single number.
_MOST = {"zoom_range": 100, **dict.fromkeys(_OPTIONAL, 5), "erasing_area": 1}


def _check_within(name: str, value: Any, low: float, high: float, what: str) -> None:
    is_number: bool = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise UserError(f"{name}={value}: must be {what} from {low} to {high}.")


def _checked_range(name: str, value: Any, most: float) -> Range:
    ends = list(value) if isinstance(value, (tuple, list)) else []
    valid = len(ends) == 2 and all(isinstance(end, numbers.Real) for end in ends)
    if not valid or not 0 <= ends[0] <= ends[1] <= most:
        raise UserError(
            f"{name}={value}: must be two numbers from 0 to {most}. The first number must not be larger than the"
            " second."
        )
    return float(ends[0]), float(ends[1])


_REFERENCE = AugmentConfig(rotation_range=90.0, zoom_range=0.2, horizontal_flip=True, vertical_flip=True)
FORMER_NAMES = {"document": "reference", "document_transfer": "reference_transfer"}  # Old name of a preset -> its name.


def current_name(name: str) -> str:
    """Return the current name of a preset or recipe that may be given by its old name, such as `document`."""
    return FORMER_NAMES.get(name, name)


class _Presets(dict[str, AugmentConfig]):
    """Presets by name. Old names are found too, but not listed."""

    def __missing__(self, name: str) -> AugmentConfig:
        if name not in FORMER_NAMES:
            raise KeyError(name)
        return self[FORMER_NAMES[name]]


PRESETS = _Presets(
    {
        "none": AugmentConfig(),
        # The settings of the reference recipe, for training from scratch and for transfer learning.
        "reference": dataclasses.replace(_REFERENCE, width_shift_range=0.2, height_shift_range=0.2),
        "reference_transfer": dataclasses.replace(_REFERENCE, width_shift_range=0.1, height_shift_range=0.1),
        # Photographs are seldom upside down, so rotations are small and there is no vertical flip.
        "standard": AugmentConfig(
            rotation_range=15.0, width_shift_range=0.1, height_shift_range=0.1, zoom_range=0.15, horizontal_flip=True
        ),
        "strong": AugmentConfig(
            rotation_range=30.0,
            width_shift_range=0.15,
            height_shift_range=0.15,
            shear_range=10.0,
            zoom_range=(0.7, 1.2),
            horizontal_flip=True,
            fill_mode="reflect",
            channel_shift_range=10.0,
            brightness_range=(0.7, 1.3),
            contrast_range=(0.7, 1.3),
            saturation_range=(0.5, 1.5),
            erasing=0.25,
            cval=127.0,
        ),
    }
)
