"""The record format: a `tf.train.Example` in a TFRecord frame, written without TensorFlow.

An example holds these features, with the names that TensorFlow Datasets uses for image folders:
    image: bytes, the encoded image.
    image/filename: bytes, the path relative to the source directory, UTF-8.
    label: int64, index into the class table.
Adopted records may use other names: see `Keys`.

A frame (tensorflow/core/lib/io/record_writer.h) is little-endian: length u64, masked CRC-32C of the length u32, data,
masked CRC-32C of the data u32.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import struct
from collections.abc import Sequence
from typing import TypedDict

import google_crc32c
import numpy as np

from tfrecord_tools.layout import wire

HEADER_BYTES = 12
CRC_BYTES = 4
FRAME_BYTES = HEADER_BYTES + CRC_BYTES
_HEADER, _CRC = struct.Struct("<QI"), struct.Struct("<I")
_BYTES_LIST, _INT64_LIST = 1, 3  # Fields of tf.train.Feature.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keys:
    """Names of the features in examples. The defaults are those of converted datasets.

    Attributes:
        image: Name of the encoded image.
        label: Name of the label.
        path: Name of the source path. "": the examples have none.
        label_offset: Stored label of the first class.
    """

    image: str = "image"
    label: str = "label"
    path: str = "image/filename"
    label_offset: int = 0


OURS = Keys()


class Example(TypedDict):
    """A record: encoded image, source path ("": none) and label, from 0."""

    image: bytes
    path: str
    label: int


def encode_example(image: bytes, filename: str, label: int) -> bytes:
    """Serialize a `tf.train.Example` with sorted keys, so that equal examples have equal bytes."""
    return b"".join(example_parts(image, filename, label))


def example_parts(image: bytes, filename: str, label: int) -> tuple[bytes, bytes, bytes]:
    """Return the result of `encode_example` in parts. The image is one of them, so it is not copied."""
    path, number = filename.encode(), _varint(label)
    before = _before(b"image", _BYTES_LIST, len(image))
    after = b"".join(
        (
            *(_before(b"image/filename", _BYTES_LIST, len(path)), path),
            *(_before(b"label", _INT64_LIST, len(number)), number),
        )
    )
    return _head(1, len(before) + len(image) + len(after)) + before, image, after


def decode_example(serialized: bytes | memoryview, keys: Keys = OURS) -> Example:
    """Return image, path and label of a serialized example.

    Raises:
        KeyError: The example has no image or no label.
        ValueError: The bytes are not an example, or a feature has the wrong type or not exactly one value.
    """
    try:
        entries = wire.contents(_only(memoryview(serialized)))  # With views, the image is copied only once.
        values = {bytes(key): value for key, value in map(wire.contents, entries)}  # Other features may be anything.
        packed = _value(values[keys.label.encode()], _INT64_LIST)
        label, end = wire.read_varint(packed, 0) if packed else (0, -1)
    except IndexError as error:
        raise ValueError("the example ends within a field") from error
    if end != len(packed):
        raise ValueError(f"the feature {keys.label!r} does not hold exactly one value")
    path = values.get(keys.path.encode())
    return {
        "image": bytes(_value(values[keys.image.encode()], _BYTES_LIST)),
        "path": str(_value(path, _BYTES_LIST), "utf-8", "replace") if path else "",
        "label": label - (label >> 63 << 64) - keys.label_offset,  # Two's complement.
    }


def image_of(serialized: bytes | memoryview, keys: Keys = OURS) -> bytes | memoryview:
    """Return only the image of a serialized example; for a view, a view.

    An image that is the first feature is found at once, and the other features are not looked at. Otherwise, the whole
    example is decoded.

    Raises:
        KeyError, ValueError: The example has not exactly one image, or ends too early.
    """
    match = _image_first(keys.image).match(serialized)
    if match:
        features, feature, values, value = (wire.read_varint(length, 0)[0] for length in match.groups())
        start, end = match.end(), match.end() + value
        is_whole = match.end(1) + features == len(serialized) and serialized[-1] < 0x80  # A cut number ends above.
        is_single = feature - len(match[3]) - 1 == values == value + len(match[4]) + 1
        is_last = _key(keys.image) not in bytes(serialized[end:])  # If a key occurs twice, the last value counts.
        if is_whole and is_single and is_last and end <= len(serialized):
            return serialized[start:end]
    return decode_example(serialized, keys)["image"]


@functools.cache
def _image_first(key: str) -> re.Pattern[bytes]:
    """Return a pattern of everything before the image, if the image is the first feature of an example.

    The groups are the encoded lengths of all features, of this feature, of the list of values, and of the image.
    """
    length = rb"[\x80-\xff]{0,9}[\x00-\x7f]"
    before = b"\n(%b)\n%b%b" % (length, length, re.escape(_key(key)))
    return re.compile(before + b"\x12(%b)\n(%b)\n(%b)" % (length, length, length), re.DOTALL)


@functools.cache
def _key(key: str) -> bytes:
    name = key.encode()
    return _head(1, len(name)) + name


def example_bytes(image_bytes: np.ndarray, filename_bytes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return i64[n], the lengths of the results of `encode_example`, from the lengths of the parts."""
    return _field_bytes(
        _feature_bytes(len(b"image"), _field_bytes(image_bytes))
        + _feature_bytes(len(b"image/filename"), _field_bytes(filename_bytes))
        + _feature_bytes(len(b"label"), _field_bytes(_varint_bytes(labels)))
    )


@functools.lru_cache(maxsize=1024)
def start_of_frame(frame_bytes: int, image_bytes: int) -> bytes:
    """Return the bytes before the image in a frame that this package writes.

    If no frame has these lengths, the result is not the start of any frame.

    Args:
        frame_bytes: Length of the frame.
        image_bytes: Length of the image.
    """
    count = max(0, frame_bytes - FRAME_BYTES)
    heads = {length: _head(1, max(0, count - length)) for length in range(2, 7)}
    head = next((head for length, head in heads.items() if len(head) == length), b"")
    return _header(count) + head + _before(b"image", _BYTES_LIST, image_bytes)


def is_end_valid(start: bytes, image: np.ndarray, end: bytes) -> bool:
    """Return whether the last four bytes of a frame are the checksum of its data.

    As in `image_of`, the last number must not be cut, and there must be no second image.

    Args:
        start: Result of `start_of_frame`.
        image: The image, u8[n].
        end: The bytes after the image.
    """
    features, (crc,) = end[:-CRC_BYTES], _CRC.unpack(end[-CRC_BYTES:])
    is_example = not features or (features[-1] < 0x80 and _key(OURS.image) not in features)
    return is_example and bool(crc == _masked_crc(start[HEADER_BYTES:], image, features))


def frame(data: bytes) -> bytes:
    """Return the TFRecord frame of a record's data, which is `FRAME_BYTES` longer."""
    return b"".join(frame_parts((data,)))


def frame_parts(parts: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the frame of a record in parts, without copying the parts of the data."""
    count = sum(map(len, parts))
    return _header(count), *parts, _CRC.pack(_masked_crc(*parts))


def _header(count: int) -> bytes:
    return _HEADER.pack(count, _masked_crc(struct.pack("<Q", count)))


def unframe(framed: bytes | memoryview) -> bytes | None:
    """Return a copy of the data of one complete frame, or None if a checksum or the length is wrong."""
    data = bytes(framed[HEADER_BYTES:-4])
    return data if _is_valid(framed, data) else None


def content(framed: memoryview) -> memoryview | None:
    """Return a view of the data of one complete frame, or None if a checksum or the length is wrong."""
    data = framed[HEADER_BYTES:-4]
    # google_crc32c takes no memoryview, but an array with the same memory.
    return data if _is_valid(framed, np.frombuffer(data, np.uint8)) else None


def _is_valid(framed: bytes | memoryview, data: bytes | np.ndarray) -> bool:
    count = len(framed) - FRAME_BYTES
    if count < 0 or data_bytes(framed[:HEADER_BYTES]) != count:
        return False
    (crc,) = _CRC.unpack_from(framed, count + HEADER_BYTES)
    return bool(crc == _masked(google_crc32c.value(data)))


def data_bytes(header: bytes | memoryview) -> int | None:
    """Return the length of the data from a frame's first `HEADER_BYTES`; None if their checksum is wrong."""
    if len(header) != HEADER_BYTES:
        return None
    length, crc = _HEADER.unpack(header)
    return int(length) if crc == _masked(google_crc32c.value(bytes(header[:8]))) else None


def _masked_crc(*parts: bytes | np.ndarray) -> int:
    return _masked(functools.reduce(google_crc32c.extend, parts, 0))


def _masked(crc: int) -> int:
    """Mask a CRC-32C as in TensorFlow's crc32c.h: rotated, plus a constant."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.lru_cache(maxsize=1024)
def _before(key: bytes, kind: int, value_bytes: int) -> bytes:
    """Return the bytes before the only value in an entry of the map `Features.feature`.

    In such an entry, field 1 is the key and field 2 the value.
    """
    value = _head(1, value_bytes)
    values = _head(kind, len(value) + value_bytes) + value
    entry = _head(1, len(key)) + key + _head(2, len(values) + value_bytes) + values
    return _head(1, len(entry) + value_bytes) + entry


def _feature_bytes(key_bytes: int, values_bytes: np.ndarray) -> np.ndarray:
    return _field_bytes(_field_bytes(np.int64(key_bytes)) + _field_bytes(_field_bytes(values_bytes)))


def _head(number: int, content_bytes: int) -> bytes:
    """Return the bytes before the content of a length-delimited field with a number below 16."""
    return bytes((number << 3 | 2,)) + _varint(content_bytes)


def _field_bytes(content_bytes: np.ndarray | np.int64) -> np.ndarray:
    return 1 + _varint_bytes(content_bytes) + content_bytes


def _value(feature: memoryview, kind: int) -> memoryview:
    """Return the one value of a feature; for numbers, all values, packed as protobuf libraries write them."""
    if not feature or feature[0] != kind << 3 | 2:
        raise ValueError("a feature has the wrong type")
    return _only(_only(feature))


def _only(message: memoryview) -> memoryview:
    (content,) = wire.contents(message)
    return content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _varint_bytes(values: np.ndarray | np.int64) -> np.ndarray:
    """Return the bytes of each varint: 7 bits per byte. Lengths and labels stay below 2**35."""
    values = np.asarray(values, np.int64)
    return 1 + np.sum([values >= 1 << bits for bits in (7, 14, 21, 28)], axis=0, dtype=np.int64)
