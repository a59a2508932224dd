"""What Keras's `fit` needs to run on several devices, in one process or in several.

Under `tf.distribute.MultiWorkerMirroredStrategy` Keras 3.15 fails in two places, both of its trainer for TensorFlow: it
builds from a batch that it reduces over the processes, and it reduces what steps return over an axis that scalars do
not have. The version is pinned, and a test trains in two processes. On processors, TensorFlow's convolutions by oneDNN
fail at empty batches, which validation gives to devices that are left over.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def for_several(model: keras.Model, workers: int) -> keras.Model:
    """Returns a model of the same layers and variables that `fit` can train on several devices of so many processes."""
    kind = _OnDevices if workers == 1 else _OnWorkers
    return kind(model.input, model.output, name=model.name)


class _OnDevices(keras.Model):
    def test_step(self, data: Any) -> Any:
        judge = super().test_step
        # Of the last batch, a device may get none; of a worker's fewer batches, it gets empty ones.
        some = tf.shape(tf.nest.flatten(data)[0])[0] > 0
        return tf.cond(some, lambda: judge(data), self.get_metrics_result)


class _OnWorkers(_OnDevices):
    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        metrics = self._compile_metrics
        if metrics is not None and metrics.built and self.optimizer.built:
            return  # Else each validation would read a batch for nothing.
        strategy = self.distribute_strategy
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = tf.nest.map_structure(lambda part: strategy.experimental_local_results(part)[0], next(batches))
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def train_step(self, data: Any) -> Any:
        return _as_vectors(super().train_step(data))

    def test_step(self, data: Any) -> Any:
        return _as_vectors(super().test_step(data))


def _as_vectors(logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: tf.reshape(value, [1]) for name, value in logs.items()}
