"""Tests of the throughput of a training and its waiting time, with a clock that only the test moves."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf
from fake_clock import Clock

from trainers.fitting import throughput
from trainers.fitting.throughput import Throughput


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clocks of Python and TensorFlow."""
    clock = Clock()

    def timestamp() -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(clock.monotonic, [], tf.float64, stateful=True), [])

    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(tf, "timestamp", timestamp)
    return clock


def slow(clock: Clock, seconds: float) -> tf.data.Dataset:
    """Return a dataset of numbers. Each number takes some seconds to make."""

    def make(number: np.ndarray) -> np.ndarray:
        clock.sleep(seconds)
        return number

    def as_tensor(number: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(make, [number], tf.int64), [])

    return tf.data.Dataset.range(1000).map(as_tensor)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("make_seconds", "step_seconds", "share"),
    [
        (0.04, 0.0, 1.0),  # The input limits the speed.
        (0.0, 0.04, 0.0),  # The model limits the speed.
        (0.04, 0.04, 0.5),  # Each takes half of the time.
        (0.01, 0.03, 0.25),
    ],
)
def test_share_of_time_spent_waiting(
    clock: Clock, make_seconds: float, step_seconds: float, share: float, deterministic: bool
) -> None:
    meter = Throughput(batch_size=3, deterministic=deterministic)
    numbers = iter(meter.measured(slow(clock, make_seconds)))
    meter.on_epoch_begin(0)
    for step in range(12):
        assert next(numbers) == step
        clock.sleep(step_seconds)
        meter.on_train_batch_end(step, {"loss": 0.0})
    logs: dict[str, float] = {}
    meter.on_epoch_end(0, logs)
    assert logs["data_wait"] == pytest.approx(share)
    assert logs["images_per_second"] == pytest.approx(3 / (make_seconds + step_seconds))


@pytest.mark.parametrize("deterministic", [False, True])
def test_real_clocks(deterministic: bool) -> None:
    """A sleep may take longer than requested, but never less, so the bounds hold on any machine."""

    def make(number: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        return number

    meter = Throughput(batch_size=3, deterministic=deterministic)
    data = tf.data.Dataset.range(12).map(lambda number: tf.numpy_function(make, [number], tf.int64))
    meter.on_epoch_begin(0)
    for step, _ in enumerate(meter.measured(data)):
        meter.on_train_batch_end(step, {"loss": 0.0})
    logs: dict[str, float] = {}
    meter.on_epoch_end(0, logs)
    assert 0 < logs["images_per_second"] <= 3 / 0.02
    # The waiting time has at least the length of the sleeps.
    assert logs["images_per_second"] / 3 * 0.02 * 0.99 <= logs["data_wait"] <= 1


def test_cached_elements_are_not_waited_for(clock: Clock) -> None:
    meter = Throughput(batch_size=3)
    numbers = iter(meter.measured(slow(clock, 0.04).take(12).cache().repeat(2)))
    for _ in range(12):
        next(numbers)
    meter.on_epoch_begin(1)
    for step in range(12):
        next(numbers)
        clock.sleep(0.01)
        meter.on_train_batch_end(step, {"loss": 0.0})
    logs: dict[str, float] = {}
    meter.on_epoch_end(1, logs)
    assert logs == {"images_per_second": 300.0, "data_wait": 0.0}


def test_steps_of_an_earlier_process_do_not_count(clock: Clock) -> None:
    meter = Throughput(batch_size=3)
    meter.on_epoch_begin(0)
    for step in range(100):
        meter.on_train_batch_end(step, {})
    logs: dict[str, float] = {}
    meter.on_epoch_end(0, logs)
    assert logs == {}
    clock.sleep(0.1)
    meter.on_train_batch_end(100, {"loss": 0.0})  # A single step is measured from the start of the epoch.
    meter.on_epoch_end(0, logs)
    assert logs["images_per_second"] == 30.0
