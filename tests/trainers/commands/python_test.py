"""Trainings from Python are those of the command line, and a `Run` does what the commands do."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_backbone
from image_sources import converted, run, tree
from PIL import Image

import trainers
from tfrecord_tools.errors import UserError
from trainers import training_options

TYPES = {
    "scratch": training_options.ScratchOptions,
    "features": training_options.FeaturesOptions,
    "frozen": training_options.ImageOptions,
    "finetune": training_options.FinetuneOptions,
}
SHORT = {"batch_size": 8, "epochs": 1, "seed": 3}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a dataset of two classes, and weights."""
    workspace = tmp_path_factory.mktemp("python")
    tiny_backbone.save_weights(workspace / "w.weights.h5")
    converted(tree(workspace / "src", {"cats": 12, "dogs": 12}), workspace / "out")
    return workspace


def options(trainer: str, workspace: Path) -> dict[str, Any]:
    if trainer == "scratch":
        return {"image_size": 24, **SHORT}
    epochs = [1, 1] if trainer == "finetune" else 1
    return tiny_backbone.MODEL | {"weights": workspace / "w.weights.h5"} | SHORT | {"epochs": epochs}


def as_flags(given: dict[str, Any]) -> list[str]:
    def text(value: Any) -> str:
        if isinstance(value, dict):
            return ",".join(f"{name}={one!r}" for name, one in value.items())
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    return [f"--{name}={text(value)}" for name, value in given.items()]


@pytest.mark.parametrize("trainer", list(TYPES))
def test_python_and_the_command_give_the_same_weights(
    trainer: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = options(trainer, workspace)
    here = getattr(trainers, trainer)(tfrecords=workspace / "out", run="here", **given)
    done = run(f"trainers.{trainer}", f"--tfrecords={workspace / 'out'}", "--run=there", *as_flags(given), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    there = trainers.load("there")
    for left, right in zip(here.model.get_weights(), there.model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert here.settings["flags"] == there.settings["flags"]
    assert here.history["loss"] == there.history["loss"]


def test_options_have_types_for_editors() -> None:
    for trainer, types in TYPES.items():
        declared = typing.get_type_hints(types)
        table = {option.name: option for option in training_options.OPTIONS[trainer]}
        assert declared.keys() == table.keys()
        listed = inspect.signature(getattr(trainers, trainer)).parameters
        assert listed.keys() - {"log"} == table.keys()
        for name, option in table.items():
            assert f"{name} (" in (getattr(trainers, trainer).__call__.__doc__ or ""), name
            expected = {"switch": bool, "integer": int, "number": float, "text": str}.get(option.kind)
            assert expected is None or declared[name] is expected, name
