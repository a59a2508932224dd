"""What may happen to a training image, by the names and meanings of Keras's `ImageDataGenerator`.

Apart from `augment`, so that flags and settings can be checked without TensorFlow.
"""

from __future__ import annotations

import dataclasses

from tfrecord_tools.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What may happen to an image, each drawn uniformly and independently; edges repeat outwards.

    Attributes:
        rotation_range: Largest rotation to either side, in degrees.
        width_shift_range: Largest shift to either side, as a share of the width, in 0..1.
        height_shift_range: Likewise of the height.
        zoom_range: Width and height are each scaled within 1 - zoom_range .. 1 + zoom_range, in 0..1.
        horizontal_flip: Mirror left-right every second time.
        vertical_flip: Mirror top-bottom every second time.
    """

    rotation_range: float = 0.0
    width_shift_range: float = 0.0
    height_shift_range: float = 0.0
    zoom_range: float = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rotation_range <= 180:
            raise UserError(f"rotation_range={self.rotation_range}: degrees within 0..180 are expected.")
        for name in ("width_shift_range", "height_shift_range", "zoom_range"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: a share within 0..1 is expected.")

    def __bool__(self) -> bool:
        """Whether anything is changed at all."""
        return self != AugmentConfig()


_NOTES = AugmentConfig(rotation_range=90.0, zoom_range=0.2, horizontal_flip=True, vertical_flip=True)
PRESETS = {
    "none": AugmentConfig(),
    # The settings of the notes that this project grew from, for training from scratch and for transfer.
    "document": dataclasses.replace(_NOTES, width_shift_range=0.2, height_shift_range=0.2),
    "document_transfer": dataclasses.replace(_NOTES, width_shift_range=0.1, height_shift_range=0.1),
    # Photographs have a right way up: small turns, no vertical flip.
    "standard": AugmentConfig(
        rotation_range=15.0, width_shift_range=0.1, height_shift_range=0.1, zoom_range=0.15, horizontal_flip=True
    ),
}
