"""How fast a training goes, and how long it waits."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf

from trainers.fitting.throughput import Throughput


def slow(seconds: float) -> tf.data.Dataset:
    """Numbers that take so long to make, one after the other."""

    def make(number: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return number

    def as_tensor(number: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(make, [number], tf.int64), [])

    return tf.data.Dataset.range(1000).map(as_tensor).prefetch(2)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("makes", "works", "least", "most"),
    [
        (0.04, 0.0, 0.8, 1.0),  # The input binds.
        (0.0, 0.04, 0.0, 0.2),  # The model binds.
        (0.08, 0.04, 0.3, 0.7),  # Half of the time.
    ],
)
def test_the_share_of_time_that_is_waited(makes, works, least, most, deterministic):
    pace = Throughput(batch_size=3, deterministic=deterministic)
    numbers = iter(pace.measured(slow(makes)))
    pace.on_epoch_begin(0)
    for step in range(12):
        assert next(numbers) == step
        time.sleep(works)
        pace.on_train_batch_end(step, {"loss": 0.0})
    logs: dict[str, float] = {}
    pace.on_epoch_end(0, logs)
    assert least <= logs["data_wait"] <= most
    assert 0 < logs["images_per_second"] <= 3 / max(makes, works)


def test_steps_of_an_earlier_process_do_not_count():
    pace = Throughput(batch_size=3)
    pace.on_epoch_begin(0)
    for step in range(100):
        pace.on_train_batch_end(step, {})
    logs: dict[str, float] = {}
    pace.on_epoch_end(0, logs)
    assert logs == {}
    time.sleep(0.1)
    pace.on_train_batch_end(100, {"loss": 0.0})  # One step: its time is that since the beginning.
    pace.on_epoch_end(0, logs)
    assert 0 < logs["images_per_second"] <= 30
