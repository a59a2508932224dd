"""Tests of reading some rows of the index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import converted, tree

from tfrecord_tools.layout import index
from tfrecord_tools.records import open_dataset


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


def test_few_records_are_read_from_few_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted(tree(tmp_path / "src", {"train/a": 12, "train/b": 12, "test/a": 4}), tmp_path / "out", shards=8)
    data = open_dataset(tmp_path / "out")
    records, both = data.records("train"), data.records("test", "train")
    table = pq.read_table(tmp_path / "out" / index.FILE_NAME).to_pylist()
    rows = {split: [row for row in table if row["split"] == split] for split in ("test", "train")}
    read: list[int] = []
    read_row_groups = pq.ParquetFile.read_row_groups

    def noting(file: pq.ParquetFile, groups: list[int], columns: list[str]) -> pa.Table:
        read.append(len(groups))
        return read_row_groups(file, groups, columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", noting)
    wanted = ("path", "split", "phash")
    for chosen in ([23], [0, 23, 0], [], [5, 4, 3], range(24)):
        found = records.select(np.array(chosen, np.int64)).indexed(*wanted)
        assert found.to_pylist() == [{name: rows["train"][number][name] for name in wanted} for number in chosen]
    assert read[:3] == [1, 2, 0]
    assert records.describe(7) == f"train record 7, {rows['train'][7]['path']}"
    assert read[-1] == 1
    joined = [*rows["test"], *rows["train"]]
    found = both.select(np.array([27, 0, 5, 3])).indexed(*wanted)
    assert found.to_pylist() == [{name: joined[number][name] for name in wanted} for number in (27, 0, 5, 3)]
