"""The one fit function: a recipe's phases, one after the other, on one continuous stream of batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from trainers.checkpoint import Checkpointer
from trainers.recipes import Phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is fitted to what.

    Attributes:
        model: u8[b h w 3] -> f32[b 1] or f32[b classes], as `models.Classifier.model`.
        set_trainable: Sets the layers that a rule of `Phase.trainable` names.
        batches: Global step -> the endless batches (u8[b h w 3], i64[b]) from that step on.
        validation: The batches that each epoch is judged by, finite.
        steps_per_epoch: For phases that do not say.
        jit_compile: Whether XLA compiles the steps.
    """

    model: keras.Model
    set_trainable: Callable[[str], None]
    batches: Callable[[int], Any]
    validation: Any
    steps_per_epoch: int
    jit_compile: bool = False


def fit(
    task: Task,
    phases: Sequence[Phase],
    checkpointer: Checkpointer,
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 2,
) -> None:
    """Trains a model through its phases, from where the checkpointer stands.

    Args:
        task: What to train, on what.
        phases: In their order; batches go on where the phase before ended.
        checkpointer: Holds the position and gathers the history; was given the same `callbacks`.
        callbacks: Further ones, for every phase.
        verbose: As in `keras.Model.fit`: 0 silent, 1 a progress bar, 2 a line an epoch.
    """
    for index, phase in enumerate(phases):
        if index < checkpointer.position.phase:
            continue
        if verbose:
            print(f"phase {phase.name}: {describe(phase)}", flush=True)
        steps = phase.steps_per_epoch or task.steps_per_epoch
        # One place for the two, since `trainable` takes effect at the next compile only.
        task.set_trainable(phase.trainable)
        metrics = compile_model(
            task.model, optimizer=_optimizer(phase, phase.epochs * steps), jit_compile=task.jit_compile
        )
        checkpointer.begin_phase(phase.name, metrics)
        task.model.fit(
            task.batches(checkpointer.position.global_step),
            initial_epoch=checkpointer.position.epoch,
            epochs=phase.epochs,
            steps_per_epoch=steps,
            validation_data=task.validation,
            shuffle=False,  # The batches are: Keras would warn that it cannot.
            callbacks=[*callbacks, checkpointer],
            verbose=verbose,
        )
    checkpointer.restore_model(task.model)  # Where all phases were done already.


def compile_model(model: keras.Model, *, optimizer: Any, jit_compile: bool) -> list[keras.metrics.Metric]:
    """Compiles a classifier with the loss and the metrics that its output asks for.

    Returns:
        The metrics, besides the loss: accuracy, and for two classes the area under the ROC curve.
    """
    binary = model.output_shape[-1] == 1
    metrics: list[keras.metrics.Metric] = (
        [keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.AUC(name="auc")]
        if binary
        else [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    )
    model.compile(
        optimizer=optimizer,
        loss="binary_crossentropy" if binary else "sparse_categorical_crossentropy",
        metrics=metrics,
        jit_compile=jit_compile,
    )
    return metrics


def describe(phase: Phase) -> str:
    """A phase in words, for a line."""
    trained = {"head": "the head", "last_stage": "the head and the backbone's last stage", "all": "everything"}
    return (
        f"trains {trained[phase.trainable]}, {phase.optimizer} {phase.learning_rate:g} {phase.schedule}, "
        f"{phase.epochs} epochs"
    )


def _optimizer(phase: Phase, steps: int) -> keras.optimizers.Optimizer:
    rate: Any = phase.learning_rate
    if phase.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    optimizer = keras.optimizers.get(phase.optimizer)
    return type(optimizer)(learning_rate=rate, **phase.optimizer_settings)
