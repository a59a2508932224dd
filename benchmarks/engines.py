"""Compare conversion by two local processes with two processes of Apache Beam's local runner.

Whole commands are timed in turn. The benchmark fails if their files differ.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import common
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError

_ENGINES = {
    "local": ("--workers=2",),
    "beam": ("--engine=beam", "--beam_options=--direct_running_mode=multi_processing --direct_num_workers=2"),
}


def seconds(source: Path, out: Path, options: Sequence[str]) -> float:
    """Return the wall time of a conversion into `out`, including its start."""
    arguments = [*common.CONVERT, f"--src={source}", f"--out={out}", *options]
    finished = common.run(arguments)
    if finished.exit_code:
        raise UserError(f"{' '.join(arguments)} failed with exit code {finished.exit_code}")
    return finished.seconds


def compare(work: Path, images: int, image_size: int, rounds: int) -> None:
    """Create images in `work`, and print the times of both engines and the median of the ratios."""
    common.make_images(work / "images", images, image_size)
    times: dict[str, list[float]] = {name: [] for name in _ENGINES}
    for _ in range(rounds):
        for name, options in _ENGINES.items():
            times[name].append(seconds(work / "images", work / name, options))
        if common.contents(work / "local") != common.contents(work / "beam"):
            raise UserError(f"local and beam wrote different files from {images:,} images")
        for name in _ENGINES:
            shutil.rmtree(work / name)
    print(f"{images:,} images, {rounds} rounds, two processes each; both engines wrote the same files")
    for name, seconds_of in times.items():
        print(f"  {name:<6} {statistics.median(seconds_of):6.1f} s ({min(seconds_of):.1f}..{max(seconds_of):.1f})")
    ratios = [beam / local for local, beam in zip(times["local"], times["beam"])]
    print(f"  beam takes {statistics.median(ratios):.1f} times as long ({min(ratios):.1f}..{max(ratios):.1f})")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    with tempfile.TemporaryDirectory() as work:
        compare(Path(work), given.images, given.image_size, given.rounds)


if __name__ == "__main__":
    flags.DEFINE_integer("images", 5_000, "Number of images to convert.")
    flags.DEFINE_integer("image_size", 160, "Height and width of the images in pixels.")
    flags.DEFINE_integer("rounds", 3, "Number of measurements; medians are printed.")
    command.run(main)
