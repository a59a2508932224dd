"""Counters of what was fetched from a bucket, and how fast."""

from __future__ import annotations

import dataclasses
import threading
import time


@dataclasses.dataclass
class Traffic:
    """Counters of one process. They only grow.

    Attributes:
        bytes: Bytes that were fetched.
        requests: Requests for records.
        found: Records that were in the cache when they were looked for. A record that is removed before it is read is
            looked for again.
        missed: Records that had to be waited for.
        waited: Seconds that readers waited for records, over all threads.
        retried: Records that were fetched again because a checksum was wrong.
    """

    bytes: int = 0
    requests: int = 0
    found: int = 0
    missed: int = 0
    waited: float = 0.0
    retried: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        """Return the counts of both."""
        return Traffic(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    def __sub__(self, other: Traffic) -> Traffic:
        """Return what was counted since `other`."""
        return Traffic(*(a - b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    @property
    def hit_rate(self) -> float:
        """Share of the records that were read without waiting."""
        return self.found / max(1, self.found + self.missed)

    def __str__(self) -> str:
        """Return a line for the console."""
        return (
            f"{self.bytes / 1e6:,.1f} MB fetched in {self.requests:,} requests, {self.hit_rate:.1%} of the records were"
            f" there in time, {self.waited:.1f} s waited"
        )


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimate of what an epoch will fetch.

    Attributes:
        bytes: Bytes.
        requests: Requests.
        seconds: Seconds that this takes at the measured speed. None: the speed is not known.
    """

    bytes: int
    requests: int
    seconds: float | None

    def __str__(self) -> str:
        """Return a part of a sentence."""
        seconds = "" if self.seconds is None else f", which takes {self.seconds:,.0f} s at the measured speed"
        return f"{self.bytes / 1e6:,.0f} MB in {self.requests:,} requests{seconds}"


class Meter:
    """Counters that several threads increase, and the bandwidth while requests are under way."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self._lock = threading.Lock()
        self._under_way = 0
        self._busy_since = 0.0
        self._busy, self._busy_bytes = 0.0, 0
        self._window, self._window_bytes, self._fastest = 0.0, 0, 0.0
        self.latency = 0.05  # Seconds until a small answer is there: a guess until it is measured.

    def add(self, **counts: float) -> None:
        """Increase counters of `Traffic`."""
        with self._lock:
            for name, count in counts.items():
                setattr(self.traffic, name, getattr(self.traffic, name) + count)

    def began(self) -> float:
        """Note that a request begins. Return the time."""
        with self._lock:
            now = time.monotonic()
            if self._under_way == 0:
                self._busy_since = now
            self._under_way += 1
        return now

    def ended(self, began: float, count: int) -> None:
        """Note that a request has ended, with `count` bytes."""
        with self._lock:
            now = time.monotonic()
            self._under_way -= 1
            self._busy_bytes += count
            self._window_bytes += count
            if now - self._window > 1:
                self._fastest = max(self._fastest, self._window_bytes / (now - self._window))
                self._window, self._window_bytes = now, 0
            if self._under_way == 0:
                self._busy += now - self._busy_since
            if count and count < 1 << 17:
                self.latency += 0.1 * (now - began - self.latency)
            if self._busy > 20:  # Old measurements count half.
                self._busy, self._busy_bytes = self._busy / 2, self._busy_bytes // 2

    @property
    def fastest(self) -> float:
        """Bytes per second of the fastest second so far, or `bandwidth`."""
        return max(self._fastest, self.bandwidth)

    @property
    def bandwidth(self) -> float:
        """Bytes per second while requests were under way. 0: not known yet."""
        with self._lock:
            busy = self._busy + (time.monotonic() - self._busy_since if self._under_way else 0.0)
            return self._busy_bytes / busy if busy > 0.05 else 0.0

    def copy(self) -> Traffic:
        """Return the counters now."""
        with self._lock:
            return dataclasses.replace(self.traffic)
