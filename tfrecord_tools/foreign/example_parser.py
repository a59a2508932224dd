"""Parse serialized `tf.train.Example` messages without TensorFlow, and summarize their features.

The messages and their field numbers (tensorflow/core/example/example.proto, feature.proto):
    Example: features 1. Features: map 1 of string to Feature.
    Feature: one of bytes_list 1, float_list 2, int64_list 3. Each list holds its values as field 1.
    SequenceExample: context 1 (Features), feature_lists 2. FeatureLists: map 1 of string to FeatureList.
    FeatureList: Feature 1, repeated.

Parsing follows protobuf. If a key or a kind of list is repeated, the last value counts. Repeated messages are merged.
Numbers may be packed or not. There is one exception: protobuf ignores unknown fields, but here they are an error,
because they show that the bytes are a message of another type.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tfrecord_tools.images import pillow
from tfrecord_tools.images.preparation import ImageConfig
from tfrecord_tools.layout import wire
from tfrecord_tools.layout.wire import DELIMITED, FIXED32, VARINT

T = TypeVar("T")
_LISTS = {  # Field of Feature -> type, wire types of its values.
    1: ("bytes", {DELIMITED}),
    2: ("float", {DELIMITED, FIXED32}),
    3: ("int64", {DELIMITED, VARINT}),
}
_IMAGE = re.compile(  # Some texts start with "BM", so a BMP must also have zeros in its four reserved bytes.
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<GIF>GIF8[79]a)|(?P<BMP>BM.{4}\0{4})|(?P<WEBP>RIFF.{4}WEBP)",
    re.DOTALL,
)
_BMP_BITS = 28  # Position of a BMP's bits per pixel. TensorFlow decodes only 8 and more.
_WHITE_SPACE = str.maketrans("\n\r\t", "   ")
_MAX_VALUES, _MAX_LENGTH = 1000, 64  # Limits of `Seen.values`: number of values, and characters of each value.


class Feature(NamedTuple):
    """The values of a feature.

    Attributes:
        type: "bytes", "int64" or "float"; "" if the feature has no list.
        values: list[bytes], i64[n] or f32[n].
    """

    type: str
    values: Any


class ImageSeen(NamedTuple):
    """The image type that the first bytes show, and (width, height) in pixels; None: cannot be decoded."""

    type: str
    size: tuple[int, int] | None


class Seen(NamedTuple):
    """A summary of a feature in one record, of limited size.

    Attributes:
        length: Number of values.
        bounds: Smallest and largest number; for bytes, smallest and largest length. Empty if all values are NaN, or if
            there are no values.
        nans: Number of values that are NaN.
        values: Distinct values: numbers, texts as str, other bytes as bytes.
        complete: Whether `values` has all distinct values in full length.
        images: An entry for each value with the first bytes of an image.
    """

    length: int
    bounds: tuple[float, ...]
    nans: int
    values: tuple[Any, ...]
    complete: bool
    images: tuple[ImageSeen, ...]


def parse(serialized: bytes) -> dict[str, Feature] | None:
    """Return the features of a `tf.train.Example`, sorted by name; None if the bytes are not an Example."""
    try:
        return _map(b"".join(_contents(serialized)), _feature)
    except (IndexError, ValueError):
        return None


def parse_sequence(serialized: bytes) -> tuple[dict[str, Feature], dict[str, list[Feature]]] | None:
    """Return the context and the lists of a `tf.train.SequenceExample`; None if the bytes are not one.

    A SequenceExample without lists looks like an Example.
    """
    parts = {1: b"", 2: b""}
    try:
        for number, content in wire.fields(serialized, {1: (DELIMITED,), 2: (DELIMITED,)}):
            parts[number] += content
        return _map(parts[1], _feature), _map(parts[2], lambda steps: [_feature(step) for step in _contents(steps)])
    except (IndexError, ValueError):
        return None


def counts(serialized: bytes) -> dict[str, tuple[str, int]] | None:
    """Return each feature's type and number of values; None if it is not a `tf.train.Example`.

    This function takes a tenth of the time of `parse`. It passes records with an unusual encoding to `parse`.
    """
    try:
        return dict(_usual_counts(serialized)) if serialized else {}
    except (LookupError, ValueError):
        parsed = parse(serialized)
        return None if parsed is None else {name: (f.type, len(f.values)) for name, f in parsed.items()}


def look(feature: Feature) -> Seen:
    """Summarize a feature's values, and decode those that are images."""
    return _look_at_bytes(feature.values) if feature.type == "bytes" else _look_at_numbers(feature.values)


def image_type(data: bytes) -> str | None:
    """Return the image type that the first bytes show: JPEG, PNG, GIF, BMP or WEBP. None: not an image."""
    match = _IMAGE.match(data)
    return match.lastgroup if match else None


def decode(data: bytes) -> Image.Image | None:
    """Decode a JPEG, PNG, GIF, BMP or WEBP image. If the file has several pictures, decode the first.

    Returns:
        The image. None if TensorFlow cannot decode it, or if it has more than `ImageConfig.max_pixels` pixels, because
        records may come from untrusted sources.
    """
    try:
        with pillow.unlimited():
            image = Image.open(io.BytesIO(data), formats=tuple(_IMAGE.groupindex))
            if image.width * image.height > ImageConfig.max_pixels:
                return None
            image.load()
            return image if image_type(data) != "BMP" or data[_BMP_BITS] >= 8 else None
    except Exception:  # noqa: BLE001  The bytes may be anything, and five parsers may raise any error.
        return None


def _usual_counts(data: bytes) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield the items of `counts`, if every message occurs once and numbers are packed.

    Raises:
        ValueError, LookupError: The record is encoded in another way, or is not an example.
    """
    position, end = wire.span(data, 0, 0x0A, len(data))
    names = set()
    while position < end:
        start, position = wire.span(data, position, 0x0A, end)
        key, value = wire.span(data, start, 0x0A, position)
        name = data[key:value]
        start, stop = wire.span(data, value, 0x12, position)
        first, last = wire.span(data, start, data[start], stop)
        if name in names or stop != position or last != stop:
            raise ValueError("a message in several parts")
        names.add(name)
        kind, _ = _LISTS[data[start] >> 3]
        if data[start] & 7 != DELIMITED:
            raise ValueError("no list")
        yield name.decode(), (kind, _values_in(data, first, last, kind))
    if end != len(data):
        raise ValueError("features in several parts")


def _values_in(data: bytes, position: int, end: int, kind: str) -> int:
    """Return the number of values in a list."""
    count = 0
    while kind == "bytes" and position < end:
        position = wire.span(data, position, 0x0A, end)[1]
        count += 1
    if position == end:
        return count
    first, last = wire.span(data, position, 0x0A, end)
    if last != end or (kind == "float" and (last - first) % 4):
        raise ValueError("numbers in several parts")
    if kind == "int64" and last - first == 1 and data[first] < 0x80:  # Most labels and sizes are one byte.
        return 1
    return (last - first) // 4 if kind == "float" else len(_int64s(data[first:last]))


def _look_at_numbers(values: NDArray[Any]) -> Seen:
    numbers = values[~np.isnan(values)]
    first = np.sort(np.unique(numbers, return_index=True)[1])
    distinct = tuple(numbers[first[:_MAX_VALUES]].tolist())
    bounds = (numbers.min().item(), numbers.max().item()) if len(numbers) else ()
    return Seen(len(values), bounds, len(values) - len(numbers), distinct, len(distinct) == len(first), ())


def _look_at_bytes(values: Sequence[bytes]) -> Seen:
    lengths = [len(value) for value in values]
    bounds = (min(lengths), max(lengths)) if values else ()
    distinct = tuple(dict.fromkeys(_text(value)[:_MAX_LENGTH] for value in values[:_MAX_VALUES]))
    complete = len(values) <= _MAX_VALUES and max(lengths, default=0) <= _MAX_LENGTH
    decoded = [(kind, decode(value)) for value in values if (kind := image_type(value))]
    images = tuple(ImageSeen(kind, image.size if image else None) for kind, image in decoded)
    return Seen(len(values), bounds, 0, distinct, complete, images)


def _text(value: bytes) -> str | bytes:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value
    return text if text.translate(_WHITE_SPACE).isprintable() else value


def _map(message: bytes, read: Callable[[bytes], T]) -> dict[str, T]:
    """Read a message with a map from string in field 1; sort the map by key."""
    values = {}
    for entry in _contents(message):
        key = content = b""
        for number, part in wire.fields(entry, {1: (DELIMITED,), 2: (DELIMITED,)}):
            key, content = (part, content) if number == 1 else (key, content + part)
        values[key.decode()] = read(content)
    return dict(sorted(values.items()))


def _feature(message: bytes) -> Feature:
    kind, content = 0, b""
    for number, part in wire.fields(message, dict.fromkeys(_LISTS, (DELIMITED,))):
        kind, content = number, content + part if number == kind else part
    if kind == 0:
        return Feature("", [])
    name, wire_types = _LISTS[kind]
    values = [part for _, part in wire.fields(content, {1: wire_types})]
    if name == "bytes":
        return Feature(name, values)
    data = b"".join(values)  # Packed and single numbers have the same bytes.
    return Feature(name, np.frombuffer(data, "<f4") if name == "float" else _int64s(data))


def _int64s(varints: bytes) -> NDArray[np.int64]:
    """Decode i64[n]. A single number, the usual case, is decoded faster; many numbers are vectorized."""
    if 0 < len(varints) <= wire.MAX_VARINT_BYTES:
        value, end = wire.read_varint(varints, 0)
        if end == len(varints):
            return np.array([value & 0xFFFF_FFFF_FFFF_FFFF], np.uint64).view(np.int64)
    data = np.frombuffer(varints, np.uint8)
    ends = np.flatnonzero(data < 0x80) + 1
    lengths = np.diff(ends, prepend=0)
    if lengths.sum() != len(data) or np.any(lengths > wire.MAX_VARINT_BYTES):
        raise ValueError("a damaged number")
    starts = ends - lengths
    shifts = 7 * (np.arange(len(data)) - np.repeat(starts, lengths))
    parts = (data & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    return np.add.reduceat(parts, starts).view(np.int64) if len(data) else np.zeros(0, np.int64)


def _contents(message: bytes) -> Iterator[bytes]:
    """Return the contents of a message that has only field 1, delimited."""
    return (content for _, content in wire.fields(message, {1: (DELIMITED,)}))
