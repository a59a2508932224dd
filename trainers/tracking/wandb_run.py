"""Log a training to Weights & Biases: to its servers, or to files that `wandb sync` sends later.

The environment variables of Weights & Biases choose the place, such as WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfrecord_tools.errors import UserError
from trainers.tracking.tracker import Row, Subject, Tracker

_OFFLINE = ("offline", "dryrun")
_LONGEST_NAME = 128  # Characters of the names of projects, runs and groups.
_SECONDS = 120  # Longest time that the end of a training waits for an upload.


class WandbRun(Tracker):
    """A run in Weights & Biases.

    Online, the server is asked for the last step that it has. Offline, the files are written from the beginning when
    the run is opened, so there is always one directory to send.
    """

    package = "wandb"

    def __init__(self, subject: Subject) -> None:
        import wandb

        self._directory, self._id = subject.path, subject.id
        offline = _mode() in _OFFLINE
        for path in self._offline():
            shutil.rmtree(path)
        own = wandb.setup().settings.project
        self._run = wandb.init(
            id=subject.id,
            name=subject.name[:_LONGEST_NAME],
            project=own or re.sub(r"[/\\#?%:]", "_", subject.project)[:_LONGEST_NAME],
            group=subject.group and subject.group[:_LONGEST_NAME],
            config=dict(subject.settings),
            dir=str(subject.path),
            resume=None if offline else "allow",
            reinit="create_new",  # A run that the user has opened in this process stays as it is.
            settings=wandb.Settings(silent=True, console="off", finish_timeout=_SECONDS, finish_timeout_raises=True),
        )
        self._next = max(1, self._run.starting_step)

    @staticmethod
    def check() -> None:
        import wandb

        mode = _mode()
        if mode == "disabled":
            raise UserError(
                "--log=wandb: the mode of Weights & Biases is disabled, so nothing would be logged. Set WANDB_MODE to"
                " online or offline, or remove wandb from --log."
            )
        if mode not in _OFFLINE and not wandb.login(prompt=False):
            raise UserError(
                "--log=wandb: you are not logged in to Weights & Biases. Run wandb login. Or set WANDB_MODE=offline,"
                " which writes files that wandb sync can send later."
            )

    @staticmethod
    def place() -> str:
        import wandb

        return "offline" if _mode() in _OFFLINE else str(wandb.setup().settings.base_url)

    @property
    def shown(self) -> str:
        if offline := self._offline():
            return f"wandb sync {offline[0]}"
        return str(self._run.url)

    def log(self, rows: Sequence[Row]) -> None:
        for step, row in enumerate(rows, 1):
            if step >= self._next:
                self._run.log(dict(row), step=step)
                self._next = step + 1

    def finish(self, final: Mapping[str, float], files: Sequence[Path]) -> None:
        import wandb

        self._run.summary.update(dict(final))
        artifact = wandb.Artifact(f"results-{self._id}", type="results")
        for path in files:
            # The files do not change any more. So they need not be copied.
            artifact.add_file(str(path), name=path.relative_to(self._directory).as_posix(), policy="immutable")
        self._run.log_artifact(artifact)
        self._run.finish()

    def close(self) -> None:
        self._run.finish(exit_code=1)

    def _offline(self) -> list[Path]:
        return sorted(self._directory.glob(f"wandb/offline-run-*-{self._id}*"))


def _mode() -> str:
    import wandb

    return str(wandb.setup().settings.mode)
