"""Tests of Parquet files that contain images, the format of Hugging Face."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import contents, converted, image, run, scanned, tree

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import index
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.records import open_dataset
from tfrecord_tools.sources import parquet_images
from tfrecord_tools.sources.base import ReadError

NAMES = ["dog", "cat"]  # In label order.


def pictures(count: int, key: str = "") -> list[dict[str, Any]]:
    return [{"bytes": image(f"{key}{number}"), "path": f"{number}.jpg"} for number in range(count)]


def write(
    path: Path,
    columns: Mapping[str, Any],
    names: Mapping[str, Sequence[str]] | None = None,
    images: Sequence[str] = ("image",),
    **options: Any,
) -> Path:
    """Write a table with the metadata of the package `datasets`. `names`: column -> class names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    described: dict[str, Any] = {column: {"_type": "Image"} for column in images}
    described |= {column: {"names": list(of), "_type": "ClassLabel"} for column, of in (names or {}).items()}
    metadata = {"huggingface": json.dumps({"info": {"features": described}})} if names is not None else None
    pq.write_table(pa.table(dict(columns)).replace_schema_metadata(metadata), path, **options)
    return path


def plain(path: Path, count: int = 6, key: str = "", **options: Any) -> Path:
    labels = [number % 2 for number in range(count)]
    return write(path, {"image": pictures(count, key), "label": labels}, {"label": NAMES}, **options)


def refusal(src: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        scanned(src, **settings)
    return str(caught.value)


def read(sources: Any, number: int) -> bytes:
    return sources.store.read(sources.paths[number], sources.spans[number]).data


def test_single_file(tmp_path: Path) -> None:
    sources = scanned(plain(tmp_path / "pets.parquet"))
    assert sources.class_names == ("dog", "cat")  # The order in the metadata.
    assert sources.labels.tolist() == [0, 1] * 3
    assert list(sources.paths) == [f"pets.parquet:{row}" for row in range(1, 7)]
    assert [read(sources, number) for number in range(6)] == [image(str(number)) for number in range(6)]
    assert not sources.has_splits


@pytest.mark.parametrize(
    "columns",
    [
        {"img": pictures(4), "label": ["a", "b"] * 2},
        {"picture": pictures(4), "class": ["a", "b"] * 2},
        {"image": [p["bytes"] for p in pictures(4)], "label": ["a", "b"] * 2},  # Only bytes.
        {"content": pa.array([p["bytes"] for p in pictures(4)], pa.large_binary()), "label": ["a", "b"] * 2},
        {"image": [{"bytes": p["bytes"]} for p in pictures(4)], "label": ["a", "b"] * 2},
        {"image": pictures(4), "label": pa.array(["a", "b"] * 2).dictionary_encode()},
        {"image": pictures(4), "a": [1, 0, 1, 0], "b": [0, 1, 0, 1]},
    ],
)
def test_kinds_of_columns(tmp_path: Path, columns: dict[str, Any]) -> None:
    source = write(tmp_path / "pets.parquet", columns)
    sources = scanned(source, label_columns=["a", "b"] if "a" in columns else None)
    assert (sources.class_names, sources.labels.tolist()) == (("a", "b"), [0, 1, 0, 1])
    assert [read(sources, number) for number in range(4)] == [image(str(number)) for number in range(4)]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"], ["test", "train", "train"]),
        (["data/train-00000-of-00001", "data/validation-00000-of-00001"], ["train", "validation"]),
        (["test/0000", "train/0000", "train/0001"], ["test", "train", "train"]),
        (["default/test/0000", "default/train/0000"], ["test", "train"]),
        (["train", "val"], ["train", "validation"]),
        (["train-00000-of-00002", "train-00001-of-00002"], None),  # A single split is ignored.
        (["pets-0", "pets-1"], None),
    ],
)
def test_directories_of_files(tmp_path: Path, files: list[str], splits: list[str] | None) -> None:
    for file in files:
        plain(tmp_path / f"pets/{file}.parquet", 4, file)
    (tmp_path / "pets/README.md").write_text("# Pets")
    sources = scanned(tmp_path / "pets")
    assert sorted({path.partition(":")[0] for path in sources.paths}) == sorted(f"{file}.parquet" for file in files)
    assert sources.has_splits == (splits is not None)
    if splits:
        by_file = dict(zip((path.partition(":")[0] for path in sources.paths), sources.splits.tolist()))
        assert [SPLITS[by_file[f"{file}.parquet"]] for file in sorted(files)] == splits
    numbers = range(len(sources.paths))
    keys = [f"{path.partition('.')[0]}{int(path.partition(':')[2]) - 1}" for path in sources.paths]
    assert [read(sources, number) for number in numbers] == [image(key) for key in keys]


def test_unlabeled_test_split_is_left_out(tmp_path: Path) -> None:
    plain(tmp_path / "pets/train-00000-of-00001.parquet", 8, "train")
    plain(tmp_path / "pets/validation-00000-of-00001.parquet", 4, "validation")
    columns = {"image": pictures(3, "test"), "label": [-1, -1, -1]}
    write(tmp_path / "pets/test-00000-of-00001.parquet", columns, {"label": NAMES})
    sources = scanned(tmp_path / "pets")
    assert len(sources) == 12
    assert sources.rejected == ()
    assert sources.notes == (
        "3 of 15 rows are left out, since they have no label in the column 'label', 3 in test, for example"
        " test-00000-of-00001.parquet:1",
    )


def test_labels_without_a_name_are_rejected(tmp_path: Path) -> None:
    columns = {"image": pictures(5), "label": [0, 1, 2, None, -1]}
    sources = scanned(write(tmp_path / "pets.parquet", columns, {"label": NAMES}))
    assert [(r.path, r.reason) for r in sources.rejected] == [
        ("pets.parquet:3", "its label 2 has no name: the metadata of the table has 2 names")
    ]
    assert sources.notes[0].startswith(
        "2 of 5 rows are left out, since they have no label in the column 'label', for example"
    )


def test_several_columns_of_classes(tmp_path: Path) -> None:
    columns = {"img": pictures(4), "fine_label": [0, 1, 0, 1], "coarse_label": [1, 1, 0, 0]}
    names = {"fine_label": NAMES, "coarse_label": ["small", "large"]}
    source = write(tmp_path / "pets.parquet", columns, names, images=["img"])
    assert refusal(source) == (
        f"{source}: the columns fine_label, coarse_label all contain classes. Name the column of labels, for"
        " example --label_column=fine_label."
    )
    assert scanned(source, label_column="coarse_label").class_names == ("small", "large")


def test_one_column_of_classes_by_another_name(tmp_path: Path) -> None:
    columns = {"image": pictures(4), "animal": [0, 1, 0, 1], "age": [1, 2, 3, 4]}
    sources = scanned(write(tmp_path / "pets.parquet", columns, {"animal": NAMES}))
    assert sources.class_names == ("dog", "cat")
    assert sources.notes == ("the column 'animal' is read as the labels (see --label_column)",)


def test_several_columns_of_images(tmp_path: Path) -> None:
    columns = {"image": pictures(4), "mask": pictures(4, "mask"), "label": [0, 1, 0, 1]}
    source = write(tmp_path / "pets.parquet", columns, {"label": NAMES}, images=["image", "mask"])
    sources = scanned(source)
    assert read(sources, 1) == image("1")
    assert sources.notes == (
        "the images in the column 'image' are read, but the images in mask are not (see --path_column)",
    )
    assert read(scanned(source, path_column="mask"), 1) == image("mask1")
    assert refusal(source, path_column="nose") == (
        f"{source}: there is no column of images 'nose'. The columns of images are 'image', 'mask'. Name one with"
        " --path_column."
    )
    both = write(
        tmp_path / "two.parquet", {"left": pictures(2), "right": pictures(2), "label": [0, 1]}, {"label": NAMES}
    )
    assert (
        "several columns contain images. The columns of images are 'left', 'right'. Name one with --path_column."
        in refusal(both)
    )


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0.5, 1.5, 2.0, 0.5], "the column 'label' contains numbers with fractions, for example 0.5 in row 1."),
        (
            [["a", "b"], ["a"], ["b"], ["a"]],
            "1 of 4 rows have several labels in the column 'label', for example 'a', 'b' in",
        ),
        (
            ["a|b", "a", "b", "a"],
            "1 of 4 rows seem to have several labels in the column 'label', for example 'a|b' in row 1.",
        ),
        ([None, None, None, None], "no row has a label. Name the column of labels with --label_column."),
    ],
)
def test_invalid_labels_are_refused(tmp_path: Path, label: list[Any], message: str) -> None:
    assert message in refusal(write(tmp_path / "pets.parquet", {"image": pictures(4), "label": label}))


def test_no_column_of_labels(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "pets.parquet", {"image": pictures(2), "age": [1, 2]}))
    assert error.endswith(
        "there is no column 'label'. The columns are 'age'. Name the column of labels with --label_column."
    )


def test_label_regex_is_refused(tmp_path: Path) -> None:
    assert refusal(plain(tmp_path / "p.parquet"), label_regex="(.)") == (
        "--label_regex and Parquet files of images cannot be combined: a column gives the labels. Remove --label_regex."
    )


def test_split_is_refused(tmp_path: Path) -> None:
    assert refusal(plain(tmp_path / "p.parquet"), split=["train=p.parquet"]) == (
        "--split=train=p.parquet and Parquet files of images cannot be combined: the splits come from the names of the"
        " files, such as train.parquet and test.parquet, or from a column. Remove --split. To change the splits,"
        " rename the files, or pass --split_column."
    )


@pytest.mark.parametrize(
    ("patterns", "files"),
    [
        (["extra.parquet"], ["test", "train"]),
        (["t*"], ["extra"]),
        (["train.parquet", "./extra.parquet"], ["test"]),
    ],
)
def test_exclude_leaves_files_out(tmp_path: Path, patterns: list[str], files: list[str]) -> None:
    for name in ("train", "test", "extra"):
        plain(tmp_path / f"pets/{name}.parquet", 2, name)
    sources = scanned(tmp_path / "pets", exclude=patterns)
    assert sorted({path.partition(".")[0] for path in sources.paths}) == files
    count = 3 - len(files)
    assert sources.notes[0] == ("1 file is" if count == 1 else f"{count} files are") + " left out by --exclude"


def test_invalid_exclude_is_refused(tmp_path: Path) -> None:
    source = plain(tmp_path / "p.parquet")
    assert refusal(source, exclude=["q*"]).startswith(
        f"--exclude=q*: no path in {source} matches. Paths look like 'p.parquet'. Pass a pattern for paths relative to"
        " --src, for example '**/masks'."
    )
    assert refusal(source, exclude=["p*"]) == (
        f"--exclude=p*: no Parquet file of images in {source} is left. Remove a pattern."
    )


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    files = [plain(tmp_path / f"pets/train-0000{number}-of-00003.parquet", 4, str(number)) for number in range(3)]
    files[1].write_bytes(files[1].read_bytes()[:300])
    for src in (tmp_path / "pets", tmp_path / "pets/train-*.parquet"):
        message = refusal(src)
        assert message.startswith(f"--src={src}: {files[1].name} cannot be read as a Parquet file: ")
        assert message.endswith(f". Repair the file, or leave it out with --exclude={files[1].name}.")
    sources = scanned(tmp_path / "pets", exclude=[files[1].name])
    assert len(sources) == 8
    assert sources.notes == ("1 file is left out by --exclude",)
    files[1].unlink()
    assert scanned(tmp_path / "pets").notes == ("only 2 of 3 files train-*-of-00003.parquet are there",)
    assert scanned(tmp_path / "pets/train-*.parquet").notes == ()


def test_file_without_images_is_left_out(tmp_path: Path) -> None:
    plain(tmp_path / "pets/train.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "pets/numbers.parquet")
    sources = scanned(tmp_path / "pets")
    assert len(sources) == 6
    assert sources.notes == ("1 file is left out, since no images with labels were found in numbers.parquet",)


def test_classes_without_rows(tmp_path: Path) -> None:
    columns = {"image": pictures(4), "label": [0, 2, 0, 2]}
    sources = scanned(write(tmp_path / "pets.parquet", columns, {"label": ["dog", "cat", "ant"]}))
    assert (sources.class_names, sources.labels.tolist()) == (("dog", "ant"), [0, 1, 0, 1])
    assert sources.notes == ("1 class has no rows: cat. The labels of the dataset only count classes with images",)


def test_classes_with_the_same_name(tmp_path: Path) -> None:
    columns = {"image": pictures(4), "label": [0, 2, 0, 2]}
    source = write(tmp_path / "pets.parquet", columns, {"label": ["crane", "cat", "crane"]})
    assert refusal(source) == (
        f"{source}: the metadata of the column 'label' name several classes 'crane'. Every class must have its own"
        " name. Correct the metadata, or pass another column as --label_column."
    )


def test_directories_of_two_datasets(tmp_path: Path) -> None:
    for name in ("large", "small"):
        plain(tmp_path / f"pets/{name}/train.parquet")
    assert refusal(tmp_path / "pets") == (
        f"--src={tmp_path}/pets: Parquet files with images are in several directories, for example"
        f" {tmp_path}/pets/large and {tmp_path}/pets/small. Pass one of them as --src."
    )


def test_files_without_split_in_their_name(tmp_path: Path) -> None:
    for name in ("train", "test", "extra"):
        plain(tmp_path / f"pets/{name}.parquet", 2, name)
    sources = scanned(tmp_path / "pets")
    assert len(sources) == 4
    assert sources.notes == ("1 files are left out, since their names do not contain a split: extra.parquet",)


def test_other_parquet_files_are_not_images(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", {"a": 3, "b": 3})
    converted(source, tmp_path / "out", validation_fraction=0)
    assert not parquet_images.is_one(str(tmp_path / "out" / index.FILE_NAME))
    assert not parquet_images.is_one(str(source))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert not parquet_images.is_one(str(tmp_path / "broken.parquet"))


# --- Reading ---------------------------------------------------------------------------------------------------------


def test_images_given_as_paths(tmp_path: Path) -> None:
    rows: list[dict[str, str | None] | None]
    rows = [{"bytes": None, "path": f"images/{number}.jpg"} for number in range(3)]
    rows += [{"bytes": None, "path": None}, {"bytes": None, "path": "../gone.jpg"}, None]
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / f"images/{number}.jpg").write_bytes(image(str(number)))
    source = write(tmp_path / "pets.parquet", {"image": rows, "label": ["a", "b", "a", "b", "a", "b"]})
    sources = scanned(source)
    assert [read(sources, number) for number in range(3)] == [image(str(number)) for number in range(3)]
    reasons = {}
    for number in range(3, 6):
        with pytest.raises(ReadError) as caught:
            read(sources, number)
        reasons[number] = str(caught.value)
    assert reasons == {
        3: "its row has no image",
        4: "its row has no image, only the path '../gone.jpg', which cannot be read: No such file or directory",
        5: "its row has no image",
    }


@pytest.mark.parametrize("options", [{"row_group_size": 7}, {"compression": "zstd"}, {"data_page_size": 1 << 10}])
def test_same_records_in_any_order_and_number_of_workers(tmp_path: Path, options: dict[str, Any]) -> None:
    plain(tmp_path / "pets/train.parquet", 40, "train", **options)
    plain(tmp_path / "pets/test.parquet", 10, "test", **options)
    facts = [converted(tmp_path / "pets", tmp_path / f"out{workers}", workers=workers, shards=4) for workers in (1, 2)]
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")
    assert [c["name"] for c in facts[0]["classes"]] == NAMES
    data = open_dataset(tmp_path / "out1")
    for split, count in (("train", 40), ("test", 10)):
        records = data.records(split)
        assert len(records) == count
        for record in (records[number] for number in range(count)):
            row = int(record["path"].removeprefix(f"{split}.parquet:")) - 1
            assert record["image"] == image(f"{split}{row}")
            assert record["label"] == row % 2


def test_small_windows_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plain(tmp_path / "pets.parquet", 30)
    converted(source, tmp_path / "one", validation_fraction=0)
    monkeypatch.setattr("tfrecord_tools.conversion.write_shards._WINDOW_BYTES", 2000)
    converted(source, tmp_path / "other", validation_fraction=0)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_rows_in_random_order(tmp_path: Path) -> None:
    sources = scanned(plain(tmp_path / "pets.parquet", 50, row_group_size=20))
    for number in np.random.default_rng(0).integers(0, 50, 100).tolist():
        assert read(sources, number) == image(str(number))


def test_update_adds_new_rows(tmp_path: Path) -> None:
    plain(tmp_path / "pets.parquet", 20)
    converted(tmp_path / "pets.parquet", tmp_path / "out", validation_fraction=0)
    plain(tmp_path / "pets.parquet", 24)
    facts = converted(tmp_path / "pets.parquet", tmp_path / "out", update=True)
    assert facts["records"] == 24
    assert [c["name"] for c in facts["classes"]] == NAMES
    assert run("tfrecord_tools.verify", str(tmp_path / "out")).returncode == 0


def test_rows_without_images_are_rejected(tmp_path: Path) -> None:
    rows = pictures(20)
    rows[3] = {"bytes": b"<html>", "path": "3.jpg"}
    source = write(tmp_path / "pets.parquet", {"image": rows, "label": [n % 2 for n in range(20)]}, {"label": NAMES})
    facts = converted(source, tmp_path / "out", validation_fraction=0)
    assert (facts["records"], facts["rejected"]) == (19, 1)
    rejected = (tmp_path / "out/rejected.csv").read_text()
    assert "pets.parquet:4," in rejected
    assert "not an image (starts with b'<html>')" in rejected


def test_damaged_pages_are_rejected(tmp_path: Path) -> None:
    """Undamaged rows are read, and every damaged row is rejected."""
    source = plain(tmp_path / "pets.parquet", 40, row_group_size=20, compression="none", write_page_checksum=True)
    data = bytearray(source.read_bytes())
    position = data.index(image("30")) + 100
    data[position] ^= 0xFF
    source.write_bytes(data)
    sources = scanned(source)
    assert read(sources, 0) == image("0")
    with pytest.raises(ReadError, match="damaged Parquet file: "):
        read(sources, 30)
    facts = converted(source, tmp_path / "out", validation_fraction=0, max_bad=0.5)
    assert facts["records"] == 20
    assert "damaged Parquet file: " in (tmp_path / "out/rejected.csv").read_text()


def test_file_that_shrinks_after_listing(tmp_path: Path) -> None:
    source = plain(tmp_path / "pets.parquet", 40, row_group_size=20)
    sources = scanned(source)
    assert read(sources, 39) == image("39")
    plain(source, 10)
    os.utime(source, ns=(1, 1))
    with pytest.raises(ReadError, match="the row no longer exists in the Parquet file"):
        read(sources, 39)
    source.unlink()
    with pytest.raises(FileNotFoundError):
        read(sources, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_convert_command(tmp_path: Path, workers: int) -> None:
    """With one worker, Python exits with unread rows. It must exit without messages."""
    plain(tmp_path / "pets.parquet", 40)
    flags = ["--src=pets.parquet", "--validation_fraction=0", f"--workers={workers}"]
    done = run("tfrecord_tools.convert", *flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()[2:4]] == [["0", "dog", "20"], ["1", "cat", "20"]]


def test_same_records_as_from_directories(tmp_path: Path) -> None:
    """Only the paths differ."""
    source = plain(tmp_path / "pets.parquet", 12)
    for number in range(12):
        file = tmp_path / f"pets/{NAMES[number % 2]}/{number:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image(str(number)))
    columns = ["sha256", "height", "width", "split"]
    rows = []
    for src, out in ((source, "one"), (tmp_path / "pets", "other")):
        converted(src, tmp_path / out, validation_fraction=0, classes=NAMES)
        rows.append(index.read(tmp_path / out / index.FILE_NAME, [*columns, "label"]).to_pylist())
    assert rows[0] == rows[1]


def test_other_image_formats(tmp_path: Path) -> None:
    rows = [{"bytes": image(str(n), "PNG" if n % 2 else "BMP"), "path": None} for n in range(6)]
    facts = converted(
        write(tmp_path / "pets.parquet", {"image": rows, "label": ["a", "b"] * 3}),
        tmp_path / "out",
        validation_fraction=0,
    )
    assert facts["records"] == 6
    data = open_dataset(tmp_path / "out").records("train")
    assert all(io.BytesIO(data[n]["image"]).read(4) == b"\x89PNG" for n in range(6))
