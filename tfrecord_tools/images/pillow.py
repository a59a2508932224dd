"""Pillow without its own limit and warnings, for as long as this package looks at an image."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
import warnings
from collections.abc import Iterator

from PIL import Image

_FILTER = ("ignore", None, Warning, re.compile("PIL"), 0)  # What `filterwarnings("ignore", module="PIL")` adds.


class _Limits:
    """Pillow's limit of pixels and the filter of its warnings. Both belong to the process, and threads share them.

    The last thread that leaves restores them. The filter is removed as one entry: other code may have changed the list
    meanwhile, which `warnings.catch_warnings` would undo.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        self._inside = 0
        self._max_pixels: int | None = None
        self._filtered = False

    def lift(self) -> None:
        _reset_in_children()
        with self._lock:
            self._inside += 1
            self._of_thread.depth = self._depth() + 1
            if self._inside == 1:
                self._max_pixels, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                self._filtered = _FILTER not in warnings.filters
                if self._filtered:
                    warnings.filterwarnings("ignore", module="PIL")

    def restore(self) -> None:
        with self._lock:
            self._inside -= 1
            self._of_thread.depth = self._depth() - 1
            if self._inside == 0:
                self._put_back()

    def reset(self) -> None:
        """Forget other threads, in a process that was forked: none of them lives in it, and one may hold the lock."""
        self._lock = threading.Lock()
        was_lifted, self._inside = self._inside > 0, self._depth()
        if was_lifted and not self._inside:
            self._put_back()

    def _depth(self) -> int:
        return int(getattr(self._of_thread, "depth", 0))

    def _put_back(self) -> None:
        Image.MAX_IMAGE_PIXELS = self._max_pixels
        if self._filtered:
            with contextlib.suppress(ValueError):  # Other code reset the filters.
                warnings.filters.remove(_FILTER)  # type: ignore[attr-defined]  # A list, whatever its type says.


_limits = _Limits()


@functools.cache
def _reset_in_children() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_limits.reset)


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
