"""CSVs of pixels, a line an image: its class name, then all values 0..255, row by row, channel last.

The header names each value by its place, from which the shape is read: `label,1x1,1x2,…,28x28` for grey,
`label,1x1r,1x1g,1x1b,…,64x64b` for colour: row x column, from 1.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from tfrecord_tools import recode

_FIRST = re.compile(rb'(?:\xef\xbb\xbf)?"?label"?,"?1x1r?"?(?:,|\r?\n)')  # Spreadsheets put a byte order mark first.
_LAST = re.compile(rb'"?(\d+)x(\d+)(b?)"?\s*$')
_HEAD_BYTES = 64
_SHOWN_BYTES = 20  # Of a wrong value.
_VALUES = {b"%d" % value: value for value in range(256)}
_LABEL = re.compile(rb'"((?:[^"]|"")*)"\s*(?:,|$)|([^,\r\n]*)(?:,|$)?')


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
    """Whether the file at `path` is a CSV of pixels."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return _FIRST.match(file.read(_HEAD_BYTES)) is not None
    except OSError:
        return False


def header(height: int, width: int, channels: int) -> str:
    """The first line of a CSV of images u8[height width channels], channels 1 or 3."""
    names = ("",) if channels == 1 else ("r", "g", "b")
    places = (f"{y}x{x}{name}" for y in range(1, height + 1) for x in range(1, width + 1) for name in names)
    return ",".join(("label", *places)) + "\n"


def read_shape(file: BinaryIO) -> tuple[int, int, int]:
    """Reads the header: height, width, channels.

    Raises:
        ValueError: It does not say a shape.
    """
    line = file.readline()
    last = _LAST.search(line[-_HEAD_BYTES:])
    height, width, channels = (int(last[1]), int(last[2]), 3 if last[3] else 1) if last else (0, 0, 1)
    if line.count(b",") != height * width * channels or not height:
        raise ValueError(
            f"the header has {line.count(b','):,} columns of pixels and ends with {line[-20:].strip()!r}, which is no"
            " shape: label,1x1,1x2,…,28x28 or label,1x1r,1x1g,1x1b,…,64x64b is expected"
        )
    return height, width, channels


def rows(file: BinaryIO) -> Iterator[Row]:
    """Yields the lines behind the header, in the memory of one."""
    offset = file.tell()
    for number, line in enumerate(file, 2):
        if line.strip():
            label = _label(line).decode("utf-8", "surrogateescape")
            yield Row(number, sys.intern(label), offset, len(line))  # One object a class, not one a line.
        offset += len(line)


def line(label: str, pixels: np.ndarray) -> str:
    """Writes an image u8[h w c] with its class name, in quotes where it needs them (RFC 4180)."""
    quoted = '"' + label.replace('"', '""') + '"' if {",", '"'} & set(label) else label
    return ",".join((quoted, *map(str, pixels.ravel().tolist()))) + "\n"


def to_png(text: bytes, shape: tuple[int, int, int]) -> bytes:
    """Makes a PNG of a line.

    Raises:
        ValueError: The line has not as many values as the header says, or others than 0..255.
    """
    values = text[_LABEL.match(text).end() :].strip()  # type: ignore[union-attr]  # It may be "".
    fields = [field.strip() for field in values.split(b",")] if values else []
    expected = shape[0] * shape[1] * shape[2]
    if len(fields) != expected:
        raise ValueError(f"{len(fields):,} pixel values, where the header says {expected:,}")
    try:
        pixels = np.array([_VALUES[field] for field in fields], np.uint8).reshape(shape)
    except KeyError:
        place, wrong = next((place, field) for place, field in enumerate(fields, 1) if field not in _VALUES)
        shown = wrong[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
        raise ValueError(f"pixel value {place:,} is {shown!r}; a whole number of 0 to 255 is expected") from None
    return recode.encoded(Image.fromarray(pixels[:, :, 0] if shape[2] == 1 else pixels), "PNG", quality=0)


def _label(line: bytes) -> bytes:
    match = _LABEL.match(line)
    quoted, plain = match.groups() if match else (None, b"")
    return plain.strip() if quoted is None else quoted.replace(b'""', b'"')
