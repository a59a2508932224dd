"""Compare the speed of OpenVINO with that of TensorFlow on images in memory, in alternating rounds.

Both compute the features of a network as `trainers.features` does: in the same batches, two batches at once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import flags

from tfrecord_tools.base import command, options
from trainers.models import engines
from trainers.training_options import BACKBONE_KWARGS

_BATCH = {engines.TENSORFLOW: 8, engines.OPENVINO: 16}  # The batches of `trainers.features`.
_IMAGES = 192
_OPTIONS = (BACKBONE_KWARGS,)


def rate(compute: Callable[[Any], Any], images: np.ndarray, batch: int) -> float:
    """Return the images/s of two calls at once."""
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        for part in pool.map(compute, np.split(images, len(images) // batch)):
            np.asarray(part)
    return len(images) / (time.perf_counter() - began)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    from trainers.models import networks
    from trainers.recipes import ModelConfig

    given = flags.FLAGS
    arguments = options.checked(_OPTIONS, options.from_flags(_OPTIONS)).get("backbone_kwargs", {})
    config = ModelConfig(
        backbone=given.backbone, backbone_kwargs=arguments, weights=given.weights, image_size=given.image_size
    )
    extractor, _ = networks.split(networks.build(config, 2).model)
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, *extractor.input_shape[1:]), np.uint8)
    computes, outputs = {}, {}
    for engine, batch in _BATCH.items():
        began = time.perf_counter()
        computes[engine] = engines.compiled(extractor, engine)
        outputs[engine] = np.asarray(computes[engine](images[:batch]))[:8]
        print(f"{engine}: first batch after {time.perf_counter() - began:.1f} s")
    difference = np.abs(outputs[engines.OPENVINO] - outputs[engines.TENSORFLOW]).max()
    print(f"largest difference: {difference:.2g} of {np.abs(outputs[engines.TENSORFLOW]).max():.3g}")
    rates: dict[str, list[float]] = {engine: [] for engine in _BATCH}
    for _ in range(given.rounds):
        for engine, batch in _BATCH.items():
            rates[engine].append(rate(computes[engine], images, batch))
    for engine, measured in rates.items():
        print(f"{engine}: {statistics.median(measured):,.0f} images/s")
    ratios = [fast / plain for fast, plain in zip(rates[engines.OPENVINO], rates[engines.TENSORFLOW])]
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    flags.DEFINE_string("backbone", "MobileNetV2", "Name of the network.")
    options.define(_OPTIONS)
    flags.DEFINE_string("weights", "none", "Weights file of the network without its classification layers.")
    flags.DEFINE_integer("image_size", 160, "Height and width in pixels.")
    flags.DEFINE_integer("rounds", 15, "Number of rounds.")
    command.run(main)
