"""Tests of reading the rows of single shards from the index."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from image_sources import converted, tree

from tfrecord_tools.layout import index


def test_the_footer_is_read_once_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("first", 12), ("second", 20)):
        converted(tree(tmp_path / name, {"a": count, "b": count}), tmp_path / f"out_{name}", shards=4)
    first, second = (tmp_path / f"out_{name}" / index.FILE_NAME for name in ("first", "second"))
    expected = [pq.read_table(path).to_pylist() for path in (first, second)]
    read: list[Path] = []
    footer = pq.read_metadata
    monkeypatch.setattr(pq, "read_metadata", lambda path: read.append(path) or footer(path))
    rows = [row for group in range(4) for row in index.read_group(first, group).to_pylist()]
    second.replace(first)
    rows_now = [row for group in range(4) for row in index.read_group(first, group).to_pylist()]
    assert [rows, rows_now] == expected
    assert read == [first, first]
