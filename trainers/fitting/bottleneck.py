"""Measure whether the input or the model limits the speed of a training, before it starts."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from tfrecord_tools import bench
from tfrecord_tools.bench import BenchConfig
from tfrecord_tools.dataset import Cache
from tfrecord_tools.records import Records
from trainers.devices.device import Device
from trainers.fit import compile_model
from trainers.models import networks
from trainers.recipes import Recipe

_SECONDS = 3.0  # Duration of each measurement.


def verdict(records: Records, recipe: Recipe, classes: int, cache: Cache | None, device: Device) -> str:
    """Measure the stages of the input, then steps of the first phase on one batch in memory.

    The steps train a copy of the model, so that the model itself is unchanged.

    Returns:
        A line for the user, see `bench.verdict`.
    """
    geometry, batch_size = recipe.geometry, recipe.batch_size
    config = BenchConfig(
        tfrecords="",
        image_size=geometry.image_size,
        crop=geometry.crop,
        fit=geometry.fit,
        batch_size=batch_size,
        augment=recipe.augment,
        seconds=_SECONDS,
    )
    stages = bench.measure(records, config, cache)
    # The speed does not depend on the weights.
    classifier = networks.build(dataclasses.replace(recipe.model, weights="none"), classes)
    classifier.set_trainable(recipe.phases[0].trainable)
    compile_model(classifier.model, optimizer="sgd", jit_compile=device.jit_compile)
    images, labels = (
        np.zeros((batch_size, *geometry.shape), np.uint8),
        np.zeros((batch_size, 1 if classes == 2 else classes), np.float32),
    )
    steps = (classifier.model.train_on_batch(images, labels) for _ in itertools.repeat(None))
    model_rate = bench.rate(steps, batch_size, _SECONDS)
    verdict = bench.verdict(stages, len(records), geometry, model_rate, in_memory="--cache=memory")
    return f"probe: {verdict}"
