"""Tests of the exact resume: a training that is stopped anywhere ends like an uninterrupted one."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny_training
from image_sources import history
from tiny_training import PHASES, STEPS, STEPS_PER_EPOCH, Stop

from tfrecord_tools.errors import UserError
from trainers import checkpoint, fit
from trainers.checkpoint import Position, State


def final(directory: Path, model: keras.Model) -> dict[str, object]:
    """Return everything that must be equal: variables, optimizer and history."""
    return {
        "variables": [variable.numpy() for variable in model.variables],
        "optimizer": [variable.numpy() for variable in model.optimizer.variables],
        "history": history(directory),
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    return final(directory, tiny_training.train(directory))


def stopped(directory: Path, stop: Stop, callbacks=()) -> Position:
    """Train until the stop, with a new model as in a new process. Return the position of the checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        tiny_training.train(directory, stop, callbacks)
    return checkpoint.load(directory / "checkpoint.npz").position


def test_training_stopped_anywhere_ends_like_an_uninterrupted_one(uninterrupted, tmp_path):
    # Checkpoints are saved every third step. A stop at a step comes before the checkpoint of that step.
    for stop, (phase, epoch, step) in [
        (Stop(at_step=2), (0, 0, 0)),  # Before the first checkpoint.
        (Stop(at_step=4), (0, 0, 3)),  # Just after a checkpoint.
        (Stop(at_step=2), (0, 0, 3)),  # Again after the same checkpoint.
        (Stop(at_step=4), (0, 0, 6)),  # In the last step of an epoch.
        (Stop(at_validation=1), (0, 0, 6)),  # In a validation.
        (Stop(at_step=2), (0, 1, 0)),  # In the first step of an epoch.
        (Stop(at_validation=2), (0, 2, 4)),  # In the last validation of a phase.
        (Stop(at_step=4), (1, 0, 0)),  # In the first step of the second phase.
        (Stop(at_step=11), (1, 1, 2)),  # In the middle of the second phase.
        (Stop(at_validation=2), (1, 2, 4)),  # In the last validation of the training.
    ]:
        position = stopped(tmp_path, stop)
        assert position == Position(phase, epoch, step, (phase * 3 + epoch) * STEPS_PER_EPOCH + step)
    np.testing.assert_equal(final(tmp_path, tiny_training.train(tmp_path)), uninterrupted)

    model = tiny_training.train(tmp_path, Stop(at_step=1))  # The training is finished: a further step would raise.
    np.testing.assert_equal([v.numpy() for v in model.variables], uninterrupted["variables"])


@pytest.mark.slow
def test_resume_in_half_precision_restores_the_loss_scale(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        whole = final(tmp_path / "whole", tiny_training.train(tmp_path / "whole"))
        for steps in (5, 12, 3):
            stopped(tmp_path / "stopped", Stop(at_step=steps))
        np.testing.assert_equal(final(tmp_path / "stopped", tiny_training.train(tmp_path / "stopped")), whole)
    finally:
        keras.config.set_dtype_policy("float32")


def check_killed(directory: Path, kills: list[int], uninterrupted) -> None:
    command = [sys.executable, tiny_training.__file__, str(directory)]
    for step in kills:
        assert subprocess.run([*command, str(step)], timeout=300).returncode == -signal.SIGKILL
    subprocess.run([*command, "0"], check=True, timeout=300)
    with np.load(directory / "weights.npz") as stored:
        np.testing.assert_equal([stored[name] for name in stored.files], uninterrupted["variables"])
    assert history(directory) == uninterrupted["history"]


def test_killed_processes_are_continued(uninterrupted, tmp_path):
    check_killed(tmp_path, [5, 20, 9], uninterrupted)  # Once in the first phase, and twice in the second.


@pytest.mark.slow
def test_five_kills_in_each_phase(uninterrupted, tmp_path):
    random = np.random.default_rng(0)
    for phase in range(2):
        for kill in range(5):
            directory = tmp_path / f"{phase}-{kill}"
            directory.mkdir()
            step = int(random.integers(1, STEPS // 2)) + phase * STEPS // 2
            check_killed(directory, [step], uninterrupted)


class ValidationLosses(keras.callbacks.Callback):
    """A callback that names the attributes of its state."""

    checkpointed = ("seen",)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(logs["val_loss"])


@pytest.mark.slow
def test_state_of_other_callbacks_is_restored(tmp_path, monkeypatch):
    # Both phases have constant rates, since ReduceLROnPlateau does not work with a schedule.
    phase = dataclasses.replace(PHASES[0], epochs=5)
    monkeypatch.setattr(tiny_training, "PHASES", (phase, phase))

    def make() -> list[keras.callbacks.Callback]:
        return [
            keras.callbacks.EarlyStopping(min_delta=0.5, patience=2, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(patience=1, min_delta=0.5, factor=0.5),
            ValidationLosses(),
        ]

    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    callbacks = make()
    expected = final(tmp_path / "whole", tiny_training.train(tmp_path / "whole", None, callbacks))
    assert len(callbacks[-1].seen) == 6  # Each phase stopped after 3 of 5 epochs.
    for stop in (Stop(at_step=2 * STEPS_PER_EPOCH + 2), Stop(at_step=2), Stop(at_step=2 * STEPS_PER_EPOCH)):
        stopped(tmp_path / "stopped", stop, make())
    np.testing.assert_equal(
        final(tmp_path / "stopped", tiny_training.train(tmp_path / "stopped", None, make())), expected
    )


def test_states_are_saved_and_loaded(tmp_path):
    state = State(
        position=Position(phase=1, epoch=2, step=3, global_step=99),
        rows=[{"phase": "head", "epoch": 1, "loss": 0.1 + 0.2}],
        seconds=1.5,
        arrays={"model": [np.arange(3, dtype=np.uint32), np.float32(0.1)], "optimizer": [], "metrics": [np.zeros(())]},
        callbacks=[{}, {"best": float("inf"), "best_weights": [np.ones(2)], "wait": 3, "none": None, "seen": [1.0]}],
    )
    checkpoint.save(tmp_path / "c.npz", state)
    np.testing.assert_equal(vars(checkpoint.load(tmp_path / "c.npz")), vars(state))
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


def test_without_a_file_the_training_starts(tmp_path):
    assert checkpoint.load(tmp_path / "c.npz") == State()


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_damaged_checkpoint_is_reported(keep, tmp_path):
    path = tmp_path / "c.npz"
    checkpoint.save(path, State(arrays={"model": [np.ones(100)]}))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"c.npz: is damaged .*Delete it to start this run from the beginning\."):
        checkpoint.load(path)


def test_phases_share_a_stream_of_batches_and_have_their_own_optimizers(tmp_path, monkeypatch):
    phases: list[tuple[object, ...]] = []
    make_task = tiny_training.make_task

    def recording_task() -> fit.Task:
        task = make_task()

        def batches(start):
            optimizer = task.model.optimizer
            trainable = len(task.model.trainable_weights)
            phases.append((start, type(optimizer).__name__, float(optimizer.learning_rate), trainable))
            return task.batches(start)

        return fit.Task(**{**vars(task), "batches": batches})

    monkeypatch.setattr(tiny_training, "make_task", recording_task)
    tiny_training.train(tmp_path)
    assert phases == [
        (0, "Adam", pytest.approx(1e-2), 2),
        (3 * STEPS_PER_EPOCH, "RMSprop", pytest.approx(1e-2), 6),
    ]


def test_history_has_one_row_per_epoch(uninterrupted):
    rows = uninterrupted["history"]
    names = ["accuracy", "auc", "loss"]
    values = names + [f"val_{name}" for name in names]
    assert list(rows[0]) == ["phase", "epoch", "step", *values, "learning_rate"]
    table = [list(row.values()) for row in rows]
    assert [row[:3] for row in table] == [
        [phase, str(epoch), str(step)]
        for phase, epoch, step in [
            ("first", 1, 7),
            ("first", 2, 14),
            ("first", 3, 21),
            ("second", 1, 28),
            ("second", 2, 35),
            ("second", 3, 42),
        ]
    ]
    rates = [float(row[-1]) for row in table]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.01, 0.0075, 0.0025, 0.0], atol=1e-8)  # Constant, then a cosine.
