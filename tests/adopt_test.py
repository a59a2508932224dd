"""Tests of adopting others' TFRecords: every reader and trainer takes them, and nothing of them is written again."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from drawn import contents, draw, flip, image, run, start, tree
from foreign import example, write
from PIL import Image

from tfrecord_tools import dataset, update
from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.errors import UserError
from tfrecord_tools.export import ExportConfig, export
from tfrecord_tools.records import open_dataset
from tfrecord_tools.verify import VerifyConfig, verify

FISH = ["tench, Tinca tinca", "goldfish"]


def imagenet(number: int, split: str = "train") -> dict[str, Any]:
    """A record as build_imagenet_data.py writes it: labels count from 1."""
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
    """Writes records to `count` files, named by `pattern` of (number, count)."""
    for number in range(count):
        write(directory / pattern.format(number, count), map(example, values[number::count]))


@pytest.fixture(scope="module")
def model_garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 + 8 records, two classes."""
    root = tmp_path_factory.mktemp("garden") / "imagenet2"
    for split, count in (("train", 16), ("validation", 8)):
        values = [imagenet(number, split) for number in range(count)]
        shards(root, f"{split}-{{:05d}}-of-{{:05d}}", values)
    return root


@pytest.fixture(scope="module")
def adopted(model_garden: Path) -> Path:
    return quietly(model_garden, model_garden.parent / "out")


def quietly(records: Path | str, out: Path, **settings: Any) -> Path:
    """Adopts in this process; returns `out`."""
    adopt(AdoptConfig(**{"records": str(records), "out": str(out), "workers": 1} | settings), lambda line: None)
    return out


def report(records: Path | str, out: Path, **settings: Any) -> str:
    lines: list[str] = []
    adopt(AdoptConfig(**{"records": str(records), "out": str(out), "workers": 1} | settings), lines.append)
    return "\n".join(lines)


def stored(records: Any) -> list[tuple[str, int, bytes]]:
    return sorted((r["path"], r["label"], r["image"]) for r in map(records.__getitem__, range(len(records))))


# --- What comes out ------------------------------------------------------------------------------------------------


def test_every_record_is_there_and_nothing_is_copied(model_garden: Path, adopted: Path) -> None:
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


def test_verify_proves_it(adopted: Path) -> None:
    lines: list[str] = []
    assert verify(VerifyConfig(directory=str(adopted), decode=False, workers=1), lines.append) == []
    assert "24 records in 4 shards are sound" in lines[-1]


def test_tensorflow_datasets_reads_it(adopted: Path) -> None:
    """Labels are as they are stored there; those below the first class have placeholders for names."""
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
    assert all(100 < mean < 156 for _, _, mean in seen)  # Noise, not zeros.


def test_output_is_a_function_of_the_records(model_garden: Path, adopted: Path, tmp_path: Path) -> None:
    again = quietly(model_garden, tmp_path / "elsewhere", workers=2)
    same = {name: data for name, data in contents(adopted).items() if ".tfrecord-" not in name}
    assert {name: data for name, data in contents(again).items() if ".tfrecord-" not in name} == same


def test_kaggle_files_without_paths_and_names(tmp_path: Path) -> None:
    for split, count in (("train", 9), ("val", 6)):
        shards(tmp_path / f"flowers/{split}", "{:02d}-12x9-{}.tfrec", [kaggle(n) for n in range(count)])
    said = report(f"{tmp_path}/flowers/*/*.tfrec", tmp_path / "out")
    assert said.startswith("image in 'image', label in 'class', no path\n3 classes, the first one, '0', is label 0\n")
    data = open_dataset(tmp_path / "out")
    assert data.splits == {"train": 9, "validation": 6}
    records = data.records("train")
    assert records[0]["path"] == records.paths[0] == f"{data.name}-train.tfrecord-00000-of-00002@0"
    assert {record["path"] for record in map(records.__getitem__, range(9))} == set(records.paths)
    assert len(set(records.paths)) == 9
    assert verify(VerifyConfig(directory=str(tmp_path / "out"), decode=False, workers=1), lambda line: None) == []


class Pets(tfds.core.GeneratorBasedBuilder):
    """Written by the writer of TensorFlow Datasets; a record of the test split has no label."""

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
    said = report(tfds_directory, tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    assert (data.name, data.class_names, data.splits) == ("pets", ("cats", "dogs"), {"train": 16, "validation": 8})
    images = {path.read_bytes(): path.parent.name for path in Pets.SOURCE.rglob("train/*/*.jpg")}
    for record in map(data.records("train").__getitem__, range(16)):
        assert images[record["image"]] == data.class_names[record["label"]]
    rejected = (tmp_path / "out/rejected.csv").read_text().splitlines()
    assert len(rejected) == 2
    assert rejected[1].endswith(",it has no label (-1),skipped")
    assert "16 records of 2 classes in 1 file" in said
    assert verify(VerifyConfig(directory=str(tmp_path / "out"), decode=False, workers=1), lambda line: None) == []
    builder = tfds.builder_from_directory(tmp_path / "out")  # By position: what is left out is in the file.
    assert len(list(builder.as_dataset(split="train"))) == 17


TINY = ("--weights=none", "--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", "--image_size=32", "--batch_size=8")


@pytest.mark.parametrize("origin", ["model_garden", "tfds_directory"])
def test_fine_tuning_takes_it(origin: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    out = quietly(request.getfixturevalue(origin), tmp_path / "out")
    command = ("trainers.finetune", f"--tfrecords={out}", f"--run={tmp_path / 'run'}", "--epochs=1", *TINY)
    with start(*command, cwd=tmp_path) as process:
        _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["count"], metrics["steps"], metrics["corrupt"]) == (8, 2, [])


def test_what_is_adopted_can_be_exported(model_garden: Path, adopted: Path, tmp_path: Path) -> None:
    export(ExportConfig(tfrecords=str(adopted), out=str(tmp_path / "images")), lambda line: None)
    assert len(contents(tmp_path / "images")) == 24
    path = tmp_path / "images/train" / FISH[0].replace("/", "_") / "train_0.JPEG"
    assert path.read_bytes() == imagenet(0)["image/encoded"]


# --- What is told, and what is not as expected -----------------------------------------------------------------------


def test_everything_given(model_garden: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    splits = (f"train={model_garden}/t*", f"val={model_garden}/v*-00000-*")
    said = report(
        "", tmp_path / "out", split=splits, image_key="image/encoded", label_key="image/class/label", label_offset=0,
        classes=[str(tmp_path / "names.txt")], verify="header",
    )  # fmt: skip
    data = open_dataset(tmp_path / "out")
    assert (data.class_names, data.splits) == (("a", "b", "c"), {"train": 16, "validation": 4})
    assert sorted(set(data.records("train").labels.tolist())) == [1, 2]
    assert "note: " in said
    assert "1 file is missing, as the names of the others say" in said


def test_bad_images_are_left_out(tmp_path: Path) -> None:
    values = [kaggle(number, id=f"photo {number}".encode()) for number in range(40)]
    values[3]["image"] = b"<html>"
    values[39]["image"] = values[39]["image"][:-20]
    tiff = io.BytesIO()
    Image.new("RGB", (4, 4)).save(tiff, "TIFF")
    values[7]["image"] = tiff.getvalue()
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", values, count=1)
    said = report(tmp_path / "d", tmp_path / "out", max_bad=0.1)
    assert "  skipped: photo 3: not an image (starts with b'<html>'); " in said
    assert "  skipped: photo 7: a TIFF image, which TensorFlow does not decode" in said
    assert "  skipped: photo 39: damaged image: " in said
    records = open_dataset(tmp_path / "out").records("train")
    assert sorted(records.paths) == sorted(f"photo {n}" for n in range(40) if n not in (3, 7, 39))
    assert {records[i]["path"]: records[i]["image"] for i in range(37)} == {
        v["id"].decode(): v["image"] for n, v in enumerate(values) if n not in (3, 7, 39)
    }
    assert sum(len(part) for part in records.hold_out(0.5)) == 37
    assert verify(VerifyConfig(directory=str(tmp_path / "out"), decode=False, workers=1), lambda line: None) == []
    with pytest.raises(
        UserError, match=r"3 of 40 records cannot be used, more than --max_bad=0\.05 allows:\n  photo 3"
    ):
        quietly(tmp_path / "d", tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["d", "out"]


def test_images_that_convert_would_change_are_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by 90 degrees.
    values = [kaggle(n) for n in range(4)]
    values[1]["image"], values[2]["image"] = image(1, exif=exif), image(2, mode="CMYK")
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", values)
    said = report(tmp_path / "d", tmp_path / "out")
    assert "  note: 1 image has an EXIF orientation, which TensorFlow's decoders ignore" in said
    assert "  note: 1 image is one that `convert` would encode anew" in said
    assert verify(VerifyConfig(directory=str(tmp_path / "out"), workers=1), lambda line: None) == []  # Sizes as well.


@pytest.mark.parametrize("kind", ["GZIP", "ZLIB"])
def test_compressed_files_are_refused_with_what_unpacks_them(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "d/train a.tfrecord", [example(kaggle(n)) for n in range(4)], kind)
    with pytest.raises(UserError) as caught:
        quietly(tmp_path / "d", tmp_path / "out")
    start, command = str(caught.value).split(" Unpack such files first: ")
    assert start == f"{path}: compressed as a whole ({kind}), so that no record in it can be read alone."
    assert os.system(command) == 0
    path.unlink()
    quietly(tmp_path / "d/*", tmp_path / "out")
    assert open_dataset(tmp_path / "out").splits == {"train": 4}


def test_damaged_files_are_named(tmp_path: Path) -> None:
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", [kaggle(n) for n in range(6)])
    path = tmp_path / "d/train-00001-of-00002"
    sound = path.read_bytes()
    os.truncate(path, len(sound) - 5)
    with pytest.raises(UserError, match=rf"^{path}: record 2 .* the file ends within it.* Copy the file again from"):
        quietly(tmp_path / "d", tmp_path / "out")
    path.write_bytes(sound)
    flip(path, 40)
    with pytest.raises(UserError, match=rf"^{path}: record 0 .* the checksum of its data is wrong"):
        quietly(tmp_path / "d", tmp_path / "out", workers=2)  # In a worker, too.
    assert sorted(os.listdir(tmp_path)) == ["d"]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            {4: {"class": [1, 2]}},
            {},
            r"train-00000-of-00002: record 2 .* one whole number in 'class': it has class, image",
        ),
        (
            {5: {"class": b"cat"}},
            {},
            r"train-00001-of-00002: record 2 .* does not hold one image in 'image' and one whole",
        ),
        ({2: {"image": None}}, {}, r"train-00000-of-00002: record 1 .* Name others with --image_key and --label_key"),
        (
            {},
            {"classes": ["a", "b"]},
            r"train-00000-of-00002: 1 record with label 2 in 'class'; of 2 classes, counted from 0, 0 to 1 are",
        ),
        (
            {},
            {"label_offset": 1},
            r"with label 0 in 'class'; of 100,000 classes at most, counted from 1, 1 to 100,000 are",
        ),
        ({0: {"class": 1 << 40}}, {}, r"with label 1,099,511,627,776 in 'class'"),
        (
            {},
            {"image_key": "picture"},
            r"--image_key=picture: .*train-00000-of-00002: the first record has no such feature",
        ),
        ({}, {"classes": ["a", "b", "a"]}, r"the class name 'a' is given twice\. Tell the classes apart"),
        ({}, {"classes": ["none.txt"]}, r"--classes=none\.txt: there is no such file\."),
        ({n: {"class": -1} for n in range(6)}, {"max_bad": 1.0}, r"hold no record that can be used"),
    ],
)
def test_records_that_do_not_fit(
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
        ({}, r"the records are missing, or given twice: either --records=DIRECTORY_OR_PATTERN, or --split="),
        ({"records": "d", "split": ["train=d"]}, r"the records are missing, or given twice"),
        ({"records": "d/none*"}, r"--records=d/none\*: no file matches\. A directory, or a pattern in quotes"),
        ({"records": "d/names.txt"}, r"d/names\.txt: no TFRecord: it starts with b'cats\\ndogs"),
        ({"split": ["dev=d"]}, r"--split=dev=d: NAME=PATTERN is expected, NAME one of train, validation, test\."),
        ({"split": ["train"]}, r"--split=train: NAME=PATTERN is expected"),
        ({"split": ["train=d", "test=d"]}, r"a\.tfrecord: is matched twice\. Give each file once, in one split\."),
        (
            {"records": "d", "label_offset": -1},
            r"--label_offset=-1: the label of the first class is expected, at least 0",
        ),
        ({"records": "d", "max_bad": 2}, r"--max_bad=2: a share between 0 and 1"),
        ({"records": "d", "verify": "no"}, r"--verify=no: one of full, header"),
        ({"records": "d", "out": "d"}, r"--out=d exists and is no dataset of this tool, so it is not touched"),
        ({"records": "other"}, r"other/a: its records are no tf\.train\.Example\. See what they are with"),
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


def test_files_without_a_split_are_all_of_train(tmp_path: Path) -> None:
    shards(tmp_path / "d", "part{}_{}.tfrecord", [kaggle(n) for n in range(6)])
    (tmp_path / "d/part9.tfrecord").write_bytes(b"")
    assert "no file is named by a split: all 2 are of train" in report(tmp_path / "d", tmp_path / "out")


def test_moved_records_are_told(tmp_path: Path) -> None:
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", [kaggle(n) for n in range(6)])
    out = quietly(tmp_path / "d", tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "moved")
    assert len(open_dataset(tmp_path / "moved").records("train")) == 6  # Links are absolute.
    (tmp_path / "d").rename(tmp_path / "gone")
    with pytest.raises(
        UserError, match=r"is a link to .*/d/train-00000-of-00002, which is not there any more\. Bring it"
    ):
        open_dataset(tmp_path / "moved").records("train")
    assert not out.exists()


def test_overwriting(tmp_path: Path) -> None:
    shards(tmp_path / "d", "train-{:05d}-of-{:05d}", [kaggle(n) for n in range(6)])
    out = quietly(tmp_path / "d", tmp_path / "out")
    with pytest.raises(UserError, match=r"--out=.*out exists\. Pass --overwrite to replace it"):
        quietly(tmp_path / "d", out)
    shards(tmp_path / "e", "train-{:05d}-of-{:05d}", [kaggle(n) for n in range(9)])
    quietly(tmp_path / "e", out, overwrite=True)
    assert open_dataset(out).splits == {"train": 9}
    assert sorted(os.listdir(tmp_path)) == ["d", "e", "out"]


def test_converting_does_not_update_it(adopted: Path) -> None:
    with pytest.raises(UserError, match=r"--update: .*out was adopted, not converted: .* Adopt them again with"):
        update.read(adopted)


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
    assert failed.stderr.startswith("error: --records=none: no file matches.")  # The source comes first.
