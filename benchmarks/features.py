"""Compare feature extraction, and training from a folder, with the code of the reference recipe.

Whole processes are timed. The forward pass alone is measured on one batch in memory.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from tfrecord_tools import bench
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError

BATCH = 32
SECONDS = 10.0


def reference(photos: str, weights: str, size: int) -> tuple[float, float, float]:
    """Run the code of the reference recipe; return images/s of the extraction, total seconds and accuracy."""
    out, seconds = _run("benchmarks.notes_peer", photos, weights, str(size))
    return _number("images_per_second", out), seconds, _number("accuracy", out)


def ours(photos: str, weights: str, size: int, seed: int, work: Path) -> tuple[list[float], float, float]:
    """Convert and train; return the images/s of each extraction, seconds of both commands and accuracy."""
    _, converting = _run("tfrecord_tools.convert", f"--src={photos}", f"--out={work / 'out'}")
    out, training = _run(
        "trainers.features",
        f"--tfrecords={work / 'out'}",
        f"--run={work / 'run'}",
        f"--features={work / 'features'}",
        f"--weights={weights}",
        f"--image_size={size}",
        f"--seed={seed}",
        "--backbone=MobileNetV2",
    )
    rates = [float(rate.replace(",", "")) for rate in re.findall(r"([\d.,]+) images/s\n", out)]
    accuracy = json.loads((work / "run/metrics.json").read_text())["accuracy"]
    return rates, converting + training, accuracy


def seconds_of_reuse(work: Path) -> float:
    """Return the seconds that a second training needs to read all its features from disk."""
    code = (
        "import sys, time; import numpy as np; began = time.perf_counter();"
        " [np.load(path, mmap_mode='r')[:].sum() for path in sys.argv[1:]]; print(time.perf_counter() - began)"
    )
    paths = [str(path) for path in (work / "features").glob("*/features.npy")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    return float(done.stdout)


def forward_rate(weights: str, size: int) -> float:
    """Return the images/s of the network on one batch in memory."""
    import tensorflow as tf

    from trainers.models import networks
    from trainers.recipes import ModelConfig

    model = networks.build(ModelConfig(backbone="MobileNetV2", weights=weights, image_size=size), 2).model
    extractor, _ = networks.split(model)
    compute = tf.function(lambda images: extractor(images, training=False))
    images = tf.constant(np.zeros((BATCH, size, size, 3), np.uint8))
    return bench.rate((compute(images).numpy() for _ in itertools.repeat(None)), BATCH, SECONDS)


def _run(module: str, *arguments: str) -> tuple[str, float]:
    """Run a module; return its output and its seconds."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
    )
    if done.returncode:
        raise UserError(f"{module} failed: {done.stderr}")
    return done.stdout, time.perf_counter() - began


def _number(name: str, out: str) -> float:
    return float(re.findall(rf"{name} (\S+)", out)[0])


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    photos, weights, size = given.photos, given.weights, given.image_size
    seconds, accuracies, shares, firsts = [], [], [], []
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(given.seeds):
            work = Path(directory, str(seed))
            work.mkdir()
            forward = forward_rate(weights, size)
            rates, whole, accuracy = ours(photos, weights, size, seed, work)
            print(f"seed {seed}: {rates[0]:.1f} images/s, forward pass {forward:.1f}; {whole:.1f} s, {accuracy:.4f}")
            shares.append(rates[0] / forward)
            firsts.append(rates[0])
            seconds.append(whole)
            accuracies.append(accuracy)
        reading = seconds_of_reuse(work)
        count = sum(len(np.load(path, mmap_mode="r")) for path in (work / "features").glob("*/features.npy"))
        reference_rate, reference_seconds, reference_accuracy = reference(photos, weights, size)
    print(f"reference: {reference_rate:.1f} images/s, {reference_seconds:.1f} s, accuracy {reference_accuracy:.4f}")
    median = statistics.median(seconds)
    gain = statistics.median(firsts) / reference_rate
    print(f"extraction: {statistics.median(shares):.2f} x the forward pass, {gain:.2f} x the reference")
    print(f"reuse: {count / reading:,.0f} images/s, {count / reading / reference_rate:,.0f} x the reference")
    print(f"folder to classifier: {median:.1f} s, {median / reference_seconds:.2f} x the reference")
    print(f"mean accuracy: {statistics.mean(accuracies):.4f}")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, with the files SPLIT/CLASS/IMAGE.", required=True)
    flags.DEFINE_string(
        "weights", None, "Weights file of MobileNetV2 without its classification layers.", required=True
    )
    flags.DEFINE_integer("image_size", 160, "Height and width in pixels.")
    flags.DEFINE_integer("seeds", 3, "Number of trainings.")
    command.run(main)
