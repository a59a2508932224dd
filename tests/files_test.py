"""Tests of writing whole files or none, of swapping directories, and of the lock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawn import REPOSITORY, contents

from tfrecord_tools import files
from tfrecord_tools.errors import UserError


class Crash(BaseException):
    """Ends the work in the middle, as a signal would."""


def test_atomic_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with files.atomic(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert contents(tmp_path) == {"file": b"half and half"}


@pytest.mark.parametrize("error", [OSError, Crash])
def test_failed_write_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), files.atomic(path) as file:  # noqa: PT012  The failure in the block is the test.
        file.write(b"new")
        raise error
    assert contents(tmp_path) == {"file": b"old"}


def test_atomic_file_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (steps.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (steps.append("rename"), replace(a, b)))
    with files.atomic(tmp_path / "file") as file:
        file.write(b"data")
    assert steps == ["fsync", "rename", "fsync"]  # The file's content, its name, the directory.


def test_exchange_swaps(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    if not files.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange names")
    assert contents(tmp_path) == {"a/file": b"b", "b/file": b"a"}


def test_exchange_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        files.exchange(tmp_path / "a", tmp_path / "gone")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("answer", ["EINVAL", "no function"])
def test_exchange_says_where_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    class Library:
        def __init__(self, *_: object, **__: object):
            if answer == "EINVAL":
                self.renameat2 = lambda *_: -1

    monkeypatch.setattr(files.ctypes, "CDLL", Library)
    monkeypatch.setattr(files.ctypes, "get_errno", lambda: files.errno.EINVAL)
    assert not files.exchange(tmp_path / "a", tmp_path / "b")


def test_lock_is_held_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.1)
    second = files.lock(tmp_path / "lock", "in use: wait")
    with files.lock(tmp_path / "lock", "in use"), pytest.raises(UserError, match=r"^in use: wait$"), second:
        pass
    with files.lock(tmp_path / "lock", "in use"):
        pass  # Free again.


def test_lock_is_waited_for(tmp_path: Path) -> None:
    """The workers of a killed run hold it a moment longer."""
    code = (
        "import pathlib, sys, time; from tfrecord_tools import files\n"
        "with files.lock(pathlib.Path(sys.argv[1]), ''): print('held', flush=True); time.sleep(0.5)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        started = time.monotonic()
        with files.lock(tmp_path / "lock", "in use"):
            assert time.monotonic() - started > 0.1


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from tfrecord_tools import files\n"
        "with files.lock(pathlib.Path(sys.argv[1]), ''): os.kill(os.getpid(), 9)"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], cwd=REPOSITORY, check=False)
    assert process.returncode == -9
    with files.lock(tmp_path / "lock", "in use"):
        pass


def test_lock_that_vanishes_while_it_is_opened_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder removes it and its directory at the end, perhaps just when another one has opened it."""
    path = tmp_path / "partial" / "lock"
    flock = files.fcntl.flock
    removed: list[Path] = []

    def remove_first(file: object, how: int) -> None:
        if not removed:
            removed.append(path)
            path.unlink()
            path.parent.rmdir()
        flock(file, how)

    monkeypatch.setattr(files.fcntl, "flock", remove_first)
    with files.lock(path, "in use"):
        assert path.exists()
    assert removed


def test_an_error_under_the_lock_comes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), files.lock(tmp_path / "lock", "in use"):
        raise FileNotFoundError("mine")
