"""Tests of the command `python -m trainers.compare`: several variants and seeds in one table."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from image_sources import converted, run, start, with_splits
from PIL import Image

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from trainers.results import comparison
from trainers.results.comparison import Row, Variant
from trainers.run_directory import Metrics

MOBILENET = "MobileNet --backbone_kwargs=alpha=0.25 --weights=none"


@pytest.mark.parametrize(
    ("given", "backbones", "expected"),
    [
        (["scratch"], [], [("scratch", "scratch", ())]),
        (["features"], [], [("features", "features", ())]),  # The recipe's backbone.
        (
            ["scratch --epochs=3", "features", "frozen --mixup=1"],
            ["VGG16", MOBILENET],
            [
                ("scratch", "scratch", ("--epochs=3",)),  # This trainer has its own backbone.
                ("features VGG16", "features", ("--backbone=VGG16",)),
                (
                    "features MobileNet",
                    "features",
                    ("--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--weights=none"),
                ),
                ("frozen VGG16", "frozen", ("--mixup=1", "--backbone=VGG16")),
                (
                    "frozen MobileNet",
                    "frozen",
                    ("--mixup=1", "--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--weights=none"),
                ),
            ],
        ),
        (["frozen --backbone=VGG19"], ["VGG16"], [("frozen", "frozen", ("--backbone=VGG19",))]),  # It names a backbone.
        (
            ["with flips = scratch --optimizer_kwargs=a=1"],  # A name of several words, and = in a flag.
            [],
            [("with flips", "scratch", ("--optimizer_kwargs=a=1",))],
        ),
        (["features --features=features"], [], [("features", "features", ("--features=features",))]),
        (["frozen --backbone VGG19"], ["VGG16"], [("frozen", "frozen", ("--backbone", "VGG19"))]),
        (
            ["features"],
            ["small=MobileNet --backbone_kwargs=alpha=0.25", "large one=MobileNet"],  # The same network twice.
            [
                ("features small", "features", ("--backbone=MobileNet", "--backbone_kwargs=alpha=0.25")),
                ("features large one", "features", ("--backbone=MobileNet",)),
            ],
        ),
        (["증강=scratch", "기본=scratch"], [], [("증강", "scratch", ()), ("기본", "scratch", ())]),
        (["scratch '--run_name=a b'"], [], [("scratch", "scratch", ("--run_name=a b",))]),  # Split as by a shell.
    ],
)
def test_variants_are_parsed(given, backbones, expected):
    variants = [(variant.name, variant.trainer, variant.flags) for variant in comparison.variants(given, backbones)]
    assert variants == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["scratsch"],
            "--variant=scratsch: must be [NAME=]TRAINER [FLAGS]. TRAINER is one of scratch, features, frozen, ",
        ),
        ([""], "--variant=: must be [NAME=]TRAINER [FLAGS]."),
        (["a=b=scratch"], "--variant=a=b=scratch: must be [NAME=]TRAINER [FLAGS]."),
        (["scratch --epochs='3"], "--epochs='3: these flags cannot be parsed: No closing quotation."),
        (["scratch", "scratch --epochs=3"], "--variant: two variants are named 'scratch'. Names must be unique. Pass "),
        (["a b=scratch", "a/b=scratch"], "--variant: two variants are named 'a b'."),
        (
            ["scratch --seed=3"],
            "--variant=scratch --seed=3: --seed is set by this command for all variants. Remove it.",
        ),
        (["scratch --run=x"], "--variant=scratch --run=x: --run is set by this command for all variants. Remove it."),
        (["scratch --csv=x"], "--variant=scratch --csv=x: --csv is set by this command for all variants. Remove it."),
    ],
)
def test_wrong_variant_is_reported(given, message):
    with pytest.raises(UserError) as error:
        comparison.variants(given, [])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("MobileNetV22", "--backbone=MobileNetV22: is not a known backbone. Did you mean MobileNetV2 or "),
        ("", "--backbone=: must be [NAME=]BACKBONE [FLAGS], for example 'MobileNetV2 --weights=none'."),
        ("--weights=none", "--backbone=--weights=none: must be [NAME=]BACKBONE [FLAGS]"),
    ],
)
def test_wrong_backbone_is_reported(given, message):
    with pytest.raises(UserError) as error:
        comparison.variants(["frozen"], [given])
    assert str(error.value).startswith(message)


def test_run_directories_have_portable_names():
    assert Variant(name="scratch + a/b", trainer="scratch", flags=()).run(3) == "scratch_+_a_b-seed3"


def test_table_starts_with_the_best_variant():
    size: Metrics = {"parameters": 1000, "model_bytes": 2_000_000}
    rates: list[Metrics] = [
        {"seconds": 10.0, "images_per_second": 50.0, "latency_ms": 1.5},
        {"seconds": 12.0, "images_per_second": 40.0, "latency_ms": 2.5},
    ]
    runs: list[Metrics] = [
        {**size, **rates[0], "accuracy": 0.9, "auc": 0.95, "loss": 0.3},
        {**size, **rates[1], "accuracy": 0.8, "auc": 0.85, "loss": 0.5},
    ]
    five_classes: Metrics = {**runs[0], "accuracy": 0.95}
    del five_classes["auc"]
    rows = [Row(name="a", runs=tuple(runs), failed=1), Row(name="b", runs=(five_classes,)), Row(name="c", runs=())]
    lines = [re.split(r"\s{2,}", line.strip()) for line in comparison.table(rows).splitlines()]
    assert lines[1:] == [
        ["b", "95.00%", "95.00%..95.00% of 1", "-", "0.3000", "1,000", "10", "50", "2.0", "1.5"],
        ["a", "85.00%", "80.00%..90.00% of 2, 1 failed", "0.9000", "0.4000", "1,000", "11", "45", "2.0", "2.0"],
        ["c", "-", "-", "-", "-", "-", "-", "-", "-", "-"],
    ]
    assert rows[0].as_dict()["accuracy_stdev"] == pytest.approx(0.0707, abs=1e-4)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    workspace = tmp_path_factory.mktemp("compare")
    converted(with_splits(workspace / "src", train=8, validation=4), workspace / "out")
    return workspace


def test_results_are_written_and_finished_trainings_are_skipped(workspace):
    flags = (
        "--tfrecords=out",
        "--seeds=0,01,0,1",
        "--variant=plain=scratch --image_size=24 --epochs=1 --augment=none",
        "--variant=broken=scratch --image_size=4",
    )
    done = run("trainers.compare", *flags, cwd=workspace)
    assert done.returncode == 1
    assert "2 of 4 trainings failed, see comparison/broken-seed0.log, comparison/broken-seed1.log. " in done.stderr
    assert done.stdout.count("failed with exit code 1: error: ") == 2
    assert "--image_size=4: Keras rejects it" in (workspace / "comparison/broken-seed0.log").read_text()
    with open(workspace / "comparison/comparison.csv") as file:
        plain, broken = csv.DictReader(file)
    assert (plain["variant"], plain["seeds"], plain["failed"], broken["seeds"], broken["failed"]) == (
        ("plain", "2", "0", "0", "2")
    )
    assert 0 <= float(plain["accuracy_min"]) <= float(plain["accuracy"]) <= float(plain["accuracy_max"]) <= 1
    assert all(float(plain[name]) > 0 for name in ("parameters", "seconds", "model_bytes", "latency_ms"))
    with Image.open(workspace / "comparison/comparison.png") as chart:
        assert chart.width > 1000
    page = (workspace / "comparison/comparison.html").read_text()
    assert 'href="plain-seed0/report.html"' in page
    assert "2 trainings failed" in page
    assert done.stdout.count("  problem: 2 trainings failed. ") == 1
    assert (
        "results: comparison/ with comparison.html, comparison.csv, comparison.png, comparison.json and the runs"
        in done.stdout
    )

    absolute = (f"--tfrecords={workspace / 'out'}/", f"--out={workspace / 'comparison'}")  # The same directories.
    again = run("trainers.compare", *absolute, *flags[1:3], cwd=workspace)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is finished already") == 2
    other = run("trainers.compare", *flags[:2], "--variant=plain=scratch --image_size=32", cwd=workspace)
    assert other.stderr.splitlines()[-1] == (
        "error: comparison/plain-seed0: is finished, but was trained with other flags: trainers.scratch --seed=0"
        " --image_size=24 --epochs=1 --augment=none. Give the variant another NAME, or pass another --out."
    )
    trainer = "--variant=plain=finetune --image_size=24 --epochs=1 --augment=none"
    other = run("trainers.compare", *flags[:2], trainer, cwd=workspace)
    assert (
        "plain-seed0: is finished, but was trained with other flags: trainers.scratch --seed=0 "
        in other.stderr.splitlines()[-1]
    )

    # Without a record of its end, the trainer compares the settings of the run itself.
    record = workspace / "comparison/plain-seed1.json"
    record.unlink()
    assert run("trainers.compare", *flags[:3], cwd=workspace).returncode == 0
    written = json.loads(record.read_text())
    assert written["arguments"][:2] == ["trainers.scratch", "--seed=1"]
    assert written["seconds"] > 0
    record.write_text(json.dumps(written["arguments"]))  # As earlier versions wrote it.
    assert run("trainers.compare", *flags[:3], cwd=workspace).stdout.count("is finished already") == 2

    settings = workspace / "comparison/plain-seed1/settings.json"
    changed = json.loads(settings.read_text())
    changed["environment"]["keras"] = "3.0.0"
    settings.write_text(json.dumps(changed))
    done = run("trainers.compare", *flags[:3], cwd=workspace)
    assert "comparison/plain-seed1: not trained like comparison/plain-seed0: environment.keras was '3." in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--tfrecords is missing: the dataset to train on."),
        (("--tfrecords=nowhere",), "nowhere: does not exist."),
        (("--tfrecords=out", "--seeds=a"), "--seeds=a: must be whole numbers, as in 0,1,2."),
        (("--tfrecords=out", "--seeds=-1"), "--seeds=-1: must be from 0 to 4294967295."),
        (("--tfrecords=out", "--seeds="), "--seeds=: must be whole numbers, as in 0,1,2."),
        (
            ("--tfrecords=out", "--out=src/train/cats/000.jpg"),
            "--out=src/train/cats/000.jpg: is a file, not a directory.",
        ),
        (("--tfrecords=out", "--variant=x"), "--variant=x: must be [NAME=]TRAINER [FLAGS]."),
        (("--tfrecords=out", "x"), "unexpected argument 'x'"),
    ],
)
def test_errors_are_reported(workspace, flags, message):
    done = run("trainers.compare", *flags, cwd=workspace)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")


@pytest.mark.slow
def test_second_comparison_waits_and_the_training_ends_with_its_comparison(workspace):
    flags = ("--tfrecords=out", "--out=busy", "--variant=scratch --image_size=24 --epochs=100000")
    log = workspace / "busy/scratch-seed0.log"
    with start("trainers.compare", *flags, cwd=workspace) as process:
        try:
            wait_for(lambda: log.exists() and "Epoch 2/" in log.read_text())
            other = run("trainers.compare", *flags, cwd=workspace)
        finally:
            process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert other.stderr == "error: --out=busy: another comparison is using it. Wait until it ends.\n"
    lock = files.hold(workspace / "busy/scratch-seed0/lock")
    assert lock  # No process uses the run.
    with lock:
        pass


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_runs_on_an_older_dataset_are_rejected(workspace, tmp_path):
    shutil.copytree(workspace / "src", tmp_path / "src")
    converted(tmp_path / "src", tmp_path / "out")
    flags = ("--tfrecords=out", "--variant=scratch --image_size=24 --epochs=1")
    assert run("trainers.compare", *flags, cwd=tmp_path).returncode == 0
    (tmp_path / "src/train/cats/000.jpg").unlink()
    converted(tmp_path / "src", tmp_path / "out", overwrite=True)
    done = run("trainers.compare", *flags, cwd=tmp_path)
    assert done.stderr.splitlines()[-1].startswith(
        "error: comparison/scratch-seed0: is finished, but was trained on another dataset (digest "
    )


def test_dry_run_prints_commands(workspace):
    done = run("trainers.compare", "--tfrecords=out", "--variant=features", "--dry_run", "--out=dry", cwd=workspace)
    assert re.fullmatch(
        r"\S+ -m trainers.features --tfrecords=out --run=dry/features-seed0 --seed=0 --features=dry/features\n",
        done.stdout,
    )
    assert not (workspace / "dry").exists()
