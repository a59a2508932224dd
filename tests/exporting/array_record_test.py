"""Tests of --to=array_record with array_record, Grain and TensorFlow Datasets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from image_sources import converted, with_splits

from tfrecord_tools.errors import UserError
from tfrecord_tools.export import ExportConfig, export
from tfrecord_tools.layout import schema
from tfrecord_tools.records import open_dataset

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("array") / "pets"
    converted(with_splits(root, train=20, validation=6), root.parent / "out", shards=3)
    return root.parent / "out"


@pytest.fixture(scope="module")
def exported(out: Path) -> Path:
    pytest.importorskip("array_record", reason="array_record is not installed")
    config = ExportConfig(tfrecords=str(out), out=str(out.parent / "made"), to="array_record", shard_bytes=10_000)
    export(config, lambda line: None)
    return out.parent / "made"


def shards(exported: Path, split: str) -> list[Path]:
    return sorted(exported.glob(f"pets-{split}.array_record-*"))


@pytest.mark.parametrize(("split", "count"), [("train", 40), ("validation", 12)])
def test_every_record_is_the_same(out: Path, exported: Path, split: str, count: int) -> None:
    from array_record.python import array_record_module

    paths = shards(exported, split)
    assert len(paths) == {"train": 4, "validation": 1}[split]
    assert paths[0].name == f"pets-{split}.array_record-00000-of-{len(paths):05d}"
    examples = [
        array_record_module.ArrayRecordReader(str(path)).read([number])[0]
        for path in paths
        for number in range(array_record_module.ArrayRecordReader(str(path)).num_records())
    ]
    data = open_dataset(out).records(split)
    assert len(examples) == len(data) == count
    assert examples == [data.serialized(number) for number in range(count)]


def test_grain_reads_any_record(out: Path, exported: Path) -> None:
    grain = pytest.importorskip("grain", reason="Grain is not installed")
    data = open_dataset(out).records("train")
    source = grain.sources.ArrayRecordDataSource([str(path) for path in shards(exported, "train")])
    assert len(source) == 40
    for number in (39, 0, 17):
        assert schema.decode_example(source[number]) == data[number]


def test_tensorflow_datasets_reads_the_directory(out: Path, exported: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(exported))
    assert builder.info.features["label"].names == ["cats", "dogs"]
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {"train": 40, "validation": 12}
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source("train", decoders=decoders)
    data = open_dataset(out).records("train")
    for number in (39, 0, 17):
        row, record = source[number], data[number]
        assert (row["image"], row["label"]) == (record["image"], record["label"])
        assert row["image/filename"].decode() == record["path"]
    info = json.loads((exported / "dataset_info.json").read_text())
    assert info["fileFormat"] == "array_record"


def test_a_missing_package_is_named(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    message = r"^--to=array_record: a package is missing \(.*\): pip install 'tfrecord-tools\[array_record\]'$"
    with pytest.raises(UserError, match=message):
        export(ExportConfig(tfrecords=str(out), out=str(tmp_path / "made"), to="array_record"), lambda line: None)
    assert list(tmp_path.iterdir()) == []
