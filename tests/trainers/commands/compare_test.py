"""Tests of the command `python -m trainers.compare`: several variants and seeds in one table."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_backbone
from image_sources import converted, history, run, start, with_splits
from judged_runs import photos, read_csv
from PIL import Image

import trainers
from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from trainers.auditing import folding
from trainers.compare import Comparison
from trainers.comparing import dry_run, jobs
from trainers.comparing.conduct import CompareConfig
from trainers.comparing.jobs import Plan
from trainers.comparing.search import Budget
from trainers.fitting import folds
from trainers.models import model_file
from trainers.results import comparison, out_of_fold, scores
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
        (
            [
                "frozen --augment='none,zoom_range=(0.8, 1.1)' --fit=pad --image_size=32x64",
                "own=frozen --augment=a.py:f",
            ],
            [],
            [
                ("frozen", "frozen", ("--augment=none,zoom_range=(0.8, 1.1)", "--fit=pad", "--image_size=32x64")),
                ("own", "frozen", ("--augment=a.py:f",)),
            ],
        ),
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
            "--variant=scratch --seed=3: --seed is set by this command for all variants. Remove this flag.",
        ),
        (
            ["scratch --run=x"],
            "--variant=scratch --run=x: --run is set by this command for all variants. Remove this flag.",
        ),
        (
            ["scratch --csv=x"],
            "--variant=scratch --csv=x: --csv is set by this command for all variants. Remove this flag.",
        ),
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
    assert "2 of 4 trainings failed. See comparison/broken-seed0.log, comparison/broken-seed1.log. " in done.stderr
    assert done.stdout.count("failed with exit code 1: error: ") == 2
    assert "--image_size=4: Keras rejects this size" in (workspace / "comparison/broken-seed0.log").read_text()
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
        "error: comparison/plain-seed0: is finished, but this run was trained with other flags. They were:"
        " trainers.scratch --seed=0 --image_size=24 --epochs=1 --augment=none. Pass another NAME in"
        " --variant=NAME=TRAINER, or pass another --out."
    )
    trainer = "--variant=plain=finetune --image_size=24 --epochs=1 --augment=none"
    other = run("trainers.compare", *flags[:2], trainer, cwd=workspace)
    assert (
        "plain-seed0: is finished, but this run was trained with other flags. They were: trainers.scratch --seed=0 "
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
    assert (
        "comparison/plain-seed1: was trained with other settings than comparison/plain-seed0: environment.keras was"
        " '3." in done.stderr
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--tfrecords is missing. Pass the directory of the dataset, as written by "),
        (("--tfrecords=nowhere",), "nowhere: does not exist."),
        (("--tfrecords=out", "--seeds=a"), "--seeds=a: must be whole numbers, as in 0,1,2."),
        (("--tfrecords=out", "--seeds=-1"), "--seeds=-1: must be from 0 to 4294967295."),
        (("--tfrecords=out", "--seeds="), "--seeds=: has no value. Pass whole numbers, such as --seeds=0,1,2."),
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


def test_python_takes_the_same_values_as_the_flags(monkeypatch):
    seen: list[CompareConfig] = []
    monkeypatch.setattr("trainers.compare._compare", seen.append)
    trainers.compare(tfrecords="out", variant="features --epochs=1,2", backbone="MobileNetV2", seeds=3)
    trainers.compare(tfrecords="out", variant=["frozen"], seeds="0,1,0")
    trainers.compare(tfrecords="out")
    assert [[variant.name for variant in config.variants] for config in seen] == [
        ["features MobileNetV2"], ["frozen"], ["scratch", "features", "frozen", "finetune"],
    ]  # fmt: skip
    assert seen[0].variants[0].flags == ("--epochs=1,2", "--backbone=MobileNetV2")
    assert [config.seeds for config in seen] == [(3,), (0, 1), (0,)]
    for values, message in (
        ({"seeds": 0.5}, "--seeds=0.5: must be whole numbers, as in 0,1,2."),
        ({"seeds": []}, "--seeds=: has no value. Pass whole numbers, such as --seeds=0,1,2."),
        ({"variant": []}, "--variant=: has no value. Pass a trainer, such as --variant=features, or leave it out."),
        ({"backbone": 3}, "--backbone=3: must be a text or several texts, as in MobileNetV2."),
    ):
        with pytest.raises(UserError) as error:
            trainers.compare(tfrecords="out", **values)
        assert str(error.value) == message


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
    assert (
        other.stderr
        == "error: --out=busy: another comparison is using this directory. Wait until that comparison ends.\n"
    )
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
        "error: comparison/scratch-seed0: is finished, but this run was trained on another dataset. The checksum of"
        " that dataset starts with "
    )


def test_dry_run_prints_commands(workspace):
    done = run("trainers.compare", "--tfrecords=out", "--variant=features", "--dry_run", "--out=dry", cwd=workspace)
    assert re.fullmatch(
        r"\S+ -m trainers.features --tfrecords=out --run=dry/features-seed0 --seed=0 --features=dry/features\n",
        done.stdout,
    )
    assert not (workspace / "dry").exists()


def config(workspace: Path, given: list[str], **more: Any) -> CompareConfig:
    out = workspace / "dry"
    return CompareConfig(tfrecords=str(workspace / "out"), out=out, variants=comparison.variants(given, []), **more)


def test_dry_run_of_folds_says_that_their_file_is_missing(workspace):
    planned = config(workspace, ["features"], plan=Plan(count=2))
    comment, *commands = dry_run.lines(planned)
    file = workspace / "dry/folds2.csv"
    assert (
        comment
        == f"# {file} does not exist yet. Without --dry_run, this command writes the file before the first training."
    )
    assert [shlex.split(line)[-3:-1] for line in commands] == [
        [f"--records={file}", f"--fold={fold}"] for fold in (1, 2)
    ]
    assert not (workspace / "dry").exists()


@pytest.mark.parametrize(
    ("budget", "plan", "head", "tail", "count"),
    [
        (
            Budget(trials=4),
            None,
            "# round 1 of 2: 4 settings, 33% of the epochs",
            ["# round 2 of 2: the best settings of round 1, all epochs"],
            4,
        ),
        (Budget(trials=2), None, "# round 1 of 1: 2 settings, all epochs", [], 2),
        (
            Budget(minutes=5),
            Plan(count=3),
            "# round 1 of 3: 15 settings, 33% of the epochs on 1 fold. The round stops when its time is used up",
            [
                "# round 2 of 3: the best settings of round 1, all epochs on 1 fold",
                "# round 3 of 3: the best settings of round 2, all epochs on 3 folds",
            ],
            15,
        ),
    ],
    ids=["trials", "few", "minutes"],
)
def test_dry_run_of_a_search_prints_its_first_round(budget, plan, head, tail, count, workspace):
    planned = config(workspace, ["finetune --epochs=3,9"], budget=budget, plan=plan)
    lines = [line for line in dry_run.lines(planned) if "does not exist yet" not in line]
    assert lines[0] == head
    assert lines[1 + count :] == tail
    commands = [shlex.split(line) for line in lines[1 : 1 + count]]
    assert {command[2] for command in commands} == {"trainers.finetune"}
    assert len({command[4] for command in commands}) == count  # The run directories.
    assert ("--epochs=1,3" in commands[0]) == ("33%" in head)
    assert any(part.startswith("--learning_rate=") for part in commands[1] + commands[-1])


# --- Cross-validation and search --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colors(tmp_path_factory) -> Path:
    """Return a directory with a dataset of three splits, and weights."""
    place = tmp_path_factory.mktemp("colors")
    counts = {"train": 12, "validation": 6, "test": 4}
    photos(place / "src", {f"{split}/{name}": count for split, count in counts.items() for name in ("reds", "greens")})
    converted(place / "src", place / "out")
    tiny_backbone.save_weights(place / "w.weights.h5")
    return place


def variants(place: Path) -> list[str]:
    model = shlex.join([*tiny_backbone.FLAGS, f"--weights={place}/w.weights.h5", "--batch_size=8"])
    return [f"dense=features {model} --epochs=3", f"linear=features --head=linear --epochs=1 {model}"]


@pytest.fixture(scope="module")
def validated(colors) -> Comparison:
    return trainers.compare(tfrecords=colors / "out", out=colors / "cv", variant=variants(colors), folds=2)


def test_cross_validation_predicts_each_record_once(colors, validated):
    rows = read_csv(colors / "cv/predictions_oof.csv")
    records = open_dataset(colors / "out").records("train", "validation")
    assert [row["path"] for row in rows] == 2 * list(records.paths)
    assert {row["variant"] for row in rows} == {"dense", "linear"}
    listed = {(row["split"], row["record"]): row["fold"] for row in read_csv(colors / "cv/folds2.csv")}
    assert all(listed[row["split"], row["record"]] == row["fold"] for row in rows)
    for row in validated.rows:
        own = [one for one in rows if one["variant"] == row.name]
        right = [one["label"] == one["prediction"] for one in own]
        metrics = [json.loads(path.read_text()) for path in colors.glob(f"cv/{row.name}-seed0-fold*of2/metrics.json")]
        assert row.mean("accuracy") == pytest.approx(np.mean(right))
        assert row.mean("accuracy") == pytest.approx(
            np.average([each["accuracy"] for each in metrics], weights=[each["count"] for each in metrics])
        )
        assert sorted(row.folds) == sorted(each["accuracy"] for each in metrics)
        assert row.interval() == scores.wilson(sum(right), 36)
    # All trainings use one extraction per split.
    assert len(list(colors.glob("cv/features/*/features.npy"))) == 2
    (difference,) = validated.differences
    assert difference.count == 36
    assert difference.value == pytest.approx(
        abs(np.diff([row.mean("accuracy") or 0.0 for row in validated.rows])[0]), abs=1e-9
    )
    assert str(difference) in repr(validated)


def test_cross_validation_is_written_and_finished_folds_are_skipped(colors, validated, capfd):
    stored = json.loads((colors / "cv/comparison.json").read_text())
    assert (stored["folds"], stored["fold_seed"], stored["seeds"]) == (2, 0, [0])
    assert [variant["variant"] for variant in stored["variants"]] == ["dense", "linear"]
    assert stored["differences"] == [validated.differences[0].as_dict()]
    table = {row["variant"]: row for row in read_csv(colors / "cv/comparison.csv")}
    low, high = (float(table["dense"][name]) for name in ("accuracy_low", "accuracy_high"))
    assert low <= float(table["dense"]["accuracy"]) <= high
    page = (colors / "cv/comparison.html").read_text()
    assert page.count("<circle") == 4  # A dot per fold.
    assert page.count("<span>trainers.features</span>") == 4
    assert "95% interval over folds" in page
    again = trainers.compare(tfrecords=colors / "out", out=colors / "cv", variant=variants(colors), folds=2)
    assert again == validated
    out = capfd.readouterr().out
    assert out.count("is finished already") == 4
    assert (
        f"folds: 36 records of train+validation are divided into 2 folds, as listed in {colors}/cv/folds2.csv. The"
        " test split is not" in out
    )
    assert str(validated.differences[0]) in out
    assert ", comparison.json, predictions_oof.csv and the runs" in out


def test_a_fold_can_be_trained_alone(colors, validated, tmp_path):
    """The command is that of the page. The worker has trained other folds before it in the same process."""
    alone = trainers.features(
        tfrecords=colors / "out",
        run=tmp_path / "run",
        seed=0,
        records=colors / "cv/folds2.csv",
        fold=2,
        features=colors / "cv/features",
        weights=colors / "w.weights.h5",
        batch_size=8,
        epochs=3,
        log=lambda line: None,
        **tiny_backbone.MODEL,
    )
    other = trainers.load(colors / "cv/dense-seed0-fold2of2")
    assert alone.settings == other.settings
    assert alone.settings["flags"]["fold"] == 2
    for left, right in zip(alone.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert history(alone.path) == history(other.path)
    assert alone.metrics["split"] == "fold 2 of 2"


def test_a_search_uses_finished_folds_and_names_a_command(colors, validated, capfd):
    found = trainers.compare(
        tfrecords=colors / "out", out=colors / "cv", variant=variants(colors)[:1], folds=2, search="trials=2"
    )
    out = capfd.readouterr().out
    assert out.count("is finished already") == 2
    assert found.trials[0]["setting"] == "dense"
    assert {trial["folds"] for trial in found.trials} == {2}
    assert [row.mean("accuracy") for row in found.rows] == sorted((t["accuracy"] for t in found.trials), reverse=True)
    rows = read_csv(colors / "cv/search.csv")
    assert rows[0]["learning_rate"] == "0.001"
    assert "check: The accuracy of the best setting is optimistic. The best of 2 settings was chosen because" in out
    lines = out.splitlines()
    best = f"{found.rows[0].name}, accuracy {found.rows[0].mean('accuracy'):.2%}"
    assert next(line for line in lines if line.startswith("best of 2 settings: ")).startswith(
        f"best of 2 settings: {best}"
    )
    train, evaluate = lines[-3].strip(), lines[-1].strip()
    assert train == found.command
    assert train.startswith(f"python -m trainers.features --tfrecords={colors}/out --run={colors}/cv/dense")
    assert "--fold" not in train
    assert evaluate.endswith(f" --tfrecords={colors}/out --split=test")
    page = (colors / "cv/comparison.html").read_text()
    assert '<section id="search">' in page
    assert train in repr(found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folds": 1}, "--folds=1: must be at least 2. Five folds are usual."),
        ({"folds": 2.5}, "--folds=2.5: must be a whole number."),
        ({"folds": 100}, "--folds=100: the 36 records of train+validation form 36 groups of images that must stay"),
        ({"fold_seed": 1}, "--fold_seed=1: only --folds uses it. Add --folds=5, or remove --fold_seed."),
        ({"folds": 3, "fold_seed": -1}, "--fold_seed=-1: must be from 0 to 4294967295."),
        (
            {"search": "minutes"},
            "--search=minutes: must be name=value pairs, separated by commas, with values as in",
        ),
        ({"search": "minutes=0"}, "--search=minutes=0: must be a number above 0."),
        (
            {"search": "trials=2", "seeds": [0, 1]},
            "--seeds=0,1: a search uses one seed. Pass --seeds=0, and compare the",
        ),
        (
            {"variant": ["scratch --records=a"], "folds": 3},
            "--variant=scratch: --records cannot be used together with --folds. Remove one of the two flags.",
        ),
        (
            {"variant": ["finetune --more_epochs=2"], "search": "trials=2"},
            "--variant=finetune: --more_epochs cannot be used together with --search. Remove one of the two flags.",
        ),
        ({"variant": ["scratch --epoch=3"]}, "--variant=scratch: --epoch: is not a flag of trainers.scratch. Did you"),
        ({"variant": ["a=scratch --epochs=x"]}, "--variant=a: --epochs=x: must be whole numbers, as in 5,8."),
    ],
)
def test_wrong_folds_and_searches_are_reported(given, message, colors, tmp_path):
    with pytest.raises(UserError) as error:
        trainers.compare(tfrecords=colors / "out", out=tmp_path / "none", **given)
    assert str(error.value).startswith(message)
    assert not list(tmp_path.glob("none/*seed*"))  # Nothing was trained.


@pytest.mark.parametrize(
    ("flag", "source"),
    [
        ("init_from", "cv/dense-seed0-fold1of2"),
        ("init_from", "cv/dense-seed0-fold1of2/model.keras"),
        ("backbone", "cv/dense-seed0-fold1of2/model.keras"),
    ],
)
def test_a_model_that_has_seen_the_folds_is_refused(flag, source, colors, validated, tmp_path):
    """Without folds, it may be compared: the validation split is the same."""
    variant = f"on=features --{flag}={colors / source}"
    with pytest.raises(UserError) as error:
        trainers.compare(tfrecords=colors / "out", out=tmp_path, variant=[variant], folds=2)
    assert str(error.value) == (
        f"--variant=on: the variant starts from {colors / source}, which was trained on this dataset. That model has"
        " already seen the images of the folds, so the accuracy would be too high. Start from another run, or"
        " compare without --folds."
    )


@pytest.mark.parametrize(
    "flags",
    [
        "scratch --backbone=MODEL --weights=none",  # Random weights have seen nothing.
        "features --backbone=PLAIN",  # A file without a description.
        "features --backbone=OTHER",  # It was trained on another dataset.
        "features --backbone=VGG16",
    ],
)
def test_other_models_may_be_compared_with_folds(flags, colors, validated, tmp_path):
    trained = colors / "cv/dense-seed0-fold1of2/model.keras"
    model, info = model_file.load(trained)
    model_file.save(model, dataclasses.replace(info, dataset_digest="12ab"), tmp_path / "other.keras")
    model.save(tmp_path / "plain.keras")
    for name, path in (("MODEL", trained), ("OTHER", tmp_path / "other.keras"), ("PLAIN", tmp_path / "plain.keras")):
        flags = flags.replace(name, str(path))
    jobs.check_parents(comparison.variants([flags], []), open_dataset(colors / "out"))


def test_other_folds_need_another_directory(colors, validated, tmp_path, monkeypatch):
    """The old file of folds stays, so that the old comparison is still complete."""
    shutil.copytree(colors / "cv", tmp_path / "cv")
    before = (tmp_path / "cv/folds2.csv").read_bytes()
    own = folding.assign
    given = {"tfrecords": colors / "out", "out": tmp_path / "cv", "variant": variants(colors), "folds": 2}
    with monkeypatch.context() as patch:
        patch.setattr(folding, "assign", lambda *arguments: 1 - own(*arguments))  # Another version makes other folds.
        for names in (variants(colors), ["new=features"]):  # A new variant would also replace the file.
            with pytest.raises(UserError) as error:
                trainers.compare(**given | {"variant": names})
            assert str(error.value) == (
                f"{tmp_path}/cv/dense-seed0-fold1of2: this run was started with other folds than the folds that this"
                f" command has made for {tmp_path}/cv/folds2.csv. Results of different folds cannot be compared. Pass"
                " another --out."
            )
        assert (tmp_path / "cv/folds2.csv").read_bytes() == before
        assert not list(tmp_path.glob("cv/*.new"))
    assert trainers.compare(**given).rows == validated.rows


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"variant": ["x" * 260 + "=features"]}, 275),
        ({"variant": ["가" * 81 + "=features"]}, 258),  # Three bytes each.
        ({"variant": ["x" * 232 + "=features"], "folds": 2}, 256),
        ({"variant": ["x" * 221 + "=features --epochs=9"], "search": "trials=9"}, 256),  # Longer names of settings.
    ],
)
def test_too_long_names_are_reported(given, size, colors, tmp_path):
    with pytest.raises(UserError) as error:
        trainers.compare(tfrecords=colors / "out", out=tmp_path / "cv", **given)
    message = str(error.value)
    assert message.startswith(f"--variant={given['variant'][0].partition('=')[0]}")
    assert message.endswith(
        f": this name is too long. The longest name of a file would have {size} bytes, and at most 255 are allowed."
        " Pass a shorter NAME: --variant='NAME=features FLAGS' or --backbone='NAME=BACKBONE FLAGS'."
    )
    assert not (tmp_path / "cv").exists()


@pytest.mark.slow
def test_a_killed_cross_validation_continues(colors, validated, tmp_path):
    flags = (f"--tfrecords={colors}/out", "--out=cv", "--folds=2", *(f"--variant={one}" for one in variants(colors)))
    with start("trainers.compare", *flags, cwd=tmp_path) as process:
        wait_for(lambda: len(list(tmp_path.glob("cv/*/metrics.json"))) == 2)
        os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: all(map(is_free, tmp_path.glob("cv/*-fold*of2"))))  # The worker ends, too.
    done = run("trainers.compare", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 1 <= done.stdout.count("is finished already") <= 3
    assert (tmp_path / "cv/predictions_oof.csv").read_bytes() == (colors / "cv/predictions_oof.csv").read_bytes()


def is_free(run_directory: Path) -> bool:
    lock = files.hold(run_directory / "lock")
    if lock is None:
        return False
    with lock:
        return True


@pytest.mark.slow
def test_two_seeds_of_a_variant_do_not_differ(tmp_path):
    """Nine of ten intervals of pairs of seeds contain 0. From the records alone, only eight of ten would."""
    random = np.random.default_rng(0)
    for name, shift in (("dim", 0), ("bright", 16)):
        for number in range(150):
            path = tmp_path / f"src/train/{name}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = 110 + shift + 16 * random.normal() + 50 * random.normal(size=(24, 24, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    converted(tmp_path / "src", tmp_path / "out", validation_fraction=0)
    tiny_backbone.save_weights(tmp_path / "w.weights.h5")
    trainers.compare(
        tfrecords=tmp_path / "out", out=tmp_path / "cv", variant=variants(tmp_path)[:1], folds=3, seeds=range(10)
    )
    data = open_dataset(tmp_path / "out")
    listed = folds.read(str(tmp_path / "cv/folds3.csv"), data)
    right = []
    for seed in range(10):
        runs = [tmp_path / f"cv/dense-seed{seed}-fold{fold}of3" for fold in (1, 2, 3)]
        right.append(out_of_fold.right([out_of_fold.gather("dense", seed, listed, runs)], len(listed.records)))
    pairs = [out_of_fold.differences({"a": a, "b": b}, listed)[0] for a, b in itertools.combinations(right, 2)]
    assert 0.55 < np.mean(right) < 0.9  # The data is not separable, so the seeds disagree.
    assert np.mean([pair.only_first + pair.only_second for pair in pairs]) > 20
    assert np.mean([pair.is_clear for pair in pairs]) <= 0.1
