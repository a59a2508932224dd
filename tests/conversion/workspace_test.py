"""Tests of the workspace: the commit can be finished after an interruption at any step."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_sources import contents

from tfrecord_tools.base import files
from tfrecord_tools.conversion.workspace import Workspace, check_apart, check_out, fresh, open_workspace
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import partial_of
from tfrecord_tools.records import open_dataset

OLD, NEW = {"convert.json": b"old"}, {"convert.json": b"new", "a.tfrecord": b"records"}
REQUEST = {"src": "/images", "seed": 0}


class Crash(BaseException):
    """Ends the work at any step. Unlike SIGKILL it can be caught, but only `atomic` catches it."""


class Steps:
    """Counts changes of the file system, and raises `Crash` before step number `last`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, exchange: bool):
        self.done = 0
        self.last: int | None = None
        for where, name in [(os, "rename"), (os, "replace"), (os, "rmdir"), (os, "unlink"), (Path, "unlink")]:
            monkeypatch.setattr(where, name, self._counted(getattr(where, name)))
        # Remove files one by one, so that a crash can happen in between.
        monkeypatch.setattr(shutil, "rmtree", self._remove)
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        swap = self._counted(files.exchange) if exchange else lambda one, other: False
        monkeypatch.setattr(files, "exchange", swap)

    def crash_before(self, step: int | None) -> None:
        self.done, self.last = 0, step

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if self.done == self.last:
                raise Crash
            self.done += 1
            return function(*args, **options)

        return counted

    def _remove(self, directory: Path) -> None:
        for entry in sorted(directory.rglob("*"), reverse=True):
            if entry.is_dir():
                os.rmdir(entry)
            else:
                os.unlink(entry)
        os.rmdir(directory)


def write(directory: Path, files_in_it: dict[str, bytes]) -> None:
    directory.mkdir(parents=True)
    for name, data in files_in_it.items():
        (directory / name).write_bytes(data)


def complete(out: Path) -> Workspace:
    """Return the workspace of a conversion that is complete but not committed."""
    workspace = Workspace(out)
    workspace.root.mkdir()
    (workspace.root / "lock").touch()
    workspace.start_writing("digest", {"seed": 0}, {})
    for name, data in NEW.items():
        (workspace.data / name).write_bytes(data)
    (workspace.index / "0000000.parquet").write_bytes(b"part")
    workspace.survey.mkdir()
    (workspace.survey / "0000001.npz").write_bytes(b"facts")
    return workspace


def commit(out: Path) -> None:
    with open_workspace(Workspace(out)) as workspace:
        workspace.commit_data(REQUEST, {})


def finish(out: Path) -> dict[str, Any] | None:
    with open_workspace(Workspace(out)) as workspace:
        return workspace.finish_commit()


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("before", [None, "dataset", "empty"])
def test_commit_ended_at_any_step_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool, before: str | None
) -> None:
    steps = Steps(monkeypatch, exchange)
    old = OLD if before == "dataset" else {}

    def run(number: int, first: int | None, second: int | None) -> tuple[bool, bool]:
        """Crash the commit before step `first`, its rerun before `second`; return whether each crashed."""
        steps.crash_before(None)
        parent = tmp_path / f"{number}"
        out = parent / "out"
        parent.mkdir()
        if before:
            write(out, old)
        workspace = complete(out)
        try:
            steps.crash_before(first)
            commit(out)
            crashed = False
        except Crash:
            crashed = True
        steps.crash_before(None)
        if crashed and not workspace.commit.exists() and workspace.data.exists():
            assert (contents(out) == old) if before else not out.exists()  # Nothing has changed yet.
            return True, False  # The conversion can be continued.
        if not out.exists():
            assert crashed
            assert not exchange or not before
            with pytest.raises(
                UserError, match=r"out: the conversion is unfinished\. Run the same convert command again"
            ):
                open_dataset(out)
        else:
            assert contents(out) in (old, NEW)
        crashed_again = False
        try:
            steps.crash_before(second)
            finish(out)
        except Crash:
            crashed_again = True
        steps.crash_before(None)
        committed = workspace.commit.exists()
        assert finish(out) == (REQUEST if committed else None)
        assert contents(out) == NEW
        assert os.listdir(parent) == ["out"]
        return crashed, crashed_again

    numbers = itertools.count()
    crashes = 0
    for first in itertools.count():
        again = True
        for second in itertools.count():
            crashed, again = run(next(numbers), first, second)
            crashes += again
            if not again:
                break
        if not crashed:
            break
    assert first >= 8  # The commit has at least 8 steps.
    assert crashes > 20


def test_marker_comes_after_the_data_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = complete(tmp_path / "out")
    seen: list[tuple[str, bool]] = []
    sync = files.sync
    monkeypatch.setattr(files, "sync", lambda path: (seen.append((path.name, workspace.commit.exists())), sync(path)))
    workspace.commit_data(REQUEST, {})
    assert seen[0] == ("data", False)
    assert (tmp_path.name, True) in seen


def test_leftovers_of_a_killed_write_are_removed(tmp_path: Path) -> None:
    workspace = complete(tmp_path / "out")
    for name in ("plan.json.tmp", "commit.json.tmp", "index/1.parquet.tmp"):
        (workspace.root / name).write_bytes(b"half")
    commit(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_without_a_commit_there_is_nothing_to_finish(tmp_path: Path) -> None:
    workspace = complete(tmp_path / "out")
    assert finish(tmp_path / "out") is None
    assert workspace.data.exists()
    assert not (tmp_path / "out").exists()


def test_new_directory_at_out_is_not_changed(tmp_path: Path) -> None:
    workspace = complete(tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "finish_commit", lambda self: write(self.out, {"precious.txt": b"mine"}))
        workspace.commit_data(REQUEST, {})
    with pytest.raises(
        UserError, match=r"out was created while the conversion was running\. Move this directory to another place"
    ):
        finish(tmp_path / "out")
    assert (tmp_path / "out/precious.txt").read_bytes() == b"mine"
    os.rename(tmp_path / "out", tmp_path / "elsewhere")
    assert finish(tmp_path / "out") == REQUEST
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == NEW


def test_moved_result_is_not_replaced_by_the_old_dataset(tmp_path: Path) -> None:
    write(tmp_path / "out", OLD)
    complete(tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "clear", lambda self: None)  # As if killed after the exchange.
        commit(tmp_path / "out")
    os.rename(tmp_path / "out", tmp_path / "elsewhere")
    assert finish(tmp_path / "out") is None
    assert os.listdir(tmp_path) == ["elsewhere"]


def test_only_an_empty_workspace_is_removed(tmp_path: Path) -> None:
    with open_workspace(Workspace(tmp_path / "new" / "out")):
        assert os.listdir(tmp_path / "new") == ["out.partial"]
    assert os.listdir(tmp_path / "new") == []
    with open_workspace(Workspace(tmp_path / "out")) as workspace:
        workspace.start_writing("digest", {}, {})
    assert sorted(os.listdir(tmp_path / "out.partial")) == ["data", "index", "lock", "plan.json"]


def test_two_conversions_at_a_time_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.1)
    with open_workspace(Workspace(tmp_path / "out")) as workspace:
        workspace.start_writing("digest", {}, {})
        message = r"out: another conversion is writing this directory\. Wait until it ends, or choose another --out\."
        with pytest.raises(UserError, match=message), open_workspace(Workspace(tmp_path / "out")):
            pass
    assert workspace.plan.exists()


@pytest.mark.parametrize("names", [["holiday.jpg"], ["data"], ["lock", "holiday.jpg", "data"]])
def test_directory_with_other_files_is_refused(tmp_path: Path, names: list[str]) -> None:
    """All files of a workspace are removed, so a directory with `data` but no lock is not one."""
    write(tmp_path / "out.partial", dict.fromkeys(names, b"precious"))
    foreign = "data" if names == ["data"] else r"holiday\.jpg"
    message = (
        rf"out\.partial: .* it contains {foreign}, which this tool did not write\."
        rf" Move this file to another place, or choose another --out"
    )
    with pytest.raises(UserError, match=message), open_workspace(Workspace(tmp_path / "out")):
        pass
    assert contents(tmp_path / "out.partial") == dict.fromkeys(names, b"precious")


def test_directory_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"file/out\.partial: cannot be created: Not a directory\. Choose another --out\."
    with pytest.raises(UserError, match=message), open_workspace(Workspace(tmp_path / "file" / "out")):
        pass


# --- Continuing ----------------------------------------------------------------------------------------------------


def test_the_same_plan_continues(tmp_path: Path) -> None:
    workspace = complete(tmp_path / "out")
    workspace.start_writing("digest", {"seed": 0}, {})
    assert contents(workspace.data) == NEW


@pytest.mark.parametrize(
    ("digest", "config", "message"),
    [
        (
            "other",
            {"seed": 1},
            "another command: seed was 0 and is 1. Run the old command again to finish that conversion, or pass"
            " --restart to discard the finished part.",
        ),
        ("other", {"seed": 0, "shards": 3}, "another command: shards was None and is 3. Run the old"),
        (
            "other",
            {"seed": 0},
            "other files: files in --src have changed since it started. Pass --restart to start again.",
        ),
    ],
)
def test_another_plan_is_refused(tmp_path: Path, digest: str, config: dict[str, Any], message: str) -> None:
    workspace = complete(tmp_path / "out")
    with pytest.raises(UserError) as caught:
        workspace.start_writing(digest, config, {})
    assert f"{workspace.root} holds an unfinished conversion of {message}" in str(caught.value)
    assert contents(workspace.data) == NEW


# --- Directories ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "source", "message"),
    [
        (
            "images/out",
            "images",
            r"--out=.*images/out: is inside --src=.*images, .* Choose a directory outside --src\.",
        ),
        ("images/a/b/out", "images", r": is inside --src"),
        ("images", "images", r": is inside --src"),  # The same directory.
        ("link/out", "images", r": is inside --src"),  # Through a link.
        ("data", "data/images", r"--out=.*data: contains --src=.*data/images, so the images would be replaced too"),
        ("images/../images/out", "images", r": is inside --src"),
    ],
)
def test_out_inside_source_or_source_inside_out_is_refused(tmp_path: Path, out: str, source: str, message: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "link").symlink_to("images")
    with pytest.raises(UserError, match=message):
        check_apart(tmp_path / out, tmp_path / source)


@pytest.mark.parametrize(("out", "source"), [("out", "images"), ("images_out", "images"), ("img", "images")])
def test_separate_directories_are_accepted(tmp_path: Path, out: str, source: str) -> None:
    check_apart(tmp_path / out, tmp_path / source)


@pytest.mark.parametrize(
    ("what", "overwrite", "message"),
    [
        ("nothing", False, None),
        ("empty", False, None),
        ("dataset", True, None),
        (
            "dataset",
            False,
            r"--out=.*out: the dataset exists\. Pass --overwrite to replace it when the new one is complete",
        ),
        (
            "photos",
            False,
            r"--out=.*out: exists and is not a dataset of this tool\. Nothing was changed\. Choose another",
        ),
        ("photos", True, r"is not a dataset of this tool"),  # --overwrite replaces only datasets.
        ("file", False, r"--out=.*out: is a file\. Choose a directory that does not exist yet\."),
        ("file", True, r"is a file"),
    ],
)
def test_existing_output_directories(tmp_path: Path, what: str, overwrite: bool, message: str | None) -> None:
    out = tmp_path / "out"
    if what == "file":
        out.write_text("")
    elif what != "nothing":
        write(out, {"empty": {}, "dataset": OLD, "photos": {"1.jpg": b""}}[what])
    if message is None:
        check_out(out, overwrite)
        return
    with pytest.raises(UserError, match=message):
        check_out(out, overwrite)


def test_partial_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert partial_of(Path("a/out")) == Path("a/out.partial")
    assert partial_of(Path()) == tmp_path.with_name(tmp_path.name + ".partial")  # The path is ".".
    assert partial_of(Path("..")) == tmp_path.parent.with_name(tmp_path.parent.name + ".partial")


def test_workspace_is_beside_out() -> None:
    workspace = Workspace(Path("x/out"))
    for path in (workspace.data, workspace.index, workspace.survey, workspace.plan, workspace.commit):
        assert path.parent == Path("x/out.partial")


# --- Fresh output ----------------------------------------------------------------------------------------------------


def test_fresh_output_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with fresh(out, lambda: None) as workspace:
        (workspace.data / "a").write_bytes(b"1")
        assert not out.exists()
    assert contents(tmp_path) == {"out/a": b"1"}


def test_failed_fresh_output_keeps_the_old_directory(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/convert.json").write_bytes(b"old")

    def fail() -> None:
        with fresh(tmp_path / "out", lambda: None) as workspace:
            (workspace.data / "a").write_bytes(b"1")
            raise Crash

    with pytest.raises(Crash):
        fail()
    assert contents(tmp_path) == {"out/convert.json": b"old"}


def test_fresh_output_after_a_kill(tmp_path: Path) -> None:
    """Files of the killed process are not reused, because it is unknown how complete they are."""
    left = partial_of(tmp_path / "out")
    for name in ("lock", "data/a", "index/0000000.parquet"):
        (left / name).parent.mkdir(parents=True, exist_ok=True)
        (left / name).write_bytes(b"half")
    with fresh(tmp_path / "out", lambda: None) as workspace:
        assert list(workspace.data.iterdir()) == list(workspace.index.iterdir()) == []
        (workspace.data / "b").write_bytes(b"2")
    assert contents(tmp_path) == {"out/b": b"2"}


def test_fresh_output_is_refused_during_a_conversion(tmp_path: Path) -> None:
    with open_workspace(Workspace(tmp_path / "out")) as workspace:
        workspace.survey.mkdir()
        (workspace.survey / "0.npz").write_bytes(b"hours of work")
    with pytest.raises(
        UserError,
        match=r"out\.partial holds an unfinished conversion\. Run the command of that conversion again to finish it",
    ):
        fresh(tmp_path / "out", lambda: None).__enter__()
    assert (tmp_path / "out.partial/survey/0.npz").exists()


def test_fresh_output_is_checked_again_after_waiting(tmp_path: Path) -> None:
    checks: list[int] = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 2:
            raise UserError("it is there now")

    with pytest.raises(UserError, match="it is there now"):
        fresh(tmp_path / "out", check).__enter__()
    assert list(tmp_path.iterdir()) == []
