"""The settings of a run, and the environment on which its results depend."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfrecord_tools.augmentation import named
from tfrecord_tools.records import Dataset
from trainers import backbones, run_directory
from trainers.devices.device import Device
from trainers.fitting import parents
from trainers.fitting.parents import Parent
from trainers.models import engines
from trainers.recipes import Recipe, TrainConfig
from trainers.run_directory import Settings

if TYPE_CHECKING:
    from trainers.fitting.inputs import Splits


def settings_of(
    data: Dataset,
    splits: Splits,
    recipe: Recipe,
    config: TrainConfig,
    flags: Mapping[str, Any],
    device: Device,
    parent: Parent | None = None,
) -> Settings:
    """Return the content of settings.json."""
    other: dict[str, Any] = {"tfrecords": data.location, "checkpoint_every": config.checkpoint_every}
    # A run that goes on reads these files again. Only the hashes of the files, in `flags`, are compared.
    other |= {name: path for name in parents.FILES if (path := getattr(config, name))}
    if splits.doubts and splits.dropped and splits.dropped.as_before:
        other[run_directory.ISSUES_BEFORE] = splits.doubts.sha256
    return {
        "flags": {**flags, **_order_and_precision(config, splits)},
        "recipe": _values(recipe),
        "weights": _weights(recipe, parent=parent),
        "parent": parent.facts() if parent else {},
        "dataset": {
            "digest": data.digest,
            "name": data.name,
            "classes": list(data.class_names),
            "splits": dict(data.splits),
        },
        "environment": environment(device) | engines.versions(config.engine),
        "other": other | ({"parent": parent.name} if parent else {}),
    }


def features_key(
    data: Dataset, recipe: Recipe, seed: int, device: Device, flag: str = "backbone", weights: str = ""
) -> dict[str, Any]:
    """Return everything that the features of a record depend on, except for weights made by a function.

    Args:
        data: The dataset.
        recipe: The recipe.
        seed: Seed of random weights. Only used if the backbone has random weights.
        device: The device on which the features are computed.
        flag: Name of the flag that chooses the backbone, for errors.
        weights: Hash of the network's weights, if they come from another run. "": the recipe names the weights.
    """
    model = recipe.model
    initial: Any = seed if model.weights == backbones.NONE else model.weights
    return {
        "backbone": model.backbone,
        "backbone_kwargs": model.backbone_kwargs,
        "scaling": model.scaling,
        "pooling": model.pooling,
        "dataset": data.digest,
        **recipe.geometry.stored(),
        "weights": weights or _weights(recipe, flag) or initial,
        "environment": environment(device),
    }


def _values(recipe: Recipe) -> dict[str, Any]:
    """Return the values of a recipe as they are used, so that equal trainings have equal values."""
    values = dataclasses.asdict(dataclasses.replace(recipe, augment="none"))  # `asdict` cannot copy every function.
    del values["fit"]
    geometry = {name: value for name, value in recipe.geometry.stored().items() if name != "image_size"}
    return values | geometry | {"augment": named.settings_of(recipe.augment)}


def _order_and_precision(config: TrainConfig, splits: Splits) -> dict[str, Any]:
    """Return the values of `TrainConfig` that affect the result of a training."""
    values = {name: getattr(config, name) for name in ("seed", "deterministic", "precision", "order")}
    if config.order == "blocks":
        values["block"] = config.block
    values |= engines.setting(config.engine)
    if splits.dropped:
        values["drop_issues"] = sorted(set(config.drop_issues))
        values[run_directory.ISSUES] = splits.dropped.sha256
    if config.records:
        values["records_sha256"] = backbones.sha256(config.records)
    if config.fold is not None:
        values["fold"] = config.fold
    return values


def environment(device: Device) -> dict[str, Any]:
    """Return the versions and the device, which can change the last bits of the results."""
    return {
        **run_directory.versions(),
        "name": device.name,
        "precision": device.precision,
        "jit_compile": device.jit_compile,
        "replicas": device.replicas,
    }


def _weights(recipe: Recipe, flag: str | None = None, parent: Parent | None = None) -> dict[str, str]:
    """Return the hashes of the weights file and of the files of a user's network; {} if there are none."""
    model = recipe.model
    name, own_flag = model.network
    is_file = model.weights not in (backbones.IMAGENET, backbones.NONE, backbones.OWN)
    if is_file and parent and parent.state:  # A continued run does not read the weights file again.
        of_file = {key: one for key, one in parent.settings.get("weights", {}).items() if key == "sha256"}
    else:
        of_file = {"sha256": backbones.sha256(model.weights)} if is_file else {}
    return of_file | backbones.hashes(name, model.custom_objects or (), flag or own_flag)
