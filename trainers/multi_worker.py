"""What Keras's `fit` needs to run in several processes under `tf.distribute.MultiWorkerMirroredStrategy`.

Keras 3.15 fails there in two places, both of its trainer for TensorFlow: it builds from a batch that it reduces over
the processes, and it reduces what steps return over an axis that scalars do not have. A third is TensorFlow's: oneDNN
fails at empty batches. The version is pinned, and a test trains in two processes.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def for_multi_worker(model: keras.Model) -> keras.Model:
    """Returns a model of the same layers and variables that `fit` can train in several processes."""
    return _Model(model.input, model.output, name=model.name)


class _Model(keras.Model):
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
        judge = super().test_step
        # A worker that has fewer batches than the others gets empty ones.
        some = tf.shape(tf.nest.flatten(data)[0])[0] > 0
        return _as_vectors(tf.cond(some, lambda: judge(data), self.get_metrics_result))


def _as_vectors(logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: tf.reshape(value, [1]) for name, value in logs.items()}
