"""Index files of third-party TFRecords without changing them, or rewrite their records.

`labels`, `scan` and `rewrite` each process one file, so that files can be processed in parallel. Memory grows with the
number of records in the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from tfrecord_tools.base import files
from tfrecord_tools.foreign import example_parser, forms, tfrecord_files
from tfrecord_tools.foreign.forms import INDEX, Form, Label, Unlabeled, Unusable
from tfrecord_tools.images import preparation
from tfrecord_tools.images.preparation import BadImage, ImageConfig, Prepared
from tfrecord_tools.layout import decisions, index, schema
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.decisions import Decision, Decisions

_DECODED = ("JPEG", "PNG", "GIF", "BMP", "WEBP")  # The formats that TensorFlow decodes.
_NO_EXAMPLE = "it is not a tf.train.Example"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A TFRecord file, and its place in the dataset as a shard.

    Attributes:
        path: Path of the file.
        compression: As in `tfrecord_files.Group`.
        title: Name of the file in messages and in the paths of records that have no path.
        split: Name of the split.
        number: Number of the shard within the split.
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
    """The job of indexing one file.

    Attributes:
        shard: The file.
        form: How the records hold image and label.
        part: The part of the index to write.
        verify: As in `ImageConfig`.
    """

    shard: Shard
    form: Form
    part: Path
    verify: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rewriting(Job):
    """The job of rewriting the records of one file.

    Attributes:
        target: The shard to write.
        labels: Stored label -> final label.
        made: The decisions about images.
        label_of: Class name -> final label.
    """

    target: Path
    labels: Mapping[Label, int]
    made: Decisions
    label_of: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A summary of one file.

    Attributes:
        records: Number of records in the file.
        shard_records: Number of records in the shard: all records of the file, or the rewritten ones.
        shard_bytes: Size of the serialized examples in the shard, in bytes.
        labels: Stored label -> number of records.
        texts: Stored label -> class name, if the records hold class names.
        rejected: The records that cannot be used.
        unlabeled: Number of rejected records without a label.
        changes: Name in `preparation.CHANGES` -> number of images that `convert` would change, or that were changed.
        decided: The decision about each image that has one, and the image's final label without the decision.
    """

    records: int
    shard_records: int
    shard_bytes: int
    labels: Counter[Label]
    texts: dict[Label, str]
    rejected: list[Rejected]
    unlabeled: int
    changes: Counter[str]
    decided: Sequence[tuple[Decision, int]] = ()


class _Record(NamedTuple):
    """The label, source path and encoded image of a record."""

    label: Label
    path: str
    image: bytes


class _Tally:
    """Collects the facts about a file for `Found`."""

    def __init__(self, job: Job):
        self._job = job
        self.labels, self.texts, self.changes = Counter[Label](), dict[Label, str](), Counter[str]()
        self.rejected: list[Rejected] = []
        self.unlabeled = 0
        self.decided: list[tuple[Decision, int]] = []

    def parse(self, number: int, data: bytes, with_image: bool = True) -> _Record | None:
        """Parse a record. If it cannot be used, add it to the rejected records and return None."""
        try:
            return _parse(data, self._job.form, with_image)
        except Unusable as error:
            self.unlabeled += isinstance(error, Unlabeled)
            self.reject(number, _path(data, self._job.form), str(error))
            return None

    def reject(self, number: int, path: str, reason: str, done: str = "skipped") -> None:
        self.rejected.append(Rejected(path=path or _numbered(self._job.shard, number), reason=reason, done=done))

    def count(self, label: Label, data: bytes, changes: Sequence[str] = ()) -> None:
        self.labels[label] += 1
        self.changes.update(changes)
        if self._job.form.text and label not in self.texts:
            self.texts[label] = _text(data, self._job.form.text)

    def summary(self, shard_records: int = 0, shard_bytes: int = 0) -> Found:
        return Found(
            records=self.labels.total() + len(self.rejected), shard_records=shard_records, shard_bytes=shard_bytes,
            labels=self.labels, texts=self.texts, rejected=self.rejected, unlabeled=self.unlabeled,
            changes=self.changes, decided=self.decided,
        )  # fmt: skip


def labels(job: Job) -> Found:
    """Read the labels of a file without the images."""
    tally = _Tally(job)
    for number, data in enumerate(_read(job.shard)):
        record = tally.parse(number, data, with_image=False)
        if record is not None:
            tally.count(record.label, data)
    return tally.summary()


def scan(job: Job) -> Found:
    """Index a file without changing it. The index gets the labels as the records hold them."""
    columns, tally, config = _Columns(job), _Tally(job), ImageConfig(verify=job.verify)
    for number, data in enumerate(_read(job.shard)):
        record, row = tally.parse(number, data), None
        if record is not None:
            try:
                path = record.path or index.place(job.shard.name, columns.end)
                changes, facts = _unchanged_facts(record.image, config)
                tally.count(record.label, data, changes)
                row = (record.label, path, *facts)
            except BadImage as error:
                tally.reject(number, record.path, str(error))
        columns.add(len(data), row or _left_out_row(data, index.place(job.shard.name, columns.end)))
    return tally.summary(*columns.write())


def rewrite(job: Rewriting) -> Found:
    """Rewrite the usable records of a file as `convert` would, then write its part of the index."""
    columns, tally, config = _Columns(job), _Tally(job), ImageConfig(verify=job.verify)
    with files.atomic(job.target) as file:
        for number, data in enumerate(_read(job.shard)):
            record = tally.parse(number, data)
            if record is None:
                continue
            try:
                prepared = preparation.prepare(record.image, config)
            except BadImage as error:
                tally.reject(number, record.path, str(error))
                continue
            label = _decided_label(job, tally, record)
            if label == index.LEFT_OUT:
                tally.reject(number, record.path, decisions.DROPPED, "dropped")
                continue
            tally.count(record.label, data, prepared.changes)
            path = record.path or _numbered(job.shard, number)
            example = schema.example_parts(prepared.data, path, label)
            file.writelines(schema.frame_parts(example))
            columns.add(sum(map(len, example)), (label, path, *_facts(record.image, prepared)))
    return tally.summary(*columns.write())


def _decided_label(job: Rewriting, tally: _Tally, record: _Record) -> int:
    """Return the final label of a record after the decision about its image, or `index.LEFT_OUT`."""
    label = job.labels[record.label]
    decision = job.made.in_effect.get(hashlib.sha256(record.image).hexdigest()) if job.made.in_effect else None
    if decision is None:
        return label
    tally.decided.append((decision, label))
    return job.made.new_label(decision, job.label_of, label)


class _Columns:
    """The rows of a part of the index.

    Attributes:
        end: The byte at which the next record of the shard starts.
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
        """Add a record of `length` bytes; `row` holds the columns from `label` on."""
        for column, value in zip(self._columns.values(), (self.end, length, *row), strict=True):
            column.append(value)
        self.end += length + schema.FRAME_BYTES

    def write(self) -> tuple[int, int]:
        """Write the part of the index; return the number of records and the size of their examples in bytes."""
        count, shard = len(self._columns["offset"]), self._job.shard
        constant = {"split": [shard.split] * count, "shard": [shard.number] * count, "group": [0] * count}
        index.write_part(self._job.part, constant | self._columns)
        return count, self.end - count * schema.FRAME_BYTES


def _left_out_row(data: bytes, place: str) -> tuple[Any, ...]:
    """Return the index row of a record that cannot be used. It stays in the file, but readers skip it."""
    sha256 = hashlib.sha256(data).digest()
    return (index.LEFT_OUT, place, sha256, 0, "", 0, 0, sha256, "", "")


def _facts(image: bytes, prepared: Prepared) -> tuple[Any, ...]:
    """Return the columns of the index from `sha256` on."""
    source = hashlib.sha256(image).digest()
    sha256 = hashlib.sha256(prepared.data).digest() if prepared.changes else source
    size = (len(prepared.data), prepared.type, prepared.height, prepared.width)
    return (sha256, *size, source, prepared.source_type, ",".join(prepared.changes))


def _read(shard: Shard) -> Iterator[bytes]:
    return tfrecord_files.read_intact(shard.path, shard.compression)


def _numbered(shard: Shard, number: int) -> str:
    """Return the path of a record that has none, for rewritten records and for lists of rejected records."""
    return f"{shard.title}:{number}"


def _parse(data: bytes, form: Form, with_image: bool) -> _Record:
    if form.plain:
        with contextlib.suppress(KeyError, ValueError, IndexError):
            fields = schema.decode_example(data, form.keys)
            return _Record(forms.check_number(fields["label"], form), fields["path"], fields["image"])
    example = example_parser.parse(data)
    if example is None:
        raise Unusable(_NO_EXAMPLE)
    label, path = forms.label_of(example, form), forms.path_of(example, form)
    image = forms.image_of(example, form) if with_image else b""
    if form.plain:
        raise Unusable(
            "the record's tf.train.Example is encoded in an unusual way, which the readers of this package cannot"
            " parse; --rewrite stores it in the usual way"
        )
    return _Record(label, path, image)


def _path(data: bytes, form: Form) -> str:
    return forms.path_of(example_parser.parse(data) or {}, form)


def _text(data: bytes, key: str) -> str:
    feature = (example_parser.parse(data) or {}).get(key, example_parser.Feature("", []))
    text = feature.values[0].decode("utf-8", "replace") if feature.type == "bytes" and feature.values else ""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _unchanged_facts(data: bytes, config: ImageConfig) -> tuple[Sequence[str], tuple[Any, ...]]:
    """Return the changes that `convert` would make, and the index columns of the unchanged image."""
    prepared = preparation.prepare(data, config)
    kind, size = prepared.source_type, (prepared.width, prepared.height)
    if kind not in _DECODED:
        raise BadImage(f"a {kind} image, which TensorFlow cannot decode; --rewrite converts it to PNG")
    if prepared.changes:
        with preparation.as_bad_image(), Image.open(io.BytesIO(data)) as image:
            size = image.size
    sha256 = hashlib.sha256(data).digest()
    return prepared.changes, (sha256, len(data), kind, size[1], size[0], sha256, kind, "")


def for_rewriting(form: Form) -> Form:
    """Return a form that also accepts whole numbers stored as floats."""
    return dataclasses.replace(form, label=forms.NUMBER) if form.label == INDEX else form
