"""Tests of files of decisions: dialects of spreadsheets, other tables, contradicting rows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import decisions
from tfrecord_tools.layout.decisions import Decision

A, B, C, D = (hashlib.sha256(name.encode()).hexdigest() for name in "abcd")
HEADER = "sha256,decision,label,path,given_label"
EXPECTED = {
    A: Decision(A, "label", "dogs", "cats/1.jpg"),
    B: Decision(B, "drop", "", "cats/2, old.jpg"),
    C: Decision(C, "keep", "", ""),
    D: Decision(D, "none", "", "dogs/4.jpg"),
}
ROWS = (
    f'{HEADER}\n{A},label,dogs,cats/1.jpg,cats\n{B},drop,,"cats/2, old.jpg",cats\n{C},keep,,,\n'
    f"{D},none,birds,dogs/4.jpg,\n"
)
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
            "rows 1 (label 'dogs') and 3 (drop) are different decisions about the same image, 1.jpg and 2.jpg. There"
            " can be only one decision about an image. Delete one of the rows.",
        ),
        (
            f"{HEADER}\n{A},label,dogs,1.jpg,\n{A},label,cats,1.jpg,\n",
            "rows 1 (label 'dogs') and 2 (label 'cats') are different decisions about the same image, 1.jpg.",
        ),
        (
            f"{HEADER}\n{A},remove,,1.jpg,\n",
            "row 1: 'remove' is not a decision. The column decision must be label, drop, keep, both or none. Correct"
            " the row.",
        ),
        (
            f"{HEADER}\n{A},drop,,,\n1.2E+45,drop,,,\n",
            "row 2: '1.2E+45' is not a SHA-256 hash. The column sha256 must have 64 hexadecimal digits.",
        ),
        (
            f"{HEADER}\n{A},label,,1.jpg,cats\n",
            "row 1: the column 'decision' has the word 'label', but the column 'label' is empty. Write the name of a"
            " class into it, or change the decision to 'drop', 'keep' or 'none'.",
        ),
        (
            f"{HEADER}\n{A},drop,,1.jpg,\n{A},none,,1.jpg,\n",
            "rows 1 (drop) and 2 (none) are different decisions about the same image, 1.jpg.",
        ),
        (
            f"{HEADER}\n{A},,,1.jpg,cats\n",
            "no row has a decision. The column decision must have label, drop, keep, both or none in",
        ),
        (
            "image,verdict\n1.jpg,drop\n",
            "is not a decisions file: there is no column 'sha256' and no column 'decision'. The columns are 'image',"
            " 'verdict'. The columns must be sha256, decision, label, path, given_label, twin_sha256.",
        ),
        (
            "rank,path,predicted_label,given_label,p_predicted,p_given,record\n1,a.jpg,dogs,cats,1,0,3\n",
            "is not a decisions file. It looks like suspects.csv, and there is no column 'sha256' and no column"
            " 'decision'. Make a new file with only those rows in which predicted_label is correct. Pass the new"
            " file to python -m tfrecord_tools.convert --relabel.",
        ),
        (
            f"rank,path,predicted_label,given_label,sha256\n1,a.jpg,dogs,cats,{A}\n",
            "is not a decisions file. It looks like suspects.csv, and there is no column 'decision'. Add the column"
            " 'decision', and write 'label', 'drop' or 'keep' for the images that you looked at. Leave it empty in the"
            " other rows",
        ),
        (
            "record,path,label,prediction,p_cats,p_dogs\n3,a.jpg,cats,dogs,0,1\n",
            "is not a decisions file. It looks like predictions.csv, and there is no column 'sha256' and no column"
            " 'decision'. A model's answers are not decisions.",
        ),
        (
            f"kind,rank,score,path,sha256,given_label,proposed_label\nlabel,1,1,a.jpg,{A},cats,dogs\n",
            "It looks like the list of issues of an audit, and there is no column 'decision'. Add the column",
        ),
        (
            f"{HEADER},decision\n{A},drop,,,,keep\n",
            "several columns are named 'decision'. Keep one of them.",
        ),
        (
            b"PK\x03\x04xl",
            "is an Excel or OpenDocument workbook, or a zip archive. Save the sheet with the table as a CSV file in"
            " UTF-8.",
        ),
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


ENTRY = {"sha256": A, "decision": "label", "label": "dogs", "path": "1.jpg"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "\xff",
        '{"decisions": [{"sha256": "0"}]}',
        '{"decisions": 3}',
        '{"decisions": ""}',
        '{"decisions": {}}',
        '{"decisions": null}',
        '{"decisions": ["drop"]}',
        *(
            json.dumps({"decisions": [ENTRY | damage]})
            for damage in (
                {"sha256": "xyz"},
                {"sha256": A.upper()},
                {"sha256": A + "\n"},
                {"sha256": 3},
                {"decision": "remove"},
                {"decision": "none", "label": ""},
                {"decision": ["drop"], "label": ""},
                {"decision": "drop"},
                {"label": ""},
                {"label": None},
                {"label": 3},
                {"path": None},
            )
        ),
    ],
)
def test_damaged_datasets_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "convert.json").write_text(text, "latin-1")
    with pytest.raises(UserError, match=r"convert\.json: is damaged .* delete .* to start without decisions"):
        decisions.of_dataset(tmp_path)


def test_the_damaged_dataset_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    for directory in (".", "pets", str(tmp_path / "pets")):
        Path(directory, "convert.json").write_text("[]")
        with pytest.raises(UserError) as caught:
            decisions.of_dataset(directory)
        assert str(caught.value).startswith(f"{directory}/convert.json: is damaged (")
        assert str(caught.value).endswith(
            "so the decisions in it cannot be read. Copy the file again from an undamaged copy, or delete"
            f" {directory} to start without decisions."
        )


def test_images_are_found_by_all_bytes_of_the_hash() -> None:
    known = np.frombuffer(bytes.fromhex(A + B), np.uint8).reshape(2, 32)
    similar = known[0].copy()
    similar[31] ^= 1  # The first bytes agree.
    hashes = np.stack([similar, known[1], known[0], known[1]])
    assert [(number, one.sha256) for number, one in decisions.matches(EXPECTED, hashes)] == [(1, B), (2, A), (3, B)]
    assert list(decisions.matches({}, hashes)) == []
    assert list(decisions.matches(EXPECTED, hashes[:0])) == []


def test_later_decisions_replace_earlier_ones() -> None:
    stored = {key: one for key, one in EXPECTED.items() if key != D}
    new = {A: Decision(A, "drop", "", "new.jpg"), B: Decision(B, "drop", "", "moved.jpg")}
    made = decisions.combined(stored, [("--decisions=d.csv", new)])
    assert made.in_effect == stored | new
    assert (made.stored, made.replaced, made.withdrawn, made.idle) == (3, 1, 0, 0)  # The decision about B stays.
    assert list(made.notes("out")) == [
        "2 of 3 decisions in out stay in effect, and later decisions replace 1. To start without them, delete out first"
    ]


def test_keep_leaves_an_earlier_label_in_effect() -> None:
    """Other decisions are replaced, and messages about the label name the file that has it."""
    rows = {B: Decision(B, "label", "dogs", ""), C: Decision(C, "label", "dogs", "")}
    keeps = {key: Decision(key, "keep", "", "", given_label="cats") for key in (A, B, C, D)}
    stored = {A: EXPECTED[A], B: EXPECTED[B], D: Decision(D, "drop", "", "")}
    made = decisions.combined(stored, [("--relabel=r.csv", rows), ("--decisions=d.csv", keeps)])
    assert made.in_effect == {A: EXPECTED[A], **rows, D: keeps[D]}
    assert made.confirming == {key: keeps[key] for key in (A, B, C)}
    assert (made.stored, made.replaced, made.withdrawn, made.replaced_rows) == (3, 2, 0, 0)
    origins = [made.origin([made.in_effect[key]]) for key in (A, B, D)]
    assert origins == [decisions.STORED, "--relabel=r.csv", "--decisions=d.csv"]
    effect = decisions.effect(made, [(made.in_effect[key], "cats") for key in (A, D)])
    assert effect.differing == [(keeps[A], "dogs")]
    assert (effect.kept, effect.relabeled) == (1, {("cats", "dogs"): 1})


def test_keep_is_compared_with_the_label_that_the_person_saw(tmp_path: Path) -> None:
    """The source may have another label than at the review. Rows without given_label are not compared."""
    text = f"{HEADER}\n{A},keep,,1.jpg,cafe\u0301\n{B},keep,,2.jpg,\n{C},drop,,3.jpg,cats\n"
    given = decisions.read(written(tmp_path / "d.csv", text))
    made = decisions.combined({}, [("--decisions=d.csv", given)])
    old = dict.fromkeys((A, B, C), "caf\u00e9")
    assert decisions.effect(made, [(one, old[key]) for key, one in given.items()]).differing == []
    effect = decisions.effect(made, [(one, "dogs") for one in given.values()])
    assert effect.differing == [(given[A], "dogs")]
    assert decisions.entries(given)[0].keys() == {"sha256", "decision", "label", "path"}


def test_none_takes_earlier_decisions_back() -> None:
    stored = {key: one for key, one in EXPECTED.items() if key != D}
    rows = {D: Decision(D, "label", "cats", "4.jpg")}
    nones = {key: Decision(key, "none", "", "") for key in (A, D, "e" * 64)}
    given = nones | {C: Decision(C, "drop", "", "")}
    made = decisions.combined(stored, [("--relabel=r.csv", rows), ("--decisions=d.csv", given)])
    assert made.in_effect == {B: EXPECTED[B], C: given[C]}
    assert list(made.notes("out")) == [
        "1 of 3 decisions in out stay in effect, and later decisions replace 1 and take back 1. To start without them,"
        " delete out first",
        "1 row of --relabel was replaced by a decision of --decisions",
        "1 decision 'none' does nothing, because there is no earlier decision to take back",
    ]


def test_the_flag_of_a_decision_is_named() -> None:
    stored, rows = {A: EXPECTED[A]}, {B: Decision(B, "label", "cats", "")}
    made = decisions.combined(stored, [("--relabel=r.csv", rows), ("--decisions=d.csv", {C: EXPECTED[C]})])
    assert made.origin([EXPECTED[A]]) == "the decisions of the dataset at --out"
    assert made.origin([EXPECTED[A], rows[B]]) == "--relabel=r.csv"
    assert made.origin(made.in_effect.values()) == "--decisions=d.csv"


def test_a_file_must_be_about_the_source_unless_it_takes_decisions_back() -> None:
    only_none = decisions.combined({}, [("--decisions=d.csv", {D: EXPECTED[D]})])
    only_none.check_matched([], "pets")
    other = decisions.combined({}, [("--decisions=d.csv", {C: EXPECTED[C], D: EXPECTED[D]})])
    other.check_matched([C], "pets")
    with pytest.raises(UserError, match=r"--decisions=d\.csv: 1 decision is not about any image in pets, for example"):
        other.check_matched([A], "pets")


@pytest.mark.parametrize(
    ("word", "label"), [("label", 1), ("drop", -1), ("keep", 0), ("none", 0)], ids=["label", "drop", "keep", "none"]
)
def test_new_labels(word: decisions.Word, label: int) -> None:
    one = Decision(A, word, "dogs" if word == "label" else "", "")
    assert decisions.Decisions().new_label(one, {"cats": 0, "dogs": 1}, 0) == label


PAIR = Decision(B, "both", "", "b.jpg", A)


def test_both_is_about_a_pair(tmp_path: Path) -> None:
    text = f"sha256,decision,twin_sha256,path\n{B},both,{A},b.jpg\n{A},both,{B},a.jpg\n{A},keep,,a.jpg\n"
    read = decisions.read(written(tmp_path / "d.csv", text))
    assert read == {PAIR.key: PAIR, A: Decision(A, "keep", "", "a.jpg")}
    assert PAIR.key == decisions.key_of(A, B) == decisions.key_of(B, A)
    expected = {"sha256", "decision", "label", "path"}
    assert [set(entry) - expected for entry in decisions.entries(read)] == [{"twin_sha256"}, set()]  # Sorted by hash.
    (tmp_path / "convert.json").write_text(json.dumps({"decisions": decisions.entries(read)}))
    assert decisions.of_dataset(tmp_path) == read


def test_pairs_are_found_if_both_images_are_there() -> None:
    known = np.frombuffer(bytes.fromhex(A + B + C), np.uint8).reshape(3, 32)
    made = {PAIR.key: PAIR, C: EXPECTED[C]}
    hashes = known[[2, 1, 0, 1]]
    assert list(decisions.pairs(made, hashes)) == [([1, 3], [2], PAIR)]
    assert [(number, one.sha256) for number, one in decisions.matches(made, hashes)] == [(0, C)]
    assert list(decisions.pairs(made, known[[0, 2]])) == []
    assert list(decisions.pairs({C: EXPECTED[C]}, hashes)) == []
    same = Decision(A, "both", "", "", A)
    assert list(decisions.pairs({same.key: same}, hashes)) == [([2], [2], same)]


def test_none_takes_both_back_and_labels_stay() -> None:
    stored = {PAIR.key: PAIR, A: EXPECTED[A]}
    none = Decision(A, "none", "", "", B)
    made = decisions.combined(stored, [("--decisions=d.csv", {none.key: none})])
    assert (made.in_effect, made.withdrawn, made.idle) == ({A: EXPECTED[A]}, 1, 0)


def test_a_file_with_pairs_only_must_be_about_the_source() -> None:
    made = decisions.combined({}, [("--decisions=d.csv", {PAIR.key: PAIR})])
    effect = decisions.effect(made, [], [PAIR])
    made.check_matched(effect.found, "pets")
    assert effect.report()["decided"] == {
        "relabeled": 0, "dropped": 0, "kept": 0, "unchanged": 0, "absent": 0, "pairs": 1,
    }  # fmt: skip
    assert list(effect.notes()) == ["1 pair of images that look alike kept by decisions"]
    with pytest.raises(UserError, match=r"1 decision is not about any image in pets, for example 'b\.jpg'\."):
        made.check_matched([A, B], "pets")
