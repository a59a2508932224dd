"""Checks of arguments that functions of several modules have."""

from __future__ import annotations

import numbers
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


def check_fraction(**values: Any) -> None:
    """Check that arguments are numbers from 0 to 1.

    Args:
        **values: Name of the argument -> value.

    Raises:
        UserError: A value is not a number from 0 to 1.
    """
    for name, value in values.items():
        is_number: bool = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1:
            raise UserError(f"{name}={short(value)}: must be a number from 0 to 1.")
