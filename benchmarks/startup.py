"""Compare the time of convert --help, a wrong flag and --dry_run with that of `import tensorflow`."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import common
from tfrecord_tools.base import command


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    with tempfile.TemporaryDirectory() as work:
        source = flags.FLAGS.photos
        if source is None:
            source = str(Path(work) / "images")
            common.make_images(Path(source), 2000, 256)
        commands = {
            "import tensorflow": [sys.executable, "-c", "import tensorflow"],
            "convert --help": [*common.CONVERT, "--help"],
            "convert --wrong": [*common.CONVERT, "--wrong"],
            "convert --dry_run": [*common.CONVERT, f"--src={source}", "--dry_run"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(
            1 + flags.FLAGS.rounds
        ):  # In turn, so that a slow moment hits all. The first round fills caches.
            for name, words in commands.items():
                seconds[name].append(common.run(words).seconds)
        for name, values in seconds.items():
            ratio = statistics.median(values[1:]) / statistics.median(seconds["import tensorflow"][1:])
            print(f"{name:<20} {statistics.median(values[1:]):6.2f} s  {ratio:5.2f} x import tensorflow")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of about 2,000 photographs. Default: 2,000 images are created.")
    flags.DEFINE_integer("rounds", 5, "Number of measurements; medians are printed.")
    command.run(main)
