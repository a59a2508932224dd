"""Read and write CSVs of pixels, with one image per line.

A line has the class name and all values 0..255, row by row, channel last. The header that `to_csv` writes names each
value by row x column, from 1. So it gives the shape: `label,1x1,1x2,…,28x28` for gray, `label,1x1r,1x1g,1x1b,…,64x64b`
for color. Headers of other programs only number the values: `label,pixel0,…,pixel783`. Such images must be square. They
are gray, or RGB with three values per pixel.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image

from tfrecord_tools.images import recode

_FIRST = re.compile(rb'(?:\xef\xbb\xbf)?"?label"?,"?1x1r?"?(?:,|\r?\n)')  # Spreadsheets write a byte order mark.
_COUNTED = re.compile(r"((?:pixels?|px|pix|p|x|v|feature|attr)?[ _-]?)(\d+)", re.IGNORECASE)
_LABELS = frozenset({"label", "labels", "class", "target", "digit", "category", "y", "letter", "emotion"})
_IDS = frozenset({"id", "imageid", "image_id", "index", "unnamed: 0"})
_BESIDE = (".csv", ".tsv", ".txt", ".md", ".json", ".pdf")
_DELIMITERS = ",;\t|"
_MIN_COUNTED = 64  # 8 x 8 pixels. Fewer numbered columns may be anything.
_MAX_HEADER_BYTES = 1 << 22
_LAST = re.compile(rb'"?(\d+)x(\d+)(b?)"?\s*$')
_HEAD_BYTES = 64
_SHOWN_BYTES = 20  # Bytes of an invalid value in a message.
_VALUES = {b"%d" % value: value for value in range(256)}
_LABEL = re.compile(rb'"((?:[^"]|"")*)"\s*(?:,|$)|([^,\r\n]*)(?:,|$)?')


@dataclasses.dataclass(frozen=True)
class Header:
    """The content of the first line of a CSV of pixels.

    Attributes:
        shape: Height, width, channels.
        label: Number of the column of class names, from 0. None: there is none.
        first: Number of the first column of pixels, from 0.
        columns: Number of columns. 0: the columns of pixels and one of class names.
        delimiter: The character between the columns.
        counted: Whether the columns are only numbered. The shape is then a guess.
    """

    shape: tuple[int, int, int]
    label: int | None = 0
    first: int = 1
    columns: int = 0
    delimiter: str = ","
    counted: bool = False

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def plain(self) -> bool:
        """Whether lines have the format of `to_csv`: the class name, then only pixels."""
        return self.label == 0 and self.first == 1 and self.delimiter == "," and self.columns in (0, 1 + self.size)


@dataclasses.dataclass(frozen=True)
class Row:
    """The position of an image in the file.

    Attributes:
        line: Number of the line, from 1. The header is line 1.
        label: The class name. "": there is none.
        offset: Position of the line in bytes.
        length: Length of the line in bytes, with its line break.
    """

    line: int
    label: str
    offset: int
    length: int


def is_one(path: str) -> bool:
    """Whether the file at `path` is a CSV of pixels, with or without class names."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            if _FIRST.match(head) is not None:
                return True
            if not head.removeprefix(codecs.BOM_UTF8).isascii() or not any(d in head for d in _DELIMITERS.encode()):
                return False
            file.seek(0)
            return _counted(file.readline(_MAX_HEADER_BYTES)) is not None
    except OSError:
        return False


def files_in(directory: str, names: Sequence[str]) -> list[str]:
    """Return the CSVs of pixels in a directory. [] if it contains more than tables and texts."""
    csvs = []
    for name in names:
        if is_one(os.path.join(directory, name)):
            csvs.append(name)
        elif not (name.lower().endswith(_BESIDE) and os.path.isfile(os.path.join(directory, name))):
            return []
    return csvs


def header(height: int, width: int, channels: int) -> str:
    """Return the first line of a CSV of images u8[height width channels]. `channels` is 1 or 3."""
    names = ("",) if channels == 1 else ("r", "g", "b")
    columns = (f"{y}x{x}{name}" for y in range(1, height + 1) for x in range(1, width + 1) for name in names)
    return ",".join(("label", *columns)) + "\n"


def read_shape(file: BinaryIO) -> tuple[int, int, int]:
    """Read the header, and return height, width and channels.

    Raises:
        ValueError: The header has no shape.
    """
    return read_header(file).shape


def read_header(file: BinaryIO) -> Header:
    """Read the first line.

    Raises:
        ValueError: The line has no shape.
    """
    line = file.readline()
    counted = None if _FIRST.match(line) else _counted(line)
    if counted is not None:
        return _of_counted(*counted)
    last = _LAST.search(line[-_HEAD_BYTES:])
    height, width, channels = (int(last[1]), int(last[2]), 3 if last[3] else 1) if last else (0, 0, 1)
    if line.count(b",") != height * width * channels or not height:
        raise ValueError(
            f"the header has {line.count(b','):,} columns of pixels and ends with {line[-20:].strip()!r}, which does"
            " not give a shape. The header must be label,1x1,1x2,…,28x28 or label,1x1r,1x1g,1x1b,…,64x64b"
        )
    return Header((height, width, channels))


def _counted(line: bytes) -> tuple[list[str], int, int, str] | None:
    """Parse a header with numbered columns of pixels. None: it is something else.

    Columns of pixels are neighbors with the same name and the numbers 0, 1, 2, … or 1, 2, 3, …. Other columns must have
    a usual name for classes or identifiers.

    Returns:
        The names of all columns, the first column of pixels, the number of columns of pixels, and the delimiter.
    """
    text = line.decode("utf-8-sig", "replace").rstrip("\r\n")
    delimiter = max(_DELIMITERS, key=text.count)
    names = [name.strip() for name in next(csv.reader([text], delimiter=delimiter), [])]
    matches = [_COUNTED.fullmatch(name) for name in names]
    first = next((column for column, match in enumerate(matches) if match and int(match[2]) in (0, 1)), -1)
    if first < 0:
        return None
    prefix, start = matches[first][1], int(matches[first][2])  # type: ignore[index]
    count = 0
    for match in matches[first:]:
        if not match or match[1] != prefix or int(match[2]) != start + count:
            break
        count += 1
    others = [name for column, name in enumerate(names) if name and not first <= column < first + count]
    # A line of numbers may be a row of a table without a header. Numbers beside an identifier may be classes.
    clear = prefix or any(name.casefold() in _LABELS for name in others)
    usual = clear and all(name.casefold() in _LABELS | _IDS for name in others)
    return (names, first, count, delimiter) if count >= _MIN_COUNTED and usual else None


def _of_counted(names: Sequence[str], first: int, count: int, delimiter: str) -> Header:
    labels = [column for column, name in enumerate(names) if name.casefold() in _LABELS]
    if len(labels) > 1:
        raise ValueError(
            f"the header has {len(labels)} columns that may be the class: {', '.join(names[i] for i in labels)}. Keep"
            " one of these columns"
        )
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if side * side * channels == count:
            label = labels[0] if labels else None
            return Header((side, side, channels), label, first, len(names), delimiter, counted=True)
    raise ValueError(
        f"the header has {count:,} columns of pixels. Images must be square. For gray images, the number of columns"
        " must be a square number, for example 784 for 28 x 28 pixels. For RGB, the number must be three times a square"
        " number"
    )


def rows(file: BinaryIO, header: Header | None = None) -> Iterator[Row]:
    """Yield the lines after the header. Only one line is in memory at a time."""
    offset = file.tell()
    plain = header is None or header.plain
    for number, line in enumerate(file, 2):
        if line.strip():
            label = _label(line) if header is None or plain else _label_at(line, header)
            # One string object per class.
            yield Row(number, sys.intern(label.decode("utf-8", "surrogateescape")), offset, len(line))
        offset += len(line)


def _label_at(line: bytes, header: Header) -> bytes:
    fields = _fields(line, header)
    within = header.label is not None and header.label < len(fields)
    return fields[header.label].strip() if within else b""  # type: ignore[index]


def _fields(line: bytes, header: Header) -> list[bytes]:
    text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    fields = next(csv.reader([text], delimiter=header.delimiter), [])
    return [field.encode("utf-8", "surrogateescape") for field in fields]


def line(label: str, pixels: np.ndarray) -> str:
    """Return the line of an image u8[h w c]. The class name is quoted if necessary (RFC 4180)."""
    quoted = '"' + label.replace('"', '""') + '"' if {",", '"'} & set(label) else label
    return ",".join((quoted, *map(str, pixels.ravel().tolist()))) + "\n"


def to_png(text: bytes, header: Header) -> bytes:
    """Convert a line to a PNG.

    Raises:
        ValueError: The number of values differs from the header, or a value is not in 0..255.
    """
    shape, fields = header.shape, _values(text, header)
    if len(fields) != header.size:
        raise ValueError(f"{len(fields):,} pixel values in its line, but {header.size:,} in the header")
    try:
        pixels = np.array([_VALUES[field] for field in fields], np.uint8).reshape(shape)
    except KeyError:
        position, wrong = next((position, field) for position, field in enumerate(fields, 1) if field not in _VALUES)
        shown = wrong[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
        raise ValueError(f"pixel value {position:,} is {shown!r}. It must be a whole number from 0 to 255") from None
    return recode.encoded(Image.fromarray(pixels[:, :, 0] if shape[2] == 1 else pixels), "PNG", quality=0)


def _values(text: bytes, header: Header) -> list[bytes]:
    """Return the fields of a line that are pixels, as written."""
    if header.plain:
        values = text[_LABEL.match(text).end() :].strip()  # type: ignore[union-attr]  # The expression also matches "".
        fields = _fields(values, header) if b'"' in values else values.split(b",") if values else []
        return [field.strip() for field in fields]
    fields = [field.strip() for field in _fields(text, header)]
    more = len(fields) - header.columns
    return fields[header.first : header.first + header.size + max(more, 0)]  # With extra fields, `to_png` reports them.


def _label(line: bytes) -> bytes:
    match = _LABEL.match(line)
    quoted, plain = match.groups() if match else (None, b"")
    return plain.strip() if quoted is None else quoted.replace(b'""', b'"')
