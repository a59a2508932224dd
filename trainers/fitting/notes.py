"""Warn about settings that probably do not suit the classes or the shapes of the images."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrecord_tools.augment_config import AugmentConfig
from tfrecord_tools.augmentation import named
from tfrecord_tools.augmentation.mirrored_names import change_when_mirrored
from tfrecord_tools.base import sizes
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.errors import named as listed
from tfrecord_tools.records import Dataset, Records
from trainers.recipes import Recipe

_LEAST_KEPT = 0.66  # Share of the area that an image should keep. A 3:2 photograph keeps two thirds in a square.
_MANY = 0.1  # The note is given if a larger share of the images keeps less.
_SIMILAR = 1.25  # Images have about the same shape if their aspect ratios differ at most by this factor.
_MOST = 0.9  # The share of images with about the same shape from which on the note suggests that shape.
_SIDE = 32  # Most networks reduce the sides by a factor of 32.
_FLIPS = ("horizontal_flip", "vertical_flip")


@dataclasses.dataclass(frozen=True)
class Mirrored:
    """Classes that the augmentation may exchange.

    Attributes:
        names: Names of classes that a mirror probably changes.
        flag: The flag with the same augmentation, but without mirroring.
    """

    names: Sequence[str]
    flag: str


def lines(recipe: Recipe, data: Dataset, train: Records) -> list[str]:
    """Return lines for the user about a training. Only the index is read, and no image is decoded."""
    chosen = named.resolve(recipe.augment)
    values = dataclasses.asdict(chosen) if isinstance(chosen, AugmentConfig) else {}
    found = []
    if mirrored := may_be_mirrored(values, data.class_names):
        found.append(
            f"note: --augment={named.name_of(recipe.augment)} mirrors images, but the names of these classes suggest"
            f" that a mirrored image is of another class: {listed(mirrored.names)}. If this is true, pass"
            f" {mirrored.flag}"
        )
    if recipe.fit is None and (share := share_cut(train, recipe.geometry)) > _MANY:
        crop = recipe.geometry.crop
        more = f" --crop={crop:g} removes another {1 - crop**2:.0%} of every image." if crop < 1 else ""
        found.append(
            f"note: {share:.0%} of the images lose more than a third of their area, because they are cropped to the"
            f" aspect ratio of the model's input.{more} To keep the whole image, pass --fit=pad or --fit=stretch"
            + _shape_hint(train, recipe.geometry)
        )
    return found


def may_be_mirrored(augment: Mapping[str, Any], class_names: Sequence[str]) -> Mirrored | None:
    """Return the classes that an augmentation may exchange by mirroring, or None if there are none.

    Args:
        augment: The values of an `AugmentConfig`, as in settings.json. The values of a function have other names, so
            None is returned.
        class_names: The names of all classes.
    """
    on = {name: False for name in _FLIPS if augment.get(name)}
    names = change_when_mirrored(class_names) if on else []
    if not names:
        return None
    still = named.name_of(AugmentConfig(**{**augment, **on}))
    return Mirrored(names, f"--augment={shlex.quote(still)}")


def _shape_hint(records: Records, geometry: Geometry) -> str:
    """Return the end of the note: an input with the shape of the images, if most have about the same."""
    height, width = records.sizes.astype(np.float64).T
    aspects = width[height > 0] / height[height > 0]
    aspect = float(np.median(aspects))
    share = float((np.maximum(aspects / aspect, aspect / np.maximum(aspects, 1e-9)) <= _SIMILAR).mean())
    if share < _MOST:
        return ""
    longer = max(aspect, 1 / aspect)
    # The input has at least the area of the present input, so that objects do not become smaller.
    short = math.ceil(math.sqrt(geometry.height * geometry.width / longer) / _SIDE) * _SIDE
    size = short, round(short * longer / _SIDE) * _SIDE
    shape = sizes.text(size if aspect > 1 else size[::-1])
    return f". {share:.0%} of the images have about the same shape, so also pass --image_size={shape}"


def share_cut(records: Records, geometry: Geometry) -> float:
    """Return the share of the images that keep less than `_LEAST_KEPT` of their area.

    Only the loss that comes from the shape is counted, because --crop cuts the same share off every image.
    """
    height, width = records.sizes.astype(np.float64).T
    if geometry.fit != "crop" or not (height > 0).any():
        return 0.0
    aspect = (width / np.maximum(height, 1))[height > 0] / (geometry.width / geometry.height)
    return float((np.minimum(aspect, 1 / np.maximum(aspect, 1e-9)) < _LEAST_KEPT).mean())
