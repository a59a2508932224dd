"""Read class names from the label column of a table.

Several labels per row and numbers with fractions are errors. If a label can be read in two ways, `--classes` decides:
every name in it is a class.
"""

from __future__ import annotations

import ast
import collections
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tfrecord_tools.base import tables
from tfrecord_tools.errors import UserError, as_flag, named

if TYPE_CHECKING:
    import pyarrow as pa

_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d{1,6})?|[+-]?inf(?:inity)?", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d+")
_NAN = "nan"
_ALWAYS = ("|", ";", "\n")  # These never occur in class names.
_OFTEN = (",", "/", "+", "&", " ")  # Some class names contain these: `Bird, other`, `T-shirt/top`, `Apple Braeburn`.
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "0,0": False, "1,0": True}
_CLASSES_LISTED = 20  # Maximum number of classes that a message lists as --classes.
_MAX_DIGITS = 300  # A number with more digits is a measurement.
ONE_LABEL = "Every image must have exactly one label."


def read(path: str, table: pa.Table, column: str, delimiter: str, classes: Collection[str]) -> list[str]:
    """Return the class name of each row, or "" for a row without a label.

    Args:
        path: Path of the table, for messages.
        table: The table.
        column: The column of labels.
        delimiter: The delimiter of the table. If it is not a comma, a label such as 1,5 is a number with a fraction.
        classes: Known class names. They are used as they are, even if they look like numbers or lists.

    Raises:
        UserError: A row has several labels, or the labels are numbers with fractions.
    """
    import pyarrow as pa

    kind = table.schema.field(column).type
    if pa.types.is_nested(kind) and not pa.types.is_dictionary(kind):
        return _only_ones(path, column, [_members(value) for value in table.column(column).to_pylist()])
    # Two Unicode forms of one name look the same, and must not become two classes.
    labels = [unicodedata.normalize("NFC", label) for label in tables.texts(table, column)]
    unclear = {label for label in labels if label} - set(classes)
    decimal = "." if delimiter == "," else ".,"
    if numbers := _numbers(unclear, decimal):
        names = _whole(path, column, labels, numbers) | {label: "" for label in unclear if label.casefold() == _NAN}
        return [names.get(label, label) for label in labels]
    lists = {label: members for label in unclear if (members := _listed(label, unclear)) is not None}
    if lists:
        return _only_ones(path, column, [lists.get(label, [label] if label else []) for label in labels])
    if several := _several(unclear):
        raise UserError(_refusal(path, column, labels, several))
    return labels


def one_hot(path: str, table: pa.Table, columns: Sequence[str]) -> list[str]:
    """Return the name of the column that is 1 in each row.

    Raises:
        UserError: A column is missing or has values other than 0 and 1, or a row does not have exactly one 1.
    """
    given = f"--label_columns={','.join(columns)}"
    for column in columns:
        if table.column_names.count(column) != 1:
            names = named([repr(name) for name in table.column_names])
            raise UserError(f"{given}: {path} has no column {column!r}. The columns are {names}.")
    ones = [_ones(table, column) for column in columns]
    for column, values in zip(columns, ones):
        if values is None:
            raise UserError(
                f"{given}: the column {column!r} of {path} must contain only 0 and 1. Pass one column per class."
            )
    labels = [[name for name, is_one in zip(columns, row) if is_one] for row in zip(*(values or [] for values in ones))]
    for count, wrong in ((0, "no 1"), (2, "several 1s")):
        bad = [number for number, row in enumerate(labels) if min(len(row), 2) == count]
        if bad:
            raise UserError(
                f"{given}: {len(bad):,} of {len(labels):,} rows of {path} have {wrong} in these columns, for example"
                f" row {bad[0] + 1:,}. {ONE_LABEL} Exactly one of the columns must be 1 in each row. Pass other"
                " columns, or remove these rows from the table."
            )
    return [row[0] for row in labels]


def one_hot_columns(table: pa.Table, besides: Collection[str] = ()) -> list[str]:
    """Return the columns that may be classes: they contain only 0 and 1, and at least one 1."""
    names = [name for name in table.column_names if name and name not in besides]
    return [name for name in names if table.column_names.count(name) == 1 and any(_ones(table, name) or ())]


def advice(table: pa.Table, columns: Sequence[str]) -> str:
    """Return how to use columns of 0 and 1 as classes, or why this is not possible."""
    flag = as_flag("label_columns", columns)
    counts = [sum(row) for row in zip(*(_ones(table, column) or [] for column in columns))]
    bad = [row for row, count in enumerate(counts) if count != 1]
    if not bad:
        return (
            f"{len(columns)} columns contain only 0 and 1. If each is a class, pass {flag}. Otherwise name the column"
            " of labels with --label_column."
        )
    several = sum(count > 1 for count in counts)
    return (
        f"{len(columns)} columns contain only 0 and 1, but {several:,} of {len(counts):,} rows have several 1s and"
        f" {len(bad) - several:,} have none. The first of these rows is row {bad[0] + 1:,}. {ONE_LABEL} If only some"
        f" of the columns are classes, and each row has exactly one 1 in them, pass only the columns of classes, for"
        f" example {flag}. Otherwise"
        " name the column of labels with --label_column."
    )


def _ones(table: pa.Table, column: str) -> list[bool] | None:
    """Return whether each value is 1. None: the column has values other than 0 and 1."""
    import pyarrow as pa

    if pa.types.is_nested(table.schema.field(column).type):
        return None
    distinct = table.column(column).unique().slice(0, len(_FLAGS) + 1)
    if len(distinct) > len(_FLAGS):
        return None
    values = [str(value).strip().lower() for value in distinct.to_pylist()]
    return [_FLAGS[text.lower()] for text in tables.texts(table, column)] if set(values) <= set(_FLAGS) else None


# --- Numbers ---------------------------------------------------------------------------------------------------------


def _numbers(labels: Collection[str], decimal: str) -> dict[str, Decimal]:
    """Return label -> its value, if all labels are numbers or missing. Otherwise {}."""
    given = {label for label in labels if label.casefold() != _NAN}
    if not all(_NUMBER.fullmatch(label) and ("," not in label or "," in decimal) for label in given):
        return {}
    return {label: Decimal(label.replace(",", ".")) for label in given}  # Exact, since identifiers may be long.


def _whole(path: str, column: str, labels: Sequence[str], numbers: Mapping[str, Decimal]) -> dict[str, str]:
    """Return label -> class name, for whole numbers that are written as 0.0, 1.0.

    If all labels are written as whole numbers, the result is {}: they stay as they are, since 007 is a name.

    Raises:
        UserError: A number has a fraction.
    """
    if all(_INTEGER.fullmatch(label) for label in numbers):
        return {}
    fractions = {label for label, value in numbers.items() if not _is_whole(value)}
    if not fractions:
        return {label: f"{value or 0:.0f}" for label, value in numbers.items()}
    row = next(row for row, label in enumerate(labels) if label in fractions)
    raise UserError(
        f"{path}: the column {column!r} contains numbers with fractions, for example {labels[row]} in row {row + 1:,}."
        " Labels must be classes: regression is not supported. Add a column with ranges of the numbers, such as"
        f" 20-25, and pass the name of the new column as --label_column.{_classes_hint(numbers)}"
    )


def _is_whole(value: Decimal) -> bool:
    return value.is_finite() and value.adjusted() < _MAX_DIGITS and value == value.to_integral_value()


def _classes_hint(names: Collection[str]) -> str:
    """Return advice: which flag makes every label a class, as it is written."""
    flag = as_flag("classes", sorted(names)) if len(names) <= _CLASSES_LISTED else "--classes=NAME,NAME,…"
    return f" If every value is the name of a class, list all classes: {flag}"


# --- Several labels --------------------------------------------------------------------------------------------------


def _members(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    return [str(item[0] if isinstance(item, tuple) else item).strip() for item in value]


def _listed(label: str, labels: Collection[str]) -> list[str] | None:
    """Return the items of a label that is a list, printed by Python, JSON or numpy. None: no list."""
    if len(label) < 2 or _BRACKETS.get(label[0]) != label[-1]:
        return None
    try:
        value = ast.literal_eval(label)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = None
    if isinstance(value, set):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple, dict)):
        # numpy prints no commas: Python then joins neighboring strings.
        texts = re.findall(r"'[^']*'|\"[^\"]*\"", label)
        return [text[1:-1] for text in texts] if len(texts) > len(value) else [str(item) for item in value]
    if all(_BRACKETS.get(other[0]) == other[-1] for other in labels):  # [dog, cat], [0. 1. 0.]
        inner = label[1:-1].strip()
        items = inner.split(",") if "," in inner else inner.split()
        return [item.strip(" '\"") for item in items]
    return None


def _only_ones(path: str, column: str, lists: Sequence[Sequence[str]]) -> list[str]:
    """Return the label of each row, or "" for a row without labels. Refuse rows with several labels."""
    several = [row for row, members in enumerate(lists) if len(members) > 1]
    if several:
        members = named([repr(member) for member in lists[several[0]]], 5)
        raise UserError(
            f"{path}: {len(several):,} of {len(lists):,} rows have several labels in the column {column!r}, for"
            f" example {members} in row {several[0] + 1:,}. {ONE_LABEL} Pass a column with one label per row"
            " as --label_column, or leave one label in each row."
        )
    return [members[0] if members else "" for members in lists]


def _several(labels: Collection[str]) -> list[str]:
    """Return the labels that combine several labels with a separator."""
    for separator in _ALWAYS:
        if combined := [label for label in labels if len(_split(label, separator)) > 1]:
            return combined
    return next((combined for separator in _OFTEN if (combined := _combined(labels, separator))), [])


def _combined(labels: Collection[str], separator: str) -> list[str]:
    """Return the labels that combine several labels, and not just names that contain the separator.

    A label is a combination if all its parts are labels themselves, or if the same parts occur in many combinations.
    """
    parts = {label: _split(label, separator) for label in labels}
    with_separator = [label for label in labels if len(parts[label]) > 1]
    if _parts_repeat(list(parts.values()), separator):
        return with_separator
    single = {label for label in labels if len(parts[label]) == 1}
    return [label for label in with_separator if single.issuperset(parts[label])]


def _parts_repeat(parts: Sequence[Sequence[str]], separator: str) -> bool:
    """Whether there are fewer parts than labels, and the labels are not a hierarchy such as `Apple/scab`.

    Names of several words often share a word. If the separator is a space, every part must therefore occur at least
    twice, unless all parts are numbers.
    """
    counts = collections.Counter(part for of_label in parts for part in of_label if part.casefold() != _NAN)
    if separator == " " and counts and all(map(_INTEGER.fullmatch, counts)):
        return True
    repeated = separator != " " or 1 not in counts.values()
    return len(counts) < len(parts) and repeated and not _is_hierarchy(parts)


def _is_hierarchy(parts: Sequence[Sequence[str]]) -> bool:
    """Whether all labels have the same number of parts, and every part is always in the same position."""
    if len({len(of_label) for of_label in parts}) != 1:
        return False
    levels = [set(names) for names in zip(*parts)]
    return sum(map(len, levels)) == len(set().union(*levels))


def _split(label: str, separator: str) -> list[str]:
    return [part for part in map(str.strip, label.split(separator)) if part]


def _refusal(path: str, column: str, labels: Sequence[str], several: Collection[str]) -> str:
    counts = collections.Counter(labels)
    row = next(row for row, label in enumerate(labels) if label in set(several))
    rows = sum(counts[label] for label in set(several))
    return (
        f"{path}: {rows:,} of {len(labels):,} rows seem to have several labels in the column {column!r}, for example"
        f" {labels[row]!r} in row {row + 1:,}. {ONE_LABEL} Pass a column with one label per row as --label_column."
        f"{_classes_hint({label for label in counts if label})}"
    )


def without(labels: Sequence[str], column: str) -> Iterator[str]:
    """Yield a note on the rows without a label, if there are any."""
    missing = [row for row, label in enumerate(labels) if not label]
    if missing:
        yield (
            f"{len(missing):,} of {len(labels):,} rows are left out, since they have no label in the column {column!r},"
            f" for example row {missing[0] + 1:,}"
        )
