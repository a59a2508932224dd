"""Serialized `tf.train.Example`s of any origin: parsed without TensorFlow, and what is worth saying of their features.

The messages (tensorflow/core/example/example.proto, feature.proto):
    Example: features 1. Features: map 1 of string to Feature.
    Feature: one of bytes_list 1, float_list 2, int64_list 3, each of which holds its values as field 1.
    SequenceExample: context 1 (Features), feature_lists 2. FeatureLists: map 1 of string to FeatureList.
    FeatureList: Feature 1, repeated.

Protobuf's rules hold: of a key or a kind of list that is given twice the last one counts, a message that is given
twice is merged, numbers stand packed or not. Only fields that these messages do not have, which protobuf would
pass over, are an error: it is by them that other messages are told apart.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tfrecord_tools import schema

T = TypeVar("T")
_VARINT, _DELIMITED, _FIXED32 = 0, 2, 5  # Wire types.
_LISTS = {  # Field of Feature -> type, wire types of its values.
    1: ("bytes", {_DELIMITED}),
    2: ("float", {_DELIMITED, _FIXED32}),
    3: ("int64", {_DELIMITED, _VARINT}),
}
_IMAGE = re.compile(  # "BM" alone would make an image of many a text: four reserved bytes are zero.
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<GIF>GIF8[79]a)|(?P<BMP>BM.{4}\0{4})|(?P<WEBP>RIFF.{4}WEBP)",
    re.DOTALL,
)
_WHITE_SPACE = str.maketrans("\n\r\t", "   ")
_MAX_VALUES, _MAX_LENGTH = 1000, 64  # What is kept of a feature of a record: distinct values, characters of each.


class Feature(NamedTuple):
    """The values of a feature and their type: "bytes", "int64" or "float"; "" of `Feature()`, which has no list."""

    type: str
    values: Any  # list[bytes], i64[n] or f32[n].


class ImageSeen(NamedTuple):
    """What a value begins like, and its (width, height) in pixels if it decodes."""

    type: str
    size: tuple[int, int] | None


class Seen(NamedTuple):
    """What a report says of a feature in one record; small, however large the values are.

    Attributes:
        length: The number of values.
        bounds: The least and the greatest number, or length in bytes; empty if there is none but NaN.
        nans: How many are NaN.
        values: Distinct ones: numbers, texts as str, other bytes as bytes.
        complete: Whether these are all of them, none cut.
        images: Of each value that begins like one.
    """

    length: int
    bounds: tuple[float, ...]
    nans: int
    values: tuple[Any, ...]
    complete: bool
    images: tuple[ImageSeen, ...]


def parse(serialized: bytes) -> dict[str, Feature] | None:
    """Returns the features of a `tf.train.Example`, sorted by name; None if it is something else."""
    try:
        return _map(b"".join(_contents(serialized)), _feature)
    except (IndexError, ValueError):
        return None


def is_sequence(serialized: bytes) -> bool:
    """Whether it is a `tf.train.SequenceExample`; one without lists is no different from an Example."""
    try:
        for number, content in _fields(serialized, {1: (_DELIMITED,), 2: (_DELIMITED,)}):
            _map(content, _feature if number == 1 else lambda steps: [_feature(step) for step in _contents(steps)])
    except (IndexError, ValueError):
        return False
    return True


def look(feature: Feature) -> Seen:
    """Looks at the values, and decodes those that are images."""
    return _look_at_bytes(feature.values) if feature.type == "bytes" else _look_at_numbers(feature.values)


def image_type(data: bytes) -> str | None:
    """Returns what encoded image the bytes begin like: JPEG, PNG, GIF, BMP or WEBP."""
    match = _IMAGE.match(data)
    return match.lastgroup if match else None


def decode(data: bytes) -> Image.Image | None:
    """Decodes an image of one of these types, of several pictures the first; None if it is damaged or none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of its size, its metadata: the answer is whether it decodes.
            image = Image.open(io.BytesIO(data), formats=tuple(_IMAGE.groupindex))
            image.load()
            return image
    except Exception:  # noqa: BLE001  Any of five parsers, on bytes of any origin.
        return None


def _look_at_numbers(values: NDArray[Any]) -> Seen:
    numbers = values[~np.isnan(values)]
    first = np.sort(np.unique(numbers, return_index=True)[1])
    kept = tuple(numbers[first[:_MAX_VALUES]].tolist())
    bounds = (numbers.min().item(), numbers.max().item()) if len(numbers) else ()
    return Seen(len(values), bounds, len(values) - len(numbers), kept, len(kept) == len(first), ())


def _look_at_bytes(values: Sequence[bytes]) -> Seen:
    lengths = [len(value) for value in values]
    bounds = (min(lengths), max(lengths)) if values else ()
    kept = tuple(dict.fromkeys(_text(value)[:_MAX_LENGTH] for value in values[:_MAX_VALUES]))
    complete = len(values) <= _MAX_VALUES and max(lengths, default=0) <= _MAX_LENGTH
    found = [(kind, decode(value)) for value in values if (kind := image_type(value))]
    images = tuple(ImageSeen(kind, image.size if image else None) for kind, image in found)
    return Seen(len(values), bounds, 0, kept, complete, images)


def _text(value: bytes) -> str | bytes:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value
    return text if text.translate(_WHITE_SPACE).isprintable() else value


def _map(message: bytes, read: Callable[[bytes], T]) -> dict[str, T]:
    """Reads a message of which field 1 is a map from string, sorted by key."""
    values = {}
    for entry in _contents(message):
        key = content = b""
        for number, part in _fields(entry, {1: (_DELIMITED,), 2: (_DELIMITED,)}):
            key, content = (part, content) if number == 1 else (key, content + part)
        values[key.decode()] = read(content)
    return dict(sorted(values.items()))


def _feature(message: bytes) -> Feature:
    kind, content = 0, b""
    for number, part in _fields(message, dict.fromkeys(_LISTS, (_DELIMITED,))):
        kind, content = number, content + part if number == kind else part
    if kind == 0:
        return Feature("", [])
    name, wire_types = _LISTS[kind]
    values = [part for _, part in _fields(content, {1: wire_types})]
    if name == "bytes":
        return Feature(name, values)
    data = b"".join(values)  # A packed list is the bytes of its numbers: one number, or many, it is all the same.
    return Feature(name, np.frombuffer(data, "<f4") if name == "float" else _int64s(data))


def _int64s(varints: bytes) -> NDArray[np.int64]:
    """Decodes i64[n]; vectorized, since records may hold pixels so."""
    data = np.frombuffer(varints, np.uint8)
    ends = np.flatnonzero(data < 0x80) + 1
    lengths = np.diff(ends, prepend=0)
    if lengths.sum() != len(data) or np.any(lengths > 10):
        raise ValueError("a damaged number")
    starts = ends - lengths
    shifts = 7 * (np.arange(len(data)) - np.repeat(starts, lengths))
    parts = (data & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    return np.add.reduceat(parts, starts).view(np.int64) if len(data) else np.zeros(0, np.int64)


def _contents(message: bytes) -> Iterator[bytes]:
    """The contents of a message that has nothing but field 1, delimited."""
    return (content for _, content in _fields(message, {1: (_DELIMITED,)}))


def _fields(message: bytes, allowed: Mapping[int, Collection[int]]) -> Iterator[tuple[int, bytes]]:
    """Yields number and content of each field; the content of a number is its bytes as they stand.

    Raises:
        ValueError, IndexError: It is no message, or has another field than `allowed`: number -> wire types.
    """
    position = 0
    while position < len(message):
        tag, position = schema.read_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type not in allowed.get(number, ()):
            raise ValueError(f"field {number} of wire type {wire_type}")
        if wire_type == _VARINT:
            _, end = schema.read_varint(message, position)
        elif wire_type == _FIXED32:
            end = position + 4
        else:
            length, position = schema.read_varint(message, position)
            end = position + length
        if end > len(message):
            raise ValueError("it ends within a field")
        yield number, message[position:end]
        position = end
