"""Run a comparison: the trainings of all variants, seeds and folds, or a search."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from tfrecord_tools.base import command, files, words
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Dataset, open_dataset
from trainers import backbones, recipes
from trainers.comparing import jobs, search, summary
from trainers.comparing.jobs import Job, Plan
from trainers.comparing.runner import Runner
from trainers.comparing.search import Budget, Evaluator, Round, Search, Setting
from trainers.comparing.summary import Summary
from trainers.fitting import folds
from trainers.fitting.folds import Folds
from trainers.results import comparison
from trainers.results.comparison import Variant
from trainers.tracking import logbook

LOCK = "lock"
# Flag of a trainer -> flag of a comparison that cannot be used together with it. The comparison sets the flag of the
# trainer itself, or the flag of the trainer fixes the recipe.
_WITH_FOLDS = dict.fromkeys(("records", "fold", "more_epochs"), "folds")
_WITH_SEARCH = {"more_epochs": "search"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The trainings to compare.

    Attributes:
        tfrecords: The dataset directory or its URL.
        cache_dir: As in `records.open_dataset`.
        cache_bytes: As in `records.open_dataset`.
        out: Directory for the runs and the results.
        variants: Variants with distinct names.
        seeds: Each variant is trained once per seed.
        plan: Folds for cross-validation. If None, the splits of the dataset are used.
        budget: Limits of a search for good settings of the variants. If None, each variant is trained as it is.
        trackers: Names of experiment trackers to which each training is logged.
    """

    tfrecords: str
    cache_dir: str | None = None
    cache_bytes: int | None = None
    out: Path = Path("comparison")
    variants: Sequence[Variant]
    seeds: Sequence[int] = (0,)
    plan: Plan | None = None
    budget: Budget | None = None
    trackers: Sequence[str] = ()

    def __post_init__(self) -> None:
        for seed in self.seeds:
            recipes.check_seed("seeds", seed)
        if self.budget and len(self.seeds) > 1:
            raise UserError(
                f"--seeds={','.join(map(str, self.seeds))}: a search uses one seed. Pass --seeds={self.seeds[0]}, and"
                " compare the best settings over several seeds later."
            )
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out={self.out}: is a file, not a directory. Pass another --out.")
        excluded = (_WITH_SEARCH if self.budget else {}) | (_WITH_FOLDS if self.plan else {})
        jobs.check_flags(self.variants, excluded)
        jobs.check_names(self.jobs(self.variants))
        if self.budget:
            rounds, settings = self.rounds()
            jobs.check_names(
                job for round_ in rounds for setting in settings for job in self.trainings(setting, round_)
            )

    def opened(self) -> Dataset:
        """Open the dataset."""
        return open_dataset(self.tfrecords, cache_dir=self.cache_dir, cache_bytes=self.cache_bytes)

    def job(self, variant: Variant, seed: int, fold: int = 0) -> Job:
        """Return the training of a variant with a seed, and with a fold if `fold` is not 0."""
        plan = self.plan if fold else None
        return Job(
            tfrecords=self.tfrecords,
            cache_dir=self.cache_dir,
            cache_bytes=self.cache_bytes,
            out=self.out,
            variant=variant,
            seed=seed,
            plan=plan,
            fold=fold,
            trackers=self.trackers,
        )

    def jobs(self, variants: Sequence[Variant]) -> list[Job]:
        """Return all trainings of some variants, variant by variant."""
        numbers = range(1, self.plan.count + 1) if self.plan else (0,)
        return [self.job(variant, seed, fold) for variant in variants for seed in self.seeds for fold in numbers]

    def rounds(self) -> tuple[list[Round], list[Setting]]:
        """Return the rounds of the search, and the settings that the first round tries."""
        limit = self.budget.trials if self.budget else None
        settings = search.settings(self.variants, self.seeds[0])[:limit]
        return search.ladder(len(settings), self.plan.count if self.plan else 0), settings

    def trainings(self, setting: Setting, round_: Round) -> list[Job]:
        """Return the trainings of a setting in a round of the search."""
        return search.trainings(setting, round_, lambda variant, fold: self.job(variant, self.seeds[0], fold))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The trainings of a comparison, and their results.

    Attributes:
        config: The comparison.
        data: The dataset.
        jobs: The trainings. After a search, the trainings of the last round that succeeded, the best setting first.
        failed: The trainings that ended with an error. After a search, there are none: `search` has its failures.
        summary: The results.
        notes: Sentences about classes and groups that cannot be spread evenly over the folds.
        folds: The folds of a cross-validation. None: there was no cross-validation.
        search: The result of the search. None: there was no search.
    """

    config: CompareConfig
    data: Dataset
    jobs: Sequence[Job]
    failed: Sequence[Job]
    summary: Summary
    notes: Sequence[str] = ()
    folds: Folds | None = None
    search: Search | None = None

    def check(self) -> None:
        """Raise UserError if a training failed."""
        if self.failed:
            raise UserError(
                f"{len(self.failed)} of {words.number(len(self.jobs), 'training')} failed. See"
                f" {', '.join(str(job.log) for job in self.failed)}. Correct the causes and run the same command"
                " again."
            )


def conduct(config: CompareConfig) -> Outcome:
    """Run the trainings that are not finished.

    Raises:
        UserError: A finished run has other flags, other folds or another dataset. Or the folds cannot be made, or all
            trainings of a round of a search failed.
    """
    data = config.opened()
    logbook.check(config.trackers)
    if config.plan:
        jobs.check_parents(config.variants, data)
    with (
        files.lock(
            config.out / LOCK,
            f"--out={config.out}: another comparison is using this directory. Wait until that comparison ends.",
        ),
        Runner() as runner,
    ):
        # All finished runs are checked before the first training, which may take hours.
        _check(config, config.jobs(config.variants), data.digest)
        assigned, notes = _folds(config, data)
        if config.budget:
            # A failed setting is a result and not an error: the learning rate may be too high.
            found, failed = _search(config, config.budget, runner, data.digest), list[Job]()
            every = config.jobs([trial.setting.variant for trial in found.finalists])
        else:
            found, every = None, config.jobs(config.variants)
            failed = [job for number, job in enumerate(every, 1) if not runner.train(job, f"{number}/{len(every)}")]
        _check(config, every, data.digest)
    return Outcome(
        config=config,
        data=data,
        jobs=every,
        failed=failed,
        summary=summary.summarize(every, failed, assigned),
        notes=notes,
        folds=assigned,
        search=found,
    )


def _folds(config: CompareConfig, data: Dataset) -> tuple[Folds | None, Sequence[str]]:
    """Assign the records to folds, and write the file of folds. The trainings read this file.

    Raises:
        UserError: Trainings were started with other folds. The old file is kept.
    """
    if not config.plan:
        return None, ()
    path = config.out / config.plan.file
    assigned, notes = folds.assign(data, config.plan.count, config.plan.seed, config.out / "features", command.say)
    new = path.with_name(f"{path.name}.new")
    try:
        folds.write(new, assigned, data.class_names)
        config.plan.check(config.out, backbones.sha256(new))
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    command.say(
        f"folds: {words.number(len(assigned.records), 'record')} of {assigned.records.split} are divided into"
        f" {config.plan.count} folds, as listed in {path}"
        + (". The test split is not used" if "test" in data.splits else "")
    )
    for note in notes:
        command.say(f"  note: {note}")
    return assigned, notes


def _check(config: CompareConfig, every: Sequence[Job], digest: str) -> None:
    """Raise UserError if a finished run does not fit this comparison, or the other runs of its variant."""
    for job in every:
        job.check(digest)
    runs: dict[Variant, list[Path]] = {}
    for job in every:
        runs.setdefault(job.variant, []).append(job.run)
    comparison.check_alike(runs.values())


def _search(config: CompareConfig, budget: Budget, runner: Runner, digest: str) -> Search:
    def train(job: Job, position: str) -> bool:
        job.check(digest)
        return runner.train(job, position)

    ordered = search.settings(config.variants, config.seeds[0])
    count = config.plan.count if config.plan else 0
    return search.search(ordered, count, budget, Evaluator(config.trainings, train), command.say)
