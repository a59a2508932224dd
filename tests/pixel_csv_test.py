"""Tests of CSVs of pixels: what is written is read back the same, and what is wrong in a line is told."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from drawn import contents, converted, scanned
from PIL import Image

from tfrecord_tools import pixel_csv
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from tfrecord_tools.splits import SPLITS
from tfrecord_tools.stores import ReadError, Rejected, list_store

GREY = "label,1x1,1x2\n"


def pixels_of(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def drawn(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (28, 28, 1), (1, 1, 3), (3, 2, 3), (16, 16, 3)])
@pytest.mark.parametrize("label", ["cat", "a,b", 'the "dog"', '"', ",", 'a","b', "猫 süß", "7"])
def test_what_is_written_is_read_the_same(tmp_path: Path, shape: tuple[int, int, int], label: str) -> None:
    images = [drawn(shape, seed) for seed in range(3)]
    text = pixel_csv.header(*shape) + "".join(pixel_csv.line(label, image) for image in images)
    found = list_store(str(written(tmp_path / "a.csv", text)))
    assert found.labels == [label] * 3
    assert found.paths == ["a.csv:2", "a.csv:3", "a.csv:4"]
    for path, span, image in zip(found.paths, found.spans, images):
        assert (pixels_of(found.store.read(path, span).data).reshape(shape) == image).all()
    # Python's own reader agrees.
    rows = list(csv.reader(io.StringIO(text)))
    assert [row[0] for row in rows] == ["label", label, label, label]
    assert [list(map(int, row[1:])) for row in rows[1:]] == [image.ravel().tolist() for image in images]


def test_header() -> None:
    assert pixel_csv.header(2, 2, 1) == "label,1x1,1x2,2x1,2x2\n"
    assert pixel_csv.header(1, 2, 3) == "label,1x1r,1x1g,1x1b,1x2r,1x2g,1x2b\n"


@pytest.mark.parametrize(
    ("header", "shape"),
    [
        ("label,1x1\n", (1, 1, 1)),
        ("label,1x1,1x2\r\n", (1, 2, 1)),
        ('"label","1x1","2x1"\n', (2, 1, 1)),  # R quotes names.
        ("\ufefflabel,1x1,1x2\n", (1, 2, 1)),  # A spreadsheet's byte order mark.
        ("label,1x1r,1x1g,1x1b\n", (1, 1, 3)),
    ],
)
def test_headers_of_other_programs(tmp_path: Path, header: str, shape: tuple[int, int, int]) -> None:
    path = written(tmp_path / "a.csv", header)
    assert pixel_csv.is_one(str(path))
    with open(path, "rb") as file:
        assert pixel_csv.read_shape(file) == shape


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("label,1x1,1x2,1x4\n", "the header has 3 columns of pixels and ends with b'label,1x1,1x2,1x4', which is no"),
        ("label,1x1,1x2,x\n", "the header has 3 columns of pixels and ends with "),
        ("label,1x1r,1x1g,1x1\n", "the header has 3 columns"),
        ("label,1x1,0x9\n", "the header has 2 columns"),
        ("label,1x1,\n", "the header has 2 columns"),
    ],
)
def test_header_without_a_shape(tmp_path: Path, header: str, message: str) -> None:
    path = written(tmp_path / "a.csv", header + "a,1,2,3\n")
    with pytest.raises(UserError) as caught:
        list_store(str(path))
    assert str(caught.value).startswith(f"{path}: {message}")
    assert str(caught.value).endswith("label,1x1,1x2,…,28x28 or label,1x1r,1x1g,1x1b,…,64x64b is expected.")


@pytest.mark.parametrize("header", ["label,pixel0,pixel1", "1x1,1x2", "label;1x1;1x2", "path,label", "label", ""])
def test_other_tables_are_none(tmp_path: Path, header: str) -> None:
    assert not pixel_csv.is_one(str(written(tmp_path / "a.csv", header)))


@pytest.mark.parametrize("name", ["gone.csv", "directory"])
def test_what_is_no_file_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    assert not pixel_csv.is_one(str(tmp_path / name))


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("cat,1,2\n", "cat"),
        ("cat,1,2\r\n", "cat"),
        ("cat,1,2", "cat"),  # The last line without an end.
        (" cat ,1,2\n", "cat"),
        ('"cat",1,2\n', "cat"),
        ('"a,b",1,2\n', "a,b"),
        ('"a ""b""",1,2\n', 'a "b"'),
        ('"a,b" ,1,2\n', "a,b"),
        ("cat, 1 ,2 \n", "cat"),
        ("007,1,2\n", "007"),
        ('"a,1,2\n', '"a'),  # Nothing closes the quote.
    ],
)
def test_dialects_of_a_line(tmp_path: Path, line: str, label: str) -> None:
    found = list_store(str(written(tmp_path / "a.csv", GREY + line)))
    assert found.labels == [label]
    assert pixels_of(found.store.read(found.paths[0], found.spans[0]).data).tolist() == [[1, 2]]


def test_empty_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    found = list_store(str(written(tmp_path / "a.csv", GREY + "\na,1,2\n  \r\n\nb,3,4\n\n")))
    assert (found.paths, found.labels) == (["a.csv:3", "a.csv:6"], ["a", "b"])
    assert pixels_of(found.store.read(found.paths[1], found.spans[1]).data).tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a,1", "1 pixel values, where the header says 2"),
        ("a,1,2,3", "3 pixel values, where the header says 2"),
        ("a,1,2,", "3 pixel values, where the header says 2"),
        ("a,", "0 pixel values, where the header says 2"),
        ("a", "0 pixel values, where the header says 2"),
        ("a,1,256", "pixel value 2 is '256'; a whole number of 0 to 255 is expected"),
        ("a,-1,2", "pixel value 1 is '-1'; a whole number"),
        ("a,1,x", "pixel value 2 is 'x'; a whole number"),
        ("a,1,", "pixel value 2 is ''; a whole number"),
        ("a,1.0,2", "pixel value 1 is '1.0'; a whole number"),  # Perhaps of 0..1.
        ("a,1,1_0", "pixel value 2 is '1_0'; a whole number"),  # Python's int would take it.
        ("a,1,\xe9", "pixel value 2 is 'é'; a whole number"),
        ("a,1," + "9" * 50, "pixel value 2 is '99999999999999999999'; a whole number"),  # Not all of it is shown.
    ],
)
def test_wrong_lines_are_rejected_with_the_reason(tmp_path: Path, line: str, reason: str) -> None:
    good = "".join(f"{name},{i},{j}\n" for j, name in enumerate("ab") for i in range(3))
    path = written(tmp_path / "a.csv", GREY + good + line + "\n")
    facts = converted(path, tmp_path / "out", max_bad=0.5, validation_fraction=0)
    assert facts["records"] == 6
    with open(tmp_path / "out/rejected.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == "a.csv:8"
    assert row["reason"].startswith(reason)


def test_line_without_a_class_is_rejected(tmp_path: Path) -> None:
    found = scanned(written(tmp_path / "a.csv", GREY + 'a,1,2\nb,1,2\n,1,2\n"",1,2\n'))
    reason = "no class name in its line"
    assert found.rejected == tuple(Rejected(path=f"a.csv:{line}", reason=reason) for line in (4, 5))
    assert found.class_names == ("a", "b")


def test_class_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the class name 'caf\\\\xe9' is not valid UTF-8\. Rename it, or leave"):
        scanned(written(tmp_path / "a.csv", GREY.encode() + b"caf\xe9,1,2\nb,1,2\n"))


def test_no_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/a\.csv: a CSV of pixels without a line behind its header\."):
        scanned(written(tmp_path / "a.csv", GREY))


def test_like_kaggles_mnist(tmp_path: Path) -> None:
    """Digits of 28 x 28, whose classes are numbers."""
    digits = [drawn((28, 28, 1), seed) for seed in range(22)]
    header = ",".join(["label", *(f"{y}x{x}" for y in range(1, 29) for x in range(1, 29))])
    lines = [f"{i % 11}," + ",".join(map(str, digit.ravel())) for i, digit in enumerate(digits)]
    path = written(tmp_path / "mnist_train.csv", "\n".join([header, *lines]) + "\n")
    facts = converted(path, tmp_path / "out", validation_fraction=0)
    assert [c["name"] for c in facts["classes"]] == [str(i) for i in range(11)]  # 10 behind 9.
    data = open_dataset(tmp_path / "out").records("train")
    for record in (data[i] for i in range(22)):
        number = int(record["path"].removeprefix("mnist_train.csv:")) - 2
        assert record["label"] == number % 11
        assert (pixels_of(record["image"]) == digits[number][:, :, 0]).all()


LINES = "a,1,2\nb,3,4\n"


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.csv", "validation.csv"], ["train", "train", "validation", "validation"]),
        (["Test.CSV", "val.csv"], ["test", "test", "validation", "validation"]),
        (["train.csv"], None),  # Alone it is not a part of anything.
        (["one.csv", "two.csv"], None),
    ],
)
def test_directory_of_csvs(tmp_path: Path, names: list[str], splits: list[str] | None) -> None:
    for name in names:
        written(tmp_path / name, GREY + LINES)
    found = scanned(tmp_path)
    assert list(found.paths) == [f"{name}:{line}" for name in names for line in (2, 3)]
    assert found.has_splits == (splits is not None)
    assert not splits or [SPLITS[split] for split in found.splits] == splits
    assert found.labels.tolist() == [0, 1] * len(names)


def test_two_files_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("val.csv", "validation.csv"):
        written(tmp_path / name, GREY + LINES)
    with pytest.raises(UserError, match=r"val and validation both mean the validation split\. Say which"):
        scanned(tmp_path)


def test_directory_with_anything_else_is_one_of_images(tmp_path: Path) -> None:
    written(tmp_path / "train.csv", GREY + LINES)
    written(tmp_path / "cats/1.jpg", "")
    written(tmp_path / "dogs/1.jpg", "")
    found = scanned(tmp_path)
    assert found.class_names == ("cats", "dogs")
    assert found.notes == ("1 file is left out, in no class directory: train.csv",)


def test_classes_leave_others_out(tmp_path: Path) -> None:
    found = scanned(written(tmp_path / "a.csv", GREY + LINES + "c,5,6\n"), classes=["c", "a"])
    assert (found.class_names, list(found.paths), found.left_out) == (("c", "a"), ["a.csv:2", "a.csv:4"], {"b": 1})


def test_label_regex_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="--label_regex and a CSV of pixels exclude each other: each line holds its class"
    ):
        scanned(written(tmp_path / "a.csv", GREY + LINES), label_regex="(.)")


def test_changed_since_the_listing(tmp_path: Path) -> None:
    """A line that is no longer where it was is not read as another image."""
    path = written(tmp_path / "a.csv", GREY + LINES)
    found = list_store(str(path))
    written(path, GREY + "a,11,22\nb,3,4\n")
    with pytest.raises(ReadError, match="3 pixel values, where the header says 2"):
        found.store.read(found.paths[1], found.spans[1])


def test_same_records_with_any_number_of_workers(tmp_path: Path) -> None:
    lines = "".join(pixel_csv.line("ab"[i % 2], drawn((4, 4, 3), i)) for i in range(20))
    path = written(tmp_path / "a.csv", pixel_csv.header(4, 4, 3) + lines)
    converted(path, tmp_path / "one", validation_fraction=0)
    converted(path, tmp_path / "other", validation_fraction=0, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
