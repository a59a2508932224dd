"""The names of a dataset's files, and what `convert.json` says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

CONVERT_JSON = "convert.json"


def shard_name(dataset: str, split: str, number: int, of: int) -> str:
    """Return TensorFlow Datasets' name of a split's shard."""
    return f"{dataset}-{split}.tfrecord-{number:05d}-of-{of:05d}"


def dataset_name(source: str) -> str:
    """Make a name that TensorFlow Datasets accepts, [a-z][a-z0-9_]*, of a directory's name."""
    name = re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_")
    return name if name[:1].isalpha() else f"images_{name}".rstrip("_")


def partial_of(out: Path) -> Path:
    """Return the directory in which a conversion into `out` keeps its unfinished state."""
    named = out if out.name not in ("", "..") else out.resolve()  # "." has no name to add to.
    return named.parent / f"{named.name}.partial"


def read(directory: Path) -> dict[str, Any]:
    """Return the content of `convert.json` of the dataset in `directory`."""
    contents: dict[str, Any] = json.loads((directory / CONVERT_JSON).read_text("utf-8"))
    return contents
