"""Make Keras's `fit` work on several devices, in one process or in several processes.

This module works around four problems:

* Keras 3.15 builds a model from a batch that it has reduced over the processes. This fails with
  `tf.distribute.MultiWorkerMirroredStrategy`.
* With the same strategy, Keras reduces the results of steps over an axis that scalars do not have.
* On CPUs, TensorFlow's oneDNN convolutions fail for empty batches. Devices get such batches at the end of a validation.
* Each thread has its own global seed generator of Keras, which is a variable. A strategy runs steps in other threads,
  where variables cannot be created. Layers without their own seed generator, such as ConvNeXt's StochasticDepth, need
  the global one.

The version of Keras is pinned, and a test trains in two processes.
"""

from __future__ import annotations

import threading
from typing import Any

import keras
import tensorflow as tf
from keras.src.random import seed_generator


def for_several(model: keras.Model, workers: int) -> keras.Model:
    """Return a model that `fit` can train on several devices. It shares layers and variables with `model`.

    Args:
        model: The model.
        workers: Number of processes.
    """
    kind = _OnDevices if workers == 1 else _OnWorkers
    return kind(model.input, model.output, name=model.name)


def share_global_random() -> None:
    """Let a strategy's steps use the seed generator of this thread. Call this in the strategy's scope."""
    owner, generator = threading.get_ident(), seed_generator.global_seed_generator()

    def shared() -> Any:
        return _of_this_thread() if threading.get_ident() == owner else generator

    seed_generator.global_seed_generator = shared


_of_this_thread = seed_generator.global_seed_generator


class _OnDevices(keras.Model):
    def test_step(self, data: Any) -> Any:
        evaluate = super().test_step
        # A device can get an empty batch in two cases: the last batch has too few images for all devices, or the worker
        # has fewer batches than the other workers.
        has_images = tf.shape(tf.nest.flatten(data)[0])[0] > 0
        return tf.cond(has_images, lambda: evaluate(data), self.get_metrics_result)


class _OnWorkers(_OnDevices):
    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        metrics = self._compile_metrics
        if metrics is not None and metrics.built and self.optimizer.built:
            return  # Without this line, each validation would read a batch that it does not use.
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
