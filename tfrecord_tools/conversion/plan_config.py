"""The user's decisions about a dataset, and whether a source leaves them open."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.sources.folder_rules import TO_BE_SPLIT
from tfrecord_tools.sources.scan import Sources

DEFAULT_VALIDATION_FRACTION = 0.2
DUPLICATES = ("keep", "drop", "fail")
_MIN_SHARD_BYTES_ALLOWED = 1 << 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What the user decides about the dataset.

    Attributes:
        validation_fraction: Share of each class that becomes the validation split, in 0..1, if the source has no
            splits of its own. None: 0.2.
        test_fraction: Share of each class that becomes the test split, in 0..1. None: 0.
        seed: Another seed gives another automatic split and another order in the shards.
        shards: Number of shards over all splits. None: by bytes.
        shard_bytes: Aimed size of a shard in bytes. None: total / 64, within 16..150 MiB.
        max_bad: Largest share of files that may be rejected, in 0..1.
        duplicates: Of files with the same bytes, "keep" takes all, "drop" one (none, if their labels differ), and
            "fail" stops.
    """

    validation_fraction: float | None = None
    test_fraction: float | None = None
    seed: int = 0
    shards: int | None = None
    shard_bytes: int | None = None
    max_bad: float = 0.05
    duplicates: str = "keep"

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction", "max_bad"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"--{name}={value}: a share between 0 and 1 is expected.")
        if sum(self.fractions) >= 1:
            raise UserError(
                f"--validation_fraction={self.fractions[0]} and --test_fraction={self.fractions[1]}"
                " leave nothing to train on: together they must be below 1."
            )
        if self.duplicates not in DUPLICATES:
            raise UserError(f"--duplicates={self.duplicates}: one of {', '.join(DUPLICATES)} is expected.")
        if self.shards is not None and self.shard_bytes is not None:
            raise UserError("--shards and --shard_bytes exclude each other: give one.")
        if self.shards is not None and self.shards < 1:
            raise UserError(f"--shards={self.shards}: at least 1.")
        if self.shard_bytes is not None and self.shard_bytes < _MIN_SHARD_BYTES_ALLOWED:
            raise UserError(
                f"--shard_bytes={self.shard_bytes}: bytes are meant, at least {_MIN_SHARD_BYTES_ALLOWED:,}."
            )

    def plan_settings(self) -> dict[str, Any]:
        """The settings that the output depends on; `max_bad` decides only whether there is any."""
        names = [field.name for field in dataclasses.fields(PlanConfig) if field.name != "max_bad"]
        return {name: getattr(self, name) for name in names}

    @property
    def fractions(self) -> tuple[float, float]:
        """The shares of validation and test, defaults filled in."""
        validation = DEFAULT_VALIDATION_FRACTION if self.validation_fraction is None else self.validation_fraction
        return validation, self.test_fraction or 0.0

    @property
    def made_splits(self) -> list[str]:
        """The splits that are made of a source without its own."""
        shares = (1.0, *self.fractions)
        return [split for split, share in zip(SPLITS, shares) if share > 0]


def divided(sources: Sources, config: PlanConfig) -> Sources:
    """Return the sources to be split automatically, if they have a train split only and a fraction is given.

    Raises:
        UserError: Splits are asked for that the source has already.
    """
    asked = config.validation_fraction is not None or config.test_fraction is not None
    if sources.has_splits and asked and not sources.splits.any():
        splits = np.full_like(sources.splits, TO_BE_SPLIT)
        return dataclasses.replace(sources, splits=splits, has_splits=False)
    check_fractions(sources, config)
    return sources


def check_fractions(sources: Sources, config: PlanConfig) -> None:
    """Raises UserError if splits are asked for that the source has already; needs no survey."""
    for flag in ("validation_fraction", "test_fraction"):
        if sources.has_splits and getattr(config, flag) is not None:
            raise UserError(
                f"--{flag}={getattr(config, flag)}: {sources.root} has splits of its own, which are kept."
                " Leave the flag out."
            )
