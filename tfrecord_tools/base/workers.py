"""Independent jobs in parallel: in threads, or in worker processes that always end with the command."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from tfrecord_tools.base import console
from tfrecord_tools.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
_JOBS_AHEAD = 4  # Jobs per worker: enough to keep it busy, few enough to limit the memory for waiting results.


def default_workers() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[Job], Result], jobs: Iterable[Job], threads: int, ahead: int) -> Iterator[Result]:
    """Yield `function(job)` in the order of `jobs`. Threads compute some results ahead.

    Args:
        function: Function that releases Python's lock (GIL) most of the time.
        jobs: Jobs, which are read as the work proceeds.
        threads: Number of threads.
        ahead: Largest number of jobs that are computed, or wait, while the caller uses a result.
    """
    pending: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(threads)
    try:
        for job in jobs:
            pending.append(executor.submit(function, job))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)  # After Ctrl-C, waiting jobs are not begun any more.


class Pool:
    """Maps functions over jobs in worker processes, or in this process if there is one worker."""

    def __init__(self, executor: ProcessPoolExecutor | None, workers: int):
        self._executor = executor
        self._workers = workers

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield `function(job)` in the order of `jobs`. Jobs are read as the work proceeds."""
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
                "a worker process ended unexpectedly: it was killed, ran out of memory, or crashed in an image decoder."
                " Run the same command again to continue. A smaller --workers needs less memory."
            ) from error


def check_count(workers: int | None) -> None:
    """Raise UserError for a number of processes below 1. None (one per processor) is allowed."""
    if workers is not None and workers < 1:
        raise UserError(f"--workers={workers}: must be at least 1.")


@contextlib.contextmanager
def pool(workers: int | None, threads: bool = False) -> Iterator[Pool]:
    """Provide a pool of worker processes, which always end with the block, even after an exception.

    Args:
        workers: Number of processes. None: one per processor.
        threads: Whether this process will start threads before the work begins. Workers are then not forked.
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
        # Killing is safe: every job can be repeated and writes under temporary names.
        processes = list((executor._processes or {}).values())
        for process in processes:
            process.kill()
        executor.shutdown(cancel_futures=True)
        raise


def _context(threads: bool = False) -> Any:
    """Return the start method: the fast fork where it is safe, else spawn. Threads make fork unsafe."""
    safe = not threads and sys.platform == "linux" and threading.active_count() == 1 and "tensorflow" not in sys.modules
    return multiprocessing.get_context("fork" if safe else "spawn")


def _start_worker(quiet: bool) -> None:
    if quiet:  # As in the command that started the worker.
        console.quiet_tensorflow()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes. The main process then stops the workers.
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Exit when the main process ends, even by SIGKILL.

    Otherwise the worker could write into the files of the next run.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
