"""Tests of the guesses about third-party TFRecords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import image

from tfrecord_tools.errors import UserError
from tfrecord_tools.foreign import guess_keys
from tfrecord_tools.foreign.example_parser import Feature
from tfrecord_tools.foreign.forms import INDEX, NUMBER, ONE_HOT, TEXT, Pixels
from tfrecord_tools.layout.schema import Keys

JPEG = image(1)
IMAGENET = {
    "image/encoded": JPEG, "image/class/label": 7, "image/class/text": b"cock", "image/class/synset": b"n01514668",
    "image/filename": b"n01514668_1.JPEG", "image/height": 9, "image/width": 12, "image/colorspace": b"RGB",
    "image/object/bbox/xmin": [0.1, 0.2], "image/object/bbox/label": [7, 7],
}  # fmt: skip


def features(values: dict[str, Any]) -> dict[str, Feature]:
    """Return values in the form that `example_parser.parse` returns."""

    def feature(value: Any) -> Feature:
        values = value if isinstance(value, list) else [value]
        kind = {bytes: "bytes", int: "int64", float: "float"}[type(values[0])]
        return Feature(kind, values if kind == "bytes" else np.array(values))

    return {name: feature(value) for name, value in sorted(values.items())}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (IMAGENET, Keys(image="image/encoded", label="image/class/label", path="image/filename")),
        ({"image": JPEG, "label": 1}, Keys(path="")),  # Most datasets of TensorFlow Datasets.
        (
            {"image": JPEG, "label": 1, "image/filename": b"a.jpg"},
            Keys(),
        ),  # Image folders of TensorFlow Datasets, and records of this tool.
        ({"image": JPEG, "class": 3, "id": b"a1"}, Keys(label="class", path="id")),  # Kaggle's flowers.
        ({"image": JPEG, "class": 3, "id": b""}, Keys(label="class", path="")),
        (
            {"picture": JPEG, "kind": 0},
            Keys(image="picture", label="kind", path=""),
        ),  # There is only one image and one number.
        ({"image": b"no image", "photo": JPEG, "label": 0}, Keys(image="photo", path="")),  # The content decides.
    ],
)
def test_keys(values: dict[str, Any], expected: Keys) -> None:
    assert guess_keys.form([features(values)], None, None, "a: the first record").keys == expected


def test_given_keys() -> None:
    values = features(IMAGENET | {"thumbnail": JPEG})
    assert guess_keys.form([values], "thumbnail", "image/height", "a").keys == Keys(
        image="thumbnail", label="image/height", path="image/filename"
    )


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        (
            {"pixels": [1.0, 2.0], "label": 1},
            (None, None),
            r"^a: no feature holds an encoded image or raw pixels\. Pass the right feature as --image_key\."
            r" The features \(fields\) of the records: label \(1 int64\), pixels \(2 float\)\.$",
        ),
        (
            {"left": JPEG, "right": JPEG, "label": 1},
            (None, None),
            r"^a: several features hold an encoded image or raw pixels\. .*1 bytes, JPEG",
        ),
        (
            {"image": JPEG, "a": 1, "b": 2},
            (None, None),
            r"^a: several features hold a label: one whole number, .*\. Pass the right feature as --label_key",
        ),
        (
            {"image": JPEG, "label": [1, 2]},
            (None, None),
            r"^a: no feature holds a label: .* 'label' holds 2 values per record, but an image must have one label\."
            r" .*label \(2 int64\)",
        ),
        (
            {"image": JPEG, "label": [1.0, 1.0, 0.0]},  # Several classes per image.
            (None, None),
            r"'label' holds 3 values per record, but an image must have one label\.",
        ),
        ({"image": JPEG, "label": 20.5}, (None, None), r"'label' holds numbers such as 20\.5, which are not classes\."),
        ({"image": JPEG, "target": 20.5}, (None, "target"), r"^--label_key=target: .* 20\.5, which are not classes\."),
        ({"image": JPEG, "id": 17}, (None, None), r"no feature holds a label"),  # The number is the record's id.
        (
            {"image_raw": bytes(12), "height": 2, "width": 2},
            (None, None),
            r"no feature holds a label",
        ),  # The numbers are sizes.
        (
            {"image": JPEG, "label": 1},
            ("img", None),
            r"^--image_key=img: there is no such feature in a\.",
        ),
        (
            {"image": JPEG, "label": 1},
            (None, "image"),
            r"^--label_key=image: this feature does not hold a label: one whole",
        ),
    ],
)
def test_unclear_keys_are_refused(values: dict[str, Any], given: tuple[Any, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        guess_keys.form([features(values)], *given, "a")


RAW = np.random.default_rng(0).bytes(48)  # 4 x 4 x 3 values.


@pytest.mark.parametrize(
    ("values", "label", "pixels"),
    [
        ({"image": JPEG, "label": b"cat"}, ("label", TEXT, 0), None),
        ({"image": JPEG, "class_name": b"cat", "id": b"a"}, ("class_name", TEXT, 0), None),
        ({"image": JPEG, "label": 3.0}, ("label", NUMBER, 0), None),
        ({"image": JPEG, "label": [0, 1, 0]}, ("label", ONE_HOT, 3), None),
        ({"image": JPEG, "one_hot_class": [0.0, 1.0]}, ("one_hot_class", ONE_HOT, 2), None),
        (
            {"image": JPEG, "label": b"cat", "class": 3},
            ("class", INDEX, 0),
            None,
        ),  # Readers can use a number without rewriting.
        ({"image": JPEG, "label": b"cat", "views": 3}, ("label", TEXT, 0), None),  # A known name goes before numbers.
        (
            {"image_raw": RAW, "height": 4, "width": 4, "depth": 3, "label": 1},
            ("label", INDEX, 0),
            Pixels(height="height", width="width", channels="depth"),
        ),
        (
            {"data": RAW, "image/height": 4, "image/width": 4, "y": 1},  # The sizes match, so the name does not matter.
            ("y", INDEX, 0),
            Pixels(height="image/height", width="image/width"),
        ),
        (
            {"mask": RAW[:16], "mask_rows": 4, "mask_cols": 4, "img_raw": RAW, "img_h": 4, "img_w": 4, "label": 1},
            ("label", INDEX, 0),
            Pixels(height="img_h", width="img_w"),  # The names closest to that of the image.
        ),
        ({"image": RAW, "shape": [4, 4, 3], "label": 1}, ("label", INDEX, 0), Pixels(shape="shape")),
        ({"image": RAW, "shape": [3, 2, 8], "label": 1}, ("label", INDEX, 0), Pixels(shape="shape", planes=True)),
        ({"image": list(range(16)), "label": 1}, ("label", INDEX, 0), Pixels()),
        ({"x": [0.0, 0.5] * 8, "y": 1}, ("y", INDEX, 0), Pixels(scale=255)),
        ({"x": [0.0, 99.0] * 8, "y": 1}, ("y", INDEX, 0), Pixels()),
    ],
)
def test_forms(values: dict[str, Any], label: tuple[str, str, int], pixels: Pixels | None) -> None:
    form = guess_keys.form([features(values)], None, None, "a")
    assert ((form.keys.label, form.label, form.length), form.pixels) == (label, pixels)


def gradient(number: int) -> np.ndarray:
    """Return a smooth color image, u8[24 20 3]."""
    y, x = np.mgrid[0:24, 0:20]
    return np.stack([(5 * x + 3 * y + 60 * k + number) % 256 for k in range(3)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("gray", [False, True])
def test_order_of_raw_pixels(planes: bool, gray: bool) -> None:
    samples = []
    for number in range(12):
        image = gradient(number) if not gray else np.repeat(gradient(number)[:, :, :1], 3, axis=2)
        stored = image.transpose(2, 0, 1) if planes else image
        samples.append(features({"image_raw": stored.tobytes(), "height": 24, "width": 20, "label": 1}))
    if planes:
        with pytest.raises(
            UserError,
            match=r"'image_raw': the raw pixels are probably stored plane by plane .* --pixel_order=chw .*=hwc",
        ):
            guess_keys.form(samples, None, None, "a")
    else:
        assert guess_keys.form(samples, None, None, "a").pixels == Pixels(height="height", width="width")
    for order in guess_keys.PIXEL_ORDERS:
        pixels = guess_keys.form(samples, None, None, "a", order).pixels
        assert pixels is not None
        assert pixels.planes == (order == "chw")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("d/train-00000-of-01024", "train"),
        ("d/validation-00000-of-00128", "validation"),
        ("d/flowers-test.tfrecord-00000-of-00001", "test"),
        ("d/Val_3.tfrec", "validation"),
        ("flowers/val/00-224x224-462.tfrec", "validation"),
        ("test/00-of-10.tfrecord", "test"),
        ("train/validation-00000-of-00002", "validation"),  # The file name goes before the directory name.
        ("d/00-224x224-798.tfrec", None),
        ("test_of_train/00-of-02.tfrec", None),  # Only the whole name of a directory counts.
        ("d/trained-00000-of-00002", None),  # Only whole words count.
        ("d/dev-00000-of-00002", "validation"),
        ("d/TrainSet_3.tfrec", "train"),
        ("d/Test_Data/00.tfrec", "test"),
        ("d/train/jpeg/00.tfrec", None),  # `splits` decides which directories above count.
    ],
)
def test_split_of_a_file(tmp_path: Path, path: str, expected: str | None) -> None:
    assert guess_keys.split_of(tmp_path / path) == expected


def test_unclear_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"train_and_test\.tfrec: the name contains both test and train\. List the files of each split"
    ):
        guess_keys.splits([tmp_path / "train_and_test.tfrec"])
    with pytest.raises(
        UserError,
        match=r"b\.tfrec: neither the file name nor the directory name contains a split, but .*train\.tfrec belongs",
    ):
        guess_keys.splits([tmp_path / "train.tfrec", tmp_path / "b.tfrec"])


def test_split_of_a_directory_further_up(tmp_path: Path) -> None:
    """Directories count up to the common directory of all files, which does not count itself."""
    paths = [tmp_path / f"test/{name}/jpeg/0.tfrec" for name in ("train", "valid")]
    assert guess_keys.splits(paths) == {"train": paths[:1], "validation": paths[1:]}


def test_files_without_a_split_belong_to_train(tmp_path: Path) -> None:
    assert guess_keys.splits([tmp_path / "a.tfrec", tmp_path / "b.tfrec"]) == {
        "train": [tmp_path / "a.tfrec", tmp_path / "b.tfrec"]
    }


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ({0, 1, 2}, None, 0),
        ({1, 2, 3}, None, 1),
        ({2, 3}, None, 0),  # Classes 0 and 1 may be empty.
        ({1, 2, 3}, 3, 1),
        ({1, 2}, 3, 0),  # The first of three classes has no images.
    ],
)
def test_label_offset(labels: set[int], names: int | None, expected: int) -> None:
    assert guess_keys.label_offset(labels, names) == expected


def test_class_names_are_unique() -> None:
    texts = {1: "tench", 2: "crane", 4: "crane"}
    assert guess_keys.class_names({1, 2, 4}, texts, 1) == ("tench", "crane (2)", "3", "crane (4)")
    assert guess_keys.class_names({0, 2}, {}, 0) == ("0", "1", "2")


@pytest.mark.parametrize(("path", "name"), [("a/flowers/1.tfrec", "flowers"), ("a/flowers/3.0.1/x", "flowers")])
def test_name(tmp_path: Path, path: str, name: str) -> None:
    assert guess_keys.dataset_name(tmp_path / path) == name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"image": JPEG, "id": b"a1"}, Keys(label="", path="id")),  # The test records of a competition.
        ({"picture": JPEG}, Keys(image="picture", label="", path="")),
        ({"image": JPEG, "thumbnail": JPEG}, Keys(label="", path="")),  # A known name.
    ],
)
def test_keys_of_images_without_labels(values: dict[str, Any], expected: Keys) -> None:
    assert guess_keys.keys_of_images([features(values)], None, "a") == expected


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        (
            {"pixels": [1.0, 2.0]},
            None,
            "a: no feature holds an encoded image. Pass the right feature as --image_key.",
        ),
        ({"a": JPEG, "b": JPEG}, None, "a: several features hold an encoded image. Pass the right feature as"),
        (
            {"a": JPEG, "b": 1},
            "b",
            "--image_key=b: this feature does not hold an encoded image in a. The features (fields)",
        ),
        (
            {"a": JPEG, "b": 1},
            "c",
            "--image_key=c: there is no such feature in a. The features (fields) of the records: a (1 bytes, JPEG), b",
        ),
    ],
)
def test_images_that_cannot_be_found(values: dict[str, Any], given: str | None, message: str) -> None:
    with pytest.raises(UserError) as error:
        guess_keys.keys_of_images([features(values)], given, "a")
    assert str(error.value).startswith(message)
