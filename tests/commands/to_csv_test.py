"""Tests of to_csv: values, splits, errors, and interruptions."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from image_sources import contents, converted, image, run, tree
from PIL import Image

from tfrecord_tools import to_csv as to_csv_module
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from tfrecord_tools.to_csv import CsvConfig, to_csv

MODULE = "tfrecord_tools.to_csv"


pytestmark = pytest.mark.usefixtures("no_fsync")


def written(src: Path, out: Path, /, **settings: Any) -> dict[str, int]:
    """Write CSV files in this process, without a report."""
    config: dict[str, Any] = {"src": str(src), "out": str(out), "image_size": 4, "workers": 1}
    return to_csv(CsvConfig(**config | settings), log=str)


def rows(path: Path) -> list[tuple[str, list[int]]]:
    """Return class name and values of each line, read by the csv module."""
    with open(path, newline="", encoding="utf-8") as file:
        return [(row[0], list(map(int, row[1:]))) for row in list(csv.reader(file))[1:]]


def squared(data: bytes, mode: str = "RGB", size: int = 4) -> list[int]:
    """Return the values that a line must have, computed with Pillow alone."""
    with Image.open(io.BytesIO(data)) as opened:
        small = opened.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
        return np.asarray(small.convert(mode)).ravel().tolist()


def pngs(root: Path, names: Sequence[str], **kind: Any) -> Path:
    """Draw two 4 x 4 images of each class, which need no resizing."""
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(2):
            (root / name / f"{number}.png").write_bytes(image(f"{name}{number}", "PNG", (4, 4), **kind))
    return root


# --- What is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("color", "mode"), [("rgb", "RGB"), ("gray", "L")])
@pytest.mark.parametrize("size", [4, 20])  # Images of 12 x 9 pixels are enlarged.
def test_values_equal_the_pixels(tmp_path: Path, color: str, mode: str, size: int) -> None:
    source = tree(tmp_path / "pets", {"cats": 3, "dogs": 3})
    lines = written(source, tmp_path / "csv", color=color, image_size=size, validation_fraction=0)
    assert lines == {"train": 6}
    expected = [(path.split("/")[0], squared(data, mode, size)) for path, data in contents(source).items()]
    assert sorted(rows(tmp_path / "csv/train.csv")) == sorted(expected)


def test_other_readers_find_the_header(tmp_path: Path) -> None:
    written(pngs(tmp_path / "pets", ["cats", "dogs"]), tmp_path / "csv", validation_fraction=0)
    table = pyarrow.csv.read_csv(tmp_path / "csv/train.csv")
    assert table.column_names[:4] == ["label", "1x1r", "1x1g", "1x1b"]
    assert table.column_names[-1] == "4x4b"
    assert len(table.column_names) == 1 + 4 * 4 * 3
    assert {str(kind) for kind in table.schema.types[1:]} == {str(pa.int64())}
    assert len(table) == 4


@pytest.mark.parametrize("resize_mode", ["exact", "center_crop"])
def test_resize_modes(tmp_path: Path, resize_mode: str) -> None:
    striped = np.zeros((10, 60, 3), np.uint8)
    striped[:, 15:45] = 200  # The central square, with a margin for the filter.
    for name in ("cats", "dogs"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.fromarray(striped).save(tmp_path / "pets" / name / "1.png")
    written(tmp_path / "pets", tmp_path / "csv", resize_mode=resize_mode, validation_fraction=0)
    values = set(rows(tmp_path / "csv/train.csv")[0][1])
    assert (values == {200}) == (resize_mode == "center_crop")
    assert (min(values) < 100) == (resize_mode == "exact")


@pytest.mark.parametrize(("color", "mode"), [("rgb", "RGB"), ("gray", "L")])
@pytest.mark.parametrize("drawn_in", ["RGB", "L"])
def test_round_trip_through_convert(tmp_path: Path, color: str, mode: str, drawn_in: str) -> None:
    names = ["a,b", 'the "dog"', "猫 süß"]
    source = pngs(tmp_path / "pets", names, mode=drawn_in)
    written(source, tmp_path / "csv", color=color, validation_fraction=0)
    facts = converted(tmp_path / "csv/train.csv", tmp_path / "out", validation_fraction=0)
    assert [c["name"] for c in facts["classes"]] == sorted(names)
    data = open_dataset(tmp_path / "out").records("train")
    records = [data[i] for i in range(len(data))]
    stored = [(sorted(names)[r["label"]], Image.open(io.BytesIO(r["image"]))) for r in records]
    assert {opened.mode for _, opened in stored} == {mode}
    expected = [(path.split("/")[0], squared(png, mode)) for path, png in contents(source).items()]
    assert sorted((name, np.asarray(opened).ravel().tolist()) for name, opened in stored) == sorted(expected)


# --- The splits ----------------------------------------------------------------------------------------------------


def by_split_of_convert(out: Path, names: Sequence[str]) -> dict[str, list[tuple[str, list[int]]]]:
    data = open_dataset(out)
    return {
        split: sorted((names[r["label"]], squared(r["image"])) for r in (stored[i] for i in range(len(stored))))
        for split in data.splits
        for stored in [data.records(split)]
    }


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"validation_fraction": 0.4, "test_fraction": 0.2},
        {"validation_fraction": 0.4, "seed": 3},
        {"validation_fraction": 0.4, "group_regex": r"/\d(\d\d)\."},
        {"validation_fraction": 0.4, "group_regex": r"/\d(\d)\d\."},
        {"classes": ["dogs", "cats"]},
    ],
)
def test_split_equals_that_of_convert(class_source: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    counts = written(class_source, tmp_path / "csv", **settings)
    converted(class_source, tmp_path / "out", **settings)
    expected = by_split_of_convert(tmp_path / "out", settings.get("classes") or ["cats", "dogs"])
    assert {split: sorted(rows(tmp_path / f"csv/{split}.csv")) for split in counts} == expected
    assert counts == {split: len(lines) for split, lines in expected.items()}


def test_copies_join_groups_as_in_convert(tmp_path: Path) -> None:
    """Groups that share an image become one group. A bad image does not join groups."""
    source = tree(tmp_path / "pets", {"cats": 40, "dogs": 40})
    for group in range(1, 8):
        shutil.copy(source / "cats/000.jpg", source / f"cats/{group}00.jpg")
    for path in ("cats/010.jpg", "dogs/020.jpg"):
        (source / path).write_bytes(b"<html>")
    settings: dict[str, Any] = {"validation_fraction": 0.5, "group_regex": r"/(\d\d?)\d\.", "max_bad": 0.1}
    counts = written(source, tmp_path / "csv", **settings)
    converted(source, tmp_path / "out", **settings)
    expected = by_split_of_convert(tmp_path / "out", ["cats", "dogs"])
    assert {split: sorted(rows(tmp_path / f"csv/{split}.csv")) for split in counts} == expected


@pytest.mark.parametrize("group_regex", [None, r"/(\d)"])
def test_splits_of_the_source_are_kept(split_source: Path, tmp_path: Path, group_regex: str | None) -> None:
    assert written(split_source, tmp_path / "csv", group_regex=group_regex) == {"train": 10, "validation": 6}
    expected = [(path.split("/")[1], squared(data)) for path, data in contents(split_source).items() if "val" in path]
    assert sorted(rows(tmp_path / "csv/validation.csv")) == sorted(expected)


def test_splits_stay_after_conversion(class_source: Path, tmp_path: Path) -> None:
    counts = written(class_source, tmp_path / "csv", validation_fraction=0.4, test_fraction=0.2)
    facts = converted(tmp_path / "csv", tmp_path / "out")
    assert {split: of["records"] for split, of in facts["splits"].items()} == counts


def test_lines_are_shuffled_by_the_seed(split_source: Path, tmp_path: Path) -> None:
    for number, seed in enumerate([0, 0, 1]):
        written(split_source, tmp_path / f"{number}", seed=seed)
    first, again, other = (rows(tmp_path / f"{number}/train.csv") for number in range(3))
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other)
    assert [label for label, _ in first] != sorted(label for label, _ in first)


def test_same_bytes_with_any_number_of_workers(
    class_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_csv_module, "_FILES_PER_JOB", 7)
    for workers in (1, 2):
        written(class_source, tmp_path / f"{workers}", workers=workers, group_regex=r"/\d(\d\d)\.")
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


# --- The report ---------------------------------------------------------------------------------------------------


def test_report(split_source: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    source = Path(shutil.copytree(split_source, tmp_path / "pets"))
    for number in range(6):
        (source / f"train/cats/bad{number}.jpg").write_bytes(b"")
    (source / "readme.txt").write_text("")
    config = CsvConfig(src=str(source), out=str(tmp_path / "csv"), image_size=4, workers=1, max_bad=0.5)
    to_csv(config, log=lines.append)
    assert lines[:3] == [
        f"{tmp_path}/csv/train.csv: 10 images of 4 x 4 pixels, rgb",
        f"{tmp_path}/csv/validation.csv: 6 images of 4 x 4 pixels, rgb",
        "  note: 1 file is left out, because they are not in a class directory: readme.txt",
    ]
    assert len([line for line in lines if line.endswith(".jpg: empty file")]) == 5
    assert lines[-1] == "  and 1 more such file"
    assert len(rows(tmp_path / "csv/train.csv")) == 10


def test_notes_are_printed(tmp_path: Path) -> None:
    tree(tmp_path / "pets", {"data/cats": 2, "data/dogs": 2})
    lines: list[str] = []
    to_csv(CsvConfig(src=str(tmp_path / "pets"), out=str(tmp_path / "csv"), image_size=4, workers=1), log=lines.append)
    assert "  note: the directory data holds all 4 images; it is not a class" in lines


# --- What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, r"--image_size=0: must be 1 to 4,096 pixels\."),
        ({"image_size": 70_000}, r"--image_size=70000: must be 1 to 4,096"),
        ({"color": "bgr"}, r"--color=bgr: must be one of rgb, gray\."),
        ({"resize_mode": "shorter"}, r"--resize_mode=shorter: must be one of exact, center_crop\."),
        ({"workers": 0}, r"--workers=0: must be at least 1\."),
        ({"validation_fraction": 2.0}, r"--validation_fraction=2\.0: must be a fraction from 0 to 1"),
        (
            {"validation_fraction": 2.0, "src": "gone"},
            r"--validation_fraction=2\.0: must be a fraction",
        ),  # Checked first.
        ({"max_bad": -1.0}, r"--max_bad=-1\.0: must be a fraction from 0 to 1"),
        ({"validation_fraction": 0.5}, r"--validation_fraction=0\.5: pets has its own splits"),
        ({"src": ""}, r"--src is missing"),
        ({"src": "gone"}, r"--src=gone: does not exist\."),
        ({"classes": ["cats", "cows"]}, r"pets has no files of the class 'cows'"),
        (
            {"out": "pets/csv"},
            r"--out=pets/csv: the CSV files would be inside --src=pets or would replace the images\. Choose an",
        ),
        ({"out": "pets"}, r"--out=pets: the CSV files would"),
        ({"out": "notes.txt"}, r"notes\.txt: File exists\. Nothing was written\."),
        ({"out": "notes.txt/csv"}, r"notes\.txt/csv: Not a directory\. Nothing was written\."),
    ],
)
def test_errors_leave_no_files(
    split_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    shutil.copytree(split_source, tmp_path / "pets")
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=message):
        written(Path("pets"), Path("csv"), **settings)
    assert contents(tmp_path) == before
    assert not (tmp_path / "csv").exists()


def test_existing_csv_is_kept_until_overwrite(split_source: Path, tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/validation.csv").write_text("precious")
    with pytest.raises(UserError) as caught:
        written(split_source, tmp_path / "csv")
    path = f"{tmp_path}/csv/validation.csv"
    assert str(caught.value) == f"{path}: exists. Add --overwrite to replace the file, or choose another --out."
    assert contents(tmp_path) == {"csv/validation.csv": b"precious"}
    written(split_source, tmp_path / "csv", overwrite=True)
    assert len(rows(tmp_path / "csv/validation.csv")) == 6


def test_old_file_of_another_split_is_an_error(class_source: Path, tmp_path: Path) -> None:
    written(class_source, tmp_path / "csv", test_fraction=0.2)
    before = contents(tmp_path)
    message = (
        r"test\.csv: exists, but the images of --src have no test split that could replace this file\. Remove the file,"
        " or choose"
    )
    with pytest.raises(UserError, match=message):
        written(class_source, tmp_path / "csv", overwrite=True)
    assert contents(tmp_path) == before


def test_a_csv_does_not_replace_its_source(split_source: Path, tmp_path: Path) -> None:
    written(split_source, tmp_path / "csv")
    before = contents(tmp_path)
    for src in ("csv", "csv/train.csv"):
        with pytest.raises(UserError, match=rf"would be inside --src={tmp_path}/{src} or would replace the images"):
            written(tmp_path / src, tmp_path / "csv", overwrite=True, validation_fraction=0)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("group_regex", [None, r"/(\d)"])
def test_too_many_bad_images(class_source: Path, tmp_path: Path, group_regex: str | None) -> None:
    source = Path(shutil.copytree(class_source, tmp_path / "pets"))
    for number in range(4):
        (source / f"cats/{number:03d}.{'png' if number % 3 == 2 else 'jpg'}").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"4 of 60 files cannot be converted\. This is more than --max_bad=0\.05 allows:\n"
    ):
        written(source, tmp_path / "csv", group_regex=group_regex)
    assert list((tmp_path / "csv").iterdir()) == []


def test_too_many_loose_files_stop_before_any_work(
    class_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(class_source, tmp_path / "pets"))
    for number in range(10):
        (source / f"{number}.jpg").write_text("")
    monkeypatch.setattr(to_csv_module, "survey", lambda *_, **__: pytest.fail("the images were read"))
    with pytest.raises(UserError, match=r"10 of 70 files cannot be converted\. This is more than --max_bad"):
        written(source, tmp_path / "csv", group_regex=r"/(\d)")


class Stop(BaseException):
    """Ends the work in this process, as a signal ends the command."""


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (Stop("now"), (Stop, "now")),
        (KeyboardInterrupt("now"), (KeyboardInterrupt, "now")),
        (OSError(28, "No space left on device"), (UserError, r"^No space left on device\. Nothing was written\.")),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_interruption_leaves_no_partial_file(
    class_source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    seen: tuple[type[BaseException], str],
    exists: bool,
) -> None:
    if exists:
        written(class_source, tmp_path / "csv", seed=1)
    before = contents(tmp_path)
    original, calls = to_csv_module._make_lines, []

    def make_lines(job: Any) -> Any:
        calls.append(job)
        if len(calls) == 3:
            raise raised
        return original(job)

    monkeypatch.setattr(to_csv_module, "_FILES_PER_JOB", 8)
    with monkeypatch.context() as patch:
        patch.setattr(to_csv_module, "_make_lines", make_lines)
        with pytest.raises(seen[0], match=seen[1]):
            written(class_source, tmp_path / "csv", overwrite=True)
    assert len(calls) == 3
    assert contents(tmp_path) == before
    written(class_source, tmp_path / "csv", overwrite=True)
    written(class_source, tmp_path / "fresh")
    assert contents(tmp_path / "csv") == contents(tmp_path / "fresh")


# --- Sources of other kinds ----------------------------------------------------------------------------------------


def test_from_an_archive_and_a_manifest(class_source: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "pets"), "zip", class_source)
    names = sorted(contents(class_source))
    lines = "".join(f"{name},{name.split('/')[0]}\n" for name in names)
    (tmp_path / "list.csv").write_text(f"path,label\n{lines}")
    written(class_source, tmp_path / "1")
    written(tmp_path / "pets.zip", tmp_path / "2")
    written(class_source, tmp_path / "3", manifest=str(tmp_path / "list.csv"))
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")


def test_from_csvs_of_pixels(split_source: Path, tmp_path: Path) -> None:
    """Images that have the size already keep their values."""
    written(split_source, tmp_path / "first")
    written(tmp_path / "first", tmp_path / "second")
    for split in ("train", "validation"):
        assert sorted(rows(tmp_path / f"first/{split}.csv")) == sorted(rows(tmp_path / f"second/{split}.csv"))


# --- The command ---------------------------------------------------------------------------------------------------


def test_command(split_source: Path, tmp_path: Path) -> None:
    shutil.copytree(split_source, tmp_path / "pets")
    (tmp_path / "pets/train/cats/bad.jpg").write_bytes(b"<html>")
    flags = ["--src=pets", "--image_size=4", "--color=gray", "--workers=2", "--max_bad=0.1"]
    done = run(MODULE, *flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "csv/train.csv: 10 images of 4 x 4 pixels, gray",
        "csv/validation.csv: 6 images of 4 x 4 pixels, gray",
        "  skipped: train/cats/bad.jpg: not an image (starts with b'<html>'); an HTML page: download the file again",
    ]
    assert sorted(os.listdir(tmp_path / "csv")) == ["train.csv", "validation.csv"]
    again = run(MODULE, *flags, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert (
        again.stderr == "error: csv/train.csv: exists. Add --overwrite to replace the file, or choose another --out.\n"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--src=pets"],
            "error: --image_size is missing. Add the height and width of the images in pixels, for example --image_s",
        ),
        (
            ["--image_size=4"],
            "error: --src is missing. Pass a directory of images, an archive or a manifest. A directory"
            " looks like cat_dog_img/train",
        ),
        (["--src=pets", "--image_size=4", "--color=bgr"], "--color=bgr: must be one of rgb, gray."),
        (["--src=pets", "--image_size=x"], "--image_size=x: must be a whole number."),
        (["--src=pets", "--size=4"], "--size=4: is not a flag of this command. Use --image_size=4."),
        (["--src=pets", "4"], "error: unexpected argument '4'"),
    ],
)
def test_wrong_commands(split_source: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    (tmp_path / "pets").symlink_to(split_source)
    done = run(MODULE, *flags, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["pets"]
