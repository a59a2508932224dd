"""Tests of tables from spreadsheets and notebooks: delimiters, encodings, names of columns."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_sources import run, scanned, tree

from tfrecord_tools.base import tables
from tfrecord_tools.errors import UserError
from tfrecord_tools.sources import manifest
from tfrecord_tools.sources.manifest import Reading


def read(path: Path, text: str | bytes, **settings: object) -> manifest.Manifest:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return manifest.read(str(path), str(path.parent), Reading(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "path;label\n0.jpg;a\n1.jpg;b\n",
        "path\tlabel\n0.jpg\ta\n1.jpg\tb\n",
        "path|label\n0.jpg|a\n1.jpg|b\n",
        "path;label;weight\n0.jpg;a;0,5\n1.jpg;b;1,25\n",  # Commas in numbers.
        "path;label;x,y\n0.jpg;a;0,5\n1.jpg;b;1,25\n",  # Commas in numbers and in the header.
        "path,label,note\n0.jpg,a,x;y\n1.jpg,b,z;w;v\n",
        "label,path,tags\na,0.jpg,p|q|r\nb,1.jpg,s\n",
        '"path";"label"\r\n"0.jpg";"a"\r\n"1.jpg";"b"\r\n',
        'path;label;text\n0.jpg;a;"x;\ny"\n1.jpg;b;z\n',  # A value of two lines.
        "sep=;\npath;label\n0.jpg;a\n1.jpg;b\n",  # Excel names the delimiter.
        "path,label,,\n0.jpg,a,,\n1.jpg,b,,\n",
        ",path,label\n0,0.jpg,a\n1,1.jpg,b\n",  # The index of a data frame.
        "path, label\n0.jpg, a\n1.jpg, b\n",
        "File Name;Class\n0.jpg;a\n1.jpg;b\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_csv_dialects(tmp_path: Path, text: str, encoding: str) -> None:
    table = read(tmp_path / "t.csv", text.encode(encoding))
    assert dict(zip(table.paths, table.labels)) == {"0.jpg": "a", "1.jpg": "b"}


@pytest.mark.parametrize(
    ("encoding", "label"), [("cp1252", "Kätzchen"), ("cp949", "고양이"), ("cp932", "猫"), ("utf-16-le", "кот")]
)
def test_manifest_encoding(tmp_path: Path, encoding: str, label: str) -> None:
    data = f"path,label\n0.jpg,{label}\n1.jpg,b\n".encode(encoding)
    assert read(tmp_path / "t.csv", data, encoding=encoding).labels == [label, "b"]
    if encoding != "utf-16-le":
        with pytest.raises(UserError) as caught:
            read(tmp_path / "t.csv", data)
        assert f"{tmp_path}/t.csv: line 2 is not in utf-8: the bytes b'" in str(caught.value)
        assert "Save the table as UTF-8, or name its encoding, for example --manifest_encoding=cp1252 (Western" in str(
            caught.value
        )


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (
            b"PK\x03\x04xl",
            {},
            "is an Excel or OpenDocument workbook, or a zip archive. Save the sheet with the table as a CSV file in"
            " UTF-8.",
        ),
        (
            "sep=é\npathélabel\n".encode(),
            {},
            "the first line names 'é' as the separator. A separator must be an ASCII character, for example",
        ),
        (b'sep="\npath,label\n', {}, "the first line names '\"' as the separator."),
        (b"PAR1xx", {}, "is a Parquet file, but its name does not end with .parquet. Rename it."),
        (
            b"path,label\n",
            {"encoding": "utf-9"},
            "--manifest_encoding=utf-9: is not a known encoding. Use a name such as utf-8, cp1252",
        ),
    ],
)
def test_files_that_are_not_csv_are_refused(
    tmp_path: Path, data: bytes, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path / "t.csv", data, **settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1,5;2\n", ";"),
        ("a\n1\n", ","),
        ("", ","),
        ("a;b,c\n1;2,3\n", ","),
        ('"a;b";c\n1;2\n', ";"),
    ],
)
def test_delimiter(text: str, delimiter: str) -> None:
    assert tables.delimiter_of(text) == delimiter


# --- Columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "image",
        "filename",
        "file_name",
        "file",
        "image_id",
        "Image Index",
        "id",
        "filepaths",
        "img",
        "id_code",
        "filenameid",
    ],
)
@pytest.mark.parametrize(
    "label", ["class", "category", "target", "breed", "labels", "Class Name", "diagnosis", "species", "dx"]
)
def test_usual_column_names(tmp_path: Path, path: str, label: str) -> None:
    table = read(tmp_path / "t.csv", f"{path},other,{label}\n0.jpg,x,a\n1.jpg,y,b\n")
    assert dict(zip(table.paths, table.labels)) == {"0.jpg": "a", "1.jpg": "b"}
    assert table.notes == (
        f"the column {path!r} is read as the paths (see --path_column)",
        f"the column {label!r} is read as the labels (see --label_column)",
    )


def test_usual_column_names_are_normalized() -> None:
    names = [name for usual in manifest._USUAL.values() for name in usual]
    assert [tables.normal(name) for name in names] == names


@pytest.mark.parametrize(
    ("header", "rows", "column"),
    [
        ("id,filename,label", ["7,0.jpg,a", "8,1.jpg,b"], "filename"),  # The values end like names of images.
        ("image,id,label", ["0.JPG,7,a", "1.png,8,b"], "image"),
        ("id,filename,label", ["7,0,a", "8,1,b"], None),  # Neither column has image names.
        ("id,filename,label", ["7.jpg,0.jpg,a", "8.jpg,1.jpg,b"], None),  # Both columns have image names.
    ],
)
def test_several_columns_of_paths(tmp_path: Path, header: str, rows: list[str], column: str | None) -> None:
    text = "\n".join([header, *rows]) + "\n"
    if column is None:
        with pytest.raises(
            UserError, match=r"Several columns may contain the paths: 'id', 'filename'\. Name the column"
        ):
            read(tmp_path / "t.csv", text)
    else:
        assert read(tmp_path / "t.csv", text).notes[0].startswith(f"the column {column!r} is read as the paths")


def test_a_column_of_split_names(tmp_path: Path) -> None:
    text = "path,label,data set\n0.jpg,a,train\n1.jpg,b,valid\n2.jpg,b,test\n"
    table = read(tmp_path / "t.csv", text)
    assert table.splits == ["train", "valid", "test"]
    assert table.notes == ("the column 'data set' is read as the splits (see --split_column)",)


@pytest.mark.parametrize("values", [("train", "train"), ("train", "extra"), ("", "test"), ("1", "2")])
def test_columns_that_are_not_splits(tmp_path: Path, values: tuple[str, str]) -> None:
    table = read(tmp_path / "t.csv", "path,label,part\n" + "".join(f"{i}.jpg,a,{v}\n" for i, v in enumerate(values)))
    assert (table.splits, table.notes) == (None, ())


# --- Flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_columns": ["a"]}, "--label_columns=a: must be two or more different columns, one per class."),
        ({"label_columns": ["a", "a"]}, "--label_columns=a,a: must be two or more different columns, one per class."),
        (
            {"label_columns": ["a", "b"], "label_column": "c"},
            "--label_columns=a,b and --label_column=c cannot be combined",
        ),
        (
            {"label_columns": ["a", "b"]},
            "--label_columns=a,b: needs a manifest. Pass it as --manifest=FILE, or remove --label_columns.",
        ),
    ],
)
def test_invalid_label_columns_are_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        scanned(tree(tmp_path / "pets", {"a": 1, "b": 1}), **settings)
    assert message in str(caught.value)


def test_flags_from_the_command_line(tmp_path: Path) -> None:
    tree(tmp_path / "pets", {"": 4})
    names = ["000.jpg", "001.jpg", "002.png", "003.jpg"]
    rows = "".join(f"{name};{number % 2},0;{1 - number % 2},0\n" for number, name in enumerate(names))
    (tmp_path / "t.csv").write_bytes(f"image;Hündin;Kätzchen\n{rows}".encode("cp1252"))
    flags = ["--src=pets", "--manifest=t.csv", "--validation_fraction=0", "--dry_run", "--manifest_encoding=cp1252"]
    done = run("tfrecord_tools.convert", *flags, cwd=tmp_path)
    assert done.returncode == 1
    assert "pass --label_columns=" in done.stderr
    done = run("tfrecord_tools.convert", *flags, "--label_columns=Hündin,Kätzchen", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()[2:4]] == [["0", "Hündin", "2"], ["1", "Kätzchen", "2"]]
