"""Commands that reports recommend, with flags that the trainer of the model has."""

from __future__ import annotations

from trainers import recipes


def command(trainer: str, *flags: str) -> str:
    """Return the command of a trainer with the first of the given flags that it has.

    Args:
        trainer: Name of the trainer, as in `ModelInfo.trainer`.
        flags: Flags with the same purpose, with values, such as "--order=balanced"; the best one first.

    Returns:
        The command, such as "python -m trainers.frozen --order=balanced". "" if the trainer has none of the flags or is
        not a command of this package (`training.train` accepts any name).
    """
    usable = (flag for flag in flags if _has(trainer, flag.removeprefix("--").partition("=")[0]))
    flag = next(usable, "") if trainer in recipes.RECIPES else ""
    return f"python -m trainers.{trainer} {flag}" if flag else ""


def _has(trainer: str, flag: str) -> bool:
    return flag not in recipes.IMAGE_FLAGS or not recipes.reads_features(trainer)
