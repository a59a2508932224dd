"""The splits of a dataset, and what directories and manifests call them."""

from __future__ import annotations

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def split_named(name: str) -> str | None:
    """Return the split that a name means, or None."""
    return SPLIT_NAMES.get(name.lower())
