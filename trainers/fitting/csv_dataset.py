"""Convert CSVs of pixels to TFRecords for a training. All trainings read TFRecords."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import UserError
from tfrecord_tools.sources import pixel_csv


def as_dataset(csv: str, tfrecords: str | None, log: Callable[[str], object] = print) -> tuple[str, int]:
    """Convert CSVs to records next to them, or update the records of an earlier call.

    Args:
        csv: Directory of the CSVs, one per split.
        tfrecords: Value of --tfrecords, which must be None or "".
        log: Receives the lines for the user.

    Returns:
        The dataset directory, and the height of the images in pixels.

    Raises:
        UserError: --tfrecords is set too, there are no CSVs of pixels, or they cannot be converted.
    """
    if tfrecords:
        raise UserError(
            f"--csv={csv} and --tfrecords={tfrecords}: only one of these flags is allowed. Remove the other flag."
        )
    source = Path(csv).resolve()
    if not source.exists():
        raise UserError(f"--csv={csv}: does not exist. Pass the output directory of tfrecord_tools.to_csv.")
    if source.is_file():
        raise UserError(
            f"--csv={csv}: is a file. Pass the directory of the CSVs, {Path(csv).parent}. It must have one CSV for"
            " each split."
        )
    files = [path for path in sorted(source.iterdir()) if pixel_csv.is_one(str(path))]
    if not files:
        raise UserError(
            f"--csv={csv}: has no CSV of pixels in the format of tfrecord_tools.to_csv. To train on images, convert"
            " them with python -m tfrecord_tools.convert, and pass its --out as --tfrecords."
        )
    if not source.name:
        raise UserError(
            f"--csv={csv}: is the root directory. The records are written next to the directory of the CSVs, so move"
            " the CSVs into another directory."
        )
    out = Path(os.path.relpath(source.with_name(f"{source.name}-tfrecords")))
    config = ConvertConfig(src=csv, out=str(out), update=out.exists())
    # The lines and errors of `convert` name its flags, so its command is shown in front of them.
    command = f"python -m tfrecord_tools.convert --src={csv} --out={out}{' --update' if config.update else ''}"
    log(f"csv: {command}")
    try:
        convert(config, log)
    except UserError as error:
        raise UserError(f"{command}: {error}") from error
    with open(files[0], "rb") as file:
        height, _, _ = pixel_csv.read_shape(file)
    return str(out), height
