"""The one fit function: a recipe's phases, one after the other, on one continuous stream of batches."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrecord_tools.errors import UserError
from trainers.checkpoint import Checkpointer
from trainers.recipes import Phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is fitted to what.

    Attributes:
        model: Anything -> f32[b 1], the probability of class 1, or f32[b classes].
        set_trainable: Sets the layers that a rule of `Phase.trainable` names.
        batches: Global step -> the endless batches (inputs, targets[, weights f32[b]]) from that step on; targets are
            f32[b 1] or one-hot f32[b classes], as the model's output.
        validation: The batches that each epoch is judged by, finite.
        batch_numbers: Step -> the numbers of the records in its batch, i64[b]: for messages.
        answers: Puts out what the model answers, f32[n 1] or f32[n classes], and the numbers of the validation records
            i64[n] that these are, where it takes no images to know; None: it takes them.
        steps_per_epoch: For phases that do not say.
        blended: Whether targets may lie between classes, as those of MixUp and label smoothing.
        early_stopping: As in `recipes.Recipe`.
        jit_compile: Whether XLA compiles the steps.
        scope: Makes the context that variables are created in.
        seconds: What making this took; where it is kept for other trainings, when it was made.
        sync_moving_statistics: Gives all devices the same ones, before they are judged or saved.
    """

    model: keras.Model
    set_trainable: Callable[[str], None]
    batches: Callable[[int], Any]
    validation: Any
    batch_numbers: Callable[[int], np.ndarray] = lambda step: np.zeros(0, np.int64)
    answers: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    steps_per_epoch: int
    blended: bool = False
    early_stopping: int = 0
    jit_compile: bool = False
    scope: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    seconds: float = 0.0
    sync_moving_statistics: Callable[[], None] = lambda: None


def fit(
    task: Task,
    phases: Sequence[Phase],
    checkpointer: Checkpointer,
    *,
    callbacks: Callable[[Phase], Sequence[keras.callbacks.Callback]] = lambda phase: (),
    verbose: int = 2,
    log: Callable[[str], object] = print,
) -> None:
    """Trains a model through its phases, from where the checkpointer stands.

    Args:
        task: What to train, on what.
        phases: In their order; batches go on where the phase before ended.
        checkpointer: Holds the position and gathers the history.
        callbacks: Makes further ones for a phase.
        verbose: As in `keras.Model.fit`: 0 silent, 1 a progress bar, 2 a line an epoch.
        log: Takes a line for each phase, unless `verbose` is 0.

    Raises:
        DivergedError: The loss or a weight is no number any more.
    """
    for index, phase in enumerate(phases):
        if index < checkpointer.position.phase:
            continue
        if verbose:
            log(f"phase {phase.name}: {describe(phase)}")
        steps = phase.steps_per_epoch or task.steps_per_epoch
        # One place for the two, since `trainable` takes effect at the next compile only.
        task.set_trainable(phase.trainable)
        with task.scope():
            metrics = compile_model(
                task.model,
                optimizer=make_optimizer(phase, phase.epochs * steps),
                blended=task.blended,
                jit_compile=task.jit_compile,
            )
        others = [*_callbacks(phase, task.early_stopping), *callbacks(phase)]
        checkpointer.begin_phase(phase.name, metrics, others, task.sync_moving_statistics)
        task.model.fit(
            task.batches(checkpointer.position.global_step),
            initial_epoch=checkpointer.position.epoch,
            epochs=phase.epochs,
            steps_per_epoch=steps,
            validation_data=task.validation,
            shuffle=False,  # The batches are: Keras would warn that it cannot.
            callbacks=[*others, checkpointer],
            verbose=verbose,
        )
    checkpointer.restore_model(task.model)  # Where all phases were done already.


def compile_model(
    model: keras.Model, *, optimizer: Any, jit_compile: bool, blended: bool = False
) -> list[keras.metrics.Metric]:
    """Compiles a classifier with the loss and the metrics that its output asks for.

    Returns:
        The metrics, besides the loss: accuracy, and for two classes the area under the ROC curve.
    """
    if model.output_shape[-1] == 1:
        loss: keras.losses.Loss = keras.losses.BinaryCrossentropy()
        # Where nothing is blended they are Keras's own: a model saved with them loads without this package.
        accuracy, auc = (_Accuracy, _AUC) if blended else (keras.metrics.BinaryAccuracy, keras.metrics.AUC)
        metrics: list[keras.metrics.Metric] = [accuracy(name="accuracy"), auc(name="auc")]
    else:
        loss = keras.losses.CategoricalCrossentropy()
        metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics, jit_compile=jit_compile)
    return metrics


class _Hard:
    """For metrics of two classes: blended targets count as the class that they have more of."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y_true = keras.ops.round(keras.ops.cast(y_true, "float32"))
        return super().update_state(y_true, y_pred, sample_weight)  # type: ignore[misc]


class _Accuracy(_Hard, keras.metrics.BinaryAccuracy):
    pass


class _AUC(_Hard, keras.metrics.AUC):
    pass


def describe(phase: Phase) -> str:
    """A phase in words, for a line."""
    trained = {
        "head": "the head",
        "last_stage": "the head and the backbone's last stage",
        "all": "everything but BatchNormalization",
        "scratch": "everything",
    }.get(phase.trainable, f"the head and of the backbone {phase.trainable}")
    warmup = f" after {phase.warmup_steps} steps of warm-up" if phase.warmup_steps else ""
    return (
        f"trains {trained}, {phase.optimizer} {phase.learning_rate:g} {phase.schedule}{warmup}, {phase.epochs} epochs"
    )


def try_optimizer(phase: Phase, steps: int) -> None:
    """Lets the optimizer of a phase take a step with one number, so that what is wrong with it is told at once.

    Raises:
        UserError: As `make_optimizer`, or the step failed.
    """
    optimizer = make_optimizer(phase, steps)
    try:
        optimizer.apply([keras.ops.ones(1)], [keras.Variable([1.0])])
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise _refused(phase, type(optimizer), error) from error


def make_optimizer(phase: Phase, steps: int) -> keras.optimizers.Optimizer:
    """Makes the optimizer of a phase of so many steps.

    Raises:
        UserError: Keras knows no such optimizer, or the optimizer no such argument.
    """
    if phase.warmup_steps and phase.warmup_steps >= steps:
        raise UserError(
            f"--warmup_steps={phase.warmup_steps}: phase {phase.name} has {steps} steps; fewer are expected."
        )
    accumulated = phase.accumulated_steps
    if accumulated > steps:
        raise UserError(
            f"--optimizer_kwargs=gradient_accumulation_steps={accumulated}: phase {phase.name} has {steps} steps, in"
            " which no weight would change; at most so many are expected."
        )
    rate: Any = phase.learning_rate
    if phase.schedule == "cosine" and phase.warmup_steps:
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps - phase.warmup_steps, warmup_target=rate, warmup_steps=phase.warmup_steps
        )
    elif phase.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    try:
        optimizer = type(keras.optimizers.get(phase.optimizer))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"--optimizer={phase.optimizer}: not one of Keras's, such as adam, adamw, sgd, rmsprop, lion."
        ) from error
    try:
        return optimizer(learning_rate=rate, **phase.optimizer_kwargs)
    except (TypeError, ValueError) as error:
        raise _refused(phase, optimizer, error) from error


def _refused(phase: Phase, optimizer: type, error: Exception) -> UserError:
    given = ",".join(f"{name}={value!r}" for name, value in phase.optimizer_kwargs.items())
    return UserError(f"--optimizer_kwargs={given}: refused by Keras's {optimizer.__name__}: {error}")


def _callbacks(phase: Phase, early_stopping: int) -> list[keras.callbacks.Callback]:
    """Keras's own for what the phase asks for; those that look at weights stand behind the one that averages them."""
    chosen: list[keras.callbacks.Callback] = []
    if phase.optimizer_kwargs.get("use_ema"):
        chosen.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    if early_stopping:
        chosen.append(keras.callbacks.EarlyStopping(patience=early_stopping, restore_best_weights=True))
    if phase.schedule == "plateau":
        chosen.append(keras.callbacks.ReduceLROnPlateau(patience=phase.patience))
    return chosen
