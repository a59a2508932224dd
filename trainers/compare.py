"""Train several variants with several seeds and compare the results in a table and a chart.

    python -m trainers.compare --tfrecords=out/ --seeds=0,1,2 \\
        --variant='scratch --augment=none' --variant='augmented=scratch' --variant=features --variant=finetune \\
        --backbone=MobileNetV2 --backbone='MobileNet --backbone_kwargs=alpha=0.25'
    python -m trainers.compare --tfrecords=out/ --folds=5 --variant=features --variant=finetune
    python -m trainers.compare --tfrecords=out/ --search=minutes=20

Each training has its own run directory. Running the command again skips finished trainings.
"""

from __future__ import annotations

import dataclasses
import html
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from tfrecord_tools.base import cache_options, callable_module, command, files, html_frame, options, usage
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.base.options import Option
from tfrecord_tools.errors import UserError
from trainers import recipes, training_options
from trainers.comparing import dry_run, output
from trainers.comparing import search as searching
from trainers.comparing.conduct import CompareConfig, conduct
from trainers.comparing.jobs import Plan
from trainers.fitting.folds import FEWEST
from trainers.results import comparison, comparison_page
from trainers.results.comparison import Row
from trainers.results.out_of_fold import Difference
from trainers.tracking.logbook import TRACKERS

OPTIONS = (
    *cache_options.OPTIONS,
    Option(
        "variant",
        "texts",
        "[NAME=]TRAINER [FLAGS]: a trainer to compare, with its flags, for example 'small=scratch --image_size=64'."
        " NAME is shown in the results. Default: every trainer.",
        default=list(recipes.RECIPES),
        example="features or 'small=scratch --image_size=64'",
    ),
    Option(
        "backbone",
        "texts",
        "[NAME=]BACKBONE [FLAGS]: a network with which every variant is trained, except variants of scratch and"
        " variants that already have the flag --backbone. Default: each trainer uses its default backbone.",
        default=[],
        example="MobileNetV2",
    ),
    Option(
        "seeds",
        "integers",
        "Seeds of the trainings, as in 0,1,2. Each variant is trained once per seed.",
        default=["0"],
        example="0,1,2",
    ),
    Option(
        "folds",
        "integer",
        "Number of parts (folds) of a cross-validation. The images of the train and validation splits are divided into"
        " the folds. For each fold and each seed, a variant is trained on all other folds and validated on this fold."
        " Default: no cross-validation.",
    ),
    Option(
        "fold_seed",
        "integer",
        "Seed of the random numbers that divide the images into folds. Another seed gives other folds. Needs --folds.",
        default=0,
    ),
    Option(
        "log",
        "names",
        "Experiment trackers to which each training is logged as a run of its own: tensorboard, mlflow, wandb (Weights"
        " & Biases), or several, as in mlflow,wandb. The runs belong to a group with the name of --out. Default: no"
        " tracker.",
        default=[],
        choices=tuple(TRACKERS),
    ),
    Option(
        "search",
        "arguments",
        "Search for a good learning rate and augmentation for each variant. minutes=20: all trainings together take"
        " about 20 minutes at most. trials=20: at most 20 combinations of variant, learning rate and augmentation are"
        " tried. Default: no search.",
        example="minutes=20",
    ),
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of a comparison. If it is the last line of a cell in a notebook, its page is shown.

    Attributes:
        path: Directory with the page, the tables, the chart and the runs.
        rows: A row per variant, with its metrics. After a search, a row per setting of the last round, the best first.
        differences: In cross-validation, the difference in accuracy for each pair of variants, with its interval.
        trials: After a search, all trials: the rows of search.csv.
        command: After a search, the command that trains the best setting.
    """

    path: Path
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...] = ()
    trials: tuple[Mapping[str, Any], ...] = ()
    command: str | None = None

    def __fspath__(self) -> str:
        """Return the directory. So functions that take a path also take this result."""
        return str(self.path)

    def _repr_html_(self) -> str:
        return html_frame.of_file(self.path / comparison_page.PAGE, html.escape(repr(self)))

    def __repr__(self) -> str:
        lines = [f"Comparison({str(self.path)!r})", comparison.table(self.rows), *map(str, self.differences)]
        return "\n".join([*lines, *([f"best setting: {self.command}"] if self.command else [])])


def compare(
    *,
    tfrecords: StrPath,
    cache_dir: StrPath | None = None,
    cache_bytes: int | None = None,
    out: StrPath = "comparison",
    variant: str | Sequence[str] = tuple(recipes.RECIPES),
    backbone: str | Sequence[str] = (),
    seeds: int | str | Sequence[int] = (0,),
    folds: int | None = None,
    fold_seed: int | None = None,
    search: str | Mapping[str, float] | None = None,
    log: str | Sequence[str] = (),
) -> Comparison:
    """Train several variants with several seeds and compare the results. Finished trainings are skipped.

    The trainings run in another process, one after the other. Each has its own run directory.

    Args:
        tfrecords: The dataset directory, or its URL in a bucket, such as "s3://bucket/pets".
        cache_dir: As in `records.open_dataset`. All trainings use it.
        cache_bytes: As in `records.open_dataset`. All trainings use it.
        out: Directory for the runs, the tables and the chart.
        variant: Variants as for the command: "[NAME=]TRAINER [FLAGS]". Default: every trainer.
        backbone: Backbones as for the command: "[NAME=]BACKBONE [FLAGS]". Default: the backbone of each trainer's
            recipe.
        seeds: Seeds of the trainings. Each variant is trained once per seed.
        folds: Number of folds of a cross-validation over the train and validation splits. If None, each variant is
            trained on the train split and evaluated on the validation split.
        fold_seed: Seed of the folds. If None, 0.
        search: The limits of a search for a good learning rate and augmentation for the variants: "minutes=20",
            "trials=20" or both. If None, the variants are trained as they are.
        log: Names of experiment trackers: "tensorboard", "mlflow", "wandb". Each training is a run of its own, in a
            group with the name of `out`.

    Raises:
        UserError: A training failed, or a finished run has other flags or another dataset.

    Example:
        trainers.compare(tfrecords="out", variant=["features", "finetune"], folds=5).differences
    """
    given: dict[str, Any] = {"variant": variant, "backbone": backbone, "seeds": seeds}
    given |= {"cache_dir": cache_dir, "cache_bytes": cache_bytes}
    given |= {"folds": folds, "fold_seed": fold_seed, "search": search, "log": log}
    paths = files.paths(tfrecords=tfrecords, out=out)
    return _compare(_config(paths["tfrecords"], paths["out"], given))


def _config(tfrecords: str, out: str, given: Mapping[str, Any]) -> CompareConfig:
    files.check_local("out", out)
    default: dict[str, Any] = {"variant": list(recipes.RECIPES), "backbone": [], "seeds": [0]}
    values = default | options.checked(OPTIONS, given)
    if not values["variant"]:
        raise UserError("--variant=: has no value. Pass a trainer, such as --variant=features, or leave it out.")
    if not values["seeds"]:
        raise UserError("--seeds=: has no value. Pass whole numbers, such as --seeds=0,1,2.")
    return CompareConfig(
        tfrecords=tfrecords,
        cache_dir=values.get("cache_dir"),
        cache_bytes=values.get("cache_bytes"),
        out=Path(out),
        variants=comparison.variants(values["variant"], values["backbone"]),
        trackers=tuple(dict.fromkeys(values.get("log", ()))),
        seeds=tuple(dict.fromkeys(values["seeds"])),
        plan=_plan(values.get("folds"), values.get("fold_seed")),
        budget=searching.budget(values["search"]) if "search" in values else None,
    )


def _plan(folds: int | None, seed: int | None) -> Plan | None:
    if folds is None:
        if seed is not None:
            raise UserError(f"--fold_seed={seed}: only --folds uses it. Add --folds=5, or remove --fold_seed.")
        return None
    if folds < FEWEST:
        raise UserError(f"--folds={folds}: must be at least {FEWEST}. Five folds are usual.")
    recipes.check_seed("fold_seed", seed or 0)
    return Plan(count=folds, seed=seed or 0)


def _compare(config: CompareConfig) -> Comparison:
    """Run the trainings that are not finished, print the results and write them."""
    outcome = conduct(config)
    for line in output.write(outcome):
        command.say(line)
    outcome.check()
    return Comparison(
        path=config.out,
        rows=outcome.summary.rows,
        differences=outcome.summary.differences,
        trials=tuple(trial.as_dict() for trial in outcome.search.trials) if outcome.search else (),
        command=next(iter(output.final_commands(outcome)), None),
    )


def define_flags() -> None:
    usage.define_path(
        "tfrecords",
        None,
        "Directory of the dataset, as written by tfrecord_tools.convert, or its URL in a bucket, such as"
        " s3://bucket/pets.",
    )
    usage.define_path("out", "comparison", "Directory for the runs, the table and the chart.")
    flags.DEFINE_boolean(
        "dry_run",
        False,
        "Print the commands of the trainings, but do not run the commands. With --search, only the commands of the"
        " first round are printed.",
    )
    options.define(OPTIONS)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    values = flags.FLAGS
    if not values.tfrecords:
        raise UserError(
            "--tfrecords is missing. Pass the directory of the dataset, as written by python -m tfrecord_tools.convert."
        )
    config = _config(values.tfrecords, values.out, options.from_flags(OPTIONS))
    if values.dry_run:
        for line in dry_run.lines(config):
            print(line)
    else:
        # Raises SystemExit, which also ends the training that is running.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        _compare(config)


callable_module.make(__name__, compare)

if __name__ == "__main__":
    define_flags()
    command.run(main, training_options.INTERRUPTED)
