"""Tests of `convert --relabel`: labels of a source that are replaced."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
from image_sources import converted, run, scanned, with_splits

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


def test_tables_of_earlier_releases_work(source, table, tmp_path):
    before = suspects(tmp_path / "before.csv", "label", "was")
    old, new = (scanned(source, relabel=str(path)) for path in (before, table))
    assert list(old.labels) == list(new.labels)
    assert old.notes == new.notes


def test_labels_in_two_columns_are_refused(source, tmp_path):
    path = write(tmp_path / "both.csv", [{"path": WRONG[0], "label": "cats", "predicted_label": "dogs"}])
    message = r"both\.csv: the columns 'label' and 'predicted_label' both hold labels\. Remove one of them\."
    with pytest.raises(UserError, match=message):
        scanned(source, relabel=str(path))


def test_changes_are_printed(source, table, tmp_path):
    done = run("tfrecord_tools.convert", f"--src={source}", f"--relabel={table}", "--dry_run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "  note: 3 images relabeled: 2 from cats to dogs, 1 from dogs to cats\n" in done.stdout
    assert "  note: 1 row of --relabel has no effect: the image has this label already\n" in done.stdout


def test_class_without_images_is_removed(source, tmp_path):
    rows = [
        {"path": f"{split}/cats/{i:03d}.{'png' if i == 2 else 'jpg'}", "label": "dogs"}
        for split, i in (*(("train", i) for i in range(5)), *(("validation", i) for i in range(3)))
    ]
    with pytest.raises(UserError, match="there is only one class, 'dogs'"):
        scanned(source, relabel=str(write(tmp_path / "all.csv", rows)))


def test_update_needs_the_same_table(source, table, tmp_path):
    copy, out = tmp_path / "pets", tmp_path / "out"
    shutil.copytree(source, copy)
    converted(copy, out, relabel=str(table))
    shutil.copy(copy / "train/cats/003.jpg", copy / "train/cats/new.jpg")
    with pytest.raises(UserError, match=r"was converted with --relabel\. .* Pass --relabel with the same file"):
        converted(copy, out, update=True)
    converted(copy, out, update=True, relabel=str(table))
    new_labels = labels(out)
    assert new_labels["train/cats/new.jpg"] == "cats"
    assert {path: new_labels[path] for path in WRONG} == {path: other(path) for path in WRONG}


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
            "the label 'dog' of 'train/cats/000.jpg' is not a class. Use a class of the source, for example dogs.",
        ),
        (
            [(WRONG[0], "birds")],
            "the label 'birds' of 'train/cats/000.jpg' is not a class. Use a class of the source, for example cats,"
            " dogs.",
        ),
        ([(WRONG[0], "")], "row 1 has no value in the column 'label'."),
        (
            [(WRONG[0], "cats"), (WRONG[0], "dogs")],
            "rows 1 and 2 have the same path, 'train/cats/000.jpg'. Keep one of the rows.",
        ),
    ],
)
def test_invalid_rows_are_refused(rows, message, source, tmp_path):
    path = write(tmp_path / "relabel.csv", [{"path": path, "label": label} for path, label in rows])
    with pytest.raises(UserError) as error:
        scanned(source, relabel=str(path))
    assert message.format(src=source) in str(error.value)


def test_other_tables_are_refused(source, tmp_path):
    with pytest.raises(UserError, match=r"--relabel=nowhere\.csv: does not exist"):
        scanned(source, relabel="nowhere.csv")
    path = write(tmp_path / "relabel.csv", [{"path": WRONG[0], "was": "cats"}])
    with pytest.raises(
        UserError, match=r"no column 'label'\. The columns are 'path', 'was'\. The columns path and label must exi"
    ):
        scanned(source, relabel=str(path))
