"""Exact resume: a training killed at any moment ends as the uninterrupted one does, bit for bit.

Everything a step depends on is in one file: the model's variables (the seed generators of its random layers
among them, which `.keras` files leave out), the optimizer's and the metrics', the state of the other callbacks,
and the position.
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

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError

Row = dict[str, Any]  # One line of the history: column -> value.

# What Keras's own callbacks gather over epochs; a callback of another class names its attributes in `checkpointed`.
# Not all of their attributes: EarlyStopping flips the sign of min_delta each time it sets itself up.
_KERAS_STATE: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


class DivergedError(Exception):
    """A training whose loss or weights are no numbers any more; nothing of it is saved.

    Attributes:
        step: The step that was found so; a loss is that of the weights which the step before it left.
        saved: The step that the last checkpoint stands at.
    """

    def __init__(self, step: int, saved: int) -> None:
        super().__init__(f"step {step}")
        self.step = step
        self.saved = saved


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a training stands: the step that comes next.

    Attributes:
        phase: Index of the phase; the number of phases when all are done.
        epoch: Epochs of this phase that are done, validation included.
        step: Steps of this epoch that are done.
        global_step: Steps done since the start, over all phases: the position in the stream of batches.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    global_step: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """All that a training continues from.

    Attributes:
        position: Where it stands.
        rows: The history so far, one row a finished epoch.
        seconds: Wall-clock time of the phases up to there, in all processes together.
        arrays: "model", "optimizer" and "metrics" -> their variables' values, in the order of Keras;
            the optimizer has none at the start of a phase, the metrics at the start of an epoch.
        callbacks: The state of each of the other callbacks, attribute -> value.
    """

    position: Position = Position()
    rows: list[Row] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    arrays: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    callbacks: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def save(path: Path, state: State) -> None:
    """Writes a state: the old file or the new one is there at any moment, each of them whole."""
    arrays: dict[str, np.ndarray] = {}

    def put(values: Sequence[np.ndarray]) -> list[str]:
        keys = [f"{len(arrays) + i:06}" for i in range(len(values))]
        arrays.update(zip(keys, values, strict=True))
        return keys

    def plain(value: Any) -> Any:
        """Lists of arrays (EarlyStopping's best weights) go beside the JSON."""
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


def load(path: Path) -> State:
    """Reads a state; that of the very beginning if there is no file.

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
        raise UserError(f"{path}: damaged ({error}). Remove it to begin this run anew.") from error


class Checkpointer(keras.callbacks.Callback):
    """Saves and restores a training; stands last among the callbacks, so that it sees what the others did.

    One serves all phases of a training: `begin_phase`, then `model.fit(initial_epoch=position.epoch)` on batches
    from `position.global_step` on.

    Attributes:
        position: Where the training stands.
        rows: The history so far.
    """

    def __init__(
        self,
        path: Path,
        *,
        every: int,
        on_epoch: Callable[[list[Row]], object] = lambda rows: None,
        writes: bool = True,
    ) -> None:
        """Reads where the training stands.

        Args:
            path: Of the checkpoint.
            every: Steps from one checkpoint within an epoch to the next; 0 writes them at the end of epochs alone.
            on_epoch: Called with the history after each epoch.
            writes: Whether this process is the one of its job that writes.
        """
        super().__init__()
        self._path = path
        self._every = every
        self._others: Sequence[keras.callbacks.Callback] = ()
        self._on_epoch = on_epoch
        self._writes = writes
        self._sync: Callable[[], None] = lambda: None
        self._saved: State | None = load(path)
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
        """Wall-clock time of the phases, in all processes together, up to where each was continued from."""
        return self._seconds_before + (0.0 if self._started is None else time.monotonic() - self._started)

    def begin_phase(
        self,
        name: str,
        metrics: Sequence[keras.metrics.Metric],
        others: Sequence[keras.callbacks.Callback] = (),
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        """Tells which phase comes.

        Args:
            name: Of the phase.
            metrics: What its model was compiled with besides the loss.
            others: The other callbacks.
            sync: `sync_moving_statistics` of `fit.Task`.
        """
        if self._started is None:
            self._started = time.monotonic()
        self._sync = sync
        self._phase_name = name
        self._metrics = metrics
        self._others = others

    def restore_model(self, model: keras.Model) -> None:
        """Gives a model the saved variables, if there are any."""
        if self._saved and "model" in self._saved.arrays:
            _assign(model.variables, self._saved.arrays["model"])

    def on_train_begin(self, logs: Any = None) -> None:
        # Here, since the other callbacks have just reset themselves in theirs, and on_epoch_begin may build on it.
        self._restore()
        self._to_skip = self.position.step
        if self._to_skip:
            self._skip_done_steps()
        else:
            self._saved = None

    def _skip_done_steps(self) -> None:
        """Lets the steps that this epoch has behind it pass without touching the model or the batches."""
        train_function = self.model.train_function
        left = self._to_skip

        def skip_or_train(iterator: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                return {}
            self._restore()  # Once more: since on_train_begin, `fit` and the callbacks have begun an epoch.
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
        if due and self.position.step < self.params["steps"]:  # Else the end of the epoch saves.
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
        # After the last epoch the others' on_train_end may still change the model (EarlyStopping puts the best weights
        # back): on_train_end saves then.
        if epoch + 1 < self.params["epochs"] and not self.model.stop_training:
            self.save()
        self._on_epoch(self.rows)

    def on_train_end(self, logs: Any = None) -> None:
        self.position = Position(phase=self.position.phase + 1, global_step=self.position.global_step)
        self.save(new_phase=True)

    def _restore(self) -> None:
        if self._saved is None:
            return
        self.restore_model(self.model)
        arrays = self._saved.arrays
        if "optimizer" in arrays:
            if not self.model.optimizer.built:  # LossScaleOptimizer would add its variables once more.
                self.model.optimizer.build(self.model.trainable_variables)
            _assign(self.model.optimizer.variables, arrays["optimizer"])
        if "metrics" in arrays:
            _assign(self._metric_variables(), arrays["metrics"])
        for callback, attributes in zip(self._others, self._saved.callbacks, strict=False):
            for name, value in attributes.items():
                setattr(callback, name, value)

    def save(self, new_phase: bool = False) -> None:
        """Writes where the training stands.

        Every process of a job gathers the state, since reading it may take them all; one of them writes it.

        Args:
            new_phase: A phase is done: the next one's optimizer and callbacks begin anew.

        Raises:
            DivergedError: A variable is no number any more.
        """
        self._sync()
        arrays = {"model": _values(self.model.variables)}
        if not new_phase:
            arrays["optimizer"] = _values(self.model.optimizer.variables)
        if not all(np.isfinite(array).all() for array in _lasting(arrays)):
            raise DivergedError(self.position.global_step - 1, self._saved_step)
        if self.position.step:  # Else they hold what the validation left, which `fit` resets once they are traced only.
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

    def _metric_variables(self) -> list[Any]:
        # Through the metric objects themselves: `model.metrics_variables` is empty until the first step is traced.
        loss_tracker = self.model.metrics[0]
        return [variable for metric in (loss_tracker, *self._metrics) for variable in metric.variables]


def _lasting(arrays: dict[str, list[np.ndarray]]) -> Iterator[np.ndarray]:
    """The floats of a state that must be numbers: those of the optimizer too, where moments and accumulators are."""
    return (array for values in arrays.values() for array in values if array.dtype.kind == "f")


def _callback_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    names = getattr(callback, "checkpointed", _KERAS_STATE.get(type(callback), ()))
    return {name: getattr(callback, name) for name in names}


def _values(variables: Sequence[Any]) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


def _assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    # By order: paths change when a model is built twice in one process.
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
