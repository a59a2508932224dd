"""Tests with real photographs. They are skipped unless these environment variables are set.

TFRECORD_TOOLS_PHOTOS: directory of 700 + 700 train and 301 + 301 validation photographs of cats and dogs.
TFRECORD_TOOLS_WEIGHTS: file of ImageNet weights of MobileNet(alpha=0.25) without top.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from real_data import path_from

from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.records import open_dataset
from trainers.models import model_file
from trainers.results import image_files, predictions, sources, views


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("photos") / "out"
    convert(ConvertConfig(src=path_from("TFRECORD_TOOLS_PHOTOS"), out=str(directory), workers=1), log=lambda line: None)
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


@pytest.fixture(scope="module")
def trained(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a model and return the run directory."""
    run = tmp_path_factory.mktemp("trained") / "run"
    command = [
        *(sys.executable, "-m", "trainers.finetune", f"--tfrecords={out}", f"--run={run}"),
        *("--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--image_size=160"),
        f"--weights={path_from('TFRECORD_TOOLS_WEIGHTS')}",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return run


@pytest.mark.photos
@pytest.mark.slow
def test_fine_tuning_reaches_92_percent(trained: Path) -> None:
    assert json.loads((trained / "metrics.json").read_text())["accuracy"] >= 0.92


@pytest.mark.photos
@pytest.mark.slow
def test_most_wrong_labels_are_among_the_first_suspects(out: Path, trained: Path) -> None:
    model, info = model_file.load(trained / "model.keras")
    results = predictions.of_records(views.predictor(model), info, open_dataset(out).records("validation"))
    assert results.labels is not None
    count = len(results)
    for seed in range(3):
        flipped = np.random.default_rng(seed).choice(count, count // 20, replace=False)
        labels = results.labels.copy()
        labels[flipped] = 1 - labels[flipped]
        first = predictions.ranked(dataclasses.replace(results, labels=labels))[: count // 10]
        assert np.isin(flipped, first).mean() >= 0.7


@pytest.mark.photos
@pytest.mark.slow
def test_predictions_of_files_and_records_are_equal(out: Path, trained: Path) -> None:
    model, info = model_file.load(trained / "model.keras")
    records = predictions.of_records(views.predictor(model), info, open_dataset(out).records("validation"))
    source = Path(path_from("TFRECORD_TOOLS_PHOTOS"))
    files = sources.find([str(source / path) for path in records.paths])
    batches = image_files.judge(views.predictor(model), info, files.sources)
    probabilities = np.concatenate([batch.predictions.probabilities for batch in batches])
    np.testing.assert_allclose(probabilities, records.probabilities, atol=1e-5)
