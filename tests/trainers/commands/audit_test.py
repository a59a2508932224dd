"""Tests of the command `python -m trainers.audit`, and of trainings and evaluations that use an audit."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_backbone
from image_sources import converted, run
from PIL import Image

from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import index
from tfrecord_tools.records import open_dataset
from trainers import recipes
from trainers.audit import AuditConfig, audit_dataset
from trainers.auditing import audit_files, issues
from trainers.fitting import inputs
from trainers.models import networks
from trainers.results import review_page

BACKBONE = ("--features_from=CNN", *tiny_backbone.FLAGS[1:], "--weights=w.weights.h5")
COLORS = ("greens", "reds")
WRONG = ("train/greens/003.jpg", "train/reds/007.jpg", "validation/reds/002.jpg")


def drawn(path: Path, seed: int) -> None:
    """Write a noisy image of a color that is easy to tell from the other color."""
    random = np.random.default_rng(seed)
    color = np.array((60, 200, 60) if path.parent.name == "greens" else (200, 60, 60))
    pixels = color + random.normal(0, 20, (24, 30, 3)) + random.normal(0, 15, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def swap(directory: Path, path: str) -> None:
    """Move an image to the other class."""
    split, color, name = path.split("/")
    other = "reds" if color == "greens" else "greens"
    shutil.move(directory / path, directory / split / other / f"wrong-{color}-{name}")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with images, three of them in the wrong class, a dataset and weights."""
    workspace = tmp_path_factory.mktemp("audit")
    for number, (split, color) in enumerate(itertools.product(("train", "validation"), COLORS)):
        for image in range(90 if split == "train" else 20):
            drawn(workspace / "src" / split / color / f"{image:03d}.jpg", 1000 * number + image)
    for path in WRONG:
        swap(workspace / "src", path)
    converted(workspace / "src", workspace / "out")
    tiny_backbone.save_weights(workspace / "w.weights.h5")
    return workspace


@pytest.fixture(scope="module")
def audited(workspace: Path) -> list[str]:
    """Run the command as a user does; return the lines that it prints."""
    done = run("trainers.audit", "--tfrecords=out", *BACKBONE, cwd=workspace)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def directory(workspace: Path) -> Path:
    return workspace / audit_files.default(open_dataset(workspace / "out"))


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_wrong_labels_are_found_and_listed(workspace, audited):
    out = directory(workspace)
    assert sorted(path.name for path in out.iterdir()) == [
        "audit.json",
        "issues.csv",
        "issues.parquet",
        "near_duplicates.parquet",
        "review.html",
    ]
    listed = [row for row in rows(out / "issues.csv") if row["kind"] == "label"]
    assert {row["path"].rpartition("wrong-")[2] for row in listed[:3]} == {
        path.split("/", 1)[1].replace("/", "-") for path in WRONG
    }
    data = open_dataset(workspace / "out")
    for row in listed[:3]:
        records = data.records(row["split"])
        number = int(row["record"])
        assert records.paths[number] == row["path"]
        assert records.source_sha256[number].tobytes().hex() == row["sha256"]
        assert {row["given_label"], row["proposed_label"]} == set(COLORS)
        assert float(row["score"]) > 0.5
    table = pq.read_table(out / "issues.parquet").to_pylist()
    assert [row["path"] for row in table] == [row["path"] for row in rows(out / "issues.csv")]
    by_path = {row["path"]: row["sha256"] for row in table}
    twins = [row for row in table if row["twin"] in by_path]
    assert twins
    assert [row["twin_sha256"] for row in twins] == [by_path[row["twin"]] for row in twins]
    assert {row["twin_sha256"] for row in table if not row["twin"]} == {""}


def test_console_gives_the_estimate_a_table_and_the_next_step(workspace, audited):
    about = json.loads((directory(workspace) / "audit.json").read_text())
    assert (about["records"], about["folds"], about["decided"]) == (220, 5, 0)
    assert about["estimate"]["low"] <= 3 <= about["estimate"]["high"]
    (estimate,) = [line for line in audited if line.startswith("About ")]
    assert " of 220 labels are probably wrong (95% interval: " in estimate
    heads = next(line for line in audited if "score 0.5 or more" in line)
    after = audited[audited.index(heads) + 1 :]
    assert [line.split()[0] for line in after[:6]] == list(issues.KINDS)
    assert after[6].startswith("results: audits/src-")
    assert after[7].startswith("next: open audits/src-")
    assert after[7].endswith(
        "with more flags: python -m tfrecord_tools.convert YOUR_FLAGS --update --decisions=decisions.csv"
    )
    assert estimate in (directory(workspace) / "review.html").read_text()


def audit_of(data: Path, workspace: Path, **settings: Any) -> AuditConfig:
    """Return settings of an audit with the weights of the workspace, written beside the dataset."""
    defaults = {"out": str(data.parent / "audit"), "features": str(data.parent / "features")}
    return AuditConfig(
        tfrecords=str(data),
        features_from="CNN",
        backbone_kwargs=tiny_backbone.MODEL["backbone_kwargs"],
        image_size=32,
        **{"weights": str(workspace / "w.weights.h5")} | defaults | settings,
    )


def decide(listed: Sequence[Mapping[str, str]], path: Path) -> None:
    """Write decisions about four images: two new labels, drop, keep."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sha256", "decision", "label", "path", "given_label"])
        for row in listed[:2]:
            writer.writerow([row["sha256"], "label", row["proposed_label"], row["path"], row["given_label"]])
        writer.writerow([listed[2]["sha256"], "drop", "", listed[2]["path"], listed[2]["given_label"]])
        writer.writerow([listed[3]["sha256"], "keep", "", listed[3]["path"], listed[3]["given_label"]])


def label_issues(directory: Path) -> list[dict[str, str]]:
    return [row for row in rows(directory / "issues.csv") if row["kind"] == "label"]


def page_data(path: Path) -> dict[str, Any]:
    """Return the data in review.html."""
    _, _, data = path.read_text().partition('<script type="application/json" id="data">')
    return json.loads(data.partition("</script>")[0])


def records_of(source: str, workspace: Path, place: Path) -> tuple[str, ...]:
    """Make the dataset `out` in `place`; return the flags of the command."""
    if source == "convert":
        converted(workspace / "src", place / "out")
        return f"--src={workspace / 'src'}", "--out=out"
    (place / "theirs").mkdir()
    for shard in (workspace / "out").glob("*.tfrecord-*"):
        shutil.copy(shard, place / "theirs")
    adopt(AdoptConfig(records=str(place / "theirs"), out=str(place / "out"), workers=1), lambda line: None)
    return "--records=theirs", "--out=out"


@pytest.mark.parametrize("source", ["convert", "adopt"])
def test_the_printed_command_applies_the_decisions_and_they_are_not_asked_again(source, workspace, audited, tmp_path):
    flags = records_of(source, workspace, tmp_path)
    config = audit_of(tmp_path / "out", workspace)
    lines: list[str] = []
    audit_dataset(config, lines.append)
    _, _, command = lines[-1].rpartition("with more flags: ")
    # The page breaks the line between the words of the command.
    shown = "".join(f"<span>{word}</span> " for word in command.split()).strip()
    assert shown in (tmp_path / "audit/review.html").read_text()
    listed = label_issues(tmp_path / "audit")
    decide(listed, tmp_path / "decisions.csv")
    before = {name: open_dataset(tmp_path / "out").records(name).source_sha256 for name in ("train", "validation")}

    python, module, name, *given = command.split()
    assert (python, module, given[0]) == ("python", "-m", "YOUR_FLAGS")
    done = run(name, *flags, *given[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = open_dataset(tmp_path / "out")
    assert sum(data.splits.values()) == 219
    after = {name: data.records(name) for name in ("train", "validation")}
    labels = {
        sha256.tobytes().hex(): data.class_names[label]
        for records in after.values()
        for sha256, label in zip(records.source_sha256, records.labels)
    }
    for row in listed[:2]:
        assert labels[row["sha256"]] == row["proposed_label"]
    assert listed[2]["sha256"] not in labels
    for name, records in after.items():  # All images stay in their splits.
        assert {row.tobytes() for row in records.source_sha256} <= {row.tobytes() for row in before[name]}

    again: list[str] = []
    result = audit_dataset(config, again.append)
    assert result.estimate.high < 3
    # The fourth is left out.
    assert "  3 images are not listed again, because you decided on them in earlier reviews" in again
    assert json.loads((tmp_path / "audit/audit.json").read_text())["decided"] == 3
    decided = {row["sha256"] for row in listed[:4]}
    assert decided.isdisjoint(row["sha256"] for row in label_issues(tmp_path / "audit"))
    page = page_data(tmp_path / "audit/review.html")
    embedded = {sha256 for sha256, *_ in page["decided"]}
    assert embedded == decided & set(page["images"])  # The page has no decisions about other images.
    assert page["total"] == len(result.issues)


def test_an_interrupted_audit_stops_no_training_and_is_replaced(workspace, audited, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = open_dataset(workspace / "out")
    out = audit_files.default(data)
    config = audit_of(workspace / "out", workspace, out=str(out), features=str(workspace / "features"))
    training = recipes.TrainConfig(tfrecords=str(workspace / "out"))

    def killed(*arguments: Any, **keywords: Any) -> None:
        raise KeyboardInterrupt

    def interrupt(module: Any, name: str) -> list[str]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(KeyboardInterrupt):
                audit_dataset(config, lambda line: None)
        lines: list[str] = []
        assert inputs.split(data, training, log=lines.append).doubts is None
        with pytest.raises(
            UserError,
            match=f"^--audit={out}: is not finished. Pass the directory of a finished audit. To make an audit, run"
            " python -m ",
        ):
            inputs.split(data, dataclasses.replace(training, audit=str(out)), log=lines.append)
        return lines

    for _ in range(2):  # The first audit, and one that replaces a finished audit.
        for module, name in ((issues, "write"), (review_page, "write")):
            (line,) = interrupt(module, name)
            assert line.startswith(
                f"audit: the audit in {out} is not finished, so it is not used. To finish this audit, run python -m "
            )
        audit_dataset(config, lambda line: None)
        doubts = inputs.split(data, training, log=lambda line: None).doubts
        assert doubts
        assert len(doubts.kinds) >= 3


def test_issues_that_the_page_does_not_show_are_counted(workspace, audited, tmp_path):
    lines: list[str] = []
    config = audit_of(workspace / "out", workspace, out=str(tmp_path), features=str(workspace / "features"), pictures=5)
    result = audit_dataset(config, lines.append)
    (line,) = [line for line in lines if "not on the page" in line]
    hidden = int(line.split()[0].replace(",", ""))
    assert len(result.issues) - 5 <= hidden < len(result.issues)
    assert line == (
        f"  {hidden:,} issues with low ranks are in issues.csv, but not on the page. To see more issues on the page,"
        " pass --pictures=N with N above 5"
    )
    assert not [line for line in audited if "not on the page" in line]


def test_a_network_with_weights_that_are_nan_is_refused(workspace, tmp_path):
    """The features may look right, because ReLU turns NaN into 0 on some devices."""
    model = networks.cnn((32, 32, 3), **tiny_backbone.MODEL["backbone_kwargs"])
    model.set_weights([np.full_like(value, np.nan) for value in model.get_weights()])
    model.save_weights(tmp_path / "nan.weights.h5")
    settings = {"out": str(tmp_path / "audit"), "features": str(tmp_path / "features")}
    config = audit_of(workspace / "out", workspace, weights=str(tmp_path / "nan.weights.h5"), **settings)
    with pytest.raises(UserError) as error:
        audit_dataset(config, lambda line: None)
    assert re.fullmatch(
        r"--features_from=CNN: (\d+) of \1 arrays of weights have values that are not finite numbers, for example"
        r" conv1/kernel\. A training that diverged leaves such weights\. Pass another network\.",
        str(error.value),
    )


def test_a_second_audit_gives_the_same_result_and_uses_the_features(workspace, audited):
    before = (directory(workspace) / "issues.csv").read_bytes()
    done = run("trainers.audit", "--tfrecords=out", *BACKBONE, cwd=workspace)
    assert " computed in " not in done.stdout
    assert (directory(workspace) / "issues.csv").read_bytes() == before


def test_datasets_without_the_facts_are_audited(workspace, tmp_path):
    """Datasets of earlier versions have no facts in their index. They are measured from the images."""
    shutil.copytree(workspace / "out", tmp_path / "out")
    path = tmp_path / "out" / index.FILE_NAME
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.drop_columns(["phash", "brightness", "contrast"]).schema) as writer:
        file = pq.ParquetFile(workspace / "out" / index.FILE_NAME)
        for group in range(file.num_row_groups):
            writer.write_table(file.read_row_group(group).drop_columns(["phash", "brightness", "contrast"]))
    audit_dataset(audit_of(tmp_path / "out", workspace, features=str(workspace / "features")), lambda line: None)
    assert (tmp_path / "audit/issues.csv").read_bytes() == (directory(workspace) / "issues.csv").read_bytes()


def test_training_records_with_issues_are_left_out(workspace, audited, monkeypatch):
    monkeypatch.chdir(workspace)
    data = open_dataset("out")
    lines: list[str] = []
    config = recipes.TrainConfig(tfrecords="out", drop_issues=["label"])
    splits = inputs.split(data, config, log=lines.append)
    assert len(splits.train) == 178
    assert not [path for path in splits.train.paths if "wrong-" in path]
    assert len(splits.validation) == 40  # Validation images stay.
    assert lines[0].startswith(
        "--drop_issues=label: leaves out 2 of 180 training records, because of their issues in audits/src-"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"audit": "nowhere"}, "--audit=nowhere: is not an audit (it has no readable audit.json)."),
        ({"audit": "nowhere", "drop_issues": []}, "--audit=nowhere: is not an audit (it has no readable audit.json)."),
        (
            {"audit": "other"},
            "--audit=other: is the audit of another dataset (its checksum starts with 00000000; the checksum of this"
            " dataset starts with ",
        ),
        (
            {"drop_issues": ["labels"]},
            "--drop_issues=labels: labels is not a kind of issue. The kinds are label, off_topic,",
        ),
    ],
)
def test_wrong_settings_of_trainings(workspace, settings, message, monkeypatch):
    monkeypatch.chdir(workspace)
    (workspace / "other").mkdir(exist_ok=True)
    (workspace / "other/audit.json").write_text(json.dumps({"digest": "0" * 64}))
    data = open_dataset("out")
    with pytest.raises(UserError) as error:
        inputs.split(data, recipes.TrainConfig(tfrecords="out", **{"drop_issues": ["label"]} | settings))
    assert str(error.value).startswith(message)


def test_a_dataset_without_an_audit(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = recipes.TrainConfig(tfrecords=str(workspace / "out"), drop_issues=["label"])
    with pytest.raises(UserError) as error:
        inputs.split(open_dataset(workspace / "out"), config, log=lambda line: None)
    assert str(error.value).startswith("--drop_issues=label: the dataset has no audit in audits/src-")


def test_trainings_and_evaluations_report_the_accuracy_without_issues(workspace, audited):
    flags = ("--tfrecords=out", *tiny_backbone.FLAGS, "--weights=w.weights.h5", "--epochs=2", "--run=run")
    done = run("trainers.features", *flags, cwd=workspace)
    assert done.returncode == 0, done.stderr
    part = json.loads((workspace / "run/metrics.json").read_text())["without_issues"]
    assert part["count"] + part["left_out"] == 40
    assert part["left_out"] >= 1
    line = f"without {part['left_out']} image"
    assert line in done.stdout
    report = " ".join((workspace / "run/report.html").read_text().split())
    assert f"Without {part['left_out']} image" in report
    done = run("trainers.evaluate", "--run=run", "--tfrecords=out", "--split=validation", cwd=workspace)
    assert line in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            (),
            "--tfrecords is missing. Pass the directory of the dataset, as written by python -m"
            " tfrecord_tools.convert.",
        ),
        (("--tfrecords=nowhere",), "nowhere: does not exist."),
        (("--tfrecords=out", "--folds=1"), "--folds=1: must be at least 2. Five folds are usual."),
        (("--tfrecords=out", "--seed=-1"), "--seed=-1: must be from 0 to "),
        (("--tfrecords=out", "--pictures=-1"), "--pictures=-1: must be 0 or more."),
        (
            ("--tfrecords=out", "--features_from=MobileNetV22"),
            "--features_from=MobileNetV22: is not the name of a backbone, and is not an existing run directory or"
            " model file.",
        ),
        (
            ("--tfrecords=out", "--features_from=src", "--image_size=64"),
            "--features_from=src: a trained model has its own weights, scaling and image size. Remove",
        ),
        (("--tfrecords=out", "--weights=nowhere.h5"), "--weights=nowhere.h5: does not exist."),
        (
            ("--tfrecords=out", "--out=src"),
            "--out=src: is not empty, and is not the directory of an audit (it has no audit.json). Pass another --out.",
        ),
        (("--tfrecords=out", "x"), "unexpected argument 'x'"),
    ],
)
def test_errors_are_reported_before_tensorflow_is_imported(workspace, flags, message):
    done = run("trainers.audit", *flags, cwd=workspace, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert " tensorflow" not in done.stderr


@pytest.mark.slow
def test_features_of_a_trained_model(workspace, audited):
    flags = ("--tfrecords=out", "--image_size=32", "--batch_size=8", "--epochs=2", "--run=scratch")
    assert run("trainers.scratch", *flags, cwd=workspace).returncode == 0
    done = run("trainers.audit", "--tfrecords=out", "--features_from=scratch", "--out=own", cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "features: computed by the model scratch" in done.stdout
    assert json.loads((workspace / "own/audit.json").read_text())["features_from"] == "scratch"


def test_raw_pixels(workspace, tmp_path):
    converted(workspace / "src", tmp_path / "raw", store="raw", resize=16, resize_mode="exact")
    tiny_backbone.save_weights(tmp_path / "w.weights.h5")
    done = run("trainers.audit", "--tfrecords=raw", *BACKBONE, "--out=audit", "--pictures=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data:" in (tmp_path / "audit/review.html").read_text()
    assert np.isfinite([float(row["score"]) for row in rows(tmp_path / "audit/issues.csv")]).all()
