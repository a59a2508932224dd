"""Tests of convert from end to end: output, errors, and interruptions."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from image_sources import REPOSITORY, contents, converted, draw, image, run, start, tree, with_splits
from PIL import Image

from tfrecord_tools import convert as convert_module
from tfrecord_tools.base import files
from tfrecord_tools.conversion import workspace
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import schema
from tfrecord_tools.layout.schema import Example
from tfrecord_tools.records import open_dataset

MODULE = "tfrecord_tools.convert"


pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def src(split_source: Path, tmp_path: Path) -> Path:
    """Return a copy of `split_source` that a test may change."""
    return Path(shutil.copytree(split_source, tmp_path / "pets"))


def read(out: Path) -> dict[str, dict[str, Example]]:
    """Return split -> path -> record of a dataset."""
    data = open_dataset(out)
    splits = {split: data.records(split) for split in data.splits}
    return {split: {records[i]["path"]: records[i] for i in range(len(records))} for split, records in splits.items()}


class Stop(BaseException):
    """Ends a conversion in this process, as a signal ends the command."""


# --- Output --------------------------------------------------------------------------------------------------------


def test_split_layout_end_to_end(split_source: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    facts = convert(ConvertConfig(src=str(split_source), out=str(tmp_path / "out"), workers=1), log=lines.append)
    assert sorted(os.listdir(tmp_path / "out")) == [
        "card.html",
        "changed.csv",
        "convert.json",
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
        "pets-train.tfrecord-00000-of-00001",
        "pets-validation.tfrecord-00000-of-00001",
        "records.parquet",
        "rejected.csv",
    ]
    assert os.listdir(tmp_path) == ["out"]
    assert json.loads((tmp_path / "out/convert.json").read_text()) == facts
    records = read(tmp_path / "out")
    source = contents(split_source)
    assert {path: record["image"] for split in records.values() for path, record in split.items()} == source
    for split, named in records.items():
        for path, record in named.items():
            assert path.startswith(split)
            assert record["label"] == ["cats", "dogs"].index(path.split("/")[1])
    assert lines[0].startswith(f"{split_source}: 16 images, 0.0 MB to store, splits of the source")
    table = [line.split() for line in lines[1:6]]
    assert table == [
        ["label", "class", "train", "validation"],
        ["0", "cats", "5", "3"],
        ["1", "dogs", "5", "3"],
        ["all", "10", "6"],
        ["shards", "1", "1"],
    ]
    assert (
        f"{tmp_path}/out/: 16 records in 2 shards, 0.0 MB, digest (checksum of the dataset) {facts['digest'][:12]}; 0"
        " skipped" in lines[-1]
    )


def test_class_layout_end_to_end(class_source: Path, tmp_path: Path) -> None:
    facts = converted(class_source, tmp_path / "out", validation_fraction=0.3, test_fraction=0.2)
    records = read(tmp_path / "out")
    assert list(records) == ["train", "validation", "test"]
    images = {path: record["image"] for split in records.values() for path, record in split.items()}
    assert images == contents(class_source)
    assert sum(map(len, records.values())) == facts["records"] == 60
    assert all(len({record["label"] for record in split.values()}) == 2 for split in records.values())


def test_index_addresses_every_record(class_source: Path, tmp_path: Path) -> None:
    converted(class_source, tmp_path / "out", shards=5)
    rows = pq.read_table(tmp_path / "out/records.parquet").to_pylist()
    assert len(rows) == 60
    for row in rows:
        (shard,) = (tmp_path / "out").glob(f"pets-{row['split']}.tfrecord-{row['shard']:05d}-of-*")
        framed = shard.read_bytes()[row["offset"] :][: row["length"] + schema.FRAME_BYTES]
        example = schema.decode_example(schema.unframe(framed) or b"")
        assert (example["path"], example["label"]) == (row["path"], row["label"])


def test_classes_fix_the_labels(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", {"birds": 3, "cats": 3, "dogs": 3})
    lines: list[str] = []
    settings: dict[str, Any] = {"classes": ["dogs", "cats"], "validation_fraction": 0.0, "workers": 1}
    convert(ConvertConfig(src=str(source), out=str(tmp_path / "out"), **settings), log=lines.append)
    assert (tmp_path / "out/label.labels.txt").read_text() == "dogs\ncats\n"
    labels = {path.split("/")[0]: record["label"] for path, record in read(tmp_path / "out")["train"].items()}
    assert labels == {"dogs": 0, "cats": 1}
    assert "  left out, not in --classes: birds (3 files)" in lines


def test_duplicates_are_all_kept(tmp_path: Path) -> None:
    source = with_splits(tmp_path / "src")
    for name in ("train/cats/copy.jpg", "train/dogs/other.jpg", "validation/cats/copy.jpg"):
        shutil.copy(source / "train/cats/000.jpg", source / name)
    converted(source, tmp_path / "out")
    assert {path: r["image"] for s in read(tmp_path / "out").values() for path, r in s.items()} == contents(source)


def test_bad_images_are_listed(src: Path, tmp_path: Path) -> None:
    (src / "train/cats/page.jpg").write_bytes(b"<html>")
    (src / "train/dogs/moving.jpg").write_bytes(image(1, "TGA"))
    (src / "train/cats/000.jpg").write_bytes(image(1)[:-100])
    (src / "readme.txt").write_text("hello")
    lines: list[str] = []
    convert(ConvertConfig(src=str(src), out=str(tmp_path / "out"), workers=1, max_bad=0.5), log=lines.append)
    with open(tmp_path / "out/rejected.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["done"]) for row in rows] == [
        ("train/cats/000.jpg", "skipped"),
        ("train/cats/page.jpg", "skipped"),
        ("train/dogs/moving.jpg", "skipped"),
    ]
    assert rows[2]["reason"] == "a TGA image, not a supported format: export it as PNG or JPEG"
    assert "  note: 1 file is left out, because they are not in a class directory: readme.txt" in lines
    assert len(read(tmp_path / "out")["train"]) == 9


def test_long_list_of_rejected_is_cut_in_the_report(src: Path, tmp_path: Path) -> None:
    for number in range(8):
        (src / f"train/cats/bad{number}.jpg").write_bytes(b"")
    lines: list[str] = []
    convert(ConvertConfig(src=str(src), out=str(tmp_path / "out"), workers=1, max_bad=0.5), log=lines.append)
    assert len([line for line in lines if "empty file" in line]) == 5
    assert "  and 3 more such files" in lines


def test_table_comes_before_anything_is_written(split_source: Path, tmp_path: Path) -> None:
    def log(line: str) -> None:
        if "label" in line:
            assert not (tmp_path / "out.partial/data").exists()
            seen.append(line)

    seen: list[str] = []
    convert(ConvertConfig(src=str(split_source), out=str(tmp_path / "out"), workers=1), log=log)
    assert len(seen) == 1


# --- The same bytes ------------------------------------------------------------------------------------------------


def test_same_bytes_with_any_number_of_workers_and_in_any_directory(class_source: Path, tmp_path: Path) -> None:
    words = {"cats/000.jpg": "label,dogs", "cats/001.jpg": "drop,", "dogs/000.jpg": "keep,"}
    src = Path(shutil.copytree(class_source, tmp_path / "pets"))
    with Image.open(src / "cats/002.png") as picture:
        picture.save(src / "cats/same_pixels.bmp")
    rows = [f"{hashlib.sha256((src / name).read_bytes()).hexdigest()},{what}" for name, what in words.items()]
    (tmp_path / "d.csv").write_text("\n".join(["sha256,decision,label", *rows]))
    flags: dict[str, Any] = {"validation_fraction": 0.3, "shards": 7, "max_bad": 0.1}
    flags |= {"near_duplicates": "drop", "decisions": str(tmp_path / "d.csv")}
    facts = converted(src, tmp_path / "one", **flags)
    assert facts["near_duplicates"]["files"] == 2
    assert facts["decided"]["relabeled"] == facts["decided"]["dropped"] == facts["decided"]["kept"] == 1
    converted(src, tmp_path / "two", workers=2, **flags)
    expected = contents(tmp_path / "one")
    assert contents(tmp_path / "two") == expected
    moved = Path(shutil.copytree(src, tmp_path / "elsewhere/pets"))
    for path in moved.rglob("*.jpg"):
        os.utime(path, ns=(0, 1))
    # As a command, with forked workers and relative paths.
    own = [f"--{name}={value}" for name, value in flags.items()]
    done = run(MODULE, "--src=pets", "--out=deep/er/three", "--workers=3", *own, cwd=moved.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(moved.parent / "deep/er/three") == expected
    assert sorted(os.listdir(moved.parent / "deep/er")) == ["three"]


def test_seed_and_fraction_change_the_bytes(class_source: Path, tmp_path: Path) -> None:
    several: list[dict[str, Any]] = [{}, {"seed": 1}, {"validation_fraction": 0.4}]
    digests = [
        converted(class_source, tmp_path / f"{number}", **settings)["digest"] for number, settings in enumerate(several)
    ]
    assert len(set(digests)) == 3


# --- Errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"src": "gone"}, r"--src=gone: does not exist\. Pass a directory"),
        ({"src": "pets/train/cats/000.jpg"}, r"--src=pets/train/cats/000\.jpg: must be a directory, a zip or tar"),
        ({"src": "empty"}, r"--src=empty: no images in class directories\. Expected"),
        (
            {"src": "pets/train/cats"},
            r"no images in class directories\. 5 images are not in a class directory, for example 000\.jpg",
        ),
        ({"src": "one"}, r"--src=one: there is only one class, 'cats'\. A classifier needs at least two\."),
        (
            {"src": ""},
            r"--src is missing\. Pass a directory of images, an archive or a manifest\. A directory looks like .*\.",
        ),
        ({"out": "pets/out"}, r"--out=pets/out: is inside --src=pets, .* Choose a directory outside --src\."),
        ({"out": "pets"}, r"--out=pets: is inside --src=pets"),
        ({"out": "."}, r"--out=.*: contains --src=.* so the images would be replaced too\. Choose another --out\."),
        ({"out": "notes.txt"}, r"--out=notes\.txt: is a file\. Choose a directory that does not exist yet\."),
        ({"out": "one"}, r"--out=one: exists and is not a dataset of this tool\. Nothing was changed\."),
        ({"out": "one", "overwrite": True}, r"--out=one: exists and is not a dataset of this tool"),
        ({"out": "notes.txt/out"}, r"notes\.txt/out\.partial: cannot be created: Not a directory\. Choose another"),
        (
            {"classes": ["cat", "dogs"]},
            r"--classes: pets has no files of the class 'cat'\. Classes with files are, for example, cats\.",
        ),
        ({"validation_fraction": 0.5}, r"--validation_fraction=0\.5: pets has its own splits"),
        ({"on_bad_image": "ignore"}, r"--on_bad_image=ignore: must be one of skip, repair, fail\."),
        ({"workers": 0}, r"--workers=0: must be at least 1\."),
    ],
)
def test_errors_leave_no_files(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    tree(tmp_path / "one", {"cats": 2})
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=message):
        converted(Path("pets"), Path("out"), **settings)
    assert contents(tmp_path) == before
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["out", "out/"])
def test_existing_out_is_refused_before_any_work(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    converted(src, tmp_path / "out")
    monkeypatch.setattr(convert_module, "scan", lambda *_: pytest.fail("it was scanned"))
    with pytest.raises(UserError, match=r"out: the dataset exists\. Pass --overwrite to replace it"):
        convert(ConvertConfig(src=str(src), out=f"{tmp_path}/{out}", workers=1))


def test_out_may_be_an_empty_directory(split_source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    converted(split_source, tmp_path / "out")
    assert len(read(tmp_path / "out")["train"]) == 10
    assert os.listdir(tmp_path) == ["out"]


def test_on_bad_image_fail(src: Path, tmp_path: Path) -> None:
    (src / "train/cats/page.jpg").write_bytes(b"<html>")
    with pytest.raises(UserError) as caught:
        converted(src, tmp_path / "out", on_bad_image="fail")
    assert str(caught.value) == (
        f"{src}/train/cats/page.jpg: not an image (starts with b'<html>'); an HTML page: download the file again."
        f" Remove the file, or pass --on_bad_image=skip.\nThe finished part is kept in {tmp_path}/out.partial/ for the"
        " next run. To discard the finished part, delete that directory."
    )
    assert not (tmp_path / "out").exists()


def test_max_bad(src: Path, tmp_path: Path) -> None:
    for number in range(3):
        (src / f"train/cats/bad{number}.jpg").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"3 of 19 files cannot be converted\. This is more than --max_bad=0\.05 allows"
    ):
        converted(src, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert converted(src, tmp_path / "out", max_bad=0.2)["rejected"] == 3  # The same command with a higher limit.


def test_too_many_bad_files_stop_early(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong --src is reported after some files, not after a million."""
    for path in src.rglob("*.jpg"):
        path.write_bytes(b"")
    inspected: list[int] = []
    monkeypatch.setattr(convert_module.Progress, "__call__", lambda self, count: inspected.append(count))
    monkeypatch.setattr("tfrecord_tools.conversion.survey.FILES_PER_JOB", 2)
    with pytest.raises(UserError, match="more than --max_bad"):
        converted(src, tmp_path / "out")
    assert sum(inspected) == 2


def test_no_space(split_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda path: usage._replace(free=3_000_000_000))
    monkeypatch.setattr(schema, "FRAME_BYTES", 1_000_000_000)
    message = (
        r"16\.0 GB of disk space are needed, and 3\.0 GB are free\. Delete files that you do not need and run the same"
        " command again, or choose"
    )
    with pytest.raises(UserError, match=message):
        converted(split_source, tmp_path / "out")


# --- Replacing -----------------------------------------------------------------------------------------------------


def test_overwrite_keeps_the_old_dataset_until_the_end(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted(src, tmp_path / "out")
    old = contents(tmp_path / "out")
    draw(src / "train/cats/new.jpg")
    original = convert_module.card_page.write
    checked: list[bool] = []

    def write(*arguments: Any) -> None:
        original(*arguments)  # The last step before the commit.
        checked.append(contents(tmp_path / "out") == old)

    monkeypatch.setattr(convert_module.card_page, "write", write)
    converted(src, tmp_path / "out", overwrite=True)
    assert checked == [True]
    assert "train/cats/new.jpg" in read(tmp_path / "out")["train"]
    converted(src, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert sorted(os.listdir(tmp_path)) == ["fresh", "out", "pets"]


def test_failed_overwrite_keeps_the_old_dataset(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted(src, tmp_path / "out")
    old = contents(tmp_path / "out")
    monkeypatch.setattr(convert_module.metadata, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(UserError, match=r"^No space \(.*\)\. The finished part is kept in .*/out\.partial/\. Fix"):
        converted(src, tmp_path / "out", overwrite=True, seed=1)
    assert contents(tmp_path / "out") == old


def test_file_systems_without_exchange(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted(src, tmp_path / "out")
    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    converted(src, tmp_path / "out", overwrite=True, seed=1)
    converted(src, tmp_path / "fresh", seed=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert sorted(os.listdir(tmp_path)) == ["fresh", "out", "pets"]


@pytest.mark.parametrize("exists", [True, False], ids=["to a dataset", "dangling"])
def test_out_may_be_a_link(split_source: Path, tmp_path: Path, exists: bool) -> None:
    (tmp_path / "disk").mkdir()
    if exists:
        converted(split_source, tmp_path / "disk/real", seed=1)
    (tmp_path / "out").symlink_to("disk/real")
    converted(split_source, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").is_symlink()  # The target was replaced, not the link.
    assert json.loads((tmp_path / "disk/real/convert.json").read_text())["config"]["seed"] == 0
    assert sorted(os.listdir(tmp_path / "disk")) == ["real"]
    assert sorted(os.listdir(tmp_path)) == ["disk", "out"]


# --- Continuing ----------------------------------------------------------------------------------------------------


def stop_writing_after(monkeypatch: pytest.MonkeyPatch, shards: int) -> list[str]:
    """Make the next conversion stop after some shards, and return the list of shards that it writes."""
    written: list[str] = []
    original = convert_module.write_shard

    def write_shard(job: Any) -> int:
        if len(written) == shards:
            raise Stop
        written.append(job.shard_path.name)
        return original(job)

    monkeypatch.setattr(convert_module, "write_shard", write_shard)
    return written


def test_written_shards_are_not_written_again(class_source: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        first = stop_writing_after(patch, 3)
        with pytest.raises(Stop):
            converted(class_source, tmp_path / "out", shards=8)
    assert not (tmp_path / "out").exists()
    with pytest.MonkeyPatch.context() as patch:
        second = stop_writing_after(patch, 100)
        converted(class_source, tmp_path / "out", shards=8)
    assert (len(first), len(second)) == (3, 5)
    assert not set(first) & set(second)
    converted(class_source, tmp_path / "fresh", shards=8)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_another_number_of_workers_or_limit_continues(class_source: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_writing_after(patch, 1)
        with pytest.raises(Stop):
            converted(class_source, tmp_path / "out", shards=3)
    facts = converted(class_source, tmp_path / "out", shards=3, max_bad=0.3, overwrite=True, on_bad_image="fail")
    assert facts["records"] == 60


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"shards": 4}, "shards was 3 and is 4"),
        ({"validation_fraction": 0.4}, "validation_fraction was 0.2 and is 0.4"),
        ({"classes": ["dogs", "cats"]}, "classes was None and is ['dogs', 'cats']"),
    ],
)
def test_unfinished_conversion_with_other_settings_needs_restart(
    class_source: Path, tmp_path: Path, settings: dict[str, Any], difference: str
) -> None:
    flags = {"shards": 3} | settings
    with pytest.MonkeyPatch.context() as patch:
        stop_writing_after(patch, 1)
        with pytest.raises(Stop):
            converted(class_source, tmp_path / "out", shards=3)
    with pytest.raises(UserError) as caught:
        converted(class_source, tmp_path / "out", **flags)
    assert f"out.partial holds an unfinished conversion of another command: {difference}." in str(caught.value)
    assert (
        "Run the old command again to finish that conversion, or pass --restart to discard"
        " the finished part." in str(caught.value)
    )
    converted(class_source, tmp_path / "out", restart=True, **flags)
    converted(class_source, tmp_path / "fresh", **flags)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert sorted(os.listdir(tmp_path)) == ["fresh", "out"]


def test_unfinished_conversion_of_another_source_is_an_error(src: Path, class_source: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_writing_after(patch, 1)
        with pytest.raises(Stop):
            converted(src, tmp_path / "out")
    with pytest.raises(
        UserError, match=r"src was '.*pets' and is '.*'.* or pass --restart to discard the finished part"
    ):
        converted(class_source, tmp_path / "out")


@pytest.mark.parametrize("hidden", [False, True], ids=["usual", "size and time kept"])
def test_source_that_changes_between_survey_and_write(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    path = src / "train/dogs/000.jpg"
    original = convert_module.make_plan

    def make_plan(*args: Any) -> Any:
        plan = original(*args)
        data, status = path.read_bytes(), path.stat()
        path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:] if hidden else data + b"more")
        if hidden:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return plan

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "make_plan", make_plan)
        with pytest.raises(
            UserError, match=r"train/dogs/000\.jpg: the file has changed since it was inspected\. .*--restart"
        ):
            converted(src, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--restart"):  # A mixture of both versions must not be possible.
        converted(src, tmp_path / "out")
    converted(src, tmp_path / "out", restart=True)
    assert read(tmp_path / "out")["train"]["train/dogs/000.jpg"]["image"] == path.read_bytes()


def test_interrupted_commit_is_finished_by_the_same_command(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: workspace.Workspace) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(workspace.Workspace, "clear", crash)
        with pytest.raises(Stop):
            converted(src, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["out", "out.partial", "pets"]
    lines: list[str] = []
    facts = convert(ConvertConfig(src=str(src), out=str(tmp_path / "out"), workers=1), log=lines.append)
    assert lines == [
        f"{tmp_path}/out/: the last step of an interrupted conversion is now finished. The dataset is complete."
    ]
    assert facts == json.loads((tmp_path / "out/convert.json").read_text())
    assert sorted(os.listdir(tmp_path)) == ["out", "pets"]


def test_interrupted_commit_is_finished_before_another_command(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(workspace.Workspace, "clear", lambda self: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            converted(src, tmp_path / "out")
    with pytest.raises(UserError, match=r"out: the dataset exists\. Pass --overwrite"):
        converted(src, tmp_path / "out", seed=1)
    assert converted(src, tmp_path / "out", seed=1, overwrite=True)["config"]["seed"] == 1
    assert sorted(os.listdir(tmp_path)) == ["out", "pets"]


def test_dry_run_touches_nothing(src: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_writing_after(patch, 1)
        with pytest.raises(Stop):
            converted(src, tmp_path / "out")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    facts = converted(src, tmp_path / "out", dry_run=True, seed=5)  # An unfinished conversion does not matter either.
    assert (facts["records"], facts["splits"]["train"]["records"]) == (16, 10)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")} == before


# --- The command ---------------------------------------------------------------------------------------------------


def test_command_writes_and_prints_a_summary(src: Path, tmp_path: Path) -> None:
    done = run(MODULE, "--src=pets", "--workers=1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pets: 16 images")
    assert "out/: 16 records in 2 shards" in done.stdout
    assert open_dataset(tmp_path / "out").splits == {"train": 10, "validation": 6}


def test_help_shows_our_flags(tmp_path: Path) -> None:
    done = run(MODULE, "--help", cwd=tmp_path)
    assert "Traceback" not in done.stderr
    for flag in ("src", "out", "classes", "validation_fraction", "test_fraction", "seed", "shards", "shard_bytes"):
        assert f"--{flag}:" in done.stdout
    for flag in ("workers", "on_bad_image", "max_bad", "[no]overwrite", "[no]restart", "[no]dry_run"):
        assert f"--{flag}:" in done.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scr=pets"], "--scr=pets: is not a flag of this command. Use --src=pets."),
        (["--src=pets", "extra"], "error: unexpected argument 'extra': this command takes only flags"),
        (
            [],
            "error: --src is missing. Pass a directory of images, an archive or a manifest. A directory"
            " looks like cat_dog_img/train",
        ),
        (["--src=gone"], "error: --src=gone: does not exist."),
    ],
)
def test_wrong_commands(src: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    done = run(MODULE, *flags, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["pets"]


def test_a_directory_whose_name_is_not_utf8(src: Path, tmp_path: Path) -> None:
    os.rename(src, os.fsencode(tmp_path) + b"/caf\xe9")
    # Python's output is strict under most locales.
    flags = [os.fsdecode(b"--src=caf\xe9"), "--workers=1"]
    done = run(MODULE, *flags, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii:strict"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(r"caf\udce9: 16 images")
    assert open_dataset(tmp_path / "out").splits == {"train": 10, "validation": 6}


def test_slow_imports_are_avoided(src: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from tfrecord_tools.convert import *\n"
        "convert(ConvertConfig(src='pets', dry_run=True, workers=1), log=lambda line: None)\n"
        "assert 'pyarrow' not in sys.modules, 'pyarrow takes 0.2 s that a dry run need not pay'\n"
        "convert(ConvertConfig(src='pets', workers=1), log=lambda line: None)\n"
        "assert 'pyarrow' in sys.modules\n"
        "print({'tensorflow', 'tensorflow_datasets', 'keras', 'pandas', 'matplotlib'} & sys.modules.keys() or 'none')"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "none\n", "")


def test_full_disk(tmp_path: Path) -> None:
    """A limit on the file size replaces the full disk: the shard is too large, all other files fit."""
    for path in [tmp_path / f"pets/train/{name}/{i}.jpg" for name in ("cats", "dogs") for i in range(10)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(str(path.name), size=(480, 360)))
    limit = 1_000_000  # `make coverage` writes smaller files in this process.

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = run(MODULE, "--src=pets", "--workers=2", cwd=tmp_path, preexec_fn=limited)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: out.partial/data/pets-train.tfrecord-00000-of-00001.tmp: File too large (write). The finished part is"
        " kept in out.partial/."
    )
    assert done.stderr.endswith("Fix the cause and run the same command again to continue.\n")
    assert sorted(os.listdir(tmp_path)) == ["out.partial", "pets"]
    assert not list(tmp_path.rglob("*.tmp"))
    converted(tmp_path / "pets", tmp_path / "out")
    converted(tmp_path / "pets", tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert sorted(os.listdir(tmp_path)) == ["fresh", "out", "pets"]


def until(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        if process.poll() is not None:
            return


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    source = with_splits(tmp_path / "pets", train=100, validation=50)
    flags = ["--src=pets", "--shards=24", "--workers=2"]
    started = time.monotonic()
    assert run(MODULE, *flags, "--out=reference", cwd=tmp_path).returncode == 0
    duration = time.monotonic() - started
    expected = contents(tmp_path / "reference")
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    rng = random.Random(0)
    moments: list[Callable[[subprocess.Popen[str]], None]] = [
        lambda process: until((partial / "survey/0000001.npz").exists, process),
        lambda process: until(lambda: len(list(partial.glob("index/*.parquet"))) > 5, process),
        lambda process: until((partial / "commit.json").exists, process),  # In the middle of the commit.
        *[lambda process: time.sleep(rng.uniform(0.2, 1.0) * duration)] * 2,
    ]
    for number, moment in enumerate(moments):
        if number == 2:
            converted(source, out, seed=1)  # The next command replaces it.
        with start(MODULE, *flags, "--overwrite", cwd=tmp_path) as process:
            moment(process)
            process.kill()
        rerun = run(MODULE, *flags, "--overwrite", cwd=tmp_path)
        assert (rerun.returncode, rerun.stderr) == (0, "")
        assert contents(out) == expected
        assert sorted(os.listdir(tmp_path)) == ["out", "pets", "reference"]
        shutil.rmtree(out)


@pytest.fixture(scope="module")
def many_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a source of 10,000 links to two files, which takes some seconds to convert."""
    root = tmp_path_factory.mktemp("many") / "pets"
    for name in ("cats", "dogs"):
        first = root / f"train/{name}/first.jpg"
        first.parent.mkdir(parents=True)
        first.write_bytes(image(name, size=(200, 150)))
        for number in range(5000):
            os.link(first, first.with_name(f"{number}.jpg"))
    return root


def test_interrupt_and_a_second_conversion_at_the_same_time(
    many_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.1)
    saved = tmp_path / "out.partial/survey"
    with start(MODULE, f"--src={many_files}", "--workers=2", cwd=tmp_path, start_new_session=True) as process:
        until((saved / "0000001.npz").exists, process)
        with pytest.raises(
            UserError,
            match=r"out: another conversion is writing this directory\. Wait until it ends, or choose another",
        ):
            converted(many_files, tmp_path / "out")
        assert process.poll() is None
        sent = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # A terminal sends it to the workers, too.
        out, err = process.communicate(timeout=30)
        seconds = time.monotonic() - sent
    assert process.returncode == 130
    assert err.strip() == "interrupted: run the same command again to continue"
    assert out == ""
    assert seconds < 2
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # All workers have ended.
    known = sum(len(np.load(path)["table"]) for path in saved.glob("*.npz"))
    assert known >= 256
    with workspace.open_workspace(workspace.Workspace(tmp_path / "out")):  # The lock is free again.
        pass


def test_the_source_is_checked_before_the_output(tmp_path):
    """A mistyped --src is reported before an existing --out."""
    converted(with_splits(tmp_path / "pets"), tmp_path / "out")
    for source, message in (
        ("pest", "--src=pest: does not exist"),
        ("pets", "--out=out: the dataset exists"),
    ):
        done = run(MODULE, f"--src={source}", "--out=out", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {message}")
