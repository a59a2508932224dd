"""Read tables: Parquet, JSON Lines, or CSV with any usual delimiter and encoding.

All values of a CSV are text.
"""

from __future__ import annotations

import codecs
import collections
import csv
import io
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from typing import IO, TYPE_CHECKING, Any

from tfrecord_tools.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
DELIMITERS = (",", ";", "\t", "|")
_PROBED_LINES = 200
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # Before UTF-16, because the mark of UTF-32 starts with that of UTF-16.
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n')  # Excel names the delimiter in a line before the header.
_SEPARATORS = frozenset("\t" + "".join(map(chr, range(32, 127)))) - {'"'}
_EXPECTED = "Pass a Parquet file, or a CSV file in UTF-8 with values separated by commas, semicolons, tabs or |."


def _open(path: str) -> IO[bytes]:
    return open(path, "rb")


def read(
    path: str,
    encoding: str | None = None,
    known: Collection[str] = (),
    encoding_flag: str = "",
    open_file: Callable[[str], IO[bytes]] = _open,
) -> tuple[pa.Table, str]:
    """Read a table.

    Args:
        path: The file.
        encoding: The encoding of a CSV. None: the encoding of its byte order mark, or UTF-8 if it has no mark.
        known: Expected column names. If several delimiters are possible, one that gives such a name is used.
        encoding_flag: The flag that gives the encoding, for messages. "": there is no such flag.
        open_file: Opens the file for reading. The default opens files on this machine.

    Returns:
        The table (all columns of a CSV as text), and the delimiter ("" for Parquet and JSON Lines).

    Raises:
        UserError: The file cannot be read.
    """
    import pyarrow as pa

    try:
        with open_file(path) as file:
            if path.lower().endswith(".parquet"):
                return _read_parquet(file), ""
            text = _decoded(file.read(), path, encoding, encoding_flag)
        if path.lower().endswith(".jsonl"):
            return _read_json_lines(text, path), ""
        return _read_csv(text, path, known)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as a table of images and labels: {error}. {_EXPECTED}") from error


def _read_parquet(file: IO[bytes]) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file).read()  # pq.read_table would add columns from the directories' names.


def _read_json_lines(text: str, path: str) -> pa.Table:
    """Read a table with one JSON object per line. Columns with values of several types become text.

    pyarrow's own reader would turn texts such as 2020-01-01 into times.
    """
    import pyarrow as pa

    columns: dict[str, list[Any]] = {}
    count = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number:,} is not valid JSON: {error}. Correct the line.") from error
        if not isinstance(row, dict):
            raise UserError(
                f'{path}: line {number:,} is not a JSON object such as {{"file_name": "1.jpg"}}. Correct the line.'
            )
        for name, value in ((valid_text(name), value) for name, value in row.items()):
            column = columns.setdefault(name, [])
            column.extend([None] * (count - len(column)))
            column.append(value)
        count += 1
    filled = {name: [*column, *[None] * (count - len(column))] for name, column in columns.items()}
    return pa.table({unicodedata.normalize("NFC", name): _array(values) for name, values in filled.items()})


def _array(values: list[Any]) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return pa.array([None if value is None else json_text(value) for value in values], pa.string())


def json_text(value: Any) -> str:
    """Return a value of a JSON file as text. Texts stay as they are, except for `valid_text`."""
    return valid_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def valid_text(text: str) -> str:
    """Return a text with halves of characters written as `\\ud800`.

    JSON may contain them, and UTF-8 may not.
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _decoded(data: bytes, path: str, encoding: str | None, flag: str) -> str:
    """Return the text of a CSV.

    Raises:
        UserError: The text is in another encoding, or the file is not a text.
    """
    if data.startswith(b"PK\x03\x04"):
        raise UserError(
            f"{path}: is an Excel or OpenDocument workbook, or a zip archive. Save the sheet with the table as a CSV"
            " file in UTF-8."
        )
    if data.startswith(b"PAR1"):
        raise UserError(f"{path}: is a Parquet file, but its name does not end with .parquet. Rename it.")
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    chosen = encoding or marked or "utf-8"
    try:
        text = data.decode(chosen)
    except LookupError as error:
        raise UserError(
            f"--{flag}={encoding}: is not a known encoding. Use a name such as utf-8, cp1252, cp949, cp932 or gb18030."
        ) from error
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: line {row:,} is not in {chosen}: the bytes {data[error.start : error.start + 4]!r} are not valid."
            f" Save the table as UTF-8{_other_encodings(flag)}."
        ) from error
    if "\0" in text[:4096]:
        raise UserError(
            f"{path}: cannot be read as a table of images and labels: the file contains zero bytes (NUL), so it is not"
            f" a text file. {_EXPECTED}"
        )
    return text.removeprefix("\ufeff")


def _other_encodings(flag: str) -> str:
    if not flag:
        return ""
    return (
        f", or name its encoding, for example --{flag}=cp1252 (Western Europe), cp949 (Korea), cp932 (Japan) or gb18030"
        " (China)"
    )


def _read_csv(text: str, path: str, known: Collection[str]) -> tuple[pa.Table, str]:
    import pyarrow as pa
    import pyarrow.csv

    first = _SEPARATOR.match(text)
    if first:
        text = text[first.end() :]
        if first[1] not in _SEPARATORS:
            raise UserError(
                f"{path}: the first line names {first[1]!r} as the separator. A separator must be an ASCII character,"
                " for example sep=;. Save the table without this line, with values separated by commas."
            )
    delimiter = first[1] if first else delimiter_of(text, known)
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values='"' in text)
    data = text.encode()
    with pyarrow.csv.open_csv(io.BytesIO(data), parse_options=parse) as reader:
        names = reader.schema.names
    # Labels such as 007 are names, not numbers.
    texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    table = pyarrow.csv.read_csv(io.BytesIO(data), parse_options=parse, convert_options=texts)
    return table.rename_columns([unicodedata.normalize("NFC", name).strip() for name in table.column_names]), delimiter


def delimiter_of(text: str, known: Collection[str] = ()) -> str:
    """Return the delimiter of a CSV.

    The delimiters are compared by three criteria, in this order: the header contains a name in `known`; all lines have
    the same number of columns; the header has the most columns. The first criterion prevents mistakes by commas in
    numbers or labels.
    """
    lines = list(itertools.islice(io.StringIO(text, newline=""), _PROBED_LINES))

    def score(delimiter: str) -> tuple[bool, bool, int]:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        header = [name.strip().casefold() for name in rows[0]] if rows else []
        even = all(len(row) == len(header) for row in rows[:-1])  # The last row may be incomplete.
        return len(header) > 1 and not known_names.isdisjoint(header), even and len(header) > 1, len(header)

    known_names = {name.casefold() for name in known}
    try:
        return max(DELIMITERS, key=score)
    except csv.Error:  # A field longer than 128 KiB.
        return ","


def texts(table: pa.Table, column: str) -> list[str]:
    """Return a column as text without surrounding spaces. Missing values and NaN become ""."""
    import pyarrow as pa

    array = table.column(column)
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    values = array.to_pylist()
    if pa.types.is_floating(kind):
        values = [None if value is None or value != value else value for value in values]
    return ["" if value is None else _text(value) for value in values]


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace").strip() if isinstance(value, bytes) else str(value).strip()


def normal(name: str) -> str:
    """Return a column name in lower case, without spaces, dashes, underscores and a plural s."""
    letters = re.sub(r"[\W_]+", "", name.casefold())
    return letters[:-1] if letters.endswith("s") and not letters.endswith(("ss", "is")) else letters


def repeated(names: Sequence[str]) -> list[str]:
    """Return the names that occur more than once."""
    return [name for name, count in collections.Counter(names).items() if count > 1]


def is_table(path: str) -> bool:
    """Whether the file exists and its name ends with .csv, .tsv, .jsonl or .parquet."""
    return path.lower().endswith(ENDINGS) and os.path.isfile(path)
