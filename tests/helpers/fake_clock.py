"""A clock that only a test moves, so that measurements are exact on every machine."""

from __future__ import annotations

import threading


class Clock:
    """A replacement for the module `time` in the module under test."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Return the clock's time in seconds."""
        return self._now

    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        """Move the clock without waiting."""
        with self._lock:
            self._now += seconds
