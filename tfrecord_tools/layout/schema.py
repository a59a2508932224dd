"""The record format: a `tf.train.Example` in TFRecord framing, written without TensorFlow.

An example holds, by the names that TensorFlow Datasets uses for image folders:
    image: bytes, the encoded image.
    image/filename: bytes, its path relative to the source directory, UTF-8.
    label: int64, index into the class table.
Those of others hold the same under names of their own: see `Keys`.

Framing (tensorflow/core/lib/io/record_writer.h): length u64, masked CRC-32C of the length u32, the data,
masked CRC-32C of the data u32; little-endian.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import TypedDict

import google_crc32c
import numpy as np

from tfrecord_tools.layout import wire

HEADER_BYTES = 12
FRAME_BYTES = HEADER_BYTES + 4
_BYTES_LIST, _INT64_LIST = 1, 3  # Fields of tf.train.Feature.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keys:
    """Under which names examples hold what, and how they count classes; by default those that are written here.

    Attributes:
        image: Of the encoded image.
        label: Of the label.
        path: Of the source path; "": they hold none.
        label_offset: The label that stands for the first class.
    """

    image: str = "image"
    label: str = "label"
    path: str = "image/filename"
    label_offset: int = 0


OURS = Keys()


class Example(TypedDict):
    """A record: the encoded image, its source path ("": the record holds none) and its label, from 0."""

    image: bytes
    path: str
    label: int


def encode_example(image: bytes, filename: str, label: int) -> bytes:
    """Serializes a `tf.train.Example`; always the same bytes, keys sorted."""
    path, number = filename.encode(), _varint(label)
    pieces = (
        *(_before(b"image", _BYTES_LIST, len(image)), image),
        *(_before(b"image/filename", _BYTES_LIST, len(path)), path),
        *(_before(b"label", _INT64_LIST, len(number)), number),
    )
    return b"".join((_head(1, sum(map(len, pieces))), *pieces))


def decode_example(serialized: bytes, keys: Keys = OURS) -> Example:
    """Return the parts of a serialized example.

    Raises:
        KeyError: There is no image or label in it.
        ValueError: It is no example, or what is to be one value of a type is not.
    """
    try:
        entries = wire.contents(_only(memoryview(serialized)))  # A view, so that the image is copied once.
        values = {bytes(key): value for key, value in map(wire.contents, entries)}  # Of what nobody asks for, anything.
        packed = _value(values[keys.label.encode()], _INT64_LIST)
        label, end = wire.read_varint(packed, 0) if packed else (0, -1)
    except IndexError as error:
        raise ValueError("it ends within a field") from error
    if end != len(packed):
        raise ValueError(f"the feature {keys.label!r} holds several values or none")
    path = values.get(keys.path.encode())
    return {
        "image": bytes(_value(values[keys.image.encode()], _BYTES_LIST)),
        "path": str(_value(path, _BYTES_LIST), "utf-8", "replace") if path else "",
        "label": label - (label >> 63 << 64) - keys.label_offset,  # Two's complement.
    }


def example_bytes(image_bytes: np.ndarray, filename_bytes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns i64[n], the length of `encode_example`'s result, from the lengths of its parts."""
    return _field_bytes(
        _feature_bytes(len(b"image"), _field_bytes(image_bytes))
        + _feature_bytes(len(b"image/filename"), _field_bytes(filename_bytes))
        + _feature_bytes(len(b"label"), _field_bytes(_varint_bytes(labels)))
    )


def frame(data: bytes) -> bytes:
    """Puts a record's data into its TFRecord frame, `FRAME_BYTES` longer."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def unframe(framed: bytes) -> bytes | None:
    """Returns the data of one whole frame, or None if a checksum or the length is wrong."""
    data = framed[HEADER_BYTES:-4]
    length = struct.pack("<Q", len(data))
    sound = framed[:HEADER_BYTES] == length + _masked_crc(length) and framed[-4:] == _masked_crc(data)
    return data if sound else None


def data_bytes(header: bytes) -> int | None:
    """Returns how long the data is that a frame's `HEADER_BYTES` announce; None if their checksum is wrong."""
    sound = len(header) == HEADER_BYTES and _masked_crc(header[:8]) == header[8:]
    return int.from_bytes(header[:8], "little") if sound else None


def _masked_crc(data: bytes) -> bytes:
    """The masking is crc32c.h's: rotated, plus a constant, since CRCs of data with CRCs in it are weak."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _before(key: bytes, kind: int, value_bytes: int) -> bytes:
    """What precedes the one value of an entry of the map `Features.feature`: key 1, value 2."""
    value = _head(1, value_bytes)
    values = _head(kind, len(value) + value_bytes) + value
    entry = _head(1, len(key)) + key + _head(2, len(values) + value_bytes) + values
    return _head(1, len(entry) + value_bytes) + entry


def _feature_bytes(key_bytes: int, values_bytes: np.ndarray) -> np.ndarray:
    return _field_bytes(_field_bytes(np.int64(key_bytes)) + _field_bytes(_field_bytes(values_bytes)))


def _head(number: int, content_bytes: int) -> bytes:
    """What precedes the content of a length-delimited protobuf field (wire type 2) with a number below 16."""
    return bytes((number << 3 | 2,)) + _varint(content_bytes)


def _field_bytes(content_bytes: np.ndarray | np.int64) -> np.ndarray:
    return 1 + _varint_bytes(content_bytes) + content_bytes


def _value(feature: memoryview, kind: int) -> memoryview:
    """The one value of a feature of this kind; of numbers all, packed, as every protobuf library writes them."""
    if not feature or feature[0] != kind << 3 | 2:
        raise ValueError("a feature of another type")
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
    """Seven bits a byte; lengths and labels stay below 2**35."""
    values = np.asarray(values, np.int64)
    return 1 + np.sum([values >= 1 << bits for bits in (7, 14, 21, 28)], axis=0, dtype=np.int64)
