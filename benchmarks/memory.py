"""Peak memory of a conversion, at two numbers of files and two sizes of image: bytes a file of plan, none of image."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import common
from tfrecord_tools import command
from tfrecord_tools.errors import UserError


def peak_bytes(files: int, image_size: int) -> int:
    """Peak resident bytes of converting `files` images in one process."""
    with tempfile.TemporaryDirectory() as work:
        images, out = Path(work) / "images", Path(work) / "out"
        common.make_images(images, files, image_size)
        finished = common.run(
            [*common.CONVERT, f"--src={images}", f"--out={out}", "--workers=1", "--shard_bytes=16777216"]
        )
        if finished.exit_code:
            raise UserError(f"the conversion of {files} files failed with exit code {finished.exit_code}")
        return finished.peak_bytes


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    small, large = flags.FLAGS.files
    peaks = {}
    for files, size in ((int(small), 32), (int(large), 32), (int(small), 256)):
        peaks[files, size] = peak_bytes(files, size)
        print(f"{files:>9,} files of {size} x {size} pixels: peak {peaks[files, size] / 1e6:,.1f} MB")
    growth = (peaks[int(large), 32] - peaks[int(small), 32]) / (int(large) - int(small))
    print(f"a file more: {growth:,.0f} bytes")
    print(f"images of 64 times the pixels: {(peaks[int(small), 256] - peaks[int(small), 32]) / 1e6:+,.1f} MB in all")


if __name__ == "__main__":
    flags.DEFINE_list("files", ["10000", "100000"], "The two numbers of files.")
    command.run(main)
