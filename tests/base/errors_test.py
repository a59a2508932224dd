"""Tests of error messages on one line."""

from __future__ import annotations

from typing import Literal

import pytest

from tfrecord_tools.errors import one_line


@pytest.mark.parametrize(
    ("message", "keep", "line"),
    [
        ("\n  It  failed.\nTraceback", "first", "It failed"),
        ("Traceback\nValueError: it failed.\n", "last", "ValueError: it failed"),
        ("Expected\n    a shape.\tReceived\nanother.", "all", "Expected a shape. Received another"),
        (" \n", "first", "ValueError"),
        # As Keras writes it.
        (
            "In call().\n\n\x1b[1mToo small\x1b[0m\n\nArguments received by Conv.call():\n  x=1",
            "all",
            "In call(). Too small",
        ),
    ],
)
def test_one_line(message: str, keep: Literal["first", "last", "all"], line: str) -> None:
    assert one_line(ValueError(message), keep) == line
