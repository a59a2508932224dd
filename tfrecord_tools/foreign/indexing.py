"""Read files of third-party TFRecords: what each record holds, as rows of the index, and records written anew.

Each function takes one file as an independent unit of work, in the memory of the file's rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.foreign import example_parser, forms, tfrecord_files
from tfrecord_tools.foreign.forms import INDEX, Form, Label, Unlabeled, Unusable
from tfrecord_tools.images import preparation
from tfrecord_tools.images.preparation import BadImage, ImageConfig, Prepared
from tfrecord_tools.layout import index, schema
from tfrecord_tools.layout.dataset_files import Rejected

_DECODED = ("JPEG", "PNG", "GIF", "BMP", "WEBP")  # What TensorFlow decodes.
_NO_EXAMPLE = "it is not a tf.train.Example"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file, and the shard that it becomes.

    Attributes:
        path: The file.
        compression: As in `tfrecord_files.Group`.
        title: The file's name in messages and in the paths of records that name none.
        split: The split it belongs to.
        number: Its number within the split.
        name: File name of the shard.
    """

    path: Path
    compression: str
    title: str
    split: str
    number: int
    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One file and what is done with it.

    Attributes:
        shard: The file.
        form: How its records hold image and label.
        part: The part of the index to write.
        verify: As in `ImageConfig`.
    """

    shard: Shard
    form: Form
    part: Path
    verify: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rewriting(Job):
    """A file whose records are written anew.

    Attributes:
        target: The shard to write.
        labels: Stored label -> final label.
    """

    target: Path
    labels: Mapping[Label, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a file holds.

    Attributes:
        records: Records in the file.
        shard_records: Records in the shard: all of the file, or those that were written anew.
        shard_bytes: Length of their serialized examples.
        labels: Stored label -> records.
        texts: Stored label -> name of its class, if the records hold one.
        rejected: Records that cannot be used.
        unlabeled: How many of the rejected records have no label.
        changes: `preparation.CHANGES` -> number of images that `convert` would change so, or that were changed so.
    """

    records: int
    shard_records: int
    shard_bytes: int
    labels: Counter[Label]
    texts: dict[Label, str]
    rejected: list[Rejected]
    unlabeled: int
    changes: Counter[str]


class _Stored(NamedTuple):
    """What a record holds."""

    label: Label
    path: str
    image: bytes


class _Tally:
    """Collects what `Found` says of a file."""

    def __init__(self, job: Job):
        self._job = job
        self.labels, self.texts, self.changes = Counter[Label](), dict[Label, str](), Counter[str]()
        self.rejected: list[Rejected] = []
        self.unlabeled = 0

    def take(self, number: int, data: bytes, with_image: bool = True) -> _Stored | None:
        """Return what a record holds; None, and a line among the rejected, if it cannot be used."""
        try:
            return _stored(data, self._job.form, with_image)
        except Unusable as error:
            self.unlabeled += isinstance(error, Unlabeled)
            self.reject(number, _path(data, self._job.form), str(error))
            return None

    def reject(self, number: int, path: str, reason: str) -> None:
        self.rejected.append(Rejected(path=path or _numbered(self._job.shard, number), reason=reason))

    def count(self, label: Label, data: bytes, changes: Sequence[str] = ()) -> None:
        self.labels[label] += 1
        self.changes.update(changes)
        if self._job.form.text and label not in self.texts:
            self.texts[label] = _text(data, self._job.form.text)

    def found(self, shard_records: int = 0, shard_bytes: int = 0) -> Found:
        return Found(
            records=self.labels.total() + len(self.rejected), shard_records=shard_records, shard_bytes=shard_bytes,
            labels=self.labels, texts=self.texts, rejected=self.rejected, unlabeled=self.unlabeled,
            changes=self.changes,
        )  # fmt: skip


def labels(job: Job) -> Found:
    """Read a file's labels; images are passed over."""
    tally = _Tally(job)
    for number, data in enumerate(_read(job.shard)):
        stored = tally.take(number, data, with_image=False)
        if stored is not None:
            tally.count(stored.label, data)
    return tally.found()


def scan(job: Job) -> Found:
    """Read a file that stays as it is; write the rows of its part of the index, with the labels as they are stored."""
    columns, tally, config = _Columns(job), _Tally(job), ImageConfig(verify=job.verify)
    for number, data in enumerate(_read(job.shard)):
        stored, row = tally.take(number, data), None
        if stored is not None:
            try:
                path = stored.path or index.place(job.shard.name, columns.end)
                changes, facts = _as_it_is(stored.image, config)
                tally.count(stored.label, data, changes)
                row = (stored.label, path, *facts)
            except BadImage as error:
                tally.reject(number, stored.path, str(error))
        columns.add(len(data), row or _left_out(data, index.place(job.shard.name, columns.end)))
    return tally.found(*columns.write())


def rewrite(job: Rewriting) -> Found:
    """Write the usable records of a file anew, as `convert` would; then the rows of its part of the index."""
    columns, tally, config = _Columns(job), _Tally(job), ImageConfig(verify=job.verify)
    with files.atomic(job.target) as file:
        for number, data in enumerate(_read(job.shard)):
            stored = tally.take(number, data)
            if stored is None:
                continue
            try:
                prepared = preparation.prepare(stored.image, config)
            except BadImage as error:
                tally.reject(number, stored.path, str(error))
                continue
            tally.count(stored.label, data, prepared.changes)
            label, path = job.labels[stored.label], stored.path or _numbered(job.shard, number)
            example = schema.encode_example(prepared.data, path, label)
            file.write(schema.frame(example))
            columns.add(len(example), (label, path, *_facts(stored.image, prepared)))
    return tally.found(*columns.write())


class _Columns:
    """Rows of the index as they grow.

    Attributes:
        end: Where the next record of the shard starts, in bytes.
    """

    _NAMES = (
        "offset", "length", "label", "path", "sha256", "bytes", "type", "height", "width", "source_sha256",
        "source_type", "changes",
    )  # fmt: skip

    def __init__(self, job: Job) -> None:
        self._job = job
        self._columns: dict[str, list[Any]] = {name: [] for name in self._NAMES}
        self.end = 0

    def add(self, length: int, row: tuple[Any, ...]) -> None:
        """Add a record of so many bytes; `row` holds the columns from `label` on."""
        for column, value in zip(self._columns.values(), (self.end, length, *row), strict=True):
            column.append(value)
        self.end += length + schema.FRAME_BYTES

    def write(self) -> tuple[int, int]:
        """Write the part of the index; return the number of records and the bytes of their examples."""
        count, shard = len(self._columns["offset"]), self._job.shard
        constant = {"split": [shard.split] * count, "shard": [shard.number] * count, "group": [0] * count}
        index.write_part(self._job.part, constant | self._columns)
        return count, self.end - count * schema.FRAME_BYTES


def _left_out(data: bytes, place: str) -> tuple[Any, ...]:
    """The row of a record that stays in its file and is not to be read."""
    sha256 = hashlib.sha256(data).digest()
    return (index.LEFT_OUT, place, sha256, 0, "", 0, 0, sha256, "", "")


def _facts(image: bytes, prepared: Prepared) -> tuple[Any, ...]:
    """The columns of the index from `sha256` on."""
    source = hashlib.sha256(image).digest()
    sha256 = hashlib.sha256(prepared.data).digest() if prepared.changes else source
    size = (len(prepared.data), prepared.type, prepared.height, prepared.width)
    return (sha256, *size, source, prepared.source_type, ",".join(prepared.changes))


def _read(shard: Shard) -> Iterator[bytes]:
    return tfrecord_files.read(shard.path, shard.compression, refuse)


def refuse(message: str) -> None:
    """Stop because of a damaged file."""
    raise UserError(f"{message}. Copy the file again from where it is sound.")


def _numbered(shard: Shard, number: int) -> str:
    """What stands for the path of a record that names none, in what is written anew and in lists for people."""
    return f"{shard.title}:{number}"


def _stored(data: bytes, form: Form, with_image: bool) -> _Stored:
    if form.plain:
        with contextlib.suppress(KeyError, ValueError, IndexError):
            quick = schema.decode_example(data, form.keys)
            return _Stored(forms.check_number(quick["label"], form), quick["path"], quick["image"])
    example = example_parser.parse(data)
    if example is None:
        raise Unusable(_NO_EXAMPLE)
    stored = forms.label_of(example, form), forms.path_of(example, form)
    image = forms.image_of(example, form) if with_image else b""
    if form.plain:
        raise Unusable("readers do not take it as it is written; --rewrite writes such records anew")
    return _Stored(*stored, image)


def _path(data: bytes, form: Form) -> str:
    return forms.path_of(example_parser.parse(data) or {}, form)


def _text(data: bytes, key: str) -> str:
    feature = (example_parser.parse(data) or {}).get(key, example_parser.Feature("", []))
    text = feature.values[0].decode("utf-8", "replace") if feature.type == "bytes" and feature.values else ""
    return " ".join(text.split())


def _as_it_is(data: bytes, config: ImageConfig) -> tuple[Sequence[str], tuple[Any, ...]]:
    """Return the changes that `convert` would make, and the columns of the index for an image that stays as it is."""
    prepared = preparation.prepare(data, config)
    kind, size = prepared.source_type, (prepared.width, prepared.height)
    if kind not in _DECODED:
        raise BadImage(f"a {kind} image, which TensorFlow does not decode; --rewrite makes a PNG of it")
    if prepared.changes:
        with preparation.as_bad_image(), Image.open(io.BytesIO(data)) as image:
            size = image.size
    sha256 = hashlib.sha256(data).digest()
    return prepared.changes, (sha256, len(data), kind, size[1], size[0], sha256, kind, "")


def for_rewriting(form: Form) -> Form:
    """Return the form in which whole numbers may also be stored as floats, as all are written anew."""
    return dataclasses.replace(form, label=forms.NUMBER) if form.label == INDEX else form
