"""Tests of CSVs of pixels: what is written is read back the same, and what is wrong in a line is told."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from image_sources import contents, converted, scanned
from PIL import Image

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.records import open_dataset
from tfrecord_tools.sources import pixel_csv
from tfrecord_tools.sources.base import ReadError
from tfrecord_tools.sources.stores import list_store

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


# --- Headers that count ----------------------------------------------------------------------------------------------

REST = ",0" * 60  # Of the values of an image, behind the first four.
SIZE_8 = [[[*first, 0, 0, 0, 0], *[[0] * 8] * 7] for first in ([1, 2, 3, 4], [5, 6, 7, 8])]


def counted(first: int = 0, count: int = 64, name: str = "pixel{}") -> list[str]:
    return [name.format(number) for number in range(first, first + count)]


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (["label", *counted()], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        (["label", *counted(1)], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        ([*counted(name="pixel{:04d}"), "label"], [f"1,2,3,4{REST},a", f"5,6,7,8{REST},b"]),  # The class comes last.
        (["label", *counted(name="px_{}")], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        (["label", *counted(name="{}")], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        (["Class", *counted()], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        (["", "label", *counted()], [f"0,a,1,2,3,4{REST}", f"1,b,5,6,7,8{REST}"]),  # The index of a data frame.
        (["id", "label", *counted()], [f"0,a,1,2,3,4{REST}", f"1,b,5,6,7,8{REST}"]),
        (["label", *counted(), "", ""], [f"a,1,2,3,4{REST},,", f"b,5,6,7,8{REST},,"]),  # A spreadsheet's empty columns.
        (["label", *counted(), ""], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        (['"label"', *counted(name='"pixel{}"')], [f'"a",1,2,3,4{REST}', f'"b","5",6,7,8{REST}']),
        (["\ufefflabel", *counted()], [f"a, 1 ,2,3,4{REST}", f"b,5,6,7,8{REST}\r"]),
    ],
)
def test_columns_that_are_counted(tmp_path: Path, header: list[str], rows: list[str]) -> None:
    path = written(tmp_path / "a.csv", "\n".join([",".join(header), *rows]) + "\n")
    assert pixel_csv.is_one(str(path))
    found = scanned(path)
    assert found.class_names == ("a", "b")
    assert [pixels_of(found.store.read(p, s).data).tolist() for p, s in zip(found.paths, found.spans)] == SIZE_8
    assert found.notes == ("64 pixel columns are read as 8 x 8 pixels in grey",)


def test_columns_that_are_counted_between_semicolons(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.csv",
        ";".join(["label", *counted()]) + f"\na,x;1;2;3;4{REST}\nb;5;6;7;8{REST}\n".replace(",0", ";0"),
    )
    found = scanned(path)
    assert found.class_names == ("a,x", "b")
    assert [pixels_of(found.store.read(p, s).data).tolist() for p, s in zip(found.paths, found.spans)] == SIZE_8


def test_three_values_for_each_pixel(tmp_path: Path) -> None:
    images = [drawn((5, 5, 3), seed) for seed in range(2)]
    rows = [",".join([label, *map(str, image.ravel())]) for label, image in zip("ab", images)]
    found = scanned(written(tmp_path / "a.csv", "\n".join([",".join(["label", *counted(1, 75)]), *rows])))
    for path, span, image in zip(found.paths, found.spans, images):
        assert (pixels_of(found.store.read(path, span).data) == image).all()
    assert found.notes == (
        "75 pixel columns are read as 5 x 5 pixels in RGB, the three values of a pixel side by side",
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            ["label", *counted(0, 65)],
            "the header has 65 columns of pixels. Images must be square: a square number of col",
        ),
        (["label", "class", *counted()], "the header has 2 columns that may be the class: label, class."),
    ],
)
def test_counted_columns_that_cannot_be(tmp_path: Path, header: list[str], message: str) -> None:
    path = written(tmp_path / "a.csv", ",".join(header) + "\n")
    with pytest.raises(UserError) as caught:
        scanned(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    "header",
    [
        ",".join(counted(name="{}")),  # A row of numbers, perhaps.
        "label,pixel0,pixel2,pixel3,pixel4",
        "label,pixel5,pixel6,pixel7,pixel8",
        "path,label,feature1,feature2,feature3,feature4",
        "label,a0,b1,c2,d3",
        ",".join(["label", *counted(0, 9, "feature_{}")]),  # Fewer than 8 x 8.
        ",".join(["label", *counted(0, 49)]),
        ",".join(["id", *counted(0, 100, "{}")]),  # A column for each class.
    ],
)
def test_other_numbered_columns_are_none(tmp_path: Path, header: str) -> None:
    assert not pixel_csv.is_one(str(written(tmp_path / "a.csv", header + "\n")))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"1,2,3{REST},a", "64 pixel values|pixel value 64|63 pixel values"),
        (f"1,2,3,4,5{REST},a", "65 pixel values, where the header says 64"),
        (f"1,2,3,400{REST},a", "pixel value 4 is '400'; a whole number of 0 to 255 is expected"),
        (f"0.1,0.2,0.3,0.4{REST},a", "pixel value 1 is '0.1'; a whole number of 0 to 255 is expected"),
    ],
)
def test_wrong_lines_with_the_class_last(tmp_path: Path, line: str, reason: str) -> None:
    good = "".join(f"{i},{i},{i},{i}{REST},{name}\n" for i, name in enumerate("abababab"))
    path = written(tmp_path / "a.csv", ",".join([*counted(), "label"]) + "\n" + good + line + "\n")
    found = scanned(path)
    if found.rejected:
        assert [r.path for r in found.rejected] == ["a.csv:10"]
        return
    with pytest.raises(ReadError, match=reason):
        found.store.read(found.paths[8], found.spans[8])


def test_like_kaggles_competition(tmp_path: Path) -> None:
    """train.csv has classes, test.csv has none, and a table of answers lies beside them."""
    digits = {split: [drawn((28, 28, 1), seed) for seed in range(n)] for split, n in (("train", 20), ("test", 5))}
    header = counted(0, 784)
    for split, images in digits.items():
        label = split == "train"
        rows = [[*([str(i % 10)] if label else []), *map(str, image.ravel())] for i, image in enumerate(images)]
        names = ["label", *header] if label else header
        written(tmp_path / f"digits/{split}.csv", "\n".join(map(",".join, [names, *rows])) + "\n")
    written(tmp_path / "digits/sample_submission.csv", "ImageId,Label\n1,0\n")
    found = scanned(tmp_path / "digits")
    assert found.class_names == tuple("0123456789")
    assert (len(found), found.has_splits, found.rejected) == (20, False, ())
    assert found.notes == (
        "784 pixel columns are read as 28 x 28 pixels in grey",
        "test.csv: 5 lines are left out, since they have no column of class names",
    )
    with pytest.raises(
        UserError, match=r"a CSV of pixels without class names\. A column named label is expected beside"
    ):
        scanned(tmp_path / "digits/test.csv")
    facts = converted(tmp_path / "digits", tmp_path / "out", validation_fraction=0, workers=2)
    assert facts["records"] == 20


def test_numbers_without_a_header(tmp_path: Path) -> None:
    path = written(tmp_path / "mnist_train.csv", "\n".join(",".join(["7"] + ["0"] * 784) for _ in range(3)))
    with pytest.raises(UserError) as caught:
        scanned(path)
    assert str(caught.value) == (
        f"{path}: its first line holds 785 numbers and no names. If it is a CSV of pixels, write a copy that begins"
        " with the line label,pixel0,…,pixel783."
    )


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
    with pytest.raises(UserError, match=r"val and validation mean the same split, validation\. Pass --split"):
        scanned(tmp_path)


def test_directory_with_anything_else_is_one_of_images(tmp_path: Path) -> None:
    written(tmp_path / "train.csv", GREY + LINES)
    written(tmp_path / "cats/1.jpg", "")
    written(tmp_path / "dogs/1.jpg", "")
    found = scanned(tmp_path)
    assert found.class_names == ("cats", "dogs")
    assert found.notes == ("1 file is left out, not in a class directory: train.csv",)


def test_classes_leave_others_out(tmp_path: Path) -> None:
    found = scanned(written(tmp_path / "a.csv", GREY + LINES + "c,5,6\n"), classes=["c", "a"])
    assert (found.class_names, list(found.paths), found.left_out) == (("c", "a"), ["a.csv:2", "a.csv:4"], {"b": 1})


def test_label_regex_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="--label_regex and a CSV of pixels cannot be combined: each line holds its class"
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
