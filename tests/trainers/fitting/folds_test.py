"""Folds: what belongs together stays together, classes are spread, and the file names the records."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import converted, image, tree
from PIL import Image

from tfrecord_tools.base import tabular
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import index
from tfrecord_tools.records import Dataset, open_dataset
from trainers.fitting import folds
from trainers.fitting.folds import Folds

COUNTS = {
    "train/cats": 26,
    "train/dogs": 13,
    "validation/cats": 10,
    "validation/dogs": 7,
    "test/cats": 5,
    "test/dogs": 5,
}


def picture(seed: int, size: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (10, 10, 3), np.uint8)
    return Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).resize((size, size))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset with a copy and three near-duplicates in other splits, and groups of three images."""
    root = tmp_path_factory.mktemp("folds")
    tree(root / "src", COUNTS)
    shutil.copy(root / "src/train/cats/000.jpg", root / "src/validation/cats/copy.jpg")
    for number in range(3):
        picture(number, 64).save(root / f"src/train/dogs/picture{number}.png")
        picture(number, 32).save(root / f"src/validation/dogs/picture{number}_half.png")
    for number in range(12):
        (root / f"src/train/cats/owner{number // 3}_{number}.jpg").write_bytes(image(f"owned{number}"))
    converted(root / "src", root / "out", group_regex=r"(owner\d+)_")
    return root / "out"


@pytest.fixture(scope="module")
def data(out: Path) -> Dataset:
    return open_dataset(out)


def assigned(data: Dataset, directory: Path, count: int = 5, seed: int = 0) -> Folds:
    return folds.assign(data, count, seed, directory, lambda line: None)[0]


def by_name(found: Folds) -> dict[str, set[int]]:
    """Return the folds of the images with a common beginning of their names."""
    groups = defaultdict(set)
    for path, fold in zip(found.records.paths, found.folds.tolist()):
        groups[Path(path).stem.partition("_")[0]].add(fold)
    return groups


def test_what_belongs_together_stays_in_one_fold(data: Dataset, tmp_path: Path) -> None:
    found = assigned(data, tmp_path)
    fold_of = dict(zip(found.records.paths, found.folds.tolist()))
    assert fold_of["train/cats/000.jpg"] == fold_of["validation/cats/copy.jpg"]
    groups = by_name(found)
    for name in ("picture0", "picture1", "picture2", "owner0", "owner1", "owner2", "owner3"):
        assert len(groups[name]) == 1, name
    for unit in np.unique(found.units):
        assert len(set(found.folds[found.units == unit].tolist())) == 1
    # Not more than these belongs together: 75 images in 7 groups of 2 or 3 and single images.
    assert len(found.records) == 75
    assert len(np.unique(found.units)) == 75 - 1 - 3 - 4 * 2


def test_each_fold_has_the_same_share_of_each_class_and_no_test_image(data: Dataset, tmp_path: Path) -> None:
    found = assigned(data, tmp_path)
    assert found.records.splits == ("train", "validation")
    _, first = np.unique(found.units, return_index=True)
    for label in range(2):
        counts = np.bincount(found.folds[first][found.records.labels[first] == label], minlength=6)[1:]
        assert counts.max() - counts.min() <= 1
    assert found.numbers == [1, 2, 3, 4, 5]


def test_folds_depend_on_the_images_and_the_seed_only(data: Dataset, out: Path, tmp_path: Path) -> None:
    found = assigned(data, tmp_path)
    shutil.copytree(out, tmp_path / "again")
    again = assigned(open_dataset(tmp_path / "again"), tmp_path)
    np.testing.assert_array_equal(found.folds, again.folds)
    assert (assigned(data, tmp_path, seed=1).folds != found.folds).any()


def test_missing_hashes_are_computed(out: Path, data: Dataset, tmp_path: Path) -> None:
    """Datasets of earlier versions have no perceptual hashes."""
    old = tmp_path / "old"
    shutil.copytree(out, old)
    table = pq.read_table(old / index.FILE_NAME).drop_columns(list(index.LOOK))
    pq.write_table(table, old / index.FILE_NAME)
    found = assigned(open_dataset(old), tmp_path)
    np.testing.assert_array_equal(found.folds, assigned(data, tmp_path).folds)
    assert len(list(tmp_path.glob("*/facts.npy"))) == 2  # One per split, as an audit needs them.


def test_the_file_names_the_same_records(data: Dataset, tmp_path: Path) -> None:
    found = assigned(data, tmp_path)
    folds.write(tmp_path / "folds.csv", found, data.class_names)
    back = folds.read(str(tmp_path / "folds.csv"), data)
    assert list(back.records.paths) == list(found.records.paths)
    np.testing.assert_array_equal(back.folds, found.folds)
    np.testing.assert_array_equal(back.units, found.units)
    train, validation = back.divided(2)
    assert sorted([*train.paths, *validation.paths]) == sorted(found.records.paths)
    assert set(validation.paths) == {path for path, fold in zip(found.records.paths, found.folds) if fold == 2}
    before = (tmp_path / "folds.csv").read_bytes()
    folds.write(tmp_path / "folds.csv", assigned(data, tmp_path), data.class_names)
    assert (tmp_path / "folds.csv").read_bytes() == before


def test_a_file_of_ones_own(data: Dataset, tmp_path: Path) -> None:
    """Any subset, any order, any numbers of folds, as for one fold per hospital."""
    rows = [("validation", 3, 20), ("train", 7, 10), ("train", 0, 20)]
    path = tmp_path / "own.parquet"
    columns = dict(zip(("split", "record", "fold"), map(list, zip(*rows))))
    pq.write_table(pa.table({"hospital": ["a", "b", "a"], **columns}), path)
    found = folds.read(str(path), data)
    assert [*zip(*found.records.places)] == [(split, record) for split, record, _ in rows]
    assert (found.numbers, found.units.tolist()) == ([10, 20], [0, 1, 2])
    assert folds.is_table(str(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("split,record,fold\n", True), ("3\n4\n", False), ("\ufefffold;record;split\n", True), ("", False)],
)
def test_tables_of_folds_are_recognized(text: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "numbers.txt").write_text(text, encoding="utf-8")
    assert folds.is_table(str(tmp_path / "numbers.txt")) == expected
    assert not folds.is_table(str(tmp_path / "nowhere.txt"))
    assert not folds.is_table(str(tmp_path / "nowhere.parquet"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"split": "train", "record": 0}], "has no column 'fold'. With --fold, the file must be a table with the"),
        (
            [{"split": "test", "record": 0, "fold": 1}],
            "'test' is not a split for cross-validation. Allowed splits: train, validation. The test split is kept"
            " for the final evaluation.",
        ),
        (
            [{"split": "train", "record": 9_000, "fold": 1}],
            "record 9,000 of the split train does not exist. Perhaps the file was made for another dataset. Make the"
            " file again",
        ),
        (
            [{"split": "train", "record": 1, "fold": 1}] * 2,
            "a record is in two rows. Each record may be in one row only.",
        ),
        ([{"split": "train", "record": 1, "fold": "a"}], "'a' in the column 'fold' is not a whole number. Correct the"),
        (
            [{"split": "train", "record": "", "fold": "1"}],
            "'' in the column 'record' is not a whole number. Correct the",
        ),
    ],
)
def test_wrong_files_are_reported(rows: list[dict[str, object]], message: str, data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    tabular.write_csv(path, list(rows[0]), rows)
    with pytest.raises(UserError) as error:
        folds.read(str(path), data)
    assert str(error.value).startswith(f"--records={path}: {message}")


def test_too_few_groups_are_reported(tmp_path: Path) -> None:
    converted(tree(tmp_path / "src", {"train/cats": 2, "train/dogs": 2}), tmp_path / "out")
    with pytest.raises(UserError) as error:
        assigned(open_dataset(tmp_path / "out"), tmp_path, count=5)
    assert str(error.value) == (
        "--folds=5: the 4 records of train form 4 groups of images that must stay together. Each fold needs at"
        " least one group. Pass --folds=4 or less, or convert more images."
    )


def test_groups_and_classes_that_do_not_fit_are_noted(tmp_path: Path) -> None:
    tree(tmp_path / "src", {"train/cats": 8, "train/dogs": 8, "train/emus": 1, "train/foxes": 2})
    for number in range(9):
        (tmp_path / f"src/train/cats/herd_{number}.jpg").write_bytes(image(f"herd{number}"))
    converted(tmp_path / "src", tmp_path / "out", group_regex="(herd)_")
    notes = folds.assign(open_dataset(tmp_path / "out"), 4, 0, tmp_path, lambda line: None)[1]
    assert notes == [
        "9 of 28 images are copies or near-duplicates of each other, or belong to one group. They stay in one fold,"
        " which is larger than the others.",
        "all images of class 'emus' are in one fold. The model that is validated on this fold is trained without"
        " images of this class.",
        "class 'foxes' has images in 2 of 4 folds. In the other folds, this class is not evaluated.",
    ]


def test_many_classes_have_one_note(tmp_path: Path) -> None:
    names = ("ants", "bees", "emus", "gnus")
    tree(tmp_path / "src", {f"train/{name}": 1 + (name in "emus gnus") for name in names} | {"train/cats": 9})
    converted(tmp_path / "src", tmp_path / "out")
    notes = folds.assign(open_dataset(tmp_path / "out"), 4, 0, tmp_path, lambda line: None)[1]
    assert notes == [
        "each of 2 classes has all its images in one fold: 'ants', 'bees'. The model that is validated on that fold is"
        " trained without images of the class.",
        "2 classes do not have images in all 4 folds: 'emus', 'gnus'. A class is not evaluated in a fold without its"
        " images.",
    ]
