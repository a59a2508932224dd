"""Real photographs and weights for tests. Environment variables name them."""

from __future__ import annotations

import os

import pytest


def path_from(variable: str) -> str:
    """Return the path in an environment variable, or skip the test if it is not set."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names {'photographs' if 'PHOTOS' in variable else 'weights'}")
    return value
