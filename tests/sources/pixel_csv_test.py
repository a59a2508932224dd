"""Tests of CSVs of pixels: reading, writing, and errors in lines and headers."""

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

GRAY = "label,1x1,1x2\n"


def pixels_of(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def write_file(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def drawn(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (28, 28, 1), (1, 1, 3), (3, 2, 3), (16, 16, 3)])
@pytest.mark.parametrize("label", ["cat", "a,b", 'the "dog"', '"', ",", 'a","b', "猫 süß", "7"])
def test_write_and_read(tmp_path: Path, shape: tuple[int, int, int], label: str) -> None:
    images = [drawn(shape, seed) for seed in range(3)]
    text = pixel_csv.header(*shape) + "".join(pixel_csv.line(label, image) for image in images)
    listing = list_store(str(write_file(tmp_path / "a.csv", text)))
    assert listing.labels == [label] * 3
    assert listing.paths == ["a.csv:2", "a.csv:3", "a.csv:4"]
    for path, span, image in zip(listing.paths, listing.spans, images):
        assert (pixels_of(listing.store.read(path, span).data).reshape(shape) == image).all()
    # Python's csv module reads the same values.
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
        ('"label","1x1","2x1"\n', (2, 1, 1)),  # R quotes column names.
        ("\ufefflabel,1x1,1x2\n", (1, 2, 1)),  # The byte order mark of a spreadsheet.
        ("label,1x1r,1x1g,1x1b\n", (1, 1, 3)),
    ],
)
def test_headers_of_other_programs(tmp_path: Path, header: str, shape: tuple[int, int, int]) -> None:
    path = write_file(tmp_path / "a.csv", header)
    assert pixel_csv.is_one(str(path))
    with open(path, "rb") as file:
        assert pixel_csv.read_shape(file) == shape


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("label,1x1,1x2,1x4\n", "the header has 3 columns of pixels and ends with b'label,1x1,1x2,1x4', which do"),
        ("label,1x1,1x2,x\n", "the header has 3 columns of pixels and ends with "),
        ("label,1x1r,1x1g,1x1\n", "the header has 3 columns"),
        ("label,1x1,0x9\n", "the header has 2 columns"),
        ("label,1x1,\n", "the header has 2 columns"),
    ],
)
def test_header_without_a_shape(tmp_path: Path, header: str, message: str) -> None:
    path = write_file(tmp_path / "a.csv", header + "a,1,2,3\n")
    with pytest.raises(UserError) as caught:
        list_store(str(path))
    assert str(caught.value).startswith(f"{path}: {message}")
    assert str(caught.value).endswith("The header must be label,1x1,1x2,…,28x28 or label,1x1r,1x1g,1x1b,…,64x64b.")


@pytest.mark.parametrize("header", ["label,pixel0,pixel1", "1x1,1x2", "label;1x1;1x2", "path,label", "label", ""])
def test_other_tables_are_not_pixels(tmp_path: Path, header: str) -> None:
    assert not pixel_csv.is_one(str(write_file(tmp_path / "a.csv", header)))


@pytest.mark.parametrize("name", ["gone.csv", "directory"])
def test_directories_and_missing_files_are_not_pixels(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    assert not pixel_csv.is_one(str(tmp_path / name))


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("cat,1,2\n", "cat"),
        ("cat,1,2\r\n", "cat"),
        ("cat,1,2", "cat"),  # The last line without a line break.
        (" cat ,1,2\n", "cat"),
        ('"cat",1,2\n', "cat"),
        ('"a,b",1,2\n', "a,b"),
        ('"a ""b""",1,2\n', 'a "b"'),
        ('"a,b" ,1,2\n', "a,b"),
        ("cat, 1 ,2 \n", "cat"),
        ("007,1,2\n", "007"),
        ('"a,1,2\n', '"a'),  # A quote without its end.
    ],
)
def test_dialects_of_a_line(tmp_path: Path, line: str, label: str) -> None:
    listing = list_store(str(write_file(tmp_path / "a.csv", GRAY + line)))
    assert listing.labels == [label]
    assert pixels_of(listing.store.read(listing.paths[0], listing.spans[0]).data).tolist() == [[1, 2]]


def test_empty_lines_are_ignored(tmp_path: Path) -> None:
    listing = list_store(str(write_file(tmp_path / "a.csv", GRAY + "\na,1,2\n  \r\n\nb,3,4\n\n")))
    assert (listing.paths, listing.labels) == (["a.csv:3", "a.csv:6"], ["a", "b"])
    assert pixels_of(listing.store.read(listing.paths[1], listing.spans[1]).data).tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a,1", "1 pixel values in its line, but 2 in the header"),
        ("a,1,2,3", "3 pixel values in its line, but 2 in the header"),
        ("a,1,2,", "3 pixel values in its line, but 2 in the header"),
        ("a,", "0 pixel values in its line, but 2 in the header"),
        ("a", "0 pixel values in its line, but 2 in the header"),
        ("a,1,256", "pixel value 2 is '256'. It must be a whole number from 0 to 255"),
        ("a,-1,2", "pixel value 1 is '-1'. It must be a whole number"),
        ("a,1,x", "pixel value 2 is 'x'. It must be a whole number"),
        ("a,1,", "pixel value 2 is ''. It must be a whole number"),
        ("a,1.0,2", "pixel value 1 is '1.0'. It must be a whole number"),  # A value of 0..1, perhaps.
        ("a,1,1_0", "pixel value 2 is '1_0'. It must be a whole number"),  # Python's int accepts it.
        ("a,1,\xe9", "pixel value 2 is 'é'. It must be a whole number"),
        (
            "a,1," + "9" * 50,
            "pixel value 2 is '99999999999999999999'. It must be a whole number",
        ),  # Only the start is printed.
    ],
)
def test_invalid_lines_are_rejected(tmp_path: Path, line: str, reason: str) -> None:
    good = "".join(f"{name},{i},{j}\n" for j, name in enumerate("ab") for i in range(3))
    path = write_file(tmp_path / "a.csv", GRAY + good + line + "\n")
    facts = converted(path, tmp_path / "out", max_bad=0.5, validation_fraction=0)
    assert facts["records"] == 6
    with open(tmp_path / "out/rejected.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == "a.csv:8"
    assert row["reason"].startswith(reason)


def test_line_without_a_class_is_rejected(tmp_path: Path) -> None:
    sources = scanned(write_file(tmp_path / "a.csv", GRAY + 'a,1,2\nb,1,2\n,1,2\n"",1,2\n'))
    reason = "its line has no class name"
    assert sources.rejected == tuple(Rejected(path=f"a.csv:{line}", reason=reason) for line in (4, 5))
    assert sources.class_names == ("a", "b")


def test_class_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the class name 'caf\\\\xe9' is not valid UTF-8\. Rename the class, or leave"):
        scanned(write_file(tmp_path / "a.csv", GRAY.encode() + b"caf\xe9,1,2\nb,1,2\n"))


def test_no_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/a\.csv: the CSV of pixels has no lines after its header\."):
        scanned(write_file(tmp_path / "a.csv", GRAY))


def test_kaggle_mnist(tmp_path: Path) -> None:
    """Digits of 28 x 28 pixels with numbers as class names."""
    digits = [drawn((28, 28, 1), seed) for seed in range(22)]
    header = ",".join(["label", *(f"{y}x{x}" for y in range(1, 29) for x in range(1, 29))])
    lines = [f"{i % 11}," + ",".join(map(str, digit.ravel())) for i, digit in enumerate(digits)]
    path = write_file(tmp_path / "mnist_train.csv", "\n".join([header, *lines]) + "\n")
    facts = converted(path, tmp_path / "out", validation_fraction=0)
    assert [c["name"] for c in facts["classes"]] == [str(i) for i in range(11)]  # 10 after 9.
    data = open_dataset(tmp_path / "out").records("train")
    for record in (data[i] for i in range(22)):
        number = int(record["path"].removeprefix("mnist_train.csv:")) - 2
        assert record["label"] == number % 11
        assert (pixels_of(record["image"]) == digits[number][:, :, 0]).all()


# --- Headers with numbered columns -----------------------------------------------------------------------------------

REST = ",0" * 60  # The values of an image after the first four.
SIZE_8 = [[[*first, 0, 0, 0, 0], *[[0] * 8] * 7] for first in ([1, 2, 3, 4], [5, 6, 7, 8])]


def numbered(first: int = 0, count: int = 64, name: str = "pixel{}") -> list[str]:
    return [name.format(number) for number in range(first, first + count)]


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (["label", *numbered()], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        (["label", *numbered(1)], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        (
            [*numbered(name="pixel{:04d}"), "label"],
            [f"1,2,3,4{REST},a", f"5,6,7,8{REST},b"],
        ),  # The class is the last column.
        (["label", *numbered(name="px_{}")], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        (["label", *numbered(name="{}")], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        (["Class", *numbered()], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        (["", "label", *numbered()], [f"0,a,1,2,3,4{REST}", f"1,b,5,6,7,8{REST}"]),  # The index of a data frame.
        (["id", "label", *numbered()], [f"0,a,1,2,3,4{REST}", f"1,b,5,6,7,8{REST}"]),
        (
            ["label", *numbered(), "", ""],
            [f"a,1,2,3,4{REST},,", f"b,5,6,7,8{REST},,"],
        ),  # A spreadsheet's empty columns.
        (["label", *numbered(), ""], [f"a,1,2,3,4{REST}", f"b,5,6,7,8{REST}"]),
        (['"label"', *numbered(name='"pixel{}"')], [f'"a",1,2,3,4{REST}', f'"b","5",6,7,8{REST}']),
        (["\ufefflabel", *numbered()], [f"a, 1 ,2,3,4{REST}", f"b,5,6,7,8{REST}\r"]),
    ],
)
def test_numbered_columns(tmp_path: Path, header: list[str], rows: list[str]) -> None:
    path = write_file(tmp_path / "a.csv", "\n".join([",".join(header), *rows]) + "\n")
    assert pixel_csv.is_one(str(path))
    sources = scanned(path)
    assert sources.class_names == ("a", "b")
    assert [pixels_of(sources.store.read(p, s).data).tolist() for p, s in zip(sources.paths, sources.spans)] == SIZE_8
    assert sources.notes == ("64 pixel columns are read as 8 x 8 pixels in gray",)


def test_numbered_columns_with_semicolons(tmp_path: Path) -> None:
    path = write_file(
        tmp_path / "a.csv",
        ";".join(["label", *numbered()]) + f"\na,x;1;2;3;4{REST}\nb;5;6;7;8{REST}\n".replace(",0", ";0"),
    )
    sources = scanned(path)
    assert sources.class_names == ("a,x", "b")
    assert [pixels_of(sources.store.read(p, s).data).tolist() for p, s in zip(sources.paths, sources.spans)] == SIZE_8


def test_three_values_per_pixel(tmp_path: Path) -> None:
    images = [drawn((5, 5, 3), seed) for seed in range(2)]
    rows = [",".join([label, *map(str, image.ravel())]) for label, image in zip("ab", images)]
    sources = scanned(write_file(tmp_path / "a.csv", "\n".join([",".join(["label", *numbered(1, 75)]), *rows])))
    for path, span, image in zip(sources.paths, sources.spans, images):
        assert (pixels_of(sources.store.read(path, span).data) == image).all()
    assert sources.notes == (
        "75 pixel columns are read as 5 x 5 pixels in RGB, the three values of a pixel side by side",
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            ["label", *numbered(0, 65)],
            "the header has 65 columns of pixels. Images must be square. For gray images, the number of columns ",
        ),
        (
            ["label", "class", *numbered()],
            "the header has 2 columns that may be the class: label, class. Keep one of these columns.",
        ),
    ],
)
def test_invalid_numbered_columns_are_refused(tmp_path: Path, header: list[str], message: str) -> None:
    path = write_file(tmp_path / "a.csv", ",".join(header) + "\n")
    with pytest.raises(UserError) as caught:
        scanned(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    "header",
    [
        ",".join(numbered(name="{}")),  # It may be a row of numbers.
        "label,pixel0,pixel2,pixel3,pixel4",
        "label,pixel5,pixel6,pixel7,pixel8",
        "path,label,feature1,feature2,feature3,feature4",
        "label,a0,b1,c2,d3",
        ",".join(["label", *numbered(0, 9, "feature_{}")]),  # Fewer than 8 x 8.
        ",".join(["label", *numbered(0, 49)]),
        ",".join(["id", *numbered(0, 100, "{}")]),  # Perhaps one column per class.
    ],
)
def test_other_numbered_columns_are_not_pixels(tmp_path: Path, header: str) -> None:
    assert not pixel_csv.is_one(str(write_file(tmp_path / "a.csv", header + "\n")))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"1,2,3{REST},a", "64 pixel values|pixel value 64|63 pixel values"),
        (f"1,2,3,4,5{REST},a", "65 pixel values in its line, but 64 in the header"),
        (f"1,2,3,400{REST},a", "pixel value 4 is '400'. It must be a whole number from 0 to 255"),
        (
            f"0.1,0.2,0.3,0.4{REST},a",
            "pixel value 1 is '0.1'. It must be a whole number from 0 to 255",
        ),
    ],
)
def test_invalid_lines_with_the_class_last(tmp_path: Path, line: str, reason: str) -> None:
    good = "".join(f"{i},{i},{i},{i}{REST},{name}\n" for i, name in enumerate("abababab"))
    path = write_file(tmp_path / "a.csv", ",".join([*numbered(), "label"]) + "\n" + good + line + "\n")
    sources = scanned(path)
    if sources.rejected:
        assert [r.path for r in sources.rejected] == ["a.csv:10"]
        return
    with pytest.raises(ReadError, match=reason):
        sources.store.read(sources.paths[8], sources.spans[8])


def test_kaggle_digit_recognizer(tmp_path: Path) -> None:
    """train.csv has classes, test.csv has none, and there is a table of answers."""
    digits = {split: [drawn((28, 28, 1), seed) for seed in range(n)] for split, n in (("train", 20), ("test", 5))}
    header = numbered(0, 784)
    for split, images in digits.items():
        label = split == "train"
        rows = [[*([str(i % 10)] if label else []), *map(str, image.ravel())] for i, image in enumerate(images)]
        names = ["label", *header] if label else header
        write_file(tmp_path / f"digits/{split}.csv", "\n".join(map(",".join, [names, *rows])) + "\n")
    write_file(tmp_path / "digits/sample_submission.csv", "ImageId,Label\n1,0\n")
    sources = scanned(tmp_path / "digits")
    assert sources.class_names == tuple("0123456789")
    assert (len(sources), sources.has_splits, sources.rejected) == (20, False, ())
    assert sources.notes == (
        "784 pixel columns are read as 28 x 28 pixels in gray",
        "test.csv: 5 lines are left out, since they have no column of class names",
    )
    with pytest.raises(UserError, match=r"the CSV of pixels has no class names\. It must have a column named label\."):
        scanned(tmp_path / "digits/test.csv")
    facts = converted(tmp_path / "digits", tmp_path / "out", validation_fraction=0, workers=2)
    assert facts["records"] == 20


def test_numbers_without_a_header(tmp_path: Path) -> None:
    path = write_file(tmp_path / "mnist_train.csv", "\n".join(",".join(["7"] + ["0"] * 784) for _ in range(3)))
    with pytest.raises(UserError) as caught:
        scanned(path)
    assert str(caught.value) == (
        f"{path}: the first line must name the columns, but it has 785 numbers. If this is a CSV of pixels, add this"
        " line as the first line: label,pixel0,…,pixel783."
    )


LINES = "a,1,2\nb,3,4\n"


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.csv", "validation.csv"], ["train", "train", "validation", "validation"]),
        (["Test.CSV", "val.csv"], ["test", "test", "validation", "validation"]),
        (["train.csv"], None),  # A single file is split automatically.
        (["one.csv", "two.csv"], None),
    ],
)
def test_directory_of_csvs(tmp_path: Path, names: list[str], splits: list[str] | None) -> None:
    for name in names:
        write_file(tmp_path / name, GRAY + LINES)
    sources = scanned(tmp_path)
    assert list(sources.paths) == [f"{name}:{line}" for name in names for line in (2, 3)]
    assert sources.has_splits == (splits is not None)
    assert not splits or [SPLITS[split] for split in sources.splits] == splits
    assert sources.labels.tolist() == [0, 1] * len(names)


def test_two_files_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("val.csv", "validation.csv"):
        write_file(tmp_path / name, GRAY + LINES)
    with pytest.raises(UserError, match=r"val and validation mean the same split, validation\. Pass --split"):
        scanned(tmp_path)


def test_directory_with_other_files_is_a_folder_of_images(tmp_path: Path) -> None:
    write_file(tmp_path / "train.csv", GRAY + LINES)
    write_file(tmp_path / "cats/1.jpg", "")
    write_file(tmp_path / "dogs/1.jpg", "")
    sources = scanned(tmp_path)
    assert sources.class_names == ("cats", "dogs")
    assert sources.notes == ("1 file is left out, because they are not in a class directory: train.csv",)


def test_classes_flag(tmp_path: Path) -> None:
    sources = scanned(write_file(tmp_path / "a.csv", GRAY + LINES + "c,5,6\n"), classes=["c", "a"])
    assert (sources.class_names, list(sources.paths), sources.left_out) == (
        ("c", "a"),
        ["a.csv:2", "a.csv:4"],
        {"b": 1},
    )


def test_label_regex_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="--label_regex and a CSV of pixels cannot be combined: each line contains its class"
    ):
        scanned(write_file(tmp_path / "a.csv", GRAY + LINES), label_regex="(.)")


def test_file_that_changes_after_listing(tmp_path: Path) -> None:
    """A line that has moved is not read as another image."""
    path = write_file(tmp_path / "a.csv", GRAY + LINES)
    listing = list_store(str(path))
    write_file(path, GRAY + "a,11,22\nb,3,4\n")
    with pytest.raises(ReadError, match="3 pixel values in its line, but 2 in the header"):
        listing.store.read(listing.paths[1], listing.spans[1])


def test_same_records_with_any_number_of_workers(tmp_path: Path) -> None:
    lines = "".join(pixel_csv.line("ab"[i % 2], drawn((4, 4, 3), i)) for i in range(20))
    path = write_file(tmp_path / "a.csv", pixel_csv.header(4, 4, 3) + lines)
    converted(path, tmp_path / "one", validation_fraction=0)
    converted(path, tmp_path / "other", validation_fraction=0, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
