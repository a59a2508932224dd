"""Compare training with full augmentation and training on a constant batch; measure a checkpoint.

The network is that of the reference recipe, trained from scratch.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
from absl import flags

from benchmarks import common
from tfrecord_tools import dataset
from tfrecord_tools.augment_config import PRESETS
from tfrecord_tools.base import command
from trainers import recipes
from trainers.checkpoint import Checkpointer
from trainers.fit import compile_model, make_optimizer
from trainers.models import networks

CHECKPOINT_EVERY = recipes.TrainConfig.checkpoint_every


def steps_seconds(model: keras.Model, batches: Iterable[Any], steps: int) -> float:
    start = time.perf_counter()
    for images, labels in itertools.islice(batches, steps):
        model.train_on_batch(images, labels)
    return time.perf_counter() - start


def save_seconds(model: keras.Model, directory: Path) -> float:
    """Return the seconds to write a checkpoint, the median of nine."""
    checkpointer = Checkpointer(directory / "checkpoint.npz", every=1)
    checkpointer.set_model(model)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        checkpointer.save()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "out"
        common.convert(f"--src={given.photos}", f"--out={out}")
        records = dataset.open(out).records("train")
        settings = {"batch_size": given.batch_size, "image_size": given.image_size, "seed": 0}
        cache = dataset.cache_pixels(records, image_size=given.image_size)
        make = functools.partial(dataset.train_batches, records, augment=PRESETS["reference"], **settings)
        sources = {"pixels in memory, as in trainers if all fit": iter(make(cache=cache)), "decoded": iter(make())}
        recipe = recipes.scratch_reference(augmented=True)
        constant = itertools.repeat(next(sources["decoded"]))
        model = networks.build(dataclasses.replace(recipe.model, image_size=given.image_size), 2).model
        compile_model(model, optimizer=make_optimizer(recipe.phases[0], 1), jit_compile=False)
        for batches in sources.values():
            steps_seconds(model, batches, 5)
        ratios: dict[str, list[float]] = {name: [] for name in sources}
        rates = []
        for _ in range(given.rounds):
            for name, batches in sources.items():
                baseline = steps_seconds(model, constant, given.steps)
                ratios[name].append(baseline / steps_seconds(model, batches, given.steps))
                rates.append(given.steps * given.batch_size / baseline)
        saving = save_seconds(model, Path(work))
    print(f"{statistics.median(rates):.1f} images/s on a constant batch; relative speed with augmentation:")
    for name, values in ratios.items():
        print(f"  {name:<44} {statistics.median(values):.3f} ({min(values):.3f}..{max(values):.3f})")
    share = saving / (CHECKPOINT_EVERY * given.batch_size / statistics.median(rates))
    print(f"a checkpoint takes {saving * 1000:.0f} ms, {share:.3%} of {CHECKPOINT_EVERY} steps")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, with the files SPLIT/CLASS/IMAGE.", required=True)
    flags.DEFINE_integer("batch_size", 20, "Number of images per batch.")
    flags.DEFINE_integer("image_size", 150, "Height and width in pixels.")
    flags.DEFINE_integer("steps", 30, "Number of steps per measurement.")
    flags.DEFINE_integer("rounds", 5, "Number of measurements; medians are printed.")
    command.run(main)
