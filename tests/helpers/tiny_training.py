"""A training of one second with all that makes resuming hard; it can be stopped at any step.

    python tiny_training.py DIRECTORY KILL_AT_STEP

trains in DIRECTORY and kills itself with SIGKILL after KILL_AT_STEP steps of this process (0: never).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers import run_directory
from trainers.checkpoint import Checkpointer
from trainers.fit import Task, fit
from trainers.recipes import Phase

STEPS_PER_EPOCH = 7
PHASES = (
    Phase(name="first", trainable="head", learning_rate=1e-2, epochs=3),
    Phase(name="second", trainable="scratch", optimizer="rmsprop", learning_rate=1e-2, schedule="cosine", epochs=3),
)
STEPS = STEPS_PER_EPOCH * 6


class Stop(keras.callbacks.Callback):
    """Kills the process, or raises, after step `at_step` or before validation `at_validation`."""

    def __init__(self, at_step: int = 0, at_validation: int = 0, kill: bool = False):
        super().__init__()
        self._left = {"step": at_step, "validation": at_validation}
        self._kill = kill

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if logs:  # Skipped steps have no logs.
            self._count("step")

    def on_test_begin(self, logs: Any = None) -> None:
        self._count("validation")

    def _count(self, what: str) -> None:
        self._left[what] -= 1
        if self._left[what] == 0:
            if self._kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt


def images(step: int, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return images, u8[count 8 8 3], and labels, i64[count], which depend only on the step."""
    random = np.random.default_rng(step)
    labels = random.integers(0, 2, count)
    return (random.integers(0, 200, (count, 8, 8, 3)) + 50 * labels[:, None, None, None]).astype(np.uint8), labels


def batches(start: int) -> tf.data.Dataset:
    def make(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = tf.numpy_function(images, [step], (tf.uint8, tf.int64))
        return tf.ensure_shape(x, (8, 8, 8, 3)), tf.ensure_shape(y, (8,))

    return tf.data.Dataset.counter(start).map(make)


def make_task() -> Task:
    """Return the task of training a small network with BatchNormalization and two Dropouts."""
    base = keras.Sequential(
        [
            keras.Input((8, 8, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.SpatialDropout2D(0.2),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    model = keras.Sequential([base, keras.layers.Dropout(0.3), keras.layers.Dense(1, activation="sigmoid")])

    def set_trainable(rule: str) -> None:
        base.trainable = rule == "scratch"

    validation = tf.data.Dataset.from_tensor_slices(images(10_000, 20)).batch(8)
    return Task(
        model=model,
        set_trainable=set_trainable,
        batches=batches,
        validation=validation,
        steps_per_epoch=STEPS_PER_EPOCH,
    )


def train(directory: Path, stop: Stop | None = None, callbacks: Sequence[keras.callbacks.Callback] = ()) -> keras.Model:
    """Train until the end or a stop; write history.csv as trainers do."""
    keras.utils.set_random_seed(0)
    task = make_task()
    checkpointer = Checkpointer(
        directory / "checkpoint.npz",
        every=3,
        on_epoch=lambda rows: run_directory.write_history(directory, rows),
    )
    fit(task, PHASES, checkpointer, callbacks=lambda phase: [*callbacks, *([stop] if stop else [])], verbose=0)
    return task.model


if __name__ == "__main__":
    trained = train(Path(sys.argv[1]), Stop(at_step=int(sys.argv[2]), kill=True))
    np.savez(Path(sys.argv[1]) / "weights.npz", *[variable.numpy() for variable in trained.variables])
