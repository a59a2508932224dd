"""Python functions in `tf.data` pipelines, without a deadlock when the process exits.

TensorFlow's threads call such a function to prefetch data, even while the script exits. A thread that waits for
the GIL when the interpreter is finalized never returns, and the destructor of the iterator waits for it forever.
Therefore, an exit handler refuses new calls and waits for the running ones before the interpreter is finalized.

`without_autotune` avoids another wait at exit, of up to a minute.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

Result = TypeVar("Result")

_POLL_SECONDS = 0.004
# The exit handler ends after this number of polls in a row without a call. Polls are counted, not seconds, since an
# overloaded or suspended machine delays the calling threads and the handler equally.
_QUIET_POLLS = 25
_MAX_POLLS = 250  # A limit is needed: a daemon thread may request batches forever.
_LONGEST_CALL_SECONDS = 60.0  # A running call ends after its current image. Without waiting, the process would hang.


class ProcessEnds(StopIteration):
    """Raised by a call during exit. The consumer gets an InvalidArgumentError.

    It is a StopIteration, because TensorFlow logs every other exception once for each prefetched call.
    """


class _Calls:
    """Counts the calls of TensorFlow's threads and refuses new calls during exit."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset the counters, also in a forked process, which does not have the calling threads."""
        self._lock = threading.Lock()
        self._started = 0
        self._running = 0
        self._ending = False

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function, or raise ProcessEnds."""
        with self._lock:
            self._started += 1
            self._running += 1
        try:
            self.check()
            return function(*arguments)
        finally:
            with self._lock:
                self._running -= 1

    def check(self) -> None:
        """Raise ProcessEnds if the process is exiting."""
        if self._ending:
            raise ProcessEnds("the process is exiting, no more data is read")

    def end(self) -> None:
        """Refuse new calls, and return when no call is running and no new one has started for 0.1 s."""
        self._ending = True
        deadline = time.monotonic() + _LONGEST_CALL_SECONDS
        while not self._ended(deadline):
            pass

    def _ended(self, deadline: float) -> bool:
        try:
            while self._running and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)  # Releases the GIL, which the running calls need.
            self._settle()
        except KeyboardInterrupt:  # The process is exiting already. Returning early could make it hang.
            return False
        return True

    def _settle(self) -> None:
        """Wait until refused calls have filled TensorFlow's buffers: after that, its threads stop calling."""
        started, quiet = self._started, 0
        for _ in range(_MAX_POLLS):
            time.sleep(_POLL_SECONDS)
            quiet = 0 if self._running or self._started != started else quiet + 1
            if quiet == _QUIET_POLLS:
                return
            started = self._started


_calls = _Calls()


def numpy_function(
    function: Callable[..., Any],
    inputs: Sequence[tf.Tensor],
    dtypes: tf.DType | Sequence[tf.DType],
    stateful: bool = False,
) -> Any:
    """Call a Python function like `tf.numpy_function`, without a deadlock at exit.

    Args:
        function: Function of NumPy arrays that returns one array, or several.
        inputs: Arguments of the function.
        dtypes: Type of the result, or a type for each result.
        stateful: Whether equal arguments may give different results. With
            `tf.config.experimental.enable_op_determinism`, a stateful function is never called in parallel.
    """
    _at_exit()
    return tf.numpy_function(functools.partial(_calls.call, function), inputs, dtypes, stateful=stateful)


def without_autotune(data: tf.data.Dataset) -> tf.data.Dataset:
    """Switch off TensorFlow's autotuning for a dataset and all steps that follow it.

    The autotuning thread sleeps for up to 60 s between its turns. In TensorFlow 2.21, it sometimes misses the signal to
    stop that the destructor of the iterator sends (`Model::OptimizeLoop`), and the process exits only after the sleep.
    For these pipelines, autotuning gains nothing: one thread per processor is best.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def check() -> None:
    """Raise ProcessEnds if the process is exiting. A function of many images calls this before each image."""
    _calls.check()


@functools.cache
def _at_exit() -> None:
    """Register the exit handler with the first pipeline, not on import: an import has no side effects."""
    atexit.register(_calls.end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_calls.reset)
