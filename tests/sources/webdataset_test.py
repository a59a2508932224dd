"""Tests of tar files of webdataset as a source."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import contents, converted, image, run, scanned, tree

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.records import open_dataset
from tfrecord_tools.sources import webdataset_tars
from tfrecord_tools.sources.base import ReadError

pytestmark = pytest.mark.usefixtures("no_fsync")


def write(path: Path, members: Mapping[str, bytes | str]) -> Path:
    """Write a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(count: int, key: str = "", **texts: Sequence[Any]) -> dict[str, bytes | str]:
    """Return members: an image per sample, and a text per extension. Texts that are dicts become JSON."""
    members: dict[str, bytes | str] = {}
    for number in range(count):
        members[f"{number:04d}.jpg"] = image(f"{key}{number}")
        for extension, values in texts.items():
            value = values[number % len(values)]
            if value is not None:
                name = f"{number:04d}.{extension.replace('_', '.')}"
                members[name] = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return members


def refusal(src: Path | str, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        scanned(src, **settings)  # type: ignore[arg-type]
    return str(caught.value)


def read(sources: Any) -> list[bytes]:
    return [sources.store.read(path, span).data for path, span in zip(sources.paths, sources.spans)]


# --- Labels -----------------------------------------------------------------------------------------------------------

ONE, TWO = {"label": 1, "class": "cat"}, {"label": 0, "class": "dog"}


@pytest.mark.parametrize(
    ("texts", "classes", "labels"),
    [
        ({"cls": [0, 1]}, ("0", "1"), [0, 1, 0, 1]),
        ({"cls": ["10", " 9\n"]}, ("9", "10"), [1, 0, 1, 0]),
        ({"cls_txt": [0, 1]}, ("0", "1"), [0, 1, 0, 1]),
        ({"cls": ["dog", "cat"]}, ("cat", "dog"), [1, 0, 1, 0]),
        ({"json": [ONE, TWO]}, ("dog", "cat"), [1, 0, 1, 0]),  # The numbers are the order, the texts the names.
        ({"json": [{"class": "dog"}, {"class": "cat"}]}, ("cat", "dog"), [1, 0, 1, 0]),
        ({"json": [{"label": 7}, {"label": 10}]}, ("7", "10"), [0, 1, 0, 1]),
        ({"cls": [1, 0], "json": [{"class_name": "cat"}, {"class_name": "dog"}]}, ("dog", "cat"), [1, 0, 1, 0]),
        ({"cls": [0, 1], "json": [{"caption": "a dog", "size": [1, 2]}]}, ("0", "1"), [0, 1, 0, 1]),
        ({"cls": [0, 1], "txt": ["a dog", "a cat"]}, ("0", "1"), [0, 1, 0, 1]),
        ({"cls": [3, 3], "json": [{"a": 1, "b": 0}, {"a": 0, "b": 1}]}, ("a", "b"), [0, 1, 0, 1]),
    ],
)
def test_labels(tmp_path: Path, texts: dict[str, Any], classes: tuple[str, ...], labels: list[int]) -> None:
    path = write(tmp_path / "pets.tar", samples(4, **texts))
    sources = scanned(path, label_columns=["a", "b"] if classes == ("a", "b") else None)
    assert (sources.class_names, sources.labels.tolist()) == (classes, labels)
    assert read(sources) == [image(str(number)) for number in range(4)]
    assert list(sources.paths) == [f"pets.tar/{number:04d}.jpg" for number in range(4)]


def test_other_field_by_flag(tmp_path: Path) -> None:
    fields = [{"label": n % 2, "fine": {"name": n}, "coarse": ["a", "b"][n // 2]} for n in range(4)]
    path = write(tmp_path / "pets.tar", samples(4, json=fields))
    assert scanned(path, label_column="coarse").labels.tolist() == [0, 0, 1, 1]
    assert refusal(path, label_column="breed") == (
        f"{path}: there is no field 'breed'. The fields are: 'label', 'fine', 'coarse'. Name the field of the labels"
        " with --label_column."
    )


def test_labels_that_contradict_each_other(tmp_path: Path) -> None:
    fields = [{"label": value} for value in (0, 0, 1, 1)]
    path = write(tmp_path / "pets.tar", samples(4, cls=[0, 1, 0, 1], json=fields))
    assert refusal(path) == (
        f"{path}: the labels in 'label' and in 'cls' are not the same classes. Name the right ones:"
        " --label_column=json.label or --label_column=cls."
    )
    assert scanned(path, label_column="json.label").labels.tolist() == [0, 0, 1, 1]
    assert scanned(path, label_column="cls").labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("name", ["classnames.txt", "classes.txt"])
def test_class_names_beside_the_files(tmp_path: Path, name: str) -> None:
    write(tmp_path / "pets/train-0.tar", samples(4, cls=[0, 1]))
    (tmp_path / "pets" / name).write_text("tabby cat\nhound\n")
    sources = scanned(tmp_path / "pets")
    assert (sources.class_names, sources.labels.tolist()) == (("tabby cat", "hound"), [0, 1, 0, 1])
    assert sources.notes == (f"the class names are those in {name}",)
    (tmp_path / "pets" / name).write_text("tabby cat\n")
    assert refusal(tmp_path / "pets") == (
        f"{tmp_path}/pets/{name}: has 1 class names, but there is a label 1, and labels count from 0. Correct the file,"
        " or remove it."
    )


def test_samples_without_a_label_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "pets.tar", samples(6, cls=[0, 1, None]))
    sources = scanned(path)
    assert list(sources.paths) == [f"pets.tar/{number:04d}.jpg" for number in (0, 1, 3, 4)]
    assert sources.notes == (
        "2 of 6 samples are left out, since they have no label in the column 'cls', for example pets.tar/0002.jpg",
    )


# --- Images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg", "JPG", "bmp"])
def test_image_formats(tmp_path: Path, kind: str) -> None:
    encoded = {"jpeg": "JPEG", "JPG": "JPEG"}.get(kind, kind.upper())
    members: dict[str, bytes | str] = {}
    for number in range(4):
        members |= {f"{number}.{kind}": image(str(number), encoded), f"{number}.cls": str(number % 2)}
    facts = converted(write(tmp_path / "pets.tar", members), tmp_path / "out", validation_fraction=0)
    assert (facts["records"], facts["rejected"]) == (4, 0)


def test_several_images_per_sample(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {}
    for number in range(4):
        members |= {f"{number}.{name}": image(f"{name}{number}") for name in ("jpg", "seg.png", "png")}
        members[f"{number}.cls"] = str(number % 2)
    path = write(tmp_path / "pets.tar", members)
    assert refusal(path) == (
        f"{path}: the sample 0 has several images: jpg, png. Name the extension of the images to read, for example"
        " --path_column=jpg."
    )
    assert read(scanned(path, path_column="seg.png")) == [image(f"seg.png{number}") for number in range(4)]
    masks = write(tmp_path / "masks.tar", {name: data for name, data in members.items() if name[2:] != "png"})
    sources = scanned(masks)
    assert read(sources) == [image(f"jpg{number}") for number in range(4)]
    assert sources.notes == ("4 images with the extension seg.png are not read (see --path_column)",)


def test_damaged_samples_are_rejected(tmp_path: Path) -> None:
    members = samples(6, cls=[0, 1])
    members |= {"1000.cls": "1", "1001.jpg": image("x"), "1001.cls": "0", "1001.json": "{", "1002.txt": "a text"}
    members |= {"1003.jpg": image("y"), "1003.cls": "0", "1003.json": "[1]", "1004.cls": "0", "1004.jpg": b"<html>"}
    path = write(tmp_path / "pets.tar", members)
    with tarfile.open(path, "a:") as tar:
        tar.addfile(tarfile.TarInfo("0000.jpg"), io.BytesIO())
    sources = scanned(path)
    reasons = {rejected.path: rejected.reason for rejected in sources.rejected}
    assert {name: reason[:50] for name, reason in reasons.items()} == {
        "pets.tar/0000.jpg": "its sample has several members jpg",
        "pets.tar/1000.cls": "its sample has no image",
        "pets.tar/1001.jpg": "its member json is not valid: Expecting property n",
        "pets.tar/1003.jpg": "its member json is not an object with fields",
    }
    facts = converted(path, tmp_path / "out", validation_fraction=0, max_bad=0.5)
    assert (facts["records"], facts["rejected"]) == (5, 5)
    assert "pets.tar/1004.jpg,not an image" in (tmp_path / "out/rejected.csv").read_text()


def test_members_that_are_not_samples_are_ignored(tmp_path: Path) -> None:
    members = {"__index__": "x", ".hidden.jpg": b"x", "README": "x", "a/.cls": "1", **samples(4, cls=[0, 1])}
    sources = scanned(write(tmp_path / "pets.tar", members))
    assert (len(sources), sources.rejected) == (4, ())


def test_cut_file(tmp_path: Path) -> None:
    path = write(tmp_path / "pets.tar", samples(40, cls=[0, 1]))
    path.write_bytes(path.read_bytes()[:40_000])
    assert refusal(path).startswith(f"--src={path}: the tar archive is damaged: ")
    sources = scanned(write(tmp_path / "pets.tar", samples(40, cls=[0, 1])))
    path.unlink()
    with pytest.raises((OSError, ReadError)):
        read(sources)


# --- Files and splits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-000000", "train-000001", "validation-000000"], ["train", "train", "validation"]),
        (["data/train-0", "data/test-0"], ["test", "train"]),
        (["train/00000", "val/00000"], ["train", "validation"]),
        (["pets_train.0", "pets_val.0"], ["train", "validation"]),
        (["00000", "00001"], None),
        (["train-0", "train-1"], None),
    ],
)
def test_directories_of_files(tmp_path: Path, names: list[str], splits: list[str] | None) -> None:
    for name in names:
        write(tmp_path / f"pets/{name}.tar", samples(4, name, cls=[0, 1]))
    (tmp_path / "pets/README.md").write_text("# Pets")
    sources = scanned(tmp_path / "pets")
    assert len(sources) == 4 * len(names)
    assert sources.has_splits == (splits is not None)
    top = "data/" if names[0].startswith("data") else ""
    by_file = {path.rpartition("/")[0]: split for path, split in zip(sources.paths, sources.splits.tolist())}
    assert sorted(by_file) == sorted(f"{name}.tar" for name in names)
    if splits:
        assert [SPLITS[by_file[f"{name}.tar"]] for name in sorted(names)] == splits
    assert top or "data" not in "".join(by_file)
    assert sorted(read(sources)) == sorted(image(f"{name}{number}") for name in names for number in range(4))


def test_split_and_group_in_the_fields(tmp_path: Path) -> None:
    fields = [{"label": n % 2, "split": ["train", "val"][n // 4], "group": f"g{n // 2}"} for n in range(8)]
    sources = scanned(write(tmp_path / "pets.tar", samples(8, json=fields)))
    assert sources.splits.tolist() == [0] * 4 + [1] * 4
    assert len(set(sources.groups.tolist())) == 4


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("pets/train-{000000..000002}.tar", ["train-000000.tar", "train-000001.tar", "train-000002.tar"]),
        ("pets/train-*.tar", ["train-000000.tar", "train-000001.tar", "train-000002.tar"]),
        ("pets/{train-000001,extra}.tar", ["extra.tar", "train-000001.tar"]),
        ("pets/{train-00000{0..1},extra}.tar", ["extra.tar", "train-000000.tar", "train-000001.tar"]),
        ("p?ts/train-00000[12].tar", ["pets/train-000001.tar", "pets/train-000002.tar"]),
    ],
)
def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, files: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train-000000", "train-000001", "train-000002", "extra", "val-000000"):
        write(tmp_path / f"pets/{name}.tar", samples(2, name, cls=[0, 1]))
    for src in (pattern, f"{tmp_path}/{pattern}"):
        sources = scanned(src)  # type: ignore[arg-type]
        assert sorted({path.rpartition("/")[0] for path in sources.paths}) == files


def test_pattern_without_an_ending(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "val-0"):
        write(tmp_path / f"pets/{name}.tar", samples(2, name, cls=[0, 1]))
    (tmp_path / "pets/train-0.json").write_text("{}")
    for pattern in ("train-*", "train-{0.tar,1.tar}"):
        files = {path.rpartition("/")[0] for path in scanned(tmp_path / "pets" / pattern).paths}
        assert files == {"train-0.tar", "train-1.tar"}


def test_pattern_as_a_command(tmp_path: Path) -> None:
    """The dataset is named after the directory of the files."""
    for number in range(3):
        write(tmp_path / f"my pets/train-{number:06d}.tar", samples(4, f"{number} ", cls=[0, 1]))
    flags = ["--src=my pets/train-{000000..000002}.tar", "--validation_fraction=0"]
    done = run("tfrecord_tools.convert", *flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    data = open_dataset(tmp_path / "out")
    assert (data.name, dict(data.splits)) == ("my_pets", {"train": 12})
    again = run("tfrecord_tools.convert", *flags, "--update", cwd=tmp_path)
    assert "up to date" in again.stdout
    wrong = run("tfrecord_tools.convert", "--src=my pets/train-{000000..000003}.tar", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.splitlines()[0]) == (
        1,
        "error: --src=my pets/train-{000000..000003}.tar: no file matches (my pets/train-000003.tar is missing). Pass"
        " the path of a file, of a directory, or a pattern such as 'data/train-*.parquet' or"
        " 'train-{000000..000012}.tar', in quotes.",
    )


def test_pattern_of_other_files(tmp_path: Path) -> None:
    source = tree(tmp_path / "pets", {"cats": 2, "dogs": 2})
    with tarfile.open(tmp_path / "pets.tar", "w:") as tar:
        tar.add(source, "pets")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    for pattern, first in (("pets/*/*.jpg", "pets/cats/000.jpg"), ("*.tar", "pets.tar"), ("*.parquet", "x.parquet")):
        assert refusal(tmp_path / pattern) == (
            f"--src={tmp_path}/{pattern}: the files that match are neither Parquet files of images nor tar files of"
            f" webdataset, for example {tmp_path}/{first}. Pass the directory of the files instead of a pattern."
        )
    assert refusal(tmp_path / "*.png").startswith(f"--src={tmp_path}/*.png: no file matches. Pass the path of a file,")


def test_exclude_and_flags_that_do_not_fit(tmp_path: Path) -> None:
    for name in ("train-0", "test-0", "extra"):
        write(tmp_path / f"pets/{name}.tar", samples(2, name, cls=[0, 1]))
    sources = scanned(tmp_path / "pets", exclude=["t*"])
    assert {path.partition("/")[0] for path in sources.paths} == {"extra.tar"}
    assert sources.notes == ("2 files are left out by --exclude",)
    assert refusal(tmp_path / "pets", exclude=["*"]) == (
        f"--exclude=*: no tar file of images in {tmp_path}/pets is left. Remove a pattern."
    )
    assert refusal(tmp_path / "pets", split=["train=train-0.tar"]) == (
        "--split=train=train-0.tar and tar files of images cannot be combined: the splits come from the names of the"
        " files, such as train.tar and test.tar, or from a column. Remove --split. To change the splits, rename the"
        " files, or pass --split_column."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"crane\nmaillot\ncrane\n", "the class name 'crane' is in several lines. Every class must have its own name."),
        (b"crane\n\ndog\n", "line 2 is empty, so the labels of the lines below are not clear. Write one class name"),
        (b"gr\xf6\xdfe\ndog\n", "is not in UTF-8. Save it as UTF-8, or remove it."),
    ],
)
def test_class_names_that_are_not_clear(tmp_path: Path, content: bytes, message: str) -> None:
    write(tmp_path / "pets/0.tar", samples(6, cls=[0, 1, 2]))
    (tmp_path / "pets/classnames.txt").write_bytes(content)
    assert refusal(tmp_path / "pets").startswith(f"{tmp_path}/pets/classnames.txt: {message}")


def test_minus_one_means_no_label_if_all_classes_have_names(tmp_path: Path) -> None:
    write(tmp_path / "pets/0.tar", samples(6, cls=[0, 1, -1]))
    assert scanned(tmp_path / "pets").class_names == ("-1", "0", "1")
    (tmp_path / "pets/classnames.txt").write_text("cat\ndog\n")
    sources = scanned(tmp_path / "pets")
    assert (sources.class_names, sources.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1])
    assert sources.notes[-1].startswith("2 of 6 samples are left out, since they have no label in the column 'cls'")


def test_numbers_with_gaps(tmp_path: Path) -> None:
    path = write(tmp_path / "pets.tar", samples(4, cls=[0, 3], json=[{"class": "cat"}, {"class": "ant"}]))
    sources = scanned(path)
    assert (sources.class_names, sources.labels.tolist()) == (("cat", "ant"), [0, 1, 0, 1])
    assert sources.notes == (
        "the numbers in 'cls' are not 0 to 1. The labels of the dataset only count classes with images",
    )


def test_halves_of_characters_in_fields(tmp_path: Path) -> None:
    fields = [{"class": "a\ud800b", "path": "\udc00"}, {"class": "dog"}]
    assert scanned(write(tmp_path / "pets.tar", samples(4, json=fields))).class_names == ("a\\ud800b", "dog")


# --- Other tar files --------------------------------------------------------------------------------------------------


def test_folders_in_tar_files_are_still_folders(tmp_path: Path) -> None:
    """Texts beside the images of a class do not make samples."""
    source = tree(tmp_path / "pets", {"cats": 3, "dogs": 3})
    (source / "cats/000.json").write_text('{"label": "x"}')
    with tarfile.open(tmp_path / "pets.tar", "w:") as tar:
        tar.add(source, "pets")
    sources = scanned(tmp_path / "pets.tar")
    assert (sources.class_names, len(sources)) == (("cats", "dogs"), 6)


def test_label_regex_reads_the_tar_file_as_a_folder(tmp_path: Path) -> None:
    members = {f"{name}.{number}.jpg": image(f"{name}{number}") for name in ("cat", "dog") for number in range(3)}
    path = write(tmp_path / "pets.tar", {**members, "cat.cls": "0"})
    sources = scanned(path, label_regex=r"(cat|dog)")
    assert sources.class_names == ("cat", "dog")


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b tar", b"x" * 2000])
def test_other_content(tmp_path: Path, content: bytes) -> None:
    """One such file is an error beside tar files with samples, and can be left out."""
    path = tmp_path / "pets/train-000001.tar"
    for number in range(3):
        write(path.with_name(f"train-{number:06d}.tar"), samples(4, str(number), cls=[0, 1]))
    path.write_bytes(content)
    with pytest.raises(ReadError):
        webdataset_tars.has_samples(str(path))
    message = refusal(tmp_path / "pets")
    assert message.startswith(f"--src={tmp_path}/pets: train-000001.tar cannot be read as a tar file: ")
    assert message.endswith(". Repair the file, or leave it out with --exclude=train-000001.tar.")
    assert message == refusal(tmp_path / "pets/train-*").replace("/train-*:", ":")
    sources = scanned(tmp_path / "pets", exclude=["train-000001.tar"])
    assert len(sources) == 8
    assert sources.notes == ("1 file is left out by --exclude",)


def test_file_that_is_cut_off(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"pets/{number}.tar", samples(4, str(number), cls=[0, 1]))
    (tmp_path / "pets/0.tar").write_bytes((tmp_path / "pets/0.tar").read_bytes()[:700])
    assert refusal(tmp_path / "pets") == (
        f"--src={tmp_path}/pets: 0.tar cannot be read as a tar file: the tar archive is damaged: unexpected end of"
        " data. Repair the file, or leave it out with --exclude=0.tar."
    )


def test_file_without_labels_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "pets/0.tar", samples(4, cls=[0, 1]))
    write(tmp_path / "pets/1.tar", samples(4, "1"))
    sources = scanned(tmp_path / "pets")
    assert len(sources) == 4
    assert sources.notes == ("1 file is left out, since no images with labels were found in 1.tar",)


# --- Reading ----------------------------------------------------------------------------------------------------------


def test_same_dataset_with_any_number_of_workers(tmp_path: Path) -> None:
    for split, count in (("train", 30), ("test", 10)):
        write(tmp_path / f"pets/{split}-0.tar", samples(count, split, cls=[0, 1]))
    for workers in (1, 2):
        converted(tmp_path / "pets", tmp_path / f"out{workers}", workers=workers, shards=4)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")


def test_rows_in_random_order(tmp_path: Path) -> None:
    sources = scanned(write(tmp_path / "pets.tar", samples(30, cls=[0, 1])))
    for number in np.random.default_rng(0).integers(0, 30, 60).tolist():
        content = sources.store.read(sources.paths[number], sources.spans[number])
        assert (content.data, content.size) == (image(str(number)), len(image(str(number))))


def test_files_of_the_library(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=7, verbose=0) as writer:
        for number in range(20):
            about = {"caption": "a pet", "animal": ["dog", "cat"][number % 2]}
            writer.write({"__key__": f"a/b{number:03d}", "jpg": image(str(number)), "cls": number % 2, "json": about})
    sources = scanned(tmp_path / "train-{000000..000002}.tar")
    assert sources.labels.tolist() == [0, 1] * 10
    assert read(sources) == [image(str(number)) for number in range(20)]
    assert sources.paths[7] == "train-000001.tar/a/b007.jpg"
    assert scanned(tmp_path / "train-{000000..000002}.tar", label_column="animal").class_names == ("cat", "dog")
