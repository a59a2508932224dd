"""Measure the peak memory of commands for two numbers of files and two image sizes.

The commands are `convert`, `to_csv`, `convert` of that CSV, and a training on features. Memory should grow with the
number of files, but not with the size of the images. The features lie in a mapped file; the mapped pages are counted
until another process needs the memory.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import common
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError

_SHARDS = ("--workers=1", "--shard_bytes=16777216")  # A fixed size, because the default grows with the dataset.


def peaks(files: int, image_size: int) -> dict[str, int]:
    """Return the peak resident bytes of each command on `files` images, with one worker."""
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        common.make_images(work / "images", files, image_size)
        commands = {
            "convert": [*common.CONVERT, f"--src={work / 'images'}", f"--out={work / 'out'}", *_SHARDS],
            "to_csv": [
                *common.TO_CSV, f"--src={work / 'images'}", f"--out={work / 'csv'}", f"--image_size={image_size}",
                "--color=gray", "--workers=1",
            ],
            "convert the CSV": [*common.CONVERT, f"--src={work / 'csv'}", f"--out={work / 'again'}", *_SHARDS],
            "features": [
                sys.executable, "-m", "trainers.features", f"--tfrecords={work / 'out'}", f"--run={work / 'run'}",
                f"--features={work / 'features'}", "--backbone=MobileNet", "--backbone_kwargs=alpha=0.25",
                "--weights=none", "--image_size=32", "--epochs=1",
            ],
        }  # fmt: skip
        peak_bytes = {}
        for name, arguments in commands.items():
            finished = common.run(arguments)
            if finished.exit_code:
                raise UserError(f"{name} of {files} files failed with exit code {finished.exit_code}")
            peak_bytes[name] = finished.peak_bytes
        return peak_bytes


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    small, large = map(int, flags.FLAGS.files)
    few, many, big = peaks(small, 32), peaks(large, 32), peaks(small, 64)
    print(f"peak memory, MB {'':<11} {small:>9,} files {large:>9,} files      per file   4 x pixels")
    for name in few:
        print(
            f"  {name:<24} {few[name] / 1e6:>15,.0f} {many[name] / 1e6:>15,.0f}"
            f" {(many[name] - few[name]) / (large - small):>9,.0f} bytes {(big[name] - few[name]) / 1e6:>+10,.0f}"
        )


if __name__ == "__main__":
    flags.DEFINE_list(
        "files", ["10000", "100000"], "Two file counts. The conversion is measured with each of the two counts."
    )
    command.run(main)
