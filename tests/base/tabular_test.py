"""Tests of tables: CSV files are complete or absent, columns of text are aligned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfrecord_tools.base import tabular


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "it.csv"
    tabular.write_csv(path, ["path", "n"], ({"path": f'a,"{i}"\né', "n": i / 10} for i in range(2)))
    assert path.read_bytes() == 'path,n\n"a,""0""\né",0.0\n"a,""1""\né",0.1\n'.encode()
    tabular.write_csv(path, [], [])
    assert path.read_bytes() == b""


def test_an_incomplete_csv_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        tabular.write_csv(tmp_path / "it.csv", ["n"], ({"n": 1 // i} for i in (1, 0)))
    assert list(tmp_path.iterdir()) == []


def test_aligned() -> None:
    rows = [["label", "class", "train"], ["0", "cats", "12"], ["", "all", "1,000"]]
    lines = ["label  class  train", "    0  cats      12", "       all    1,000"]
    assert list(tabular.aligned(rows, left=(1,))) == lines
    assert list(tabular.aligned([["a", "b"], ["cc", ""]], left=(0, 1))) == ["a   b", "cc"]
