"""Pixel CSVs as a dataset: there is one way from a source to a training, and it leads over records."""

from __future__ import annotations

import os
from pathlib import Path

from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import UserError


def as_dataset(csv: str, tfrecords: str | None) -> str:
    """Converts CSVs into records beside them, or brings those of an earlier call up to date.

    Args:
        csv: The directory of the CSVs, or one of them.
        tfrecords: What was given as a dataset: nothing is expected.

    Returns:
        The dataset directory.

    Raises:
        UserError: A dataset was given too, or the CSVs cannot be converted.
    """
    if tfrecords:
        raise UserError(f"--csv={csv} and --tfrecords={tfrecords} exclude each other: pass one of them.")
    source = Path(csv).resolve()
    if not source.exists():
        raise UserError(f"--csv={csv}: there is no such file or directory. Pass what tfrecord_tools.to_csv wrote.")
    if not source.name:
        raise UserError(f"--csv={csv}: the root of all files. Pass the directory of the CSVs.")
    name = source.name if source.is_dir() else source.stem
    out = Path(os.path.relpath(source.with_name(f"{name}-tfrecords")))
    convert(ConvertConfig(src=csv, out=str(out), update=out.exists()))
    return str(out)
