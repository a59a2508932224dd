"""Tests with MLflow in a local store, and with Weights & Biases in offline mode."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import tracker_files
from image_sources import converted, with_splits
from tracker_files import SCRATCH

import trainers
from tfrecord_tools.errors import UserError
from trainers.run import Run
from trainers.tracking import logbook

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("trackers")
    converted(with_splits(workspace / "src", train=8, validation=4), workspace / "out")
    return workspace


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory, without settings of the user."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home/netrc"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    offline(monkeypatch, "offline")


def offline(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", mode)
    wandb.teardown()  # It reads the environment only once per process.


def train(workspace: Path, run: str, log: Any, **given: Any) -> Run:
    return trainers.scratch(tfrecords=workspace / "out", run=run, log=log, **SCRATCH | given)


def mlflow_run(name: str) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("src").experiment_id], f"attributes.run_name = '{name}'")
    return run


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_killed_trainings_go_on_in_the_same_run(workspace: Path, tmp_path: Path, kill_at: int) -> None:
    process = tracker_files.killed(workspace / "out", tmp_path / "run", "mlflow,wandb", kill_at)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert mlflow_run("run").info.status == "RUNNING"
    run = train(workspace, "run", "mlflow,wandb")
    expected = tracker_files.in_history(run.path)
    assert tracker_files.in_mlflow() == {"run": expected}
    assert tracker_files.wandb_points(run.path) == expected
    assert mlflow_run("run").info.status == "FINISHED"
    # Once more: the run is finished, and nothing is logged twice.
    train(workspace, "run", "mlflow,wandb")
    assert tracker_files.in_mlflow() == {"run": expected}
    assert tracker_files.wandb_points(run.path) == expected


def test_mlflow_has_parameters_metrics_and_the_report(workspace: Path) -> None:
    from mlflow import MlflowClient

    lines: list[str] = []
    run = train(workspace, "pets", ["mlflow", lines.append], log_group="attempts", class_weights={"cats": 1, "dogs": 2})
    stored = mlflow_run("pets")
    assert f"mlflow: mlflow ui --backend-store-uri=sqlite:///{Path.cwd()}/mlflow.db" in lines
    assert stored.data.tags["tfrecord_tools.group"] == "attempts"
    assert stored.data.params["flags.seed"] == "0"
    assert stored.data.params["flags.class_weights.dogs"] == "2.0"
    assert stored.data.params["dataset.digest"] == run.settings["dataset"]["digest"]
    assert stored.data.metrics["final/accuracy"] == run.metrics["accuracy"]
    assert stored.data.metrics["final/recall.cats"] == run.metrics["recall"]["cats"]
    files = {file.path for file in MlflowClient().list_artifacts(stored.info.run_id)}
    assert files == {"report.html", "history.csv", "metrics.json", "settings.json", "plots"}
    plots = {Path(file.path).name for file in MlflowClient().list_artifacts(stored.info.run_id, "plots")}
    assert plots == {path.name for path in run.path.glob("plots/*.png")} != set()


def test_mlflow_logs_into_the_experiment_and_the_files_of_its_variables(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "store"))
    run = train(workspace, "run", "mlflow")
    assert tracker_files.in_mlflow() == {"run": tracker_files.in_history(run.path)}
    client = MlflowClient()
    assert len(client.search_runs([client.get_experiment_by_name("mine").experiment_id])) == 1


def test_another_place_gets_the_whole_run(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(workspace, "run", "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert tracker_files.in_mlflow() == {}
    train(workspace, "run", "mlflow")
    assert tracker_files.in_mlflow() == {"run": tracker_files.in_history(run.path)}


def test_names_and_values_that_mlflow_does_not_allow(workspace: Path) -> None:
    from trainers.tracking.mlflow_run import MlflowRun
    from trainers.tracking.tracker import Subject

    settings: Any = {"dataset": {"name": "a/b", "classes": ["class"] * 3000}, "flags": {"café = 50%": 1}}
    settings["flags"]["class_weights"] = {"y" * 254: 1.0, "y" * 255: 2.0, "a//b": 3.0, "../x": 4.0}
    tracker = MlflowRun(Subject(path=Path("run"), id="1a", settings=settings))
    tracker.log([{"phase": "head", "loss": float("nan"), "r:é%": 1}] * 1500)
    from mlflow import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("a/b").experiment_id])
    assert run.data.params["flags.café _3d_ 50_25_"] == "1"
    assert len(run.data.params["dataset.classes"]) == 500
    weights = {name: value for name, value in run.data.params.items() if "class_weights" in name}
    assert sorted(weights.values()) == ["1.0", "2.0", "3.0", "4.0"]
    assert weights["flags.class_weights.a/_/b"] == "3.0"
    assert {len(name) for name in weights if "yyy" in name} == {250}
    assert len(client.get_metric_history(run.info.run_id, "r_3a_é_25_")) == 1500


def test_a_server_of_mlflow_that_is_gone(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(UserError) as error:
        train(workspace, "run", "mlflow")
    assert str(error.value).startswith("--log=mlflow: the tracker cannot be used: API request to http://127.0.0.1:1/")
    assert str(error.value).endswith(". Correct the cause, or remove mlflow from --log.")
    assert not Path("run").exists()


def test_wandb_has_settings_metrics_and_the_report(workspace: Path) -> None:
    lines: list[str] = []
    run = train(workspace, "pets", ["wandb", lines.append], log_group="attempts")
    records = {record.WhichOneof("record_type"): record for record in tracker_files.in_wandb(run.path)}
    (directory,) = run.path.glob("wandb/offline-run-*")
    assert f"wandb: wandb sync {directory.relative_to(Path.cwd())}" in lines
    stored = records["run"].run
    assert (stored.display_name, stored.project, stored.run_group) == ("pets", "src", "attempts")
    assert stored.run_id == json.loads((run.path / "trackers.json").read_text())["id"]
    config = {item.key: json.loads(item.value_json) for item in stored.config.update}
    assert config["flags"] == run.settings["flags"]
    summary = {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for record in tracker_files.in_wandb(run.path)
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert summary["final/accuracy"] == run.metrics["accuracy"]
    stored_files = b"".join(record.SerializeToString() for record in tracker_files.in_wandb(run.path))
    for name in ("report.html", "metrics.json", *(f"plots/{path.name}" for path in run.path.glob("plots/*.png"))):
        assert name.encode() in stored_files, name
    assert records["exit"].exit.exit_code == 0


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (
            "online",
            "--log=wandb: you are not logged in to Weights & Biases. Run wandb login. Or set WANDB_MODE=offline, which"
            " writes files that wandb sync can send later.",
        ),
        (
            "disabled",
            "--log=wandb: the mode of Weights & Biases is disabled, so nothing would be logged. Set WANDB_MODE to"
            " online or offline, or remove wandb from --log.",
        ),
    ],
)
def test_wandb_that_cannot_be_used(workspace: Path, monkeypatch: pytest.MonkeyPatch, mode: str, message: str) -> None:
    offline(monkeypatch, mode)
    with pytest.raises(UserError) as error:
        train(workspace, "run", "wandb")
    assert str(error.value) == message
    assert not Path("run").exists()


def test_compare_logs_each_training_in_one_group(workspace: Path) -> None:
    flags = "--backbone_kwargs=filters=(4,8) --image_size=24 --batch_size=8 --epochs=1"
    given: dict[str, Any] = {
        "tfrecords": workspace / "out",
        "out": "nets",
        "seeds": [0, 1],
        "variant": f"a=scratch {flags}",
    }
    trainers.compare(**given)
    assert not Path("mlflow.db").exists()
    for _ in range(2):  # The finished runs are logged later, and once.
        trainers.compare(**given, log="mlflow,wandb")
        logged = tracker_files.in_mlflow()
        assert sorted(logged) == ["a-seed0", "a-seed1"]
        for name, points in logged.items():
            assert points == tracker_files.in_history(Path("nets") / name)
            assert tracker_files.wandb_points(Path("nets") / name) == points
            assert mlflow_run(name).data.tags["tfrecord_tools.group"] == "nets"
            assert logbook.is_complete(Path("nets") / name, ["mlflow", "wandb"])
