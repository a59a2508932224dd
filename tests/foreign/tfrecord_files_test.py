"""Tests of reading TFRecord files of any origin: TensorFlow's records are read, damage is reported."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from foreign_records import example, write
from image_sources import flip, image

from tfrecord_tools.errors import UserError
from tfrecord_tools.foreign import encoded_images, tfrecord_files
from tfrecord_tools.foreign.tfrecord_files import Damage, compression, find, read, read_intact
from tfrecord_tools.layout import schema

RECORDS = [b"", b"one", bytes(range(256)) * 1000, b"", np.random.default_rng(0).bytes(300_000), b"last"]


def read_valid(path: Path) -> list[bytes]:
    """Read a file that must not be damaged."""

    def refuse(message: str) -> None:
        raise AssertionError(message)

    return list(read(path, compression(path), refuse))


def names(groups: list[tfrecord_files.Group[Path]]) -> dict[str, list[str]]:
    return {group.name: [path.name for path in group.paths] for group in groups}


# --- Valid files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["", "GZIP", "ZLIB"])
@pytest.mark.parametrize("records", [RECORDS, [b""], []], ids=["several", "an empty one", "none"])
@pytest.mark.parametrize("name", ["some.tfrecord", "train-00000-of-00002", "some.tfrec.gz"])
def test_reads_what_tensorflow_writes(tmp_path: Path, kind: str, records: list[bytes], name: str) -> None:
    path = write(tmp_path / name, records, kind)
    assert compression(path) == kind
    assert read_valid(path) == records


@pytest.mark.parametrize("kind", ["", "GZIP", "ZLIB"])
def test_name_does_not_matter_if_there_is_a_record(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "some.bin", [b"record"], kind)
    assert compression(path) == kind
    assert read_valid(path) == [b"record"]


def test_joined_gzip_files_are_read_like_in_tensorflow(tmp_path: Path) -> None:
    path = write(tmp_path / "some.tfrecord", RECORDS, "GZIP")
    path.write_bytes(2 * path.read_bytes() + gzip.compress(schema.frame(b"more")))
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path), "GZIP")] == 2 * RECORDS + [b"more"]
    assert read_valid(path) == 2 * RECORDS + [b"more"]


@pytest.mark.parametrize("kind", ["", "GZIP", "ZLIB"])
def test_memory_depends_on_the_largest_record(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "some.tfrecord", (bytes(1_000_000) for _ in range(40)), kind)
    tracemalloc.start()
    try:
        assert sum(len(record) for record in read(path, kind, print)) == 40_000_000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


# --- Finding files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "groups"),
    [
        (["p-train.tfrecord-00000-of-00002", "p-train.tfrecord-00001-of-00002"], ["p-train.tfrecord-?????-of-00002"]),
        (["train-00000-of-01024", "train-00007-of-01024"], ["train-?????-of-01024"]),
        (["train-00000-of-00001"], ["train-00000-of-00001"]),  # A single file has its own name.
        (["a-00000-of-00002", "a-00001-of-00002", "b-00000-of-00001"], ["a-?????-of-00002", "b-00000-of-00001"]),
        (["a-00000-of-00002", "a-00000-of-00003"], ["a-00000-of-00002", "a-00000-of-00003"]),  # Two conversions.
        (["train00-207.tfrec", "train01-71.tfrec", "test00-9.tfrec"], ["train*-*.tfrec", "test00-9.tfrec"]),
        (["train.tfrecords", "test.tfrecords"], ["train.tfrecords", "test.tfrecords"]),
        (["a[1].tfrecord", "a[2].tfrecord"], ["a[[]*].tfrecord"]),  # Escaped for `glob`.
        (["a", "b.bin"], ["a", "b.bin"]),  # The content decides, not the names.
    ],
)  # fmt: skip
def test_files_of_a_directory_are_grouped_by_name(tmp_path: Path, files: list[str], groups: list[str]) -> None:
    for name in files:
        write(tmp_path / name, [b"record"])
    found = find(tmp_path, pytest.fail)
    assert sorted(names(found)) == sorted(groups)
    assert sorted(path.name for group in found for path in group.paths) == sorted(files)
    assert all(list(group.paths) == sorted(group.paths) for group in found)


def test_other_files_and_directories_are_ignored(tmp_path: Path) -> None:
    write(tmp_path / "some.tfrecord", [b"record"])
    write(tmp_path / ".hidden.tfrecord", [b"record"])
    write(tmp_path / "inside" / "other.tfrecord", [b"record"])
    (tmp_path / "image.jpg").write_bytes(image("any"))
    (tmp_path / "some.tfrecord.index").write_text("0 22\n")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "other.gz").write_bytes(gzip.compress(b"a text", mtime=0))
    os.mkfifo(tmp_path / "pipe.tfrecord")  # Opening it would wait for a writer.
    assert names(find(tmp_path, pytest.fail)) == {"some.tfrecord": ["some.tfrecord"]}


def test_files_of_different_compression_are_different_groups(tmp_path: Path) -> None:
    for number, kind in enumerate(["", "GZIP", "GZIP"]):
        write(tmp_path / f"a-0000{number}-of-00003", [b"record"], kind)
    found = [(group.compression, len(group.paths)) for group in find(tmp_path, pytest.fail)]
    assert found == [("", 1), ("GZIP", 2)]


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (["a-00000-of-00003", "a-00002-of-00003"], 1),
        (["a.tfrecord-00001-of-00004"], 3),
        (["a-00000-of-00002", "a-00001-of-00002"], 0),
        (["a1.tfrec", "a2.tfrec"], 0),  # These names do not give the number of files.
    ],
)
def test_missing_files_are_counted(tmp_path: Path, files: list[str], missing: int) -> None:
    for name in files:
        write(tmp_path / name, [b"record"])
    (group,) = find(tmp_path, pytest.fail)
    assert group.missing == missing


def test_other_file_with_a_tfrecord_name_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "a-00000-of-00002", [b"record"])
    (tmp_path / "a-00001-of-00002").write_bytes(image("any"))
    damage: list[str] = []
    assert names(find(tmp_path, damage.append)) == {"a-00000-of-00002": ["a-00000-of-00002"]}
    (message,) = damage
    assert message.startswith(
        f"{tmp_path}/a-00001-of-00002: is not a TFRecord file: the file is a JPEG image. Expected "
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jpg",
            image("any"),
            r"a\.jpg: is not a TFRecord file: the file is a JPEG image\. Expected a TFRecord file, plain or",
        ),
        ("a.tfrecord", image("any", "PNG"), r"a\.tfrecord: is not a TFRecord file: the file is a PNG image"),
        (
            "a.tfrecord",
            b"a text of some length",
            r"is not a TFRecord file: the file starts with b'a text of so'\. Expected",
        ),
        ("a", b"", r"a: is not a TFRecord file: the file is empty"),
        (
            "a.gz",
            gzip.compress(b"a text of some length", mtime=0),
            r"is not a TFRecord file: the file starts with b'\\x1f\\x8b",
        ),
        ("a.bin", bytes(100), r"is not a TFRecord file: the file starts with b'\\x00\\x00"),
        ("a.bin", zlib.compress(b""), r"is not a TFRecord file: the file starts with b'x\\x9c"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        find(tmp_path / name, pytest.fail)


def test_damage_has_advice_only_from_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, [example({"k": 1})])
    flip(path, 14)
    reason = f"{path}: record 0 (counted from 0) at byte 0: the checksum of its data is wrong"
    with pytest.raises(Damage) as caught:
        list(read_intact(path, ""))
    sent = pickle.loads(pickle.dumps(caught.value))  # As from a worker process.
    assert (str(sent), sent.effect) == (reason, "the record is left out")
    advice = "Copy the file again from an intact copy, or leave this file out."
    assert str(sent.advised("Nothing was written. ")) == f"{reason}. Nothing was written. {advice}"
    (tmp_path / "b.tfrecord").write_bytes(image(1))
    with pytest.raises(UserError) as refused:
        encoded_images.find("tfrecords", str(tmp_path), None)
    assert str(refused.value).startswith(f"{tmp_path}/b.tfrecord: is not a TFRecord file: ")
    assert str(refused.value).endswith(f"--src=DIRECTORY`. {advice}")


def test_directories_without_tfrecords_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: does not exist\. Expected .*convert --src=DIRECTORY"):
        find(tmp_path / "none", pytest.fail)
    with pytest.raises(UserError, match=r"no TFRecord file in this directory\. Exp"):
        find(tmp_path, pytest.fail)
    os.mkfifo(tmp_path / "pipe.tfrecord")
    with pytest.raises(UserError, match=r"pipe\.tfrecord: is neither a file nor a directory\. Expected"):
        find(tmp_path / "pipe.tfrecord", pytest.fail)
    with pytest.raises(UserError, match=r"/proc/self/mem: cannot be read \(Input/output error\)\. Make it readable"):
        find(Path("/proc/self/mem"), pytest.fail)  # Address 0 cannot be read.


# --- Damaged -------------------------------------------------------------------------------------------------------

THREE = [b"first", b"second" * 50, b"third"]
SECOND = len(schema.frame(THREE[0]))  # Start of the second record.
THIRD = SECOND + len(schema.frame(THREE[1]))
WRONG_DATA = "the checksum of its data is wrong; the record is left out"
WRONG_LENGTH = "the checksum of its length is wrong; the rest of the file cannot be read"
CUT = "the file ends inside the record; the rest of the file cannot be read"


@pytest.mark.parametrize(
    ("position", "number", "offset", "reason", "left"),
    [
        (SECOND + 12 + 100, 1, SECOND, WRONG_DATA, [0, 2]),
        (THIRD - 1, 1, SECOND, WRONG_DATA, [0, 2]),  # The checksum of the data.
        (12, 0, 0, WRONG_DATA, [1, 2]),
        (THIRD + 12, 2, THIRD, WRONG_DATA, [0, 1]),
        (SECOND, 1, SECOND, WRONG_LENGTH, [0]),
        (SECOND + 9, 1, SECOND, WRONG_LENGTH, [0]),  # The checksum of the length.
        (THIRD + 7, 2, THIRD, WRONG_LENGTH, [0, 1]),
        (0, 0, 0, WRONG_LENGTH, []),  # The name says that it is a TFRecord.
        (9, 0, 0, WRONG_LENGTH, []),
    ],
)
def test_flipped_bit(tmp_path: Path, position: int, number: int, offset: int, reason: str, left: list[int]) -> None:
    path = write(tmp_path / "a.tfrecord", THREE)
    flip(path, position)
    damage: list[str] = []
    assert list(read(path, compression(path), damage.append)) == [THREE[i] for i in left]
    assert damage == [f"{path}: record {number} (counted from 0) at byte {offset}: {reason}"]


@pytest.mark.parametrize(
    ("length", "number", "offset", "left"),
    [
        (THIRD + 20, 2, THIRD, 2),
        (THIRD + 12, 2, THIRD, 2),  # After the header.
        (THIRD + 5, 2, THIRD, 2),  # Inside the header.
        (SECOND + 200, 1, SECOND, 1),
        (13, 0, 0, 0),
        (5, 0, 0, 0),
    ],
)
def test_cut_file(tmp_path: Path, length: int, number: int, offset: int, left: int) -> None:
    path = write(tmp_path / "a.tfrecord", THREE)
    path.write_bytes(path.read_bytes()[:length])
    damage: list[str] = []
    assert list(read(path, compression(path), damage.append)) == THREE[:left]
    assert damage == [f"{path}: record {number} (counted from 0) at byte {offset}: {CUT}"]


def test_file_cut_between_records_is_not_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", THREE)
    path.write_bytes(path.read_bytes()[:THIRD])
    assert read_valid(path) == THREE[:2]


def test_every_damaged_record_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", THREE)
    for position in (12, SECOND + 12, THIRD + 3):
        flip(path, position)
    damage: list[str] = []
    assert list(read(path, "", damage.append)) == []
    assert [message.split(":")[1] for message in damage] == [
        " record 0 (counted from 0) at byte 0",
        f" record 1 (counted from 0) at byte {SECOND}",
        f" record 2 (counted from 0) at byte {THIRD}",
    ]


@pytest.mark.parametrize("kind", ["GZIP", "ZLIB"])
def test_cut_compressed_file(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.tfrecord", RECORDS, kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 1000])
    assert compression(path) == kind
    damage: list[str] = []
    assert list(read(path, kind, damage.append)) == RECORDS[:4]
    offset = sum(len(schema.frame(record)) for record in RECORDS[:4])
    assert damage == [
        f"{path}: record 4 (counted from 0) at byte {offset:,} of the unpacked"
        f" {kind} data: the compressed file ends before"
        " its end marker; the rest of the file cannot be read"
    ]


def test_all_readable_data_of_a_cut_compressed_file_is_returned(tmp_path: Path) -> None:
    whole = zlib.compress(bytes(200_000))  # Each bit stands for hundreds of bytes.
    for length in range(2, len(whole) + 1):
        (tmp_path / "a").write_bytes(whole[:length])
        given = 0
        with tfrecord_files._Inflated(io.FileIO(tmp_path / "a")) as file, contextlib.suppress(EOFError):
            while count := file.readinto(bytearray(1000)):
                given += count
        assert given == len(zlib.decompressobj().decompress(whole[:length])), length


@pytest.mark.parametrize(("kind", "trailer"), [("GZIP", 8), ("ZLIB", 4)])
def test_damaged_compressed_file(tmp_path: Path, kind: str, trailer: int) -> None:
    path = write(tmp_path / "a.tfrecord", RECORDS, kind)
    flip(path, path.stat().st_size - trailer)  # The checksum of the whole file.
    damage: list[str] = []
    assert list(read(path, kind, damage.append))[:4] == RECORDS[:4]
    (message,) = damage
    assert f"of the unpacked {kind} data: Error -3 while decompressing data: incorrect data check; the rest" in message


def test_length_larger_than_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", THREE)
    length = (1 << 62).to_bytes(8, "little")
    path.write_bytes(path.read_bytes() + length + struct.pack("<I", schema._masked_crc(length)))
    damage: list[str] = []
    assert list(read(path, "", damage.append)) == THREE
    (message,) = damage
    assert (
        ": its 4,611,686,018,427,387,904 bytes do not fit into memory; the rest of the file cannot be read" in message
    )
