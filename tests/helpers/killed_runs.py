"""Conversions that take a few seconds, and the moments at which tests kill them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from image_sources import converted, image


def many_images(place: Path, files: int) -> Path:
    """Create `pets`, many links to two images, and `local`, the dataset of `pets` in 40 shards."""
    for name in ("cats", "dogs"):
        first = place / f"pets/train/{name}/first.jpg"
        first.parent.mkdir(parents=True)
        first.write_bytes(image(name, size=(300, 200)))
        for number in range(files // 2):
            os.link(first, first.with_name(f"{number}.jpg"))
    converted(place / "pets", place / "local", shards=40)
    return place


def in_survey(partial: Path) -> bool:
    return any(partial.glob("survey/*.npz"))


def in_write(partial: Path) -> bool:
    return any(partial.glob("index/*.parquet"))


def without_bars(err: str) -> list[str]:
    """Return the lines of an error output without the progress bars of long conversions."""
    bar = re.compile(r"(survey|write): +\d+(%\|| images \[)")  # A bar of tqdm, with or without a total.
    return [line for line in err.splitlines() if line.strip() and not bar.match(line)]
