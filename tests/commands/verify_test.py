"""Tests of verify: a valid dataset passes, and every kind of damage is reported."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import converted, flip, run, tree, with_splits

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import schema
from tfrecord_tools.verify import VerifyConfig, verify

MODULE = "tfrecord_tools.verify"


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of 40 images in three shards."""
    root = tmp_path_factory.mktemp("verify")
    converted(tree(root / "pets", {"cats": 20, "dogs": 20}), root / "out", shards=3)
    return root / "out"


@pytest.fixture
def out(valid: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    return Path(shutil.copytree(valid, tmp_path / "out"))


def verified(out: Path, decode: bool = False) -> tuple[list[str], list[str]]:
    """Verify in this process, and return (problems, lines)."""
    lines: list[str] = []
    return verify(VerifyConfig(directory=str(out), decode=decode, workers=1), log=lines.append), lines


def rows(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "records.parquet").to_pylist()


def shard(out: Path, number: int = 0) -> Path:
    return sorted(out.glob("*-train.tfrecord-*"))[number]


def test_a_valid_dataset(valid: Path) -> None:
    problems, lines = verified(valid, decode=True)
    assert problems == []
    assert lines == [f"{valid}: 40 records in 3 shards are valid; every image decodes in TensorFlow"]


def test_report_without_decoding(valid: Path) -> None:
    assert verified(valid)[1] == [f"{valid}: 40 records in 3 shards are valid; images were not decoded"]


@pytest.mark.parametrize("record", [0, 3, -1])
@pytest.mark.parametrize(
    "position",
    [
        0,  # Length.
        9,  # Checksum of the length.
        40,  # Image.
        -2,  # Checksum of the data.
    ],
)
def test_a_flipped_byte_is_found_with_its_record(out: Path, record: int, position: int) -> None:
    row = [row for row in rows(out) if row["split"] == "train" and row["shard"] == 0][record]
    end = row["offset"] + row["length"] + schema.FRAME_BYTES
    flip(shard(out), row["offset"] + position if position >= 0 else end + position)
    (problem,) = verified(out)[0]
    assert problem.startswith(f"{shard(out).name}: record ")
    assert problem.endswith(f" at byte {row['offset']:,}, {row['path']}: wrong checksum or length")


def cut(out: Path) -> None:
    path = shard(out)
    path.write_bytes(path.read_bytes()[:-30])


def append(out: Path) -> None:
    with open(shard(out), "ab") as file:
        file.write(b"more")


def remove(out: Path) -> None:
    shard(out).unlink()


def swap(out: Path) -> None:
    """Exchange the names of two shards."""
    one, other = shard(out, 0), shard(out, 1)
    one.rename(out / "x")
    other.rename(one)
    (out / "x").rename(other)


def stray(out: Path) -> None:
    shutil.copy(shard(out), out / "pets-train.tfrecord-00000-of-00009")


def rewrite(out: Path, change: Callable[[Any], bytes]) -> None:
    """Replace the first record of the first shard, with valid checksums and the same length."""
    row = next(row for row in rows(out) if row["split"] == "train")
    data = bytearray(shard(out).read_bytes())
    length = row["length"] + schema.FRAME_BYTES
    example = schema.decode_example(schema.unframe(bytes(data[row["offset"] :][:length])) or b"")
    framed = schema.frame(change(example))
    assert len(framed) == length
    data[row["offset"] : row["offset"] + length] = framed
    shard(out).write_bytes(data)


def other_label(out: Path) -> None:
    rewrite(out, lambda e: schema.encode_example(e["image"], e["path"], 1 - e["label"]))


def other_path(out: Path) -> None:
    rewrite(out, lambda e: schema.encode_example(e["image"], e["path"][:-1] + "X", e["label"]))


def other_image(out: Path) -> None:
    rewrite(out, lambda e: schema.encode_example(e["image"][:-1] + b"X", e["path"], e["label"]))


def not_an_example(out: Path) -> None:
    rewrite(out, lambda e: bytes(len(schema.encode_example(e["image"], e["path"], e["label"]))))


def edit_json(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    def edit(out: Path) -> None:
        facts = json.loads((out / name).read_text())
        change(facts)
        (out / name).write_text(json.dumps(facts))

    return edit


def edit_index(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    def edit(out: Path) -> None:
        path = out / "records.parquet"
        file = pq.ParquetFile(path)
        tables = [file.read_row_group(i) for i in range(file.num_row_groups)]
        with pq.ParquetWriter(path, file.schema_arrow) as writer:
            for table in tables:
                listed = table.to_pylist()
                change(listed)
                writer.write_table(pa.Table.from_pylist(listed, schema=file.schema_arrow))

    return edit


def class_names(out: Path) -> None:
    (out / "label.labels.txt").write_text("dogs\ncats\n")


def rejected(out: Path) -> None:
    (out / "rejected.csv").write_text("path,reason,done\ncats/x.jpg,empty file,skipped\n")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (cut, ["has {size} bytes and should have", "wrong checksum or length"]),
        (append, ["bytes and should have"]),
        (remove, ["cannot be read: No such file or directory"]),
        (
            stray,
            [
                "a shard that does not belong to this dataset. A program that reads all files with such names would"
                " read this shard too. Delete the shard"
            ],
        ),
        (other_label, ["but the index has"]),
        (other_path, ["but the index has"]),
        (other_image, ["the sha256 of the image differs from the index"]),
        (
            not_an_example,
            ["the checksum is right, but the content is not a tf.train.Example with the features in convert.json"],
        ),
        (class_names, ["label.labels.txt: the class names differ from those in convert.json"]),
        (
            rejected,
            [
                "convert.json: the digest (checksum of the dataset) does not match records.parquet, rejected.csv and"
                " the settings"
            ],
        ),
        (
            edit_json("convert.json", lambda f: f["config"].update(seed=1)),
            ["the digest (checksum of the dataset) does not match"],
        ),
        (
            edit_json("convert.json", lambda f: f["classes"][0].update(train=1)),
            ["of train in class 'cats', but convert.json has 1"],
        ),
        (
            edit_json("dataset_info.json", lambda f: f["splits"][0]["shardLengths"].pop()),
            ["dataset_info.json: the number of records or shards of train differs from records.parquet"],
        ),
        (
            edit_index(lambda rows: rows[0].update(offset=1)),
            [
                "record 0 must start at byte 0, where the record before it ends, but the index has 1",
                "wrong checksum or length",
            ],
        ),
        (edit_index(lambda rows: rows[0].update(sha256=b"x" * 32)), ["digest", "the sha256 of the image differs"]),
        (edit_index(lambda rows: rows[-1].update(label=7)), ["digest", "the label is"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_found(out: Path, damage: Callable[[Path], None], expected: list[str]) -> None:
    damage(out)
    problems = "\n".join(verified(out)[0])
    size = f"{shard(out).stat().st_size:,}" if shard(out).exists() else ""
    for words in expected:
        assert words.replace("{size}", size) in problems


def test_swapped_shards_are_found(out: Path) -> None:
    swap(out)
    problems = verified(out)[0]
    assert {problem.split(":")[0] for problem in problems} == {shard(out, 0).name, shard(out, 1).name}


def test_an_image_that_tensorflow_does_not_decode_is_found(out: Path) -> None:
    """All hashes are right, but the stored bytes are not an image."""

    def broken(example: dict[str, Any]) -> bytes:
        data = b"\x89PNG" + bytes(len(example["image"]) - 4)
        hashes.append(hashlib.sha256(data).digest())
        return schema.encode_example(data, example["path"], example["label"])

    hashes: list[bytes] = []
    rewrite(out, broken)
    path = next(row for row in rows(out) if row["split"] == "train")["path"]
    edit_index(lambda listed: [row.update(sha256=hashes[0]) for row in listed if row["path"] == path])(out)
    problems = [problem for problem in verified(out, decode=True)[0] if "digest" not in problem]
    assert len(problems) == 1
    assert f"{path}: TensorFlow cannot decode it: " in problems[0]


def test_wrong_size_in_the_index_is_found(out: Path) -> None:
    edit_index(lambda listed: listed[2].update(height=5))(out)
    problems = verified(out, decode=True)[0]
    assert len(problems) == 3  # One per shard.
    assert all("but the index has 5 x 12 pixels" in problem for problem in problems)


def test_raw_pixels(tmp_path: Path) -> None:
    source = tree(tmp_path / "pets", {"cats": 9, "dogs": 9})
    converted(source, tmp_path / "out", store="raw", resize=6, resize_mode="exact", validation_fraction=0.0)
    assert verified(tmp_path / "out", decode=True)[0] == []


def test_leaks_and_conflicts_are_notes(tmp_path: Path) -> None:
    source = with_splits(tmp_path / "pets")
    shutil.copy(source / "train/cats/000.jpg", source / "validation/cats/leak.jpg")
    shutil.copy(source / "train/cats/001.jpg", source / "train/dogs/conflict.jpg")
    converted(source, tmp_path / "out")
    problems, lines = verified(tmp_path / "out")
    assert problems == []
    assert (
        lines[0]
        == "note: 2 records have the same image as a record with another label, for example train/cats/001.jpg,"
        " train/dogs/conflict.jpg"
    )
    start, _, paths = lines[1].partition("for example ")
    assert start == "note: 2 records have the same image as a record in another split, "
    assert {"train/cats/000.jpg", "validation/cats/leak.jpg"} == set(paths.split(", "))


def test_command(out: Path) -> None:
    done = run(MODULE, str(out), "--workers=2")
    assert done.returncode == 0, done.stderr  # A slow run prints its progress there.
    assert done.stdout == f"{out}: 40 records in 3 shards are valid; every image decodes in TensorFlow\n"
    flip(shard(out), 60)
    done = run(MODULE, str(out), "--nodecode")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {out}: 1 problem found:\n  {shard(out).name}: record 0 at byte 0, ")
    assert done.stderr.endswith("Convert the images again, or copy the dataset again from an undamaged copy.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "error: no argument was given. Pass the directory of one dataset, as in python -m"
            " tfrecord_tools.verify out/",
        ),
        (["a", "b"], "error: 2 arguments were given. Pass the directory of one dataset"),
        (["gone"], "error: gone: does not exist. Pass a directory that was written by"),
        (["--workers=0", "."], "error: --workers=0: must be at least 1."),
    ],
)
def test_wrong_commands(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(MODULE, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    "name", ["records.parquet", "convert.json", "dataset_info.json", "features.json", "rejected.csv"]
)
@pytest.mark.parametrize("how", ["gone", "empty", "junk"])
def test_missing_and_damaged_metadata(out: Path, name: str, how: str) -> None:
    if how == "gone":
        (out / name).unlink()
    else:
        (out / name).write_bytes(b"" if how == "empty" else b"\xff\x00junk")
    try:
        problems, _ = verified(out)
    except UserError as error:
        problems = [str(error)]
    assert name in "".join(problems) or "digest" in "".join(problems)


def test_long_list_of_problems_is_cut(out: Path) -> None:
    for path in out.glob("*.tfrecord-*"):
        path.write_bytes(bytes(path.stat().st_size))
    done = run(MODULE, str(out), "--nodecode")
    assert "40 problems found" in done.stderr
    assert "  and 20 more\n" in done.stderr


def test_noise_in_any_file_is_found(out: Path) -> None:
    """Every file is replaced by noise once, and the damage is reported each time."""
    rng = np.random.default_rng(0)
    for path in sorted(out.iterdir()):
        if path.name == "card.html":  # This file is for people only.
            continue
        was = path.read_bytes()
        path.write_bytes(rng.bytes(max(len(was), 1)))
        try:
            problems = verified(out)[0]
        except UserError as error:
            problems = [str(error)]
        assert problems, path.name
        path.write_bytes(was)
    assert verified(out)[0] == []
