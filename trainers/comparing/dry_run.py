"""The commands of a comparison, without running them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from tfrecord_tools.base import words
from trainers.comparing import jobs
from trainers.comparing.conduct import CompareConfig


def lines(config: CompareConfig) -> Iterator[str]:
    """Yield the commands of the trainings, as typed in a shell. Nothing is written.

    The results of the first round of a search decide what the other rounds train. So only the commands of the first
    round are known. All other lines are comments of the shell.

    Raises:
        UserError: The dataset does not exist, or a model that has seen the folds would be trained with folds.
    """
    data = config.opened()
    if config.plan:
        jobs.check_parents(config.variants, data)
        path = config.out / config.plan.file
        if not path.exists():
            yield (
                f"# {path} does not exist yet. Without --dry_run, this command writes the file before the first"
                " training."
            )
    if not config.budget:
        yield from (shlex.join(job.command()) for job in config.jobs(config.variants))
        return
    (first, *others), settings = config.rounds()
    limit = ". The round stops when its time is used up" if config.budget.minutes is not None else ""
    yield f"# round 1 of {len(others) + 1}: {words.number(len(settings), 'setting')}, {first}{limit}"
    for setting in settings:
        yield from (shlex.join(job.command()) for job in config.trainings(setting, first))
    for number, round_ in enumerate(others, 2):
        yield f"# round {number} of {len(others) + 1}: the best settings of round {number - 1}, {round_}"
