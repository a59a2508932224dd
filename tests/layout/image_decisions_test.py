"""Tests of files of decisions: dialects of spreadsheets, other tables, contradicting rows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import decisions
from tfrecord_tools.layout.decisions import Decision

A, B, C = (hashlib.sha256(name.encode()).hexdigest() for name in "abc")
HEADER = "sha256,decision,label,path,given_label"
EXPECTED = {
    A: Decision(A, "label", "dogs", "cats/1.jpg"),
    B: Decision(B, "drop", "", "cats/2, old.jpg"),
    C: Decision(C, "keep", "", ""),
}
ROWS = f'{HEADER}\n{A},label,dogs,cats/1.jpg,cats\n{B},drop,,"cats/2, old.jpg",cats\n{C},keep,,,\n'
SEMICOLONS = ROWS.replace('"cats/2, old.jpg"', "cats/2@ old.jpg").replace(",", ";").replace("@", ",")


def written(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        ROWS,
        ROWS.replace("\n", "\r\n"),
        "\ufeff" + ROWS,
        "sep=;\r\n" + SEMICOLONS.replace("\n", "\r\n"),  # Excel where the comma separates decimals.
        "\ufeff" + SEMICOLONS,
        SEMICOLONS.replace(";", "\t"),
        ROWS.replace(A, A.upper()).replace(",label,dogs", ",Label ,dogs"),
        ROWS + f"{'f' * 64},,cats,cats/3.jpg,cats\n",  # A row without a decision.
        ROWS + f"{A},label,dogs,copies/1.jpg,cats\n",  # The same decision twice.
        ROWS.encode("utf-16"),
    ],
)
def test_dialects(tmp_path: Path, text: str | bytes) -> None:
    assert decisions.read(written(tmp_path / "decisions.csv", text)) == EXPECTED


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [vars(one) for one in EXPECTED.values()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "decisions.parquet")
    assert decisions.read(str(tmp_path / "decisions.parquet")) == EXPECTED


def test_the_new_label_may_be_in_the_column_of_a_prediction(tmp_path: Path) -> None:
    """A person fills in the column `decision` of suspects.csv, and corrects some predictions."""
    header = "rank,decision,path,predicted_label,given_label,sha256"
    text = f"{header}\n1,label,a.jpg,dogs,cats,{A}\n2,keep,b.jpg,dogs,cats,{B}\n"
    assert decisions.read(written(tmp_path / "s.csv", text)) == {
        A: Decision(A, "label", "dogs", "a.jpg"),
        B: Decision(B, "keep", "", "b.jpg"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{HEADER}\n{A},label,dogs,1.jpg,\n{B},drop,,,\n{A},drop,,2.jpg,\n",
            "rows 1 (label 'dogs') and 3 (drop) contradict each other about the same bytes, 1.jpg and 2.jpg. There must"
            " be one decision about an image. Delete one of the rows.",
        ),
        (
            f"{HEADER}\n{A},label,dogs,1.jpg,\n{A},label,cats,1.jpg,\n",
            "rows 1 (label 'dogs') and 2 (label 'cats') contradict each other about the same bytes, 1.jpg.",
        ),
        (
            f"{HEADER}\n{A},remove,,1.jpg,\n",
            "row 1: 'remove' is not a decision. The column decision must be label, drop or keep. Correct the row.",
        ),
        (
            f"{HEADER}\n{A},drop,,,\n1.2E+45,drop,,,\n",
            "row 2: '1.2E+45' is not a SHA-256 hash. The column sha256 must have 64 hexadecimal digits.",
        ),
        (
            f"{HEADER}\n{A},label,,1.jpg,cats\n",
            "row 1: the column 'decision' has the word 'label', but the column 'label' is empty.",
        ),
        (f"{HEADER}\n{A},,,1.jpg,cats\n", "no row has a decision. The column decision must have label, drop or keep"),
        (
            "image,verdict\n1.jpg,drop\n",
            "is not a decisions file: there is no column 'sha256' and no column 'decision'. The columns are 'image',"
            " 'verdict'. The columns must be sha256, decision, label, path, given_label.",
        ),
        (
            "rank,path,predicted_label,given_label,p_predicted,p_given,record\n1,a.jpg,dogs,cats,1,0,3\n",
            "is not a decisions file. It looks like suspects.csv, and there is no column 'sha256' and no column"
            " 'decision'. Copy the lines with a right predicted_label to a new file, and pass that file to python -m"
            " tfrecord_tools.convert --relabel.",
        ),
        (
            f"rank,path,predicted_label,given_label,sha256\n1,a.jpg,dogs,cats,{A}\n",
            "but suspects.csv: there is no column 'decision'. Add a column decision, and write label, drop or keep in"
            " the rows of images that you looked at.",
        ),
        (
            "record,path,label,prediction,p_cats,p_dogs\n3,a.jpg,cats,dogs,0,1\n",
            "but predictions.csv: there is no column 'sha256' and no column 'decision'. A model's answers are not",
        ),
        (
            f"kind,rank,score,path,sha256,given_label,proposed_label\nlabel,1,1,a.jpg,{A},cats,dogs\n",
            "but the list of issues of an audit: there is no column 'decision'. Add a column decision",
        ),
        (f"{HEADER},decision\n{A},drop,,,,keep\n", "several columns are named 'decision'. Keep one of them."),
        (b"PK\x03\x04xl", "is an Excel or OpenDocument workbook, or a zip archive. Save its sheet as CSV in UTF-8."),
        (f"{HEADER}\n{A},label,caf\u00e9,,\n".encode("cp1252"), "are not valid. Save the table as UTF-8."),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = written(tmp_path / "decisions.csv", text)
    with pytest.raises(UserError) as caught:
        decisions.read(path)
    assert message in str(caught.value)
    assert path in str(caught.value)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--decisions=nowhere\.csv: does not exist\. Pass a CSV or Parquet file with"):
        decisions.read("nowhere.csv")
    with pytest.raises(UserError, match=r": the directory has no convert\.json with decisions\. Pass a decisions file"):
        decisions.read(str(tmp_path))
    assert decisions.of_dataset(tmp_path) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"decisions": [{"sha256": "0"}]}', '{"decisions": 3}'])
def test_damaged_datasets_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "convert.json").write_text(text)
    with pytest.raises(UserError, match=r"convert\.json: is damaged .* delete .* to start without decisions"):
        decisions.of_dataset(tmp_path)


def test_images_are_found_by_all_bytes_of_the_hash() -> None:
    known = np.frombuffer(bytes.fromhex(A + B), np.uint8).reshape(2, 32)
    similar = known[0].copy()
    similar[31] ^= 1  # The first bytes agree.
    hashes = np.stack([similar, known[1], known[0], known[1]])
    assert [(number, one.sha256) for number, one in decisions.matches(EXPECTED, hashes)] == [(1, B), (2, A), (3, B)]
    assert list(decisions.matches({}, hashes)) == []
    assert list(decisions.matches(EXPECTED, hashes[:0])) == []


def test_later_decisions_replace_earlier_ones() -> None:
    new = {A: Decision(A, "keep", "", "new.jpg"), B: Decision(B, "drop", "", "moved.jpg")}
    both, replaced = decisions.merged(EXPECTED, new)
    assert both == EXPECTED | new
    assert replaced == 1  # The decision about B stays the same.
