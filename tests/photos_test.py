"""Checks on real photographs, named by environment variables; without them each is skipped with the reason.

TFRECORD_TOOLS_PHOTOS: a directory of 700 + 700 train and 301 + 301 validation photographs of cats and dogs.
TFRECORD_TOOLS_WEIGHTS: ImageNet weights of MobileNet(alpha=0.25) without top.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from tfrecord_tools.convert import ConvertConfig, convert


def named(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names {'photographs' if 'PHOTOS' in variable else 'weights'}")
    return value


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("photos") / "out"
    convert(ConvertConfig(src=named("TFRECORD_TOOLS_PHOTOS"), out=str(directory), workers=1), log=lambda line: None)
    return directory


@pytest.mark.photos
def test_every_photograph_becomes_a_record(out: Path) -> None:
    facts = json.loads((out / "convert.json").read_text())
    assert {split: table["records"] for split, table in facts["splits"].items()} == {"train": 1400, "validation": 602}
    assert facts["rejected"] == 0


@pytest.mark.photos
def test_a_tenth_through_tensorflow_datasets(out: Path) -> None:
    tenth = tfds.builder_from_directory(out).as_dataset(split="train[:10%]")
    examples = list(tenth.as_numpy_iterator())
    assert len(examples) == 140
    for example in examples:
        assert example["image"].ndim == 3
        assert example["label"] == ["cats", "dogs"].index(example["image/filename"].decode().split("/")[1])


@pytest.mark.photos
@pytest.mark.slow
def test_fine_tuning_reaches_92_percent(out: Path, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "trainers.finetune", f"--tfrecords={out}", f"--run={tmp_path / 'run'}"),
        *("--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--image_size=160"),
        f"--weights={named('TFRECORD_TOOLS_WEIGHTS')}",
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["accuracy"] >= 0.92
