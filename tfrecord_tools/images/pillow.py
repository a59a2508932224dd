"""Pillow without its own limit and warnings, for as long as this package looks at an image."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

from PIL import Image


class _Limits:
    """Pillow's limit and its warnings' filter: both are the process's, so the last thread that leaves restores them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._max_pixels: int | None = None
        self._warnings = warnings.catch_warnings()

    def lift(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            self._max_pixels, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._warnings = warnings.catch_warnings()
            self._warnings.__enter__()
            warnings.filterwarnings("ignore", module="PIL")

    def restore(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._warnings.__exit__(None, None, None)
                Image.MAX_IMAGE_PIXELS = self._max_pixels


_limits = _Limits()


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Lift Pillow's limit of pixels and silence its warnings for the block.

    The caller checks sizes itself (`ImageConfig.max_pixels`) and reports what is wrong with an image. Threads may be
    inside at the same time, and blocks may be nested.
    """
    _limits.lift()
    try:
        yield
    finally:
        _limits.restore()
