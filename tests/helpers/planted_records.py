"""Arrays of records with planted errors, for tests of the audit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfrecord_tools.images import appearance
from trainers.auditing.scoring import Inputs

WIDTH = 64  # Features per record.


@dataclasses.dataclass(frozen=True)
class Planted:
    """Records, and what is wrong with them.

    Attributes:
        inputs: The records.
        flipped: i64[k], rows with a wrong label.
        truth: i64[n], the right labels.
    """

    inputs: Inputs
    flipped: np.ndarray
    truth: np.ndarray


def features(labels: np.ndarray, random: np.random.Generator, distance: float = 1.5) -> np.ndarray:
    """Draw features f32[n WIDTH] of records: one cluster per class, none negative, as behind a ReLU."""
    centers = np.random.default_rng(99).gamma(1.0, distance, (int(labels.max()) + 1, WIDTH))
    return np.maximum(centers[labels] + random.normal(size=(len(labels), WIDTH)), 0).astype(np.float32)


def planted(count: int = 600, classes: int = 2, flips: float = 0.05, seed: int = 0, **columns: Any) -> Planted:
    """Draw records with wrong labels.

    Args:
        count: Number of records.
        classes: Number of classes.
        flips: Share of wrong labels.
        seed: Seed of everything but the centers of the classes.
        columns: Columns of `Inputs` that replace the drawn ones.
    """
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, count)
    labels = truth.copy()
    flipped = np.sort(random.choice(count, round(flips * count), replace=False))
    labels[flipped] = (labels[flipped] + random.integers(1, classes, len(flipped))) % classes
    facts = np.zeros(count, appearance.FACTS)
    facts["brightness"] = random.normal(120, 20, count)
    facts["contrast"] = random.normal(50, 8, count)
    facts["sharpness"] = random.normal(1, 0.1, count)
    facts["flat_share"] = random.normal(0.2, 0.03, count)
    drawn = {
        "features": features(truth, random),
        "labels": labels,
        "splits": np.zeros(count, np.int8),
        "units": np.arange(count, dtype=np.uint64),
        "contents": np.arange(count),
        "facts": facts,
        "height": np.full(count, 300),
        "width": np.full(count, 400),
        "class_names": tuple(f"class{number}" for number in range(classes)),
        "split_names": ("train", "validation"),
        "paths": [f"{number:05d}.jpg" for number in range(count)],
        "decided": np.zeros(count, bool),
        "dataset": "--tfrecords=out",
    }
    return Planted(Inputs(**drawn | columns), flipped, truth)
