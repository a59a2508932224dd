"""Write the files of a comparison, and make the lines that the command prints at its end."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from tfrecord_tools.base import rules, tabular, words
from trainers import run_directory
from trainers.comparing.conduct import Outcome
from trainers.comparing.jobs import Job
from trainers.results import comparison, comparison_page, out_of_fold
from trainers.results.comparison_page import Facts

JSON, SEARCH = "comparison.json", "search.csv"


def write(outcome: Outcome) -> Iterator[str]:
    """Write the page, the chart and the tables, and yield lines for the user."""
    out, summary, facts = outcome.config.out, outcome.summary, _facts(outcome)
    names = [comparison_page.PAGE, comparison.TABLE, comparison.CHART, JSON]
    comparison.write_table(summary.rows, out / comparison.TABLE)
    comparison.draw(summary.rows, out / comparison.CHART)
    comparison_page.write(out, facts)
    run_directory.write_json(out / JSON, _json(outcome, facts))
    if outcome.folds:
        out_of_fold.write(out / out_of_fold.FILE, summary.predictions, outcome.folds)
        names += [out_of_fold.FILE] if summary.predictions else []
    if facts.trials:
        tabular.write_csv(out / SEARCH, list(facts.trials[0]), facts.trials)
        names.append(SEARCH)
    yield comparison.table(summary.rows)
    yield from _differences(outcome)
    yield from rules.lines(comparison_page.findings(facts))
    yield f"results: {out}/ with {', '.join(names)} and the runs"
    yield from _final(outcome, facts)


def command_text(job: Job) -> str:
    """Return the command of a training as text for a shell."""
    return shlex.join(["python", *job.command()[1:]])


def _differences(outcome: Outcome) -> Iterator[str]:
    """Yield a line for each other variant: the difference in accuracy between the best variant and it."""
    rows = comparison.best_first(outcome.summary.rows)
    yield from (str(each) for each in outcome.summary.differences if each.first == rows[0].name)


def _facts(outcome: Outcome) -> Facts:
    config, search = outcome.config, outcome.search
    commands = [
        comparison_page.Command(
            title=str(job),
            text=command_text(job),
            run=job.run.name,
            finished=run_directory.read_metrics(job.run) is not None,
        )
        for job in outcome.jobs
    ]
    return Facts(
        dataset=outcome.data.name,
        digest=outcome.data.digest,
        rows=outcome.summary.rows,
        commands=commands,
        folds=config.plan.count if config.plan else 0,
        differences=outcome.summary.differences,
        notes=outcome.notes,
        trials=[trial.as_dict() for trial in search.trials] if search else (),
        settings=len({trial.setting.origin for trial in search.trials}) if search else 0,
        final=final_commands(outcome),
    )


def final_commands(outcome: Outcome) -> list[str]:
    """Return the command that trains the best setting, and the command that evaluates its model.

    The second command uses the test split. If the dataset has none, this command is left out. Without a search, the
    list is empty.
    """
    if not outcome.search:
        return []
    config = outcome.config
    final = config.job(outcome.search.finalists[0].setting.variant, config.seeds[0])
    judge = ["python", "-m", "trainers.evaluate", f"--run={final.run}", f"--tfrecords={config.tfrecords}"]
    return [command_text(final), *([shlex.join([*judge, "--split=test"])] if outcome.data.splits.get("test") else [])]


def _final(outcome: Outcome, facts: Facts) -> Iterator[str]:
    """Yield the best setting of a search, and the commands to train and to evaluate it."""
    if not outcome.search:
        return
    best = outcome.search.finalists[0]
    tried = words.number(facts.settings, "setting")
    yield (
        f"best of {tried}: {best.setting.variant.name}, accuracy {best.accuracy:.2%}, found in"
        f" {outcome.search.seconds / 60:,.1f} minutes of training"
    )
    train, *evaluate = facts.final
    trained = "" if outcome.folds else " (the model is trained already)"
    yield f"to train this setting{trained}:\n    {train}"
    if evaluate:
        yield f"to evaluate the model on the test split, which was not used to choose the setting:\n    {evaluate[0]}"
    else:
        yield (
            "The dataset has no test split, so the accuracy cannot be measured on images that the search has not"
            " used. Run python -m tfrecord_tools.convert again with --test_fraction=0.2, and search on the new"
            " dataset."
        )


def _json(outcome: Outcome, facts: Facts) -> dict[str, Any]:
    """Return the content of comparison.json."""
    config = outcome.config
    of_folds: Mapping[str, Any] = {}
    if config.plan:
        of_folds = {"folds": config.plan.count, "fold_seed": config.plan.seed, "notes": list(outcome.notes)}
    return {
        "dataset": facts.dataset,
        "digest": facts.digest,
        "seeds": list(config.seeds),
        **of_folds,
        "variants": [row.as_dict() | {"runs": list(row.runs)} for row in facts.rows],
        **({"differences": [each.as_dict() for each in facts.differences]} if config.plan else {}),
        **({"search": list(facts.trials), "commands": list(facts.final)} if outcome.search else {}),
    }
