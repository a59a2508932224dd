"""Draws what an augmentation makes of an image: one image, many draws.

python -m tfrecord_tools.preview --tfrecords=out --augment=reference --grid=3x4
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from tfrecord_tools import order
from tfrecord_tools.augment_config import FORMER_NAMES, PRESETS, AugmentConfig
from tfrecord_tools.base import command, files, usage
from tfrecord_tools.decoding import decoder, geometry
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import preparation
from tfrecord_tools.records import open_dataset

_GAP = 4  # White pixels between the panels.
_MAX_PANELS = 400
_MAX_SIZE = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """What is drawn.

    Attributes:
        tfrecords: A dataset directory.
        split: Whose record.
        record: Its number.
        image: An image file instead.
        augment: Name of a preset.
        grid: Rows x columns.
        image_size: Height and width of a panel in pixels.
        crop: As in `dataset.train_batches`.
        seed: Another one gives other draws.
        out: The PNG to write.
    """

    tfrecords: str | None = None
    split: str = "train"
    record: int = 0
    image: str | None = None
    augment: str = "reference"
    grid: str = "3x4"
    image_size: int = 150
    crop: float = 0.0
    seed: int = 0
    out: str = "preview.png"

    def __post_init__(self) -> None:
        if bool(self.tfrecords) == bool(self.image):
            raise UserError("give either --tfrecords, a dataset directory, or --image, a file.")
        if not 1 <= self.image_size <= _MAX_SIZE:
            raise UserError(f"--image_size={self.image_size}: 1 to {_MAX_SIZE:,} are expected.")
        geometry.check_crop(self.crop, "--crop=")
        if not 1 <= self.shape[0] * self.shape[1] <= _MAX_PANELS:
            raise UserError(f"--grid={self.grid}: 1 to {_MAX_PANELS} panels are expected.")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        found = re.fullmatch(r"(\d+)x(\d+)", self.grid)
        if not found:
            raise UserError(f"--grid={self.grid}: rows x columns, as in 3x4, are expected.")
        return int(found[1]), int(found[2])


def panels(encoded: bytes, config: PreviewConfig, augment: AugmentConfig, raw_size: int | None = None) -> np.ndarray:
    """Returns u8[rows*columns h w 3]: what the first epochs of a training would see of this image."""
    import tensorflow as tf

    from tfrecord_tools.augmentation.augment import augment as augmented

    count = config.shape[0] * config.shape[1]
    pixels = decoder.decode(encoded, config.image_size, config.crop, raw_size)
    keys = order.hash64(config.seed, np.arange(count)).view(np.int64)
    drawn: np.ndarray = augmented(np.repeat(pixels[None], count, 0), tf.constant(keys), augment, jit=False).numpy()
    return drawn


def grid(drawn: np.ndarray, columns: int) -> Image.Image:
    """Lays u8[n h w 3] out in rows of `columns`, on white."""
    height, width = (side + _GAP for side in drawn.shape[1:3])
    rows = -(-len(drawn) // columns)
    picture = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    for number, panel in enumerate(drawn):
        row, column = divmod(number, columns)
        picture.paste(Image.fromarray(panel), (_GAP + column * width, _GAP + row * height))
    return picture


def _encoded(config: PreviewConfig) -> tuple[bytes, str, int | None]:
    """Bytes, name and raw size of the image; a file passes through the converter's own preparation."""
    if config.image:
        try:
            data = Path(config.image).read_bytes()
            return preparation.prepare(data).data, config.image, None
        except (OSError, preparation.BadImage) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"--image={config.image}: {reason}.") from error
    data_set = open_dataset(config.tfrecords or "")
    records = data_set.records(config.split)
    if not 0 <= config.record < len(records):
        raise UserError(f"--record={config.record}: {config.split} has the records 0 to {len(records) - 1:,}.")
    record = records[config.record]
    return record["image"], record["path"], data_set.raw_size


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    config = command.from_flags(PreviewConfig)
    encoded, name, raw_size = _encoded(config)
    picture = grid(panels(encoded, config, PRESETS[config.augment], raw_size), config.shape[1])
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    with files.atomic(Path(config.out)) as file:
        file.write(stream.getvalue())
    print(
        f"{config.out}: {name}, {config.grid} draws of --augment={config.augment}, {picture.width} x {picture.height}"
    )


def define_flags() -> None:
    default = PreviewConfig(image="-")
    usage.define_path("tfrecords", None, "A dataset directory, as tfrecord_tools.convert wrote it.")
    flags.DEFINE_string("split", default.split, "Whose record.")
    flags.DEFINE_integer("record", default.record, "Its number.")
    usage.define_path("image", None, "An image file instead.")
    flags.DEFINE_enum("augment", default.augment, [*PRESETS, *FORMER_NAMES], "The augmentation.")
    flags.DEFINE_string("grid", default.grid, "Rows x columns.")
    flags.DEFINE_integer("image_size", default.image_size, "Height and width of a panel in pixels.")
    flags.DEFINE_float("crop", default.crop, "Share of the shorter side whose central square is taken; 0 stretches.")
    flags.DEFINE_integer("seed", default.seed, "Another one gives other draws.")
    usage.define_path("out", default.out, "The PNG to write.")


if __name__ == "__main__":
    define_flags()
    command.run(main)
