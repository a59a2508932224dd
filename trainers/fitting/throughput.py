"""Measure the speed of a training, and the share of the time in which it waits for its input."""

from __future__ import annotations

import time
from typing import Any

import keras
import tensorflow as tf

from tfrecord_tools.base import graphs, python_calls


class Throughput(keras.callbacks.Callback):
    """Callback that adds `images_per_second` and `data_wait` (0..1) to the logs of each epoch.

    It must be in front of callbacks that use the logs. The measurement starts after the first step of an epoch, because
    the first step of a training traces the graph, and ends with the last step. An epoch of one step is measured from
    its start. Steps of an earlier process are not counted.
    """

    def __init__(self, batch_size: int, deterministic: bool = False) -> None:
        """Prepare the measurement.

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
        """Return the dataset, and measure the time that the training waits for its elements.

        The measurement takes about 0.1 ms per step.
        """

        @graphs.plain
        def add_wait(start: tf.Tensor, element: Any) -> Any:
            self._waited.assign_add(self._now() - start)
            return element

        # `zip` reads its datasets one after the other in the thread that takes the element, so the clock is read first.
        clock = tf.data.Dataset.counter().map(graphs.plain(lambda _: self._now()))
        options = tf.data.Options()
        # With an injected prefetch, the time would be measured in the prefetching thread.
        options.experimental_optimization.inject_prefetch = False
        return tf.data.Dataset.zip((clock, data)).map(add_wait).with_options(options)

    def _now(self) -> tf.Tensor:
        """Return the time in seconds, f64[], each time the graph is run."""
        if not self._deterministic:
            return tf.timestamp()
        # Op determinism does not allow tf.timestamp. Python's clock takes twice as long.
        return tf.ensure_shape(python_calls.numpy_function(time.monotonic, [], tf.float64, stateful=True), [])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not logs:  # This step is skipped.
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
