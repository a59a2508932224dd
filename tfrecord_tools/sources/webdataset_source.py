"""List tar files of webdataset: the image and the label of each sample, splits and class names."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfrecord_tools.base import tables
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.sources import any_files, manifest, manifest_labels, row_source, webdataset_tars
from tfrecord_tools.sources.base import ReadError
from tfrecord_tools.sources.file_sets import FileSet, Kind
from tfrecord_tools.sources.manifest import Reading
from tfrecord_tools.sources.row_source import Rows, RowSource
from tfrecord_tools.sources.webdataset_tars import MEMBER, Sample, Tars

if TYPE_CHECKING:
    import pyarrow as pa

KIND = Kind("tar", webdataset_tars.ENDING, webdataset_tars.has_samples)
CLS = "cls"  # The column of the members with labels.
NAME_FILES = ("classnames.txt", "classes.txt")  # One class name per line, in the order of the labels.
_FIELD = "json."  # May be written before the name of a field. So --label_column=json.label is not the default.
_FIELDS_SHOWN = 10
_NO_LABEL = "-1"  # As in Hugging Face's files. Only used with names for all numbers from 0.


def read(found: FileSet, reading: Reading, exclude: Sequence[str] = ()) -> RowSource:
    """Read everything except the images.

    Args:
        found: The tar files.
        reading: The fields with label, split and group. `path` is the extension of the images.
        exclude: Patterns of files to leave out.

    Raises:
        UserError: A file cannot be read, a pattern matches nothing, or several fields or images fit.
    """
    found, left_out = found.to_read(exclude)
    found, file_splits, notes = found.splits()
    listed = _Listed(found, reading)
    for number, file in enumerate(found.files):
        listed.add(number, file)
    table = listed.table()
    columns, label_notes = _columns(found.src, table, reading, listed.fields)
    labels, names, name_notes = _labels(found, table, columns, reading)
    mtimes = np.array([any_files.status(path)[1] for path in found.paths], np.int64)
    spans = listed.spans
    rows = Rows(
        src=found.src,
        noun="sample",
        store=Tars(found.root, found.files),
        places=listed.places,
        spans=spans,
        sizes=spans["size"].copy(),
        mtimes_ns=mtimes[spans["file"]],
        table=table,
        file_splits=None if file_splits is None else [file_splits[file] for file in spans["file"].tolist()],
    )
    all_notes = [*left_out, *notes, *listed.notes(), *label_notes, *name_notes]
    return row_source.make(rows, columns, labels, listed.unusable, names, all_notes)


class _Listed:
    """The samples of all files, in compact columns, since there may be many millions of samples."""

    def __init__(self, found: FileSet, reading: Reading):
        self._found = found
        self._reading = reading
        columns = {column.removeprefix(_FIELD) for column in reading.columns.values()}
        self._wanted = {*columns, *reading.label_columns, row_source.PATH, row_source.SOURCE_SHA256}
        self._parts: list[pa.Table] = []
        self._others = collections.Counter[str]()
        self.places: list[str] = []
        self._spans: list[np.ndarray] = []
        self.unusable: dict[int, str] = {}
        self.fields: dict[str, None] = {}  # All names of fields, in the order of their first occurrence.

    def add(self, number: int, file: str) -> None:
        """Add the samples of a tar file."""
        import pyarrow as pa

        rows, spans = [], []
        for sample in webdataset_tars.samples(self._found.path(file)):
            row = len(self.places)
            values = self._values(row, sample)
            extension = self._image(file, sample)
            if not extension and not values:
                continue  # For example a text without an image.
            if not extension:
                self.unusable[row] = "its sample has no image"
            if repeated := sample.repeated:
                self.unusable[row] = f"its sample has several members {repeated[0]}"
            rows.append(values)
            self.places.append(f"{file}/{sample.key}.{extension or next(iter(sample.texts))}")
            spans.append((number, *sample.images.get(extension, (0, 0))))
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
        self._spans.append(np.array(spans, MEMBER))
        self._parts.append(pa.table(columns or {"": pa.nulls(len(rows))}))

    def _values(self, row: int, sample: Sample) -> dict[str, str]:
        """Return the values of the fields that may be needed, as text."""
        try:
            fields = sample.fields()
        except ReadError as error:
            self.unusable[row] = str(error)
            fields = {}
        self.fields |= dict.fromkeys(fields)
        used = {name: value for name, value in fields.items() if name in self._wanted or manifest.may_be_label(name)}
        values = {name: text for name, value in used.items() if (text := _text(value)) is not None}
        label = sample.label_member
        return values if label is None else {**values, CLS: label}

    def _image(self, file: str, sample: Sample) -> str:
        """Return the extension of the image of a sample. "": it has none.

        Raises:
            UserError: Several images fit.
        """
        given = self._reading.columns["path"]
        if given != "path":
            return given if given in sample.images else ""
        plain = [extension for extension in sample.images if "." not in extension]
        candidates = plain or list(sample.images)
        if len(candidates) > 1:
            raise UserError(
                f"{self._found.path(file)}: the sample {sample.key} has several images: {', '.join(candidates)}. Name"
                f" the extension of the images to read, for example --path_column={candidates[0]}."
            )
        self._others.update(extension for extension in sample.images if extension not in candidates)
        return candidates[0] if candidates else ""

    @property
    def spans(self) -> np.ndarray:
        """`MEMBER`[n], the position of each image."""
        return np.concatenate(self._spans)

    def table(self) -> pa.Table:
        """Return the fields of all samples as columns of text."""
        import pyarrow as pa

        return pa.concat_tables(self._parts, promote_options="permissive")

    def notes(self) -> Iterator[str]:
        """Yield a note about images that are not read."""
        for extension, count in self._others.items():
            yield f"{count:,} images with the extension {extension} are not read (see --path_column)"


def _text(value: object) -> str | None:
    """Return a value of a JSON field as text. None: it is missing or empty."""
    if value is None:
        return None
    return tables.json_text(value).strip() or None


def _columns(src: str, table: pa.Table, reading: Reading, fields: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return role -> name of its column, and notes.

    If several columns of labels mean the same classes, the texts are the names and the numbers are the order.

    Raises:
        UserError: There is no column of labels, or several columns differ.
    """
    optional = {name: reading.columns[name].removeprefix(_FIELD) for name in ("split", "group")}
    columns, notes = manifest.find_columns(src, table, dataclasses.replace(reading, columns=optional))
    if reading.label_columns:
        return columns, notes
    candidates = _candidates(src, table, reading.columns["label"], fields)
    values = {name: tables.texts(table, name) for name in candidates}
    first = candidates[0]
    for other in candidates[1:]:
        if not _equivalent(values[first], values[other]):
            raise UserError(
                f"{src}: the labels in {first!r} and in {other!r} are not the same classes. Name the right ones:"
                f" --label_column={_flag_value(first)} or --label_column={_flag_value(other)}."
            )
    numbers = [name for name in candidates if all(map(_is_number, values[name]))]
    names = [name for name in candidates if name not in numbers]
    columns["label"] = (names or numbers)[0]
    if numbers and names:
        columns["number"] = numbers[0]
    if not {"label", CLS} & {*candidates}:
        notes.append(f"the field {columns['label']!r} is read as the labels (see --label_column)")
    return columns, notes


def _candidates(src: str, table: pa.Table, given: str, fields: Collection[str]) -> list[str]:
    """Return the columns that may be the labels.

    Raises:
        UserError: There is no such column.
    """
    if given != "label":
        candidates = [name for name in table.column_names if name == given.removeprefix(_FIELD)]
        problem = f"there is no field {given!r}"
    else:
        candidates = [name for name in table.column_names if name == CLS or manifest.may_be_label(name)]
        problem = "the samples have no members .cls, and no field of their members .json is a label"
    if not candidates:
        shown = named([repr(name) for name in fields], _FIELDS_SHOWN) if fields else "none"
        raise UserError(f"{src}: {problem}. The fields are: {shown}. Name the field of the labels with --label_column.")
    return candidates


def _flag_value(column: str) -> str:
    return column if column == CLS else f"{_FIELD}{column}"


def _equivalent(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two columns divide the samples into the same classes."""
    pairs = {*zip(one, other)}
    return len({first for first, _ in pairs}) == len({second for _, second in pairs}) == len(pairs)


def _is_number(text: str) -> bool:
    return not text or (text.isascii() and text.isdecimal())


def _labels(
    found: FileSet, table: pa.Table, columns: Mapping[str, str], reading: Reading
) -> tuple[list[str], list[str], list[str]]:
    """Return the labels of all samples, the class names in label order, and notes.

    A label "" means that the sample has none. If the list of class names is empty, their order is not known.
    """
    if reading.label_columns:
        return manifest_labels.one_hot(found.src, table, reading.label_columns), [], []
    column = columns["label"]
    labels = manifest_labels.read(found.src, table, column, "", reading.classes)
    if "number" in columns:
        numbers = tables.texts(table, columns["number"])
        number_of = {label: int(number) for label, number in zip(labels, numbers) if label and number}
        names = sorted(number_of, key=number_of.__getitem__)
        if sorted(set(number_of.values())) == list(range(len(names))):
            return labels, names, []
        note = f"the numbers in {columns['number']!r} are not 0 to {len(names) - 1:,}"
        return labels, names, [f"{note}. The labels of the dataset only count classes with images"]
    names, file = _names_beside(found)
    if names and not reading.classes:
        labels = ["" if label == _NO_LABEL else label for label in labels]
    if not names or not all(map(_is_number, labels)) or reading.classes:
        return labels, [], []
    if (largest := max((int(label) for label in labels if label), default=0)) >= len(names):
        raise UserError(
            f"{found.path(file)}: has {len(names):,} class names, but there is a label {largest:,}, and labels count"
            " from 0. Correct the file, or remove it."
        )
    notes = [f"the class names are those in {file}"]
    return [names[int(label)] if label else "" for label in labels], names, notes


def _names_beside(found: FileSet) -> tuple[list[str], str]:
    """Return the class names in a text file beside the tar files, and the name of the file.

    If there is no such file, the list is empty.
    """
    for file in NAME_FILES:
        if any_files.exists(found.path(file)):
            with any_files.open_binary(found.path(file)) as opened:
                return _class_names(opened.read(), found.path(file)), file
    return [], ""


def _class_names(content: bytes, path: str) -> list[str]:
    try:
        names = [line.strip() for line in content.decode("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not in UTF-8. Save it as UTF-8, or remove it.") from error
    if "" in names:
        raise UserError(
            f"{path}: line {names.index('') + 1:,} is empty, so the labels of the lines below are not clear. Write one"
            " class name in each line, in the order of the labels."
        )
    if again := tables.repeated(names):
        raise UserError(
            f"{path}: the class name {again[0]!r} is in several lines. Every class must have its own name. Correct the"
            " file, or remove it to name the classes after their labels."
        )
    return names
