"""Training in several processes of this machine against one with the same global batch, in whole commands."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import common
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError


def rate(work: Path, name: str, workers: int, training: Sequence[str]) -> float:
    """Images a second of a training of so many processes, of all of them together, as its history has them."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(workers)]
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    strategy = "multi_worker" if workers > 1 else "none"
    arguments = [f"--tfrecords={work / 'out'}", f"--run={work / name}", f"--strategy={strategy}", *training]
    job = []
    for index in range(workers):
        told = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        environment = {**os.environ, "TF_CONFIG": told, "TF_CPP_MIN_LOG_LEVEL": "3"}
        with open(work / f"{name}-{index}.log", "w") as log:
            job.append(
                subprocess.Popen(
                    [sys.executable, "-m", "trainers.scratch", *arguments], env=environment, stdout=log, stderr=log
                )
            )
    codes = [process.wait() for process in job]
    if any(codes):
        raise UserError(f"the training failed: {(work / f'{name}-0.log').read_text()[-2000:]}")
    return float(json.loads((work / name / "metrics.json").read_text())["images_per_second"])


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    training = [f"--image_size={given.image_size}", f"--batch_size={given.batch_size}", f"--epochs={given.epochs}"]
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        common.convert(f"--src={given.photos}", f"--out={work / 'out'}")
        ratios: dict[int, list[float]] = {workers: [] for workers in (2, 3)}
        for turn in range(given.rounds):
            alone = rate(work, f"1-{turn}", 1, training)
            for workers, found in ratios.items():
                found.append(rate(work, f"{workers}-{turn}", workers, training) / alone)
            print(f"round {turn}: one process {alone:.0f} images/s", flush=True)
    for workers, found in ratios.items():
        print(f"{workers} processes: {statistics.median(found):.2f} of one ({min(found):.2f}..{max(found):.2f})")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, split/class/image.", required=True)
    flags.DEFINE_integer("image_size", 96, "Height and width in pixels.")
    flags.DEFINE_integer("batch_size", 48, "Of the global batch.")
    flags.DEFINE_integer("epochs", 2, "Of each training.")
    flags.DEFINE_integer("rounds", 3, "Of which the medians are taken.")
    command.run(main)
