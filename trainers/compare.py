"""Trains several variants with several seeds on one dataset, and shows side by side what came out.

    python -m trainers.compare --tfrecords out/ --seeds=0,1,2 \\
        --variant='scratch --augment=none' --variant='augmented=scratch' --variant=features --variant=finetune \\
        --backbone=MobileNetV2 --backbone='MobileNet --backbone_kwargs=alpha=0.25'

Each training is a process and a run directory of its own; the same command continues, and runs nothing twice.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from tfrecord_tools.base import command, files, usage, words
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import open_dataset
from trainers import recipes, run_directory, training_flags
from trainers.results import comparison
from trainers.results.comparison import Row, Variant

FLAGS = flags.FLAGS


def define_flags() -> None:
    usage.define_path("tfrecords", None, "The dataset directory, as tfrecord_tools.convert wrote it.")
    usage.define_path("out", "comparison", "Where the runs, the table and the chart go.")
    flags.DEFINE_multi_string(
        "variant", list(recipes.RECIPES), "[NAME=]TRAINER [FLAGS]; may be repeated; by default one of each trainer."
    )
    flags.DEFINE_multi_string("backbone", [], "[NAME=]BACKBONE [FLAGS]; may be repeated: variants are trained on each.")
    flags.DEFINE_list("seeds", ["0"], "Each variant is trained once with each of them.")
    flags.DEFINE_boolean("dry_run", False, "Print the commands and stop.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    if not FLAGS.tfrecords:
        raise UserError("--tfrecords is missing: the dataset to train on.")
    try:
        seeds = list(dict.fromkeys(int(seed) for seed in FLAGS.seeds))
        if not seeds:
            raise ValueError
    except ValueError:
        raise UserError(f"--seeds={','.join(FLAGS.seeds)}: whole numbers, as in 0,1,2, are expected.") from None
    for seed in seeds:
        recipes.check_seed("seeds", seed)
    chosen = comparison.variants(FLAGS.variant, FLAGS.backbone)
    digest = open_dataset(FLAGS.tfrecords).digest
    out = Path(FLAGS.out)
    jobs = [(variant, seed) for variant in chosen for seed in seeds]
    if FLAGS.dry_run:
        for variant, seed in jobs:
            print(shlex.join(_command(variant, seed, out)))
        return
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: a file, not a directory. Pass another --out.")
    runs = {variant: [out / variant.run(seed) for seed in seeds] for variant in chosen}
    for variant, seed in jobs:  # Before hours are spent on those in front of it.
        _check_same(variant, seed, out, digest)
    comparison.check_alike(runs.values())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # It ends the training that runs, too.
    with files.lock(out / "lock", f"--out={out}: another comparison is at work in it. Wait for it."):
        failed = [job for number, job in enumerate(jobs, 1) if not _train(*job, out, f"{number}/{len(jobs)}")]
    comparison.check_alike(runs.values())
    rows = [
        Row(
            name=variant.name,
            runs=tuple(filter(None, map(comparison.results, paths))),
            failed=sum(variant == one for one, _ in failed),
        )
        for variant, paths in runs.items()
    ]
    comparison.write_table(rows, out / comparison.TABLE)
    comparison.draw(rows, out / comparison.CHART)
    print(comparison.table(rows))
    print(f"results: {out}/ with {comparison.TABLE}, {comparison.CHART} and the runs")
    if failed:
        logs = ", ".join(str(out / f"{variant.run(seed)}.log") for variant, seed in failed)
        raise UserError(
            f"{len(failed)} of {words.number(len(jobs), 'training')} failed, see {logs}. Where no flag is wrong, the"
            f" same command tries"
            " them again."
        )


def _command(variant: Variant, seed: int, out: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        f"trainers.{variant.trainer}",
        f"--tfrecords={FLAGS.tfrecords}",
        f"--run={out / variant.run(seed)}",
        f"--seed={seed}",
        *([f"--features={out / 'features'}"] if variant.trainer == "features" else []),
        *variant.flags,
    ]


def _told(variant: Variant, seed: int, out: Path) -> Path:
    """The file that says what a run that this command has seen end trained."""
    return out / f"{variant.run(seed)}.json"


def _is_done(variant: Variant, seed: int, out: Path) -> bool:
    """Whether a run is finished and was seen to end; if not, its trainer is asked, which knows its own settings."""
    return comparison.results(out / variant.run(seed)) is not None and _told(variant, seed, out).exists()


def _check_same(variant: Variant, seed: int, out: Path, digest: str) -> None:
    """Raises UserError if a finished run, which would not be trained again, is of another trainer, flags or data."""
    if not _is_done(variant, seed, out):
        return
    run, told = out / variant.run(seed), _told(variant, seed, out)
    begun = json.loads(told.read_text())
    if begun != variant.told(seed):
        raise UserError(
            f"{run}: finished with other flags: {' '.join(begun)}. Give the variant another NAME, or pass another"
            " --out."
        )
    of = run_directory.read_settings(run)["dataset"]["digest"]
    if of != digest:
        raise UserError(
            f"{run}: finished on another dataset, of digest {of[:12]}; {FLAGS.tfrecords} is {digest[:12]} now. Pass"
            " another --out."
        )


def _train(variant: Variant, seed: int, out: Path, which: str) -> bool:
    """Runs one training, unless it is finished; what it prints goes into a log beside its run directory."""
    if _is_done(variant, seed, out):
        print(f"{which}  {variant.name}, seed {seed}: finished before", flush=True)
        return True
    out.mkdir(parents=True, exist_ok=True)
    print(f"{which}  {variant.name}, seed {seed}: ", end="", flush=True)
    with open(out / f"{variant.run(seed)}.log", "ab") as log:
        code = subprocess.run(
            _command(variant, seed, out), stdout=log, stderr=subprocess.STDOUT, check=False
        ).returncode
    metrics = comparison.results(out / variant.run(seed))
    if code or metrics is None:
        print(f"failed with exit code {code}: {_last_error(out / f'{variant.run(seed)}.log')}", flush=True)
        return False
    run_directory.write_json(_told(variant, seed, out), variant.told(seed))
    print(f"accuracy {metrics['accuracy']:.2%} in {metrics['seconds']:,.0f} s", flush=True)
    return True


def _last_error(log: Path) -> str:
    """What a training said last."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return next(
        (line for line in reversed(lines) if line.startswith(("error: ", "FATAL "))), lines[-1] if lines else ""
    )


if __name__ == "__main__":
    define_flags()
    command.run(main, training_flags.INTERRUPTED)
