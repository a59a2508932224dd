"""The results of a comparison: a row per variant, and the differences between variants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from trainers import run_directory
from trainers.comparing.jobs import Job
from trainers.fitting.folds import Folds
from trainers.results import comparison, out_of_fold, scores
from trainers.results.comparison import Row, Variant
from trainers.results.out_of_fold import Difference, OutOfFold
from trainers.run_directory import Metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of a comparison.

    Attributes:
        rows: A row per variant, in the given order.
        differences: In cross-validation, the difference in accuracy for each pair of variants with results.
        predictions: In cross-validation, the out-of-fold predictions of each variant and seed.
    """

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...] = ()
    predictions: tuple[OutOfFold, ...] = ()


def summarize(jobs: Sequence[Job], failed: Sequence[Job], folds: Folds | None) -> Summary:
    """Read the results of finished trainings.

    Args:
        jobs: All trainings.
        failed: The trainings that ended with an error.
        folds: The folds of a cross-validation. None: there was no cross-validation.

    Raises:
        UserError: A file of results is missing or damaged.
    """
    of_variant: dict[Variant, list[Job]] = {}
    for job in jobs:
        of_variant.setdefault(job.variant, []).append(job)
    if folds is None:
        rows = []
        for variant, own in of_variant.items():
            metrics = [run_directory.read_metrics(job.run) for job in own]
            failures = sum(job in failed for job in own)
            rows.append(Row(name=variant.name, runs=tuple(filter(None, metrics)), failed=failures))
        return Summary(rows=tuple(rows))
    return _cross_validation(of_variant, failed, folds)


def _cross_validation(of_variant: Mapping[Variant, Sequence[Job]], failed: Sequence[Job], folds: Folds) -> Summary:
    rows, right, every = [], {}, []
    for variant, own in of_variant.items():
        failures, found, runs, accuracies = sum(job in failed for job in own), [], [], []
        for seed in dict.fromkeys(job.seed for job in own):
            of_seed = [job for job in own if job.seed == seed]
            metrics = [run_directory.read_metrics(job.run) for job in of_seed]
            finished: list[Metrics] = [each for each in metrics if each is not None]
            if len(finished) < len(of_seed):  # A mean over only some folds cannot be compared with other means.
                continue
            found.append(out_of_fold.gather(variant.name, seed, folds, [job.run for job in of_seed]))
            runs.append(out_of_fold.metrics(found[-1], finished))
            accuracies.append([each["accuracy"] for each in finished])
        if found:
            right[variant.name] = out_of_fold.right(found, len(folds.records))
        rows.append(
            Row(
                name=variant.name,
                runs=tuple(runs),
                failed=failures,
                folds=tuple(np.mean(accuracies, 0).tolist()) if found else (),
                effect=_effect(right[variant.name], folds) if found else 1.0,
            )
        )
        every += found
    ordered = {row.name: right[row.name] for row in comparison.best_first(rows) if row.name in right}
    differences = out_of_fold.differences(ordered, folds)
    return Summary(rows=tuple(rows), differences=tuple(differences), predictions=tuple(every))


def _effect(right: np.ndarray, folds: Folds) -> float:
    known = np.isfinite(right)
    return scores.design_effect(right[known], folds.units[known])
