"""Draw the results of an augmentation: one image with many random changes, as a grid.

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
from tfrecord_tools.augmentation import named
from tfrecord_tools.augmentation.named import Augment
from tfrecord_tools.base import cache_options, command, files, sizes, usage
from tfrecord_tools.base.sizes import Size
from tfrecord_tools.decoding import decoder
from tfrecord_tools.decoding.geometry import FITS, Geometry
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import preparation
from tfrecord_tools.records import open_dataset

_GAP = 4  # White pixels between panels.
_MAX_PANELS = 400
_MAX_SIZE = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """Settings of a preview. Set either `tfrecords` or `image`.

    Attributes:
        tfrecords: A dataset directory.
        cache_dir: As in `records.open_dataset`.
        cache_bytes: As in `records.open_dataset`.
        split: Split of the record.
        record: Number of the record in its split, from 0.
        image: An image file, instead of a record.
        augment: Random changes, as in `dataset.train_batches`.
        grid: Number of panels as "ROWSxCOLUMNS", at most 400 panels.
        image_size: Height and width of a panel in pixels, each 1 to 2,048: one number for a square, or a pair.
        crop: As in `dataset.train_batches`. 0: the whole image is stretched.
        fit: As in `dataset.train_batches`.
        seed: Another seed gives other random changes.
        out: PNG file to write.
    """

    tfrecords: str | None = None
    cache_dir: str | None = None
    cache_bytes: int | None = None
    split: str = "train"
    record: int = 0
    image: str | None = None
    augment: Augment = "reference"
    grid: str = "3x4"
    image_size: Size = 150
    crop: float = 0.0
    fit: str | None = None
    seed: int = 0
    out: str = "preview.png"

    def __post_init__(self) -> None:
        if bool(self.tfrecords) == bool(self.image):
            raise UserError("use either --tfrecords=DIRECTORY for a record, or --image=FILE for an image file.")
        files.check_local("out", self.out)
        sides = sizes.pair(self.image_size)
        if not 1 <= min(sides) <= max(sides) <= _MAX_SIZE:
            raise UserError(f"--image_size={sizes.text(self.image_size)}: must be 1 to {_MAX_SIZE:,} pixels.")
        _ = self.geometry  # Checks its values.
        named.resolve(self.augment, "--augment=")
        if not 1 <= self.shape[0] * self.shape[1] <= _MAX_PANELS:
            raise UserError(f"--grid={self.grid}: must be 1 to {_MAX_PANELS} panels.")

    @property
    def geometry(self) -> Geometry:
        """How the image is fitted into a panel."""
        return Geometry.of(self.image_size, self.crop, self.fit, "--")

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        match = re.fullmatch(r"(\d+)x(\d+)", self.grid)
        if not match:
            raise UserError(f"--grid={self.grid}: must be ROWSxCOLUMNS, for example 3x4.")
        return int(match[1]), int(match[2])


def panels(encoded: bytes, config: PreviewConfig, augment: Augment, raw_size: int | None = None) -> np.ndarray:
    """Return the image with other random changes in each panel, as in the epochs of a training.

    Args:
        encoded: The image file, or raw pixels.
        config: All settings.
        augment: Random changes, as in `dataset.train_batches`.
        raw_size: Height and width of raw pixels. None: the image is encoded.

    Returns:
        u8[rows * columns, h, w, 3].
    """
    import tensorflow as tf

    from tfrecord_tools.augmentation import changes

    count = config.shape[0] * config.shape[1]
    pixels = decoder.decode(encoded, config.geometry, raw_size=raw_size)
    keys = order.hash64(config.seed, np.arange(count)).view(np.int64)
    change = changes.of(augment, (count, *config.geometry.shape), jit=False, prefix="--augment=")
    images: np.ndarray = change(tf.constant(np.repeat(pixels[None], count, 0)), tf.constant(keys)).numpy()
    return images


def grid(images: np.ndarray, columns: int) -> Image.Image:
    """Draw images, u8[n h w 3], as a grid with `columns` images per row, on white."""
    height, width = (side + _GAP for side in images.shape[1:3])
    rows = -(-len(images) // columns)
    picture = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    for number, panel in enumerate(images):
        row, column = divmod(number, columns)
        picture.paste(Image.fromarray(panel), (_GAP + column * width, _GAP + row * height))
    return picture


def _encoded(config: PreviewConfig) -> tuple[bytes, str, int | None]:
    """Return bytes, name and raw size of the image. A file is prepared as `convert` would prepare it."""
    if config.image:
        try:
            data = Path(config.image).read_bytes()
            return preparation.prepare(data).data, config.image, None
        except (OSError, preparation.BadImage) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"--image={config.image}: {reason}.") from error
    data_set = open_dataset(config.tfrecords or "", cache_dir=config.cache_dir, cache_bytes=config.cache_bytes)
    records = data_set.records(config.split)
    if not 0 <= config.record < len(records):
        raise UserError(f"--record={config.record}: must be 0 to {len(records) - 1:,} in the {config.split} split.")
    record = records[config.record]
    return record["image"], record["path"], data_set.raw_size


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    config = command.from_flags(PreviewConfig)
    encoded, name, raw_size = _encoded(config)
    picture = grid(panels(encoded, config, config.augment, raw_size), config.shape[1])
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    with files.atomic(Path(config.out)) as file:
        file.write(stream.getvalue())
    print(
        f"{config.out}: {name}, {config.grid} panels with --augment={config.augment}, {picture.width} x"
        f" {picture.height} pixels"
    )


def define_flags() -> None:
    for option in cache_options.OPTIONS:
        option.define()
    default = PreviewConfig(image="-")
    usage.define_path(
        "tfrecords", None, "Directory of the dataset with the record to draw. Pass either --tfrecords or --image."
    )
    flags.DEFINE_string("split", default.split, "Split of the record to draw: train, validation or test.")
    flags.DEFINE_integer(
        "record", default.record, "Number of the record to draw. The first record of --split has the number 0."
    )
    usage.define_path("image", None, "Image file to draw. Pass either --image or --tfrecords.")
    flags.DEFINE_string("augment", str(default.augment), f"Random changes of the image: {named.FORMS}.")
    flags.DEFINE_string("grid", default.grid, "Number of changed images to draw, as ROWSxCOLUMNS, for example 3x4.")
    usage.define_size(
        "image_size",
        default.image_size,
        "Height and width of each changed image in pixels: one number for a square, or HEIGHTxWIDTH as in 96x256.",
    )
    flags.DEFINE_float(
        "crop",
        default.crop,
        "Size of the central square that is cut from the image: 0.875 means 0.875 times the shorter side of the image."
        " 0: the whole image is stretched.",
    )
    flags.DEFINE_enum(
        "fit",
        default.fit,
        FITS,
        "How the image is fitted into --image_size. crop: the center of the image is used; pad: the whole image is"
        " used, and the rest is filled with gray; stretch: the whole image is stretched. Default: stretch if --crop is"
        " 0, else crop.",
    )
    flags.DEFINE_integer("seed", default.seed, "Seed of the random changes. Another seed gives other changes.")
    usage.define_path("out", default.out, "PNG file to write.")


if __name__ == "__main__":
    define_flags()
    command.run(main)
