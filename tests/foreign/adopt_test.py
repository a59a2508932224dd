"""Tests of adopting third-party TFRecords: all readers and trainers can use them without a copy."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from foreign_records import example, sequence, write
from image_sources import contents, draw, flip, image, run, start, tree
from PIL import Image

from tfrecord_tools import dataset
from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.conversion import update
from tfrecord_tools.errors import UserError
from tfrecord_tools.export import ExportConfig, export
from tfrecord_tools.records import open_dataset
from tfrecord_tools.verify import VerifyConfig, verify
from trainers.models import model_file

FISH = ["tench, Tinca tinca", "goldfish"]


def imagenet(number: int, split: str = "train") -> dict[str, Any]:
    """Return a record as build_imagenet_data.py writes it, with labels from 1."""
    return {
        "image/encoded": image(f"{split}{number}"), "image/class/label": 1 + number % 2,
        "image/class/text": FISH[number % 2].encode(), "image/class/synset": b"n01440764",
        "image/filename": f"{split}_{number}.JPEG".encode(), "image/height": 9, "image/width": 12,
        "image/colorspace": b"RGB", "image/channels": 3, "image/format": b"JPEG",
        "image/object/bbox/xmin": [0.1, 0.2], "image/object/bbox/label": [1, 1],
    }  # fmt: skip


def kaggle(number: int, **more: Any) -> dict[str, Any]:
    return {"image": image(number), "class": number % 3} | more


def shards(directory: Path, pattern: str, values: list[dict[str, Any]], count: int = 2) -> None:
    """Write records to `count` files; `pattern` makes names from (number, count)."""
    for number in range(count):
        write(directory / pattern.format(number, count), map(example, values[number::count]))


@pytest.fixture(scope="module")
def model_garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of 16 + 8 records of two classes."""
    root = tmp_path_factory.mktemp("garden") / "imagenet2"
    for split, count in (("train", 16), ("validation", 8)):
        values = [imagenet(number, split) for number in range(count)]
        shards(root, f"{split}-{{:05d}}-of-{{:05d}}", values)
    return root


@pytest.fixture(scope="module")
def adopted(model_garden: Path) -> Path:
    return quietly(model_garden, model_garden.parent / "out")


def quietly(records: Path | str, out: Path, **settings: Any) -> Path:
    """Adopt without output; return `out`."""
    config: dict[str, Any] = {"records": str(records), "out": str(out), "workers": 1}
    adopt(AdoptConfig(**config | settings), lambda line: None)
    return out


def report(records: Path | str, out: Path, **settings: Any) -> str:
    lines: list[str] = []
    config: dict[str, Any] = {"records": str(records), "out": str(out), "workers": 1}
    adopt(AdoptConfig(**config | settings), lines.append)
    return "\n".join(lines)


def stored(records: Any) -> list[tuple[str, int, bytes]]:
    return sorted((r["path"], r["label"], r["image"]) for r in map(records.__getitem__, range(len(records))))


# --- The adopted dataset -------------------------------------------------------------------------------------------


def test_all_records_are_linked_and_not_copied(model_garden: Path, adopted: Path) -> None:
    data = open_dataset(adopted)
    assert (data.class_names, data.splits) == (tuple(FISH), {"train": 16, "validation": 8})
    for split, count in data.splits.items():
        values = [imagenet(number, split) for number in range(count)]
        expected = [(v["image/filename"].decode(), v["image/class/label"] - 1, v["image/encoded"]) for v in values]
        assert stored(data.records(split)) == sorted(expected)
        assert sorted(data.records(split).paths) == [path for path, _, _ in sorted(expected)]
    links = {path.name: os.readlink(path) for path in adopted.iterdir() if path.is_symlink()}
    assert links["imagenet2-train.tfrecord-00001-of-00002"] == str(model_garden / "train-00001-of-00002")
    assert len(links) == 4
    assert sum(path.stat().st_size for path in adopted.iterdir() if not path.is_symlink()) < 60_000
    assert sorted(os.listdir(adopted.parent)) == ["imagenet2", "out"]


def test_verify_accepts_it(adopted: Path) -> None:
    lines: list[str] = []
    assert verify(VerifyConfig(directory=str(adopted), decode=False, workers=1), lines.append) == []
    assert "24 records in 4 shards are valid" in lines[-1]


def test_tensorflow_datasets_reads_it(adopted: Path) -> None:
    """TFDS gives stored labels. Labels below the first class have placeholder names."""
    builder = tfds.builder_from_directory(adopted)
    label = builder.info.features["image/class/label"]
    assert label.names == ["(unused 0)", *FISH]
    seen = list(tfds.as_numpy(builder.as_dataset(split="train[:50%]+validation")))
    assert len(seen) == 16
    for one in seen:
        split, number = one["image/filename"].decode().removesuffix(".JPEG").split("_")
        value = imagenet(int(number), split)
        assert label.int2str(one["image/class/label"]) == value["image/class/text"].decode()
        np.testing.assert_array_equal(one["image/encoded"], decoded(value))


def decoded(value: Mapping[str, Any]) -> np.ndarray:
    import tensorflow as tf

    return tf.io.decode_jpeg(value["image/encoded"]).numpy()


def test_pipelines_deliver_images_and_labels_from_0(adopted: Path) -> None:
    records = open_dataset(adopted).records("validation")
    batches = dataset.eval_batches(records, batch_size=3, image_size=9, with_numbers=True)
    seen = [(int(n), int(y), x.mean()) for xs, ys, ns in batches.as_numpy_iterator() for x, y, n in zip(xs, ys, ns)]
    assert [(number, label) for number, label, _ in seen] == list(enumerate(records.labels.tolist()))
    assert all(100 < mean < 156 for _, _, mean in seen)  # Images are noise and not zeros.


def test_output_depends_only_on_the_records(model_garden: Path, adopted: Path, tmp_path: Path) -> None:
    again = quietly(model_garden, tmp_path / "elsewhere", workers=2)
    same = {name: data for name, data in contents(adopted).items() if ".tfrecord-" not in name}
    assert {name: data for name, data in contents(again).items() if ".tfrecord-" not in name} == same


def test_kaggle_files_without_paths_and_names(tmp_path: Path) -> None:
    for split, count in (("train", 9), ("val", 6)):
        shards(tmp_path / f"flowers/{split}", "{:02d}-12x9-{}.tfrec", [kaggle(n) for n in range(count)])
    output = report(f"{tmp_path}/flowers/*/*.tfrec", tmp_path / "out")
    assert output.splitlines() == [
        "image in 'image', label in 'class', no path", "3 classes; label 0 is '0'",
        "  label  class  train  validation", "      0  0          3           2", "      1  1          3           2",
        "      2  2          3           2", "         all        9           6", "         files      2           2",
        output.splitlines()[-1],
    ]  # fmt: skip
    data = open_dataset(tmp_path / "out")
    assert data.splits == {"train": 9, "validation": 6}
    records = data.records("train")
    assert records[0]["path"] == records.paths[0] == f"{data.name}-train.tfrecord-00000-of-00002@0"
    assert {record["path"] for record in map(records.__getitem__, range(9))} == set(records.paths)
    assert len(set(records.paths)) == 9
    assert verify(VerifyConfig(directory=str(tmp_path / "out"), decode=False, workers=1), lambda line: None) == []


class Pets(tfds.core.GeneratorBasedBuilder):
    """A builder of TensorFlow Datasets. A record of the test split has no label."""

    VERSION = tfds.core.Version("1.0.0")
    SOURCE = Path()

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["cats", "dogs"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split.name: self._generate_examples(split) for split in sorted(self.SOURCE.iterdir())}

    def _generate_examples(self, split: Path) -> Any:
        for path in split.rglob("*.jpg"):
            yield str(path), {"image": str(path), "label": -1 if path.stem == "unknown" else path.parent.name}


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tfds")
    source = tree(root / "src", {f"train/{name}": 12 for name in ("cats", "dogs")})
    tree(source, {f"validation/{name}": 6 for name in ("cats", "dogs")})
    draw(source / "train/cats/unknown.jpg")
    Pets.SOURCE = source
    builder = Pets(data_dir=root / "data")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def test_directory_of_tensorflow_datasets(tfds_directory: Path, tmp_path: Path) -> None:
    output = report(tfds_directory, tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    assert (data.name, data.class_names, data.splits) == ("pets", ("cats", "dogs"), {"train": 16, "validation": 8})
    images = {path.read_bytes(): path.parent.name for path in Pets.SOURCE.rglob("train/*/*.jpg")}
    for record in map(data.records("train").__getitem__, range(16)):
        assert images[record["image"]] == data.class_names[record["label"]]
    rejected = (tmp_path / "out/rejected.csv").read_text().splitlines()
    assert len(rejected) == 2
    assert rejected[1].endswith(",it has no label (-1),skipped")
    assert "         all       16           8" in output
    assert (
        "  note: 1 record is left out of the index, but still in the files. Other programs read"
        " these records too." in output
    )
    assert verify(VerifyConfig(directory=str(tmp_path / "out"), decode=False, workers=1), lambda line: None) == []
    builder = tfds.builder_from_directory(
        tmp_path / "out"
    )  # TFDS reads by position, and records that are left out stay in the file.
    assert len(list(builder.as_dataset(split="train"))) == 17


TINY = ("--weights=none", "--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--image_size=32", "--batch_size=8")
SMALL = ("--image_size=32", "--batch_size=8")


@pytest.mark.parametrize(
    ("origin", "trainer", "flags"),
    [
        ("tfds_directory", "scratch", SMALL),
        pytest.param("model_garden", "finetune", TINY, marks=pytest.mark.slow),
    ],
)
def test_trainers_use_it(
    origin: str, trainer: str, flags: tuple[str, ...], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    out = quietly(request.getfixturevalue(origin), tmp_path / "out")
    command = (f"trainers.{trainer}", f"--tfrecords={out}", f"--run={tmp_path / 'run'}", "--epochs=1", *flags)
    with start(*command, cwd=tmp_path) as process:
        _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["count"], metrics["steps"], metrics["corrupt"]) == (8, 2, [])


def test_adopted_dataset_can_be_exported(model_garden: Path, adopted: Path, tmp_path: Path) -> None:
    export(ExportConfig(tfrecords=str(adopted), out=str(tmp_path / "images")), lambda line: None)
    assert len(contents(tmp_path / "images")) == 24
    path = tmp_path / "images/train" / FISH[0].replace("/", "_") / "train_0.JPEG"
    assert path.read_bytes() == imagenet(0)["image/encoded"]


# --- Messages and errors ---------------------------------------------------------------------------------------------


def test_all_settings(model_garden: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    splits = (f"train={model_garden}/t*", f"val={model_garden}/v*-00000-*")
    output = report(
        "", tmp_path / "out", split=splits, image_key="image/encoded", label_key="image/class/label", label_offset=0,
        classes=[str(tmp_path / "names.txt")], verify="header",
    )  # fmt: skip
    data = open_dataset(tmp_path / "out")
    assert (data.class_names, data.splits) == (("a", "b", "c"), {"train": 16, "validation": 4})
    assert sorted(set(data.records("train").labels.tolist())) == [1, 2]
    assert "note: " in output
    assert "1 file is missing, according to the numbers in the names of the other files" in output


def test_bad_images_are_left_out(tmp_path: Path) -> None:
    values = [kaggle(number, id=f"photo {number}".encode()) for number in range(40)]
    values[3]["image"] = b"<html>"
    values[39]["image"] = values[39]["image"][:-20]
    tiff = io.BytesIO()
    Image.new("RGB", (4, 4)).save(tiff, "TIFF")
    values[7]["image"] = tiff.getvalue()
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", values, count=1)
    output = report(tmp_path / "d", tmp_path / "out", max_bad=0.1)
    assert "  skipped: photo 3: not an image (starts with b'<html>'); " in output
    assert "  skipped: photo 7: a TIFF image, which TensorFlow cannot decode" in output
    assert "  skipped: photo 39: damaged image: " in output
    records = open_dataset(tmp_path / "out").records("train")
    assert sorted(records.paths) == sorted(f"photo {n}" for n in range(40) if n not in (3, 7, 39))
    assert {records[i]["path"]: records[i]["image"] for i in range(37)} == {
        v["id"].decode(): v["image"] for n, v in enumerate(values) if n not in (3, 7, 39)
    }
    assert sum(len(part) for part in records.hold_out(0.5)) == 37
    assert verify(VerifyConfig(directory=str(tmp_path / "out"), decode=False, workers=1), lambda line: None) == []
    with pytest.raises(
        UserError, match=r"3 of 40 records cannot be used\. This is more than --max_bad=0\.05 allows:\n  photo 3"
    ):
        quietly(tmp_path / "d", tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["d", "out"]


def test_images_that_convert_would_change_are_reported(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotated by 90 degrees.
    values = [kaggle(n) for n in range(4)]
    values[1]["image"], values[2]["image"] = image(1, exif=exif), image(2, mode="CMYK")
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", values)
    output = report(tmp_path / "d", tmp_path / "out")
    assert "  note: 1 image has an EXIF orientation, which TensorFlow's decoders ignore" in output
    assert "  note: convert would encode 1 image again (" in output
    assert verify(VerifyConfig(directory=str(tmp_path / "out"), workers=1), lambda line: None) == []  # Sizes as well.


@pytest.mark.parametrize("kind", ["GZIP", "ZLIB"])
def test_error_on_compressed_files_names_the_command_to_unpack(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "d/train a.tfrecord", [example(kaggle(n)) for n in range(4)], kind)
    with pytest.raises(UserError) as caught:
        quietly(tmp_path / "d", tmp_path / "out")
    start, command = str(caught.value).split(", or unpack such files first: ")
    assert start == (
        f"{path}: the whole file is compressed ({kind}). Single records cannot be read from it. Add --rewrite to write"
        " new, uncompressed records"
    )
    quietly(tmp_path / "d", tmp_path / "rewritten", rewrite=True)
    assert open_dataset(tmp_path / "rewritten").splits == {"train": 4}
    assert os.system(command) == 0
    path.unlink()
    quietly(tmp_path / "d/*", tmp_path / "out")
    assert open_dataset(tmp_path / "out").splits == {"train": 4}


def test_damaged_files_are_named(tmp_path: Path) -> None:
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", [kaggle(n) for n in range(6)])
    path = tmp_path / "d/train-00001-of-00002"
    sound = path.read_bytes()
    os.truncate(path, len(sound) - 5)
    with pytest.raises(
        UserError, match=rf"^{path}: record 2 .* the file ends inside the record.* Copy the file again from"
    ):
        quietly(tmp_path / "d", tmp_path / "out")
    path.write_bytes(sound)
    flip(path, 40)
    message = (
        rf"^{path}: record 0 \(counted from 0\) at byte 0: the checksum of its data is wrong\. Nothing was written\."
        r" Copy the file again from an intact copy, or leave this file out\.$"
    )
    with pytest.raises(UserError, match=message):
        quietly(tmp_path / "d", tmp_path / "out", workers=2)  # In a worker process too.
    assert not (tmp_path / "out").exists()
    assert sorted(os.listdir(tmp_path)) == ["d"]


def test_a_file_that_is_no_tfrecord_is_named(tmp_path: Path) -> None:
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", [kaggle(n) for n in range(6)])
    path = tmp_path / "d/train-00001-of-00002"
    path.write_bytes(image(1))
    with pytest.raises(UserError) as caught:
        quietly(tmp_path / "d", tmp_path / "out")
    assert str(caught.value).startswith(f"{path}: is not a TFRecord file: the file is a JPEG image. Expected")
    assert str(caught.value).endswith(
        "--src=DIRECTORY`. Nothing was written. Copy the file again from an intact copy, or leave this file out."
    )


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            {4: {"class": [1, 2]}},
            {},
            r"1 of 6 records .* allows:\n  train-00000-of-00002:2: 2 values in 'class'; an image must have one label",
        ),
        (
            {5: {"class": b"cat"}},
            {},
            r"train-00001-of-00002:2: 'class' holds text or bytes, unlike in most records",
        ),
        (
            {2: {"image": None}},
            {},
            r"train-00000-of-00002:1: it has no image: 'image' is missing or empty\nCheck --image_key and",
        ),
        (
            {},
            {"classes": ["a", "b"]},
            r"train-00000-of-00002: 1 record with label 2 in 'class'\. This label is out of range: with 2 classes"
            r" and the first label 0, labels must be from 0 to 1\.",
        ),
        (
            {},
            {"label_offset": 1},
            r"with label 0 in 'class'\. This label is out of range: with at most 100,000 classes and the first label 1,"
            r" labels must be from 1 to 100,000\.",
        ),
        ({0: {"class": 1 << 40}}, {}, r"with label 1,099,511,627,776 in 'class'"),
        (
            {},
            {"image_key": "picture"},
            r"--image_key=picture: there is no such feature in .*/train-00000-of-00002",
        ),
        ({}, {"classes": ["a", "b", "a"]}, r"the class name 'a' is given twice\. Class names must be unique\."),
        ({}, {"classes": ["caf\u00e9", "cafe\u0301", " b"]}, r"the class name 'café' is given twice\."),
        (
            {},
            {"classes": ["a", " ", "b"]},
            r"store the class name ''\. A class name must have .* Correct the names with",
        ),
        (
            {},
            {"classes": ["a", "b\x07", "c"]},
            r"store the class name 'b\\x07'\. A class name must have at least one char",
        ),
        ({}, {"classes": ["none.txt"]}, r"--classes=none\.txt: the file does not exist\."),
        (
            {n: {"image": b"none"} for n in range(1, 6)},
            {"image_key": "image"},
            r"--image_key=image: this feature does not hold",
        ),
        (
            {n: {"class": -1} for n in range(6)},
            {"max_bad": 1.0},
            r"no record in 2 files can be used\. train is left out: none of its 6 records in 2 files has a label"
            r" \(it has no label \(-1\)\)\. Pass the feature \(field\) that holds the label as --label_key",
        ),
    ],
)
def test_unusable_records_are_refused(
    tmp_path: Path, change: dict[int, dict[str, Any]], settings: dict[str, Any], message: str
) -> None:
    values = [kaggle(n) | change.get(n, {}) for n in range(6)]
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", values)
    with pytest.raises(UserError, match=message):
        quietly(tmp_path / "d", tmp_path / "out", **settings)
    assert sorted(os.listdir(tmp_path)) == ["d"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"^no records were given\. Use --records=DIRECTORY_OR_PATTERN, or --split=train=PATTERN --split="),
        ({"records": "d", "split": ["train=d"]}, r"^both --records and --split were given\. Use one of them\.$"),
        (
            {"records": "d/none*"},
            r"--records=d/none\*: no file matches\. Pass a directory, or a pattern in quotes, for example"
            r" 'data/train-\*'",
        ),
        ({"records": "d/names.txt"}, r"d/names\.txt: is not a TFRecord file: the file starts with b'cats\\ndogs"),
        ({"split": ["all=d"]}, r"--split=all=d: must be NAME=PATTERN, with NAME one of train, validation, test\."),
        ({"split": ["train"]}, r"--split=train: must be NAME=PATTERN"),
        (
            {"split": ["train=d", "test=d"]},
            r"a\.tfrecord: two patterns match this file\. Each file must be in one split",
        ),
        (
            {"records": "d", "label_offset": -1},
            r"--label_offset=-1: a negative number needs --rewrite\. Add --rewrite, or give a number of at least 0\.$",
        ),
        ({"records": "d", "max_bad": 2}, r"--max_bad=2: must be a fraction from 0 to 1\."),
        ({"records": "d", "verify": "no"}, r"--verify=no: must be one of full, header"),
        ({"records": "d", "out": "d"}, r"--out=d: exists and is not a dataset of this tool\. Nothing was changed\."),
        ({"records": "other"}, r"other/a: the records are not of type tf\.train\.Example\. To see their contents, run"),
    ],
)
def test_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    write(tmp_path / "d/a.tfrecord", [example(kaggle(1))])
    (tmp_path / "d/names.txt").write_text("cats\ndogs\n")
    write(tmp_path / "other/a", [b"\xff\xff\xff\xff"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        adopt(AdoptConfig(**{"out": "out"} | settings), lambda line: None)


def test_files_without_a_split_belong_to_train(tmp_path: Path) -> None:
    shards(tmp_path / "d", "part{}_{}.tfrecord", [kaggle(n) for n in range(6)])
    (tmp_path / "d/part9.tfrecord").write_bytes(b"")
    note = (
        "no file name contains train, val, test or a similar word, so all 2 files become the train split. To name the"
        " splits, use --split=NAME=PATTERN"
    )
    assert note in report(tmp_path / "d", tmp_path / "out")


def test_error_on_moved_records(tmp_path: Path) -> None:
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", [kaggle(n) for n in range(6)])
    out = quietly(tmp_path / "d", tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "moved")
    assert len(open_dataset(tmp_path / "moved").records("train")) == 6  # Links are absolute.
    (tmp_path / "d").rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"is a link to .*/d/train-00000-of-00002, which does not exist\. Put the file"):
        open_dataset(tmp_path / "moved").records("train")
    assert not out.exists()


def test_overwriting(tmp_path: Path) -> None:
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", [kaggle(n) for n in range(6)])
    out = quietly(tmp_path / "d", tmp_path / "out")
    with pytest.raises(UserError, match=r"--out=.*out: the dataset exists\. Pass --overwrite to replace it"):
        quietly(tmp_path / "d", out)
    shards(tmp_path / "e", "train-{:05d}-of-{:05d}", [kaggle(n) for n in range(9)])
    quietly(tmp_path / "e", out, overwrite=True)
    assert open_dataset(out).splits == {"train": 9}
    assert sorted(os.listdir(tmp_path)) == ["d", "e", "out"]


def test_convert_does_not_update_it(adopted: Path) -> None:
    with pytest.raises(UserError, match=r"--update: .*out was adopted, not converted, .* Adopt them again with"):
        update.read(adopted)


# --- Rewritten records -----------------------------------------------------------------------------------------------


def text_label(number: int) -> dict[str, Any]:
    return {"image": image(number), "label": [b"New York, NY", "cafe\u0301".encode(), b" tench\n"][number % 3]}


def rows(number: int, channels: int = 3) -> np.ndarray:
    """Return raw pixels of noise, u8[8 6 c]."""
    return np.random.default_rng(number).integers(0, 256, (8, 6, channels), np.uint8)


SIZES = {"height": 8, "width": 6}
FORMS = {  # Name -> function from number to record, and the names of the classes 0, 1, 2.
    "text": (text_label, ("New York, NY", "café", "tench")),
    "digits": (lambda n: {"image": image(n), "label": b"%d" % (9 + n % 3)}, ("9", "10", "11")),
    "one-hot": (lambda n: {"image": image(n), "one_hot": [int(n % 3 == k) for k in range(3)]}, ("0", "1", "2")),
    "one-hot floats": (lambda n: {"image": image(n), "y": [float(n % 3 == k) for k in range(3)]}, ("0", "1", "2")),
    "floats": (lambda n: {"image": image(n), "label": float(n % 3 + 1)}, ("1", "2", "3")),
    "a list of one": (lambda n: {"image": [image(n)], "label": [[b"a"], [b"b"], [b"c"]][n % 3]}, ("a", "b", "c")),
    "raw": (lambda n: {"image_raw": rows(n).tobytes(), "label": n % 3, "depth": 3} | SIZES, ("0", "1", "2")),
    "raw gray": (lambda n: {"image_raw": rows(n, 1).tobytes(), "label": n % 3} | SIZES, ("0", "1", "2")),
    "raw alpha": (lambda n: {"image_raw": rows(n, 4).tobytes(), "label": n % 3} | SIZES, ("0", "1", "2")),
    "raw and text": (lambda n: {"image_raw": rows(n).tobytes(), "label": b"abc"[n % 3 :][:1]} | SIZES, ("a", "b", "c")),
    "numbers": (lambda n: {"pixels": rows(n).ravel().tolist(), "label": n % 3, "shape": [8, 6, 3]}, ("0", "1", "2")),
    "planes": (
        lambda n: {"pixels": rows(n).transpose(2, 0, 1).tobytes(), "label": n % 3, "shape": [3, 8, 6]},
        ("0", "1", "2"),
    ),
    "plain": (lambda n: {"image": image(n), "label": n % 3}, ("0", "1", "2")),
}


@pytest.mark.parametrize("form", FORMS)
def test_records_are_rewritten(tmp_path: Path, form: str) -> None:
    record, names = FORMS[form]
    for split, span in (("train", range(9)), ("val", range(9, 15))):
        shards(tmp_path / f"d/{split}", "{:02d}.tfrec", [record(n) for n in span])
    if form != "plain":
        with pytest.raises(UserError, match=r"train/00\.tfrec: .* Add --rewrite to write new records"):
            quietly(tmp_path / "d", tmp_path / "out")
    out = quietly(tmp_path / "d", tmp_path / "out", rewrite=True)
    data = open_dataset(out)
    assert (data.class_names, data.splits) == (names, {"train": 9, "validation": 6})
    order = {"train": [0, 2, 4, 6, 8, 1, 3, 5, 7], "validation": [9, 11, 13, 10, 12, 14]}
    for split, numbers in order.items():
        records = data.records(split)
        for at, number in enumerate(numbers):
            assert records[at]["label"] == number % 3
            value = record(number)
            if "image" in value:
                expected = value["image"] if isinstance(value["image"], bytes) else value["image"][0]
                assert records[at]["image"] == expected
            elif "alpha" not in form:
                stored = np.asarray(Image.open(io.BytesIO(records[at]["image"])).convert("RGB"))
                channels = 1 if "gray" in form else 3
                assert np.array_equal(stored, np.broadcast_to(rows(number, channels), (8, 6, 3)))
        assert records.paths[0] == f"{'train' if split == 'train' else 'val'}/00.tfrec:0"
    assert not [path for path in out.iterdir() if path.is_symlink()]
    assert verify(VerifyConfig(directory=str(out), workers=1), lambda line: None) == []
    builder = tfds.builder_from_directory(out)
    seen = [int(one["label"]) for one in tfds.as_numpy(builder.as_dataset(split="train"))]
    assert seen == [number % 3 for number in order["train"]]


def test_rewritten_output_depends_only_on_the_records(tmp_path: Path) -> None:
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", [text_label(n) for n in range(9)])
    first = quietly(tmp_path / "d", tmp_path / "out", rewrite=True)
    second = quietly(tmp_path / "d", tmp_path / "elsewhere", rewrite=True, workers=2)
    assert contents(first) == contents(second)
    assert (
        model_file.describe(open_dataset(first), image_size=8, crop=1.0, trainer="frozen").images["store"] == "original"
    )
    shards(tmp_path / "e", "train-{:05d}-of-{:05d}", [text_label(n) | {"image": b"none"} for n in range(9)])
    with pytest.raises(UserError, match=r"no feature holds an encoded image"):
        quietly(tmp_path / "e", first, rewrite=True, overwrite=True)
    assert contents(first) == contents(second)  # The old dataset stays until the new one is complete.


def test_images_are_stored_as_convert_stores_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    tiff = io.BytesIO()
    Image.new("RGB", (4, 5)).save(tiff, "TIFF")
    stored = [image(0), image(1, exif=exif), tiff.getvalue(), image(3, "GIF"), b"<html>"]
    shards(tmp_path / "d", "train{}.tfrec", [kaggle(n, image=data) for n, data in enumerate(stored)], count=1)
    output = report(tmp_path / "d", tmp_path / "out", rewrite=True, max_bad=0.2)
    assert "  note: 1 image was turned upright, according to the EXIF orientation" in output
    assert "  note: 2 images were encoded again (" in output
    assert "  skipped: train0.tfrec:4: not an image (starts with b'<html>'); " in output
    records = open_dataset(tmp_path / "out").records("train")
    with_sizes = [(Image.open(io.BytesIO(records[n]["image"])).format, records[n]["label"]) for n in range(4)]
    assert with_sizes == [("JPEG", 0), ("JPEG", 1), ("PNG", 2), ("PNG", 0)]
    assert verify(VerifyConfig(directory=str(tmp_path / "out"), workers=1), lambda line: None) == []


CATS = [b"Cat", b"cat", b"dog"]


@pytest.mark.parametrize(
    ("record", "settings", "output"),
    [
        (
            lambda n: {"label": CATS[n % 3]},
            {},
            r"the classes 'Cat' and 'cat' in 'label' differ only in upper and lower case\. Pass",
        ),
        (lambda n: {"label": CATS[n % 3]}, {"classes": ["cat", "dog"]}, r"note: 4 records labeled 'Cat' belong to "),
        (
            lambda n: {"label": CATS[n % 3]},
            {"classes": ["CAT", "dog"]},
            r"note: 8 records have labels that differ from their class only in upper and lower case: 'Cat' to 'CAT'",
        ),
        (lambda n: {"label": CATS[n % 3]}, {"classes": ["cat", "Cat", "dog"]}, r"3 classes; label 0 is 'c"),
        (lambda n: {"label": CATS[n % 3]}, {"classes": ["a", "b"]}, r"--classes=a, b: 3 texts in 'label' are not in"),
        (lambda n: {"label": [b"caf\xe9", b"dog"][n % 2]}, {}, r"b'caf\\xe9' in 'label' is not utf-8 text; if i"),
        (lambda n: {"label": [b"caf\xe9", b"dog"][n % 2]}, {"label_encoding": "latin-1"}, r"2 classes; .* is 'café'"),
        (lambda n: {"label": [b"a", b"dog"][n % 2]}, {"label_encoding": "no"}, r"--label_encoding=no: is not an en"),
        (lambda n: {"label": [b"a\0", b"dog"][n % 2]}, {}, r"b'a\\x00' in 'label' has characters that a cl"),
        (lambda n: {"label": [b"a", b"b"][n % 2] if n else b" "}, {}, r"train\.tfrec:0: it has no label: the text in"),
        (lambda n: {"y": [int(k == n % 2) for k in range(2 + n // 11)]}, {}, r"'y' holds 3 values of type int64"),
        (lambda n: {"y": [int(k == n % 2 or n == 3) for k in range(2)]}, {}, r":3: 2 of 2 values in 'y' are not 0; an"),
        (lambda n: {"y": [int(k == n % 2) * (n != 3) for k in range(2)]}, {}, r":3: it has no label: all 2 values of"),
        (lambda n: {"y": [int(k == n % 2) for k in range(2)]}, {"classes": ["a", "b", "c"]}, r"\(one-hot\), but 3 cl"),
        (
            lambda n: {"label": float(n % 2) + (n == 3) / 2},
            {},
            r":3: 1\.5 in 'label' is not a whole number, so it cannot",
        ),
        (lambda n: {"label": n % 2 * 2 - 1}, {}, r":0: it has no label \(-1\)(?s:.*) If -1 is a class, add --l"),
        (lambda n: {"label": n % 2 * 2 - 1}, {"label_offset": -1}, r"note: 1 of 3 classes have no record: 0"),
        (lambda n: {"label": [5, 9][n % 2]}, {}, r"note: 8 of 10 classes have no record: 0, 1, 2, 3, 4, 6, 7, 8"),
    ],
)  # fmt: skip
def test_unclear_labels(tmp_path: Path, record: Any, settings: dict[str, Any], output: str) -> None:
    write(tmp_path / "d/train.tfrec", (example({"image": image(n)} | record(n)) for n in range(12)))
    lines: list[str] = []
    try:
        config: dict[str, Any] = {"records": str(tmp_path / "d"), "out": str(tmp_path / "out"), "workers": 1}
        adopt(AdoptConfig(**config | {"rewrite": True} | settings), lines.append)
    except UserError as error:
        lines.append(str(error))
        assert not (tmp_path / "out").exists()
    assert re.search(output, "\n".join(lines))


@pytest.mark.parametrize(
    ("change", "output"),
    [
        ({"height": 9}, r"'image_raw' must hold 9 x 6 x 3 = 162 values, but holds 144"),
        (
            {"image_raw": bytes(8 * 6 * 3 * 4)},
            r"'image_raw' must hold 8 x 6 x 3 = 144 values, but holds 576 \(float32 pixels",
        ),
        (
            {"height": 0},
            r"0 x 6 x 3 cannot be the size of 144 values; a size must be height x width x channels, with 1 to 4 chan",
        ),
        ({"depth": 5}, r"8 x 6 x 5 cannot be the size"),
        ({"height": b"8"}, r"'height' and 'width' must hold one whole number each"),
        ({"image_raw": [bytes(144), bytes(144)]}, r"'image_raw' must hold the pixels of one image, but holds 2 values"),
        ({"image_raw": [300] * 144}, r"'image_raw' holds values from 300 to 300, but pixels must be from 0 to 255"),
        ({"image_raw": [float("nan")] * 144}, r"'image_raw' holds values from nan to nan"),
        ({"image_raw": None}, r"it has no image: 'image_raw' is missing or empty"),
    ],
)
def test_raw_pixels_of_another_size_are_left_out(tmp_path: Path, change: dict[str, Any], output: str) -> None:
    values = [{"image_raw": rows(n).tobytes(), "depth": 3, "label": n % 2} | SIZES for n in range(20)]
    write(tmp_path / "d/train.tfrec", (example(v | (change if n == 7 else {})) for n, v in enumerate(values)))
    lines = report(tmp_path / "d", tmp_path / "out", rewrite=True)
    assert re.search(rf"  skipped: train\.tfrec:7: {output}", lines)
    assert open_dataset(tmp_path / "out").splits == {"train": 19}


# --- Records, splits and files without labels or records --------------------------------------------------------------


@pytest.mark.parametrize("rewrite", [False, True])
@pytest.mark.parametrize("missing", [0, 7, 39])  # Also the first record.
def test_a_record_without_a_label_is_left_out(tmp_path: Path, missing: int, rewrite: bool) -> None:
    values = [{"image": image(n)} | ({"label": n % 2} if n != missing else {}) for n in range(40)]
    write(tmp_path / "d/train.tfrec", map(example, values))
    output = report(tmp_path / "d", tmp_path / "out", rewrite=rewrite)
    assert f"  skipped: train.tfrec:{missing}: it has no label: 'label' is missing or empty" in output
    assert ("left out of the index, but still in the files" in output) == (not rewrite)
    records = open_dataset(tmp_path / "out").records("train")
    expected = [v["image"] for n, v in enumerate(values) if n != missing]
    assert [records[n]["image"] for n in range(39)] == expected
    assert len((tmp_path / "out/rejected.csv").read_text().splitlines()) == 2
    assert verify(VerifyConfig(directory=str(tmp_path / "out"), decode=False, workers=1), lambda line: None) == []


@pytest.mark.parametrize("rewrite", [False, True])
@pytest.mark.parametrize("unlabeled", [{}, {"class": -1}, {"class": []}])
def test_a_split_without_labels_is_left_out(tmp_path: Path, unlabeled: dict[str, Any], rewrite: bool) -> None:
    """The files are laid out as Kaggle's flowers, and the command is the documented one."""
    for split, count in (("train", 9), ("val", 6), ("test", 7)):
        values: list[dict[str, Any]] = [{"image": image(n), "id": b"%06x" % n} for n in range(count)]
        values = [v | ({"class": n % 3} if split != "test" else unlabeled) for n, v in enumerate(values)]
        shards(tmp_path / f"flowers/tfrecords-jpeg-12x9/{split}", "{:02d}-12x9-{}.tfrec", values)
    pattern = f"{tmp_path}/flowers/tfrecords-jpeg-12x9/*/*.tfrec"
    output = report(pattern, tmp_path / "out", rewrite=rewrite)
    assert "  note: test is left out: none of its 7 records in 2 files has a label (it has no label" in output
    assert open_dataset(tmp_path / "out").splits == {"train": 9, "validation": 6}
    assert (
        tmp_path / "out/rejected.csv"
    ).read_text() == "path,reason,done\n"  # Records of the split are not counted as bad.
    assert verify(VerifyConfig(directory=str(tmp_path / "out"), decode=False, workers=1), lambda line: None) == []
    assert (
        contents(quietly(tmp_path / "flowers", tmp_path / "again", rewrite=rewrite)).keys()
        == contents(tmp_path / "out").keys()
    )  # Any directory above the files is accepted.


def test_empty_files(tmp_path: Path) -> None:
    for name in ("train-0.tfrec", "val-0.tfrec"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"^--records=.*: all 2 files are empty \(.*train-0\.tfrec,"):
        quietly(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"^--records=.*: the file is empty \("):
        quietly(tmp_path / "train*", tmp_path / "out")
    write(tmp_path / "train-0.tfrec.gz", [], "GZIP")
    (tmp_path / "val-0.tfrec").unlink()
    with pytest.raises(UserError, match=r"the files contain no records\."):
        quietly(tmp_path, tmp_path / "out", rewrite=True)
    (tmp_path / "train-0.tfrec.gz").unlink()
    write(tmp_path / "train-1.tfrec", [example(kaggle(n)) for n in range(3)])
    assert "  note: 1 of 2 files are empty and are left out: " in report(tmp_path, tmp_path / "out")


def test_files_in_a_directory_and_its_subdirectories(tmp_path: Path) -> None:
    for name in ("train.tfrec", "old/train.tfrec"):
        write(tmp_path / "d" / name, [example(kaggle(1))])
    with pytest.raises(
        UserError,
        match=r"d: there are TFRecords in this directory and in its subdirectories, for example .* with a patt",
    ):
        quietly(tmp_path / "d", tmp_path / "out")


def test_records_of_other_kinds_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "s/train.tfrec", [sequence({"label": 1}, {"frames": [image(1)]})])
    with pytest.raises(
        UserError, match=r"not of type tf\.train\.Example but of type tf\.train\.SequenceExample, which holds lists"
    ):
        quietly(tmp_path / "s", tmp_path / "out")
    unpacked = b"".join((b"\x0a\x05label", b"\x12\x04\x1a\x02\x08\x01"))  # Some writers do not pack numbers.
    record = example({"image": image(1)})
    entry = b"\x0a" + bytes([len(unpacked)]) + unpacked
    records = [example(kaggle(n) | {"label": 1}) for n in range(19)]
    records += [record + b"\x0a" + bytes([len(entry)]) + entry, b"\xff\xff"]
    write(tmp_path / "u/train.tfrec", records)
    output = report(tmp_path / "u", tmp_path / "out", max_bad=0.1)
    assert (
        "train.tfrec:19: the record's tf.train.Example is encoded in an unusual way, which the readers of this package"
        " cannot parse; --rewrite stores it in the usual way" in output
    )
    assert "train.tfrec:20: it is not a tf.train.Example" in output
    assert open_dataset(quietly(tmp_path / "u", tmp_path / "again", rewrite=True)).splits == {"train": 20}


def test_mutated_records_are_left_out_or_read(tmp_path: Path) -> None:
    """Checksums are right, but contents are damaged: no traceback, and adopted records are readable."""
    rng = np.random.default_rng(0)
    records = [example(kaggle(n, id=b"%d" % n)) for n in range(200)]
    for n in range(60, 200):
        damaged = bytearray(records[n])
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(256)
        damaged[rng.integers(24)] ^= 1 << rng.integers(8) if n % 2 else 0  # One of the first bytes, which hold keys.
        records[n] = bytes(damaged)
    write(tmp_path / "d/train.tfrec", records)
    classes = [str(label) for label in range(128)]
    for rewrite in (False, True):
        out = quietly(tmp_path / "d", tmp_path / f"out{rewrite}", rewrite=rewrite, max_bad=1.0, classes=classes)
        assert 60 <= open_dataset(out).splits["train"] < 200
        assert verify(VerifyConfig(directory=str(out), decode=False, workers=1), lambda line: None) == []


# --- The command -----------------------------------------------------------------------------------------------------


def test_command(model_garden: Path, tmp_path: Path) -> None:
    done = run("tfrecord_tools.adopt", f"--records={model_garden}/*-of-*", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == (
        "image in 'image/encoded', label in 'image/class/label', path in 'image/filename'"
    )
    assert done.stdout.splitlines()[-1].startswith("out/: 24 records, 0 left out (rejected.csv), digest ")
    assert open_dataset(tmp_path / "out").splits == {"train": 16, "validation": 8}
    failed = run("tfrecord_tools.adopt", "--records=none", cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: --records=none: no file matches.")  # The source is checked first.
