"""Commands that reports recommend: advice names only flags which the trainer of the model has."""

from __future__ import annotations

from trainers import recipes


def command(trainer: str, *flags: str) -> str:
    """Return a trainer's command with the first of some flags that the trainer has.

    Args:
        trainer: Name of the trainer, as in `ModelInfo.trainer`.
        flags: Flags that have the same purpose, with their values, such as "--order=balanced"; the best one first.

    Returns:
        Such as "python -m trainers.frozen --order=balanced"; "" if the trainer has none of the flags, or if `trainer`
        is no command of this package: `training.train` takes any name.
    """
    found = (flag for flag in flags if _has(trainer, flag.removeprefix("--").partition("=")[0]))
    flag = next(found, "") if trainer in recipes.RECIPES else ""
    return f"python -m trainers.{trainer} {flag}" if flag else ""


def _has(trainer: str, flag: str) -> bool:
    return flag not in recipes.IMAGE_FLAGS or not recipes.reads_features(trainer)
