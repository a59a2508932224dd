"""Tests of experiment trackers: rows without gaps or duplicates, failures, errors at the start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_backbone
import tracker_files
from image_sources import REPOSITORY, converted, with_splits
from tracker_files import SCRATCH

import trainers
from tfrecord_tools.errors import UserError
from trainers import recipes, training
from trainers.comparing.jobs import Job
from trainers.devices.cluster import Cluster
from trainers.devices.device import Device
from trainers.results.comparison import Variant
from trainers.run import Run
from trainers.tracking import logbook
from trainers.tracking.tracker import Row, Subject, Tracker, final_metrics


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("tracking")
    converted(with_splits(workspace / "src", train=8, validation=4), workspace / "out")
    tiny_backbone.save_weights(workspace / "w.weights.h5")
    return workspace


def train(workspace: Path, run: Path, log: Any, **given: Any) -> Run:
    return trainers.scratch(tfrecords=workspace / "out", run=run, log=log, **SCRATCH | given)


class Recorder(Tracker):
    """A tracker that keeps everything in lists, and that fails when it shall."""

    package = "json"
    points: list[int]
    opened: list[Subject]
    ended: list[str]
    fails_at = 0

    def __init__(self, subject: Subject) -> None:
        self.opened.append(subject)

    @staticmethod
    def check() -> None:
        pass

    @staticmethod
    def place() -> str:
        return "here"

    @property
    def shown(self) -> str:
        return "a list"

    def log(self, rows: Sequence[Row]) -> None:
        for step in range(1, len(rows) + 1):
            if step == self.fails_at:
                raise RuntimeError("the network is gone\nand more")
            if step not in self.points:
                self.points.append(step)

    def finish(self, final: Mapping[str, float], files: Sequence[Path]) -> None:
        self.ended.append("finished")

    def close(self) -> None:
        self.ended.append("closed")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    """Replace MLflow by a recorder."""
    monkeypatch.setattr(Recorder, "points", [], raising=False)
    monkeypatch.setattr(Recorder, "opened", [], raising=False)
    monkeypatch.setattr(Recorder, "ended", [], raising=False)
    monkeypatch.setitem(logbook.TRACKERS, "mlflow", Recorder)
    return Recorder


def test_complete_means_complete_at_the_present_place(
    recorder: type[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: Any = {"dataset": {"name": "pets"}, "flags": {}}
    assert not logbook.is_complete(tmp_path, ["mlflow"])
    with logbook.opened(["mlflow"], tmp_path, settings, None, print) as book:
        book.finish({"accuracy": 0.5}, [])
    assert logbook.is_complete(tmp_path, ["mlflow"])
    assert not logbook.is_complete(tmp_path, ["mlflow", "tensorboard"])
    monkeypatch.setattr(recorder, "place", staticmethod(lambda: "there"))
    assert not logbook.is_complete(tmp_path, ["mlflow"])


@pytest.mark.parametrize("content", ["{", "[1]", '{"id": 3, "complete": {}}', '{"complete": []}'])
def test_damaged_file_of_trackers(tmp_path: Path, content: str) -> None:
    (tmp_path / "trackers.json").write_text(content)
    settings: Any = {}
    with pytest.raises(UserError) as error, logbook.opened(["tensorboard"], tmp_path, settings, None, print):
        pass
    assert str(error.value) == (
        f"{tmp_path}/trackers.json: is damaged. Delete this file. The run is then logged again from its first epoch."
    )


@pytest.mark.parametrize(
    ("flags", "logged"),
    [((), False), (("--log=tensorboard",), True), (("--tensorboard", "--log="), True), (("--log=",), True)],
)
def test_variant_with_its_own_trackers_is_logged(tmp_path: Path, flags: tuple[str, ...], logged: bool) -> None:
    """The trackers of the comparison would never get this training, so it would be started each time."""
    variant = Variant(name="a", trainer="scratch", flags=flags)
    job = Job(tfrecords="out", out=tmp_path, variant=variant, seed=0, trackers=["mlflow"])
    job.run.mkdir()
    (job.run / "tensorboard").mkdir()
    (job.run / "tensorboard/events.out.tfevents.1").touch()
    (job.run / logbook.FILE).write_text('{"id": "1a", "complete": {"tensorboard": "tensorboard"}}')
    assert job.is_logged() == logged


def check_events(run: Path) -> None:
    expected = tracker_files.in_history(run)
    events = [point for point in tracker_files.in_events(run) if point[0] in tracker_files.NAMES]
    assert [point[:2] for point in events] == [point[:2] for point in expected]
    assert [point[2] for point in events] == pytest.approx([point[2] for point in expected], rel=1e-6)


def test_tensorboard_has_the_history_of_both_phases(workspace: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    lines: list[str] = []
    given = tiny_backbone.MODEL | {"weights": workspace / "w.weights.h5", "batch_size": 8, "epochs": [1, 2]}
    run = trainers.finetune(
        tfrecords=workspace / "out", run=tmp_path / "run", tensorboard=True, log=lines.append, **given
    )
    assert f"tensorboard: tensorboard --logdir={tmp_path}/run/tensorboard" in lines
    directories = sorted(str(path.parent.relative_to(run.path)) for path in run.path.glob("tensorboard/**/events*"))
    assert directories == [
        "tensorboard",
        *(f"tensorboard/{phase}/{split}" for phase in ("finetune", "head") for split in ("train", "validation")),
    ]
    check_events(run.path)
    of_run = EventAccumulator(str(run.path / "tensorboard")).Reload()
    (final,) = of_run.Tensors("final/accuracy")
    assert (final.step, final.tensor_proto.float_val[0]) == (3, pytest.approx(run.metrics["accuracy"]))
    session = metadata.parse_session_start_info_plugin_data(
        of_run.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    )
    assert session.hparams["seed"].number_value == 0
    assert session.hparams["batch_size"].number_value == 8


@pytest.mark.parametrize("kill_at", [1, 2])
def test_a_killed_training_goes_on_without_gaps_and_duplicates(workspace: Path, tmp_path: Path, kill_at: int) -> None:
    process = tracker_files.killed(workspace / "out", tmp_path / "run", "tensorboard", kill_at)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len({step for _, step, _ in tracker_files.in_events(tmp_path / "run")}) == kill_at
    train(workspace, tmp_path / "run", "tensorboard")
    check_events(tmp_path / "run")


def test_a_finished_run_is_logged_later_and_once(workspace: Path, tmp_path: Path) -> None:
    train(workspace, tmp_path / "run", lambda line: None)
    assert not (tmp_path / "run/trackers.json").exists()
    lines: list[str] = []
    train(workspace, tmp_path / "run", ["tensorboard", lines.append])
    assert any("is finished already" in line for line in lines)
    check_events(tmp_path / "run")
    stored = json.loads((tmp_path / "run/trackers.json").read_text())
    assert stored == {"id": stored["id"], "complete": {"tensorboard": "tensorboard"}}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/tensorboard/**/events*")}
    train(workspace, tmp_path / "run", ["tensorboard"])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/tensorboard/**/events*")} == before
    assert logbook.is_complete(tmp_path / "run", ["tensorboard"])
    shutil.rmtree(tmp_path / "run/tensorboard")
    assert not logbook.is_complete(tmp_path / "run", ["tensorboard"])
    train(workspace, tmp_path / "run", ["tensorboard"])
    check_events(tmp_path / "run")


def test_a_tracker_that_fails_does_not_end_the_training(
    workspace: Path, tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "fails_at", 2)
        run = train(workspace, tmp_path / "run", ["mlflow", "tensorboard", lines.append])
    assert run.history["epoch"] == [1, 2, 3]
    check_events(run.path)
    assert [line for line in lines if line.startswith("warning: ")] == [
        "warning: --log=mlflow: the network is gone. From now on, nothing is logged to mlflow. history.csv has all"
        " rows. To log the missing rows, run the same command again after the training"
    ]
    assert (recorder.points, recorder.ended) == ([1], [])
    train(workspace, tmp_path / "run", ["mlflow", "tensorboard"])
    assert (recorder.points, recorder.ended) == ([1, 2, 3], ["finished"])
    assert len({subject.id for subject in recorder.opened}) == 1
    assert recorder.opened[0].name == "run"
    assert (recorder.opened[0].group, recorder.opened[0].project) == (None, "src")


def test_an_interrupted_training_closes_its_runs(
    workspace: Path, tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "log", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(workspace, tmp_path / "run", "mlflow", log_group="attempts")
    assert recorder.ended == ["closed"]
    train(workspace, tmp_path / "run", "mlflow", log_group="attempts")
    assert (recorder.points, recorder.ended) == ([1, 2, 3], ["closed", "finished"])
    first, second = recorder.opened
    assert (first.id, first.group) == (second.id, "attempts")


def interrupt(self: Recorder, rows: Sequence[Row]) -> None:
    if rows:
        raise KeyboardInterrupt


def test_a_tracker_that_cannot_be_opened_is_an_error(
    workspace: Path, tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(Recorder, "check", staticmethod(refuse))
    with pytest.raises(UserError) as error:
        train(workspace, tmp_path / "run", ["tensorboard", "mlflow"])
    assert str(error.value) == (
        "--log=mlflow: the tracker cannot be used: refused. Correct the cause, or remove mlflow from --log."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tracker", list(logbook.TRACKERS))
def test_a_missing_package_is_reported_first(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    package = logbook.TRACKERS[tracker].package
    monkeypatch.setitem(sys.modules, package, None)  # As if it were not installed.
    with pytest.raises(UserError) as error:
        train(workspace, tmp_path / "run", tracker)
    assert str(error.value) == (
        f"--log={tracker}: the package {package} is not installed. Run pip install 'tfrecord-tools[{tracker}]', or"
        f" remove {tracker} from --log."
    )
    assert not (tmp_path / "run").exists()


def test_a_directory_of_a_tracker_is_not_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_such_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(logbook.TRACKERS["wandb"], "package", "no_such_package")
    with pytest.raises(UserError, match=r"^--log=wandb: the package no_such_package is not installed\. "):
        logbook.check(["wandb"])


def test_only_the_chief_logs(workspace: Path, tmp_path: Path, recorder: type[Recorder]) -> None:
    for worker in (1, 0):
        device = Device(name="CPU", precision="float32", jit_compile=False, cluster=Cluster(worker=worker, workers=2))
        config = recipes.TrainConfig(tfrecords="out", log=["mlflow"])
        with training._logged(tmp_path, config, device, print):
            assert len(recorder.opened) == (1 if worker == 0 else 0)


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(UserError) as error:
        recipes.TrainConfig(tfrecords="out", log_group="pets")
    assert str(error.value) == (
        "--log_group=pets: only experiment trackers use it. Add --log, for example --log=mlflow, or remove --log_group."
    )
    with pytest.raises(UserError) as error:
        recipes.TrainConfig(tfrecords="out", log=["mlflow", "neptune"])
    assert str(error.value) == "--log=mlflow,neptune: neptune must be one of tensorboard, mlflow, wandb."
    assert recipes.TrainConfig(tfrecords="out", log=["tensorboard"], tensorboard=True).trackers == ["tensorboard"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "wandb,tensorbord",
            "--log=wandb,tensorbord: must be one of tensorboard, mlflow, wandb. Did you mean tensorboard?",
        ),
        (3, "--log=3: must be names, separated by commas, or a function that takes a text."),
    ],
)
def test_wrong_outputs(given: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        trainers.scratch(tfrecords="out", log=given)
    assert str(error.value) == message


def test_nothing_is_imported_without_the_flag(workspace: Path, tmp_path: Path) -> None:
    code = (
        "import sys, trainers; from tracker_files import SCRATCH\n"
        f"trainers.scratch(tfrecords={str(workspace / 'out')!r}, run='run', **SCRATCH)\n"
        "print({'mlflow', 'wandb', 'tensorboard'} & set(sys.modules))"
    )
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests/helpers'}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


def test_final_metrics_are_numbers() -> None:
    metrics = {
        "loss": 0.5,
        "accuracy_interval": [0.1, 0.9],
        "recall": {"cats": 1, "a/b": None, "c/d": 0.5},
        "split": "x",
    }
    assert final_metrics(metrics | {"corrupt": ["x"], "auc": float("nan")}) == {
        "final/loss": 0.5,
        "final/accuracy_interval.0": 0.1,
        "final/accuracy_interval.1": 0.9,
        "final/recall.cats": 1.0,
        "final/recall.c_d": 0.5,
    }
