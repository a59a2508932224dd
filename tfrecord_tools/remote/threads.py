"""The threads of a process that wait for the answers of stores."""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Callable

THREADS = 64  # Requests under way at once. Small records need many, because each waits for the latency.


class Pool:
    """The threads of this process that wait for answers. They are started when they are needed."""

    def __init__(self) -> None:
        self._tasks: queue.PriorityQueue[tuple[bool, int, Callable[[], None]]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._threads = self._busy = 0

    def put(self, urgent: bool, task: Callable[[], None]) -> None:
        """Run a task, before all tasks that are not urgent if it is."""
        with self._lock:
            self._busy += 1
            if self._busy > self._threads and self._threads < THREADS:
                self._threads += 1
                threading.Thread(target=self._work, daemon=True, name="fetch").start()
        self._tasks.put((not urgent, next(self._numbers), task))

    def _work(self) -> None:
        while True:
            task = self._tasks.get()[2]
            task()
            del task
            with self._lock:
                self._busy -= 1


_pools: dict[int, Pool] = {}


def pool() -> Pool:
    """Return the threads of this process. A forked process has its own."""
    process = os.getpid()
    return _pools.get(process) or _pools.setdefault(process, Pool())
