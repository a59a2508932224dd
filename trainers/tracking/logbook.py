"""Log a training to several experiment trackers. The training goes on if a tracker fails.

The trackers receive the rows of history.csv. After each restart, each tracker receives the rows that it does not have.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.errors import UserError, one_line
from trainers import run_directory
from trainers.run_directory import Settings
from trainers.tracking.mlflow_run import MlflowRun
from trainers.tracking.tensorboard_run import TensorBoardRun
from trainers.tracking.tracker import Row, Subject, Tracker, final_metrics
from trainers.tracking.wandb_run import WandbRun

TRACKERS: Mapping[str, type[Tracker]] = {"tensorboard": TensorBoardRun, "mlflow": MlflowRun, "wandb": WandbRun}
FILE = "trackers.json"


class Logbook:
    """The trackers of a training. A tracker that fails is left out from then on."""

    def __init__(self, run: Path, log: Callable[[str], object]) -> None:
        """Make a logbook without trackers.

        Args:
            run: The run directory.
            log: Receives a line if a tracker fails.
        """
        self._run = run
        self._trackers: dict[str, Tracker] = {}
        self._log = log

    def add(self, name: str, tracker: Tracker) -> None:
        """Add a tracker."""
        self._trackers[name] = tracker

    def log(self, rows: Sequence[Row]) -> None:
        """Log all rows of history.csv that the trackers do not have yet."""
        self._all(lambda tracker: tracker.log(rows))

    def finish(self, metrics: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Log the final metrics and the files of a finished training, and close the runs.

        Args:
            metrics: The content of metrics.json.
            files: Files in the run directory.
        """
        final = final_metrics(metrics)
        self._all(lambda tracker: tracker.finish(final, files))
        if self._trackers:
            _store(self._run, complete={name: tracker.place() for name, tracker in self._trackers.items()})
        self._trackers.clear()

    def close(self) -> None:
        """Close the runs of a training that did not finish."""
        self._all(lambda tracker: tracker.close())
        self._trackers.clear()

    def _all(self, action: Callable[[Tracker], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                action(tracker)
            except Exception as error:  # noqa: BLE001 The packages raise errors of many types.
                del self._trackers[name]
                self._log(
                    f"warning: --log={name}: {one_line(error)}. From now on, nothing is logged to {name}."
                    f" {run_directory.HISTORY} has all rows. To log the missing rows, run the same command again after"
                    " the training"
                )


def check_names(names: Sequence[str]) -> None:
    """Raise UserError if a tracker does not exist."""
    if unknown := [name for name in names if name not in TRACKERS]:
        raise UserError(f"--log={','.join(names)}: {unknown[0]} must be one of {', '.join(TRACKERS)}.")


def check(names: Sequence[str]) -> None:
    """Check that trackers can be used, before anything slow is done.

    Args:
        names: Names of trackers.

    Raises:
        UserError: A package is not installed, or a tracker cannot be reached.
    """
    for name in names:
        tracker = TRACKERS[name]
        if not _is_installed(tracker.package):
            raise UserError(
                f"--log={name}: the package {tracker.package} is not installed. Run pip install"
                f" 'tfrecord-tools[{name}]', or remove {name} from --log."
            )
        with _explained(name):
            tracker.check()


def _is_installed(package: str) -> bool:
    """Return whether a package can be imported.

    Trackers write directories such as `wandb` into the working directory. Python would import such a directory as a
    package without code, which has no origin.
    """
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


@contextlib.contextmanager
def opened(
    names: Sequence[str], run: Path, settings: Settings, group: str | None, log: Callable[[str], object]
) -> Iterator[Logbook]:
    """Open the runs of a training in its trackers.

    A tracker that has the whole training already is left out.

    Args:
        names: Names of trackers.
        run: The run directory.
        settings: The content of settings.json.
        group: Name of a group of runs. None: the run belongs to no group.
        log: Receives a line per tracker, which says where to find the run.

    Raises:
        UserError: A tracker cannot be used.
    """
    stored = _stored(run)
    subject = Subject(path=run, id=stored.get("id") or secrets.token_hex(8), settings=settings, group=group)
    book = Logbook(run, log)
    try:
        for name in names:
            with _explained(name):
                if _has_all(run, name, stored["complete"]):
                    continue
                _store(run, id=subject.id)  # It is stored first, so that no run is lost if the process is killed here.
                tracker = TRACKERS[name](subject)
                book.add(name, tracker)
                log(f"{name}: {tracker.shown}")
        yield book
    finally:
        book.close()


def is_complete(run: Path, names: Sequence[str]) -> bool:
    """Return whether trackers have a finished training completely, at the places to which they log now."""
    complete = _stored(run)["complete"]
    if not set(names) <= set(complete):
        return False
    for name in names:
        with _explained(name):
            if not _has_all(run, name, complete):
                return False
    return True


def _has_all(run: Path, name: str, complete: Mapping[str, str]) -> bool:
    """Return whether a tracker has a finished training completely, at the place to which it logs now."""
    tracker = TRACKERS[name]
    return complete.get(name) == tracker.place() and tracker.is_there(run)


def _stored(run: Path) -> dict[str, Any]:
    """Read trackers.json of a run directory. It may have no id.

    Raises:
        UserError: The file is damaged.
    """
    try:
        stored: Any = json.loads((run / FILE).read_text())
    except FileNotFoundError:
        return {"complete": {}}
    except ValueError:
        stored = None
    match stored:
        case {"complete": dict()} if isinstance(stored.get("id", ""), str):
            return stored
    raise UserError(f"{run / FILE}: is damaged. Delete this file. The run is then logged again from its first epoch.")


def _store(run: Path, *, id: str | None = None, complete: Mapping[str, str] = {}) -> None:
    """Change trackers.json of a run directory."""
    stored = _stored(run)
    changed = stored | ({"id": id} if id else {}) | {"complete": stored["complete"] | complete}
    if changed != stored:
        run_directory.write_json(run / FILE, changed)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Raise UserError if a tracker cannot be used."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # The packages raise errors of many types.
        raise UserError(
            f"--log={name}: the tracker cannot be used: {one_line(error)}. Correct the cause, or remove {name} from"
            " --log."
        ) from error
