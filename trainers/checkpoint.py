"""Save and restore a training, so that an interrupted training ends with the same result, bit for bit.

One file holds everything that the next step depends on:

* the variables of the model, with the seed generators of its random layers, which `.keras` files leave out,
* the variables of the optimizer and of the metrics,
* Keras's global seed generator,
* the state of the other callbacks,
* the position of the training.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, global_seed_generator

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError

Row = dict[str, Any]  # One line of the history: column -> value.

# Attributes of Keras's callbacks that change during training. Other classes list such attributes in their attribute
# `checkpointed`. Attributes that Keras computes from arguments are not saved, because Keras computes them again. For
# example, EarlyStopping changes the sign of min_delta at the start of each training.
_KERAS_STATE: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}
# Attributes that are not used if another training continues from the end of this one: the counters of patience, and
# copies of weights, because the model has these weights at the end.
_BEGINS_ANEW: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best_weights"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


class DivergedError(Exception):
    """The loss or a variable is no longer a finite number. This state is not saved.

    Attributes:
        step: The step at which the problem was noticed. The loss of a step is computed before the weights change, so
            the step before may be the cause.
        saved: The step of the last checkpoint.
    """

    def __init__(self, step: int, saved: int) -> None:
        super().__init__(f"step {step}")
        self.step = step
        self.saved = saved


@dataclasses.dataclass(frozen=True)
class Position:
    """The position of a training: the number of finished phases, epochs and steps.

    Attributes:
        phase: Index of the current phase, from 0. After the last phase, the number of phases.
        epoch: Number of finished epochs of this phase, including their validation.
        step: Number of finished steps of this epoch.
        global_step: Number of finished steps of all phases. This is also the position in the stream of batches.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    global_step: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """Everything that is needed to continue a training.

    Attributes:
        position: The position of the training.
        rows: The history, one row per finished epoch.
        seconds: Time of training up to this position. The time before each restart counts, too.
        arrays: "model", "optimizer" and "metrics" -> values of the variables, in Keras's order. There is no
            "optimizer" at the start of a phase and no "metrics" at the start of an epoch. "random" is the state of
            Keras's global seed generator, and exists only if a layer without its own seed generator has used it, such
            as ConvNeXt's StochasticDepth. The state at the end of a training has "seeds" (the seeds of random layers)
            instead of "model", because the model is saved in another file.
        callbacks: The state of each other callback, attribute -> value.
    """

    position: Position = Position()
    rows: list[Row] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    arrays: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    callbacks: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def save(path: Path, state: State) -> None:
    """Write a state to a file. If this is interrupted, the old file stays complete."""
    arrays: dict[str, np.ndarray] = {}

    def put(values: Sequence[np.ndarray]) -> list[str]:
        keys = [f"{len(arrays) + i:06}" for i in range(len(values))]
        arrays.update(zip(keys, values, strict=True))
        return keys

    def plain(value: Any) -> Any:
        """Replace a list of arrays, such as EarlyStopping's best weights, with their keys in the file."""
        if isinstance(value, list) and any(isinstance(item, np.ndarray) for item in value):
            return {"arrays": put(value)}
        return value

    meta = {
        "position": dataclasses.asdict(state.position),
        "rows": state.rows,
        "seconds": state.seconds,
        "arrays": {name: put(values) for name, values in state.arrays.items()},
        "callbacks": [{name: plain(value) for name, value in attributes.items()} for attributes in state.callbacks],
    }
    with files.atomic(path) as file:
        np.savez(file, **arrays, meta=np.array(json.dumps(meta)))  # type: ignore[arg-type]


def load(path: Path, advice: str = "Delete it to start this run from the beginning.") -> State:
    """Read a state. If the file does not exist, return the state at the start of a training.

    Args:
        path: The file.
        advice: The sentence that says what to do if the file is damaged.

    Raises:
        UserError: The file is damaged.
    """
    try:
        with np.load(path) as stored:
            meta = json.loads(str(stored["meta"]))
            return State(
                position=Position(**meta["position"]),
                rows=meta["rows"],
                seconds=meta["seconds"],
                arrays={name: [stored[key] for key in keys] for name, keys in meta["arrays"].items()},
                callbacks=[
                    {
                        name: [stored[key] for key in value["arrays"]] if isinstance(value, dict) else value
                        for name, value in attributes.items()
                    }
                    for attributes in meta["callbacks"]
                ],
            )
    except FileNotFoundError:
        return State()
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is damaged ({error}). {advice}") from error


class Checkpointer(keras.callbacks.Callback):
    """Callback that saves and restores a training.

    It must be the last callback, so that it sees the changes of the other callbacks. Use one checkpointer for all
    phases of a training. Call `begin_phase`, then `model.fit(initial_epoch=position.epoch)` on batches that start at
    `position.global_step`.

    Attributes:
        position: The position of the training.
        rows: The history so far.
    """

    def __init__(
        self,
        path: Path,
        *,
        every: int,
        on_epoch: Callable[[list[Row]], object] = lambda rows: None,
        on_save: Callable[[list[Row]], object] = lambda rows: None,
        writes: bool = True,
        start: State | None = None,
        end: Path | None = None,
    ) -> None:
        """Read the checkpoint, if there is one.

        Args:
            path: File of the checkpoint.
            every: Steps between checkpoints. 0: checkpoints are saved only at the end of each epoch.
            on_epoch: Called with the history after each epoch.
            on_save: Called with the history after each checkpoint. No restart repeats the epochs of this history.
            writes: Whether this process writes the checkpoint. Exactly one process of a job does.
            start: The state at the end of another training. If there is no checkpoint, this training starts with that
                state. The model must already have the weights of that training.
            end: File for the state at the end of each phase. If None, this state is not written.
        """
        super().__init__()
        self._path = path
        self._every = every
        self._others: Sequence[keras.callbacks.Callback] = ()
        self._on_epoch = on_epoch
        self._on_save = on_save
        self._writes = writes
        self._sync: Callable[[], None] = lambda: None
        self._end = end
        self._saved: State | None = start if start is not None and not path.exists() else load(path)
        self._seconds_before = self._saved.seconds
        self._started: float | None = None
        self._phase_name = ""
        self._metrics: Sequence[keras.metrics.Metric] = ()
        self._to_skip = 0
        self.position = self._saved.position
        self._saved_step = self.position.global_step
        self.rows = self._saved.rows

    @property
    def seconds(self) -> float:
        """Seconds of training. The time before each restart counts, but steps that were lost do not."""
        return self._seconds_before + (0.0 if self._started is None else time.monotonic() - self._started)

    def begin_phase(
        self,
        name: str,
        metrics: Sequence[keras.metrics.Metric],
        others: Sequence[keras.callbacks.Callback] = (),
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare for a phase. Call it before `model.fit`.

        Args:
            name: Name of the phase.
            metrics: Metrics of the compiled model, without the loss.
            others: All callbacks except this one.
            sync: Function that makes moving statistics equal on all devices. It is called before each validation and
                before the state is saved.
        """
        if self._started is None:
            self._started = time.monotonic()
        self._sync = sync
        self._phase_name = name
        self._metrics = metrics
        self._others = others

    def restore_model(self, model: keras.Model) -> None:
        """Set the variables of a model to the saved values, if there are any."""
        if self._saved and "model" in self._saved.arrays:
            _assign(model.variables, self._saved.arrays["model"])

    def on_train_begin(self, logs: Any = None) -> None:
        # The state is restored here, because the other callbacks reset their state in `on_train_begin`.
        self._restore()
        self._to_skip = self.position.step
        if self._to_skip:
            self._skip_done_steps()
        else:
            self._saved = None

    def _skip_done_steps(self) -> None:
        """Skip the finished steps of this epoch without changing the model or reading batches."""
        train_function = self.model.train_function
        left = self._to_skip

        def skip_or_train(iterator: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                return {}
            self._restore()  # Restored again, because Keras changed some values when it started the epoch.
            self._saved = None
            self.model.train_function = train_function
            return train_function(iterator)

        self.model.train_function = skip_or_train

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._to_skip:
            self._to_skip -= 1
            return
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise DivergedError(self.position.global_step, self._saved_step)
        position = self.position
        self.position = dataclasses.replace(position, step=position.step + 1, global_step=position.global_step + 1)
        due = self._every and self.position.global_step % self._every == 0
        if due and self.position.step < self.params["steps"]:  # At the end of an epoch, `on_epoch_end` saves.
            self.save()

    def on_test_begin(self, logs: Any = None) -> None:
        self._sync()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.position = dataclasses.replace(self.position, epoch=epoch + 1, step=0)
        self.rows.append(
            {"phase": self._phase_name, "epoch": epoch + 1, "step": self.position.global_step}
            | (logs or {})
            | {"learning_rate": learning_rate}
        )
        # After the last epoch, on_train_end of the other callbacks may still change the model (EarlyStopping restores
        # the best weights), so the checkpoint is saved in on_train_end.
        if epoch + 1 < self.params["epochs"] and not self.model.stop_training:
            self.save()
        self._on_epoch(self.rows)

    def on_train_end(self, logs: Any = None) -> None:
        self._save_end()
        self.position = Position(phase=self.position.phase + 1, global_step=self.position.global_step)
        self.save(new_phase=True)

    def _restore(self) -> None:
        if self._saved is None:
            return
        self.restore_model(self.model)
        arrays = self._saved.arrays
        if "random" in arrays:
            _assign([global_seed_generator().state], arrays["random"])
        if "optimizer" in arrays:
            if not self.model.optimizer.built:  # LossScaleOptimizer would add its variables a second time.
                self.model.optimizer.build(self.model.trainable_variables)
            _assign(self.model.optimizer.variables, arrays["optimizer"])
        if "metrics" in arrays:
            _assign(self._metric_variables(), arrays["metrics"])
        for callback, attributes in zip(self._others, self._saved.callbacks, strict=False):
            for name, value in attributes.items():
                setattr(callback, name, value)
        if "seeds" in arrays:
            _assign(_seeds(self.model), arrays["seeds"])
            self._begin_with_weights_of_model()

    def _begin_with_weights_of_model(self) -> None:
        """Give the callbacks copies of the model's weights, which the state at an end leaves out."""
        for callback in self._others:
            if isinstance(callback, keras.callbacks.EarlyStopping):
                callback.best_weights = self.model.get_weights()
            elif isinstance(callback, keras.callbacks.SwapEMAWeights):
                callback._finalize_ema_values()  # The averages continue from these weights, too.

    def save(self, new_phase: bool = False) -> None:
        """Save the current position.

        All processes of a training must call it, because reading the state may need all of them. Only one process
        writes the file.

        Args:
            new_phase: Whether a phase has ended. The next phase has a new optimizer and new callbacks.

        Raises:
            DivergedError: A variable is no longer a finite number.
        """
        self._sync()
        arrays = {"model": _values(self.model.variables)} | _global_random()
        if not new_phase:
            arrays["optimizer"] = _values(self.model.optimizer.variables)
        self._check_finite(arrays)
        # At the end of an epoch, the metrics hold values of the validation. These are not saved, because after a
        # restore, `fit` could not reset them before the first step is traced.
        if self.position.step:
            arrays["metrics"] = _values(self._metric_variables())
        state = State(
            position=self.position,
            rows=self.rows,
            seconds=self.seconds,
            arrays=arrays,
            callbacks=[] if new_phase else [_callback_state(callback) for callback in self._others],
        )
        if self._writes:
            save(self._path, state)
        self._saved_step = self.position.global_step
        self._on_save(self.rows)

    def _save_end(self) -> None:
        """Save everything except the model's weights that another training needs to continue from here."""
        if self._end is None:
            return
        arrays = {"optimizer": _values(self.model.optimizer.variables), "seeds": _values(_seeds(self.model))}
        arrays |= _global_random()
        self._check_finite(arrays)
        callbacks = [_callback_state(callback, _BEGINS_ANEW.get(type(callback), ())) for callback in self._others]
        if self._writes:
            save(
                self._end,
                State(position=self.position, rows=self.rows, seconds=self.seconds, arrays=arrays, callbacks=callbacks),
            )

    def _check_finite(self, arrays: dict[str, list[np.ndarray]]) -> None:
        if not all(np.isfinite(array).all() for array in _floats(arrays)):
            raise DivergedError(self.position.global_step - 1, self._saved_step)

    def _metric_variables(self) -> list[Any]:
        # The metrics are read directly, because `model.metrics_variables` is empty until the first step is traced.
        loss_tracker = self.model.metrics[0]
        return [variable for metric in (loss_tracker, *self._metrics) for variable in metric.variables]


def _floats(arrays: dict[str, list[np.ndarray]]) -> Iterator[np.ndarray]:
    """Return all arrays of floats in a state. This includes the moments and accumulators of the optimizer."""
    return (array for values in arrays.values() for array in values if array.dtype.kind == "f")


def _callback_state(callback: keras.callbacks.Callback, without: Sequence[str] = ()) -> dict[str, Any]:
    names = getattr(callback, "checkpointed", _KERAS_STATE.get(type(callback), ()))
    return {name: getattr(callback, name) for name in names if name not in without}


def _global_random() -> dict[str, list[np.ndarray]]:
    """Return the state of Keras's global seed generator as "random"; {} if no layer has used it."""
    if global_state.get_global_attribute(GLOBAL_SEED_GENERATOR) is None:
        return {}
    return {"random": _values([global_seed_generator().state])}


def _seeds(model: keras.Model) -> list[Any]:
    """Return the seed states of the random layers. They are variables of a model, but not weights."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _values(variables: Sequence[Any]) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


def _assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    # Variables are matched by order, because their paths change if a model is built twice in one process.
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
