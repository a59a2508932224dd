"""Tests of the record format: the bytes are the same as TensorFlow's."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfrecord_tools.layout import schema

LENGTHS = [
    0,
    1,
    2,
    100,
    127,
    128,
    129,
    16_383,
    16_384,
    16_385,
    2_097_151,
    2_097_152,
]  # A varint becomes one byte longer at 2**(7 k).
LABELS = [0, 1, 127, 128, 20_000, 2**31 - 1]
EXAMPLES = {
    "empty": (b"", "", 0),
    "usual": (b"\xff\xd8\xff some bytes", "cats/1.jpg", 1),
    "any bytes": (bytes(range(256)), "cats/1.jpg", 127),
    "any names": (b"x", "кошки/🐈 \n\t'\".jpg", 128),
    "long name": (b"x", "d/" * 2000, 300),
}


def tensorflow_example(image: bytes, path: str, label: int) -> tf.train.Example:
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "image/filename": tf.train.Feature(bytes_list=tf.train.BytesList(value=[path.encode()])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


@pytest.mark.parametrize(("image", "path", "label"), EXAMPLES.values(), ids=EXAMPLES)
def test_example_is_that_of_tensorflow(image: bytes, path: str, label: int) -> None:
    encoded = schema.encode_example(image, path, label)
    expected = tensorflow_example(image, path, label)
    parsed = tf.train.Example()
    assert parsed.ParseFromString(encoded) == len(encoded)
    assert parsed == expected
    assert len(encoded) == expected.ByteSize()  # Entries of a map may have any order; here they are sorted.
    assert encoded.index(b"\x05image\x12") < encoded.index(b"\x0eimage/filename\x12") < encoded.index(b"\x05label\x12")


@pytest.mark.parametrize(("image", "path", "label"), EXAMPLES.values(), ids=EXAMPLES)
def test_decode_reads_back(image: bytes, path: str, label: int) -> None:
    decoded = schema.decode_example(schema.encode_example(image, path, label))
    assert decoded == {"image": image, "path": path, "label": label}


@pytest.mark.parametrize(("image", "path", "label"), EXAMPLES.values(), ids=EXAMPLES)
def test_the_image_alone(image: bytes, path: str, label: int, monkeypatch: pytest.MonkeyPatch) -> None:
    by_tensorflow = tensorflow_example(image, path, label).SerializeToString()
    assert schema.image_of(memoryview(by_tensorflow)) == image
    monkeypatch.delattr(schema, "decode_example")  # It is slower, and not needed for our own examples.
    assert schema.image_of(schema.encode_example(image, path, label)) == image


@pytest.mark.parametrize("length", LENGTHS)
def test_a_view_of_the_image_is_no_copy(length: int) -> None:
    example = memoryview(bytearray(schema.encode_example(bytes(length), "a.jpg", 0)))
    image = schema.image_of(example)
    assert isinstance(image, memoryview)
    assert (image.obj is example.obj, len(image)) == (True, length)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("path", "label"), [("", 0), ("cats/1.jpg", 127), ("d/" * 60, 128), ("d/" * 9000, 300)])
def test_the_start_of_a_frame(length: int, path: str, label: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, length, np.uint8)
    framed = schema.frame(schema.encode_example(image.tobytes(), path, label))
    start = schema.start_of_frame(len(framed), length)
    assert framed.startswith(start + image.tobytes())
    end = framed[len(start) + length :]
    assert schema.is_end_valid(start, image, end)
    for position in (0, len(end) - 5, len(end) - 4, len(end) - 1):
        wrong = bytearray(end)
        wrong[position] ^= 1
        assert not schema.is_end_valid(start, image, bytes(wrong))
    if length:
        image[length // 2] ^= 1
        assert not schema.is_end_valid(start, image, end)


@pytest.mark.parametrize(
    "change",
    [
        lambda after: after[:-1] + b"\x81",
        lambda after: after + schema._before(b"image", schema._BYTES_LIST, 3) + b"two",
    ],
    ids=["a cut label", "a second image"],
)
def test_an_end_with_a_right_checksum_that_visit_would_refuse(change: Callable[[bytes], bytes]) -> None:
    image = np.arange(30, dtype=np.uint8)
    before, _, after = schema.example_parts(image.tobytes(), "a.jpg", 1)
    end = change(after)
    assert schema.is_end_valid(b"x" * schema.HEADER_BYTES + before, image, after + crc_of(before, image, after))
    assert not schema.is_end_valid(b"x" * schema.HEADER_BYTES + before, image, end + crc_of(before, image, end))


def crc_of(before: bytes, image: np.ndarray, end: bytes) -> bytes:
    return schema._CRC.pack(schema._masked_crc(before, image, end))


def test_no_start_fits_into_a_frame_that_is_too_short() -> None:
    shortest = len(schema.frame(schema.example_parts(bytes(120), "", 0)[0] + bytes(120)))
    for frame_bytes in range(shortest):
        assert len(schema.start_of_frame(frame_bytes, 120)) + 120 + schema.CRC_BYTES > frame_bytes


def test_a_message_of_130_bytes_cannot_be_one_field() -> None:
    """With 127 bytes of content it has 129 bytes, and with 128 it has 131."""
    start = schema.start_of_frame(schema.FRAME_BYTES + 130, 9)
    assert start == schema._header(130) + schema._before(b"image", schema._BYTES_LIST, 9)


@pytest.mark.parametrize("key", ["image", "image/encoded", "k" * 127, "k" * 128, "a.c", "이미지"])
@pytest.mark.parametrize("before", ["", "a feature"])
def test_the_image_of_an_example_of_others(key: str, before: str) -> None:
    features = {
        **({before: tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x", b"y"]))} if before else {}),
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(range(256))])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
    }
    entries = [tf.train.Features(feature={name: value}).SerializeToString() for name, value in features.items()]
    content = b"".join(entries)
    assert schema.image_of(schema._head(1, len(content)) + content, schema.Keys(image=key)) == bytes(range(256))


@pytest.mark.parametrize(
    ("feature", "error"),
    [
        (tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"one", b"two"])), ValueError),
        (tf.train.Feature(bytes_list=tf.train.BytesList()), ValueError),
        (tf.train.Feature(int64_list=tf.train.Int64List(value=[1])), ValueError),
        (tf.train.Feature(), ValueError),
        (None, KeyError),
    ],
    ids=["two values", "no value", "a number", "no type", "no image"],
)
def test_an_example_without_one_image(feature: tf.train.Feature | None, error: type[Exception]) -> None:
    features = {"label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))}
    if feature is not None:
        features["image"] = feature
    entries = [tf.train.Features(feature={key: features[key]}).SerializeToString() for key in sorted(features)]
    content = b"".join(entries)
    with pytest.raises(error):
        schema.image_of(schema._head(1, len(content)) + content)


def test_of_an_image_that_occurs_twice_the_last_one_counts() -> None:
    entries = [tensorflow_example(image, "a.jpg", 1).features.SerializeToString() for image in (b"first", b"last")]
    content = b"".join(entries)
    example = schema._head(1, len(content)) + content
    assert schema.image_of(example) == schema.decode_example(example)["image"] == b"last"


def test_an_example_that_is_cut_has_no_image() -> None:
    example = schema.encode_example(bytes(300), "a.jpg", 0)
    for length in range(len(example)):
        with pytest.raises((ValueError, KeyError)):
            schema.image_of(memoryview(example)[:length])


def test_example_bytes_is_the_length() -> None:
    table = [(image, 10, 1) for image in LENGTHS]
    table += [(10, path, 1) for path in [0, 1, 90, 100, 108, 110, 127, 128, 4096]]
    table += [(0, 0, label) for label in LABELS]
    table += list(itertools.product(range(40, 140), [5], [0]))  # The enclosing lengths become longer here.
    table += list(itertools.product(range(16_300, 16_390, 5), [5], [0]))
    lengths = schema.example_bytes(*np.array(table, np.int64).T)
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [len(schema.encode_example(b"x" * i, "p" * p, label)) for i, p, label in table]


@pytest.mark.parametrize(("image", "path", "label"), EXAMPLES.values(), ids=EXAMPLES)
def test_parts_are_the_frame_of_the_example_without_a_copy_of_the_image(image: bytes, path: str, label: int) -> None:
    example = schema.example_parts(image, path, label)
    framed = schema.frame_parts(example)
    assert framed[2] is example[1] is image
    assert b"".join(framed) == schema.frame(schema.encode_example(image, path, label))


def test_same_values_give_the_same_bytes() -> None:
    assert schema.encode_example(b"image", "a.jpg", 3) == schema.encode_example(b"image", "a.jpg", 3)


@pytest.mark.parametrize("length", [0, 1, 11, 12, 16, 127, 128, 65_536])
def test_frame_is_that_of_tensorflow(tmp_path: Path, length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length, np.uint8).tobytes()
    with tf.io.TFRecordWriter(str(tmp_path / "records")) as writer:
        writer.write(data)
    framed = schema.frame(data)
    assert framed == (tmp_path / "records").read_bytes()
    assert len(framed) == len(data) + schema.FRAME_BYTES
    assert schema.unframe(framed) == data


def test_every_flipped_bit_is_detected() -> None:
    framed = schema.frame(b"some thirty bytes of any content")
    for position, bit in itertools.product(range(len(framed)), range(8)):
        damaged = bytearray(framed)
        damaged[position] ^= 1 << bit
        assert schema.unframe(bytes(damaged)) is None, (position, bit)


@pytest.mark.parametrize(
    "framed",
    [
        b"",  # Read after the end of a file.
        b"x",
        schema.frame(b"data")[:-1],
        schema.frame(b"data") + b"\x00",
        schema.frame(b"data")[:12],  # Only the header.
        schema.frame(b"")[:-1],
        schema.frame(b"one") + schema.frame(b"two"),  # Two frames.
        b"\x00" * 16,  # A hole in a file.
    ],
)
def test_incomplete_frames_are_detected(framed: bytes) -> None:
    assert schema.unframe(framed) is None
