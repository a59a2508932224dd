"""Checks of arguments that functions of several modules have."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfrecord_tools.errors import UserError, short


def check_whole(least: int | None = None, **values: Any) -> None:
    """Check that arguments are whole numbers of Python or NumPy.

    Args:
        least: The smallest number that is allowed. None: all numbers are allowed.
        **values: Name of the argument -> value.

    Raises:
        UserError: A value is not a whole number, or it is too small.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise UserError(f"{name}={short(value)}: must be a whole number.")
        if least is not None and value < least:
            raise UserError(f"{name}={value}: must be at least {least}.")
