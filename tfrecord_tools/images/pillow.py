"""Switch off Pillow's pixel limit and warnings while this package reads an image."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
import warnings
from collections.abc import Iterator

from PIL import Image

_FILTER = ("ignore", None, Warning, re.compile("PIL"), 0)  # Added by `filterwarnings("ignore", module="PIL")`.


class _Limits:
    """Pillow's pixel limit and the filter of its warnings, which all threads of the process share.

    The last thread that leaves restores them. Only the one filter is removed: `warnings.catch_warnings` would undo the
    changes that other code has made in the meantime.
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
        """Forget other threads after a fork: they do not exist in the child, but one may hold the lock."""
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
                warnings.filters.remove(_FILTER)  # type: ignore[attr-defined]  # It is a list, although its type is Sequence.


_limits = _Limits()


@functools.cache
def _reset_in_children() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_limits.reset)


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Lift Pillow's pixel limit and hide its warnings during the block.

    The caller must check sizes (`ImageConfig.max_pixels`) and report defects. Several threads may be in such blocks at
    the same time, and blocks may be nested.
    """
    _limits.lift()
    try:
        yield
    finally:
        _limits.restore()
