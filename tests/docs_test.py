"""The code in docs/ does what the text says, and the text leaves nothing out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from drawn import REPOSITORY, converted, tree, with_splits

from tfrecord_tools import index, order, schema
from tfrecord_tools.records import open_dataset

DOCS = sorted((REPOSITORY / "docs").glob("*.md"))


def code(name: str) -> dict[str, Any]:
    """Runs all Python of a document; returns its names."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / name).read_text(), re.DOTALL):
        exec(block, names)
    return names


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has an `out` of 10 train and 6 validation records in several shards, and a `made` with splits by content."""
    place = tmp_path_factory.mktemp("docs")
    converted(with_splits(place / "cat_dog_img"), place / "out", shards=4)
    converted(tree(place / "src", {"a": 40, "b": 40}), place / "made", seed=3, test_fraction=0.1)
    return place


def test_the_documented_reader_reads_every_record(place: Path) -> None:
    for split in ("train", "validation"):
        records = open_dataset(place / "out").records(split)
        count, read = code("format.md")["open_split"](str(place / "out"), split)
        assert count == len(records)
        for number in range(count):
            assert read(number) == (records.serialized(number), records[number]["label"])


def test_the_documented_frame_is_the_frame(place: Path) -> None:
    shard = sorted((place / "out").glob("*-train.tfrecord-*"))[0].read_bytes()
    length = int.from_bytes(shard[:8], "little")
    data = shard[12 : 12 + length]
    for crc, of in ((shard[8:12], shard[:8]), (shard[12 + length : 16 + length], data)):
        value = crc32c(of)
        assert int.from_bytes(crc, "little") == (((value >> 15) | (value << 17)) + 0xA282EAD8) % 2**32
    assert schema.decode_example(data)["label"] in (0, 1)


def crc32c(data: bytes) -> int:
    """Bit by bit, as its definition has it; the reversed polynomial is 0x82F63B78."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_index_has_the_documented_columns(place: Path) -> None:
    rows = re.findall(r"^\| (`[a-z0-9_`, ]+) \| [a-z0-9 ]+ \|", section("format.md", "## The index"), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(names) == sorted(pq.read_schema(place / "out" / index.FILE_NAME).names)


def section(document: str, title: str) -> str:
    text = (REPOSITORY / "docs" / document).read_text()
    return text.split(f"{title}\n")[1].split("\n## ")[0]


def test_splits_and_order_follow_from_the_documented_rule(place: Path) -> None:
    names = code("format.md")
    assert names["mix"](3, 1, 2**63 + 5) == int(order.mix(3, 1, np.uint64(2**63 + 5)))
    table = pq.read_table(place / "made" / index.FILE_NAME).to_pylist()
    hashes = [int.from_bytes(row["source_sha256"][:8], "little") for row in table]
    assert [names["split_of"](h, 3, 0.2, 0.1) for h in hashes] == [row["split"] for row in table]
    for split in ("train", "validation", "test"):
        ranks = [(names["rank"](h, 3), row["path"]) for h, row in zip(hashes, table) if row["split"] == split]
        assert ranks == sorted(ranks)
        assert ranks


def test_the_index_for_dali_tells_where_each_frame_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    code("interop.md")
    records = open_dataset(place / "out").records("train")
    expected = {records.serialized(number) for number in range(len(records))}
    shards = sorted((place / "out").glob("*-train.tfrecord-*"))
    found = set()
    for shard, path in zip(shards, sorted(place.glob("train-*.idx")), strict=True):
        for line in path.read_text().splitlines():
            offset, size = map(int, line.split())
            data = schema.unframe(shard.read_bytes()[offset : offset + size])
            assert data is not None
            found.add(data)
    assert found == expected


def test_batches_that_replace_the_generator(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    names = code("from_image_data_generator.md")
    images, labels = next(iter(names["train"]))
    assert (images.shape, images.dtype, labels.dtype) == ((20, 150, 150, 3), tf.uint8, tf.int64)
    assert sum(len(labels) for _, labels in names["validation"]) == 6


GENERATOR = tf.keras.preprocessing.image.ImageDataGenerator


@pytest.mark.parametrize(
    ("function", "title"),
    [
        (GENERATOR.__init__, "## ImageDataGenerator(…)"),
        (GENERATOR.flow_from_directory, "## flow_from_directory(…)"),
    ],
)
def test_no_argument_of_the_generator_is_left_out(function: Callable[..., Any], title: str) -> None:
    arguments = set(inspect.signature(function).parameters) - {"self"}
    first_cells = re.findall(r"^\| (`.*?`) \|", section("from_image_data_generator.md", title), re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} == arguments


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_what_is_named_is_there(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\((\S+?)\)", text):
        assert (path.parent / target).exists(), target
    for target in re.findall(r"\b(?:examples|tfrecord_tools)/\w+\.py\b", text):
        assert (REPOSITORY / target).exists(), target
    for package, module in re.findall(r"python -m (tfrecord_tools|trainers)\.(\w+)", text):
        assert (REPOSITORY / package / f"{module}.py").exists(), module
