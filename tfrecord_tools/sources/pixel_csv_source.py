"""Read images from CSVs of pixels. Each line is converted to a PNG."""

from __future__ import annotations

import dataclasses
import os
from array import array
from collections.abc import Iterator

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.sources import pixel_csv
from tfrecord_tools.sources.base import SPAN, Content, Listing, ReadError


@dataclasses.dataclass(frozen=True)
class PixelCsv:
    """A store: the lines of CSVs of pixels in one directory. Each line is read as a PNG."""

    root: str
    headers: dict[str, pixel_csv.Header]  # By file name.

    def read(self, path: str, span: np.void) -> Content:
        name = path.rpartition(":")[0]
        with open(os.path.join(self.root, name), "rb") as file:
            line = files.read_at(file.fileno(), int(span["stored"]), int(span["offset"]))
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
        try:
            return Content(pixel_csv.to_png(line, self.headers[name]), int(span["size"]), mtime_ns)
        except ValueError as error:
            raise ReadError(str(error)) from error


def list_csvs(root: str, names: list[str]) -> Listing:
    """List the lines of the CSV files `names` in the directory `root`."""
    paths: list[str] = []
    labels: list[str] = []
    offsets, lengths, mtimes = array("q"), array("q"), array("q")
    headers = {name: _header(os.path.join(root, name)) for name in names}
    for name in (name for name in names if headers[name].label is not None):
        with open(os.path.join(root, name), "rb") as file:
            file.readline()
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            for row in pixel_csv.rows(file, headers[name]):
                paths.append(f"{name}:{row.line}")
                labels.append(row.label)
                offsets.append(row.offset)
                lengths.append(row.length)
                mtimes.append(mtime_ns)
    if not paths:
        raise UserError(f"{os.path.join(root, names[0])}: {_why_no_pixels(list(headers.values()))}")
    spans = np.zeros(len(paths), SPAN)
    spans["offset"], spans["stored"], spans["size"] = offsets, lengths, lengths
    return Listing(
        store=PixelCsv(root, headers),
        paths=paths,
        spans=spans,
        sizes=np.array(lengths, np.int64),
        mtimes_ns=np.array(mtimes, np.int64),
        rejected=[],
        labels=labels,
        notes=tuple(_notes(root, headers)),
    )


def _header(path: str) -> pixel_csv.Header:
    with open(path, "rb") as file:
        try:
            return pixel_csv.read_header(file)
        except ValueError as error:
            raise UserError(f"{path}: {error}.") from error


def _why_no_pixels(headers: list[pixel_csv.Header]) -> str:
    if any(header.label is not None for header in headers):
        return "the CSV of pixels has no lines after its header."
    return "the CSV of pixels has no class names. It must have a column named label."


def _notes(root: str, headers: dict[str, pixel_csv.Header]) -> Iterator[str]:
    """Yield a note on every guessed shape, and on every file without class names."""
    counted = {header.shape: header.size for header in headers.values() if header.counted and header.label is not None}
    for (height, width, channels), size in counted.items():
        color = "gray" if channels == 1 else "RGB, the three values of a pixel side by side"
        yield f"{size:,} pixel columns are read as {height} x {width} pixels in {color}"
    for name in (name for name, header in headers.items() if header.label is None):
        with open(os.path.join(root, name), "rb") as file:
            lines = sum(1 for line in file if line.strip()) - 1
        yield f"{name}: {lines:,} lines are left out, since they have no column of class names"
