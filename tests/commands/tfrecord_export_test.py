"""Tests of export: no image is lost, and webdataset itself reads the tar files."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_records import example, write
from image_sources import contents, converted, draw, flip, image, run, tree, with_splits
from PIL import Image

from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.errors import UserError
from tfrecord_tools.export import ExportConfig, export
from tfrecord_tools.exporting import folder
from tfrecord_tools.exporting.pictures import Picture
from tfrecord_tools.records import open_dataset


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = with_splits(tmp_path_factory.mktemp("export") / "pets")
    draw(root / "train/cats/deeper/cat.0.jpg")
    (root / "train/dogs/turned into.webp").write_bytes(image(7, "WEBP", lossless=True))
    return root


@pytest.fixture(scope="module")
def out(source: Path) -> Path:
    """Return a dataset of 12 training and 6 validation records."""
    converted(source, source.parent / "out", shards=3)
    return source.parent / "out"


def quietly(tfrecords: Path, out: Path, **settings: Any) -> Path:
    export(ExportConfig(tfrecords=str(tfrecords), out=str(out), **settings), lambda line: None)
    return out


def stored(out: Path) -> dict[tuple[str, str], tuple[int, bytes]]:
    """Return (split, source path) -> (label, image)."""
    data = open_dataset(out)
    exported = {}
    for split, count in data.splits.items():
        for record in map(data.records(split).__getitem__, range(count)):
            exported[split, record["path"]] = record["label"], record["image"]
    return exported


# --- Folder ----------------------------------------------------------------------------------------------------------


def test_folder_equals_the_source(source: Path, out: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    config = ExportConfig(tfrecords=str(out), out=str(tmp_path / "images"))
    assert export(config, lines.append) == {"train": 12, "validation": 6}
    expected = contents(source)
    expected["train/dogs/turned into.png"] = expected.pop("train/dogs/turned into.webp")
    exported = contents(tmp_path / "images")
    assert exported.keys() == expected.keys()
    turned = "train/dogs/turned into.png"
    assert {k: v for k, v in exported.items() if k != turned} == {k: v for k, v in expected.items() if k != turned}
    assert exported[turned].startswith(b"\x89PNG")
    assert lines == [
        f"{tmp_path}/images/: 12 images of train, read again and counted",
        f"{tmp_path}/images/: 6 images of validation, read again and counted",
        f"to convert them back: python -m tfrecord_tools.convert --src={tmp_path}/images",
    ]
    assert os.listdir(tmp_path) == ["images"]


def test_folder_converts_to_the_same_records(out: Path, tmp_path: Path) -> None:
    images = quietly(out, tmp_path / "pets")
    converted(images, tmp_path / "again", shards=3)
    before, after = stored(out), stored(tmp_path / "again")
    assert sorted(before.values()) == sorted(after.values())
    orders = [[path for split, path in exported if split == "train"] for exported in (before, after)]
    unchanged = [[path for path in order if "turned" not in path] for order in orders]
    assert unchanged[0] == unchanged[1]  # It depends on the files of the source, which differ now.


def test_labels_in_another_order_are_printed(tmp_path: Path) -> None:
    source = tree(tmp_path / "pets", {"train/cats": 3, "train/dogs": 3, "train/ant eaters": 2})
    converted(source, tmp_path / "out", classes=["dogs", "cats", "ant eaters"], validation_fraction=None)
    lines: list[str] = []
    export(ExportConfig(tfrecords=str(tmp_path / "out"), out=str(tmp_path / "images")), lines.append)
    assert lines[-1].endswith(f"--src={tmp_path}/images --classes='dogs,cats,ant eaters'")
    converted(tmp_path / "images", tmp_path / "again", classes=["dogs", "cats", "ant eaters"])
    assert sorted(stored(tmp_path / "again").values()) == sorted(stored(tmp_path / "out").values())


def test_raw_pixels_become_png(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "out", store="raw", resize=8, resize_mode="exact")
    images = quietly(tmp_path / "out", tmp_path / "images")
    for (_, path), (_, pixels) in stored(tmp_path / "out").items():
        with Image.open(images / Path(path).with_suffix(".png")) as made:
            assert np.asarray(made).tobytes() == pixels


@pytest.mark.parametrize(
    ("path", "kind", "expected"),
    [
        ("train/cats/1.jpg", "JPEG", "1.jpg"),
        ("training/cats/1.jpg", "JPEG", "1.jpg"),
        ("cats/1.JPEG", "JPEG", "1.JPEG"),
        ("cats/deeper/cats/1.jpg", "JPEG", "deeper/cats/1.jpg"),
        ("validation/cats/1.jpg", "JPEG", "validation/cats/1.jpg"),  # The name of another split stays.
        ("cats", "JPEG", "cats.jpg"),
        ("cat.0.jpg", "JPEG", "cat.0.jpg"),
        ("cat.0", "JPEG", "cat.0.jpg"),
        ("a.webp", "PNG", "a.png"),
        ("a.png", "JPEG", "a.jpg"),  # A JPEG with the suffix of PNG.
        ("d-train.tfrecord-00000-of-00002@17", "JPEG", "d-train.tfrecord-00000-of-00002@17.jpg"),
        ("/etc/../../a.jpg", "JPEG", "etc/a.jpg"),  # Paths in foreign records must stay inside the directory.
        ("x/.hidden.jpg", "JPEG", "x/_hidden.jpg"),
        ("nul\0.jpg", "JPEG", "nul_.jpg"),
    ],
)
def test_names(path: str, kind: str, expected: str) -> None:
    picture = Picture("train", 0, 0, "cats", path, b"", kind)
    assert folder.relative(picture).as_posix() == expected


def test_equal_names_get_numbers(tmp_path: Path) -> None:
    values = [{"image": image(n), "label": n % 2, "image/filename": b"photo.jpg"} for n in range(6)]
    write(tmp_path / "d/train.tfrecord", map(example, values))
    names = ["a/b", "."]
    adopt(
        AdoptConfig(records=str(tmp_path / "d"), out=str(tmp_path / "out"), classes=names, workers=1), lambda line: None
    )
    exported = contents(quietly(tmp_path / "out", tmp_path / "images"))
    assert exported == {
        f"train/{folder}/{name}": image(2 * n + label)
        for label, folder in enumerate(("a_b", "_"))
        for n, name in enumerate(("photo.jpg", "photo-2.jpg", "photo-3.jpg"))
    }


# --- webdataset ------------------------------------------------------------------------------------------------------


def test_tars_have_the_standard_layout(out: Path, tmp_path: Path) -> None:
    images = quietly(out, tmp_path / "tars", to="webdataset", shard_bytes=20_000)
    paths = sorted(images.glob("train-*.tar"))
    assert [path.name for path in paths] == [f"train-{number:06d}.tar" for number in range(len(paths))]
    assert len(paths) > 1
    assert max(path.stat().st_size for path in images.iterdir()) <= 20_480  # tarfile pads to 10 KiB.
    names = []
    for path in paths:
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert len(names) == 36
    assert names[1:3] == ["000000000.cls", "000000000.json"]
    for image_name, cls, about in zip(names[::3], names[1::3], names[2::3]):
        assert {name.split(".")[0] for name in (image_name, cls, about)} == {image_name[:9]}
        assert image_name[9:] in (".jpg", ".png")


def test_webdataset_reads_them(out: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    lines: list[str] = []
    config = ExportConfig(tfrecords=str(out), out=str(tmp_path / "tars"), to="webdataset", shard_bytes=20_000)
    export(config, lines.append)
    for pattern, split in zip(lines[2:], ("train", "validation")):
        samples = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("rgb8"))
        expected = {path: value for (of, path), value in stored(out).items() if of == split}
        assert {sample["json"]["path"] for sample in samples} == expected.keys()
        for sample in samples:
            label, encoded = expected[sample["json"]["path"]]
            assert sample["cls"] == sample["json"]["label"] == label
            assert (sample["json"]["class"], sample["json"]["split"]) == (("cats", "dogs")[label], split)
            pixels = sample["jpg"] if "jpg" in sample else sample["png"]
            with Image.open(io.BytesIO(encoded)) as original:
                np.testing.assert_array_equal(pixels, np.asarray(original.convert("RGB")))


def test_tars_are_reproducible(out: Path, tmp_path: Path) -> None:
    one = contents(quietly(out, tmp_path / "one", to="webdataset", shard_bytes=20_000))
    assert one == contents(quietly(out, tmp_path / "two", to="webdataset", shard_bytes=20_000))
    assert len(contents(quietly(out, tmp_path / "each", to="webdataset", shard_bytes=1))) == 18


# --- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["folder", "webdataset"])
def test_a_corrupt_record_leaves_nothing(out: Path, tmp_path: Path, to: str) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "out"))
    flip(sorted(copy.glob("*-train*"))[-1], 60)
    with pytest.raises(UserError, match=r"is corrupt: train record "):
        quietly(copy, tmp_path / "images", to=to)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("to", ["folder", "webdataset"])
def test_lost_files_are_found(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    def lose(*arguments: Any) -> None:
        victim = sorted(path for path in (tmp_path / "images.partial/data").rglob("*") if path.is_file())[0]
        if to == "folder":
            victim.unlink()
        else:
            os.truncate(victim, 512)

    monkeypatch.setattr(os, "sync", lose)
    with pytest.raises(RuntimeError, match="cannot be read again"):
        quietly(out, tmp_path / "images", to=to)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"out": "there"},
            r"^--out=there: exists and is not an empty directory\. Choose a new or an empty directory\.",
        ),
        ({"out": "file"}, r"^--out=file: exists and is not an empty directory\."),
        ({"out": ""}, r"^--out is missing\. Pass two directories"),
        ({"tfrecords": ""}, r"^--tfrecords is missing\."),
        ({"tfrecords": "none"}, r"^none: does not exist\."),
        ({"to": "zip"}, r"^--to=zip: must be one of folder, webdataset, parquet, array_record\."),
        ({"to": "parquet", "shard_bytes": 0}, r"^--shard_bytes=0: must be a number of bytes, at least 1\."),
        (
            {"to": "folder", "shard_bytes": 9},
            r"^--shard_bytes=9: --to=folder does not use it\. Only --to=webdataset, --to=parquet and"
            r" --to=array_record use it\. Remove --shard_bytes, or choose another --to\.$",
        ),
    ],
)
def test_errors_name_the_flag(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    draw(tmp_path / "there/1.jpg")
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        export(ExportConfig(**{"tfrecords": str(out), "out": "images"} | settings), lambda line: None)


def test_command(out: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()  # An empty directory is allowed.
    done = run("tfrecord_tools.export", f"--tfrecords={out}", "--out=images", "--to=webdataset", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "images/validation-{000000..000000}.tar"
    with tarfile.open(tmp_path / "images/train-000000.tar") as tar:
        member = tar.extractfile("000000011.json")
        assert member is not None
        about = json.load(member)
    assert about["path"] == open_dataset(out).records("train").paths[11]
    failed = run("tfrecord_tools.export", f"--tfrecords={out}", "--out=images", cwd=tmp_path)
    message = "error: --out=images: exists and is not an empty directory."
    assert (failed.returncode, failed.stderr.splitlines()[0][:58]) == (1, message)
