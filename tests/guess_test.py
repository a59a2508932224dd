"""Tests of what is guessed of others' TFRecords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import image

from tfrecord_tools import guess
from tfrecord_tools.errors import UserError
from tfrecord_tools.examples import Feature
from tfrecord_tools.schema import Keys

JPEG = image(1)
IMAGENET = {
    "image/encoded": JPEG, "image/class/label": 7, "image/class/text": b"cock", "image/class/synset": b"n01514668",
    "image/filename": b"n01514668_1.JPEG", "image/height": 9, "image/width": 12, "image/colorspace": b"RGB",
    "image/object/bbox/xmin": [0.1, 0.2], "image/object/bbox/label": [7, 7],
}  # fmt: skip


def features(values: dict[str, Any]) -> dict[str, Feature]:
    """What `examples.parse` gives of such values."""

    def feature(value: Any) -> Feature:
        values = value if isinstance(value, list) else [value]
        kind = {bytes: "bytes", int: "int64", float: "float"}[type(values[0])]
        return Feature(kind, values if kind == "bytes" else np.array(values))

    return {name: feature(value) for name, value in sorted(values.items())}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (IMAGENET, Keys(image="image/encoded", label="image/class/label", path="image/filename")),
        ({"image": JPEG, "label": 1}, Keys(path="")),  # Most of TensorFlow Datasets.
        ({"image": JPEG, "label": 1, "image/filename": b"a.jpg"}, Keys()),  # Its image folders, and ours.
        ({"image": JPEG, "class": 3, "id": b"a1"}, Keys(label="class", path="id")),  # Kaggle's flowers.
        ({"image": JPEG, "class": 3, "id": b""}, Keys(label="class", path="")),
        ({"picture": JPEG, "kind": 0}, Keys(image="picture", label="kind", path="")),  # One of each.
        ({"image": b"no image", "photo": JPEG, "label": 0}, Keys(image="photo", path="")),  # Content decides.
    ],
)
def test_keys(values: dict[str, Any], expected: Keys) -> None:
    assert guess.keys(features(values), None, None, "a: the first record") == expected


def test_keys_that_are_given() -> None:
    values = features(IMAGENET | {"thumbnail": JPEG})
    assert guess.keys(values, "thumbnail", "image/height", "a") == Keys(
        image="thumbnail", label="image/height", path="image/filename"
    )


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        (
            {"pixels": [1.0, 2.0], "label": 1},
            (None, None),
            r"^a: no feature holds an encoded image\. Name it with --image_key\."
            r" It has label \(1 int64\), pixels \(2 float\)\.$",
        ),
        (
            {"x": JPEG, "y": JPEG, "label": 1},
            (None, None),
            r"^a: several features hold an encoded image\. .*1 bytes, JPEG",
        ),
        (
            {"image": JPEG, "a": 1, "b": 2},
            (None, None),
            r"^a: several features hold one whole number, the label\. Name it",
        ),
        ({"image": JPEG, "label": [1, 2]}, (None, None), r"^a: no feature holds one whole number.*label \(2 int64\)"),
        (
            {"image": JPEG, "label": 1},
            ("img", None),
            r"^--image_key=img: a has no such feature that holds an encoded image\.",
        ),
        (
            {"image": JPEG, "label": 1},
            (None, "image"),
            r"^--label_key=image: a has no such feature that holds one whole",
        ),
    ],
)
def test_keys_that_cannot_be_told(values: dict[str, Any], given: tuple[Any, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        guess.keys(features(values), *given, "a")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("d/train-00000-of-01024", "train"),
        ("d/validation-00000-of-00128", "validation"),
        ("d/flowers-test.tfrecord-00000-of-00001", "test"),
        ("d/Val_3.tfrec", "validation"),
        ("flowers/val/00-224x224-462.tfrec", "validation"),
        ("test/00-of-10.tfrecord", "test"),
        ("train/validation-00000-of-00002", "validation"),  # The file's own name goes before.
        ("d/00-224x224-798.tfrec", None),
        ("test_of_train/00-of-02.tfrec", None),  # A directory's is the whole name, lest any word on the way decides.
        ("d/trained-00000-of-00002", None),  # A word of its own is meant.
    ],
)
def test_split_of_a_file(tmp_path: Path, path: str, expected: str | None) -> None:
    assert guess.split_of(tmp_path / path) == expected


def test_splits_that_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"train_and_test\.tfrec: its name says both test and train\. Name the files of each split"
    ):
        guess.splits([tmp_path / "train_and_test.tfrec"])
    with pytest.raises(
        UserError, match=r"b\.tfrec: neither its name nor its directory's says .* while .*train\.tfrec is of"
    ):
        guess.splits([tmp_path / "train.tfrec", tmp_path / "b.tfrec"])


def test_without_any_name_all_is_train(tmp_path: Path) -> None:
    assert guess.splits([tmp_path / "a.tfrec", tmp_path / "b.tfrec"]) == {
        "train": [tmp_path / "a.tfrec", tmp_path / "b.tfrec"]
    }


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ({0, 1, 2}, None, 0),
        ({1, 2, 3}, None, 1),
        ({2, 3}, None, 0),  # Two empty classes, or anything: it is left as it is.
        ({1, 2, 3}, 3, 1),
        ({1, 2}, 3, 0),  # The first of three classes has no images.
    ],
)
def test_label_offset(labels: set[int], names: int | None, expected: int) -> None:
    assert guess.label_offset(labels, names) == expected


def test_class_names_are_told_apart() -> None:
    texts = {1: "tench", 2: "crane", 4: "crane"}
    assert guess.class_names({1, 2, 4}, texts, 1) == ("tench", "crane (2)", "3", "crane (4)")
    assert guess.class_names({0, 2}, {}, 0) == ("0", "1", "2")


@pytest.mark.parametrize(("path", "name"), [("a/flowers/1.tfrec", "flowers"), ("a/flowers/3.0.1/x", "flowers")])
def test_name(tmp_path: Path, path: str, name: str) -> None:
    assert guess.dataset_name(tmp_path / path) == name
