"""Tests of imagefolders of Hugging Face: images with metadata.csv, metadata.jsonl or metadata.parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import draw, scanned, tree

from tfrecord_tools.base import tables
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.split_names import SPLITS

KINDS = ("csv", "jsonl", "parquet")


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a table. The ending is its kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    return path


def flat(root: Path, kind: str, count: int = 6, **more: Any) -> Path:
    """Write images without classes in their paths, with a table of their labels."""
    rows = []
    for number in range(count):
        draw(root / f"{number:04d}.jpg")
        rows.append({"file_name": f"{number:04d}.jpg", "label": ["größe", "dog"][number % 2], **more})
    write(root / f"metadata.{kind}", rows)
    return root


def labels(sources: Any) -> dict[str, str]:
    return {path: sources.class_names[label] for path, label in zip(sources.paths, sources.labels.tolist())}


@pytest.mark.parametrize("kind", KINDS)
def test_table_beside_the_images(tmp_path: Path, kind: str) -> None:
    sources = scanned(flat(tmp_path / "pets", kind, text="a pet", size=[1, 2]))
    assert labels(sources) == {f"{n:04d}.jpg": ("größe", "dog")[n % 2] for n in range(6)}
    assert sources.rejected == ()
    assert sources.notes == ("the column 'file_name' is read as the paths (see --path_column)",)


@pytest.mark.parametrize("kind", KINDS)
def test_table_of_each_split(tmp_path: Path, kind: str) -> None:
    for split in ("train", "validation"):
        flat(tmp_path / "pets" / split, kind)
    sources = scanned(tmp_path / "pets")
    assert sources.has_splits
    assert {path: SPLITS[split] for path, split in zip(sources.paths, sources.splits.tolist())} == {
        f"{split}/{n:04d}.jpg": split for split in ("train", "validation") for n in range(6)
    }
    assert labels(sources)["validation/0003.jpg"] == "dog"


def test_one_table_above_the_directories_of_splits(tmp_path: Path) -> None:
    """The directories are the splits, as in Hugging Face's `datasets`."""
    rows = []
    for split in ("train", "test"):
        for number in range(4):
            draw(tmp_path / f"pets/{split}/{number}.jpg")
            rows.append({"file_name": f"{split}/{number}.jpg", "label": "ab"[number % 2]})
    write(tmp_path / "pets/metadata.csv", rows)
    sources = scanned(tmp_path / "pets")
    assert sources.has_splits
    assert [SPLITS[split] for split in sources.splits.tolist()] == ["test"] * 4 + ["train"] * 4
    draw(tmp_path / "pets/more/1.jpg")
    write(tmp_path / "pets/metadata.csv", [*rows, {"file_name": "more/1.jpg", "label": "a"}])
    with pytest.raises(UserError) as caught:
        scanned(tmp_path / "pets")
    assert str(caught.value) == (
        f"--src={tmp_path}/pets: the table says no split for more/1.jpg, but test/0.jpg is in a split. Add a column"
        " split to the table, or pass the directory of one split as --src."
    )


@pytest.mark.parametrize("row", [{"file_name": "1.jpg"}, {"file_name": "1.jpg", "label": ""}, None])
def test_splits_without_labels_are_left_out(tmp_path: Path, row: Mapping[str, str] | None) -> None:
    flat(tmp_path / "pets/train", "csv")
    draw(tmp_path / "pets/test/1.jpg")
    if row:
        write(tmp_path / "pets/test/metadata.csv", [row])
    sources = scanned(tmp_path / "pets")
    assert len(sources) == 6
    assert sources.notes[-1] == "left out, since no table in it has labels: test"


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("jsonl", b'{"file_name": "0000.jpg", label: 3}', "line 1 is not valid JSON: "),
        ("csv", b"file_name,label\n0000.jpg,gr\xf6\xdfe\n", "line 2 is not in utf-8: "),
    ],
)
def test_table_that_cannot_be_read(tmp_path: Path, kind: str, content: bytes, message: str) -> None:
    table = flat(tmp_path / "pets", kind) / f"metadata.{kind}"
    table.write_bytes(content)
    with pytest.raises(UserError) as caught:
        scanned(tmp_path / "pets")
    assert str(caught.value).startswith(f"{table}: {message}")


@pytest.mark.parametrize("kind", KINDS)
def test_directories_and_other_columns(tmp_path: Path, kind: str) -> None:
    rows = []
    for number in range(8):
        draw(tmp_path / f"pets/images/{number}.png")
        split, group = ("train", "val")[number // 4], f"owner {number // 2}"
        rows.append({"file_name": f"images/{number}.png", "animal": number % 2, "split": split, "group": group})
    write(tmp_path / f"pets/metadata.{kind}", rows)
    sources = scanned(tmp_path / "pets", label_column="animal")
    assert (sources.class_names, sources.labels.tolist()) == (("0", "1"), [0, 1] * 4)
    assert sources.splits.tolist() == [0] * 4 + [1] * 4
    assert len(set(sources.groups.tolist())) == 4


def test_one_column_per_class(tmp_path: Path) -> None:
    rows = []
    for number in range(4):
        draw(tmp_path / f"pets/{number}.png")
        rows.append({"file_name": f"{number}.png", "a": number % 2, "b": 1 - number % 2})
    write(tmp_path / "pets/metadata.jsonl", rows)
    sources = scanned(tmp_path / "pets", label_columns=["a", "b"])
    assert (sources.class_names, sources.labels.tolist()) == (("a", "b"), [1, 0, 1, 0])


def test_missing_and_unlisted_images(tmp_path: Path) -> None:
    flat(tmp_path / "pets", "jsonl")
    (tmp_path / "pets/0002.jpg").unlink()
    draw(tmp_path / "pets/new.jpg")
    sources = scanned(tmp_path / "pets")
    assert [(r.path, r.reason[:41]) for r in sources.rejected] == [
        ("0002.jpg", "listed in the manifest, but not found: No")
    ]
    assert len(sources) == 5


def test_folders_of_classes_come_first(tmp_path: Path) -> None:
    """They were read before tables were. A note says that the table has labels, too."""
    root = tree(tmp_path / "pets", {"cats": 3, "dogs": 3})
    rows = [{"file_name": f"cats/{n:03d}.jpg", "label": "x" if n else "y"} for n in range(2)]
    table = write(root / "metadata.csv", [{**row, "breed": "z"} for row in rows])
    sources = scanned(root)
    assert sources.class_names == ("cats", "dogs")
    assert sources.notes[-1] == (
        f"the labels in {table} are not read, because the folders or the names of the images show the classes. To read"
        " the labels, name their column with --label_column, or pass the table as --manifest"
    )
    assert scanned(root, manifest=str(table)).class_names == ("x", "y")


def test_table_without_labels_is_not_read(tmp_path: Path) -> None:
    draw(tmp_path / "pets/1.jpg")
    write(tmp_path / "pets/metadata.jsonl", [{"file_name": "1.jpg", "text": "a caption"}])
    with pytest.raises(UserError, match=r"no images in class directories\."):
        scanned(tmp_path / "pets")


def test_two_tables(tmp_path: Path) -> None:
    flat(tmp_path / "pets", "csv")
    flat(tmp_path / "pets", "jsonl")
    with pytest.raises(UserError) as caught:
        scanned(tmp_path / "pets")
    assert str(caught.value) == (
        f"{tmp_path}/pets/metadata.csv and {tmp_path}/pets/metadata.jsonl both contain labels. Pass one of them as"
        " --manifest."
    )


# --- JSON Lines -------------------------------------------------------------------------------------------------------


def test_json_lines_as_a_manifest(tmp_path: Path) -> None:
    flat(tmp_path / "pets", "jsonl")
    (tmp_path / "pets/metadata.jsonl").rename(tmp_path / "pets/labels.jsonl")
    sources = scanned(tmp_path / "pets/labels.jsonl")
    assert labels(sources) == labels(scanned(tmp_path / "pets", manifest=str(tmp_path / "pets/labels.jsonl")))


def test_values_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "007", "b": 1, "c": "2020-01-01"}\n\n{"a": 7, "d": [1]}\r\n{"b": 2, "d": null}', "utf-8")
    table, delimiter = tables.read(str(path))
    assert delimiter == ""
    assert table.to_pydict() == {
        "a": ["007", "7", None], "b": [1, None, 2], "c": ["2020-01-01", None, None], "d": [None, [1], None],
    }  # fmt: skip
    path.write_text('{"a": "\\ud800é", "b\\udc00": ["\\ud800"]}', "utf-8")  # Halves of characters.
    assert tables.read(str(path))[0].to_pydict() == {"a": ["\\ud800é"], "b\\udc00": ['["\\ud800"]']}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a"', r"^.*x\.jsonl: line 2 is not valid JSON: .*\. Correct the line\.$"),
        ("[1]", r'^.*x\.jsonl: line 1 is not a JSON object such as \{"file_name": "1\.jpg"\}\. Correct the line\.$'),
    ],
)
def test_json_lines_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        tables.read(str(tmp_path / "x.jsonl"))
