"""Training in several processes of this machine: equal to one process, and resumed after a kill."""

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

# The workers have unequal numbers of the validation images, and of batches of them.
COUNTS = {"train/cats": 26, "train/dogs": 22, "validation/cats": 6, "validation/dogs": 7}


@pytest.fixture
def place(tmp_path) -> Path:
    converted(tree(tmp_path / "src", COUNTS), tmp_path / "out")
    return tmp_path


def configs(workers: int) -> list[dict[str, Any]]:
    """TF_CONFIG of each worker, with ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(workers)]
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    return [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(workers)]


def finished(job: list[subprocess.Popen[str]]) -> Iterator[tuple[int, str, str]]:
    """Waits for the processes of a job: the exit code, stdout and stderr of each."""
    for process in job:
        with process:
            out, err = process.communicate(timeout=600)
        yield process.returncode, out, err


def trained(place: Path, name: str, workers: int, kill: int | None = None, **kwargs: Any) -> list[tuple[int, str, str]]:
    """Trains in so many processes, of which number `kill` is killed in its sixth step."""
    if workers == 1:
        return list(finished([spread_training.start(place / "out", place / name, "none", **kwargs)]))
    return list(
        finished(
            [
                spread_training.start(
                    place / "out",
                    place / name,
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


def check_equal_to_one(place: Path, workers: int) -> None:
    for name, count in (("one", 1), ("job", workers)):
        for code, _, err in trained(place, name, count):
            assert code == 0, err
    for row, other in zip(history(place / "one"), history(place / "job"), strict=True):
        for name in ("loss", "accuracy", "auc", "val_loss", "val_accuracy", "val_auc"):
            assert float(other[name]) == pytest.approx(float(row[name]), rel=1e-4), name  # Sums in another order.
    for expected, weight in zip(weights(place / "one"), weights(place / "job"), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)


@pytest.mark.slow
def test_two_processes_learn_as_one_does(place):
    check_equal_to_one(place, 2)


@pytest.mark.slow
def test_a_device_that_gets_none_of_the_last_batch(place):
    """Of 13 validation images in batches of 12 the second device has none of the last, at which convolutions fail."""
    for name, strategy, devices in (("one", "none", 1), ("two", "mirrored", 2)):
        ((code, _, err),) = finished([spread_training.start(place / "out", place / name, strategy, devices=devices)])
        assert code == 0, err
    for row, other in zip(history(place / "one"), history(place / "two"), strict=True):
        assert float(other["val_loss"]) == pytest.approx(float(row["val_loss"]), rel=1e-4)


@pytest.mark.slow
def test_three_processes_learn_as_one_does(place):
    check_equal_to_one(place, 3)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1], ids=["chief", "other"])
def test_a_job_one_of_whose_workers_was_killed_resumes_exactly(killed, place):
    for code, _, err in trained(place, "whole", 2, batch_norm=True):
        assert code == 0, err
    ended = trained(place, "job", 2, kill=killed, batch_norm=True)
    assert ended[killed][0] == -signal.SIGKILL
    code, _, err = ended[1 - killed]
    assert code != 0
    assert killed == 0 or (
        "error: the job has come apart: " in err
        and "If another worker is gone, its own output says why. Start all of them again with the same commands" in err
    )
    assert 4 <= checkpoint.load(place / "job/checkpoint.npz").position.global_step <= 5
    for code, out, err in trained(place, "job", 2, batch_norm=True):
        assert code == 0, err
        assert "\nresumed: " in out
    for one, other in zip(weights(place / "whole"), weights(place / "job"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_features_are_computed_once_and_the_chief_alone_reports(place):
    save_weights(place / "w.weights.h5")
    flags = (
        "--tfrecords=out", "--run=run", "--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--image_size=32",
        "--weights=w.weights.h5", "--batch_size=8", "--epochs=2", "--strategy=multi_worker",
    )  # fmt: skip
    job = [start("trainers.features", *flags, cwd=place, env={"TF_CONFIG": json.dumps(told)}) for told in configs(2)]
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
    assert json.loads((place / "run/metrics.json").read_text())["count"] == 13


def check_job_that_does_not_fit(job: list[subprocess.Popen[str]], message: str) -> None:
    """One worker says what is wrong, and the chief ends too."""
    (chief_code, _, chief_err), (code, _, err) = finished(job)
    assert (chief_code, code) == (1, 1)
    assert err.splitlines()[-1] == message
    assert "error: the job has come apart: " in chief_err


@pytest.mark.slow
def test_workers_that_do_not_share_a_directory_are_told(place):
    told = configs(2)
    job = [spread_training.start(place / "out", place / f"{i}/run", "multi_worker", worker=told[i]) for i in range(2)]
    check_job_that_does_not_fit(
        job,
        f"error: --run={place / '1/run'}: worker 1 does not see what the chief has made there."
        " It must lie on storage that all workers share.",
    )


@pytest.mark.slow
def test_workers_with_other_flags_are_told(place):
    flags = ("--tfrecords=out", "--run=run", "--image_size=24", "--batch_size=8", "--strategy=multi_worker")
    job = [
        start("trainers.scratch", *flags, f"--label_smoothing={i / 10}", cwd=place, env={"TF_CONFIG": json.dumps(told)})
        for i, told in enumerate(configs(2))
    ]
    check_job_that_does_not_fit(
        job,
        "error: --run=run: begun with other settings: --label_smoothing was 0.0, is 0.1. Repeat the command it was"
        " begun with, or pass another --run.",
    )


def test_fewer_validation_images_than_workers(place, monkeypatch):
    told = configs(14)[3]
    monkeypatch.setenv("TF_CONFIG", json.dumps(told))
    config = recipes.TrainConfig(tfrecords=str(place / "out"), run=str(place / "run"), strategy="multi_worker")
    with pytest.raises(UserError) as error:
        training.train("scratch", dataset.open(place / "out"), recipes.scratch(), config, {})
    assert str(error.value) == (
        "13 validation images are fewer than the 14 workers, of which each needs one. Start fewer, or make the"
        " dataset anew by python -m tfrecord_tools.convert with a larger --validation_fraction."
    )


WORKERS = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"cluster": WORKERS, "task": {"type": "worker", "index": 1}}, (1, 2)),
        ({"cluster": {"chief": ["c:1"], **WORKERS}, "task": {"type": "chief", "index": 0}}, (0, 3)),
        ({"cluster": {**WORKERS, "chief": ["c:1"]}, "task": {"type": "worker", "index": 0}}, (1, 3)),  # Behind it.
        ({"cluster": WORKERS, "task": {"type": "worker", "index": "0"}}, (0, 2)),  # As some launchers write it.
    ],
)
def test_the_place_in_the_job(told, expected, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps(told))
    found = cluster.from_environment()
    assert (found.worker, found.workers) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--strategy=multi_worker: TF_CONFIG is not set in the environment. {"),
        ("cluster", "TF_CONFIG=cluster: {"),  # No JSON.
        ('{"cluster": {"worker": ["a:1"]}}', 'TF_CONFIG={"cluster": {"worker": ["a:1"]}}: {'),  # Which one is this?
        ("[]", "TF_CONFIG=[]: {"),
        ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 2}}', '"index": 2}}: {'),  # Not 3 workers.
        (json.dumps({"cluster": WORKERS, "task": {"type": "worker", "index": 2}}), "task worker 2 is none of its work"),
        (json.dumps({"cluster": WORKERS, "task": {"type": "ps", "index": 0}}), "task ps 0 is none of its workers. "),
        (
            json.dumps({"cluster": {**WORKERS, "ps": ["p:1"]}, "task": {"type": "worker", "index": 0}}),
            "Each process of the job is a worker (or one the chief)",
        ),
    ],
)
def test_what_is_wrong_with_tf_config_is_told(text, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError) as error:
        cluster.from_environment()
    assert message in str(error.value)
    assert '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": ' in str(error.value)


def test_a_job_needs_a_directory_and_a_cluster(place, tmp_path):
    done = run("trainers.scratch", "--tfrecords=out", "--strategy=multi_worker", cwd=place)
    assert done.stderr.splitlines()[-1] == (
        "error: --strategy=multi_worker: pass --run, a directory that all workers see."
    )
    done = run("trainers.scratch", "--tfrecords=out", "--strategy=multi_worker", "--run=run", cwd=place)
    assert done.stderr.splitlines()[-1].startswith("error: --strategy=multi_worker: TF_CONFIG is not set")
    assert not (place / "run").exists()
