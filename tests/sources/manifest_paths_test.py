"""Tests of matching the paths in a table to files: one match, no match, or several."""

from __future__ import annotations

import time
import unicodedata
import zipfile
from pathlib import Path

import pytest
from image_sources import converted, draw, run, scanned

from tfrecord_tools.errors import UserError
from tfrecord_tools.sources import manifest_paths
from tfrecord_tools.sources.manifest_paths import MISSING

TREE = ["train/0000.jpg", "train/0001.png", "val/0002.jpg", "val/cats/7.jpg"]


def matched(rows: list[str], names: list[str]) -> list[str | None]:
    sources = manifest_paths.match("t.csv", rows, names, range(1, len(rows) + 1)).numbers
    return [None if number == MISSING else names[number] for number in sources]


@pytest.mark.parametrize(
    ("row", "file"),
    [
        ("train/0000.jpg", "train/0000.jpg"),
        ("train\\0000.jpg", "train/0000.jpg"),
        (".\\train\\0000.jpg", "train/0000.jpg"),
        ("./train//0000.jpg", "train/0000.jpg"),
        ("../train/0000.jpg", "train/0000.jpg"),
        ("../../pets/train/0000.jpg", "train/0000.jpg"),
        ("/train/0000.jpg", "train/0000.jpg"),
        ("C:\\Users\\me\\pets\\train\\0000.jpg", "train/0000.jpg"),
        ("D:/pets/train/0000.jpg", "train/0000.jpg"),
        ("\\\\server\\share\\train\\0000.jpg", "train/0000.jpg"),
        ("~/pets/train/0000.jpg", "train/0000.jpg"),
        ("file:///home/me/train/0000.jpg", "train/0000.jpg"),
        ("https://host.org/a%20b/train/0000.jpg?size=l#x", "train/0000.jpg"),
        ("s3://bucket/pets/train/0000.jpg", "train/0000.jpg"),
        ("gs://bucket/train/0000.jpg", "train/0000.jpg"),
        ("train/0000.JPG", "train/0000.jpg"),
        ("Train/0000.jpg", "train/0000.jpg"),
        ("train/0000", "train/0000.jpg"),
        ("train/0000.png", "train/0000.jpg"),  # The file was converted later.
        ("0000", "train/0000.jpg"),
        ("0000.jpg", "train/0000.jpg"),
        ("0000.JPEG", "train/0000.jpg"),
        ("1", "train/0001.png"),  # A spreadsheet changed 0001 to a number.
        ("1.0", "train/0001.png"),  # A table with gaps changed it to a float.
        ("cats/7.jpg", "val/cats/7.jpg"),
        ("val/7.jpg", "val/cats/7.jpg"),  # Below the directory in the row.
        ("elsewhere/0000.jpg", "train/0000.jpg"),
        ("val/0000.jpg", None),  # `val` exists, but the file is not in it.
        ("x/train/0002.jpg", None),
        ("val/dogs/7.jpg", "val/cats/7.jpg"),  # The directory `dogs` does not exist.
        ("0003.jpg", None),
        ("1.jpg", None),  # With an ending it is a name, not a number.
        ("0000.xml", None),
        ("train", None),
        ("", None),
        ("..", None),
    ],
)
def test_matching_file(row: str, file: str | None) -> None:
    assert matched([row], TREE) == [file]


@pytest.mark.parametrize(
    ("row", "names", "file"),
    [
        ("a.jpg", ["A.jpg", "a.jpg", "x/a.jpg"], "a.jpg"),  # An exact match.
        ("a.jpg", ["A.jpg", "x/a.jpg"], "A.jpg"),  # The directory is more important than capital letters.
        ("a", ["a.xml", "a.txt", "a.jpg"], "a.jpg"),  # Only one file with this name is an image.
        # .01 is not an ending.
        ("IMG.2020.01", ["IMG.2020.01.jpg", "IMG.2020.02.jpg"], "IMG.2020.01.jpg"),
        ("7", ["7.jpg", "007.jpg"], "7.jpg"),
        ("y/b/1.jpg", ["b/1.jpg", "c/1.jpg"], "b/1.jpg"),  # The longest common end.
        (
            "train/cats/17.jpg",
            ["train/cats/1.jpg", "val/cats/17.jpg"],
            None,
        ),  # A match would leak images between splits.
        ("train/1.png", ["test/1.png", "val/2.png"], None),  # `train` does not exist.
        ("train/1.png", ["test/1.png", "train_set/1.png"], "train_set/1.png"),
        ("validation/a/1.png", ["val/a/1.png"], "val/a/1.png"),  # Two names of one split.
        ("/test/pets/train/1.png", ["test/1.png"], None),  # The innermost directory counts.
        ("train/1.png", ["images/1.png"], "images/1.png"),
        (unicodedata.normalize("NFD", "é.jpg"), [unicodedata.normalize("NFC", "é.jpg")], "é.jpg"),
    ],
)
def test_priority_of_matches(row: str, names: list[str], file: str | None) -> None:
    assert matched([row], names) == [file and unicodedata.normalize("NFC", file)]


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("0000", ["0000.jpg", "0000.png"]),
        ("0000", ["images/0000.png", "masks/0000.png"]),
        ("0000.jpg", ["a/0000.jpg", "b/0000.jpg"]),
        ("/x/0000.jpg", ["a/0000.jpg", "b/0000.jpg"]),
        ("a.JPG", ["a.jpg", "A.jpg"]),
        ("7", ["07.jpg", "007.jpg"]),
    ],
)
def test_several_matching_files_are_refused(row: str, names: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        matched(["other", row], names)
    message = str(caught.value)
    assert message.startswith(f"t.csv: row 2 ({row!r}) matches several files, for example ")
    assert all(repr(name) in message for name in names)
    assert message.endswith(
        ". Each row must match one file. Pass the name of a column with full paths as --path_column, or pass the"
        " directory of the files as --src."
    )


def test_two_rows_for_one_file_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        matched(["/x/cats/1.jpg", "/x/dogs/1.jpg"], ["1.jpg"])
    assert str(caught.value) == (
        "t.csv: rows 1 ('/x/cats/1.jpg') and 2 ('/x/dogs/1.jpg') match the same file, '1.jpg'. Keep one of the"
        " rows, or pass the name of a column with full paths as --path_column."
    )


def test_exact_match_has_priority_over_other_rows() -> None:
    assert matched(["a.png", "a.jpg"], ["a.jpg"]) == [None, "a.jpg"]


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (["0000", "0002"], "2 of 2 rows name files without their ending and without their directory, for example 0000"),
        (
            ["train\\0000.jpg"],
            "1 of 1 rows name files with backslashes, for example train\\0000.jpg (read as train/0000.jpg)",
        ),
        (["train/0000.JPG"], "1 of 1 rows name files with other capital letters, for example train/0000.JPG (read"),
        (["train/0000.png"], "1 of 1 rows name files with another ending, for example train/0000.png (read as train/0"),
        (
            ["/a/train/0000.jpg"],
            "1 of 1 rows name files with directories that are not in the source, for example /a/tr",
        ),
        (["train/0000.jpg", "0002.jpg"], "1 of 2 rows name files without their directory, for example 0002.jpg (read"),
        (["1"], "1 of 1 rows name files without their ending and without leading zeros and without their directory, f"),
        (["http://x/train/0000.jpg"], "1 of 1 rows name files by URLs and with directories that are not in the s"),
        (
            ["cats/7.jpg"],
            "1 of 1 rows name files without the first directories of their path, for example cats/7.jpg (read as v",
        ),
    ],
)
def test_notes(rows: list[str], note: str) -> None:
    (printed,) = manifest_paths.match("t.csv", rows, TREE, range(1, 9)).notes
    assert printed.startswith(note)


def test_exact_rows_have_no_note() -> None:
    assert manifest_paths.match("t.csv", TREE, TREE, range(1, 9)).notes == ()


def test_time_is_proportional_to_the_number_of_rows() -> None:
    """A table must not be slow if every directory has files with the same names."""
    seconds = []
    for count in (20, 80):
        names = [f"{directory:03d}/{number}.png" for directory in range(count) for number in range(100)]
        start = time.process_time()
        assert matched(["/x/" + name for name in names], names) == names
        seconds.append(time.process_time() - start)
    assert seconds[1] < 12 * seconds[0]


# --- In a conversion --------------------------------------------------------------------------------------------------


def test_directory_and_archive_give_the_same_records(tmp_path: Path) -> None:
    for number in range(6):
        draw(tmp_path / f"pets/train/{number:04d}.jpg")
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for file in sorted((tmp_path / "pets/train").iterdir()):
            archive.write(file, f"train/{file.name}")
    (tmp_path / "ids.csv").write_text("id,breed\n" + "".join(f"{i:04d},{'ab'[i % 2]}\n" for i in range(6)))
    facts = [
        converted(tmp_path / source, tmp_path / f"{source}-out", validation_fraction=0, manifest=f"{tmp_path}/ids.csv")
        for source in ("pets", "pets.zip")
    ]
    assert [fact["records"] for fact in facts] == [6, 6]
    assert facts[0]["digest"] == facts[1]["digest"]


def test_records_have_the_names_of_the_files(tmp_path: Path) -> None:
    for number in range(2):
        draw(tmp_path / f"pets/{number}.jpg")
    (tmp_path / "t.csv").write_text("path,label\nC:\\x\\0.JPG,a\nC:\\x\\1.JPG,b\n")
    assert list(scanned(tmp_path / "pets", manifest=str(tmp_path / "t.csv")).paths) == ["0.jpg", "1.jpg"]


def test_row_without_a_file_is_rejected(tmp_path: Path) -> None:
    for number in range(3):
        draw(tmp_path / f"pets/{number}.jpg")
    (tmp_path / "t.csv").write_text("path,label\n0,a\n1,b\n2,b\n9,a\n")
    sources = scanned(tmp_path / "pets", manifest=str(tmp_path / "t.csv"))
    assert [(r.path, r.reason) for r in sources.rejected] == [
        ("9", "listed in the manifest, but not found: No such file or directory")
    ]


def test_urls(tmp_path: Path) -> None:
    for number in range(3):
        draw(tmp_path / f"pets/{number}.jpg")
    rows = "".join(f"https://host.org/a%20b/{number}.jpg?size=l,{'ab'[number % 2]}\n" for number in range(4))
    (tmp_path / "t.csv").write_text("path,label\n" + rows)
    sources = scanned(tmp_path / "pets", manifest=str(tmp_path / "t.csv"))
    assert list(sources.paths) == ["0.jpg", "1.jpg", "2.jpg"]
    assert sources.notes[0].startswith("3 of 4 rows name files by URLs and with directories that are not in the sou")
    assert [(r.path, r.reason) for r in sources.rejected] == [
        (
            "https://host.org/a%20b/3.jpg?size=l",
            "this is a URL, and the source has no file with this name: download the images first",
        )
    ]


def test_notes_are_printed(tmp_path: Path) -> None:
    for number in range(4):
        draw(tmp_path / f"pets/{number:03d}.jpg")
    (tmp_path / "t.csv").write_text("image_id;class\n" + "".join(f"{i:03d};{'ab'[i % 2]}\n" for i in range(4)))
    done = run(
        "tfrecord_tools.convert", "--src=pets", "--manifest=t.csv", "--validation_fraction=0", "--dry_run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "note: the column 'image_id' is read as the paths (see --path_column)\n" in done.stdout
    assert "note: 4 of 4 rows name files without their ending, for example 000 (read as 000.jpg)\n" in done.stdout
