"""Tests of the rules for directories: splits, classes, left-out files, and ambiguous folders."""

from __future__ import annotations

import csv
import re
import shlex
import time
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from image_sources import image, scanned

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.split_names import SPLITS, split_named
from tfrecord_tools.sources import arrange, folder_names
from tfrecord_tools.sources.scan import Sources

PETS = ("cats", "dogs")


def write_files(root: Path, names: Sequence[str]) -> Path:
    """Write files of one byte. `a/#.jpg*3` means a/0.jpg, a/1.jpg and a/2.jpg."""
    for name in names:
        path, _, count = name.partition("*")
        for number in range(int(count or 1)):
            file = root / path.replace("#", str(number))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x")
    return root


def classes(directory: str, names: Sequence[str] = PETS, count: int = 2) -> list[str]:
    """Patterns for `write_files`: `count` images in a directory of each class."""
    return [f"{directory}/{name}/#.jpg*{count}".lstrip("/") for name in names]


def counts(sources: Sources) -> dict[str, dict[str, int]]:
    """Class -> split ("" for the automatic split) -> number of images."""
    pairs = Counter(
        (sources.class_names[label], split) for label, split in zip(sources.labels, sources.splits.tolist())
    )
    table: dict[str, dict[str, int]] = {}
    for (name, split), number in sorted(pairs.items()):
        table.setdefault(name, {})[SPLITS[split] if split >= 0 else ""] = number
    return table


def each(names: Sequence[str] = PETS, /, **splits: int) -> dict[str, dict[str, int]]:
    return dict.fromkeys(sorted(names), splits)


# --- Names of splits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("TRAINING", "train"),  # Capital letters do not matter.
        ("trn", "train"),
        ("training_set", "train"),  # Words such as set do not matter.
        ("Train Data", "train"),
        ("seg_train", "train"),
        ("train-images", "train"),
        ("data.train", "train"),
        ("train_data_set_2", "train"),
        ("trainset", "train"),  # Words may be written together.
        ("TrainImages", "train"),
        ("train2017", "train"),  # Numbers do not matter.
        ("test1", "test"),
        ("test_001", "test"),
        ("Testing", "test"),
        ("tst", "test"),
        ("holdout", "test"),
        ("val", "validation"),
        ("valid", "validation"),
        ("Validation", "validation"),
        ("dev", "validation"),
        ("devset", "validation"),
        ("eval", "validation"),
        ("val_imgs", "validation"),
        ("test_tube", None),  # Any other word: not a split.
        ("protest", None),
        ("train_station", None),
        ("tests", None),
        ("my_train", None),
        ("testA", None),
        ("latest", None),
        ("devices", None),
        ("trainval", None),  # Two splits in one name: not a split.
        ("train_test", None),
        ("set", None),
        ("2017", None),
        ("", None),
    ],
)
def test_split_names(name: str, split: str | None) -> None:
    assert split_named(name) == split


@pytest.mark.parametrize("name", ["set data " * 2000 + "x", "images" * 5000 + "x", "1" * 50_000, "_" * 50_000 + "x"])
def test_long_names_are_checked_in_linear_time(name: str) -> None:
    """A regular expression with two ways to match would take years."""
    start = time.process_time()
    assert split_named(name) is None
    assert time.process_time() - start < 5


# --- Folders that are read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected", "notes"),
    [
        ([*classes("train"), *classes("test", count=1)], each(train=2, test=1), []),
        ([*classes("a/b/train"), *classes("a/b/val")], each(train=2, validation=2), [r"the directory a/b holds all 8"]),
        (classes("pets"), each(**{"": 2}), ["the directory pets holds all 4 images; it is not a class"]),
        (
            [*classes("Images"), "Annotation/cats/#.xml*2", "lists/train.txt"],
            each(**{"": 2}),
            [
                "the directory Images holds",
                r"3 files are left out, because their directories contain no images: Annotation, lists",
            ],
        ),
        (
            [*classes("train/train"), *classes("test/test")],
            each(train=2, test=2),
            [r"each of test/test, train/train holds all images of its split"],
        ),
        (
            [*classes("train"), *classes("val/images")],  # An extra directory in one split only.
            each(train=2, validation=2),
            ["each of val/images holds"],
        ),
        (
            [*classes("train"), *classes("val", ["cats"])],
            {"cats": {"train": 2, "validation": 2}, "dogs": {"train": 2}},
            [],
        ),
        (
            [
                *classes("train", ["cats/images", "dogs/images"]),
                "val/cats/images/1.jpg",
            ],  # The only class of val is not skipped.
            {"cats": {"train": 2, "validation": 1}, "dogs": {"train": 2}},
            [],
        ),
        (
            [*classes("cats", ["train", "val"]), *classes("dogs", ["train", "val", "test"])],
            {"cats": {"train": 2, "validation": 2}, "dogs": {"train": 2, "validation": 2, "test": 2}},
            [],
        ),
        (
            [*classes("train"), "test/#.jpg*5"],
            each(train=2),
            ["5 files are left out: test has no labels, since it has no class directories"],
        ),
        ([*classes("train"), "test1/test1/#.jpg*5"], each(train=2), ["5 files are left out: test1 has no labels"]),
        ([*classes("train"), "test/unknown/#.jpg*5"], each(train=2), ["5 files are left out: test has no labels"]),
        (
            ["train/cat.#.jpg*9", "train/dog.#.jpg*9", "test/#.jpg*7"],
            each(["cat", "dog"], train=9),
            ["the classes of 18 images come from the names of the files", "7 files are left out: test has no labels"],
        ),
        (
            ["train/cat.#.jpg*9", "train/dog.#.jpg*9", "test/test_#.jpg*7"],  # "test" in a file name is not a class.
            each(["cat", "dog"], train=9),
            [
                "the classes of 18 images",
                "7 files are left out: test has no labels, since the names of its files do not",
            ],
        ),
        (
            [*classes("animal", ["cat", "dog"]), *classes("vehicle", ["bus", "car"])],
            each(["animal", "vehicle"], **{"": 4}),
            [
                r"8 images in subdirectories are merged into their class: animal \(cat, dog\), vehicle \(bus, car\);"
                " --classes=bus,car,cat,dog makes them classes"
            ],
        ),
        (
            [*classes("cats", ["images", "masks"]), *classes("dogs", ["images", "masks"])],
            each(**{"": 4}),
            [
                "8 images in subdirectories are merged into their class: images, masks in each of cats, dogs;"
                r" --exclude='\*\*/masks' leaves masks out"
            ],
        ),
        (classes("", ["cats/images", "dogs/images"]), each(**{"": 2}), []),
        (
            [
                *classes(""),
                *classes("cats", ["new", "old"]),
                *classes("dogs", ["new", "old"]),
            ],  # Some images are directly in cats.
            each(**{"": 6}),
            ["8 images in subdirectories are merged into their class: new, old in each of cats, dogs"],
        ),
        (classes("", ["cats/2019", "dogs/2019"]), each(**{"": 2}), ["4 images in subdirectories are merged"]),
        (
            [*classes("", PETS), "models/model.h5", "ckpt/model.data-00000-of-00001", "README", "a.csv"],
            each(**{"": 2}),
            [
                "2 files are left out, because their directories contain no images: ckpt, models",
                "2 files are left out, because they are not in a class",
            ],
        ),
        (["images/cat.#.jpg*5", "images/dog.#.jpg*5"], each(["cat", "dog"], **{"": 5}), ["the directory images", "10"]),
        (
            [*classes("train", ["Cat", "Dog"]), *classes("val", ["cat", "DOG"])],
            each(["Cat", "Dog"], train=2, validation=2),
            [
                "2 classes have names that differ only by capital letters. Each is read as one class with the first of"
                " its names: Cat and cat, Dog and DOG",
            ],
        ),
        (
            [*classes("train", ["Cat", "dog"]), *classes("val", ["cat", "dog"])],
            each(["Cat", "dog"], train=2, validation=2),
            ["Cat and cat are read as one class, Cat, because the names differ only by capital letters"],
        ),
    ],
)
def test_folders_that_are_read(tmp_path: Path, names: list[str], expected: dict[str, Any], notes: list[str]) -> None:
    sources = scanned(write_files(tmp_path, names))
    assert counts(sources) == expected
    assert sources.rejected == ()
    assert len(sources.notes) == len(notes)
    for note, pattern in zip(sources.notes, notes):
        assert re.search(pattern, note), note


def test_unicode_forms_are_one_name(tmp_path: Path) -> None:
    forms: dict[str, Literal["NFC", "NFD"]] = {"train": "NFC", "val": "NFD"}
    for split, form in forms.items():
        write_files(tmp_path, classes(split, [unicodedata.normalize(form, name) for name in ("고양이", "Müsli")]))
    sources = scanned(tmp_path)
    assert sources.class_names == ("Müsli", "고양이")
    assert all(unicodedata.is_normalized("NFC", name) for name in sources.class_names)
    assert counts(sources) == each(sources.class_names, train=2, validation=2)
    given = [unicodedata.normalize("NFD", name) for name in sources.class_names]
    assert scanned(tmp_path, classes=given).class_names == sources.class_names


def test_files_without_endings_are_opened(tmp_path: Path) -> None:
    for path in ("a/1", "a/2", "b/1", "b/2.image"):
        write_files(tmp_path, [path])
        (tmp_path / path).write_bytes(image(path))
    sources = scanned(write_files(tmp_path, ["notes/1"]))
    assert list(sources.paths) == ["a/1", "a/2", "b/1", "b/2.image"]
    assert sources.notes == ("1 file is left out, because their directories contain no images: notes",)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("a.jpg", True), ("a.JPEG", True), ("a.tar.png", True), ("jpg", False), ("x.jpg/a", False), ("a.jpg.txt", False)],
)
def test_image_endings(name: str, counts: bool) -> None:
    assert folder_names.has_image_ending(name) == counts


def test_file_named_like_an_ending_is_left_out(tmp_path: Path) -> None:
    sources = scanned(
        write_files(tmp_path, [*classes("a.jpg"), *classes("b.jpg"), "jpg", "g"]), classes=["cats", "dogs"]
    )
    assert sources.rejected == ()
    assert sources.notes[1:] == ("2 files are left out, because they are not in a class directory: g, jpg",)


# --- Folders with two possible meanings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            [*classes("train"), *classes("test"), "pred/#.jpg*3"],
            "test and train are named like splits, but pred is not, and all of them contain images. Pass"
            " --split=test=test --split=train=train, or --exclude=pred, to use only the splits. Pass"
            " --classes=pred,test,train if all of them are classes.",
        ),
        (classes("", ["bus", "train"]), "train is named like a split, but bus is not, and all of them contain images."),
        ([*classes("trainval"), *classes("test")], "test is named like a split, but trainval is not"),
        (
            [*classes("train_1"), *classes("train_2")],
            "train_1 and train_2 mean the same split, train. Pass --split=train=train_1 --split=train=train_2 to use"
            " all of them, or pass --exclude=train_2 to use only train_1.",
        ),
        (
            [*classes("site_a"), *classes("site_b")],
            "site_a and site_b contain directories with the same names (cats, dogs). If the upper"
            " directories are splits, pass --split=train=site_a --split=validation=site_b (one for each directory). If"
            " the lower directories are the classes and there are no splits, pass --classes=cats,dogs. If the upper"
            " directories are the classes, pass --classes=site_a,site_b.",
        ),
        (
            [*classes("a", ["x", "y", "z"]), *classes("b", ["x", "y"])],
            "a and b contain directories with the same names (x, y)",
        ),
        ([*classes("a/images"), *classes("b/images")], "a and b contain directories with the same names (cats, dogs)"),
        (
            [*classes("train/a"), *classes("train/b"), *classes("val/a"), *classes("val/b")],  # Also within splits.
            "--split=train=train/a --split=validation=train/b (one for each directory)",
        ),
        (
            [*classes("a/train"), *classes("a/test"), *classes("b/train"), *classes("b/test")],
            "--split=test=a/test --split=train=a/train --split=test=b/test --split=train=b/train",
        ),
        (
            [*classes("cats", ["train", "test"]), *classes("dogs", ["train", "test", "extra"])],
            "cats contains splits (test, train), but dogs/extra is not a split. Leave dogs/extra out with"
            " --exclude=dogs/extra. Or pass --classes=cats,dogs: all images below the directory of a class are then"
            " images of this class, and the splits are ignored.",
        ),
        (
            [*classes("cats", ["train"]), "dogs/1.jpg"],
            "but dogs has images that are in no split. Leave dogs out with --exclude=dogs. Or pass",
        ),
        (
            ["images/#.jpg*3", "masks/#.png*3"],
            "images and masks are names of kinds of files, not of classes. Leave out the directories that you do not"
            " need, for example with --exclude=masks. If the directories are classes, pass --classes=images,masks.",
        ),
        ([*classes("images"), *classes("masks")], "images and masks are names of kinds of files, not of classes."),
        (
            ["train/#.jpg*3", *classes("val")],
            "train has no class directories, but other splits have them. Expected cat_dog_img/train/cats/1.jpg"
            " (split/class/image) or cat_dog_img/cats/1.jpg (class/image). Leave train out with --exclude=train, or"
            " pass a table of the labels as --manifest.",
        ),
        (
            [*classes("", ["yes", "no"]), *classes("scans", ["yes", "no"])],  # A copy of the classes.
            "scans contains directories with the same names as the directories beside it (no, yes). If scans is a copy"
            " of the classes, leave it out with --exclude=scans. If scans is a class, pass --classes=no,scans,yes.",
        ),
        (
            [*classes("asl_test", ["A", "B"]), *classes("asl_train", ["A", "B", "C"])],
            "the names of asl_test and asl_train differ only by the name of a split. If these directories are splits,"
            " pass --split=test=asl_test --split=train=asl_train. If they are classes, pass"
            " --classes=asl_test,asl_train.",
        ),
        (
            [*classes("rps"), *classes("rps-test-set")],
            "If these directories are splits, pass --split=train=rps --split=test=rps-test-set. If",
        ),
        (
            ["part_1/#.jpg*3", "part_2/#.jpg*3", "labels.csv"],  # Without the table, they are classes.
            "the names of part_1 and part_2 differ only by numbers, and labels.csv may contain the labels. If this"
            " table contains the labels, pass --manif",
        ),
        (
            ["images/Train_#.jpg*5", "images/Test_#.jpg*5", "train.csv"],
            "If train.csv holds the labels, pass --manifest=",
        ),
        (
            ["IMG_#.jpg*5", "DSC_#.jpg*5"],
            "10 images are not in a class directory, for example DSC_0.jpg.",  # Names that cameras give.
        ),
        (
            ["video1_frame#.jpg*5", "video2_frame#.jpg*5"],
            "10 images are not in a class directory, for example video1_frame0.jpg.",
        ),
        (
            [*classes("", ["d [1]", "it's"]), *classes("train", ["x"])],
            "--exclude='d [[]1]' --exclude='it'\"'\"'s', to use only the splits.",
        ),
        (classes("train", ["Cat", "cat", "dog"]), "the class name 'cat' differs from 'Cat' only by capital letters."),
        (["train/#.jpg*3", "test/#.jpg*2"], "5 images are not in a class directory, for example test/0.jpg."),
    ],
)
def test_ambiguous_folders_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        scanned(write_files(tmp_path, names))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("names", "settings", "expected"),
    [
        (
            [*classes("site_a"), *classes("site_b")],
            {"split": ["train=site_a", "test=site_b"]},
            each(train=2, test=2),
        ),
        (
            [*classes("fold_0"), *classes("fold_1"), *classes("fold_2")],  # Several directories for one split.
            {"split": ["val=fold_0", "train=fold_1", "train=./fold_2/"]},
            each(validation=2, train=4),
        ),
        ([*classes("site_a"), *classes("site_b")], {"classes": ["cats", "dogs"]}, each(**{"": 4})),
        (
            [*classes("site_a"), *classes("site_b")],
            {"classes": ["site_a", "site_b"]},
            each(["site_a", "site_b"], **{"": 4}),
        ),
        ([*classes("train"), "pred/#.jpg*3"], {"exclude": ["pred/**"]}, each(train=2)),
        ([*classes("train"), "pred/#.jpg*3"], {"exclude": ["pred"]}, each(train=2)),
        ([*classes("train"), "pred/#.jpg*3"], {"split": ["train=train"]}, each(train=2)),
        (classes("", ["bus", "train"]), {"classes": ["bus", "train"]}, each(["bus", "train"], **{"": 2})),
        ([*classes("images"), *classes("masks")], {"exclude": ["masks"]}, each(**{"": 2})),
        (
            [*classes("cats", ["images", "masks"]), *classes("dogs", ["images"])],
            {"exclude": ["*/masks/**"]},
            each(**{"": 2}),
        ),
        (
            [*classes("animal", ["cat", "dog"]), *classes("vehicle", ["bus", "car"])],
            {"classes": ["bus", "car", "cat", "dog"]},
            each(["bus", "car", "cat", "dog"], **{"": 2}),
        ),
        (
            [*classes("a/train"), *classes("a/test"), *classes("b/train"), *classes("b/test")],
            {"split": ["train=a/train", "train=b/train", "test=a/test", "test=b/test"]},
            each(train=4, test=4),
        ),
        (
            [
                "x/cat_1.jpg",
                "x/dog_1.jpg",
                "y/cat_2.jpg",
                "z/dog_9.jpg",
            ],
            # Classes by --label_regex, splits by --split.
            {"label_regex": r"/(\w+)_\d", "split": ["train=x", "test=y"]},
            {"cat": {"train": 1, "test": 1}, "dog": {"train": 1}},
        ),
        (
            ["train/a_1.jpg", "bus/b_1.jpg"],  # A class called train, with --label_regex.
            {"label_regex": r"^(\w+)/", "classes": ["bus", "train"]},
            each(["bus", "train"], **{"": 1}),
        ),
        (
            ["train/cat_1.jpg", "train/dog_1.jpg", "test1/1.jpg"],  # --label_regex matches no file of test1.
            {"label_regex": r"/(\w+)_\d"},
            each(["cat", "dog"], train=1),
        ),
    ],
)
def test_flags_resolve_ambiguous_folders(
    tmp_path: Path, names: list[str], settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    sources = scanned(write_files(tmp_path, names), **settings)
    assert counts(sources) == expected
    assert sources.rejected == ()


FLAG = re.compile(r"--(?:split|exclude|classes)=(?:'[^']*'(?:\"'\"'[^']*')*|[^\s,;.]\S*[^\s,;.])")


@pytest.mark.parametrize(
    "names",
    [
        [*classes("train"), *classes("test"), "pred/#.jpg*3"],
        classes("", ["bus", "car", "train"]),
        [*classes("train_1"), *classes("train_2")],
        [*classes("site_a"), *classes("site_b")],
        [*classes("a/train"), *classes("a/test"), *classes("b/train"), *classes("b/test")],
        [*classes("images"), *classes("masks")],
        [*classes("", ["yes", "no"]), *classes("scans", ["yes", "no"])],
        [*classes("asl_test", ["A", "B"]), *classes("asl_train", ["A", "B", "C"])],
        [*classes("train", ["x", "y"]), *classes("", ["d [1]", "it's", "a, b"])],
    ],
)
def test_flags_in_messages_work_as_printed(tmp_path: Path, names: list[str]) -> None:
    """The printed flags of each kind can be copied, and lead to a dataset."""
    with pytest.raises(UserError) as caught:
        scanned(write_files(tmp_path, names))
    printed = shlex.split(" ".join(FLAG.findall(str(caught.value))))
    assert printed
    for kind in ("split", "exclude"):
        values = [flag.partition("=")[2] for flag in printed if flag.startswith(f"--{kind}=")]
        assert not values or len(scanned(tmp_path, **{kind: values}))
    for flag in printed:
        if flag.startswith("--classes="):
            (names,) = csv.reader([flag.partition("=")[2]])
            assert scanned(tmp_path, classes=names).class_names == tuple(names)


def test_texts_beside_images_are_left_out(tmp_path: Path) -> None:
    sources = scanned(write_files(tmp_path, [*classes(""), "cats/boxes.txt", "cats/0.json", "dogs/purr.wav"]))
    assert [path for path in sources.paths if not path.endswith(".jpg")] == ["dogs/purr.wav"]
    assert sources.notes == (
        "2 files are left out: text files and tables in the same directories as the images of a class",
    )


def test_directories_without_split_flag_are_left_out(tmp_path: Path) -> None:
    sources = scanned(write_files(tmp_path, [*classes("a"), *classes("b", count=3)]), split=["train=a"])
    assert sources.notes == ("6 files are left out: no --split includes their directory",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"split": ["train=zebra"]},
            r"--split=train=zebra: .* has no directory 'zebra' with images\. The directories at the top of --src are: a"
            r" and b\.",
        ),
        (
            {"split": ["later=a"]},
            r"--split=later=a: must be NAME=DIR, for example --split=train=site_a\. NAME must be one of tr",
        ),
        ({"split": ["train"]}, r"--split=train: must be NAME=DIR"),
        (
            {"split": ["train=a", "test=a"]},
            r"--split=test=a: --split=train=a already includes these images\. Name each directory",
        ),
        ({"split": ["train=a", "test=a/cats"]}, r"--split=test=a/cats: --split=train=a already includes these images"),
        ({"exclude": ["c/**"]}, r"--exclude=c/\*\*: no path in .* matches\. Paths look like 'a/cats/0\.jpg'\."),
        ({"exclude": ["[z-a]/**"]}, r"--exclude=\[z-a\]/\*\*: is not a valid pattern: bad character range z-a"),
        (
            {"exclude": ["a", "b"]},
            r"--exclude=a --exclude=b: all files in .* match, so no file is left\. Remove a pattern\.",
        ),
        ({"zip_encoding": "cp94"}, r"--zip_encoding=cp94: is not a known encoding\. Common ones are cp949 \(Korean\)"),
    ],
)
def test_invalid_flags_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    write_files(tmp_path, [*classes("a"), *classes("b")])
    with pytest.raises(UserError, match=message):
        scanned(tmp_path, **settings)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("a/**", "a/b/c.jpg", True),
        ("a", "a/b/c.jpg", True),  # A directory matches everything in it.
        ("a/", "a/b.jpg", True),
        ("./a", "a/b.jpg", True),
        ("a", "ab/c.jpg", False),
        ("*/masks/**", "cats/masks/1.png", True),
        ("*/masks", "cats/x/masks/1.png", False),  # One star matches within a name.
        ("**/masks", "cats/x/masks/1.png", True),  # Two stars match any directories.
        ("**/masks", "masks/1.png", True),  # Two stars also match no directory.
        ("*.gif", "a.gif", True),
        ("*.gif", "x/a.gif", False),
        ("**/*.gif", "x/a.gif", True),
        ("**.gif", "x/a.gif", True),
        ("x/?.jpg", "x/1.jpg", True),
        ("x/?.jpg", "x/12.jpg", False),
        ("x/[12].jpg", "x/2.jpg", True),
        ("x/[!12].jpg", "x/2.jpg", False),
        ("x/a+(b).jpg", "x/a+(b).jpg", True),  # Other characters match themselves.
        ("x/a.jpg", "x/abjpg", False),
    ],
)
def test_exclude_patterns(pattern: str, path: str, matches: bool) -> None:
    assert (arrange.glob(pattern).fullmatch(path) is not None) == matches
