"""Peak memory of conversions at two numbers of files and two sizes of image: bytes a file of plan, none of image.

Likewise of `to_csv` and of the conversion of its CSV, whose rows are not held either; and of a training on features,
which lie in a mapped file: its pages count as long as nobody else wants the memory.
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

_SHARDS = ("--workers=1", "--shard_bytes=16777216")  # Of one size, lest larger datasets have larger ones.


def peaks(files: int, image_size: int) -> dict[str, int]:
    """Peak resident bytes of each command on `files` images, in one process."""
    with tempfile.TemporaryDirectory() as work:
        place = Path(work)
        common.make_images(place / "images", files, image_size)
        commands = {
            "convert": [*common.CONVERT, f"--src={place / 'images'}", f"--out={place / 'out'}", *_SHARDS],
            "to_csv": [
                *common.TO_CSV, f"--src={place / 'images'}", f"--out={place / 'csv'}", f"--image_size={image_size}",
                "--color=gray", "--workers=1",
            ],
            "convert the CSV": [*common.CONVERT, f"--src={place / 'csv'}", f"--out={place / 'again'}", *_SHARDS],
            "features": [
                sys.executable, "-m", "trainers.features", f"--tfrecords={place / 'out'}", f"--run={place / 'run'}",
                f"--features={place / 'features'}", "--backbone=MobileNet", "--backbone_kwargs=alpha=0.25",
                "--weights=none", "--image_size=32", "--epochs=1",
            ],
        }  # fmt: skip
        found = {}
        for name, arguments in commands.items():
            finished = common.run(arguments)
            if finished.exit_code:
                raise UserError(f"{name} of {files} files failed with exit code {finished.exit_code}")
            found[name] = finished.peak_bytes
        return found


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    small, large = map(int, flags.FLAGS.files)
    few, many, big = peaks(small, 32), peaks(large, 32), peaks(small, 64)
    print(f"peak MB of {'':<16} {small:>9,} files {large:>9,} files   a file more   pixels * 4")
    for name in few:
        print(
            f"  {name:<24} {few[name] / 1e6:>15,.0f} {many[name] / 1e6:>15,.0f}"
            f" {(many[name] - few[name]) / (large - small):>9,.0f} bytes {(big[name] - few[name]) / 1e6:>+10,.0f}"
        )


if __name__ == "__main__":
    flags.DEFINE_list("files", ["10000", "100000"], "The two numbers of files.")
    command.run(main)
