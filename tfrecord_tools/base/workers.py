"""Parallel work over independent jobs, in processes that never outlive the command."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from tfrecord_tools.base import console
from tfrecord_tools.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
_JOBS_AHEAD = 4  # Per worker: enough to keep it busy, few enough to bound what waits in memory.


def default_workers() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Maps functions over jobs; with one worker in this process, else in `workers` others."""

    def __init__(self, executor: ProcessPoolExecutor | None, workers: int):
        self._executor = executor
        self._workers = workers

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yields `function(job)` in the order of `jobs`, which is consumed as the work proceeds."""
        if self._executor is None:
            yield from map(function, jobs)
            return
        pending: deque[Future[Result]] = deque()
        try:
            for job in jobs:
                pending.append(self._executor.submit(function, job))
                if len(pending) >= self._workers * _JOBS_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died (killed, out of memory, or crashed in an image decoder)."
                " The same command continues; fewer --workers need less memory."
            ) from error


def check_count(workers: int | None) -> None:
    """Refuses a number of processes that is none; None stands for one a processor."""
    if workers is not None and workers < 1:
        raise UserError(f"--workers={workers}: at least 1.")


@contextlib.contextmanager
def pool(workers: int | None, threads: bool = False) -> Iterator[Pool]:
    """A pool whose processes, by default one a processor, are gone when the block is left, however it is left.

    Args:
        workers: The number of processes.
        threads: Whether this process will have threads when the work begins, though it may not have any yet.
    """
    workers = workers or default_workers()
    if workers == 1:
        yield Pool(None, 1)
        return
    executor = ProcessPoolExecutor(
        workers, mp_context=_context(threads), initializer=_start_worker, initargs=(console.is_quiet(),)
    )
    try:
        yield Pool(executor, workers)
        executor.shutdown()
    except BaseException:
        # Every job is idempotent and writes under temporary names, so that killing is safe, and quick.
        processes = list((executor._processes or {}).values())
        for process in processes:
            process.kill()
        executor.shutdown(cancel_futures=True)
        raise


def _context(threads: bool = False) -> Any:
    """Fork starts at once but is safe only while there are no threads; TensorFlow has many."""
    safe = not threads and sys.platform == "linux" and threading.active_count() == 1 and "tensorflow" not in sys.modules
    return multiprocessing.get_context("fork" if safe else "spawn")


def _start_worker(quiet: bool) -> None:
    if quiet:  # As the command is that started it.
        console.quiet_tensorflow()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver ends us.
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Ends this process when the driver is gone, be it by SIGKILL, lest it write into the next run's files."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
