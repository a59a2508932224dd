"""The report card of a dataset: one page that says what is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools import files
from tfrecord_tools.report import Thumbnail

CARD = "card.html"


def write(directory: Path, facts: Mapping[str, Any], thumbnails: Sequence[Thumbnail]) -> None:
    """Writes `card.html`, whole or not at all.

    Args:
        directory: Where to.
        facts: What `convert.json` says.
        thumbnails: Images to show.
    """
    with files.atomic(directory / CARD) as file:
        file.write(render(facts, thumbnails).encode())


def render(facts: Mapping[str, Any], thumbnails: Sequence[Thumbnail]) -> str:
    """Returns the page as HTML."""
    return ""
