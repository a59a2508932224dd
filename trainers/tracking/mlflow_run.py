"""Log a training to MLflow: to a tracking server, or to a local database.

MLflow's own environment variables choose the place, such as MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.errors import UserError
from trainers.tracking.tracker import Row, Subject, Tracker, numbers

_ID, _GROUP = "tfrecord_tools.run", "tfrecord_tools.group"  # Tags of a run.
_LONGEST = 500  # Characters of a parameter that all servers accept.
_LONGEST_NAME = 250
_MOST_PARAMETERS, _MOST_METRICS = 100, 1000  # In one request.
# By default, MLflow tries for minutes to reach a server. A training would wait.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


class MlflowRun(Tracker):
    """A run in MLflow. It is found by a tag, and MLflow is asked which values it has already."""

    package = "mlflow"

    def __init__(self, subject: Subject) -> None:
        self._directory = subject.path
        with _impatient():
            self._client = _client()
            experiment = _experiment(self._client, subject.project)
            found = self._client.search_runs([experiment], f"tags.`{_ID}` = '{subject.id}'", max_results=1)
            if found:
                self._id = found[0].info.run_id
                self._client.update_run(self._id, status="RUNNING")
            else:
                self._id = self._create(experiment, subject)
            run = self._client.get_run(self._id).data
            self._sent = {
                (name, metric.step)
                for name in run.metrics
                for metric in self._client.get_metric_history(self._id, name)
            }
            self._experiment, self._last = experiment, 0
            self._set_parameters(subject.parameters, run.params)

    def _create(self, experiment: str, subject: Subject) -> str:
        tags = {_ID: subject.id} | ({_GROUP: subject.group} if subject.group else {})
        run = self._client.create_run(experiment, run_name=subject.name, tags=tags)
        return str(run.info.run_id)

    @staticmethod
    def check() -> None:
        with _impatient():
            _client().search_experiments(max_results=1)

    @staticmethod
    def place() -> str:
        import mlflow

        return str(mlflow.get_tracking_uri())

    @property
    def shown(self) -> str:
        place = self.place()
        if place.startswith("http"):
            return f"{place}/#/experiments/{self._experiment}/runs/{self._id}"
        return f"mlflow ui --backend-store-uri={place}"

    def log(self, rows: Sequence[Row]) -> None:
        self._send([(name, value, step) for step, row in enumerate(rows, 1) for name, value in numbers(row).items()])
        self._last = len(rows)

    def finish(self, final: Mapping[str, float], files: Sequence[Path]) -> None:
        self._send([(name, value, self._last) for name, value in final.items()])
        with _impatient():
            for path in files:
                directory = path.parent.relative_to(self._directory).as_posix()
                self._client.log_artifact(self._id, str(path), None if directory == "." else directory)
            self._client.set_terminated(self._id, "FINISHED")

    def close(self) -> None:
        with _impatient():
            self._client.set_terminated(self._id, "KILLED")

    def _send(self, values: Sequence[tuple[str, float, int]]) -> None:
        """Send values (name, value, step), except for those that the run has already."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        named = ((_name(name), value, step) for name, value, step in values)
        new = [Metric(*one[:2], now, one[2]) for one in named if (one[0], one[2]) not in self._sent]
        with _impatient():
            for start in range(0, len(new), _MOST_METRICS):
                part = new[start : start + _MOST_METRICS]
                self._client.log_batch(self._id, metrics=part)
                self._sent |= {(metric.key, metric.step) for metric in part}

    def _set_parameters(self, parameters: Mapping[str, Any], present: Mapping[str, str]) -> None:
        """Set the parameters that the run does not have. MLflow does not change a parameter."""
        from mlflow.entities import Param

        named = {_name(name): str(value)[:_LONGEST] for name, value in parameters.items()}
        new = [Param(name, value) for name, value in named.items() if name not in present]
        for start in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._id, params=new[start : start + _MOST_PARAMETERS])


def _client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=MlflowRun.place())


def _experiment(client: Any, project: str) -> str:
    """Return the id of the experiment: the one that MLflow's variables name, or else that of the dataset."""
    if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return number
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or project
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return str(client.create_experiment(name))
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"--log=mlflow: the experiment {name} was deleted. Restore it with mlflow experiments restore"
            f" --experiment-id={experiment.experiment_id}, or set MLFLOW_EXPERIMENT_NAME to another name."
        )
    return str(experiment.experiment_id)


def _name(name: str) -> str:
    """Return a name that MLflow allows. Names of classes may have other characters, or be too long."""
    plain = re.sub(r"[^\w.\- /]", lambda found: f"_{ord(found[0]):x}_", name)
    # MLflow refuses names that are not normal as paths, such as a//b.
    plain = "/".join(part if part.strip(".") else f"{part}_" for part in plain.split("/"))
    if len(plain) <= _LONGEST_NAME:
        return plain
    return f"{plain[: _LONGEST_NAME - 9]}_{zlib.crc32(name.encode()):08x}"  # Long names may begin alike.


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Let MLflow give up soon, unless the user has set how long it tries."""
    own = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)
