"""Tests of manifests: columns, formats and error messages."""

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
    """Six images in one directory, with names that are only numbers."""
    return tree(tmp_path / "pool", {"": 6})


NAMES = ["000.jpg", "001.jpg", "002.png", "003.jpg", "004.jpg", "005.png"]


def labels(sources: Sources) -> dict[str, str]:
    return {path: sources.class_names[label] for path, label in zip(sources.paths, sources.labels)}


def refusal(table: Path, **columns: str) -> str:
    with pytest.raises(UserError) as caught:
        manifest.read(str(table), str(table.parent), manifest.Reading(columns=COLUMNS | columns))
    return str(caught.value)


def csv_of(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# --- Columns and labels ----------------------------------------------------------------------------------------------


def test_labels_splits_and_groups(pool: Path, tmp_path: Path, write: Write) -> None:
    rows = {
        "path": NAMES[::-1],  # The order of the rows does not matter.
        "label": ["dog", "cat"] * 3,
        "split": ["train", "Training", "val", "validation", "test", "TEST"],
        "group": ["a", "b", "", "a", "b", ""],
    }
    sources = scanned(pool, manifest=str(write(tmp_path / "list", rows)))
    assert list(sources.paths) == NAMES
    assert labels(sources) == {name: ("cat", "dog")[i % 2] for i, name in enumerate(NAMES)}
    assert [SPLITS[split] for split in sources.splits] == ["test", "test", "validation", "validation", "train", "train"]
    assert sources.has_splits
    groups = sources.groups.tolist()
    assert groups[0] == groups[3] == 0  # No group.
    assert groups[1] == groups[4] != groups[2] == groups[5]


def test_manifest_as_source(pool: Path, write: Write) -> None:
    table = write(pool / "list", {"path": NAMES, "label": ["cat", "dog"] * 3})
    sources = scanned(table)
    assert list(sources.paths) == NAMES
    assert sources.splits.tolist() == [TO_BE_SPLIT] * 6
    assert not sources.has_splits
    assert not sources.groups.any()


def test_columns_with_other_names(pool: Path, tmp_path: Path, write: Write) -> None:
    rows = {"file": NAMES, "breed": ["a", "b"] * 3, "fold": ["train", "test"] * 3, "dog": ["x"] * 6, "more": range(6)}
    names = {"path_column": "file", "label_column": "breed", "split_column": "fold", "group_column": "dog"}
    sources = scanned(pool, manifest=str(write(tmp_path / "list", rows)), **names)
    assert labels(sources)["001.jpg"] == "b"
    assert set(sources.splits.tolist()) == {0, 2}
    assert len(set(sources.groups.tolist())) == 1


def test_images_outside_of_the_manifest_are_ignored(pool: Path, tmp_path: Path, write: Write) -> None:
    sources = scanned(pool, manifest=str(write(tmp_path / "list", {"path": NAMES[:2], "label": ["a", "b"]})))
    assert (list(sources.paths), sources.rejected) == (NAMES[:2], ())


def test_same_digest_as_class_directories(tmp_path: Path, write: Write) -> None:
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
        (["7", "007", "08"], ("007", "7", "08")),  # Stored as text, sorted as numbers.
        (["9", "10", "100"], ("9", "10", "100")),
        (["9", "10", "ten"], ("10", "9", "ten")),  # Not all are numbers.
        (["1.50", "1.5", "true"], ("1.5", "1.50", "true")),
        (["NA", "null", "nan"], ("NA", "nan", "null")),
    ],
)
def test_labels_are_text(pool: Path, values: list[str], class_names: tuple[str, ...]) -> None:
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
        "\ufeffpath,label\n000.jpg,a\n001.jpg,b\n",  # The byte order mark of a spreadsheet.
        "path,label\r\n000.jpg,a\r\n001.jpg,b\r\n",
        "path,label\n000.jpg,a\n001.jpg,b",
        '"path","label"\n"000.jpg","a"\n"001.jpg","b"\n',
        "path,label\n000.jpg, a \n001.jpg,b\n",
        "label,x,path\na,,000.jpg\nb,,001.jpg\n",
        "path,label\n\n000.jpg,a\n\n001.jpg,b\n\n",
    ],
)
def test_csv_dialects(pool: Path, text: str) -> None:
    assert labels(scanned(csv_of(pool / "list.csv", text))) == {"000.jpg": "a", "001.jpg": "b"}


@pytest.mark.parametrize("label", ["a,b", 'the "dog"', "猫", "Katze süß"])
def test_quoted_and_unicode_labels(pool: Path, write: Write, label: str) -> None:
    table = write(pool / "list", {"path": NAMES[:2], "label": [label, "x"]})
    assert labels(scanned(table))["000.jpg"] == label


def test_paths_are_normalized(tmp_path: Path, write: Write) -> None:
    """Different notations of a path match the same file."""
    source = tree(tmp_path / "pets", {"cats": 2, "dogs": 2})
    written = [f"{source}/cats/000.jpg", "./cats/001.jpg", "dogs//000.jpg", "cats/../dogs/001.jpg"]
    sources = scanned(source, manifest=str(write(tmp_path / "list", {"path": written, "label": ["a", "a", "b", "b"]})))
    assert list(sources.paths) == ["cats/000.jpg", "cats/001.jpg", "dogs/000.jpg", "dogs/001.jpg"]
    assert sources.rejected == ()


def test_relative_source_takes_absolute_paths(pool: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    monkeypatch.chdir(pool.parent)
    table = write(pool / "list", {"path": [str(pool / name) for name in NAMES[:2]], "label": ["a", "b"]})
    assert list(scanned(Path("pool") / table.name).paths) == NAMES[:2]


def test_images_outside_of_the_source(pool: Path, tmp_path: Path, write: Write) -> None:
    (tmp_path / "lists").mkdir()
    table = write(tmp_path / "lists/list", {"path": ["../pool/000.jpg", str(pool / "001.jpg")], "label": ["a", "b"]})
    sources = scanned(table)
    assert list(sources.paths) == [str(pool / "001.jpg"), "../pool/000.jpg"]
    converted(table, tmp_path / "out", validation_fraction=0)
    data = open_dataset(tmp_path / "out").records("train")
    assert {data[i]["image"] for i in range(2)} == {(pool / name).read_bytes() for name in NAMES[:2]}


def test_groups_get_one_split(tmp_path: Path, write: Write) -> None:
    source = tree(tmp_path / "pool", {"": 60})
    names = sorted(contents(source))
    rows = {"path": names, "label": ["a", "b"] * 30, "group": [f"animal {i // 4}" for i in range(60)]}
    converted(source, tmp_path / "out", manifest=str(write(tmp_path / "list", rows)), validation_fraction=0.5)
    data = open_dataset(tmp_path / "out")
    splits_of: dict[str, set[str]] = {}
    for split in data.splits:
        for number in range(len(data.records(split))):
            row = names.index(data.records(split)[number]["path"])
            splits_of.setdefault(rows["group"][row], set()).add(split)
    assert {len(splits) for splits in splits_of.values()} == {1}
    assert {split for splits in splits_of.values() for split in splits} == {"train", "validation"}


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
    sources = scanned(source, manifest=str(write(tmp_path / "list", rows)), exclude=patterns)
    assert (len(sources), [r.path for r in sources.rejected]) == (left, missing)
    assert note in sources.notes
    assert labels(sources) == {p: la for p, la in zip(rows["path"], rows["label"]) if p in sources.paths}


def test_exclude_that_matches_no_row(pool: Path, tmp_path: Path, write: Write) -> None:
    table = write(tmp_path / "list", {"path": NAMES[:4], "label": ["a", "b"] * 2})
    with pytest.raises(UserError, match=r"--exclude=005\.png: no path in .* matches\. Paths look like '000\.jpg'\."):
        scanned(pool, manifest=str(table), exclude=["005.png"])  # The file exists, but is not in the manifest.


# --- With archives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "pets/"])
@pytest.mark.parametrize("written", ["", "pets/"])
def test_members_of_a_zip(tmp_path: Path, write: Write, inside: str, written: str) -> None:
    """With or without the directory that contains everything."""
    members = contents(tree(tmp_path / "pool", {"x": 4, "y": 2}))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(inside + name, data)
    rows = {"path": [written + name for name in sorted(members)], "label": ["a", "b"] * 3}
    table = str(write(tmp_path / "list", rows))
    sources = scanned(tmp_path / "a.zip", manifest=table)
    assert bool(sources.notes) == bool(written and not inside)
    assert labels(sources) == {name: "ab"[i % 2] for i, name in enumerate(sorted(members))}
    assert [sources.store.read(p, s).data for p, s in zip(sources.paths, sources.spans)] == [
        members[p] for p in sources.paths
    ]


def test_members_that_are_missing_or_cannot_be_read(tmp_path: Path, write: Write) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("1.jpg", "2.jpg"):
            archive.writestr(name, b"")
        archive.writestr("3.jpg", b"", zipfile.ZIP_BZIP2)
        archive.writestr("4.jpg", b"", zipfile.ZIP_BZIP2)  # Not in the manifest, so not reported.
    rows = {"path": ["1.jpg", "2.jpg", "3.jpg", "5.jpg"], "label": ["a", "b", "a", "b"]}
    sources = scanned(tmp_path / "a.zip", manifest=str(write(tmp_path / "list", rows)))
    assert list(sources.paths) == ["1.jpg", "2.jpg"]
    assert sorted(sources.rejected, key=lambda r: r.path) == [
        Rejected(path="3.jpg", reason="unsupported zip compression: unpack the archive first"),
        Rejected(path="5.jpg", reason="listed in the manifest, but not in the archive"),
    ]


# --- Errors ------------------------------------------------------------------------------------------------------


def test_missing_files_are_rejected(pool: Path, write: Write) -> None:
    sources = scanned(write(pool / "list", {"path": [*NAMES, "gone.jpg"], "label": ["a", "b"] * 3 + ["a"]}))
    reason = "listed in the manifest, but not found: No such file or directory"
    assert sources.rejected == (Rejected(path="gone.jpg", reason=reason),)
    assert len(sources) == 6


def test_missing_files_of_classes_left_out_are_not_reported(pool: Path, write: Write) -> None:
    rows = {"path": [*NAMES, "gone.jpg"], "label": ["a", "b"] * 3 + ["c"]}
    assert scanned(write(pool / "list", rows), classes=["a", "b"]).rejected == ()


def test_all_files_missing(pool: Path, tmp_path: Path, write: Write) -> None:
    table = write(tmp_path / "list", {"path": ["x/1.jpg", "x/2.jpg"], "label": ["a", "b"]})
    with pytest.raises(UserError) as caught:
        scanned(pool, manifest=str(table))
    assert str(caught.value) == (
        f"--src={pool}: no usable images. 2 files cannot be used, for example x/1.jpg:"
        " listed in the manifest, but not found: No such file or directory."
    )


def test_single_class_is_refused_without_a_hint(pool: Path, write: Write) -> None:
    table = write(pool / "list", {"path": NAMES, "label": ["a"] * 6})
    with pytest.raises(UserError, match=r"there is only one class, 'a'\. A classifier needs at least two\.$"):
        scanned(table)


def test_missing_manifest_is_refused(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        scanned(pool, manifest=str(tmp_path / "gone.csv"))
    assert str(caught.value) == (
        f"--manifest={tmp_path}/gone.csv: does not exist. Pass a CSV or Parquet file with columns for path and label."
    )


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (
            "where,label",
            {},
            "there is no column 'path'. The columns are 'where', 'label'. Name the column of paths with --path_column.",
        ),
        (
            "path,what",
            {},
            "there is no column 'label'. The columns are 'path', 'what'. Name the column of labels with"
            " --label_column.",
        ),
        (
            "file,image,label",
            {},
            "there is no column 'path'. Several columns may contain the paths: 'file', 'image'. Name the column of"
            " paths with",
        ),
        (
            "path,class,breed",
            {},
            "there is no column 'label'. Several columns may contain the labels: 'class', 'breed'. Name the column of"
            " labels w",
        ),
        (
            "a.jpg,dog",
            {},
            "the first line must name the columns, but it looks like a row of data: 'a.jpg', 'dog'. Add a line s",
        ),
        (
            "path,label",
            {"path": "file"},
            "no column 'file'. The columns are 'path', 'label'. Name the column of paths with",
        ),
        (
            "path,label",
            {"split": "fold"},
            "no column 'fold'. The columns are 'path', 'label'. Name the column of splits with",
        ),
        (
            "path,label",
            {"group": "dog"},
            "no column 'dog'. The columns are 'path', 'label'. Name the column of groups with",
        ),
        (
            "path,path,label",
            {},
            "2 columns are named 'path'. Rename all but one. The columns are 'path', 'path', 'label'.",
        ),
        (
            ",".join(["label", *(f"pixel{i}" for i in range(784))]),
            {},
            "'pixel8' and 775 more. Name the column of paths with --path_column. (A CSV of pixels is not a manifest:"
            " pass it as --src.)",
        ),
    ],
)
def test_missing_columns_are_refused(tmp_path: Path, names: str, columns: dict[str, str], message: str) -> None:
    table = csv_of(tmp_path / "list.csv", f"{names}\n{','.join('x' * (names.count(',') + 1))}\n")
    error = refusal(table, **columns)
    assert error.startswith(f"{table}: ")
    assert message in error


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.jpg,x,train\n,y,train\n", "row 2 has no value in the column 'path'. Fill in the value, or delete the row."),
        (
            "a.jpg,,train\nb.jpg,  ,train\n",
            "no row has a value in the column 'label'. Name the column of labels with --label_column.",
        ),
        (
            "a.jpg,x,train\nb.jpg,y,\n",
            "row 2 has no value in the column 'split'. Fill in the value, or delete the row.",
        ),  # Either all rows have a split or none.
        (
            "a.jpg,x,train\nb.jpg,x,train\na.jpg,x,test\n",
            "rows 1 and 3 have the same path, 'a.jpg'. Keep one of the rows.",
        ),
        (
            "d/a.jpg,x,train\n./d//a.jpg,x,test\n",
            "rows 1 and 2 have the same path, 'd/a.jpg'. Keep one of the rows.",
        ),
        (
            "a.jpg,x,train\na.jpg,y,train\n",  # Several labels, one per row.
            "rows 1 and 2 have the same path, 'a.jpg', with the labels 'x' and 'y'. Every image must have exactly one"
            " label. Keep one of the rows.",
        ),
        ("", "the table has no rows. Pass a table with one row per image."),
    ],
)
def test_invalid_rows_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    table = csv_of(tmp_path / "list.csv", f"path,label,split\n{rows}")
    assert refusal(table) == f"{table}: {message}"


def test_rows_without_a_label_are_left_out(pool: Path, write: Write) -> None:
    table = write(pool / "list", {"path": NAMES, "label": ["x", "", "y", " ", "x", "y"]})
    sources = scanned(table)
    assert list(sources.paths) == ["000.jpg", "002.png", "004.jpg", "005.png"]
    assert sources.rejected == ()
    assert sources.notes == (
        "2 of 6 rows are left out, since they have no label in the column 'label', for example row 2",
    )


def test_relative_and_absolute_path_of_one_file(pool: Path) -> None:
    table = csv_of(pool / "list.csv", f"path,label\n000.jpg,a\n{pool}/000.jpg,a\n")
    assert refusal(table) == f"{table}: rows 1 and 2 have the same path, '000.jpg'. Keep one of the rows."


def test_unknown_split_is_refused(pool: Path, write: Write) -> None:
    table = write(pool / "list", {"path": NAMES[:2], "label": ["a", "b"], "split": ["train", "later"]})
    with pytest.raises(UserError) as caught:
        scanned(table)
    assert str(caught.value) == (
        f"{table}: 'later' in the column 'split' is not a split. Splits are train, training, trn, val, valid,"
        " validation, dev, eval, test, testing, tst, holdout. If another column has the splits, pass its name"
        " as --split_column."
    )


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("list.csv", b"", "Empty CSV file"),
        ("list.csv", b"path,label\na\n", "Expected 2 columns, got 1"),
        (
            "list.csv",
            "path,label\na,b\n".encode("utf-16-le"),
            "the file contains zero bytes (NUL), so it is not a text file",
        ),
        ("list.parquet", b"path,label\na,b\n", "Parquet magic bytes not found"),
        ("list.parquet", b"PAR1", ""),
    ],
)
def test_files_that_are_not_tables(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    error = refusal(csv_of(tmp_path / name, data))
    assert error.startswith(f"{tmp_path}/{name}: cannot be read as a table of images and labels: ")
    assert message in error
    assert error.endswith(
        "Pass a Parquet file, or a CSV file in UTF-8 with values separated by commas, semicolons, tabs or |."
    )


def test_cut_parquet(tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "list", {"path": ["a", "b"], "label": ["x", "y"]})
    os.truncate(table, table.stat().st_size - 10)
    assert "cannot be read as a table" in refusal(table)


def test_label_regex_and_manifest_cannot_be_combined(pool: Path, write: Write) -> None:
    table = write(pool / "list", {"path": NAMES, "label": ["a", "b"] * 3})
    with pytest.raises(UserError, match="--label_regex and a manifest cannot be combined: the manifest gives the lab"):
        scanned(table, label_regex="(.)")


@pytest.mark.parametrize("label", ["a\x1b[31mb", "x\x07"])
def test_invalid_class_names_are_refused(pool: Path, write: Write, label: str) -> None:
    table = write(pool / "list", {"path": NAMES[:2], "label": [label, "b"]})
    with pytest.raises(
        UserError,
        match=r"cannot store the class name '.*'\. A class name must have at least one character, no space at its"
        r" beginning or end",
    ):
        scanned(table)
