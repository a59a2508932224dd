"""How far a long phase is: images a second and time left."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0  # Where nobody watches, as in a log file.


class Progress:
    """A progress line on standard error; call it with the number of images (or other units) done since the last call.

    Without a total it shows how many are done, and how fast.
    """

    def __init__(self, phase: str, total: int | None, unit: str = "images"):
        watched = sys.stderr.isatty()
        tqdm.monitor_interval = 0  # Its thread would forbid forking the workers.
        self._bar = tqdm(
            total=total,
            desc=phase,
            unit=f" {unit}",
            mininterval=0.2 if watched else _SECONDS_BETWEEN_LINES,
            delay=0 if watched else _SECONDS_BETWEEN_LINES,
            leave=False,
            file=sys.stderr,
        )

    def __call__(self, count: int) -> None:
        self._bar.update(count)

    def skip(self, count: int) -> None:
        """Counts images that were done before; they say nothing of the speed."""
        self._bar.initial += count
        self._bar.n += count

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
