"""Describe the trainings of a comparison: commands, run directories, and whether they are finished."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.base import options
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Dataset
from trainers import backbones, run_directory, training_options
from trainers.models import model_file
from trainers.recipes import Recipe
from trainers.results.comparison import Variant
from trainers.tracking import logbook

_MOST_BYTES = 255  # Usual file systems allow no longer file names.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The number of folds of a comparison, and their seed.

    Attributes:
        count: Number of folds.
        seed: Seed of the folds.
    """

    count: int
    seed: int = 0

    @property
    def file(self) -> str:
        """Name of the file that lists the folds."""
        return f"folds{self.count}{self._seed}.csv"

    def run(self, fold: int) -> str:
        """Return the end of the name of the run directory of a fold."""
        return f"-fold{fold}of{self.count}{self._seed}"

    def check(self, out: Path, sha256: str) -> None:
        """Check that all trainings in a directory have the same folds.

        Args:
            out: The directory of the comparison.
            sha256: Hash of the file that lists the folds.

        Raises:
            UserError: A training was started with other folds.
        """
        for path in sorted(out.glob(f"*-fold*of{self.count}{self._seed}/{run_directory.SETTINGS}")):
            if run_directory.read_settings(path.parent).get("flags", {}).get("records_sha256") != sha256:
                raise UserError(
                    f"{path.parent}: this run was started with other folds than the folds that this command has made"
                    f" for {out / self.file}. Results of different folds cannot be compared. Pass another --out."
                )

    @property
    def _seed(self) -> str:
        return f"-foldseed{self.seed}" if self.seed else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One training of a comparison: a variant with a seed and, in cross-validation, a fold.

    Attributes:
        tfrecords: The dataset directory or its URL.
        cache_dir: As in `records.open_dataset`, if the variant does not choose it itself.
        cache_bytes: As in `records.open_dataset`, if the variant does not choose it itself.
        out: The directory of the comparison.
        variant: The variant.
        seed: The seed.
        plan: The folds. If None, the splits of the dataset are used.
        fold: Number of the fold to validate on, from 1. Only with `plan`.
        trackers: Names of experiment trackers, if the variant does not choose trackers itself.
    """

    tfrecords: str
    cache_dir: str | None = None
    cache_bytes: int | None = None
    out: Path
    variant: Variant
    seed: int
    plan: Plan | None = None
    fold: int = 0
    trackers: Sequence[str] = ()

    def __str__(self) -> str:
        fold = f", fold {self.fold} of {self.plan.count}" if self.plan else ""
        return f"{self.variant.name}, seed {self.seed}{fold}"

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.out / f"{self.variant.run(self.seed)}{self.plan.run(self.fold) if self.plan else ''}"

    @property
    def log(self) -> Path:
        """File with the output of the training."""
        return self.out / f"{self.run.name}.log"

    @property
    def record(self) -> Path:
        """File with the trainer, its flags and the duration. It is written after the training has succeeded."""
        return self.out / f"{self.run.name}.json"

    def flags(self) -> list[str]:
        """Return the flags of the training."""
        return [
            f"--tfrecords={self.tfrecords}",
            *([f"--cache_dir={self.cache_dir}"] if self.cache_dir else []),
            *([f"--cache_bytes={self.cache_bytes}"] if self.cache_bytes is not None else []),
            f"--run={self.run}",
            f"--seed={self.seed}",
            *([f"--records={self.out / self.plan.file}", f"--fold={self.fold}"] if self.plan else []),
            *([f"--features={self.out / 'features'}"] if self.variant.trainer == "features" else []),
            *self._log(),
            *self.variant.flags,
        ]

    def _log(self) -> list[str]:
        """Return the flags for the trackers. All runs of a comparison belong to one group."""
        if not self._trackers():
            return []
        log = [f"--log={','.join(self.trackers)}"] if self.trackers else []
        return [*log, f"--log_group={self.out.absolute().name}"]

    def _trackers(self) -> list[str]:
        """Return the names of the trackers: those of the variant, or else those of the comparison."""
        own = values_of(self.variant)
        return [*own.get("log", self.trackers), *(["tensorboard"] if own.get("tensorboard") else [])]

    def command(self) -> list[str]:
        """Return the command of the training."""
        return [sys.executable, "-m", f"trainers.{self.variant.trainer}", *self.flags()]

    def arguments(self) -> list[str]:
        """Return the trainer and the flags that decide the result. They are stored in the record."""
        return [*self.variant.arguments(self.seed), *([f"--fold={self.fold}"] if self.plan else [])]

    def is_done(self) -> bool:
        """Return whether the run is finished and its record exists.

        If the record does not exist, the trainer is started again. It ends at once if the settings are the same.
        """
        return run_directory.read_metrics(self.run) is not None and self.record.exists()

    def is_logged(self) -> bool:
        """Return whether the trackers of this training have all of it."""
        return logbook.is_complete(self.run, self._trackers())

    def seconds(self) -> float:
        """Return the duration of a finished training in seconds, with the start of its process and its report."""
        metrics = run_directory.read_metrics(self.run) or {}
        return float(_read(self.record).get("seconds", metrics.get("seconds", 0.0)))

    def finish(self, seconds: float) -> None:
        """Write the record."""
        run_directory.write_json(self.record, {"arguments": self.arguments(), "seconds": round(seconds, 1)})

    def check(self, digest: str) -> None:
        """Check that a finished run belongs to this comparison. Unfinished runs are not checked.

        Args:
            digest: Digest of the dataset.

        Raises:
            UserError: The run has another trainer, other flags or another dataset.
        """
        if not self.is_done():
            return
        begun = _read(self.record)["arguments"]
        if begun != self.arguments():
            raise UserError(
                f"{self.run}: is finished, but this run was trained with other flags. They were: {' '.join(begun)}."
                " Pass another NAME in --variant=NAME=TRAINER, or pass another --out."
            )
        trained_on = run_directory.read_settings(self.run)["dataset"]["digest"]
        if trained_on != digest:
            raise UserError(
                f"{self.run}: is finished, but this run was trained on another dataset. The checksum of that dataset"
                f" starts with {trained_on[:12]}, and the checksum of {self.tfrecords} starts with {digest[:12]}."
                " Pass another --out."
            )


def check_flags(variants: Sequence[Variant], excluded: Mapping[str, str]) -> None:
    """Check the flags of variants before the first training.

    Args:
        variants: The variants.
        excluded: Name of a flag that variants must not have -> the flag of this comparison that forbids it.

    Raises:
        UserError: A trainer does not have a flag, a value has the wrong type, or a flag is not allowed
            in this comparison.
    """
    for variant in variants:
        given = values_of(variant)
        wrong = next((name for name in excluded if name in given), None)
        if wrong:
            raise UserError(
                f"--variant={variant.name}: --{wrong} cannot be used together with --{excluded[wrong]}. Remove one of"
                " the two flags."
            )


def check_names(every: Iterable[Job]) -> None:
    """Raise UserError if the name of a variant is too long for the names of its files."""
    for job in every:
        size = len(os.fsencode(f"{job.record.name}.tmp"))  # The longest name of a file, while it is written.
        if size > _MOST_BYTES:
            raise UserError(
                f"--variant={job.variant.name}: this name is too long. The longest name of a file would have {size}"
                f" bytes, and at most {_MOST_BYTES} are allowed. Pass a shorter NAME:"
                f" --variant='NAME={job.variant.trainer} FLAGS' or --backbone='NAME=BACKBONE FLAGS'."
            )


def check_parents(variants: Sequence[Variant], data: Dataset) -> None:
    """Check that no variant starts from a model that has seen the images of the folds.

    Raises:
        UserError: A variant starts from a model that was trained on this dataset, or from one that does not exist.
    """
    for variant in variants:
        values = values_of(variant)
        path = _model(variant, values)
        if path and model_file.read_info(path).dataset_digest == data.digest:
            raise UserError(
                f"--variant={variant.name}: the variant starts from"
                f" {values.get('init_from', values.get('backbone'))}, which was trained on this dataset. That model"
                " has already seen the images of the folds, so the accuracy would be too high. Start from another"
                " run, or compare without --folds."
            )


def _model(variant: Variant, values: Mapping[str, Any]) -> Path | None:
    """Return the file of the trained model with which a training starts.

    It is None if the training does not start from a model that a trainer has written.

    Raises:
        UserError: There is no such file, or a value is not allowed.
    """
    if "init_from" in values:
        return model_file.find(values["init_from"], "init_from")
    if not backbones.is_file(values.get("backbone", "")):
        return None
    if recipe_of(variant, values).model.weights != backbones.OWN:  # The weights in the file are not used.
        return None
    path = backbones.file_of(values["backbone"])
    return path if model_file.is_described(path) else None  # Other programs do not write on what they have trained.


def values_of(variant: Variant) -> dict[str, Any]:
    """Return the values of the flags of a variant.

    Raises:
        UserError: The trainer does not have a flag, or a value has the wrong type.
    """
    try:
        return options.parsed(training_options.OPTIONS[variant.trainer], variant.flags, f"trainers.{variant.trainer}")
    except UserError as error:
        raise UserError(f"--variant={variant.name}: {error}") from error


def recipe_of(variant: Variant, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a variant with some values of its flags.

    Raises:
        UserError: A value is not allowed.
    """
    try:
        return training_options.recipe(variant.trainer, values)
    except UserError as error:
        raise UserError(f"--variant={variant.name}: {error}") from error


def _read(record: Path) -> dict[str, Any]:
    """Read a record. Records of earlier versions are lists of arguments."""
    stored = json.loads(record.read_text())
    return {"arguments": stored} if isinstance(stored, list) else dict(stored)
