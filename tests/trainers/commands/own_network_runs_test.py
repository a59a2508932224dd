"""Trainings of networks of the user, end to end: interrupted, continued, used, evaluated and exported."""

from __future__ import annotations

import csv
import dataclasses
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import own_nets
import pytest
from image_sources import REPOSITORY, converted, history, run, start, with_splits

import trainers
from tfrecord_tools.errors import UserError
from trainers import checkpoint, recipes, run_directory, training_options
from trainers.fitting.throughput import Throughput
from trainers.run import Run

NETS = f"{REPOSITORY}/tests/helpers/own_nets.py"
COMMON: dict[str, Any] = {"image_size": 16, "batch_size": 4, "checkpoint_every": 1}
TRANSFORMER = COMMON | {"backbone": own_nets.vit, "unfreeze": "block1|norm", "epochs": [1, 1]}
FILE = COMMON | {"backbone": "branches.keras", "scaling": "unit", "epochs": [1, 1]}
MODEL = COMMON | {"model": own_nets.compiled, "epochs": 2, "label_smoothing": 0.1}
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with images, their dataset, and a network of branches in a file."""
    workspace = tmp_path_factory.mktemp("own")
    converted(with_splits(workspace / "src", train=8, validation=4), workspace / "out")
    keras.utils.set_random_seed(0)
    own_nets.branches((16, 16, 3)).save(workspace / "branches.keras")
    return workspace


@pytest.fixture(autouse=True)
def _in_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(workspace)
    yield
    keras.config.set_dtype_policy("float32")


def train(trainer: str, name: str, options: dict[str, Any]) -> tuple[Run, list[str]]:
    lines: list[str] = []
    return getattr(trainers, trainer)(tfrecords="out", run=name, log=lines.append, **options), lines


@pytest.fixture(scope="module")
def transformer(workspace: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        return train("finetune", str(workspace / "transformer"), TRANSFORMER)[0]


class StoppedError(Exception):
    """Stands for a kill: nothing is saved after it."""


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the next training after a number of steps of this process."""
    left, original = [step], Throughput.on_train_batch_end

    def stop(self: Throughput, batch: int, logs: Any = None) -> None:
        original(self, batch, logs)
        left[0] -= bool(logs)  # Skipped steps have no logs.
        if not left[0]:
            raise StoppedError

    monkeypatch.setattr(Throughput, "on_train_batch_end", stop)


def check_interrupted(trainer: str, name: str, options: dict[str, Any], whole: Run, steps: list[int]) -> None:
    for step in steps:
        with pytest.MonkeyPatch.context() as patch:
            stop_at(step, patch)
            with pytest.raises(StoppedError):
                train(trainer, name, options)
    resumed, lines = train(trainer, name, options)
    assert any(line.startswith("resumed: ") for line in lines)
    for one, other in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert history(resumed.path) == history(whole.path)


def test_an_interrupted_transformer_ends_with_the_same_weights(transformer: Run) -> None:
    """The trained block uses Keras's global random numbers."""
    check_interrupted("finetune", "stopped", TRANSFORMER, transformer, [6])


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "options"), [("finetune", FILE), ("scratch", MODEL)], ids=["file", "model"])
def test_an_interrupted_training_ends_with_the_same_weights(trainer: str, options: dict[str, Any]) -> None:
    name = "file" if options is FILE else "model"
    whole, lines = train(trainer, name, options)
    check_interrupted(trainer, f"{name}-stopped", options, whole, [2, 4])
    if options is MODEL:
        assert "phase model: trains the model with its own loss and optimizer (AdamW), 2 epochs" in lines
    else:
        page = " ".join((whole.path / "report.html").read_text().split())
        assert "red marks the evidence" in page or "No mistakes in" in page
    for kind in ("saved_model", "litert", "onnx"):
        assert whole.export(kind).check.passed


@pytest.mark.slow
@pytest.mark.parametrize("network", ["vit", "branches"])
def test_killed_twice_a_command_ends_with_the_same_weights(network: str, workspace: Path, tmp_path: Path) -> None:
    """The transformer uses Keras's global random numbers, and a strategy draws them in other threads."""
    unfreeze, strategy = ("block", "mirrored") if network == "vit" else ("last_stage", "none")
    flags = (
        f"--tfrecords={workspace / 'out'}", f"--backbone={NETS}:{network}", f"--unfreeze={unfreeze}", "--epochs=5,20",
        "--image_size=16", "--batch_size=4", "--checkpoint_every=1", f"--strategy={strategy}",
    )  # fmt: skip
    assert run("trainers.finetune", *flags, "--run=whole", cwd=tmp_path).returncode == 0
    for step in (3, 30):  # In the first phase, then in the second.
        with start("trainers.finetune", *flags, "--run=killed", cwd=tmp_path) as process:
            path = tmp_path / "killed/checkpoint.npz"
            while process.poll() is None and checkpoint.load(path).position.global_step < step:
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    done = run("trainers.finetune", *flags, "--run=killed", cwd=tmp_path)
    assert "\nresumed: " in done.stdout
    for one, other in zip(
        *(trainers.load(tmp_path / name).model.get_weights() for name in ("whole", "killed")), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")


def test_a_finished_transformer_is_used(transformer: Run, workspace: Path, tmp_path: Path) -> None:
    assert transformer.settings["flags"]["backbone"] == "own_nets:vit"
    assert list(transformer.settings["weights"]) == ["sha256 of own_nets:vit"]
    page = " ".join((transformer.path / "report.html").read_text().split())
    no_maps = "There are no heat maps of the evidence (Grad-CAM), because the network does not end with feature maps"
    assert (no_maps in page) == ("No mistakes in" not in page)
    evaluation = transformer.evaluate("out", split="validation", out=tmp_path / "evaluated", log=lambda line: None)
    assert evaluation.metrics["accuracy"] == transformer.metrics["accuracy"]
    assert transformer.export("litert", out=tmp_path / "litert").check.passed
    found = trainers.audit(
        tfrecords="out", features_from=str(transformer.path), out=tmp_path / "audit", pictures=0, log=lambda line: None
    )
    assert found.probabilities.shape == (24, 2)


def test_another_program_needs_the_code_of_the_layers(transformer: Run, workspace: Path, tmp_path: Path) -> None:
    flags = (f"--run={transformer.path}", "--csv=answers.csv", str(workspace / "src/validation"))
    without = run("trainers.predict", *flags, cwd=tmp_path)
    assert without.returncode == 1
    assert without.stderr.splitlines()[-1] == (
        f"error: {transformer.path}/model.keras: has custom layers or functions (own_nets>Block, own_nets>Positions)."
        " A model file has the names of Python modules. For safety, these modules are not imported automatically. Pass"
        " --custom_objects=own_nets, the code that registers these layers or functions. In Python, import this code"
        " first."
    )
    done = run("trainers.predict", *flags, f"--custom_objects={NETS}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "answers.csv") as file:
        probabilities = [float(row["p_dogs"]) for row in csv.DictReader(file)]
    expected = transformer.predict(workspace / "src/validation").probabilities[:, 1]
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_a_changed_network_does_not_continue_a_run(workspace: Path) -> None:
    code = workspace / "changing.py"
    code.write_text(Path(NETS).read_text())
    options = COMMON | {"backbone": f"{code}:branches", "weights": "none", "epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)
        with pytest.raises(StoppedError):
            train("finetune", "changed", options)
    code.write_text(code.read_text() + "\n")
    with pytest.raises(UserError) as error:
        train("finetune", "changed", options)
    message = f"--run=changed: was started with other settings: weights.sha256 of {code}:branches was '"
    assert str(error.value).startswith(message)


def test_features_of_a_file_are_computed_once_per_content(workspace: Path) -> None:
    options = COMMON | {"backbone": "branches.keras", "scaling": "unit", "epochs": 1, "features": "kept"}
    del options["checkpoint_every"]
    _, lines = train("features", "first", options)
    assert any("computed in" in line for line in lines)
    _, lines = train("features", "second", options | {"head": "linear"})
    assert not any("computed in" in line for line in lines)
    keras.utils.set_random_seed(1)
    own_nets.branches((16, 16, 3)).save(workspace / "other.keras")
    _, lines = train("features", "third", options | {"backbone": "other.keras"})
    assert any("computed in" in line for line in lines)


@pytest.mark.parametrize(
    ("trainer", "options", "message"),
    [
        (
            "finetune",
            TRANSFORMER | {"unfreeze": None},
            "--unfreeze=last_stage: vit has no last stage, because all its layers have the same resolution. ",
        ),
        (
            "scratch",
            MODEL | {"learning_rate": 0.5},
            "--learning_rate with --model=own_nets:compiled: the function returns a compiled model, which has its own",
        ),
        (
            "scratch",
            MODEL | {"backbone": "CNN"},
            "--model=own_nets:compiled with --backbone=CNN: --model is the whole n",
        ),
        (
            "scratch",
            MODEL | {"recipe": "reference"},
            "--model=own_nets:compiled with --recipe=reference: this recipe ha",
        ),
        (
            "scratch",
            COMMON | {"model": "MobileNet"},
            "--model=MobileNet: must be MODULE:FUNCTION or FILE.py:FUNCTION. T",
        ),
        ("finetune", COMMON | {"backbone": lambda shape: None}, "backbone=<function <lambda> at "),
    ],
)
def test_options_that_do_not_fit_leave_no_run(
    trainer: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        train(trainer, str(tmp_path / "refused"), options)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "refused").exists()


def test_compare_takes_networks_of_the_user() -> None:
    done = run(
        "trainers.compare", "--tfrecords=out", "--variant=features", f"--backbone={NETS}:vit --image_size=16",
        "--backbone=small=branches.keras", "--dry_run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"--backbone={NETS}:vit --image_size=16" in done.stdout
    assert "--backbone=branches.keras" in done.stdout
    assert "features_small-seed0" in done.stdout


def test_runs_of_earlier_versions_continue(tmp_path: Path) -> None:
    """The settings have no values of own networks."""
    recipe = recipes.finetune()
    effect = training_options.in_effect(recipe)
    now = {"flags": effect, "recipe": dataclasses.asdict(recipe), "weights": {}}
    before = json.loads(json.dumps(now))
    for name in ("model", "custom_objects"):
        del before["recipe"]["model"][name]
    assert effect["weights"] == before["recipe"]["model"]["weights"] == "imagenet"
    assert list(effect)[:4] == ["backbone", "backbone_kwargs", "weights", "image_size"]
    (tmp_path / "settings.json").write_text(json.dumps(before))
    assert run_directory.differences(tmp_path, now, list(now)) == []
