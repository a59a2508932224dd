"""Compute the features of a network for records, and keep them on disk."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrecord_tools.base import words
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Dataset, Records
from trainers.devices.device import Device
from trainers.fitting import features_cache
from trainers.fitting.features_cache import Features
from trainers.fitting.parents import sha256
from trainers.fitting.settings import environment, features_key
from trainers.models import engines, model_file, networks
from trainers.recipes import Recipe

# Batch size for computing features. On two CPU cores, MobileNetV2 takes 1.3 times as long per image with batches of 32
# as with batches of 8, which fit into the processor's caches. A GPU needs large batches.
_BATCH = {"CPU": 8, "GPU": 64}
_OPENVINO_BATCH = 16  # Divided into requests by `engines`.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extraction:
    """A network without its head, and how images are read for it.

    Attributes:
        source: The flag that names the network, with its value.
        compute: Function u8[b h w 3] -> f32[b c].
        width: Number of features, c.
        key: JSON values that determine the features together with the records, such as the weights.
        geometry: How images become the input of the network.
        batch_size: Images in a call of `compute`.
    """

    source: str
    compute: Callable[[tf.Tensor], Any]
    width: int
    key: Mapping[str, Any]
    geometry: Geometry
    batch_size: int

    def features(self, records: Records, directory: str | Path, log: Callable[[str], object] = print) -> Features:
        """Return the features of records. Those in `directory` are used again.

        Raises:
            UserError: A feature is not a finite number, or a reason in `features_cache.load_or_extract`.
        """
        features = features_cache.load_or_extract(
            records,
            self.compute,
            width=self.width,
            key=self.key,
            directory=Path(directory),
            geometry=self.geometry,
            batch_size=self.batch_size,
            log=log,
        )
        self._check_finite(records, features)
        return features

    def _check_finite(self, records: Records, features: Features) -> None:
        wrong = features.not_finite()
        if len(wrong):
            count = f"{len(wrong):,} of {words.number(len(features.valid), 'record')}"
            raise UserError(
                f"{self.source}: {count} of {records.split} have features that are not finite numbers, for example"
                f" {records.describe(int(wrong[0]))}. All features must be finite. Pass another network."
            )


def of_recipe(
    extractor: keras.Model,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    device: Device,
    flag: str = "backbone",
    inherited: bool = False,
    engine: str = engines.AUTO,
) -> Extraction:
    """Return the extraction of a recipe's backbone.

    Args:
        extractor: First model of `networks.split`. It computes the features.
        data: The dataset.
        recipe: The recipe.
        seed: Seed of random weights. Only used if the backbone has random weights.
        device: The device on which the features are computed.
        flag: Name of the flag that chooses the backbone, for errors.
        inherited: Whether the weights come from another run.
        engine: One of `engines.ENGINES`.

    Raises:
        UserError: The backbone has weights that are not finite, or a reason in `engines.compiled`.
    """
    weights = sha256(extractor.get_weights()) if inherited else ""
    key = features_key(data, recipe, seed, device, flag, weights)
    if not recipe.model.is_known:  # A function or a preset may return other weights each time.
        key["values"] = sha256(extractor.get_weights())
    source = f"--{flag}={recipe.model.backbone}"
    return _extraction(source, extractor, key, recipe.geometry, device, engine)


def of_run(
    run: str,
    data: Dataset,
    device: Device,
    flag: str,
    custom_objects: Sequence[str] = (),
    engine: str = engines.AUTO,
) -> Extraction:
    """Return the extraction of a trained model: its last features before the head.

    Args:
        run: A run directory or a model file.
        data: The dataset.
        device: The device on which the features are computed.
        flag: Name of the flag with the value `run`, for errors.
        custom_objects: As in `model_file.load`.
        engine: One of `engines.ENGINES`.

    Raises:
        UserError: There is no model, its head cannot be found, it has weights that are not finite, or a reason in
            `engines.compiled`.
    """
    path = model_file.find(run, flag)
    model, info = model_file.load(path, custom_objects=custom_objects)
    extractor = networks.extractor(model, f"--{flag}={run}")
    key = {
        "model": hashlib.sha256(path.read_bytes()).hexdigest(),
        "dataset": data.digest,
        **info.geometry.stored(),
        "environment": environment(device),
    }
    return _extraction(f"--{flag}={run}", extractor, key, info.geometry, device, engine)


def _extraction(
    source: str, extractor: keras.Model, key: Mapping[str, Any], geometry: Geometry, device: Device, engine: str
) -> Extraction:
    _check_weights(source, extractor)
    return Extraction(
        source=source,
        compute=engines.compiled(extractor, engine, device.jit_compile, source),
        width=extractor.output_shape[-1],
        key={**key, **engines.key(engine)},
        geometry=geometry,
        batch_size=_OPENVINO_BATCH if engine == engines.OPENVINO else _BATCH["CPU" if device.name == "CPU" else "GPU"],
    )


def _check_weights(source: str, extractor: keras.Model) -> None:
    """Raise UserError if weights are not finite."""
    # Features are not enough to find them: on some devices, ReLU turns NaN into 0.
    wrong = [
        weight.path
        for weight, values in zip(extractor.weights, extractor.get_weights())
        if not np.isfinite(values).all()
    ]
    if wrong:
        raise UserError(
            f"{source}: {len(wrong):,} of {words.number(len(extractor.weights), 'array')} of weights have values that"
            f" are not finite numbers, for example {wrong[0]}. A training that diverged leaves such weights. Pass"
            " another network."
        )
