"""Log a training to event files, which TensorBoard shows.

Each phase has the directories PHASE/train and PHASE/validation. The flags and the final metrics are in the directory
above them. TensorBoard's page "HParams" compares them between runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers import run_directory
from trainers.tracking.tracker import Row, Subject, Tracker, numbers

_OF_VALIDATION = "val_"
_EVENTS = "**/events.out.tfevents.*"


class TensorBoardRun(Tracker):
    """Event files in the run directory.

    They are written from the beginning when the run is opened, so they never have a row twice.
    """

    package = "tensorboard"

    def __init__(self, subject: Subject) -> None:
        self._directory = subject.path / run_directory.TENSORBOARD
        self._writers: dict[Path, Any] = {}
        self._done = 0
        for path in self._directory.glob(_EVENTS):
            path.unlink()
        self._write_flags(subject)

    @staticmethod
    def check() -> None:
        pass

    @staticmethod
    def place() -> str:
        return run_directory.TENSORBOARD

    @staticmethod
    def is_there(run: Path) -> bool:
        return any((run / run_directory.TENSORBOARD).glob(_EVENTS))

    @property
    def shown(self) -> str:
        return f"tensorboard --logdir={self._directory}"

    def log(self, rows: Sequence[Row]) -> None:
        for step, row in enumerate(rows[self._done :], self._done + 1):
            directory = self._directory / str(row["phase"])
            for name, value in numbers(row).items():
                if name in ("epoch", "step"):
                    continue
                split = "validation" if name.startswith(_OF_VALIDATION) else "train"
                # Keras's callback for TensorBoard uses the same names.
                self._scalar(directory / split, f"epoch_{name.removeprefix(_OF_VALIDATION)}", value, step)
            self._done = step
        self._flush()

    def finish(self, final: Mapping[str, float], files: Sequence[Path]) -> None:
        for name, value in final.items():
            self._scalar(self._directory, name, value, self._done)
        self.close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _write_flags(self, subject: Subject) -> None:
        from tensorboard.plugins.hparams import summary_v2

        flags = run_directory.flat(subject.settings["flags"])
        plain = {name: one if isinstance(one, (bool, int, float, str)) else str(one) for name, one in flags.items()}
        self._add(self._directory, summary_v2.hparams_pb(plain, trial_id=subject.id), 0)
        self._flush()

    def _scalar(self, directory: Path, name: str, value: float, step: int) -> None:
        from tensorboard.plugins.scalar import summary_v2

        self._add(directory, summary_v2.scalar_pb(name, value), step)

    def _add(self, directory: Path, summary: Any, step: int) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if directory not in self._writers:
            self._writers[directory] = EventFileWriter(str(directory))
        event = event_pb2.Event(wall_time=time.time(), step=step)
        event.summary.ParseFromString(summary.SerializeToString())
        self._writers[directory].add_event(event)

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()
