"""Tests of training in several processes: equal to one process, and continued exactly after a kill."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import spread_training
from image_sources import converted, history, run, save_weights, start, tree

from tfrecord_tools import dataset
from tfrecord_tools.errors import UserError
from trainers import checkpoint, recipes, training
from trainers.devices import cluster

# The workers have different numbers of validation images, and of validation batches.
COUNTS = {"train/cats": 26, "train/dogs": 22, "validation/cats": 6, "validation/dogs": 7}


@pytest.fixture
def workspace(tmp_path) -> Path:
    converted(tree(tmp_path / "src", COUNTS), tmp_path / "out")
    return tmp_path


def configs(workers: int) -> list[dict[str, Any]]:
    """Return TF_CONFIG of each worker, with ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(workers)]
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    return [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(workers)]


def finished(job: list[subprocess.Popen[str]]) -> Iterator[tuple[int, str, str]]:
    """Wait for the processes of a job. Yield the exit code, stdout and stderr of each."""
    for process in job:
        with process:
            out, err = process.communicate(timeout=600)
        yield process.returncode, out, err


def trained(
    workspace: Path, name: str, workers: int, kill: int | None = None, **kwargs: Any
) -> list[tuple[int, str, str]]:
    """Train in `workers` processes. Process number `kill` is killed in its sixth step."""
    if workers == 1:
        return list(finished([spread_training.start(workspace / "out", workspace / name, "none", **kwargs)]))
    return list(
        finished(
            [
                spread_training.start(
                    workspace / "out",
                    workspace / name,
                    "multi_worker",
                    worker=config,
                    kill_at=6 if index == kill else 0,
                    **kwargs,
                )
                for index, config in enumerate(configs(workers))
            ]
        )
    )


def weights(directory: Path) -> list[np.ndarray]:
    return keras.models.load_model(directory / "model.keras").get_weights()


def check_equal_to_one(workspace: Path, workers: int) -> None:
    for name, count in (("one", 1), ("job", workers)):
        for code, _, err in trained(workspace, name, count):
            assert code == 0, err
    for row, other in zip(history(workspace / "one"), history(workspace / "job"), strict=True):
        for name in ("loss", "accuracy", "auc", "val_loss", "val_accuracy", "val_auc"):
            # Sums are computed in another order.
            assert float(other[name]) == pytest.approx(float(row[name]), rel=1e-4), name
    for expected, weight in zip(weights(workspace / "one"), weights(workspace / "job"), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(workspace):
    check_equal_to_one(workspace, 2)


@pytest.mark.slow
def test_device_without_images_of_the_last_batch(workspace):
    """The second device gets an empty last batch of 13 images in batches of 12. Convolutions fail on it."""
    for name, strategy, devices in (("one", "none", 1), ("two", "mirrored", 2)):
        ((code, _, err),) = finished(
            [spread_training.start(workspace / "out", workspace / name, strategy, devices=devices)]
        )
        assert code == 0, err
    for row, other in zip(history(workspace / "one"), history(workspace / "two"), strict=True):
        assert float(other["val_loss"]) == pytest.approx(float(row["val_loss"]), rel=1e-4)


@pytest.mark.slow
def test_three_processes_give_the_result_of_one(workspace):
    check_equal_to_one(workspace, 3)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1], ids=["chief", "other"])
def test_job_with_a_killed_worker_resumes_exactly(killed, workspace):
    for code, _, err in trained(workspace, "whole", 2, batch_norm=True):
        assert code == 0, err
    ended = trained(workspace, "job", 2, kill=killed, batch_norm=True)
    assert ended[killed][0] == -signal.SIGKILL
    code, _, err = ended[1 - killed]
    assert code != 0
    assert killed == 0 or (
        "error: the connection between the workers is lost: " in err
        and "If another worker has ended, look at the error in the output of that worker." in err
        and "Run the same command on all workers again" in err
    )
    assert 4 <= checkpoint.load(workspace / "job/checkpoint.npz").position.global_step <= 5
    for code, out, err in trained(workspace, "job", 2, batch_norm=True):
        assert code == 0, err
        assert "\nresumed: " in out
    for one, other in zip(weights(workspace / "whole"), weights(workspace / "job"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_features_are_computed_once_and_only_the_chief_reports(workspace):
    save_weights(workspace / "w.weights.h5")
    flags = (
        "--tfrecords=out", "--run=run", "--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--image_size=32",
        "--weights=w.weights.h5", "--batch_size=8", "--epochs=2", "--strategy=multi_worker",
    )  # fmt: skip
    job = [start("trainers.features", *flags, cwd=workspace, env={"TF_CONFIG": json.dumps(job)}) for job in configs(2)]
    (chief_code, chief, chief_err), (other_code, other, other_err) = finished(job)
    assert (chief_code, other_code) == (0, 0), chief_err + other_err
    assert "device: 2 x CPU, worker 1 of 2, precision float32, XLA off\n" in other
    assert "features: 48 computed in " in chief
    assert " computed in " not in other
    assert "Epoch 2/2" in chief
    assert "Epoch 2/2" not in other
    assert "waiting for 1 other worker: 127.0.0.1:" in other
    assert "\naccuracy " in chief
    assert "\naccuracy " not in other
    assert json.loads((workspace / "run/metrics.json").read_text())["count"] == 13


def check_rejecting_job(job: list[subprocess.Popen[str]], message: str) -> None:
    """Check that one worker prints an error and that the chief ends, too."""
    (chief_code, _, chief_err), (code, _, err) = finished(job)
    assert (chief_code, code) == (1, 1)
    assert err.splitlines()[-1] == message
    assert "error: the connection between the workers is lost: " in chief_err


@pytest.mark.slow
def test_workers_without_a_shared_directory_are_reported(workspace):
    workers = configs(2)
    job = [
        spread_training.start(workspace / "out", workspace / f"{i}/run", "multi_worker", worker=worker)
        for i, worker in enumerate(workers)
    ]
    check_rejecting_job(
        job,
        f"error: --run={workspace / '1/run'}: worker 1 cannot see the directory that worker 0 has made."
        " --run must be on storage that all workers share.",
    )


@pytest.mark.slow
def test_workers_with_other_flags_are_reported(workspace):
    flags = ("--tfrecords=out", "--run=run", "--image_size=24", "--batch_size=8", "--strategy=multi_worker")
    job = [
        start(
            "trainers.scratch",
            *flags,
            f"--label_smoothing={i / 10}",
            cwd=workspace,
            env={"TF_CONFIG": json.dumps(tf_config)},
        )
        for i, tf_config in enumerate(configs(2))
    ]
    check_rejecting_job(
        job,
        "error: --run=run: was started with other settings: --label_smoothing was 0.0, is now 0.1. Repeat the"
        " command that started this run, or pass another --run.",
    )


def test_fewer_validation_images_than_workers(workspace, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps(configs(14)[3]))
    config = recipes.TrainConfig(tfrecords=str(workspace / "out"), run=str(workspace / "run"), strategy="multi_worker")
    with pytest.raises(UserError) as error:
        training.train("scratch", dataset.open(workspace / "out"), recipes.scratch(), config)
    assert str(error.value) == (
        "13 validation images are too few for 14 workers: each worker needs at least one. Start fewer workers, or"
        " convert the dataset again with python -m tfrecord_tools.convert and a larger --validation_fraction."
    )


WORKERS = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("tf_config", "expected"),
    [
        ({"cluster": WORKERS, "task": {"type": "worker", "index": 1}}, (1, 2)),
        ({"cluster": {"chief": ["c:1"], **WORKERS}, "task": {"type": "chief", "index": 0}}, (0, 3)),
        (
            {"cluster": {**WORKERS, "chief": ["c:1"]}, "task": {"type": "worker", "index": 0}},
            (1, 3),
        ),  # After the chief.
        ({"cluster": WORKERS, "task": {"type": "worker", "index": "0"}}, (0, 2)),  # As some launchers write it.
    ],
)
def test_number_of_this_worker_and_of_all_workers(tf_config, expected, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config))
    job = cluster.from_environment()
    assert (job.worker, job.workers) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--strategy=multi_worker: TF_CONFIG is not set in the environment. Set it to a value such as {"),
        ("cluster", "TF_CONFIG=cluster: must be JSON such as {"),  # Not JSON.
        (
            '{"cluster": {"worker": ["a:1"]}}',  # The number of this worker is missing.
            'TF_CONFIG={"cluster": {"worker": ["a:1"]}}: must be JSON such as {',
        ),
        ("[]", "TF_CONFIG=[]: must be JSON such as {"),
        # A string is not a list of three workers.
        (
            '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 2}}',
            '"index": 2}}: must be JSON such as {',
        ),
        (
            json.dumps({"cluster": WORKERS, "task": {"type": "worker", "index": 2}}),
            "the cluster or the task (worker 2) is wrong. ",
        ),
        (
            json.dumps({"cluster": WORKERS, "task": {"type": "ps", "index": 0}}),
            "the cluster or the task (ps 0) is wrong. ",
        ),
        (
            json.dumps({"cluster": {**WORKERS, "ps": ["p:1"]}, "task": {"type": "worker", "index": 0}}),
            "The cluster must list workers and at most one chief, and nothing else. ",
        ),
    ],
)
def test_wrong_tf_config_is_reported(text, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError) as error:
        cluster.from_environment()
    assert message in str(error.value)
    assert '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": ' in str(error.value)


def test_job_needs_a_run_directory_and_tf_config(workspace, tmp_path):
    done = run("trainers.scratch", "--tfrecords=out", "--strategy=multi_worker", cwd=workspace)
    assert done.stderr.splitlines()[-1] == (
        "error: --strategy=multi_worker: --run is missing. Pass a directory that all workers can access."
    )
    done = run("trainers.scratch", "--tfrecords=out", "--strategy=multi_worker", "--run=run", cwd=workspace)
    assert done.stderr.splitlines()[-1].startswith("error: --strategy=multi_worker: TF_CONFIG is not set")
    assert not (workspace / "run").exists()
