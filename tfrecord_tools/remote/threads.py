"""The threads of a process that plan, and that wait for the answers of stores.

They are daemon threads, so that they never keep a process from ending. Some processes aborted at their end ("terminate
called") while such threads were at work. The cause is not known. So the end of a process waits a moment for them.
"""

from __future__ import annotations

import atexit
import itertools
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable

THREADS = 64  # Requests under way at once. Small records need many, because each waits for the latency.
_LONGEST = 3.0  # Seconds that the end of a process waits.

ending = threading.Event()  # The process ends: nothing new begins.


class Pool:
    """The threads of this process that wait for answers. They are started when they are needed.

    Each task runs, also when the process ends: somebody may wait for it. A task must return at once if `ending` is set.

    Attributes:
        busy: Number of tasks that wait or run.
    """

    def __init__(self) -> None:
        self._tasks: queue.PriorityQueue[tuple[bool, int, Callable[[], None]]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._threads = self.busy = 0

    def put(self, urgent: bool, task: Callable[[], None]) -> None:
        """Run a task, before all tasks that are not urgent if it is."""
        with self._lock:
            self.busy += 1
            if self.busy > self._threads and self._threads < THREADS:
                self._threads += 1
                threading.Thread(target=self._work, daemon=True, name="fetch").start()
        self._tasks.put((not urgent, next(self._numbers), task))

    def _work(self) -> None:
        while True:
            task = self._tasks.get()[2]
            task()
            del task
            with self._lock:
                self.busy -= 1


_pools: dict[int, Pool] = {}
_planners: weakref.WeakKeyDictionary[threading.Thread, threading.Event] = weakref.WeakKeyDictionary()
_registered: set[int] = set()  # Processes.


def pool() -> Pool:
    """Return the threads of this process. A forked process has its own."""
    process = os.getpid()
    found = _pools.get(process)
    if found is None:
        _await_at_exit(process)
        found = _pools.setdefault(process, Pool())
    return found


def start_planner(work: Callable[[], None], wake: threading.Event) -> threading.Thread:
    """Run a function in a thread. When the process ends, `wake` is set, and the function must return soon."""
    thread = threading.Thread(target=work, daemon=True, name="plan")
    _await_at_exit(os.getpid())
    _planners[thread] = wake
    thread.start()
    return thread


def _await_at_exit(process: int) -> None:
    if process not in _registered:
        _registered.add(process)
        atexit.register(_end)


def _end() -> None:
    """Wait for the threads that are at work. A request that takes longer is given up."""
    ending.set()
    until = time.monotonic() + _LONGEST
    planners = list(_planners.items())
    for _, wake in planners:
        wake.set()
    for thread, _ in planners:
        thread.join(max(0.0, until - time.monotonic()))
    own = _pools.get(os.getpid())
    while own is not None and own.busy and time.monotonic() < until:
        time.sleep(0.002)
