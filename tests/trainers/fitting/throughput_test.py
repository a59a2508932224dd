"""How fast a training goes, and how long it waits, by a clock that only the test moves."""

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
    """The clock of Python and of TensorFlow."""
    clock = Clock()

    def timestamp() -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(clock.monotonic, [], tf.float64, stateful=True), [])

    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(tf, "timestamp", timestamp)
    return clock


def slow(clock: Clock, seconds: float) -> tf.data.Dataset:
    """Numbers that take so long to make, one after the other, when they are asked for."""

    def make(number: np.ndarray) -> np.ndarray:
        clock.sleep(seconds)
        return number

    def as_tensor(number: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(make, [number], tf.int64), [])

    return tf.data.Dataset.range(1000).map(as_tensor)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("makes", "works", "share"),
    [
        (0.04, 0.0, 1.0),  # The input binds.
        (0.0, 0.04, 0.0),  # The model binds.
        (0.04, 0.04, 0.5),  # Half of the time.
        (0.01, 0.03, 0.25),
    ],
)
def test_the_share_of_time_that_is_waited(
    clock: Clock, makes: float, works: float, share: float, deterministic: bool
) -> None:
    pace = Throughput(batch_size=3, deterministic=deterministic)
    numbers = iter(pace.measured(slow(clock, makes)))
    pace.on_epoch_begin(0)
    for step in range(12):
        assert next(numbers) == step
        clock.sleep(works)
        pace.on_train_batch_end(step, {"loss": 0.0})
    logs: dict[str, float] = {}
    pace.on_epoch_end(0, logs)
    assert logs["data_wait"] == pytest.approx(share)
    assert logs["images_per_second"] == pytest.approx(3 / (makes + works))


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_real_clocks_agree(deterministic: bool) -> None:
    """A sleep may take longer than it should, never less: the bounds hold on any machine."""

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
    assert logs["images_per_second"] / 3 * 0.02 * 0.99 <= logs["data_wait"] <= 1  # At least the sleeps were waited for.


def test_what_is_made_in_advance_is_not_waited_for(clock: Clock) -> None:
    pace = Throughput(batch_size=3)
    numbers = iter(pace.measured(slow(clock, 0.04).take(12).cache().repeat(2)))
    for _ in range(12):
        next(numbers)
    pace.on_epoch_begin(1)
    for step in range(12):
        next(numbers)
        clock.sleep(0.01)
        pace.on_train_batch_end(step, {"loss": 0.0})
    logs: dict[str, float] = {}
    pace.on_epoch_end(1, logs)
    assert logs == {"images_per_second": 300.0, "data_wait": 0.0}


def test_steps_of_an_earlier_process_do_not_count(clock: Clock) -> None:
    pace = Throughput(batch_size=3)
    pace.on_epoch_begin(0)
    for step in range(100):
        pace.on_train_batch_end(step, {})
    logs: dict[str, float] = {}
    pace.on_epoch_end(0, logs)
    assert logs == {}
    clock.sleep(0.1)
    pace.on_train_batch_end(100, {"loss": 0.0})  # One step: its time is that since the beginning.
    pace.on_epoch_end(0, logs)
    assert logs["images_per_second"] == 30.0
