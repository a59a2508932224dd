"""Pixel CSVs as a dataset: there is one way from a source to a training, and it leads over records."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import UserError
from tfrecord_tools.sources import pixel_csv


def as_dataset(csv: str, tfrecords: str | None, log: Callable[[str], object] = print) -> tuple[str, int]:
    """Converts CSVs into records beside them, or brings those of an earlier call up to date.

    Args:
        csv: The directory of the CSVs, one for each split.
        tfrecords: What was given as a dataset: nothing is expected.
        log: Takes the lines for the user.

    Returns:
        The dataset directory, and the height of the images in pixels.

    Raises:
        UserError: A dataset was given too, there are no CSVs of pixels, or they cannot be converted.
    """
    if tfrecords:
        raise UserError(f"--csv={csv} and --tfrecords={tfrecords} exclude each other: pass one of them.")
    source = Path(csv).resolve()
    if not source.exists():
        raise UserError(f"--csv={csv}: there is no such file or directory. Pass what tfrecord_tools.to_csv wrote.")
    if source.is_file():
        raise UserError(f"--csv={csv}: a file. Pass {Path(csv).parent}, where there may be a CSV for each split.")
    files = [path for path in sorted(source.iterdir()) if pixel_csv.is_one(str(path))]
    if not files:
        raise UserError(
            f"--csv={csv}: no CSV of pixels in it, such as tfrecord_tools.to_csv writes. Of images, pass the --out of"
            " tfrecord_tools.convert as --tfrecords."
        )
    if not source.name:
        raise UserError(f"--csv={csv}: the root of all files, which nothing can be put beside. Move the CSVs.")
    out = Path(os.path.relpath(source.with_name(f"{source.name}-tfrecords")))
    config = ConvertConfig(src=csv, out=str(out), update=out.exists())
    # What is printed and raised below speaks of that command's flags.
    command = f"python -m tfrecord_tools.convert --src={csv} --out={out}{' --update' if config.update else ''}"
    log(f"csv: {command}")
    try:
        convert(config, log)
    except UserError as error:
        raise UserError(f"{command}: {error}") from error
    with open(files[0], "rb") as file:
        height, _, _ = pixel_csv.read_shape(file)
    return str(out), height
