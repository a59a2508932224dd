"""Train several variants with several seeds and compare the results in a table and a chart.

    python -m trainers.compare --tfrecords out/ --seeds=0,1,2 \\
        --variant='scratch --augment=none' --variant='augmented=scratch' --variant=features --variant=finetune \\
        --backbone=MobileNetV2 --backbone='MobileNet --backbone_kwargs=alpha=0.25'

Each training is a separate process with its own run directory. Running the command again skips finished trainings.
"""

from __future__ import annotations

import dataclasses
import html
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from tfrecord_tools.base import callable_module, command, files, html_frame, rules, usage, words
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from trainers import recipes, run_directory, training_options
from trainers.results import comparison, comparison_page
from trainers.results.comparison import Row, Variant


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The trainings to compare.

    Attributes:
        tfrecords: The dataset directory.
        out: Directory for the runs, the table and the chart.
        variants: Variants with distinct names.
        seeds: Each variant is trained once per seed.
    """

    tfrecords: str
    out: Path = Path("comparison")
    variants: Sequence[Variant]
    seeds: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        for seed in self.seeds:
            recipes.check_seed("seeds", seed)

    def jobs(self) -> list[Job]:
        """Return the trainings, variant by variant."""
        return [Job(self.tfrecords, self.out, variant, seed) for variant in self.variants for seed in self.seeds]


@dataclasses.dataclass(frozen=True)
class Job:
    """One training of a comparison: a variant with a seed.

    Attributes:
        tfrecords: The dataset directory.
        out: The directory of the comparison.
        variant: The variant.
        seed: The seed.
    """

    tfrecords: str
    out: Path
    variant: Variant
    seed: int

    def __str__(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.out / self.variant.run(self.seed)

    @property
    def log(self) -> Path:
        """File with the output of the training."""
        return self.out / f"{self.run.name}.log"

    @property
    def record(self) -> Path:
        """File with the trainer and its flags. It is written after the training has succeeded."""
        return self.out / f"{self.run.name}.json"

    def command(self) -> list[str]:
        """Return the command of the training."""
        return [
            sys.executable,
            "-m",
            f"trainers.{self.variant.trainer}",
            f"--tfrecords={self.tfrecords}",
            f"--run={self.run}",
            f"--seed={self.seed}",
            *([f"--features={self.out / 'features'}"] if self.variant.trainer == "features" else []),
            *self.variant.flags,
        ]

    def is_done(self) -> bool:
        """Return whether the run is finished and its file of flags exists.

        Without that file, the trainer is started again. It compares the settings, and ends at once if they are equal.
        """
        return run_directory.read_metrics(self.run) is not None and self.record.exists()


def run_all(config: CompareConfig) -> None:
    """Run the trainings that are not finished. Write and print the table, and draw the chart.

    Raises:
        UserError: A training failed, or a finished run has other flags or another dataset.
    """
    digest, jobs, out = open_dataset(config.tfrecords).digest, config.jobs(), config.out
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file, not a directory. Pass another --out.")
    for job in jobs:  # Errors in later jobs are found before hours are spent on the first.
        _check_same(job, digest)
    _check_alike(config)
    with files.lock(out / "lock", f"--out={out}: another comparison is using it. Wait until it ends."):
        failed = [job for number, job in enumerate(jobs, 1) if not _train(job, f"{number}/{len(jobs)}")]
    _check_alike(config)
    _write_results(config, failed)
    if failed:
        raise UserError(
            f"{len(failed)} of {words.number(len(jobs), 'training')} failed, see"
            f" {', '.join(str(job.log) for job in failed)}. Correct the causes and run the same command again."
        )


def _check_same(job: Job, digest: str) -> None:
    """Raise UserError if a finished run has another trainer, other flags or another dataset."""
    if not job.is_done():
        return
    begun = json.loads(job.record.read_text())
    if begun != job.variant.arguments(job.seed):
        raise UserError(
            f"{job.run}: is finished, but was trained with other flags: {' '.join(begun)}. Give the variant"
            " another NAME, or pass another --out."
        )
    trained_on = run_directory.read_settings(job.run)["dataset"]["digest"]
    if trained_on != digest:
        raise UserError(
            f"{job.run}: is finished, but was trained on another dataset (digest {trained_on[:12]}). The digest of"
            f" {job.tfrecords} is {digest[:12]}. Pass another --out."
        )


def _check_alike(config: CompareConfig) -> None:
    comparison.check_alike([job.run for job in config.jobs() if job.variant == variant] for variant in config.variants)


def _train(job: Job, position: str) -> bool:
    """Run one training unless it is finished, and return whether it succeeded."""
    if job.is_done():
        command.say(f"{position}  {job}: is finished already")
        return True
    job.out.mkdir(parents=True, exist_ok=True)
    command.say(f"{position}  {job}: ", end="")
    with open(job.log, "ab") as log:
        code = subprocess.run(job.command(), stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    metrics = run_directory.read_metrics(job.run)
    if code or metrics is None:
        command.say(f"failed with exit code {code}: {_last_error(job.log)}")
        return False
    run_directory.write_json(job.record, job.variant.arguments(job.seed))
    command.say(f"accuracy {metrics['accuracy']:.2%} in {metrics['seconds']:,.0f} s")
    return True


def _last_error(log: Path) -> str:
    """Return the last error of a training, or the last line if there is none."""
    lines = log.read_text(errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith(("error: ", "FATAL "))]
    return (errors or lines or [""])[-1]


def _rows(config: CompareConfig, failed: Sequence[Job] = ()) -> list[Row]:
    rows = []
    for variant in config.variants:
        metrics = [run_directory.read_metrics(job.run) for job in config.jobs() if job.variant == variant]
        failures = sum(job.variant == variant for job in failed)
        rows.append(Row(name=variant.name, runs=tuple(filter(None, metrics)), failed=failures))
    return rows


def _write_results(config: CompareConfig, failed: Sequence[Job]) -> None:
    """Write the table, the chart and the page, and print the table and what needs attention."""
    rows = _rows(config, failed)
    comparison.write_table(rows, config.out / comparison.TABLE)
    comparison.draw(rows, config.out / comparison.CHART)
    data = open_dataset(config.tfrecords)
    commands = [
        comparison_page.Command(
            title=str(job),
            text=shlex.join(["python", *job.command()[1:]]),
            run=job.run.name,
            finished=run_directory.read_metrics(job.run) is not None,
        )
        for job in config.jobs()
    ]
    facts = comparison_page.Facts(dataset=data.name, digest=data.digest, rows=rows, commands=commands)
    comparison_page.write(config.out, facts)
    print(comparison.table(rows))
    for line in rules.lines(comparison_page.findings(facts)):
        print(line)
    names = (comparison_page.PAGE, comparison.TABLE, comparison.CHART)
    print(f"results: {config.out}/ with {', '.join(names)} and the runs")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of a comparison. In a notebook, its last line in a cell shows its page.

    Attributes:
        path: Directory with the page, the table, the chart and the runs.
        rows: A row per variant, with the metrics of its runs.
    """

    path: Path
    rows: tuple[Row, ...]

    def _repr_html_(self) -> str:
        return html_frame.of_file(self.path / comparison_page.PAGE, html.escape(repr(self)))

    def __repr__(self) -> str:
        return f"Comparison({str(self.path)!r})\n{comparison.table(self.rows)}"


def compare(
    *,
    tfrecords: StrPath,
    out: StrPath = "comparison",
    variant: Sequence[str] = tuple(recipes.RECIPES),
    backbone: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
) -> Comparison:
    """Train several variants with several seeds and compare the results. Finished trainings are skipped.

    Each training is a separate process with its own run directory.

    Args:
        tfrecords: The dataset directory.
        out: Directory for the runs, the table and the chart.
        variant: Variants as for the command: "[NAME=]TRAINER [FLAGS]". Default: every trainer.
        backbone: Backbones as for the command: "[NAME=]BACKBONE [FLAGS]". Default: the backbone of each recipe.
        seeds: Each variant is trained once per seed.

    Raises:
        UserError: A training failed, or a finished run has other flags or another dataset.

    Example:
        trainers.compare(tfrecords="out", variant=["features", "finetune"], seeds=[0, 1, 2])
    """
    paths = files.paths(tfrecords=tfrecords, out=out)
    variants = comparison.variants(list(variant), list(backbone))
    config = CompareConfig(
        tfrecords=paths["tfrecords"], out=Path(paths["out"]), variants=variants, seeds=tuple(dict.fromkeys(seeds))
    )
    run_all(config)
    return Comparison(config.out, tuple(_rows(config)))


def define_flags() -> None:
    usage.define_path("tfrecords", None, "Directory of the dataset: the --out of tfrecord_tools.convert.")
    usage.define_path("out", "comparison", "Directory for the runs, the table and the chart.")
    flags.DEFINE_multi_string(
        "variant",
        list(recipes.RECIPES),
        "[NAME=]TRAINER [FLAGS]: a trainer to compare and its flags. Default: every trainer.",
    )
    flags.DEFINE_multi_string(
        "backbone",
        [],
        "[NAME=]BACKBONE [FLAGS]: train every variant with this backbone. Variants of scratch, and variants with their"
        " own --backbone, do not use it. Default: the backbone of each recipe.",
    )
    flags.DEFINE_list("seeds", ["0"], "Seeds, as in 0,1,2. Each variant is trained once per seed.")
    flags.DEFINE_boolean("dry_run", False, "Print the commands of the trainings without running them.")


def _seeds(values: Sequence[str]) -> list[int]:
    """Parse --seeds. A repeated seed counts once."""
    try:
        if seeds := list(dict.fromkeys(map(int, values))):
            return seeds
    except ValueError:
        pass
    raise UserError(f"--seeds={','.join(values)}: must be whole numbers, as in 0,1,2.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    values = flags.FLAGS
    if not values.tfrecords:
        raise UserError(
            "--tfrecords is missing: the dataset to train on. Pass the --out of python -m tfrecord_tools.convert."
        )
    seeds = _seeds(values.seeds)
    variants = comparison.variants(values.variant, values.backbone)
    config = CompareConfig(tfrecords=values.tfrecords, out=Path(values.out), variants=variants, seeds=seeds)
    if values.dry_run:
        open_dataset(config.tfrecords)
        for job in config.jobs():
            print(shlex.join(job.command()))
    else:
        # SystemExit also ends the running training.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        run_all(config)


callable_module.make(__name__, compare)

if __name__ == "__main__":
    define_flags()
    command.run(main, training_options.INTERRUPTED)
