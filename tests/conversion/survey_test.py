"""Tests of the inspection of files: its facts, and the reuse of saved facts while they are valid."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from image_sources import draw, image, noted_reads, scanned, tree

from tfrecord_tools.base import workers
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.base.workers import Pool
from tfrecord_tools.conversion import survey as survey_module
from tfrecord_tools.conversion.survey import TYPES, Facts, survey
from tfrecord_tools.sources.directory import Directory
from tfrecord_tools.sources.scan import Sources

HERE = Pool(None, 1)  # Runs jobs in this process.


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a source of six valid images and a bad one."""
    tree(tmp_path / "src", {"cats": 3, "dogs": 3})
    (tmp_path / "src/dogs/page.jpg").write_bytes(b"<html>")
    return tmp_path / "src"


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the names of files when they are read."""
    return noted_reads(monkeypatch, Directory)


def equal(first: Facts, second: Facts) -> bool:
    return first.table.tobytes() == second.table.tobytes() and vars(first) | {"table": 0} == vars(second) | {"table": 0}


def test_facts_match_the_files(source: Path) -> None:
    (source / "cats/000.jpg").write_bytes(data := image("x", size=(31, 17)))
    sources = scanned(source)
    facts = survey(sources, HERE)
    row = facts.table[0]
    assert row["sha256"].tobytes() == hashlib.sha256(data).digest()
    assert (row["size"], row["height"], row["width"]) == (len(data), 17, 31)
    assert row["mtime_ns"] == (source / "cats/000.jpg").stat().st_mtime_ns
    assert [TYPES[t] for t in facts.table["type"]] == ["JPEG", "JPEG", "PNG", "JPEG", "JPEG", "PNG", ""]
    assert facts.reasons == {6: "not an image (starts with b'<html>'); an HTML page: download the file again"}


def test_progress_adds_up(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "FILES_PER_JOB", 3)
    for expected in ((0, [3, 3, 1]), (6, [1])):  # In the second run only the bad file is read.
        counts: list[int] = []
        with Progress("survey", 7) as progress:
            monkeypatch.setattr(progress._bar, "update", counts.append)
            survey(scanned(source), HERE, saved=tmp_path / "saved", progress=progress)
            assert (progress._bar.n, counts) == expected


def test_unchanged_files_are_not_read_again(source: Path, tmp_path: Path, read_files: list[str]) -> None:
    first = survey(scanned(source), HERE, saved=tmp_path / "saved")
    assert len(read_files) == 7
    read_files.clear()
    second = survey(scanned(source), HERE, saved=tmp_path / "saved")
    assert read_files == ["dogs/page.jpg"]  # A bad file is read again, since it may have been repaired.
    assert equal(first, second)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("content", ["cats/001.jpg"]),
        ("mtime", ["cats/001.jpg"]),  # For example, restored from a backup.
        ("renamed", ["cats/new.jpg"]),
        ("removed", []),
        ("added", ["birds/000.jpg"]),  # It changes the numbers of all files.
    ],
)
def test_changed_files_are_read_again(
    source: Path, tmp_path: Path, read_files: list[str], change: str, again: list[str]
) -> None:
    survey(scanned(source), HERE, saved=tmp_path / "saved")
    path = source / "cats/001.jpg"
    if change == "content":
        stat = path.stat()
        draw(path, key="other").write_bytes(path.read_bytes() + b"tail")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # Only the size differs.
    elif change == "mtime":
        os.utime(path, ns=(0, 12345))
    elif change == "renamed":
        path.rename(path.with_name("new.jpg"))
    elif change == "removed":
        path.unlink()
    else:
        draw(source / "birds/000.jpg")
    read_files.clear()
    facts = survey(scanned(source), HERE, saved=tmp_path / "saved")
    assert read_files == [*again, "dogs/page.jpg"]
    assert equal(facts, survey(scanned(source), HERE))


def test_the_newest_saved_fact_is_used(source: Path, tmp_path: Path, read_files: list[str]) -> None:
    """A file that was inspected twice has two saved facts. The newer one is valid."""
    path = source / "cats/001.jpg"
    for time in (111, 222):
        os.utime(path, ns=(0, time))
        survey(scanned(source), HERE, saved=tmp_path / "saved")
    read_files.clear()
    survey(scanned(source), HERE, saved=tmp_path / "saved")
    assert read_files == ["dogs/page.jpg"]


def test_repaired_file_is_valid(source: Path, tmp_path: Path) -> None:
    survey(scanned(source), HERE, saved=tmp_path / "saved")
    draw(source / "dogs/page.jpg")
    assert survey(scanned(source), HERE, saved=tmp_path / "saved").reasons == {}


def test_empty_file_with_mtime_0_stays_bad(source: Path, tmp_path: Path) -> None:
    """Size 0 and mtime 0 are also the table's values for unknown files."""
    (source / "cats/000.jpg").write_bytes(b"")
    os.utime(source / "cats/000.jpg", ns=(0, 0))
    for _ in range(2):
        assert survey(scanned(source), HERE, saved=tmp_path / "saved").reasons[0] == "empty file"


def test_interrupted_survey_keeps_its_facts(
    source: Path, tmp_path: Path, read_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "FILES_PER_JOB", 2)

    def stop(reasons: Mapping[int, str]) -> None:
        if len(read_files) >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey(scanned(source), HERE, saved=tmp_path / "saved", check=stop)
    assert len(read_files) == 4
    read_files.clear()
    facts = survey(scanned(source), HERE, saved=tmp_path / "saved")
    assert read_files == ["dogs/001.jpg", "dogs/002.png", "dogs/page.jpg"]
    assert equal(facts, survey(scanned(source), HERE))


def test_check_sees_each_bad_file(source: Path) -> None:
    seen: list[dict[int, str]] = []
    survey(scanned(source), HERE, check=lambda reasons: seen.append(dict(reasons)))
    assert [list(reasons) for reasons in seen] == [[6]]


def test_unreadable_file_is_bad(source: Path) -> None:
    sources = scanned(source)
    (source / "cats/000.jpg").unlink()  # Removed between scan and inspection.
    assert survey(sources, HERE).reasons[0] == "cannot be read: No such file or directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_forbidden_file_is_bad(source: Path) -> None:
    (source / "cats/000.jpg").chmod(0)
    assert survey(scanned(source), HERE).reasons[0] == "cannot be read: Permission denied"


def test_only_bad_files(tmp_path: Path) -> None:
    for name in ("cats/1.jpg", "dogs/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    assert survey(scanned(tmp_path), HERE).reasons == {0: "empty file", 1: "empty file"}


def test_two_processes_give_the_same_facts(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "FILES_PER_JOB", 2)
    sources: Sources = scanned(source)
    with workers.pool(2) as pool:
        assert equal(survey(sources, pool), survey(sources, HERE))


def test_type_depends_on_the_content_and_not_on_the_name(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/picture.png").write_bytes(image(1, "JPEG"))
    (tmp_path / "cats/without_ending").write_bytes(image(1, "PNG"))
    draw(tmp_path / "dogs/1.jpg")
    facts = survey(scanned(tmp_path), HERE)
    assert facts.reasons == {}
    assert [TYPES[t] for t in facts.table["type"]] == ["JPEG", "PNG", "JPEG"]
    assert len(np.unique(facts.table["sha256"], axis=0)) == 3


def test_facts_of_another_version_are_not_reused(
    source: Path, tmp_path: Path, read_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    survey(scanned(source), HERE, saved=tmp_path / "saved")
    read_files.clear()
    monkeypatch.setattr(survey_module.tfrecord_tools, "__version__", "0")
    survey(scanned(source), HERE, saved=tmp_path / "saved")
    assert len(read_files) == 7
