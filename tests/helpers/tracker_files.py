"""Read what trackers have stored, and trainings of a second that are logged.

    python tracker_files.py OUT RUN TRACKERS KILL_AT

trains on OUT in RUN, logs to TRACKERS, and kills this process with SIGKILL when its KILL_AT-th row is logged (0:
never).
"""

from __future__ import annotations

import csv
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from image_sources import REPOSITORY

SCRATCH: dict[str, Any] = {
    "backbone_kwargs": {"filters": (4, 8)},
    "image_size": 24,
    "batch_size": 8,
    "epochs": 3,
    "checkpoint_every": 1,
}
NAMES = ("loss", "accuracy", "auc", "val_loss", "val_accuracy", "val_auc", "learning_rate", "images_per_second")

Point = tuple[str, int, float]  # Name, step, value.


def in_history(run: Path, names: Sequence[str] = NAMES) -> list[Point]:
    """Return the points that a tracker must have. The step is the number of the row in history.csv."""
    with open(run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return sorted((name, step, float(row[name])) for step, row in enumerate(rows, 1) for name in names)


def in_events(run: Path) -> list[Point]:
    """Return the points in TensorBoard's files, with the names of history.csv and float32 values."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    points = []
    for path in (run / "tensorboard").glob("*/*/events.out.tfevents.*"):
        prefix = "val_" if path.parent.name == "validation" else ""
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                name = prefix + value.tag.removeprefix("epoch_")
                points.append((name, event.step, float(tensor_util.make_ndarray(value.tensor))))
    return sorted(points)


def in_mlflow(names: Sequence[str] = NAMES) -> dict[str, list[Point]]:
    """Return the points of each run in MLflow, by the name of the run."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {
        run.info.run_name: sorted(
            (name, metric.step, metric.value)
            for name in names
            for metric in client.get_metric_history(run.info.run_id, name)
        )
        for run in client.search_runs(experiments)
    }


def in_wandb(run: Path) -> list[Any]:
    """Return the records of the only offline run of a run directory."""
    from wandb.proto import wandb_internal_pb2

    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    records = []
    for data in _leveldb(path.read_bytes()):
        records.append(wandb_internal_pb2.Record())
        records[-1].ParseFromString(data)
    return records


def wandb_points(run: Path, names: Sequence[str] = NAMES) -> list[Point]:
    points = []
    for record in in_wandb(run):
        if record.WhichOneof("record_type") == "history":
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            points += [(name, record.history.step.num, values[name]) for name in names if name in values]
    return sorted(points)


def _leveldb(data: bytes) -> Iterator[bytes]:
    """Yield the records of a log of LevelDB, the format of W&B's files.

    The log has blocks of 32 KiB, after a header of 7 bytes that W&B has added.
    """
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # A whole record, or its last part.
            yield parts
            parts = b""


def killed(out: Path, run: Path, trackers: str, kill_at: int) -> subprocess.CompletedProcess[str]:
    """Train in a process that kills itself when a row is logged. It works beside the run directory."""
    command = [sys.executable, __file__, str(out), str(run), trackers, str(kill_at)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=environment, cwd=run.parent, capture_output=True, text=True, check=False)


def main(out: str, run: str, trackers: str, kill_at: str) -> None:
    from trainers import scratch
    from trainers.tracking.logbook import Logbook

    log, calls = Logbook.log, []

    def log_and_kill(self: Logbook, rows: Any) -> None:
        if rows and len(rows) not in calls:
            calls.append(len(rows))
        if len(calls) == int(kill_at):
            log(self, rows)
            os.kill(os.getpid(), signal.SIGKILL)
        log(self, rows)

    if int(kill_at):
        Logbook.log = log_and_kill  # type: ignore[method-assign]
    scratch(tfrecords=out, run=run, log=trackers.split(","), **SCRATCH)


if __name__ == "__main__":
    main(*sys.argv[1:])
