"""Kill a conversion with SIGKILL at random moments, and check the files of each rerun.

Every second kill happens during the commit. A line per kill is printed. The first difference is an error.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import common
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError

_COMMIT_SECONDS = 0.08  # Joining the index and renaming take about this long.


def interrupt(work: Path, files: int, shards: int, kills: int, seed: int) -> None:
    """Create `files` images in `work`, convert them, then kill and rerun `kills` conversions."""
    generator = random.Random(seed)
    common.make_images(work / "images", files)
    out = work / "out"
    convert = [*common.CONVERT, f"--src={work / 'images'}", f"--out={out}", f"--shards={shards}"]
    whole = common.run(convert)
    reference = common.contents(out)
    print(f"uninterrupted: {files:,} files, {len(reference)} files out, {whole.seconds:.1f} s")
    number = 0
    while number < kills:
        shutil.rmtree(out)
        moment = _kill(convert, out, generator, whole.seconds, in_commit=number % 2 == 1)
        left = sorted(path.name for path in work.iterdir())
        if not moment or left == ["images", "out"]:
            continue  # The conversion ended before the kill, or had only its own cleanup left.
        rerun = common.run(convert)
        if rerun.exit_code:
            raise UserError(
                f"kill {number + 1} {moment} left {left}, and the rerun ended with exit code {rerun.exit_code}"
            )
        same = common.contents(out) == reference
        stray = sorted(path.name for path in work.iterdir()) != ["images", "out"]
        number += 1
        print(f"kill {number:2d} {moment}, left {left}, rerun {rerun.seconds:.1f} s, identical {same}, stray {stray}")
        if not same or stray:
            raise UserError(f"the rerun after kill {number} ended with different files")
    print(f"{kills} kills: all files are identical to those of the uninterrupted run, no stray files")


def _kill(convert: Sequence[str], out: Path, generator: random.Random, seconds: float, in_commit: bool) -> str:
    """Start the conversion and kill it; return the moment as text, or "" if the conversion ended before."""
    start = time.perf_counter()
    process = subprocess.Popen(convert, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    data = out.with_name(out.name + ".partial") / "data"
    if in_commit:
        while process.poll() is None and not any(data.glob("records.parquet*")):
            time.sleep(0.001)
        time.sleep(generator.uniform(0, _COMMIT_SECONDS))
    else:
        time.sleep(generator.uniform(0, seconds))
    process.send_signal(signal.SIGKILL)
    ended = process.wait()
    if ended != -signal.SIGKILL:
        return ""
    return f"{'in commit' if in_commit else 'anywhere '} at {time.perf_counter() - start:5.2f} s"


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    with tempfile.TemporaryDirectory() as work:
        interrupt(Path(work), given.files, given.shards, given.kills, given.seed)


if __name__ == "__main__":
    flags.DEFINE_integer("files", 10_000, "Number of images to convert.")
    flags.DEFINE_integer("shards", 32, "Number of shards to write.")
    flags.DEFINE_integer("kills", 20, "How often the conversion is killed.")
    flags.DEFINE_integer("seed", 0, "Seed of the random times at which the conversion is killed.")
    command.run(main)
