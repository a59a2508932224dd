"""The directory beside `out` in which a conversion grows until it is whole, and the commit that ends it.

out.partial/lock             held while a conversion runs
out.partial/survey/*.npz     what the files hold
out.partial/beam/            jobs and results, while Beam is at work (see `beam_engine`)
out.partial/plan.json        digest and config of what is being written
out.partial/data/            becomes `out` in one rename
out.partial/index/*.parquet  one a complete shard
out.partial/commit.json      `data` is complete: the commit goes forward, whatever happens

A later command takes over: images that did not change (`survey._take_over`), the shards of a plan with the same
digest (`start_writing`), each shard whose part of the index exists (`convert._Conversion._write`), and a commit that
was begun (`finish_commit`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import CONVERT_JSON, partial_of

_LOCK = "lock"
_NAMES = files.lock_names(_LOCK) | frozenset(
    {"survey", "beam", "plan.json", "plan.json.tmp", "data", "index", "commit.json", "commit.json.tmp", "old"}
)


@dataclasses.dataclass(frozen=True)
class Workspace:
    """The paths of one conversion's intermediate state."""

    out: Path

    @property
    def root(self) -> Path:
        return partial_of(self.out)

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

    def start_writing(self, digest: str, config: Mapping[str, Any]) -> None:
        """Prepares for the shards of the plan with `digest`; continues if it is the one begun here.

        Raises:
            UserError: Shards of another plan lie here; names what differs.
        """
        if self.plan.exists():
            begun = json.loads(self.plan.read_text())
            if begun["digest"] != digest:
                raise UserError(
                    f"{self.root} holds an unfinished conversion that differs: {_difference(begun['config'], config)}"
                )
        else:
            with files.atomic(self.plan) as file:
                file.write(json.dumps({"digest": digest, "config": config}).encode())
        self.data.mkdir(exist_ok=True)
        self.index.mkdir(exist_ok=True)

    def commit_data(self, request: Mapping[str, Any]) -> None:
        """Makes the complete `data` be `out`, in a way that any later start can finish.

        Args:
            request: What was asked for; `finish_commit` returns it.
        """
        files.sync(self.data)
        begun = {"inode": _inode(self.data), "replaces": _inode(self.out), "request": request}
        with files.atomic(self.commit) as file:
            file.write(json.dumps(begun).encode())
        self.finish_commit()

    def finish_commit(self) -> dict[str, Any] | None:
        """Completes a commit that was begun, if one was; returns its request.

        Raises:
            UserError: Something else appeared at `out` meanwhile; it is not touched.
        """
        if not self.commit.exists():
            return None
        begun: dict[str, Any] = json.loads(self.commit.read_text())
        if _inode(self.data) == begun["inode"]:
            self._put_in_place(begun["replaces"])
        done = _inode(self.out) == begun["inode"]  # Else somebody moved the result away since.
        self.clear()
        return begun["request"] if done else None

    def _put_in_place(self, replaces: int | None) -> None:
        """Each step leaves a state from which this function, called again, gets to the same end."""
        if self.out.exists() and any(self.out.iterdir()) and _inode(self.out) != replaces:
            raise UserError(
                f"{self.out} appeared while it was being converted. Move it away and run the command again."
            )
        if self.out.exists() and not files.exchange(self.data, self.out):
            os.rename(self.out, self.root / "old")
        if not self.out.exists():
            os.rename(self.data, self.out)
        files.sync(self.out.parent)

    def clear(self) -> None:
        """Removes everything but the lock, the commit marker last: until then the commit can be finished."""
        for entry in sorted(self.root.iterdir(), key=lambda path: path == self.commit):
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in files.lock_names(_LOCK):
                entry.unlink()


@contextlib.contextmanager
def open_workspace(out: Path) -> Iterator[Workspace]:
    """Holds the workspace of `out` alone; removes it at the end if nothing is left in it."""
    workspace = Workspace(out)
    try:
        workspace.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{workspace.root}: cannot be created: {error.strerror}. Choose another --out.") from error
    _check_ours(workspace.root)

    def in_use() -> bool:
        return not set(os.listdir(workspace.root)) <= files.lock_names(_LOCK)

    message = f"{out}: another conversion is writing it. Wait for it, or choose another --out."
    try:
        with files.lock(workspace.root / _LOCK, message, keep=in_use):
            yield workspace
    finally:
        with contextlib.suppress(OSError):  # It is not empty, or another one has begun to wait in it.
            workspace.root.rmdir()


@contextlib.contextmanager
def fresh(out: Path, check: Callable[[], None]) -> Iterator[Workspace]:
    """A workspace for what is made in one go: it becomes `out` when the block succeeds, else nothing is left of it.

    Args:
        out: The directory to make.
        check: Raises UserError if something is there that must not be replaced.

    Raises:
        UserError: `check` did, or a conversion into `out` is unfinished.
    """
    check()
    with open_workspace(out) as workspace:
        workspace.finish_commit()
        check()  # Again: what we waited for, or finished, may be there now.
        if workspace.survey.exists():
            raise UserError(
                f"{workspace.root} holds an unfinished conversion. Repeat its command to finish it, delete that"
                " directory to give it up, or choose another --out."
            )
        workspace.clear()
        try:
            workspace.data.mkdir()
            workspace.index.mkdir()
            yield workspace
        except BaseException:
            workspace.clear()
            raise
        workspace.commit_data({})


def _inode(path: Path) -> int | None:
    """What tells a directory apart from another of the same name; None if it is not there."""
    return path.stat().st_ino if path.exists() else None


def _check_ours(root: Path) -> None:
    """Refuses a directory that only bears the name: all that is in it would be removed at the end."""
    names = set(os.listdir(root))
    foreign = sorted(names - _NAMES if _LOCK in names else names)
    if foreign:
        raise UserError(
            f"{root} is needed for the conversion, but is not of this tool: it holds {foreign[0]}."
            " Move it away, or choose another --out."
        )


def check_apart(out: Path, source: Path) -> None:
    """Refuses an output directory within the source, or the other way round.

    Raises:
        UserError: With what to do instead.
    """
    real_out, real_source = out.resolve(), source.resolve()
    if real_out == real_source or real_source in real_out.parents:
        raise UserError(
            f"--out={out} lies inside --src={source}: its files would be taken for images. Choose one outside."
        )
    if real_out in real_source.parents:
        raise UserError(f"--src={source} lies inside --out={out}, which would be replaced. Choose another --out.")


def check_out(out: Path, overwrite: bool, source: Callable[[], object] | None = None) -> None:
    """Refuses an output directory that exists, unless it is a dataset and to be overwritten.

    Args:
        out: The directory.
        overwrite: Whether a dataset may be replaced.
        source: Raises UserError if the source cannot be used, which is reported first: nobody should choose another
            --out only to read then that --src is mistyped. It is called if `out` is refused.

    Raises:
        UserError: With what to do instead.
    """
    problem = _problem_of(out, overwrite)
    if problem and source:
        source()
    if problem:
        raise UserError(problem)


def _problem_of(out: Path, overwrite: bool) -> str | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not out.is_dir():
        return f"--out={out} is a file. Choose a directory that is not there yet."
    if not (out / CONVERT_JSON).exists():
        return f"--out={out} exists and is no dataset of this tool, so it is not touched. Choose another --out."
    if not overwrite:
        return (
            f"--out={out} exists. Pass --overwrite to replace it (it stays until the new one is complete),"
            " or choose another --out."
        )
    return None


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Names the settings that differ, or says that the sources do, and the remedy."""
    differing = [key for key in new if old.get(key) != json.loads(json.dumps(new[key]))]
    if not differing:
        return "the files in --src, or what was found in them, changed meanwhile. Pass --restart to begin anew."
    changes = ", ".join(f"{key} was {old.get(key)!r} and is {new[key]!r}" for key in differing)
    return f"{changes}. Repeat that command to finish it, or pass --restart to discard it."
