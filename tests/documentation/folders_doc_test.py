"""`convert` makes the dataset of each row of the table in docs/folders.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from image_sources import REPOSITORY, draw, scanned

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.split_names import SPLITS, split_named
from tfrecord_tools.sources.scan import TO_BE_SPLIT

TEXT = (REPOSITORY / "docs/folders.md").read_text("utf-8")
ROWS = re.findall(r"^\| ((?:`[^`]+/[^`]+` ?|`[^`/]+\.\w+` ?)+) \| (.+?) \|", TEXT, re.MULTILINE)


def test_the_table_has_its_rows() -> None:
    assert len(ROWS) >= 15


@pytest.mark.parametrize(("folder", "dataset"), ROWS)
def test_folder(tmp_path: Path, folder: str, dataset: str) -> None:
    for path in re.findall(r"`([^`]+)`", folder):
        if Path(path).suffix in (".jpg", ".png"):
            draw(tmp_path / path)
        else:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(b"x")
    if dataset.startswith("stops"):
        with pytest.raises(UserError) as caught:
            scanned(tmp_path)
        for flag in re.findall(r"`(--\w+)`", dataset):
            assert flag in str(caught.value)
        return
    sources = scanned(tmp_path)
    classes, splits = (part.strip() for part in dataset.split(";"))
    assert ", ".join(sources.class_names) == classes.removeprefix("classes ")
    present = [SPLITS[split] for split in np.unique(sources.splits) if split != TO_BE_SPLIT]
    assert (f"splits {', '.join(present)}" if present else "automatic split") == splits


def test_names_of_splits() -> None:
    rows = re.findall(r"^\| `(train|validation|test)` \| ([\w, ]+) \| (.+) \|$", TEXT, re.MULTILINE)
    assert [split for split, _, _ in rows] == list(SPLITS)
    for split, words, examples in rows:
        assert {split_named(name) for name in [*words.split(", "), *re.findall(r"`([^`]+)`", examples)]} == {split}
    strange = re.search(r"^(.+) are not splits\.$", TEXT, re.MULTILINE)
    assert strange
    assert {split_named(name) for name in re.findall(r"`([^`]+)`", strange[1])} == {None}
