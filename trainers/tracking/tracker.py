"""Define what every experiment tracker can do, and what it receives from a training."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from trainers import run_directory
from trainers.run_directory import Settings

Row = Mapping[str, Any]  # A row of history.csv: column -> value. Only the column "phase" is a text.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """The training that is logged.

    Attributes:
        path: The run directory.
        id: Identifies the run in the trackers. It stays the same after a restart. It has letters and digits only.
        settings: The content of settings.json.
        group: Name of a group of runs. None: the run belongs to no group.
    """

    path: Path
    id: str
    settings: Settings
    group: str | None = None

    @property
    def name(self) -> str:
        """Name of the run directory, which is the name of the run in the trackers."""
        return self.path.absolute().name

    @property
    def project(self) -> str:
        """Name of the dataset. Trackers keep all runs on one dataset together."""
        return self.settings["dataset"]["name"]

    @property
    def parameters(self) -> dict[str, Any]:
        """Dotted name -> value of each value in settings.json, such as `flags.seed`."""
        return run_directory.flat(self.settings)


class Tracker(abc.ABC):
    """A run in an experiment tracker.

    The constructor opens the run of a training. If this run exists already, it is continued. The package of the tracker
    is imported only then. All methods raise the exceptions of that package.

    Attributes:
        package: Name of the Python package. It must be installed.
    """

    package: ClassVar[str]

    @abc.abstractmethod
    def __init__(self, subject: Subject) -> None: ...

    @staticmethod
    @abc.abstractmethod
    def check() -> None:
        """Check, without waiting for long, that the tracker can be used.

        Raises:
            UserError: The user must do something first, such as log in.
            Exception: The tracker cannot be reached.
        """

    @staticmethod
    @abc.abstractmethod
    def place() -> str:
        """Return the place to which runs are logged, such as the address of a server."""

    @staticmethod
    def is_there(run: Path) -> bool:
        """Return whether a run that was logged still exists. A tracker on a server is not asked.

        Args:
            run: The run directory.
        """
        return True

    @property
    @abc.abstractmethod
    def shown(self) -> str:
        """Where the user finds the run: an address, a directory or a command."""

    @abc.abstractmethod
    def log(self, rows: Sequence[Row]) -> None:
        """Log the rows of history.csv that the run does not have yet.

        Args:
            rows: All rows so far. Row i (from 0) gets the step i + 1, because the epochs of each phase begin at 1.
        """

    @abc.abstractmethod
    def finish(self, final: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the final metrics and the files, and mark the run as finished.

        Args:
            final: Name -> value, as `final_metrics` returns them.
            files: Files in the run directory. Trackers without files ignore them.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close a run of a training that was interrupted or that failed."""


def numbers(row: Row) -> dict[str, float]:
    """Return the values of a row that are numbers."""
    return {name: float(value) for name, value in row.items() if isinstance(value, (int, float))}


def final_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in metrics.json, by names such as `final/accuracy` and `final/recall.cats`.

    The prefix separates the final metrics from those of the epochs. Lists of numbers get a number for each value, as in
    `final/accuracy_interval.0`.
    """
    values: dict[str, Any] = {}
    for name, value in run_directory.flat(metrics).items():
        name = f"final/{name.replace('/', '_')}"
        values |= {f"{name}.{i}": one for i, one in enumerate(value)} if isinstance(value, list) else {name: value}
    return {name: value for name, value in numbers(values).items() if math.isfinite(value)}
