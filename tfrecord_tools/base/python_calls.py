"""Python functions as steps of a `tf.data` pipeline that never keep a process from ending.

TensorFlow's threads call such a function ahead of the consumer, also while the script ends. A thread that waits for
Python's lock when the interpreter is finalized never returns, and the iterator's destructor waits for it forever.
Therefore an exit handler refuses further calls and waits for the running ones, before the interpreter is finalized.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_SECONDS = 0.004
# The exit handler ends when it has looked so many times in a row without a call. Looks are counted, not seconds: a
# machine that is overloaded or suspended delays the calling threads and the handler alike.
_QUIET_LOOKS = 25
_MOST_LOOKS = 250  # A daemon thread may go on asking for batches.
_LONGEST_CALL_SECONDS = 60.0  # A running call ends with its current image; if not waited for, the process never ends.


class ProcessEnds(StopIteration):
    """A call that came too late: the consumer gets an InvalidArgumentError, and TensorFlow logs nothing.

    TensorFlow logs every other exception, for each call that was ahead of the consumer.
    """


class _Calls:
    """The calls of TensorFlow's threads: how many came, how many are running, and whether more are let in."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Starts anew, as a forked process must, which has none of the calling threads."""
        self._lock = threading.Lock()
        self._came = 0
        self._running = 0
        self._ending = False

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function, or raises ProcessEnds."""
        with self._lock:
            self._came += 1
            self._running += 1
        try:
            self.check()
            return function(*arguments)
        finally:
            with self._lock:
                self._running -= 1

    def check(self) -> None:
        """Raises ProcessEnds when it is time."""
        if self._ending:
            raise ProcessEnds("the process is ending, no more data are read")

    def end(self) -> None:
        """Refuses calls from now on, and returns when none is running and none has come for a while."""
        self._ending = True
        deadline = time.monotonic() + _LONGEST_CALL_SECONDS
        while not self._ended(deadline):
            pass

    def _ended(self, deadline: float) -> bool:
        try:
            while self._running and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)  # Gives up Python's lock, which the calls need in order to end.
            self._settle()
        except KeyboardInterrupt:  # The process is ending already: leaving early would stop that.
            return False
        return True

    def _settle(self) -> None:
        """Waits until the threads have refilled TensorFlow's buffers with refusals: then they call no more."""
        came, quiet = self._came, 0
        for _ in range(_MOST_LOOKS):
            time.sleep(_LOOK_SECONDS)
            quiet = 0 if self._running or self._came != came else quiet + 1
            if quiet == _QUIET_LOOKS:
                return
            came = self._came


_calls = _Calls()


def numpy_function(
    function: Callable[..., Any],
    inputs: Sequence[tf.Tensor],
    dtypes: tf.DType | Sequence[tf.DType],
    stateful: bool = False,
) -> Any:
    """Calls Python as `tf.numpy_function` does, until the process ends.

    Args:
        function: Arrays -> an array of this type, or several.
        inputs: The arguments.
        dtypes: The type of the result, or of each result.
        stateful: Whether equal arguments may give different results. Under op determinism, such a function is never
            called in parallel.
    """
    _at_exit()
    return tf.numpy_function(functools.partial(_calls.call, function), inputs, dtypes, stateful=stateful)


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Applies a function to each item of a call's chunk. A process that ends waits for one item, not for the chunk."""
    results = []
    for item in items:
        _calls.check()
        results.append(function(item))
    return results


@functools.cache
def _at_exit() -> None:
    """Registers the exit handler: with the first pipeline, since an import must not change the process."""
    atexit.register(_calls.end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_calls.reset)
