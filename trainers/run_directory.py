"""The run directory: the settings of a training, its progress and its results. The types document the files."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import tfrecord_tools
from tfrecord_tools.base import files, tabular
from tfrecord_tools.errors import UserError

RUNS = Path("runs")
CHECKPOINT = "checkpoint.npz"
HISTORY = "history.csv"
LOCK = "lock"
METRICS = "metrics.json"
MODEL = "model.keras"
SETTINGS = "settings.json"
TENSORBOARD = "tensorboard"


class Metrics(TypedDict, total=False):
    """The content of metrics.json. Only a training has `steps` to `latency_ms`, only an evaluation the last two.

    Attributes:
        loss: Mean cross-entropy.
        accuracy: Share of the images whose prediction is their label, 0..1.
        accuracy_interval: Lower and upper end of its 95 % interval.
        calibration_error: Expected calibration error, 0..1.
        auc: Area under the ROC curve. Two classes only.
        average_precision: Area under the precision-recall curve. Two classes only.
        split: The evaluated images, in words.
        note: What these figures say about new images, in words.
        count: Number of evaluated images.
        corrupt: A message for each corrupt record that was left out.
        steps: Training steps, over all phases.
        seconds: Duration of the training in all its processes, with validation and saving.
        images_per_second: Median over epochs of the training rate.
        parameters: Number of the model's parameters.
        model_bytes: Size of model.keras.
        latency_ms: Median time of a prediction for one image, in milliseconds.
        dataset: Name of the evaluated dataset.
        digest: Digest of the evaluated dataset.
    """

    loss: float
    accuracy: float
    accuracy_interval: list[float]
    calibration_error: float
    auc: float
    average_precision: float
    split: str
    note: str
    count: int
    corrupt: list[str]
    steps: int
    seconds: float
    images_per_second: float
    parameters: int
    model_bytes: int
    latency_ms: float
    dataset: str
    digest: str


class DatasetSettings(TypedDict):
    """The dataset of a training, as settings.json has it."""

    digest: str
    name: str
    classes: list[str]
    splits: dict[str, int]


class Settings(TypedDict, total=False):
    """The content of settings.json; empty where the file does not exist.

    Attributes:
        flags: Flag name -> value in effect, for every flag that decides the result.
        recipe: The fields of `recipes.Recipe`; `augment` holds the fields of its `AugmentConfig`.
        weights: The hash of the weights file; {} if the weights do not come from a file.
        dataset: The dataset.
        environment: What the last bits of the results depend on: versions, device, precision.
        other: Values that do not change the results.
    """

    flags: dict[str, Any]
    recipe: dict[str, Any]
    weights: dict[str, str]
    dataset: DatasetSettings
    environment: dict[str, Any]
    other: dict[str, Any]


Topics = Mapping[str, object]  # `Settings`, or some of its topics.
# The result of a training is a function of the topics of `_DECISIVE`.
_DECISIVE = ("flags", "recipe", "weights", "dataset")
_REPRODUCTION = (*_DECISIVE, "environment")  # Down to the last bit.


def check(run: str | None) -> None:
    """Refuses a run directory that cannot be one, before anything slow is done.

    Raises:
        UserError: It is a file, or lies where nothing can be written.
    """
    if run is not None:
        check_directory("run", Path(run))


def check_directory(flag: str, path: Path) -> None:
    """Refuses the value of a flag that is no directory and cannot become one, or cannot be written to.

    Raises:
        UserError: It is a file, or lies where nothing can be written.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"--{flag}={path}: a file, not a directory. Pass another --{flag}.")
    above = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--{flag}={path}: nothing can be written in {above}. Pass another --{flag}.")


def results(run: str | None, settings: Topics) -> Metrics | None:
    """Reads the results of a finished run; None if it is not finished, or not begun.

    Args:
        run: The directory, None for one that is yet to be chosen.
        settings: As for `opened`.

    Raises:
        UserError: The directory belongs to a training with other settings, or to none.
    """
    if run is None:
        return None
    path = Path(run)
    metrics = read_metrics(path)
    _refuse_foreign(path, settings, _REPRODUCTION if metrics is None else _DECISIVE)
    if metrics is not None:
        (path / CHECKPOINT).unlink(missing_ok=True)  # Left by a process that was killed in `finish`.
    return metrics


@contextlib.contextmanager
def opened(run: str | None, settings: Topics, trainer: str, log: Callable[[str], object] = print) -> Iterator[Path]:
    """Opens the directory of an unfinished training, new or begun before, and holds it for the block.

    Args:
        run: The directory; None: an unfinished one of equal settings below `runs/`, else a fresh one there.
        settings: What the training was told.
        trainer: Its name, which a fresh directory is named after.
        log: Takes a line if an unfinished run is continued.

    Raises:
        UserError: The directory belongs to a training with other settings, or to none, or is at work.
    """
    with contextlib.ExitStack() as stack:
        if run is not None:
            path = Path(run)
            _refuse_foreign(path, settings, _REPRODUCTION)
            path.mkdir(parents=True, exist_ok=True)
            if not _lock(path, stack):
                raise UserError(
                    f"--run={run}: another process is at work in it. Wait for it, or pass another --run."
                    f"{files.owner(path / LOCK)}"
                )
        else:
            same = (path for path in _unfinished() if not differences(path, settings, _REPRODUCTION))
            free = next((path for path in same if _lock(path, stack)), None)
            if free:
                log(f"run: continues {free}, unfinished and of the same settings")
            path = free or _fresh(trainer)
            if not free:
                _lock(path, stack)
        if not (path / SETTINGS).exists():
            write_json(path / SETTINGS, settings)
        yield path


def appears(path: Path, seconds: float = 60.0) -> bool:
    """Waits for a run directory that another machine has just made: shared storage may show it late."""
    deadline = time.monotonic() + seconds
    while not (path / SETTINGS).exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes history.csv anew, a line an epoch."""
    tabular.write_csv(path / HISTORY, list(rows[0]) if rows else [], rows)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with files.atomic(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


def finish(path: Path, metrics: Metrics) -> None:
    """Writes metrics.json, by which a run counts as finished, and drops the checkpoint."""
    write_json(path / METRICS, metrics)
    (path / CHECKPOINT).unlink(missing_ok=True)


def read_metrics(path: Path) -> Metrics | None:
    """Read metrics.json of a run directory; None if the run is not finished.

    Raises:
        UserError: The file is damaged.
    """
    metrics: Metrics | None = _read_json(path / METRICS)
    return metrics


def read_settings(path: Path) -> Settings:
    """Reads settings.json of a run directory; {} where there is none.

    Raises:
        UserError: It is damaged.
    """
    settings: Settings = _read_json(path / SETTINGS) or Settings()
    if not isinstance(settings, dict) or not all(isinstance(topic, dict) for topic in settings.values()):
        raise UserError(
            f"{path / SETTINGS}: damaged (no object of objects). Remove this run, or use the model file in it alone."
        )
    return settings


def versions() -> dict[str, str]:
    """The versions of what a training computes with."""
    packages = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    return packages | {"python": platform.python_version(), "tfrecord_tools": tfrecord_tools.__version__}


def _refuse_foreign(path: Path, settings: Topics, topics: Sequence[str]) -> None:
    if not path.exists() or (path.is_dir() and {entry.name for entry in path.iterdir()} <= files.lock_names(LOCK)):
        return
    if not (path / SETTINGS).is_file():
        raise UserError(
            f"--run={path}: not a run directory (no {SETTINGS} in it). Pass a new or empty one, or that of a run."
        )
    changes = differences(path, settings, topics)
    if changes:
        raise UserError(
            f"--run={path}: begun with other settings: {'; '.join(changes)}. "
            "Repeat the command it was begun with, or pass another --run."
        )


def differences(path: Path, settings: Topics, topics: Sequence[str]) -> list[str]:
    """Names what a run's settings differ in from others, in the first topic that does: `--seed was 0, is 1`."""
    begun = _read_json(path / SETTINGS) or {}
    flags = begun.get("flags")
    if isinstance(flags, dict) and flags.get("recipe") == "document":  # The former name of the recipe.
        flags["recipe"] = "reference"
    now = json.loads(json.dumps(settings))  # Tuples become lists, as in the file.
    for topic in topics:
        old, new = _flat(begun.get(topic, {})), _flat(now[topic])
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if names:
            prefix = "--" if topic == "flags" else f"{topic}."
            return [f"{prefix}{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names]
    return []


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Turns nested dicts and lists into dotted names."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{name}.{key}" if name else str(key))
    return flat


def _unfinished() -> Iterator[Path]:
    for settings in sorted(RUNS.glob(f"*/{SETTINGS}")):
        if not (settings.parent / METRICS).exists():
            yield settings.parent


def _fresh(trainer: str) -> Path:
    """Makes a directory such as runs/finetune-20250131-235959."""
    name = f"{trainer}-{time.strftime('%Y%m%d-%H%M%S')}"
    for path in (RUNS / name, *(RUNS / f"{name}-{i}" for i in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise UserError(f"{RUNS / name}: taken, and so are its numbered successors. Pass --run.")


def _lock(path: Path, stack: contextlib.ExitStack) -> bool:
    """Takes the directory for this process until the stack unwinds or the process dies; False if it is taken."""
    held = files.hold(path / LOCK)
    if held is None:
        return False
    stack.enter_context(held)
    stack.callback(_remove_lock, path / LOCK)  # Before it is released: whoever waits for it notices.
    return True


def _remove_lock(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # Windows removes no open files.
        path.unlink(missing_ok=True)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}). Remove this run, or use another run directory.") from error
