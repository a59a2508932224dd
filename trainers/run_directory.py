"""Read and write the run directory of a training: settings, history, checkpoint and results.

The classes `Metrics` and `Settings` describe the content of metrics.json and settings.json.
"""

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
from tfrecord_tools import augment_config
from tfrecord_tools.base import files, tabular
from tfrecord_tools.errors import UserError

RUNS = Path("runs")
CHECKPOINT = "checkpoint.npz"
HISTORY = "history.csv"
LOCK = "lock"
METRICS = "metrics.json"
MODEL = "model.keras"
OPTIMIZER = "optimizer.npz"
SETTINGS = "settings.json"
TENSORBOARD = "tensorboard"


class WithoutIssues(TypedDict):
    """The accuracy on images without open issues in the dataset's audit.

    Attributes:
        left_out: Number of images with open issues.
        count: Number of other images.
        accuracy: Share of these other images that are classified correctly, 0..1.
        accuracy_interval: Lower and upper end of the 95 % interval of the accuracy.
    """

    left_out: int
    count: int
    accuracy: float
    accuracy_interval: list[float]


class Metrics(TypedDict, total=False):
    """The content of metrics.json.

    Only trainings write the fields from `steps` to `latency_ms`. Only evaluations write `unreadable` and the fields
    from `dataset` on.

    Attributes:
        loss: Mean cross-entropy.
        accuracy: Share of the images that are classified correctly, 0..1.
        accuracy_interval: Lower and upper end of the 95 % interval of the accuracy.
        majority_accuracy: Accuracy of always predicting the class with the most of these images, 0..1.
        balanced_accuracy: Mean recall of the classes with images, 0..1.
        macro_f1: Mean F1 of the classes with images, 0..1.
        recall, precision: Class name -> rate, 0..1. None if the class has no images. The precision is also None if the
            class has no predictions.
        top_5_accuracy: Share of the images with the true class among the five most likely classes. Only for ten or
            more classes.
        calibration_error: Expected calibration error, 0..1.
        auc: Area under the ROC curve. Only for two classes.
        average_precision: Area under the precision-recall curve. Only for two classes.
        without_issues: The accuracy on images without open issues. Only if the dataset has an audit.
        split: Description of the evaluated images.
        note: A sentence about what these results mean for new images.
        count: Number of evaluated images.
        corrupt: A message for each corrupt record. Corrupt records are left out.
        unreadable: A message for each file of a folder that could not be read. Only if a folder was evaluated.
        steps: Training steps, over all phases.
        seconds: Duration of the training with validation and saving, in seconds. The time before each restart counts.
        images_per_second: Median training throughput of the epochs, in images/s.
        parameters: Number of the model's parameters.
        model_bytes: Size of model.keras.
        latency_ms: Median time to classify one image, in milliseconds.
        dataset: Name of the evaluated dataset, or the path of the evaluated folder.
        digest: Digest of the evaluated dataset. Folders have none.
        class_map: Class of the images -> class of the model. "": images of this class are left out. Only if the user
            gave a class map.
        left_out: Class of the images -> number of images that are left out. Only if `class_map` leaves some out.
        tta: Kinds of views of each image (`results.views`). The probabilities are the mean over the views. Only with
            test-time augmentation.
    """

    loss: float
    accuracy: float
    accuracy_interval: list[float]
    majority_accuracy: float
    balanced_accuracy: float
    macro_f1: float
    recall: dict[str, float | None]
    precision: dict[str, float | None]
    top_5_accuracy: float
    calibration_error: float
    auc: float
    average_precision: float
    without_issues: WithoutIssues
    split: str
    note: str
    count: int
    corrupt: list[str]
    unreadable: list[str]
    steps: int
    seconds: float
    images_per_second: float
    parameters: int
    model_bytes: int
    latency_ms: float
    dataset: str
    digest: str
    class_map: dict[str, str]
    left_out: dict[str, int]
    tta: list[str]


class DatasetSettings(TypedDict):
    """The dataset of a training, as in settings.json."""

    digest: str
    name: str
    classes: list[str]
    splits: dict[str, int]


class Settings(TypedDict, total=False):
    """The content of settings.json. Empty if the file does not exist.

    Attributes:
        flags: Flag name -> value in effect, for every flag that affects the result.
        recipe: The fields of `recipes.Recipe`; `augment` holds the fields of its `AugmentConfig`.
        weights: The hash of the weights file; {} if the weights do not come from a file.
        parent: The hashes of the weights and of the optimizer's state with which the training started, and the number
            of further epochs. {} if the training did not start from another run. The path of that run is in `other`.
        dataset: The dataset.
        environment: Versions, device and precision. They can change the last bits of the results.
        other: Values that do not change the results.
    """

    flags: dict[str, Any]
    recipe: dict[str, Any]
    weights: dict[str, str]
    parent: dict[str, Any]
    dataset: DatasetSettings
    environment: dict[str, Any]
    other: dict[str, Any]


Topics = Mapping[str, object]  # `Settings`, or some of its fields (topics).
# `ISSUES` is the name of a flag in settings.json: the hash of the records that --drop_issues left out. Older versions
# stored the hash of all open issues there. If they left out the same records, `ISSUES_BEFORE` in `other` is that hash.
ISSUES = "issues_sha256"
ISSUES_BEFORE = "open_issues_sha256"
# The topics that determine the result of a training, except for its last bits.
_DECISIVE = ("flags", "recipe", "weights", "parent", "dataset")
# Values in `flags` that are not values of flags.
_HASHES = {
    "records_sha256": "the SHA-256 of --records",
    "issues_sha256": "the SHA-256 of the open issues in --audit",
}
_REPRODUCTION = (*_DECISIVE, "environment")  # The topics that determine the result, bit for bit.


def check(run: str | None) -> None:
    """Check the value of --run before anything slow is done.

    Raises:
        UserError: The path is a file, or cannot be written.
    """
    if run is not None:
        check_directory("run", Path(run))


def check_directory(flag: str, path: Path) -> None:
    """Check that the value of a flag is a writable directory, or that it can be created.

    Raises:
        UserError: The path is a file, or cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"--{flag}={path}: is a file, not a directory. Pass another --{flag}.")
    parent = next(directory for directory in (path, *path.absolute().parents) if directory.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"--{flag}={path}: {parent} is not a writable directory. Pass another --{flag}.")


def check_replaceable(out: Path, mark: str, what: str) -> None:
    """Check that --out is new, empty, or an earlier result of the same command.

    An earlier result will be replaced.

    Args:
        out: Value of --out.
        mark: Name of a file that every result of the command has.
        what: Name of the result with an article, such as "an evaluation".

    Raises:
        UserError: The directory has other files, is a file, or cannot be written.
    """
    check_directory("out", out)
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if names and mark not in names:
        raise UserError(
            f"--out={out}: is not empty, and is not the directory of {what} (it has no {mark}). Pass another --out."
        )


def results(run: str | None, settings: Topics) -> Metrics | None:
    """Read the results of a finished run.

    Args:
        run: Run directory. None: it is not chosen yet.
        settings: Settings of the training, as in `opened`.

    Returns:
        The content of metrics.json. None if the run is not finished or does not exist.

    Raises:
        UserError: The directory belongs to a training with other settings, or is not a run directory.
    """
    if run is None:
        return None
    path = Path(run)
    metrics = read_metrics(path)
    _refuse_foreign(path, settings, _REPRODUCTION if metrics is None else _DECISIVE)
    if metrics is not None:
        (path / CHECKPOINT).unlink(missing_ok=True)  # It still exists if a process was killed in `finish`.
    return metrics


@contextlib.contextmanager
def opened(run: str | None, settings: Topics, trainer: str, log: Callable[[str], object] = print) -> Iterator[Path]:
    """Open and lock the directory of a training that is new or unfinished.

    Args:
        run: Run directory. If None, an unfinished run in `runs/` with the same settings is used. If there is none, a
            new directory in `runs/` is made.
        settings: Settings of the training.
        trainer: Name of the trainer. The name of a new directory begins with it.
        log: Receives a line if an unfinished run is continued.

    Yields:
        The run directory.

    Raises:
        UserError: The directory belongs to a training with other settings, is not a run directory, or is in use.
    """
    with contextlib.ExitStack() as stack:
        if run is not None:
            path = Path(run)
            _refuse_foreign(path, settings, _REPRODUCTION)
            path.mkdir(parents=True, exist_ok=True)
            if not _lock(path, stack):
                raise UserError(
                    f"--run={run}: another process is using this directory. Wait until that process ends, or pass"
                    f" another --run.{files.owner(path / LOCK)}"
                )
        else:
            same = (path for path in _unfinished() if not differences(path, settings, _REPRODUCTION))
            free = next((path for path in same if _lock(path, stack)), None)
            if free:
                log(f"run: continues {free}, an unfinished run with the same settings")
            path = free or _fresh(trainer)
            if not free:
                _lock(path, stack)
        if not (path / SETTINGS).exists():
            write_json(path / SETTINGS, settings)
        yield path


def appears(path: Path, seconds: float = 60.0) -> bool:
    """Wait for a run directory that another machine has made. Shared storage may show it late.

    Returns:
        Whether it has appeared within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (path / SETTINGS).exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write history.csv with one line per epoch."""
    # The rows of a run that began with a dataset on this machine, and goes on from a bucket, have different columns.
    tabular.write_csv(path / HISTORY, list(dict.fromkeys(name for row in rows for name in row)), rows)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file. If this is interrupted, no incomplete file is left."""
    with files.atomic(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


def finish(path: Path, metrics: Metrics) -> None:
    """Write metrics.json, which marks a run as finished, and delete the checkpoint."""
    write_json(path / METRICS, metrics)
    (path / CHECKPOINT).unlink(missing_ok=True)


def read_metrics(path: Path) -> Metrics | None:
    """Read metrics.json of a run directory; None if the run is not finished.

    Raises:
        UserError: The file is damaged.
    """
    metrics: Metrics | None = read_json(path / METRICS)
    return metrics


def read_settings(path: Path) -> Settings:
    """Read settings.json of a run directory; {} if the file does not exist.

    Raises:
        UserError: The file is damaged.
    """
    settings: Settings = read_json(path / SETTINGS) or Settings()
    if not isinstance(settings, dict) or not all(isinstance(topic, dict) for topic in settings.values()):
        raise UserError(
            f"{path / SETTINGS}: is damaged. It must be a JSON object that contains only JSON objects. Delete this run,"
            f" or pass its model file {MODEL} instead of the directory."
        )
    return settings


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect the results."""
    packages = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    return packages | {"python": platform.python_version(), "tfrecord_tools": tfrecord_tools.__version__}


def _refuse_foreign(path: Path, settings: Topics, topics: Sequence[str]) -> None:
    if not path.exists() or (path.is_dir() and {entry.name for entry in path.iterdir()} <= files.lock_names(LOCK)):
        return
    if not (path / SETTINGS).is_file():
        raise UserError(
            f"--run={path}: is not a run directory, since it has no {SETTINGS}. Pass a new or empty directory, or a run"
            " directory."
        )
    changes = differences(path, settings, topics)
    if any(change.startswith("dataset.digest ") for change in changes):
        raise UserError(
            f"--run={path}: was started on another dataset, or the dataset has changed since then. Pass another --run."
        )
    if changes:
        raise UserError(
            f"--run={path}: was started with other settings: {'; '.join(changes)}. Repeat the command that started"
            " this run, or pass another --run."
        )


def differences(path: Path, settings: Topics, topics: Sequence[str]) -> list[str]:
    """Compare the settings of a run with those of a training.

    Returns:
        Texts such as `--seed was 0, is 1`. Empty if there are no differences.
    """
    begun = read_json(path / SETTINGS) or {}
    flags = begun.get("flags")
    if isinstance(flags, dict):  # Older versions wrote old names.
        for flag in ("recipe", "augment"):
            if isinstance(flags.get(flag), str):
                flags[flag] = augment_config.current_name(flags[flag])
    now = json.loads(json.dumps(settings))  # Tuples become lists, as in the file.
    before = now.get("other", {}).get(ISSUES_BEFORE)
    if isinstance(flags, dict) and before and flags.get(ISSUES) == before:
        flags[ISSUES] = now["flags"][ISSUES]
    for topic in topics:
        old, new = flat(begun.get(topic, {})), flat(now.get(topic, {}))
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        names.sort(key=lambda name: name in _HASHES)  # A hash may differ because a flag differs: the flag comes first.
        if names:
            return [f"{_shown(topic, name)} was {old.get(name)!r}, is now {new.get(name)!r}" for name in names]
    return []


def _shown(topic: str, name: str) -> str:
    """Return the name of a value of settings.json for messages: that of its flag, if it has one."""
    return _HASHES.get(name, f"--{name}") if topic == "flags" else f"{topic}.{name}"


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Turn nested dicts, and lists of dicts, into a flat dict with dotted names."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: value}
    values: dict[str, Any] = {}
    for key, item in value.items():
        values |= flat(item, f"{name}.{key}" if name else str(key))
    return values


def _unfinished() -> Iterator[Path]:
    for settings in sorted(RUNS.glob(f"*/{SETTINGS}")):
        if not (settings.parent / METRICS).exists():
            yield settings.parent


def _fresh(trainer: str) -> Path:
    """Make a directory such as runs/finetune-20250131-235959."""
    name = f"{trainer}-{time.strftime('%Y%m%d-%H%M%S')}"
    for path in (RUNS / name, *(RUNS / f"{name}-{i}" for i in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise UserError(
        f"{RUNS / name}: exists already, and all names up to {RUNS / name}-999 exist, too. Pass a new directory as"
        " --run."
    )


def _lock(path: Path, stack: contextlib.ExitStack) -> bool:
    """Lock the directory until the stack is closed or the process ends. False if it is locked already."""
    lock = files.hold(path / LOCK)
    if lock is None:
        return False
    stack.enter_context(lock)
    # The file is removed before the lock is released. So a process that waits for the lock notices the removal.
    stack.callback(_remove_lock, path / LOCK)
    return True


def _remove_lock(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # Windows does not remove open files.
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file; None if the file does not exist.

    Raises:
        UserError: The file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"{path}: is damaged ({error}). Delete this run directory, or use another run directory."
        ) from error
