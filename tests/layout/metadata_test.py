"""Tests of the metadata, read by TensorFlow Datasets and by plain TensorFlow."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from image_sources import converted, draw, tree
from PIL import Image

CLASSES = ("cats & dogs", "Катя", "🐈‍⬛, süß")  # Sorted, as the converter sorts.
ODD_NAMES = ("with space.jpg", "line\nbreak.png", "emoji 🐕.jpg", "quote\"'.jpg", "deeper/ö/x.jpg", "no_ending")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create classes with names in several scripts, files with odd names, and one that is not an image."""
    root = tmp_path_factory.mktemp("metadata") / "Meine Bilder"
    tree(root, {f"train/{name}": 7 for name in CLASSES} | {f"val/{name}": 3 for name in CLASSES})
    for name in ODD_NAMES:
        draw(root / "train" / CLASSES[0] / name)
    (root / "train" / CLASSES[1] / 'page, "404".jpg').write_bytes(b"<html>\n")
    return root


@pytest.fixture(scope="module")
def out(source: Path) -> Path:
    """Convert the source to two shards of train and one of validation."""
    converted(source, source.parent / "out", shards=3)
    return source.parent / "out"


@pytest.fixture(scope="module")
def builder(out: Path) -> tfds.core.DatasetBuilder:
    return tfds.builder_from_directory(out)


def pixels(path: Path) -> np.ndarray:
    """Decode a file to u8[h w 3] with TensorFlow."""
    return tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False).numpy()


def test_tensorflow_datasets_knows_the_splits(builder: tfds.core.DatasetBuilder) -> None:
    info = builder.info
    assert (info.name, str(info.version)) == ("meine_bilder", "1.0.0")
    assert {name: split.num_examples for name, split in info.splits.items()} == {"train": 27, "validation": 9}
    assert {name: split.num_shards for name, split in info.splits.items()} == {"train": 2, "validation": 1}
    assert sum(info.splits["train"].shard_lengths) == 27
    assert info.supervised_keys == ("image", "label")


def test_tensorflow_datasets_knows_the_features(builder: tfds.core.DatasetBuilder) -> None:
    features = builder.info.features
    assert set(features) == {"image", "image/filename", "label"}
    assert features["image"].shape == (None, None, 3)
    assert features["image"].dtype == np.uint8
    assert tuple(features["label"].names) == CLASSES
    assert features["label"].num_classes == 3


def test_files_are_as_tensorflow_datasets_writes_them(out: Path, tmp_path: Path) -> None:
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "image/filename": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
    )
    features.save_config(tmp_path)
    assert json.loads((out / "features.json").read_text()) == json.loads((tmp_path / "features.json").read_text())
    assert (out / "label.labels.txt").read_bytes() == (tmp_path / "label.labels.txt").read_bytes()


def test_decoded_images_and_labels_are_the_sources(source: Path, builder: tfds.core.DatasetBuilder) -> None:
    for split, directory in {"train": "train", "validation": "val"}.items():
        seen = {}
        for example in tfds.as_numpy(builder.as_dataset(split=split)):
            path = example["image/filename"].decode()
            seen[path] = CLASSES[example["label"]]
            np.testing.assert_array_equal(example["image"], pixels(source / path))
        images = {
            p.relative_to(source).as_posix(): p.relative_to(source).parts[1]
            for p in (source / directory).rglob("*")
            if p.is_file() and "404" not in p.name
        }
        assert seen == images


@pytest.mark.parametrize(("split", "count"), [("train[:10%]", 3), ("train[50%:]", 13), ("train[5:7]+validation", 11)])
def test_sub_splits(builder: tfds.core.DatasetBuilder, split: str, count: int) -> None:
    assert len(list(builder.as_dataset(split=split))) == count


def test_supervised_and_skip_decoding(source: Path, builder: tfds.core.DatasetBuilder) -> None:
    image, label = next(iter(builder.as_dataset(split="validation", as_supervised=True)))
    assert image.dtype == tf.uint8
    assert 0 <= int(label) < 3
    skipping = {"image": tfds.decode.SkipDecoding()}
    for example in tfds.as_numpy(builder.as_dataset(split="train", decoders=skipping)):
        assert example["image"] == (source / example["image/filename"].decode()).read_bytes()


def test_every_split_in_shuffled_files(builder: tfds.core.DatasetBuilder) -> None:
    names = [e["image/filename"] for e in tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=True))]
    assert len(set(names)) == 27


def plain_tensorflow(out: Path, split: str) -> Iterator[dict[str, Any]]:
    files = sorted(map(str, out.glob(f"*-{split}.tfrecord-*")))
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    data = tf.data.TFRecordDataset(files).map(lambda record: tf.io.parse_single_example(record, features))
    return data.as_numpy_iterator()


def test_plain_tensorflow_reads_the_same(source: Path, out: Path) -> None:
    names = (out / "label.labels.txt").read_text().splitlines()
    examples = list(plain_tensorflow(out, "train"))
    assert len(examples) == 27
    for example in examples:
        path = example["image/filename"].decode()
        assert example["image"] == (source / path).read_bytes()
        assert names[example["label"]] == Path(path).parts[1]


def test_odd_names_are_stored(out: Path) -> None:
    paths = {example["image/filename"].decode() for example in plain_tensorflow(out, "train")}
    assert {f"train/{CLASSES[0]}/{name}" for name in ODD_NAMES} <= paths


def test_rejected_csv(out: Path) -> None:
    with open(out / "rejected.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    reason = r"not an image (starts with b'<html>\n'); an HTML page: download the file again"
    assert rows == [["path", "reason", "done"], [f'train/{CLASSES[1]}/page, "404".jpg', reason, "skipped"]]


def test_convert_json(out: Path) -> None:
    facts = json.loads((out / "convert.json").read_text())
    assert facts["classes"] == [
        {"label": 0, "name": CLASSES[0], "train": 13, "validation": 3},
        {"label": 1, "name": CLASSES[1], "train": 7, "validation": 3},
        {"label": 2, "name": CLASSES[2], "train": 7, "validation": 3},
    ]
    assert facts["splits"] == {"train": {"records": 27, "shards": 2}, "validation": {"records": 9, "shards": 1}}
    assert (facts["records"], facts["rejected"], facts["name"]) == (36, 1, "meine_bilder")
    assert facts["bytes"] == sum(path.stat().st_size for path in out.glob("*.tfrecord-*"))
    assert facts["config"]["shards"] == 3
    assert facts["versions"]["pillow"] == Image.__version__


def test_bytes_of_the_splits_do_not_count_frames(out: Path, builder: tfds.core.DatasetBuilder) -> None:
    for name, split in builder.info.splits.items():
        framed = sum(path.stat().st_size for path in out.glob(f"*-{name}.tfrecord-*"))
        assert split.num_bytes == framed - 16 * split.num_examples


def test_files_do_not_contain_local_paths(source: Path, out: Path) -> None:
    for path in out.iterdir():
        assert str(source.parent).encode() not in path.read_bytes()


def test_reading_gives_no_warning(out: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tfds.builder_from_directory(out)
    # TensorFlow Datasets uses deprecated functions of protobuf, so deprecation warnings are ignored.
    others = [w for w in caught if not issubclass(w.category, DeprecationWarning)]
    assert [str(w.message) for w in others if "tensorflow_datasets" in str(w.filename)] == []
