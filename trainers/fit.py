"""Train a Keras model in phases. Each phase has its own trainable layers and optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrecord_tools.base import console
from tfrecord_tools.errors import UserError
from trainers.checkpoint import Checkpointer
from trainers.recipes import Phase
from trainers.tracking.epoch_table import EpochTable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A model and the data that it is trained on.

    Attributes:
        model: Maps inputs to probabilities. With two classes: f32[b 1], the probability of class 1. With more classes:
            f32[b classes], the probability of each class.
        set_trainable: Function that takes a value of `Phase.trainable` and makes these layers trainable.
        batches: Function that takes a global step and returns the endless batches from that step on. A batch is
            (inputs, targets) or (inputs, targets, weights f32[b]). Targets have the shape of the model's output:
            f32[b 1], or one-hot f32[b classes].
        validation: Finite dataset of batches on which the model is evaluated after each epoch.
        batch_numbers: Function that takes a step and returns the record numbers i64[b] of the batch of this step.
            Error messages contain these numbers.
        answers: Function for the validation split that does not read images. It returns the model's outputs, f32[n 1]
            or f32[n classes], and the record numbers, i64[n]. If None, the outputs are computed from the images.
        steps_per_epoch: Steps per epoch, for phases without a `steps_per_epoch`.
        blended: Whether targets may lie between classes, because of MixUp, CutMix or label smoothing.
        early_stopping: If the validation loss does not fall for this many epochs, the phase ends. 0: never.
        jit_compile: Whether steps are compiled with XLA.
        loss: Loss of a model that the user has compiled. If None, the cross-entropy is used.
        optimizer: Optimizer of a model that the user has compiled. It must not be built yet. If None, each phase has
            its own optimizer.
        scope: Function that returns the context in which variables are created.
        seconds: Time for decoding the cached images or for computing the features, in seconds. If an earlier run has
            computed the features, this is the time that the earlier run needed.
        sync_moving_statistics: Function that sets the moving statistics of all devices to their mean. It is called
            before the model is evaluated or saved.
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
    loss: Any = None
    optimizer: keras.optimizers.Optimizer | None = None
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
    """Train a model in its phases, starting at the position of the checkpointer.

    Args:
        task: The model and its data.
        phases: Phases in their order. Each phase continues the stream of batches where the previous phase ended.
        checkpointer: Callback that knows the position, saves it, and collects the history.
        callbacks: Function that takes a phase and returns additional Keras callbacks for it.
        verbose: 0: silent; 1: a progress bar, or a table of the epochs in a notebook; 2: one line per epoch.
        log: Receives one line per phase, unless `verbose` is 0.

    Raises:
        DivergedError: The loss or a weight is no longer a finite number.
    """
    for index, phase in enumerate(phases):
        if index < checkpointer.position.phase:
            continue
        if verbose:
            log(f"phase {phase.name}: {describe(phase, task.optimizer)}")
        steps = phase.steps_per_epoch or task.steps_per_epoch
        # The model must be compiled after each change of `trainable`. Otherwise, the change has no effect.
        task.set_trainable(phase.trainable)
        with task.scope():
            metrics = compile_model(
                task.model,
                optimizer=task.optimizer or make_optimizer(phase, phase.epochs * steps),
                loss=task.loss,
                blended=task.blended,
                jit_compile=task.jit_compile,
            )
        others = [*_callbacks(phase, task), *callbacks(phase)]
        table = [EpochTable()] if verbose == 1 and console.in_notebook() else []
        checkpointer.begin_phase(phase.name, metrics, others, task.sync_moving_statistics)
        task.model.fit(
            task.batches(checkpointer.position.global_step),
            initial_epoch=checkpointer.position.epoch,
            epochs=phase.epochs,
            steps_per_epoch=steps,
            validation_data=task.validation,
            shuffle=False,  # The batches are shuffled already, and Keras would warn that it cannot shuffle them.
            callbacks=[*others, *table, checkpointer],
            verbose=0 if table else verbose,
        )
    # If all phases were finished before, the loop did nothing, and the model does not have its weights yet.
    checkpointer.restore_model(task.model)


def compile_model(
    model: keras.Model, *, optimizer: Any, jit_compile: bool, blended: bool = False, loss: Any = None
) -> list[keras.metrics.Metric]:
    """Compile a classifier with the loss and the metrics that fit its output.

    Args:
        model: The classifier, with output f32[b 1] or f32[b classes].
        optimizer: The Keras optimizer.
        jit_compile: Whether steps are compiled with XLA.
        blended: Whether targets may lie between classes.
        loss: A Keras loss. If None, the cross-entropy is used.

    Returns:
        The metrics besides the loss: accuracy and, for two classes, the area under the ROC curve.
    """
    if model.output_shape[-1] == 1:
        cross_entropy: keras.losses.Loss = keras.losses.BinaryCrossentropy()
        # If targets are not blended, Keras's own classes are used, so that a saved model loads without this package.
        accuracy, auc = (_Accuracy, _AUC) if blended else (keras.metrics.BinaryAccuracy, keras.metrics.AUC)
        metrics: list[keras.metrics.Metric] = [accuracy(name="accuracy"), auc(name="auc")]
    else:
        cross_entropy = keras.losses.CategoricalCrossentropy()
        metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    model.compile(optimizer=optimizer, loss=loss or cross_entropy, metrics=metrics, jit_compile=jit_compile)
    return metrics


class _Hard:
    """Mixin for metrics of two-class models. Blended targets are rounded to 0 or 1."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y_true = keras.ops.round(keras.ops.cast(y_true, "float32"))
        return super().update_state(y_true, y_pred, sample_weight)  # type: ignore[misc]


class _Accuracy(_Hard, keras.metrics.BinaryAccuracy):
    pass


class _AUC(_Hard, keras.metrics.AUC):
    pass


def describe(phase: Phase, optimizer: keras.optimizers.Optimizer | None = None) -> str:
    """Describe a phase in a line for the user. `optimizer` is the optimizer of a compiled model, or None."""
    if optimizer is not None:
        name = type(optimizer).__name__
        return f"trains the model with its own loss and optimizer ({name}), {phase.epochs} epochs"
    trained = {
        "head": "the head",
        "last_stage": "the head and the last stage of the backbone",
        "all": "all layers except BatchNormalization",
        "scratch": "all layers",
    }.get(phase.trainable, f"the head and the layers of the backbone that --unfreeze={phase.trainable} selects")
    warmup = f" after {phase.warmup_steps} steps of warm-up" if phase.warmup_steps else ""
    return (
        f"trains {trained}, {phase.optimizer} {phase.learning_rate:g} {phase.schedule}{warmup}, {phase.epochs} epochs"
    )


def try_optimizer(phase: Phase, steps: int) -> None:
    """Make one step with the optimizer of a phase on a single number, to find wrong arguments early.

    Raises:
        UserError: `make_optimizer` raises it, or the step fails.
    """
    optimizer = make_optimizer(phase, steps)
    try:
        optimizer.apply([keras.ops.ones(1)], [keras.Variable([1.0])])
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise _refused(phase, type(optimizer), error) from error


def make_optimizer(phase: Phase, steps: int) -> keras.optimizers.Optimizer:
    """Make the optimizer of a phase.

    Args:
        phase: The phase.
        steps: Number of steps of the phase, over all its epochs.

    Raises:
        UserError: The warm-up or the gradient accumulation is longer than the phase, or Keras does not have the
            optimizer, or the optimizer rejects an argument.
    """
    if phase.warmup_steps and phase.warmup_steps >= steps:
        raise UserError(
            f"--warmup_steps={phase.warmup_steps}: must be fewer than the {steps} steps of phase {phase.name}."
        )
    accumulated = phase.accumulated_steps
    if accumulated > steps:
        raise UserError(
            f"--optimizer_kwargs=gradient_accumulation_steps={accumulated}: must be at most the {steps} steps of phase"
            f" {phase.name}. With more steps, the weights would never change."
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
            f"--optimizer={phase.optimizer}: is not a Keras optimizer. Pass the name of a Keras optimizer, such as"
            " adam, adamw, sgd, rmsprop or lion."
        ) from error
    try:
        return optimizer(learning_rate=rate, **phase.optimizer_kwargs)
    except (TypeError, ValueError) as error:
        raise _refused(phase, optimizer, error) from error


def _refused(phase: Phase, optimizer: type, error: Exception) -> UserError:
    given = ",".join(f"{name}={value!r}" for name, value in phase.optimizer_kwargs.items())
    return UserError(f"--optimizer_kwargs={given}: Keras's {optimizer.__name__} rejects these arguments: {error}")


def _callbacks(phase: Phase, task: Task) -> list[keras.callbacks.Callback]:
    """Make the Keras callbacks of a phase."""
    chosen: list[keras.callbacks.Callback] = []
    use_ema = task.optimizer.use_ema if task.optimizer else phase.optimizer_kwargs.get("use_ema")
    # This callback must be first, because the other callbacks must see the averaged weights.
    if use_ema:
        chosen.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    if task.early_stopping:
        chosen.append(keras.callbacks.EarlyStopping(patience=task.early_stopping, restore_best_weights=True))
    if phase.schedule == "plateau":
        chosen.append(keras.callbacks.ReduceLROnPlateau(patience=phase.patience))
    return chosen
