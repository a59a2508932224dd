"""Sizes of images: their forms, and their texts."""

from __future__ import annotations

from typing import Any

import pytest

from tfrecord_tools.base import sizes
from tfrecord_tools.base.sizes import Size


@pytest.mark.parametrize(
    ("given", "size", "pair", "text"),
    [
        (160, 160, (160, 160), "160"),
        ("160", 160, (160, 160), "160"),
        ("64X64", 64, (64, 64), "64"),
        ((96, 256), (96, 256), (96, 256), "96x256"),
        ([96, 256], (96, 256), (96, 256), "96x256"),
        ("-3", -3, (-3, -3), "-3"),  # The caller checks the sides.
    ],
)
def test_forms(given: Any, size: Size, pair: tuple[int, int], text: str) -> None:
    assert sizes.parse(given) == size
    assert (sizes.pair(size), sizes.text(size)) == (pair, text)
    assert sizes.parse(text) == size


@pytest.mark.parametrize("given", ["", "x", "1x2x3", "1.5", 1.5, (1,), (1, "2"), True, None])
def test_other_values_are_refused(given: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        sizes.parse(given)
