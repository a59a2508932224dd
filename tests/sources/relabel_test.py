"""Tests of `convert --relabel`: new labels by path, which become decisions."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from image_sources import converted, run, with_splits

from tfrecord_tools import dataset
from tfrecord_tools.errors import UserError

pytestmark = pytest.mark.usefixtures("no_fsync")
WRONG = ("train/cats/000.jpg", "train/cats/001.jpg", "validation/dogs/000.jpg")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def other(path: str) -> str:
    return "dogs" if "cats" in path else "cats"


def labels(out: Path) -> dict[str, str]:
    data = dataset.open(out)
    return {
        example["path"]: data.class_names[example["label"]]
        for split in data.splits
        for records in [data.records(split)]
        for example in (records[i] for i in range(len(records)))
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return with_splits(tmp_path_factory.mktemp("source") / "pets")


def suspects(path: Path, predicted: str = "predicted_label", given: str = "given_label") -> Path:
    """Write rows of suspects.csv. In the first row, the dataset already has the right label."""
    rows = [{"rank": 1, "path": "train/dogs/003.jpg", predicted: "dogs", given: "cats"}]
    return write(path, rows + [{"rank": 2, "path": path, predicted: other(path), given: "?"} for path in WRONG])


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return suspects(tmp_path_factory.mktemp("table") / "relabel.csv")


def test_only_the_listed_images_change(source, table, tmp_path):
    facts = converted(source, tmp_path / "out", relabel=str(table))
    plain = converted(source, tmp_path / "plain")
    expected = labels(tmp_path / "plain") | {path: other(path) for path in WRONG}
    assert labels(tmp_path / "out") == expected
    assert facts["relabelled"] == [
        {"from": "cats", "to": "dogs", "images": 2},
        {"from": "dogs", "to": "cats", "images": 1},
    ]
    assert "relabelled" not in plain
    assert facts["digest"] != plain["digest"]
    assert facts["config"] == plain["config"]


def test_rows_become_decisions_by_hash(source, table, tmp_path):
    facts = converted(source, tmp_path / "out", relabel=str(table))
    expected = {hashlib.sha256((source / path).read_bytes()).hexdigest(): (path, other(path)) for path in WRONG} | {
        hashlib.sha256((source / "train/dogs/003.jpg").read_bytes()).hexdigest(): ("train/dogs/003.jpg", "dogs")
    }
    assert {one["sha256"]: (one["path"], one["label"]) for one in facts["decisions"]} == expected
    assert facts["decided"] == {"relabeled": 3, "dropped": 0, "kept": 0, "unchanged": 1, "absent": 0}


def test_tables_of_earlier_releases_work(source, table, tmp_path):
    before = suspects(tmp_path / "before.csv", "label", "was")
    old, new = (converted(source, tmp_path / Path(path).stem, relabel=str(path)) for path in (before, table))
    assert (old["digest"], old["decisions"]) == (new["digest"], new["decisions"])


def test_labels_in_two_columns_are_refused(source, tmp_path):
    path = write(tmp_path / "both.csv", [{"path": WRONG[0], "label": "cats", "predicted_label": "dogs"}])
    message = r"both\.csv: the columns 'label' and 'predicted_label' both hold labels\. Remove one of them\."
    with pytest.raises(UserError, match=message):
        converted(source, tmp_path / "out", relabel=str(path))


def test_a_decisions_file_is_refused(source, tmp_path):
    path = write(tmp_path / "decisions.csv", [{"sha256": "0" * 64, "decision": "drop", "label": "", "path": WRONG[0]}])
    with pytest.raises(UserError) as error:
        converted(source, tmp_path / "out", relabel=str(path))
    assert str(error.value) == f"--relabel={path}: is a decisions file. Pass it as --decisions={path}."


def test_copies_with_different_new_labels_are_refused(source, tmp_path):
    copy = tmp_path / "pets"
    shutil.copytree(source, copy)
    shutil.copy(copy / WRONG[0], copy / "train/dogs/copy.jpg")
    rows = [{"path": WRONG[0], "label": "dogs"}, {"path": "train/dogs/copy.jpg", "label": "cats"}]
    with pytest.raises(UserError) as error:
        converted(copy, tmp_path / "out", relabel=str(write(tmp_path / "t.csv", rows)))
    assert (
        "t.csv: rows 1 and 2 contradict each other. train/cats/000.jpg and train/dogs/copy.jpg have the same bytes, but"
        " get the labels 'dogs' and 'cats'. Delete one of the rows."
    ) in str(error.value)


def test_changes_are_printed(source, table, tmp_path):
    done = run("tfrecord_tools.convert", f"--src={source}", f"--relabel={table}", "--dry_run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "  note: 3 images relabeled: 2 from cats to dogs, 1 from dogs to cats\n" in done.stdout
    assert "  note: 1 image has the label of the decision already\n" in done.stdout


def test_class_without_images_is_removed(source, tmp_path):
    rows = [
        {"path": f"{split}/cats/{i:03d}.{'png' if i == 2 else 'jpg'}", "label": "dogs"}
        for split, i in (*(("train", i) for i in range(5)), *(("validation", i) for i in range(3)))
    ]
    with pytest.raises(UserError, match=r"the decisions leave only one class, 'dogs'\."):
        converted(source, tmp_path / "out", relabel=str(write(tmp_path / "all.csv", rows)))


def test_a_row_makes_a_class_that_classes_lists(source, tmp_path):
    """The new class has no directory, as with --decisions. A name in --classes may look like a list."""
    classes = ["cats", "dogs", "cats|dogs"]
    rows = [{"path": path, "label": "cats|dogs"} for path in WRONG]
    table = str(write(tmp_path / "new.csv", rows))
    facts = converted(source, tmp_path / "out", relabel=table, classes=classes)
    assert [entry["name"] for entry in facts["classes"]] == classes
    assert {path for path, name in labels(tmp_path / "out").items() if name == "cats|dogs"} == set(WRONG)
    assert converted(source, tmp_path / "out", update=True)["digest"] == facts["digest"]
    with pytest.raises(UserError, match=r"--classes: .* has no files of the class 'wolves'\."):
        converted(source, tmp_path / "other", relabel=table, classes=[*classes, "wolves"])


def test_an_update_says_how_to_add_a_class(source, tmp_path):
    converted(source, tmp_path / "out")
    table = str(write(tmp_path / "new.csv", [{"path": WRONG[0], "label": "birds"}]))
    advice = (
        r"is not a class\. .* If it is a new class, put an image of the class into a directory with the name of the"
        " class, or convert again"
    )
    with pytest.raises(UserError, match=advice):
        converted(source, tmp_path / "out", relabel=table, update=True)


def test_update_needs_no_table(source, table, tmp_path):
    copy, out = tmp_path / "pets", tmp_path / "out"
    shutil.copytree(source, copy)
    converted(copy, out, relabel=str(table))
    shutil.copy(copy / "train/cats/003.jpg", copy / "train/cats/new.jpg")
    converted(copy, out, update=True)
    new_labels = labels(out)
    assert new_labels["train/cats/new.jpg"] == "cats"
    assert {path: new_labels[path] for path in WRONG} == {path: other(path) for path in WRONG}


def test_update_of_a_dataset_of_an_earlier_release_needs_the_table_once(source, table, tmp_path):
    out = tmp_path / "out"
    facts = converted(source, out, relabel=str(table))
    old = {name: value for name, value in facts.items() if name not in ("decisions", "decided")}
    (out / "convert.json").write_text(json.dumps(old))
    with pytest.raises(
        UserError,
        match=r"an earlier version of the tool converted .* with a file of new labels .* Pass this file as --relabel in"
        " this command",
    ):
        converted(source, out, update=True)
    converted(source, out, update=True, relabel=str(table))
    assert converted(source, out, update=True)["decisions"] == facts["decisions"]
    assert labels(out)[WRONG[0]] == "dogs"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("nowhere.jpg", "cats")],
            "1 of 1 paths do not match any image in {src}, for example 'nowhere.jpg'. Write paths as in"
            " predictions.csv",
        ),
        ([("cats/000.jpg", "cats")], "for example 'train/cats/000.jpg'."),  # A path without the split.
        (
            [(WRONG[0], "dog")],
            "the label 'dog' of 'train/cats/000.jpg' is not a class. Classes with a similar name are dogs. Correct"
            " the label. If it is"
            " a new class, add it to --classes.",
        ),
        (
            [(WRONG[0], "birds")],
            "the label 'birds' of 'train/cats/000.jpg' is not a class. Classes are cats, dogs. Correct the label.",
        ),
        ([(WRONG[0], "")], "row 1 has no value in the column 'label'. Fill in the value, or delete the row."),
        (
            [(WRONG[0], "cats"), (WRONG[0], "dogs")],
            "rows 1 and 2 have the same path, 'train/cats/000.jpg'. Keep one of the rows.",
        ),
    ],
)
def test_invalid_rows_are_refused(rows, message, source, tmp_path):
    path = write(tmp_path / "relabel.csv", [{"path": path, "label": label} for path, label in rows])
    with pytest.raises(UserError) as error:
        converted(source, tmp_path / "out", relabel=str(path))
    assert message.format(src=source) in str(error.value)


def test_other_tables_are_refused(source, tmp_path):
    with pytest.raises(UserError, match=r"--relabel=nowhere\.csv: does not exist"):
        converted(source, tmp_path / "out", relabel="nowhere.csv")
    path = write(tmp_path / "relabel.csv", [{"path": WRONG[0], "was": "cats"}])
    with pytest.raises(
        UserError, match=r"no column 'label'\. The columns are 'path', 'was'\. The columns path and label must exi"
    ):
        converted(source, tmp_path / "out", relabel=str(path))
