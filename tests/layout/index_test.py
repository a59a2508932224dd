"""The rows of single shards."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from image_sources import converted, tree

from tfrecord_tools.layout import index


def test_the_footer_is_read_once_for_all_shards_and_anew_of_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in (("one", 12), ("other", 20)):
        converted(tree(tmp_path / name, {"a": count, "b": count}), tmp_path / f"out_{name}", shards=4)
    one, other = (tmp_path / f"out_{name}" / index.FILE_NAME for name in ("one", "other"))
    expected = [pq.read_table(path).to_pylist() for path in (one, other)]
    read: list[Path] = []
    footer = pq.read_metadata
    monkeypatch.setattr(pq, "read_metadata", lambda path: read.append(path) or footer(path))
    rows = [row for group in range(4) for row in index.read_group(one, group).to_pylist()]
    other.replace(one)
    rows_now = [row for group in range(4) for row in index.read_group(one, group).to_pylist()]
    assert [rows, rows_now] == expected
    assert read == [one, one]
