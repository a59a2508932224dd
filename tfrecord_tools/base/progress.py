"""Show the progress of a long step: images/s and time left."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0  # In a log file or a pipe.


class Progress:
    """A progress line on standard error. Call it with the number of images finished since the last call.

    Args:
        phase: Name of the step, printed at the start of the line.
        total: Number of images in all. None: only the number of finished images and the speed are shown.
        unit: Plural noun for the items that are counted.
    """

    def __init__(self, phase: str, total: int | None, unit: str = "images"):
        terminal = sys.stderr.isatty()
        tqdm.monitor_interval = 0  # No monitor thread: workers cannot be forked while other threads run.
        self._bar = tqdm(
            total=total,
            desc=phase,
            unit=f" {unit}",
            mininterval=0.2 if terminal else _SECONDS_BETWEEN_LINES,
            delay=0 if terminal else _SECONDS_BETWEEN_LINES,
            leave=False,
            file=sys.stderr,
        )

    def __call__(self, count: int) -> None:
        self._bar.update(count)

    def skip(self, count: int) -> None:
        """Count images that were finished in an earlier run; they do not count for the speed."""
        self._bar.initial += count
        self._bar.n += count

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
