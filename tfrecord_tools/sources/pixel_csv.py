"""CSVs of pixels, a line an image: its class name and all values 0..255, row by row, channel last.

The header that is written here names each value by its place, from which the shape is read: `label,1x1,1x2,…,28x28` for
grey, `label,1x1r,1x1g,1x1b,…,64x64b` for color: row x column, from 1. Headers of others count the values:
`label,pixel0,…,pixel783`. Such images are square, in grey or, with three values per pixel, in RGB.
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

_FIRST = re.compile(rb'(?:\xef\xbb\xbf)?"?label"?,"?1x1r?"?(?:,|\r?\n)')  # Spreadsheets put a byte order mark first.
_COUNTED = re.compile(r"((?:pixels?|px|pix|p|x|v|feature|attr)?[ _-]?)(\d+)", re.IGNORECASE)
_LABELS = frozenset({"label", "labels", "class", "target", "digit", "category", "y", "letter", "emotion"})
_IDS = frozenset({"id", "imageid", "image_id", "index", "unnamed: 0"})
_BESIDE = (".csv", ".tsv", ".txt", ".md", ".json", ".pdf")
_DELIMITERS = ",;\t|"
_MIN_COUNTED = 64  # Images of 8 x 8 pixels; fewer columns with numbers may be anything.
_MAX_HEADER_BYTES = 1 << 22
_LAST = re.compile(rb'"?(\d+)x(\d+)(b?)"?\s*$')
_HEAD_BYTES = 64
_SHOWN_BYTES = 20  # Of a wrong value.
_VALUES = {b"%d" % value: value for value in range(256)}
_LABEL = re.compile(rb'"((?:[^"]|"")*)"\s*(?:,|$)|([^,\r\n]*)(?:,|$)?')


@dataclasses.dataclass(frozen=True)
class Header:
    """What the first line of a CSV of pixels says.

    Attributes:
        shape: Height, width, channels.
        label: The column of the class name, from 0; None without one.
        first: The first column of pixels.
        columns: How many columns there are.
        delimiter: What separates them.
        counted: The columns have numbers, so that the shape is a guess.
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
        """Whether lines are as they are written here: the class name, then nothing but pixels."""
        return self.label == 0 and self.first == 1 and self.delimiter == "," and self.columns in (0, 1 + self.size)


@dataclasses.dataclass(frozen=True)
class Row:
    """Where an image lies in the file.

    Attributes:
        line: Its number in the file, from 1; the header is 1.
        label: The class name.
        offset: Of the line, in bytes.
        length: Of the line, in bytes, with its end.
    """

    line: int
    label: str
    offset: int
    length: int


def is_one(path: str) -> bool:
    """Whether the file at `path` is a CSV of pixels, with class names or without."""
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
    """Return the CSVs of pixels among a directory's entries; none if others are more than tables and texts."""
    csvs = []
    for name in names:
        if is_one(os.path.join(directory, name)):
            csvs.append(name)
        elif not (name.lower().endswith(_BESIDE) and os.path.isfile(os.path.join(directory, name))):
            return []
    return csvs


def header(height: int, width: int, channels: int) -> str:
    """The first line of a CSV of images u8[height width channels], channels 1 or 3."""
    names = ("",) if channels == 1 else ("r", "g", "b")
    places = (f"{y}x{x}{name}" for y in range(1, height + 1) for x in range(1, width + 1) for name in names)
    return ",".join(("label", *places)) + "\n"


def read_shape(file: BinaryIO) -> tuple[int, int, int]:
    """Read the header: height, width, channels.

    Raises:
        ValueError: It does not say a shape.
    """
    return read_header(file).shape


def read_header(file: BinaryIO) -> Header:
    """Read the first line.

    Raises:
        ValueError: It does not say a shape.
    """
    line = file.readline()
    counted = None if _FIRST.match(line) else _counted(line)
    if counted is not None:
        return _of_counted(*counted)
    last = _LAST.search(line[-_HEAD_BYTES:])
    height, width, channels = (int(last[1]), int(last[2]), 3 if last[3] else 1) if last else (0, 0, 1)
    if line.count(b",") != height * width * channels or not height:
        raise ValueError(
            f"the header has {line.count(b','):,} columns of pixels and ends with {line[-20:].strip()!r}, which is no"
            " shape: label,1x1,1x2,…,28x28 or label,1x1r,1x1g,1x1b,…,64x64b is expected"
        )
    return Header((height, width, channels))


def _counted(line: bytes) -> tuple[list[str], int, int, str] | None:
    """Return the columns of a header that counts its pixels, where these start, how many they are, and the delimiter.

    They are neighbors with one name and numbers that go up by one from 0 or 1. Beside them there is one column with a
    usual name of classes, or none with a name at all.
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
    # Numbers alone may be a row without any header, and beside an identifier they may be classes.
    clear = prefix or any(name.casefold() in _LABELS for name in others)
    usual = clear and all(name.casefold() in _LABELS | _IDS for name in others)
    return (names, first, count, delimiter) if count >= _MIN_COUNTED and usual else None


def _of_counted(names: Sequence[str], first: int, count: int, delimiter: str) -> Header:
    labels = [column for column, name in enumerate(names) if name.casefold() in _LABELS]
    if len(labels) > 1:
        raise ValueError(
            f"the header has {len(labels)} columns that may be the class: {', '.join(names[i] for i in labels)}"
        )
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if side * side * channels == count:
            label = labels[0] if labels else None
            return Header((side, side, channels), label, first, len(names), delimiter, counted=True)
    raise ValueError(
        f"the header has {count:,} columns of pixels. Images must be square: a square number of columns is expected,"
        " such as 784 for 28 x 28 pixels in grey, or three times one for RGB"
    )


def rows(file: BinaryIO, header: Header | None = None) -> Iterator[Row]:
    """Yield the lines behind the header, in the memory of one; the label is "" where there is none."""
    offset = file.tell()
    plain = header is None or header.plain
    for number, line in enumerate(file, 2):
        if line.strip():
            label = _label(line) if header is None or plain else _label_at(line, header)
            yield Row(number, sys.intern(label.decode("utf-8", "surrogateescape")), offset, len(line))  # One a class.
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
    """Writes an image u8[h w c] with its class name, in quotes where it needs them (RFC 4180)."""
    quoted = '"' + label.replace('"', '""') + '"' if {",", '"'} & set(label) else label
    return ",".join((quoted, *map(str, pixels.ravel().tolist()))) + "\n"


def to_png(text: bytes, header: Header) -> bytes:
    """Make a PNG of a line.

    Raises:
        ValueError: The line has not as many values as the header says, or others than 0..255.
    """
    shape, fields = header.shape, _values(text, header)
    if len(fields) != header.size:
        raise ValueError(f"{len(fields):,} pixel values, where the header says {header.size:,}")
    try:
        pixels = np.array([_VALUES[field] for field in fields], np.uint8).reshape(shape)
    except KeyError:
        position, wrong = next((position, field) for position, field in enumerate(fields, 1) if field not in _VALUES)
        shown = wrong[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
        raise ValueError(f"pixel value {position:,} is {shown!r}; a whole number of 0 to 255 is expected") from None
    return recode.encoded(Image.fromarray(pixels[:, :, 0] if shape[2] == 1 else pixels), "PNG", quality=0)


def _values(text: bytes, header: Header) -> list[bytes]:
    """Return the fields of a line that are pixels, as they are written."""
    if header.plain:
        values = text[_LABEL.match(text).end() :].strip()  # type: ignore[union-attr]  # It may be "".
        fields = _fields(values, header) if b'"' in values else values.split(b",") if values else []
        return [field.strip() for field in fields]
    fields = [field.strip() for field in _fields(text, header)]
    more = len(fields) - header.columns
    return fields[header.first : header.first + header.size + max(more, 0)]  # Too many are to be noticed.


def _label(line: bytes) -> bytes:
    match = _LABEL.match(line)
    quoted, plain = match.groups() if match else (None, b"")
    return plain.strip() if quoted is None else quoted.replace(b'""', b'"')
