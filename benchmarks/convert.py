"""Compare the speed of the conversion with that of an earlier checkout.

Whole processes are timed for two numbers of images. The difference gives the steady state, without the start.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import common
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError


def seconds(arguments: Sequence[str], out: Path) -> float:
    """Return the wall time of a process that writes `out`, then remove `out`."""
    finished = common.run(arguments)
    if finished.exit_code:
        raise UserError(f"{' '.join(arguments)} failed with exit code {finished.exit_code}")
    shutil.rmtree(out)
    return finished.seconds


def compare(before: Path, sources: dict[int, Path], work: Path, rounds: int) -> None:
    """Print the ratio of the speed of this version to that of an earlier checkout, side by side."""
    small, large = sorted(sources)
    code = f"import runpy, sys; sys.path.insert(0, {str(before.resolve())!r}); sys.argv[0] = 'convert'"
    old = f"{code}; runpy.run_module('tfrecord_tools.convert', run_name='__main__', alter_sys=True)"
    makers = {"before": [sys.executable, "-c", old], "after": list(common.CONVERT)}
    whole, steady = [], []
    for number in range(rounds):
        times = {}
        for name in sorted(makers, reverse=number % 2 == 1):
            for count, source in sources.items():
                run = [*makers[name], f"--src={source}", f"--out={work / 'out'}", "--workers=2"]
                times[name, count] = seconds(run, work / "out")
        whole.append(times["before", large] / times["after", large])
        spans = [times[name, large] - times[name, small] for name in ("before", "after")]
        steady.append(spans[0] / spans[1])
    for title, ratios in (("whole process", whole), ("steady state", steady)):
        values = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        print(f"  speed of this version, {title}: {statistics.median(ratios):.3f} of the earlier one ({values})")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        sources = {}
        for times in (1, given.times):
            directory = Path(work) / f"photos{times}"
            sources[common.copy_photos(Path(given.photos), directory, times)] = directory
        os.sync()
        compare(Path(given.before), sources, Path(work), given.rounds)


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, with the files SPLIT/CLASS/IMAGE.", required=True)
    flags.DEFINE_string("before", None, "Directory with an earlier version of this project.", required=True)
    flags.DEFINE_integer("times", 10, "Number of copies of each photograph.")
    flags.DEFINE_integer("rounds", 5, "Number of measurements; medians are printed.")
    flags.DEFINE_string("work", None, "Directory for temporary files. Default: the temporary directory of the system.")
    command.run(main)
