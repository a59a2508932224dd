"""Compare training in several processes with one process and the same global batch, on one machine."""

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
    """Train in `workers` processes; return the images/s of all processes together, from metrics.json."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(workers)]
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    strategy = "multi_worker" if workers > 1 else "none"
    arguments = [f"--tfrecords={work / 'out'}", f"--run={work / name}", f"--strategy={strategy}", *training]
    job = []
    for index in range(workers):
        cluster = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        environment = {**os.environ, "TF_CONFIG": cluster, "TF_CPP_MIN_LOG_LEVEL": "3"}
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
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        common.convert(f"--src={given.photos}", f"--out={work / 'out'}")
        ratios: dict[int, list[float]] = {workers: [] for workers in (2, 3)}
        for turn in range(given.rounds):
            single = rate(work, f"1-{turn}", 1, training)
            for workers, values in ratios.items():
                values.append(rate(work, f"{workers}-{turn}", workers, training) / single)
            print(f"round {turn}: one process {single:.0f} images/s", flush=True)
    for workers, values in ratios.items():
        median, lowest, highest = statistics.median(values), min(values), max(values)
        print(f"{workers} processes: {median:.2f} x the speed of one ({lowest:.2f}..{highest:.2f})")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, with the files SPLIT/CLASS/IMAGE.", required=True)
    flags.DEFINE_integer("image_size", 96, "Height and width in pixels.")
    flags.DEFINE_integer("batch_size", 48, "Number of images per batch, in all processes together.")
    flags.DEFINE_integer("epochs", 2, "Number of epochs of each training.")
    flags.DEFINE_integer("rounds", 3, "Number of measurements; medians are printed.")
    command.run(main)
