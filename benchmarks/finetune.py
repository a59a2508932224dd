"""Fine-tune on photographs with default settings and several seeds, or kill trainings in each phase.

It prints the accuracy of the last model and the seconds of the whole command per seed. With --kills, it prints whether
a training that was killed in a phase ends with exactly the same weights as a training that was not.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import common
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError


def train_seeds(convert_out: Path, arguments: Sequence[str], seeds: Sequence[int], work: Path) -> None:
    """Train once per seed, and print a line for each."""
    accuracies = []
    for seed in seeds:
        run = work / f"seed{seed}"
        finished = common.run(_finetune(convert_out, run, [*arguments, f"--seed={seed}"]))
        if finished.exit_code:
            raise UserError(f"the training with seed {seed} failed with exit code {finished.exit_code}")
        accuracies.append(json.loads((run / "metrics.json").read_text())["accuracy"])
        print(f"seed {seed}: accuracy {accuracies[-1]:.4f}, {finished.seconds:.0f} s", flush=True)
    print(f"accuracy {min(accuracies):.4f}..{max(accuracies):.4f}, mean {statistics.mean(accuracies):.4f}")


def kill_phases(convert_out: Path, arguments: Sequence[str], kills: int, work: Path) -> None:
    """Train once without kills, and once per phase with `kills` kills at random moments of the phase."""
    generator = random.Random(0)
    whole = _finetune(convert_out, work / "whole", arguments)
    seconds = _phase_seconds(whole)
    print(f"without kills: {', '.join(f'{phase} {s:.0f} s' for phase, s in seconds.items())}", flush=True)
    reference = _weights(work / "whole")
    for phase in list(seconds):
        run = work / f"killed-{phase}"
        for _ in range(kills):
            after = generator.uniform(0, seconds[phase] / kills)
            if not _kill_in(phase, _finetune(convert_out, run, arguments), after):
                raise UserError(f"the training ended before it could be killed in phase {phase}")
        if common.run(_finetune(convert_out, run, arguments)).exit_code:
            raise UserError(f"the training that was killed in phase {phase} did not continue; see {run}")
        same = all(np.array_equal(a, b) for a, b in zip(reference, _weights(run), strict=True))
        print(f"{kills} kills in phase {phase}: weights equal {same}", flush=True)
        if not same:
            raise UserError(f"the training that was killed in phase {phase} ended with different weights; see {run}")


def _finetune(convert_out: Path, run: Path, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-u", "-m", "trainers.finetune", f"--tfrecords={convert_out}", f"--run={run}", *arguments]


def _phase_seconds(words: Sequence[str]) -> dict[str, float]:
    """Run a training; return the seconds of each phase."""
    starts: dict[str, float] = {}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("phase "):
                starts[line.split()[1].rstrip(":")] = time.perf_counter()
        end = time.perf_counter()
    ends = [*list(starts.values())[1:], end]
    return {phase: stop - start for (phase, start), stop in zip(starts.items(), ends)}


def _kill_in(phase: str, words: Sequence[str], after: float) -> bool:
    """Start a training and kill it `after` seconds of the phase; return False if it ended before."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout or ():
            if line.startswith(f"phase {phase}"):
                time.sleep(after)
                process.send_signal(signal.SIGKILL)
                break
    return process.returncode == -signal.SIGKILL


def _weights(run: Path) -> list[np.ndarray]:
    import keras

    return [np.asarray(w) for w in keras.models.load_model(run / "model.keras", compile=False).get_weights()]


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    arguments = [
        "--backbone=MobileNet",
        "--backbone_kwargs=alpha=0.25",
        "--image_size=160",
        f"--weights={given.weights}",
        *given.extra,
    ]
    work = Path(tempfile.mkdtemp())
    if common.run([*common.CONVERT, f"--src={given.photos}", f"--out={work / 'out'}"]).exit_code:
        raise UserError(f"--photos={given.photos}: cannot be converted. Run tfrecord_tools.convert to see the reason.")
    if given.kills:
        kill_phases(work / "out", [*arguments, "--checkpoint_every=7"], given.kills, work)
    else:
        train_seeds(work / "out", arguments, [int(seed) for seed in given.seeds], work)
    shutil.rmtree(work)


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs with the splits train and validation.", required=True)
    flags.DEFINE_string(
        "weights", None, "Weights file of MobileNet(alpha=0.25) without its classification layers.", required=True
    )
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds to train with.")
    flags.DEFINE_integer(
        "kills",
        0,
        "How often the training is killed in each phase. 0: the training is not killed, but run with several seeds.",
    )
    flags.DEFINE_list("extra", [], "More flags for trainers.finetune.")
    command.run(main)
