"""Sizes of images: one number for a square, or height and width."""

from __future__ import annotations

import operator
import re
from typing import Any

Size = int | tuple[int, int]  # Pixels: the sides of a square, or (height, width).
WHAT = "a whole number of pixels, or HEIGHTxWIDTH, as in 96x256"  # For messages about wrong values.


def parse(given: Any) -> Size:
    """Return a size from a number, a pair (height, width), or a text such as "160" or "96x256".

    Two equal sides become one number, so that a square has one form only.

    Raises:
        TypeError, ValueError: The value is not a size. The sides are not checked.
    """
    if isinstance(given, bool):
        raise TypeError(given)
    if isinstance(given, str):
        match = re.fullmatch(r"\s*([+-]?\d+)\s*(?:[xX]\s*([+-]?\d+)\s*)?", given)
        if not match:
            raise ValueError(given)
        given = int(match[1]), int(match[2] or match[1])
    if isinstance(given, (tuple, list)):
        height, width = map(operator.index, given)
        return height if height == width else (height, width)
    return operator.index(given)


def pair(size: Size) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else size


def text(size: Size) -> str:
    """Return a size as in a flag: "160", or "96x256"."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"
