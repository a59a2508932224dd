"""A local Dask cluster: a scheduler and workers in processes that a test may kill."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from image_sources import REPOSITORY


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until a condition in another process is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


class Cluster:
    """A scheduler and workers with one thread each; the logs are in `directory`.

    Attributes:
        file: The file with the scheduler's address, for `--dask`.
        workers: The workers in the order of their start. A worker that dies is not restarted.
    """

    def __init__(self, directory: Path, workers: int = 0, importable: Iterable[Path] = (), allowed_failures: int = 3):
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory = directory.resolve()
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, *importable))),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures),
        }
        self.file = directory / "cluster.json"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.start_scheduler()
        self.grow(workers)

    def start_scheduler(self) -> None:
        self.file.unlink(missing_ok=True)
        self.scheduler = self._start("scheduler", "--host=127.0.0.1", "--port=0", f"--scheduler-file={self.file}")
        until(lambda: self.file.exists() and self.file.stat().st_size)

    def grow(self, count: int) -> None:
        """Start workers until there are `count`, and wait for all of them."""
        while len(self.workers) < count:
            flags = ["--no-nanny", "--nthreads=1", "--death-timeout=20", f"--local-directory={self._directory}"]
            name = f"worker-{len(self.workers)}"
            self.workers.append(self._start(name, f"--scheduler-file={self.file}", *flags))
        for number in range(count):
            until(functools.partial(self._registered, number))

    def _registered(self, number: int) -> bool:
        return "Registered to:" in (self._directory / f"worker-{number}.log").read_text()

    def _start(self, name: str, *flags: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", name.partition("-")[0], "--no-dashboard", *flags]
        with open(self._directory / f"{name}.log", "wb") as log:
            return subprocess.Popen(
                command, cwd=self._directory, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def close(self) -> None:
        for process in (self.scheduler, *self.workers):
            process.kill()
            process.wait()
