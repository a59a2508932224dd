"""Run the trainings of a comparison in a worker process, and print a line for each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tfrecord_tools.base import command
from trainers import run_directory
from trainers.comparing.jobs import Job
from trainers.comparing.worker import Request

# Maximum number of trainings in one process. Each leaves about 20 MB in memory, and the start of a new process takes
# four seconds.
_MOST = 50
# TensorFlow cannot switch determinism off again in the same process, and two files of the user may define layers with
# the same name. So all trainings of a process must have the same values of these flags.
_OF_PROCESS = re.compile(r"--?(deterministic|custom_objects|model)(=|$)|.*(:|\.py\b|\.keras\b)")


class Runner:
    """Context that runs trainings in a worker process. The process ends with the context."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._count = 0
        self._own: list[str] = []

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def train(self, job: Job, position: str) -> bool:
        """Run a training unless it is finished and logged, and return whether it succeeded.

        Args:
            job: The training.
            position: Text at the start of the line about the training, such as 2/10.
        """
        is_done = job.is_done()
        if is_done and job.is_logged():
            command.say(f"{position}  {job}: is finished already")
            return True
        job.out.mkdir(parents=True, exist_ok=True)
        is_begun = (job.run / run_directory.SETTINGS).exists()
        command.say(f"{position}  {job}: ", end="")
        began = time.monotonic()
        code = self._run(job)
        seconds = time.monotonic() - began
        metrics = run_directory.read_metrics(job.run)
        if code or metrics is None:
            command.say(f"failed with exit code {code}: {_last_error(job.log)}")
            return False
        if not is_done:
            # If the training was begun by a process that was killed, metrics.json also counts the time of that process.
            job.finish(max(seconds, metrics["seconds"]) if is_begun else seconds)
        command.say(f"accuracy {metrics['accuracy']:.2%} in {metrics['seconds']:,.0f} s")
        return True

    def _run(self, job: Job) -> int:
        """Run a training in the worker process, and return its exit code."""
        own = [flag for flag in job.variant.flags if _OF_PROCESS.match(flag)]
        if own != self._own or self._count == _MOST:
            self._stop()
        self._own = own
        process = self._started()
        assert process.stdin, "it is a pipe"
        assert process.stdout, "it is a pipe"
        request = Request(trainer=job.variant.trainer, flags=job.flags(), log=str(job.log))
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        reply = process.stdout.readline()
        return int(reply) if reply else process.wait() or 1

    def _started(self) -> subprocess.Popen[str]:
        """Return the worker process. If it is not running, start it."""
        if self._process is None or self._process.poll() is not None:
            self._count = 0
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainers.comparing.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._count += 1
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            with self._process as process:  # The context closes the pipes and waits.
                process.kill()
            self._process = None


def _last_error(log: Path) -> str:
    """Return the last error in the output of a training. If there is none, return the last line."""
    lines = log.read_text(errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith(("error: ", "FATAL "))]
    return (errors or lines or [""])[-1]
