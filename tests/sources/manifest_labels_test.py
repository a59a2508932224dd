"""Tests of label columns: which values are class names, and which values are refused."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecord_tools.errors import UserError
from tfrecord_tools.sources import manifest
from tfrecord_tools.sources.manifest import Reading


def csv_labels(tmp_path: Path, labels: Sequence[str], delimiter: str = ",", **settings: Any) -> list[str]:
    path = tmp_path / "t.csv"
    rows = [delimiter.join(["path", "label"])]
    rows += [f'{number:02d}.jpg{delimiter}"{label}"' for number, label in enumerate(labels)]
    path.write_text("\n".join(rows) + "\n")
    return manifest.read(str(path), str(tmp_path), Reading(**settings)).labels


def parquet_labels(tmp_path: Path, labels: Any, **settings: Any) -> list[str]:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path": [f"{number:02d}.jpg" for number in range(len(labels))], "label": labels}), path)
    return manifest.read(str(path), str(tmp_path), Reading(**settings)).labels


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["0.0", "1.0", "2.0"], ["0", "1", "2"]),
        (["0.0", "", "1.0"], ["0", "1"]),  # Tables with gaps store whole numbers as floats.
        (["0.0", "nan", "1.0"], ["0", "1"]),
        (["1", "2.0"], ["1", "2"]),
        (["-1.0", "1.0"], ["-1", "1"]),
        (["20", "21", "100"], ["20", "21", "100"]),  # Whole numbers are classes.
        (["20.5", "old"], ["20.5", "old"]),  # Not all are numbers.
        (["v1.0", "v1.5"], ["v1.0", "v1.5"]),
        (["Bird, other", "cat", "dog"], ["Bird, other", "cat", "dog"]),
        (["Bird, other", "Fish, other", "cat"], ["Bird, other", "Fish, other", "cat"]),
        (
            ["tench, Tinca tinca", "projectile, missile", "missile"],
            ["tench, Tinca tinca", "projectile, missile", "missile"],
        ),
        (["T-shirt/top", "Trouser"], ["T-shirt/top", "Trouser"]),
        (["black bear", "bear", "cat"], ["black bear", "bear", "cat"]),
        (["(unknown)", "cat"], ["(unknown)", "cat"]),
        (["[other]", "cat"], ["[other]", "cat"]),
        (["['dog']", "['cat']"], ["dog", "cat"]),  # Lists of one label.
        (["C++", "C"], ["C++", "C"]),
        (
            ["Apple Braeburn", "Apple Golden 1", "Apple Golden 2"],
            ["Apple Braeburn", "Apple Golden 1", "Apple Golden 2"],
        ),
        (
            # Fewer parts than names, but one part occurs once.
            ["Apple 1", "Apple 2", "Plum 1", "Plum 2", "Plum Red", "Apple"],
            ["Apple 1", "Apple 2", "Plum 1", "Plum 2", "Plum Red", "Apple"],
        ),
        (
            # A hierarchy: every part has only one position.
            [f"{plant}/{state}" for plant in ("Tomato", "Apple", "Corn") for state in ("healthy", "scab", "rust")],
            [f"{plant}/{state}" for plant in ("Tomato", "Apple", "Corn") for state in ("healthy", "scab", "rust")],
        ),
        (
            [f"{color} {fruit}" for color in ("red", "green", "ripe") for fruit in ("apple", "pear", "plum")],
            [f"{color} {fruit}" for color in ("red", "green", "ripe") for fruit in ("apple", "pear", "plum")],
        ),
        (["12345678901234567891.0", "12345678901234567890.0"], ["12345678901234567891", "12345678901234567890"]),
        (["-0.0", "1e3", "+2."], ["0", "1000", "2"]),
        (["0", "nan", "1"], ["0", "1"]),  # Among numbers, nan is a missing value.
        (["007", "NaN", "008"], ["007", "008"]),
        (["Nan", "Pita"], ["Nan", "Pita"]),
        (["{[1]}", "cat"], ["{[1]}", "cat"]),  # Not a valid list of Python.
    ],
)
def test_class_names(tmp_path: Path, labels: list[str], names: list[str]) -> None:
    assert csv_labels(tmp_path, labels) == names


def test_two_unicode_forms_are_one_class(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "고양이") for form in ("NFC", "NFD")]
    assert csv_labels(tmp_path, forms) == parquet_labels(tmp_path, forms) == [forms[0]] * 2


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (pa.array([0.0, None, 1.0]), ["0", "1"]),
        (pa.array([0.0, float("nan"), 1.0]), ["0", "1"]),
        (pa.array([3, 1, None], pa.int8()), ["3", "1"]),
        (pa.array([True, False, None]), ["True", "False"]),
        (pa.array(["a", None, "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([b"a", b"b"]), ["a", "b"]),
        (pa.array([["dog"], ["cat"], []]), ["dog", "cat"]),
    ],
)
def test_label_types_of_parquet(tmp_path: Path, labels: pa.Array, names: list[str]) -> None:
    assert parquet_labels(tmp_path, labels) == names


ONE = "Every image must have exactly one label. Pass a column with one label per row as --label_column"


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (
            ["dog|cat", "dog", "cat"],
            "1 of 3 rows seem to have several labels in the column 'label', for example 'dog|cat' in",
        ),
        (["Mass|Nodule", "Hernia"], "1 of 2 rows seem to have several labels"),  # A pipe never occurs in class names.
        (["dog;cat", "bird"], "1 of 2 rows seem to have several labels"),
        (["dog, cat", "dog", "cat"], "for example 'dog, cat' in row 1."),
        (["dog,cat", "dog", "cat", "cat,dog"], "2 of 4 rows seem to have several labels"),
        (["dog / cat", "dog", "cat"], "for example 'dog / cat' in row 1."),
        (["dog+cat", "dog", "cat"], "for example 'dog+cat'"),
        (["scab frog_eye", "scab", "frog_eye"], "for example 'scab frog_eye' in row 1."),
        (["7 1 2 0", "5", "3"], "for example '7 1 2 0' in row 1."),  # Numbers are not words of a name.
        (["7 1 2 0", "5", "nan"], "for example '7 1 2 0' in row 1."),
        (["7 1", "2 0"], "2 of 2 rows seem"),
        (["haze primary", "clear primary", "haze water", "clear primary water", "clear water"], "5 of 5 rows seem"),
        # Not a hierarchy: `cat` has two positions.
        (["dog/cat", "cat/dog", "cat/bird", "bird/dog"], "4 of 4 rows seem"),
        (["a, b", "b, c", "a, c", "a, b, c"], "4 of 4 rows seem"),  # No single labels, but the parts repeat.
    ],
)
def test_several_labels_in_a_text_are_refused(tmp_path: Path, labels: list[str], shown: str) -> None:
    with pytest.raises(UserError) as caught:
        csv_labels(tmp_path, labels)
    assert shown in str(caught.value)
    assert ONE in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (
            ["['dog', 'cat']", "['dog']"],
            "1 of 2 rows have several labels in the column 'label', for example 'dog', 'cat' in r",
        ),
        (["('dog', 'cat')", "('dog',)"], "for example 'dog', 'cat' in row 1."),
        (["{'dog', 'cat'}", "dog"], "for example 'cat', 'dog' in row 1."),
        (["['dog' 'cat']", "['dog']"], "for example 'dog', 'cat' in row 1."),  # The notation of numpy.
        (["[dog, cat]", "[dog]"], "for example 'dog', 'cat' in row 1."),
        (
            ["[0, 1, 0]", "[1, 0, 0]"],
            "2 of 2 rows have several labels in the column 'label', for example '0', '1', '0' in r",
        ),
        (["[0. 1.]", "[1. 0.]"], "2 of 2 rows have several labels"),
    ],
)
def test_lists_in_a_text(tmp_path: Path, labels: list[str], shown: str) -> None:
    with pytest.raises(UserError) as caught:
        csv_labels(tmp_path, labels)
    assert shown in str(caught.value)
    assert ONE in str(caught.value)


def test_lists_as_json(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"1 of 2 rows have several labels .*, for example 'dog', 'cat' in row 1\. Every image"
    ):
        csv_labels(tmp_path, ['[""dog"", ""cat""]', '[""dog""]'])


@pytest.mark.parametrize("labels", [[["dog", "cat"], ["dog"]], [[1, 2], [1]], [{"a": 1, "b": 2}, {"a": 1, "b": 1}]])
def test_lists_of_parquet(tmp_path: Path, labels: Any) -> None:
    with pytest.raises(
        UserError,
        match=r"rows have several labels in the column 'label', for example .*\. Every image must have exactly one",
    ):
        parquet_labels(tmp_path, labels)


@pytest.mark.parametrize(
    ("labels", "delimiter", "shown"),
    [
        (["20.0", "20.5"], ",", "for example 20.5 in row 2."),
        (["1.0", "12345678901234567890.5"], ",", "for example 12345678901234567890.5 in row 2."),
        (["1.0", "1e999"], ",", "for example 1e999 in row 2."),
        (["1", "2.25"], ",", "for example 2.25 in row 2."),
        (["0,5", "1,25"], ";", "for example 0,5 in row 1."),
        (["1e-3", "2.0"], ",", "for example 1e-3 in row 1."),
        (["-0.5", ".5", "3"], ",", "for example -0.5 in row 1."),
        (["0.5", "nan", ""], ",", "for example 0.5 in row 1."),
    ],
)
def test_numbers_with_fractions(tmp_path: Path, labels: list[str], delimiter: str, shown: str) -> None:
    with pytest.raises(UserError) as caught:
        csv_labels(tmp_path, labels, delimiter)
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path}/t.csv: the column 'label' contains numbers with fractions, {shown} Labels must be cla"
    )
    assert (
        "regression is not supported. Add a column with ranges of the numbers, such as 20-25, and pass the name of the"
        " new column as"
        " --label_column." in message
    )


def test_whole_numbers_with_decimal_commas(tmp_path: Path) -> None:
    assert csv_labels(tmp_path, ["0,0", "1,0"], ";") == ["0", "1"]


@pytest.mark.parametrize("labels", [["dog, cat", "dog", "cat"], ["a|b", "c"], ["1.5", "2.0"], ["['a', 'b']", "c"]])
def test_printed_classes_flag_works(tmp_path: Path, labels: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        csv_labels(tmp_path, labels)
    _, has_flag, flag = str(caught.value).partition("--classes=")
    if has_flag:  # The message for lists has no --classes, but the flag works there too.
        import csv

        (value,) = shlex.split(flag)
        assert sorted(next(csv.reader([value]))) == sorted(labels)
    assert csv_labels(tmp_path, labels, classes=labels) == labels


# --- One column per class --------------------------------------------------------------------------------------------


def table(tmp_path: Path, columns: dict[str, Any]) -> str:
    count = len(next(iter(columns.values())))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path": [f"{number}.jpg" for number in range(count)]} | columns), path)
    return str(path)


ONES: list[dict[str, Any]] = [
    {"a": [1, 0, 0], "b": [0, 1, 1]},
    {"a": [1.0, 0.0, 0.0], "b": [0.0, 1.0, 1.0]},
    {"a": [True, False, False], "b": [False, True, True]},
    {"a": ["1", "0", "0"], "b": ["0.0", "1.0", "1.0"]},
    {"a": ["TRUE", "FALSE", "FALSE"], "b": ["false", "true", "true"]},
]


@pytest.mark.parametrize("columns", ONES)
def test_one_hot(tmp_path: Path, columns: dict[str, Any]) -> None:
    path = table(tmp_path, columns)
    assert manifest.read(path, str(tmp_path), Reading(label_columns=["a", "b"])).labels == ["a", "b", "b"]
    with pytest.raises(UserError) as caught:
        manifest.read(path, str(tmp_path))
    assert str(caught.value).endswith(
        "there is no column 'label'. The columns are 'path', 'a', 'b'. 2 columns contain only 0 and 1. If each is a"
        " class, pass --label_columns=a,b. Otherwise name the column of labels with --label_column."
    )


@pytest.mark.parametrize(
    ("columns", "counts"),
    [
        (
            {"a": [1, 1, 0], "b": [0, 1, 1]},
            "1 of 3 rows have several 1s and 0 have none. The first of these rows is row 2.",
        ),
        (
            {"a": [1, 0, 0], "b": [0, 0, 1]},
            "0 of 3 rows have several 1s and 1 have none. The first of these rows is row 2.",
        ),
        (
            {"a": [True, True], "b": [True, False]},
            "1 of 2 rows have several 1s and 0 have none. The first of these rows is row 1.",
        ),
    ],
)
def test_several_1s_per_row_are_reported(tmp_path: Path, columns: dict[str, Any], counts: str) -> None:
    path = table(tmp_path, columns)
    with pytest.raises(UserError) as caught:
        manifest.read(path, str(tmp_path))
    assert f"2 columns contain only 0 and 1, but {counts} Every image must have exactly one label." in str(caught.value)
    assert "for example --label_columns=a,b. Otherwise name the column of labels with --label_column." in str(
        caught.value
    )


def test_printed_flag_is_quoted_for_the_shell(tmp_path: Path) -> None:
    path = table(tmp_path, {"No Finding": [1, 0], "a,b": [0, 1]})
    with pytest.raises(UserError, match="""pass --label_columns='No Finding,"a,b"'\\. Otherwise"""):
        manifest.read(path, str(tmp_path))


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        ({"a": [1, 0], "b": [0, 1]}, ["a", "c"], "has no column 'c'. The columns are 'path', 'a', 'b'."),
        ({"a": [1, 0], "b": [0, 2]}, ["a", "b"], "must contain only 0 and 1. Pass one column per class."),
        ({"a": [1, 0], "b": ["x", "y"]}, ["a", "b"], "the column 'b' of "),
        ({"a": [1, None], "b": [0, 1]}, ["a", "b"], "the column 'a' of "),
        (
            {"a": [1, 0, 0], "b": [0, 1, 0]},
            ["a", "b"],
            "1 of 3 rows of {} have no 1 in these columns, for example row 3.",
        ),
        (
            {"a": [1, 1, 0], "b": [0, 1, 1]},
            ["a", "b"],
            "1 of 3 rows of {} have several 1s in these columns, for example row 2.",
        ),
    ],
)
def test_invalid_label_columns_are_refused(
    tmp_path: Path, columns: dict[str, Any], given: list[str], message: str
) -> None:
    path = table(tmp_path, columns)
    with pytest.raises(UserError) as caught:
        manifest.read(path, str(tmp_path), Reading(label_columns=given))
    assert str(caught.value).startswith(f"--label_columns={','.join(given)}: ")
    assert message.format(path) in str(caught.value)
