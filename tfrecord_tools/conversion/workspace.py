"""The directory of an unfinished conversion, and the commit: the step that moves the result to `out`.

The directory is next to `out` and has its name with the ending `.partial`. `bucket_workspace` has the differences of a
conversion into a bucket.

out.partial/lock             held while a conversion runs
out.partial/survey/*.npz     facts about the source files
out.partial/beam/            jobs and results while Beam is running (see `beam_engine`)
out.partial/plan.json        digest and config of the plan that is being written
out.partial/data/            the dataset; becomes `out` in one rename
out.partial/index/*.parquet  one file per complete shard
out.partial/previous/        convert.json and records.parquet of a dataset in a bucket that is updated
out.partial/commit.json      `data` is complete. If this file exists, every run first finishes the commit

A later command reuses:
* the facts of unchanged files (`survey._reuse_saved`),
* the shards of a plan with the same digest (`start_writing`), if their part of the index exists
  (`convert._Conversion._write`),
* an unfinished commit, which it finishes (`finish_commit`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import dataset_files
from tfrecord_tools.layout.dataset_files import CONVERT_JSON, ConvertJson, partial_of

if TYPE_CHECKING:
    from tfrecord_tools.conversion.bucket_objects import BucketObjects

_LOCK = "lock"
_NAMES = files.lock_names(_LOCK) | frozenset(
    {"survey", "beam", "plan.json", "plan.json.tmp", "data", "index", "previous", "commit.json"}
    | {"commit.json.tmp", "old"}
)


@dataclasses.dataclass(frozen=True)
class Workspace:
    """The paths of the intermediate files of a conversion.

    Attributes:
        out: The dataset's final directory.
        flag: Name of the flag that chooses the place of the intermediate files.
        bucket: The objects in the bucket that the dataset is written to. None: the dataset is written to `out`.
    """

    out: Path
    flag: ClassVar[str] = "--out"

    @property
    def bucket(self) -> BucketObjects | None:
        return None

    @property
    def root(self) -> Path:
        return partial_of(self.out)

    @property
    def shown(self) -> str:
        """Name of the dataset's final place, for messages."""
        return f"{self.out}/"

    @property
    def address(self) -> str:
        """Directory or URL of the dataset's final place."""
        return str(self.out)

    @property
    def shards(self) -> str:
        """Directory or URL of the complete shards before the commit."""
        return str(self.data)

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def index(self) -> Path:
        return self.root / "index"

    @property
    def survey(self) -> Path:
        return self.root / "survey"

    @property
    def beam(self) -> Path:
        return self.root / "beam"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def commit(self) -> Path:
        return self.root / "commit.json"

    def check_free(self, overwrite: bool, source: Callable[[], object] | None = None) -> None:
        """Refuse a place for the dataset that is in use, see `check_out`."""
        check_out(self.out, overwrite, source)

    def check_apart(self, source: str) -> None:
        """Refuse a place for the dataset inside the source, or a source inside that place.

        Raises:
            UserError: One of them is inside the other.
        """
        if not files.is_url(source):
            check_apart(self.out, Path(source))

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse settings with which no conversion can succeed, before the images are inspected."""

    def check_sizes(self, shard_bytes: np.ndarray, records: int) -> None:
        """Refuse files that are too large for the place of the dataset.

        Args:
            shard_bytes: i64[shards], the sizes of the shards in bytes.
            records: The number of records.
        """

    def start_writing(self, digest: str, config: Mapping[str, Any], claim: Mapping[str, Any]) -> None:
        """Prepare to write the shards of a plan, or to continue with them.

        Args:
            digest: The plan's digest.
            config: The plan's settings.
            claim: Content of the claim in a bucket: "settings", as in `check_settings`; "versions" of this tool and
                its packages; and "identity", a text that differs between two conversions that may write different
                bytes.

        Raises:
            UserError: The workspace holds shards of another plan. The message names the settings that differ.
        """
        if self.plan.exists():
            saved = json.loads(self.plan.read_text())
            self._check_place(saved)
            if saved["digest"] != digest:
                raise UserError(f"{self.root} holds an unfinished conversion of {difference(saved['config'], config)}")
        else:
            with files.atomic(self.plan) as file:
                place = {"bucket": self.bucket.url} if self.bucket else {}
                file.write(json.dumps({"digest": digest, "config": config, **place}).encode())
        self.data.mkdir(exist_ok=True)
        self.index.mkdir(exist_ok=True)

    def _check_place(self, saved: Mapping[str, Any]) -> None:
        """Refuse the work of a conversion to another place: the complete shards are there."""
        place = saved.get("bucket")
        if place != (self.bucket and self.bucket.url):
            raise UserError(
                f"{self.root} holds an unfinished conversion into {place or 'a directory on this machine'}. Finish that"
                f" conversion first, delete {self.root}, or choose another {self.flag}."
            )

    def result(self) -> ConvertJson:
        """Return the content of `convert.json` of the dataset in its final place."""
        return dataset_files.read(self.out)

    def stored(self) -> ConvertJson | None:
        """Return `result`; None if there is no dataset."""
        return self.result() if (self.out / CONVERT_JSON).exists() else None

    def commit_data(self, request: Mapping[str, Any], claim: Mapping[str, Any]) -> None:
        """Move the complete `data` to `out`. If the move is interrupted, the next run finishes it.

        Args:
            request: The settings of this run. `finish_commit` returns them.
            claim: Used only for a bucket: the claim of this conversion, see `start_writing`.
        """
        files.sync(self.data)
        commit = {"inode": _inode(self.data), "replaces": _inode(self.out), "request": request}
        with files.atomic(self.commit) as file:
            file.write(json.dumps(commit).encode())
        self.finish_commit()

    def finish_commit(self) -> dict[str, Any] | None:
        """Finish an interrupted commit, if there is one.

        Returns:
            The `request` of that commit. None: there was no commit, or somebody has moved the result away.

        Raises:
            UserError: Another program created `out` in the meantime. It is not changed.
        """
        if not self.commit.exists():
            return None
        commit: dict[str, Any] = json.loads(self.commit.read_text())
        self._check_place(commit)
        if _inode(self.data) == commit["inode"]:
            self._move_data(commit["replaces"])
        is_done = _inode(self.out) == commit["inode"]  # False if somebody has moved the result away.
        self.clear()
        return commit["request"] if is_done else None

    def _move_data(self, replaces: int | None) -> None:
        """Move `data` to `out`. After an interruption at any step, another call finishes the move."""
        if self.out.exists() and any(self.out.iterdir()) and _inode(self.out) != replaces:
            raise UserError(
                f"{self.out} was created while the conversion was running. Move this directory to another place and run"
                " the command again."
            )
        if self.out.exists() and not files.exchange(self.data, self.out):
            os.rename(self.out, self.root / "old")
        if not self.out.exists():
            os.rename(self.data, self.out)
        files.sync(self.out.parent)

    def clear(self) -> None:
        """Remove all files except the lock. commit.json is last: while it exists, the commit can be finished."""
        for entry in sorted(self.root.iterdir(), key=lambda path: path == self.commit):
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in files.lock_names(_LOCK):
                entry.unlink()


@contextlib.contextmanager
def open_workspace(workspace: Workspace) -> Iterator[Workspace]:
    """Lock a workspace, and remove it at the end if it is empty.

    Raises:
        UserError: The workspace cannot be created, is in use, or is a directory of something else.
    """
    choose = f"Choose another {workspace.flag}."
    try:
        workspace.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{workspace.root}: cannot be created: {error.strerror}. {choose}") from error
    _check_ours(workspace.root, workspace.flag)

    def in_use() -> bool:
        return not set(os.listdir(workspace.root)) <= files.lock_names(_LOCK)

    message = (
        f"{workspace.root if workspace.bucket else workspace.out}: another conversion is writing this directory. Wait"
        f" until it ends, or choose another {workspace.flag}."
    )
    try:
        with files.lock(workspace.root / _LOCK, message, keep=in_use):
            yield workspace
    finally:
        with contextlib.suppress(OSError):  # The directory is not empty, or another process waits for the lock.
            workspace.root.rmdir()


@contextlib.contextmanager
def fresh(out: Path, check: Callable[[], None]) -> Iterator[Workspace]:
    """Open a workspace that becomes `out` when the block succeeds, and is removed when the block fails.

    Args:
        out: The directory to create.
        check: Raises UserError if `out` exists and must not be replaced.

    Raises:
        UserError: `check` raised it, or there is an unfinished conversion into `out`.
    """
    check()
    with open_workspace(Workspace(out)) as workspace:
        workspace.finish_commit()
        check()  # Again, because another process or `finish_commit` may have created `out`.
        if workspace.survey.exists():
            raise UserError(
                f"{workspace.root} holds an unfinished conversion. Run the command of that conversion again to finish"
                " it, delete this directory to discard it, or choose another --out."
            )
        workspace.clear()
        try:
            workspace.data.mkdir()
            workspace.index.mkdir()
            yield workspace
        except BaseException:
            workspace.clear()
            raise
        workspace.commit_data({}, {})


def _inode(path: Path) -> int | None:
    """Return the inode, which identifies a directory even after a rename; None if the path does not exist."""
    return path.stat().st_ino if path.exists() else None


def _check_ours(root: Path, flag: str) -> None:
    """Refuse a directory with files of another origin, because a conversion removes all files in it."""
    names = set(os.listdir(root))
    unknown = sorted(names - _NAMES if _LOCK in names else names)
    if unknown:
        raise UserError(
            f"{root}: the conversion needs this directory, but it contains {unknown[0]}, which this tool did not write."
            f" Move this file to another place, or choose another {flag}."
        )


def check_apart(out: Path, source: Path, flag: str = "--out") -> None:
    """Refuse an output directory inside the source, or a source inside the output directory.

    Raises:
        UserError: One of the directories is inside the other.
    """
    real_out, real_source = out.resolve(), source.resolve()
    if real_out == real_source or real_source in real_out.parents:
        raise UserError(
            f"{flag}={out}: is inside --src={source}, so the files of the dataset would be treated as images. Choose a"
            " directory outside --src."
        )
    if real_out in real_source.parents:
        harm = "the images would be replaced too" if flag == "--out" else "the images would be among unfinished files"
        raise UserError(f"{flag}={out}: contains --src={source}, so {harm}. Choose another {flag}.")


def check_out(out: Path, overwrite: bool, source: Callable[[], object] | None = None) -> None:
    """Refuse an output directory that exists, unless it is empty, or is a dataset and `overwrite` is true.

    Args:
        out: The directory.
        overwrite: Whether a dataset may be replaced.
        source: Called before `out` is refused. It raises UserError if the source cannot be used, so that a mistyped
            --src is reported first. None: the source is not checked.

    Raises:
        UserError: The directory is refused.
    """
    problem = _problem_with(out, overwrite)
    if problem and source:
        source()
    if problem:
        raise UserError(problem)


def _problem_with(out: Path, overwrite: bool) -> str | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not out.is_dir():
        return f"--out={out}: is a file. Choose a directory that does not exist yet."
    if not (out / CONVERT_JSON).exists():
        return f"--out={out}: exists and is not a dataset of this tool. Nothing was changed. Choose another --out."
    if not overwrite:
        return (
            f"--out={out}: the dataset exists. Pass --overwrite to replace it when the new one is complete, or choose"
            " another --out."
        )
    return None


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the part of a message that names what differs (settings or files) and what to do."""
    changes = changed_settings(old, new)
    if not changes:
        return "other files: files in --src have changed since it started. Pass --restart to start again."
    return (
        f"another command: {changes}. Run the old command again to finish that conversion, or pass --restart to"
        " discard the finished part."
    )


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the part of a message that names the settings that differ; "" if none does."""
    differing = [key for key in new if old.get(key) != json.loads(json.dumps(new[key]))]
    return ", ".join(f"{key} was {old.get(key)!r} and is {new[key]!r}" for key in differing)
