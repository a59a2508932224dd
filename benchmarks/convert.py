"""Compare the conversion with a TFDS builder that checks nothing, and with the JPEG decoder alone.

Whole processes are timed for two numbers of images. The difference gives the steady state, without the start.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from absl import flags

from benchmarks import common
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import jpeg

_PEER = (
    "import sys; from benchmarks.tfds_peer import write; write(*sys.argv[1:])"  # TFDS refuses builders in `__main__`.
)


def copy_photos(photos: Path, directory: Path, times: int) -> int:
    """Copy each image of split/class/image `times` times; return the number of files."""
    count = 0
    for path in sorted(photos.rglob("*.jpg")):
        folder = directory / path.parent.relative_to(photos)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(times):
            shutil.copy(path, folder / f"{number:02d}_{path.name}")
            count += 1
    return count


def decode_all(paths: Sequence[str]) -> int:
    """Do the least work that verifies JPEGs: decode all entropy-coded data, at 1/8 of the size."""
    for path in paths:
        with open(path, "rb") as file:
            jpeg.decodes_cleanly(file.read())
    return len(paths)


def decoder_limit(source: Path, processes: int) -> float:
    """Return the images/s that `processes` can verify, without the start."""
    paths = [str(path) for path in sorted(source.rglob("*.jpg"))]
    parts = [paths[i : i + 256] for i in range(0, len(paths), 256)]
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(decode_all, parts[:processes]))
        start = time.perf_counter()
        done = sum(pool.map(decode_all, parts))
        return done / (time.perf_counter() - start)


def seconds(arguments: Sequence[str], out: Path) -> float:
    """Return the wall time of a process that writes `out`, then remove `out`."""
    finished = common.run(arguments)
    if finished.exit_code:
        raise UserError(f"{' '.join(arguments)} failed with exit code {finished.exit_code}")
    shutil.rmtree(out)
    return finished.seconds


def compare(sources: dict[int, Path], work: Path, rounds: int) -> None:
    """Print the median images/s of whole processes and in steady state, and the ratios to TFDS."""
    small, large = sorted(sources)
    makers = {
        "convert, --verify=full": ["--workers=2"],
        "convert, --verify=header": ["--workers=2", "--verify=header"],
        "convert, --verify=full, one worker": ["--workers=1"],
        "TFDS builder, no verification": None,
    }
    whole: dict[str, list[float]] = {name: [] for name in makers}
    steady: dict[str, list[float]] = {name: [] for name in makers}
    limits = []
    for _ in range(rounds):
        for name, options in makers.items():
            times = {}
            for count, source in sources.items():
                out = work / "out"
                if options is None:
                    run = [sys.executable, "-c", _PEER, str(source), str(out)]
                else:
                    run = [*common.CONVERT, f"--src={source}", f"--out={out}", *options]
                times[count] = seconds(run, out)
            whole[name].append(large / times[large])
            steady[name].append((large - small) / (times[large] - times[small]))
        limits.append(decoder_limit(sources[large], 2))
    print(f"{large:,} photographs, images/s (ratio to TFDS), medians of {rounds} rounds")
    print(f"  {'':<36} {'whole process':>20} {'steady state':>20}")
    peer = list(makers)[-1]
    for name in makers:
        cells = []
        for figures in (whole, steady):
            ratio = statistics.median(ours / theirs for ours, theirs in zip(figures[name], figures[peer]))
            cells.append(f"{statistics.median(figures[name]):,.0f} ({ratio:.2f})")
        print(f"  {name:<36} {cells[0]:>20} {cells[1]:>20}")
    limit = statistics.median(limits)
    full = next(iter(makers))
    share = statistics.median(ours / theirs for ours, theirs in zip(steady[full], limits))
    print(f"  {'limit: decoder alone, two processes':<36} {'':>20} {limit:>20,.0f}")
    print(f"  conversion with full verification reaches {share:.2f} of this limit in steady state")


def compare_before(before: Path, sources: dict[int, Path], work: Path, rounds: int) -> None:
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
            sources[copy_photos(Path(given.photos), directory, times)] = directory
        os.sync()
        if given.before:
            compare_before(Path(given.before), sources, Path(work), given.rounds)
        else:
            compare(sources, Path(work), given.rounds)


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, with the files SPLIT/CLASS/IMAGE.")
    flags.DEFINE_integer("times", 10, "Number of copies of each photograph.")
    flags.DEFINE_integer("rounds", 5, "Number of measurements; medians are printed.")
    flags.DEFINE_string(
        "before",
        None,
        "Directory with an earlier version of this project. With this flag, the present version is compared only"
        " with the earlier version.",
    )
    flags.DEFINE_string("work", None, "Directory for temporary files. Default: the temporary directory of the system.")
    command.run(main)
