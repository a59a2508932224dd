"""The user's choices about splits, shards and bad files, and checks that they fit the source."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.near_duplicates import DEFAULT_DISTANCE, MAX_DISTANCE
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.sources.folder_rules import TO_BE_SPLIT
from tfrecord_tools.sources.scan import Sources

DEFAULT_VALIDATION_FRACTION = 0.2
DUPLICATES = ("keep", "drop", "fail")
NEAR_DUPLICATES = ("keep", "group", "drop")
_MIN_SHARD_BYTES_ALLOWED = 1 << 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """The user's choices about splits, shards and bad files.

    Attributes:
        validation_fraction: Fraction of each class for the validation split, from 0 to 1, if the source has no splits
            of its own. None: 0.2.
        test_fraction: Fraction of each class for the test split, from 0 to 1. None: 0.
        seed: Seed of the automatic split and of the order in the shards.
        shards: Number of shards over all splits. None: it follows from `shard_bytes`.
        shard_bytes: Target size of a shard in bytes. None: the size of all records / 64, but at least 16 MiB and at
            most 150 MiB.
        max_bad: Largest fraction of files that may be rejected, from 0 to 1.
        duplicates: How files with the same bytes are handled. "keep" keeps all of them. "drop" keeps one, or none if
            their labels differ. "fail" raises an error.
        near_duplicates: How images that look alike are handled. "keep" keeps all of them. "group" keeps each group in
            one split of an automatic split. "drop" keeps one: an image of test is preferred to one of validation,
            validation to train, and then the largest image. See `near.drop`.
        near_distance: Largest number of bits, 0..16, in which the hashes of near-duplicates may differ.
    """

    validation_fraction: float | None = None
    test_fraction: float | None = None
    seed: int = 0
    shards: int | None = None
    shard_bytes: int | None = None
    max_bad: float = 0.05
    duplicates: str = "keep"
    near_duplicates: str = "keep"
    near_distance: int = DEFAULT_DISTANCE

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction", "max_bad"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"--{name}={value}: must be a fraction from 0 to 1.")
        if sum(self.fractions) >= 1:
            raise UserError(
                f"--validation_fraction={self.fractions[0]} and --test_fraction={self.fractions[1]}"
                " leave no training images. The sum must be below 1."
            )
        if self.duplicates not in DUPLICATES:
            raise UserError(f"--duplicates={self.duplicates}: must be one of {', '.join(DUPLICATES)}.")
        if self.near_duplicates not in NEAR_DUPLICATES:
            raise UserError(f"--near_duplicates={self.near_duplicates}: must be one of {', '.join(NEAR_DUPLICATES)}.")
        if not 0 <= self.near_distance <= MAX_DISTANCE:
            raise UserError(f"--near_distance={self.near_distance}: must be a number of bits from 0 to {MAX_DISTANCE}.")
        if self.shards is not None and self.shard_bytes is not None:
            raise UserError("--shards and --shard_bytes cannot be combined. Pass only one of them.")
        if self.shards is not None and self.shards < 1:
            raise UserError(f"--shards={self.shards}: must be at least 1.")
        if self.shard_bytes is not None and self.shard_bytes < _MIN_SHARD_BYTES_ALLOWED:
            raise UserError(
                f"--shard_bytes={self.shard_bytes}: must be a number of bytes, at least {_MIN_SHARD_BYTES_ALLOWED:,}."
            )

    def plan_settings(self) -> dict[str, Any]:
        """Return the settings that the output depends on.

        The settings of near-duplicates are left out if all are kept. Earlier versions did not have these settings, so
        the digests stay equal.
        """
        unused = {"max_bad"} | ({"near_duplicates", "near_distance"} if self.near_duplicates == "keep" else set())
        names = [field.name for field in dataclasses.fields(PlanConfig) if field.name not in unused]
        return {name: getattr(self, name) for name in names}

    @property
    def fractions(self) -> tuple[float, float]:
        """The fractions of validation and test, with the defaults filled in."""
        validation = DEFAULT_VALIDATION_FRACTION if self.validation_fraction is None else self.validation_fraction
        return validation, self.test_fraction or 0.0

    @property
    def made_splits(self) -> list[str]:
        """The splits that an automatic split creates."""
        shares = (1.0, *self.fractions)
        return [split for split, share in zip(SPLITS, shares) if share > 0]


def divided(sources: Sources, config: PlanConfig) -> Sources:
    """Mark sources for an automatic split, if train is their only split and a fraction is given.

    Raises:
        UserError: A fraction is given, but the source has splits of its own.
    """
    has_fraction = config.validation_fraction is not None or config.test_fraction is not None
    if sources.has_splits and has_fraction and not sources.splits.any():
        splits = np.full_like(sources.splits, TO_BE_SPLIT)
        return dataclasses.replace(sources, splits=splits, has_splits=False)
    check_fractions(sources, config)
    return sources


def check_fractions(sources: Sources, config: PlanConfig) -> None:
    """Raise UserError if a fraction is given, but the source has splits of its own. No file is read."""
    for flag in ("validation_fraction", "test_fraction"):
        if sources.has_splits and getattr(config, flag) is not None:
            raise UserError(
                f"--{flag}={getattr(config, flag)}: {sources.root} has its own splits, which are kept. Remove --{flag}."
            )
