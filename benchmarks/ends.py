"""Time a training from the command to its first step, and from its last step to the exit.

With --other=DIR, the same training runs with the package in DIR, in turn: another version to compare with.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError

# Runs a trainer as its command does. A callback writes the times of the first and of the last step to a file.
_TIMED = """
import atexit, json, os, runpy, sys, time
from trainers import training_options
train, steps = training_options.train, []
def timed(*args, **kwargs):
    import keras
    from trainers import training
    fit = training.fit
    class Times(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps[1 if steps else 0:] = [time.time()] if steps else [time.time()] * 2
    training.fit = lambda *args, callbacks, **kwargs: fit(
        *args, callbacks=lambda phase: [*callbacks(phase), Times()], **kwargs)
    return train(*args, **kwargs)
training_options.train = timed
atexit.register(lambda: json.dump(steps, open(os.environ["STEPS"], "w")))
sys.argv = sys.argv[1:]
runpy.run_module(f"trainers.{sys.argv[0]}", run_name="__main__", alter_sys=True)
"""


def main(argv: Sequence[str]) -> None:
    trainer = command.one_argument(argv, "the name of a trainer, such as features or finetune.")
    roots = [str(Path.cwd()), *filter(None, [flags.FLAGS.other])]
    seconds: dict[str, list[tuple[float, float]]] = {root: [] for root in roots}
    with tempfile.TemporaryDirectory() as work:
        for number in range(1 + flags.FLAGS.rounds):  # In turn. The first round computes features and fills caches.
            for root in roots:
                measured = _measure(root, trainer, Path(work), str(number))
                if number:
                    seconds[root].append(measured)
    for root, values in seconds.items():
        start, end = map(statistics.median, zip(*values))
        print(f"{root}: {start:.2f} s to the first step, {end:.2f} s from the last step to the exit")


def _measure(root: str, trainer: str, work: Path, name: str) -> tuple[float, float]:
    values = [f"--{flag}={flags.FLAGS[flag].value}" for flag in ("tfrecords", "backbone", "backbone_kwargs", "weights")]
    values += [f"--image_size={flags.FLAGS.image_size}", f"--run={work / name}-{len(os.listdir(work))}"]
    values += [f"--features={work / 'features'}", "--epochs=1"] if trainer == "features" else ["--epochs=1,1"]
    environment = {**os.environ, "PYTHONPATH": root, "STEPS": str(work / "steps.json")}
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-c", _TIMED, trainer, *values], cwd=root, env=environment, capture_output=True, text=True
    )
    ended = time.time()
    if done.returncode:
        raise UserError(f"{trainer} failed: {done.stderr}")
    first, last = json.loads((work / "steps.json").read_text())
    return first - begun, ended - last


if __name__ == "__main__":
    flags.DEFINE_string("tfrecords", None, "Directory of a dataset.", required=True)
    flags.DEFINE_string("weights", None, "File of pretrained weights.", required=True)
    flags.DEFINE_string("backbone", "MobileNetV2", "Network of Keras.")
    flags.DEFINE_string("backbone_kwargs", "", "Arguments of the network.")
    flags.DEFINE_integer("image_size", 160, "Height and width of the network's input in pixels.")
    flags.DEFINE_string("other", None, "Directory of another version of this package, to compare with.")
    flags.DEFINE_integer("rounds", 5, "Number of measurements; medians are printed.")
    command.run(main, arguments="TRAINER")
