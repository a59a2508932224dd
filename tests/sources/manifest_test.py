"""Tests of manifests: what they may say, in which form, and how mistakes are told."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from image_sources import contents, converted, scanned, tree

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.records import open_dataset
from tfrecord_tools.sources import manifest
from tfrecord_tools.sources.scan import TO_BE_SPLIT, Sources

COLUMNS = {name: name for name in ("path", "label", "split", "group")}
Write = Callable[[Path, Mapping[str, Sequence[Any]]], Path]


def write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    path = path.with_suffix(".csv")
    pyarrow.csv.write_csv(pa.table({name: list(map(str, values)) for name, values in columns.items()}), path)
    return path


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(params=[write_csv, write_parquet], ids=["csv", "parquet"])
def write(request: pytest.FixtureRequest) -> Write:
    return request.param


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Six images in one directory, whose names say nothing."""
    return tree(tmp_path / "pool", {"": 6})


NAMES = ["000.jpg", "001.jpg", "002.png", "003.jpg", "004.jpg", "005.png"]


def labels(found: Sources) -> dict[str, str]:
    return {path: found.class_names[label] for path, label in zip(found.paths, found.labels)}


def refusal(table: Path, **columns: str) -> str:
    with pytest.raises(UserError) as caught:
        manifest.read(str(table), str(table.parent), manifest.Reading(columns=COLUMNS | columns))
    return str(caught.value)


def csv_of(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# --- What it says --------------------------------------------------------------------------------------------------


def test_labels_splits_and_groups_are_those_of_the_rows(pool: Path, tmp_path: Path, write: Write) -> None:
    rows = {
        "path": NAMES[::-1],  # The order of the rows does not matter.
        "label": ["dog", "cat"] * 3,
        "split": ["train", "Training", "val", "validation", "test", "TEST"],
        "group": ["a", "b", "", "a", "b", ""],
    }
    found = scanned(pool, manifest=str(write(tmp_path / "list", rows)))
    assert list(found.paths) == NAMES
    assert labels(found) == {name: ("cat", "dog")[i % 2] for i, name in enumerate(NAMES)}
    assert [SPLITS[split] for split in found.splits] == ["test", "test", "validation", "validation", "train", "train"]
    assert found.has_splits
    groups = found.groups.tolist()
    assert groups[0] == groups[3] == 0  # None.
    assert groups[1] == groups[4] != groups[2] == groups[5]


def test_as_source_itself_its_paths_start_where_it_lies(pool: Path, write: Write) -> None:
    table = write(pool / "list", {"path": NAMES, "label": ["cat", "dog"] * 3})
    found = scanned(table)
    assert list(found.paths) == NAMES
    assert found.splits.tolist() == [TO_BE_SPLIT] * 6
    assert not found.has_splits
    assert not found.groups.any()


def test_columns_of_other_names(pool: Path, tmp_path: Path, write: Write) -> None:
    rows = {"file": NAMES, "breed": ["a", "b"] * 3, "fold": ["train", "test"] * 3, "dog": ["x"] * 6, "more": range(6)}
    names = {"path_column": "file", "label_column": "breed", "split_column": "fold", "group_column": "dog"}
    found = scanned(pool, manifest=str(write(tmp_path / "list", rows)), **names)
    assert labels(found)["001.jpg"] == "b"
    assert set(found.splits.tolist()) == {0, 2}
    assert len(set(found.groups.tolist())) == 1


def test_only_named_images_are_taken(pool: Path, tmp_path: Path, write: Write) -> None:
    found = scanned(pool, manifest=str(write(tmp_path / "list", {"path": NAMES[:2], "label": ["a", "b"]})))
    assert (list(found.paths), found.rejected) == (NAMES[:2], ())


def test_converted_like_directories_of_the_same_images(tmp_path: Path, write: Write) -> None:
    source = tree(tmp_path / "pets", {"cats": 8, "dogs": 8})
    paths = sorted(contents(source))
    table = write(tmp_path / "list", {"path": paths, "label": [path.split("/")[0] for path in paths]})
    digests = [
        converted(source, tmp_path / f"out{i}", validation_fraction=0.4, manifest=named)["digest"]
        for i, named in enumerate([None, str(table)])
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("values", "class_names"),
    [
        (["7", "007", "08"], ("007", "7", "08")),  # Text, as it stands there; sorted as numbers.
        (["9", "10", "100"], ("9", "10", "100")),
        (["9", "10", "ten"], ("10", "9", "ten")),  # Not all are numbers.
        (["1.50", "1.5", "true"], ("1.5", "1.50", "true")),
        (["NA", "null", "nan"], ("NA", "nan", "null")),
    ],
)
def test_labels_stay_as_they_are_written(pool: Path, values: list[str], class_names: tuple[str, ...]) -> None:
    rows = "".join(f"{name},{value}\n" for name, value in zip(NAMES, values))
    assert scanned(csv_of(pool / "list.csv", f"path,label\n{rows}")).class_names == class_names


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8()])
def test_integer_labels_are_sorted_as_numbers(pool: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"path": NAMES, "label": pa.array([9, 10, 100] * 2, kind)}), pool / "list.parquet")
    assert scanned(pool / "list.parquet").class_names == ("9", "10", "100")


def test_dictionary_of_labels_in_parquet(pool: Path) -> None:
    values = pa.array(["a", "b"] * 3).dictionary_encode()
    pq.write_table(pa.table({"path": NAMES, "label": values}), pool / "list.parquet")
    assert scanned(pool / "list.parquet").class_names == ("a", "b")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,label\n000.jpg,a\n001.jpg,b\n",  # A spreadsheet's byte order mark.
        "path,label\r\n000.jpg,a\r\n001.jpg,b\r\n",
        "path,label\n000.jpg,a\n001.jpg,b",
        '"path","label"\n"000.jpg","a"\n"001.jpg","b"\n',
        "path,label\n000.jpg, a \n001.jpg,b\n",
        "label,x,path\na,,000.jpg\nb,,001.jpg\n",
        "path,label\n\n000.jpg,a\n\n001.jpg,b\n\n",
    ],
)
def test_dialects_of_csv(pool: Path, text: str) -> None:
    assert labels(scanned(csv_of(pool / "list.csv", text))) == {"000.jpg": "a", "001.jpg": "b"}


@pytest.mark.parametrize("label", ["a,b", 'the "dog"', "猫", "Katze süß"])
def test_quoted_and_unicode_labels(pool: Path, write: Write, label: str) -> None:
    table = write(pool / "list", {"path": NAMES[:2], "label": [label, "x"]})
    assert labels(scanned(table))["000.jpg"] == label


def test_paths_are_made_plain(tmp_path: Path, write: Write) -> None:
    """However they are written, the records are the same."""
    source = tree(tmp_path / "pets", {"cats": 2, "dogs": 2})
    written = [f"{source}/cats/000.jpg", "./cats/001.jpg", "dogs//000.jpg", "cats/../dogs/001.jpg"]
    found = scanned(source, manifest=str(write(tmp_path / "list", {"path": written, "label": ["a", "a", "b", "b"]})))
    assert list(found.paths) == ["cats/000.jpg", "cats/001.jpg", "dogs/000.jpg", "dogs/001.jpg"]
    assert found.rejected == ()


def test_relative_source_takes_absolute_paths(pool: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    monkeypatch.chdir(pool.parent)
    table = write(pool / "list", {"path": [str(pool / name) for name in NAMES[:2]], "label": ["a", "b"]})
    assert list(scanned(Path("pool") / table.name).paths) == NAMES[:2]


def test_images_elsewhere(pool: Path, tmp_path: Path, write: Write) -> None:
    (tmp_path / "lists").mkdir()
    table = write(tmp_path / "lists/list", {"path": ["../pool/000.jpg", str(pool / "001.jpg")], "label": ["a", "b"]})
    found = scanned(table)
    assert list(found.paths) == [str(pool / "001.jpg"), "../pool/000.jpg"]
    converted(table, tmp_path / "out", validation_fraction=0)
    data = open_dataset(tmp_path / "out").records("train")
    assert {data[i]["image"] for i in range(2)} == {(pool / name).read_bytes() for name in NAMES[:2]}


def test_groups_stay_on_one_side(tmp_path: Path, write: Write) -> None:
    source = tree(tmp_path / "pool", {"": 60})
    names = sorted(contents(source))
    rows = {"path": names, "label": ["a", "b"] * 30, "group": [f"animal {i // 4}" for i in range(60)]}
    converted(source, tmp_path / "out", manifest=str(write(tmp_path / "list", rows)), validation_fraction=0.5)
    data = open_dataset(tmp_path / "out")
    sides: dict[str, set[str]] = {}
    for split in data.splits:
        for number in range(len(data.records(split))):
            place = names.index(data.records(split)[number]["path"])
            sides.setdefault(rows["group"][place], set()).add(split)
    assert {len(splits) for splits in sides.values()} == {1}
    assert {split for splits in sides.values() for split in splits} == {"train", "validation"}


# --- With --exclude --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["directory", "with a file that is missing", "zip"])
@pytest.mark.parametrize(
    ("patterns", "left", "note"),
    [
        (["x/000.jpg"], 5, "1 file is left out by --exclude"),
        (["x"], 2, "4 files are left out by --exclude"),
        (["**/00[01].jpg"], 2, "4 files are left out by --exclude"),
        (["x/000.jpg", "y/*1.jpg"], 4, "2 files are left out by --exclude"),
    ],
)
def test_exclude_leaves_rows_out(
    tmp_path: Path, write: Write, kind: str, patterns: list[str], left: int, note: str
) -> None:
    members = contents(tree(tmp_path / "pool", {"x": 4, "y": 2}))
    source = tmp_path / "pool"
    if kind == "zip":
        source = tmp_path / "a.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for name, data in members.items():
                archive.writestr(f"pets/{name}", data)
    missing = ["z/9.jpg"] if "missing" in kind else []
    rows = {"path": [*sorted(members), *missing], "label": (["a", "b"] * 4)[: len(members) + len(missing)]}
    found = scanned(source, manifest=str(write(tmp_path / "list", rows)), exclude=patterns)
    assert (len(found), [r.path for r in found.rejected]) == (left, missing)
    assert note in found.notes
    assert labels(found) == {p: la for p, la in zip(rows["path"], rows["label"]) if p in found.paths}


def test_exclude_that_matches_no_row(pool: Path, tmp_path: Path, write: Write) -> None:
    table = write(tmp_path / "list", {"path": NAMES[:4], "label": ["a", "b"] * 2})
    with pytest.raises(UserError, match=r"--exclude=005\.png: no path in .* matches\. Paths look like '000\.jpg'\."):
        scanned(pool, manifest=str(table), exclude=["005.png"])  # There, but not named.


# --- With archives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "pets/"])
@pytest.mark.parametrize("written", ["", "pets/"])
def test_names_members_of_a_zip(tmp_path: Path, write: Write, inside: str, written: str) -> None:
    """With the directory that contains everything, or without."""
    members = contents(tree(tmp_path / "pool", {"x": 4, "y": 2}))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(inside + name, data)
    rows = {"path": [written + name for name in sorted(members)], "label": ["a", "b"] * 3}
    table = str(write(tmp_path / "list", rows))
    found = scanned(tmp_path / "a.zip", manifest=table)
    assert bool(found.notes) == bool(written and not inside)
    assert labels(found) == {name: "ab"[i % 2] for i, name in enumerate(sorted(members))}
    assert [found.store.read(p, s).data for p, s in zip(found.paths, found.spans)] == [members[p] for p in found.paths]


def test_members_that_are_missing_or_cannot_be_read(tmp_path: Path, write: Write) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("1.jpg", "2.jpg"):
            archive.writestr(name, b"")
        archive.writestr("3.jpg", b"", zipfile.ZIP_BZIP2)
        archive.writestr("4.jpg", b"", zipfile.ZIP_BZIP2)  # Not named, so that nobody asks.
    rows = {"path": ["1.jpg", "2.jpg", "3.jpg", "5.jpg"], "label": ["a", "b", "a", "b"]}
    found = scanned(tmp_path / "a.zip", manifest=str(write(tmp_path / "list", rows)))
    assert list(found.paths) == ["1.jpg", "2.jpg"]
    assert sorted(found.rejected, key=lambda r: r.path) == [
        Rejected(path="3.jpg", reason="unsupported zip compression: unpack the archive first"),
        Rejected(path="5.jpg", reason="named by the manifest, but not in the archive"),
    ]


# --- Mistakes ------------------------------------------------------------------------------------------------------


def test_missing_files_are_rejected(pool: Path, write: Write) -> None:
    found = scanned(write(pool / "list", {"path": [*NAMES, "gone.jpg"], "label": ["a", "b"] * 3 + ["a"]}))
    reason = "named by the manifest, but not found: No such file or directory"
    assert found.rejected == (Rejected(path="gone.jpg", reason=reason),)
    assert len(found) == 6


def test_missing_files_of_classes_left_out_count_for_nothing(pool: Path, write: Write) -> None:
    rows = {"path": [*NAMES, "gone.jpg"], "label": ["a", "b"] * 3 + ["c"]}
    assert scanned(write(pool / "list", rows), classes=["a", "b"]).rejected == ()


def test_no_file_is_found_at_all(pool: Path, tmp_path: Path, write: Write) -> None:
    table = write(tmp_path / "list", {"path": ["x/1.jpg", "x/2.jpg"], "label": ["a", "b"]})
    with pytest.raises(UserError) as caught:
        scanned(pool, manifest=str(table))
    assert str(caught.value) == (
        f"--src={pool}: no usable images. 2 files cannot be used, for example x/1.jpg:"
        " named by the manifest, but not found: No such file or directory."
    )


def test_one_class_is_refused_without_a_wrong_guess(pool: Path, write: Write) -> None:
    table = write(pool / "list", {"path": NAMES, "label": ["a"] * 6})
    with pytest.raises(UserError, match=r"there is only one class, 'a'\. A classifier needs at least two\.$"):
        scanned(table)


def test_no_such_manifest(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        scanned(pool, manifest=str(tmp_path / "gone.csv"))
    assert str(caught.value) == (
        f"--manifest={tmp_path}/gone.csv: no such file. A CSV or Parquet file with a path and a label is expected."
    )


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (
            "where,label",
            {},
            "no column 'path'; there is 'where', 'label'. Name the column of paths with --path_column.",
        ),
        ("path,what", {}, "no column 'label'; there is 'path', 'what'. Name the column of labels with --label_column."),
        (
            "file,image,label",
            {},
            "no column 'path', but 'file', 'image', which may each hold the paths. Name the column of paths with",
        ),
        (
            "path,class,breed",
            {},
            "no column 'label', but 'class', 'breed', which may each hold the labels. Name the column of labels with",
        ),
        (
            "a.jpg,dog",
            {},
            "its first line looks like a row, 'a.jpg', 'dog'. Write a copy that begins with a line of names, s",
        ),
        ("path,label", {"path": "file"}, "no column 'file'; there is 'path', 'label'. Name the column of paths with"),
        ("path,label", {"split": "fold"}, "no column 'fold'; there is 'path', 'label'. Name the column of splits with"),
        ("path,label", {"group": "dog"}, "no column 'dog'; there is 'path', 'label'. Name the column of groups with"),
        ("path,path,label", {}, "2 columns are named 'path'; there is 'path', 'path', 'label'."),
        (
            ",".join(["label", *(f"pixel{i}" for i in range(784))]),
            {},
            "'pixel8' and 775 more. Name the column of paths with --path_column. (A CSV of pixels is not a manifest:"
            " pass it as --src.)",
        ),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, names: str, columns: dict[str, str], message: str) -> None:
    table = csv_of(tmp_path / "list.csv", f"{names}\n{','.join('x' * (names.count(',') + 1))}\n")
    told = refusal(table, **columns)
    assert told.startswith(f"{table}: ")
    assert message in told


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.jpg,x,train\n,y,train\n", "row 2 has no value in the column 'path'."),
        (
            "a.jpg,,train\nb.jpg,  ,train\n",
            "no row has a value in the column 'label'. Name the column of labels with --label_column.",
        ),
        ("a.jpg,x,train\nb.jpg,y,\n", "row 2 has no value in the column 'split'."),  # All have one or none.
        ("a.jpg,x,train\nb.jpg,x,train\na.jpg,x,test\n", "'a.jpg' stands in rows 1 and 3. Keep one."),
        ("d/a.jpg,x,train\n./d//a.jpg,x,test\n", "'d/a.jpg' stands in rows 1 and 2. Keep one."),
        (
            "a.jpg,x,train\na.jpg,y,train\n",  # Several labels, a row each.
            "'a.jpg' stands in rows 1 and 2, with the labels 'x' and 'y'. An image has one label here. Keep one.",
        ),
        ("", "it has no rows."),
    ],
)
def test_rows_that_cannot_be(tmp_path: Path, rows: str, message: str) -> None:
    table = csv_of(tmp_path / "list.csv", f"path,label,split\n{rows}")
    assert refusal(table) == f"{table}: {message}"


def test_rows_without_a_label_are_left_out(pool: Path, write: Write) -> None:
    table = write(pool / "list", {"path": NAMES, "label": ["x", "", "y", " ", "x", "y"]})
    found = scanned(table)
    assert list(found.paths) == ["000.jpg", "002.png", "004.jpg", "005.png"]
    assert found.rejected == ()
    assert found.notes == ("2 of 6 rows are left out, since they have no label in the column 'label', such as row 2",)


def test_path_twice_once_absolute(pool: Path) -> None:
    table = csv_of(pool / "list.csv", f"path,label\n000.jpg,a\n{pool}/000.jpg,a\n")
    assert refusal(table) == f"{table}: '000.jpg' stands in rows 1 and 2. Keep one."


def test_split_that_is_none(pool: Path, write: Write) -> None:
    table = write(pool / "list", {"path": NAMES[:2], "label": ["a", "b"], "split": ["train", "later"]})
    with pytest.raises(UserError) as caught:
        scanned(table)
    assert str(caught.value) == (
        f"{table}: 'later' in the column 'split' is not a split. Use train, training, trn, val, valid,"
        " validation, dev, eval, test, testing, tst, holdout, or name another column with --split_column."
    )


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("list.csv", b"", "Empty CSV file"),
        ("list.csv", b"path,label\na\n", "Expected 2 columns, got 1"),
        ("list.csv", "path,label\na,b\n".encode("utf-16-le"), "it holds zero bytes"),
        ("list.parquet", b"path,label\na,b\n", "Parquet magic bytes not found"),
        ("list.parquet", b"PAR1", ""),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    told = refusal(csv_of(tmp_path / name, data))
    assert told.startswith(f"{tmp_path}/{name}: cannot be read as a table of images and labels: ")
    assert message in told
    assert told.endswith(
        "Pass a Parquet file, or a CSV in UTF-8 with values separated by commas, semicolons, tabs or |."
    )


def test_cut_parquet(tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "list", {"path": ["a", "b"], "label": ["x", "y"]})
    os.truncate(table, table.stat().st_size - 10)
    assert "cannot be read as a table" in refusal(table)


def test_label_regex_and_manifest_exclude_each_other(pool: Path, write: Write) -> None:
    table = write(pool / "list", {"path": NAMES, "label": ["a", "b"] * 3})
    with pytest.raises(UserError, match="--label_regex and a manifest cannot be combined: the manifest gives the lab"):
        scanned(table, label_regex="(.)")


@pytest.mark.parametrize("label", ["a\x1b[31mb", "x\x07"])
def test_labels_that_cannot_be_kept(pool: Path, write: Write, label: str) -> None:
    table = write(pool / "list", {"path": NAMES[:2], "label": [label, "b"]})
    with pytest.raises(
        UserError,
        match=r"the class name '.*' must not be empty, begin or end with a space, or contain control characters",
    ):
        scanned(table)
