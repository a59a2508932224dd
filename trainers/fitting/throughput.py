"""How fast a training goes, and what share of its time it waits for its input."""

from __future__ import annotations

import time
from typing import Any

import keras
import tensorflow as tf

from tfrecord_tools.base import graphs, python_calls


class Throughput(keras.callbacks.Callback):
    """Adds `images_per_second` and `data_wait` (0..1) to what is logged of each epoch; stands before those that log.

    Both are taken from the end of the epoch's first step on, since the first of all traces the graph, to that of its
    last; of an epoch of one step from its beginning. Steps that were done by an earlier process do not count.
    """

    def __init__(self, batch_size: int, deterministic: bool = False) -> None:
        """Prepares the measurement.

        Args:
            batch_size: Images per step.
            deterministic: Whether TensorFlow runs under op determinism.
        """
        super().__init__()
        self._batch_size = batch_size
        self._deterministic = deterministic
        self._waited = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self._begin()

    def measured(self, data: tf.data.Dataset) -> tf.data.Dataset:
        """Adds up the time that whoever takes the elements of a dataset waits for them; some 0.1 ms a step."""

        @graphs.plain
        def note(before: tf.Tensor, element: Any) -> Any:
            self._waited.assign_add(self._now() - before)
            return element

        # A dataset asks its parts one after the other, in the thread that takes the element: the clock is read first.
        clock = tf.data.Dataset.counter().map(graphs.plain(lambda _: self._now()))
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # Else it would be the prefetching that waits.
        return tf.data.Dataset.zip((clock, data)).map(note).with_options(options)

    def _now(self) -> tf.Tensor:
        """Returns the seconds since some moment, f64[], each time the graph is run."""
        if not self._deterministic:
            return tf.timestamp()
        # Op determinism refuses tf.timestamp. Python's clock takes twice as long.
        return tf.ensure_shape(python_calls.numpy_function(time.monotonic, [], tf.float64, stateful=True), [])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not logs:  # A step that is skipped.
            return
        if self._steps == 0:
            self._first = (self._seconds(), float(self._waited))
        self._steps += 1
        self._last = (self._seconds(), float(self._waited))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or not self._steps:
            return
        steps = self._steps - 1 or 1
        began, waited = self._first if self._steps > 1 else (0.0, 0.0)
        seconds = max(self._last[0] - began, 1e-9)
        logs["images_per_second"] = round(steps * self._batch_size / seconds, 1)
        logs["data_wait"] = round(min((self._last[1] - waited) / seconds, 1.0), 3)

    def _begin(self) -> None:
        self._steps = 0
        self._first = self._last = (0.0, 0.0)
        self._started = time.monotonic()
        self._waited.assign(0.0)

    def _seconds(self) -> float:
        return time.monotonic() - self._started
