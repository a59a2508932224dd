"""The settings of a run, and the environment on which its results depend."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfrecord_tools.augment_config import PRESETS
from tfrecord_tools.records import Dataset
from trainers import run_directory
from trainers.auditing.audit_files import Doubts
from trainers.devices.device import Device
from trainers.recipes import Recipe, TrainConfig
from trainers.run_directory import Settings


def settings_of(
    data: Dataset,
    doubts: Doubts | None,
    recipe: Recipe,
    config: TrainConfig,
    flags: Mapping[str, Any],
    device: Device,
) -> Settings:
    """Return the content of settings.json."""
    return {
        "flags": {**flags, **_order_and_precision(config, doubts)},
        "recipe": dataclasses.asdict(recipe) | {"augment": dataclasses.asdict(PRESETS[recipe.augment])},
        "weights": _weights(recipe),
        "dataset": {
            "digest": data.digest,
            "name": data.name,
            "classes": list(data.class_names),
            "splits": dict(data.splits),
        },
        "environment": environment(device),
        "other": {"tfrecords": os.fspath(data.directory), "checkpoint_every": config.checkpoint_every},
    }


def features_key(data: Dataset, recipe: Recipe, seed: int, device: Device) -> dict[str, Any]:
    """Return everything that the features of a record depend on."""
    model = recipe.model
    initial: Any = seed if model.weights == "none" else model.weights
    return {
        "backbone": model.backbone,
        "backbone_kwargs": model.backbone_kwargs,
        "scaling": model.scaling,
        "pooling": model.pooling,
        "dataset": data.digest,
        "image_size": model.size,
        "crop": recipe.crop,
        "weights": _weights(recipe) or initial,
        "environment": environment(device),
    }


def _order_and_precision(config: TrainConfig, doubts: Doubts | None) -> dict[str, Any]:
    """Return the values of `TrainConfig` that affect the result of a training."""
    values = {name: getattr(config, name) for name in ("seed", "deterministic", "precision", "order")}
    if config.order == "blocks":
        values["block"] = config.block
    if config.drop_issues and doubts:
        values["drop_issues"] = sorted(set(config.drop_issues))
        values["issues_sha256"] = doubts.sha256
    if config.records:
        values["records_sha256"] = _sha256(config.records)
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


def _weights(recipe: Recipe) -> dict[str, str]:
    """Return the hash of the weights file; {} if the weights do not come from a file."""
    weights = recipe.model.weights
    return {} if weights in ("imagenet", "none") else {"sha256": _sha256(weights)}


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
