"""Tests of the command `python -m trainers.evaluate`, run as a user runs it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from foreign_records import example, write
from image_sources import converted, run
from judged_runs import judged_pair, photo, photos, read_csv, run_of

import trainers
from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from trainers import run_directory
from trainers.evaluate import evaluate


def default_out(run: Path, out: Path, split: str) -> Path:
    return run / f"evaluation-src-{split}-{open_dataset(out).digest[:8]}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Return a directory with a dataset `out`, a `run`, and datasets with other classes."""
    workspace = tmp_path_factory.mktemp("workspace")
    judged_pair(workspace)
    counts = {f"{split}/{color}": 3 for split in ("train", "test") for color in ("blues", "reds")}
    converted(photos(workspace / "src_blue", counts), workspace / "blue")
    converted(workspace / "src", workspace / "turned", classes=["reds", "greens"])
    return workspace


def test_report_is_written_next_to_the_model(workspace):
    done = run("trainers.evaluate", "--run=run", "--tfrecords=out", "--split=test", cwd=workspace)
    assert done.returncode == 0, done.stderr
    out = default_out(workspace / "run", workspace / "out", "test")
    names = sorted(path.name for path in out.iterdir())
    assert names == ["metrics.json", "plots", "predictions.csv", "report.html", "suspects.csv"]
    metrics = json.loads((out / "metrics.json").read_text())
    rows = read_csv(out / "predictions.csv")
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert (metrics["count"], metrics["accuracy"]) == (40, right / 40)
    assert metrics["note"] == "This split was not used for training."
    low, high = metrics["accuracy_interval"]
    assert done.stdout.splitlines() == [
        f"accuracy {right / 40:.4f} ({low:.4f} to {high:.4f}), loss {metrics['loss']:.4f} on the 40 images"
        " of the test split of src",
        f"balanced accuracy {metrics['balanced_accuracy']:.4f}, macro F1 {metrics['macro_f1']:.4f}, lowest recall"
        f" {min(metrics['recall'].values()):.4f} (greens). Always guessing the largest class: accuracy 0.5000",
        "  check: The model disagrees with 2 labels and is at least 90% sure. These labels may be wrong. Go through"
        " suspects.csv from the top, and write a word into the column decision: label if predicted_label is right,"
        " drop to leave the image out, keep if given_label is right. Pass the file to python -m"
        " tfrecord_tools.convert --update --decisions.",
        f"run/{out.name}/ with {', '.join(names)}",
    ]
    text = (out / "report.html").read_text()
    assert "Evaluated on the test split of src" in text
    assert "--seed=0" in text  # The report shows the settings and curves of the run.
    assert (out / "plots/accuracy.png").exists()


def test_order_of_classes_does_not_matter(workspace, tmp_path):
    metrics = [
        evaluate(run=str(workspace / "run"), tfrecords=str(workspace / name), out=str(tmp_path / name)).metrics
        for name in ("out", "turned")
    ]
    assert metrics[0]["accuracy"] == metrics[1]["accuracy"] > 0.8
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=1e-5)
    assert metrics[1]["note"].startswith("The model was trained on another dataset.")
    one, other = (
        {row["path"]: row for row in read_csv(tmp_path / name / "predictions.csv")} for name in ("out", "turned")
    )
    assert one.keys() == other.keys()
    for path, row in one.items():
        assert float(row["p_reds"]) == pytest.approx(float(other[path]["p_reds"]), abs=1e-5)
        assert row["label"] == other[path]["label"]


def test_model_file_is_enough(workspace, tmp_path):
    shutil.copy(workspace / "run/model.keras", tmp_path / "some.keras")
    (tmp_path / "settings.json").write_text("another's")  # Files next to a model file may belong to another model.
    (tmp_path / "history.csv").write_text("another's")
    metrics = evaluate(run=str(tmp_path / "some.keras"), tfrecords=str(workspace / "out"), split="train").metrics
    assert metrics["note"].startswith("The model was trained on this split")
    assert (default_out(tmp_path, workspace / "out", "train") / "report.html").exists()


def test_settings_of_another_training_are_not_shown(workspace, tmp_path):
    run = run_of(tmp_path / "run", workspace / "out")
    (run / "settings.json").write_text(json.dumps({"flags": {"seed": 7}, "dataset": {"digest": "12ab"}}))
    evaluate(run=str(run), tfrecords=str(workspace / "out"), out=str(tmp_path / "to"))
    assert "--seed=7" not in (tmp_path / "to/report.html").read_text()
    assert not (tmp_path / "to/plots/accuracy.png").exists()


def test_threshold_is_used_and_reported(workspace, tmp_path):
    out = tmp_path / "to"
    evaluate(run=str(workspace / "run"), tfrecords=str(workspace / "out"), out=str(out), threshold=0.9)
    rows = read_csv(out / "predictions.csv")
    assert {row["prediction"] for row in rows} == {"greens", "reds"}
    for row in rows:
        assert row["prediction"] == ("reds" if float(row["p_reds"]) >= 0.9 else "greens")
    assert "reds is predicted if its probability is at least 0.9." in " ".join(
        (out / "report.html").read_text().split()
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("run", "is the run directory of a training. The evaluation would replace its report. Pass another --out."),
        (
            "src",
            "is not empty, and is not the directory of an evaluation (it has no metrics.json). Pass another --out.",
        ),
        ("locked", "{parent} is not a writable directory. Pass another --out."),
    ],
)
def test_only_an_evaluation_is_replaced(kind, message, workspace, monkeypatch):
    out = workspace / kind
    if kind == "locked":
        monkeypatch.setattr(run_directory.os, "access", lambda path, mode: False)
    with pytest.raises(UserError) as error:
        evaluate(run=str(workspace / "run"), tfrecords=str(workspace / "out"), out=str(out))
    assert str(error.value).startswith(f"--out={out}: {message.format(parent=workspace)}")


def test_evaluation_is_replaced_with_its_plots(workspace, tmp_path):
    out = tmp_path / "to"
    evaluate(run=str(workspace / "run"), tfrecords=str(workspace / "out"), out=str(out))
    assert (out / "plots/loss.png").exists()
    evaluate(run=str(workspace / "run/model.keras"), tfrecords=str(workspace / "out"), out=str(out))
    assert not (out / "plots/loss.png").exists()  # A model file has no history.


@pytest.mark.parametrize(
    ("test", "message"),
    [(40, "of 80 records are corrupt. The last one is "), (2, "all 4 records of test are corrupt, for example ")],
)
def test_damaged_split_is_reported(test, message, workspace, tmp_path):
    counts = {f"{split}/{color}": n for split, n in (("train", 2), ("test", test)) for color in ("greens", "reds")}
    converted(photos(tmp_path / "src", counts), tmp_path / "out")
    (shard,) = (tmp_path / "out").glob("*-test.tfrecord-*")
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(UserError) as error:
        evaluate(run=str(workspace / "run"), tfrecords=str(tmp_path / "out"), out=str(tmp_path / "to"))
    assert message in str(error.value)
    assert not (tmp_path / "to").exists()


def test_corrupt_record_is_left_out_and_reported(workspace, tmp_path):
    shutil.copytree(workspace / "out", tmp_path / "out")
    (shard,) = (tmp_path / "out").glob("*-test.tfrecord-*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0x10
    shard.write_bytes(data)
    metrics = evaluate(run=str(workspace / "run"), tfrecords=str(tmp_path / "out"), out=str(tmp_path / "to")).metrics
    assert (metrics["count"], len(metrics["corrupt"])) == (39, 1)
    assert "1 record corrupt and left out" in (tmp_path / "to/report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--run is missing. Pass the run directory of a trainer, or its model.keras."),
        (("--run=run",), "--tfrecords is missing. Pass the directory of a dataset, as written by python -m"),
        (("--run=nowhere", "--tfrecords=out"), "--run=nowhere: does not exist."),
        (("--run=src", "--tfrecords=out"), "--run=src: is not a run directory, since it has no model.keras."),
        (("--run=run", "--tfrecords=src"), "src: is not a dataset (it has no convert.json)"),
        (
            ("--run=run", "--tfrecords=out", "--split=validation"),
            "out: split 'validation' does not exist. Splits: train, test. Pass one of these splits as --split.",
        ),
        (
            ("--run=run", "--tfrecords=blue"),
            "--tfrecords=blue: the model has no class blues (3 images). The classes of the model are greens, reds. To"
            " leave out the"
            " images of blues, pass --class_map=blues=. To count them as a class of the model, write the name of that"
            " class after the =.",
        ),
        (
            ("--run=run", "--tfrecords=out", "--out=run/model.keras"),
            "--out=run/model.keras: is a file, not a directory.",
        ),
        (("--run=run", "--tfrecords=out", "more"), "unexpected argument 'more': "),
    ],
)
def test_errors_are_reported_before_tensorflow_is_imported(workspace, flags, message):
    done = run("trainers.evaluate", *flags, cwd=workspace, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert " tensorflow" not in done.stderr


def test_a_split_without_images_is_an_error(workspace, tmp_path):
    """Decisions may leave out all records of a split. The message must not blame --class_map."""
    rows = ["sha256,decision,label,path"]
    for split, numbers in {"train": range(4), "test": range(4, 6)}.items():
        images = [photo("reds" if number % 2 else "greens", number) for number in numbers]
        write(
            tmp_path / f"theirs/{split}.tfrecord", [example({"image": x, "label": i % 2}) for i, x in enumerate(images)]
        )
        rows += [f"{hashlib.sha256(image).hexdigest()},drop,," for image in images if split == "test"]
    (tmp_path / "decisions.csv").write_text("\n".join(rows) + "\n")
    config: dict[str, Any] = {"records": str(tmp_path / "theirs"), "out": str(tmp_path / "out"), "workers": 1}
    adopt(
        AdoptConfig(**config, classes=["greens", "reds"], decisions=str(tmp_path / "decisions.csv")), lambda line: None
    )
    for function in (trainers.evaluate, trainers.predict):
        with pytest.raises(UserError) as error:
            function(run=workspace / "run", tfrecords=tmp_path / "out", split="test", log=lambda line: None)
        assert str(error.value) == (
            f"{tmp_path}/out: split 'test' has no images, because decisions leave out all of them. Splits with images:"
            " train. Pass one of these splits."
        )


def test_damaged_model_is_reported(workspace, tmp_path):
    path = run_of(tmp_path / "cut", workspace / "out") / "model.keras"
    path.write_bytes(path.read_bytes()[:-100])
    done = run("trainers.evaluate", f"--run={path.parent}", "--tfrecords=out", cwd=workspace)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {path}: is cut off, damaged or not a .keras file")
    assert "Traceback" not in done.stderr
