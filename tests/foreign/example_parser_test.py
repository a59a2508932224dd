"""Tests of the parser of examples against TensorFlow's protobuf messages, and of feature summaries."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from foreign_records import example, sequence
from image_sources import image
from PIL import Image

from tfrecord_tools.foreign import example_parser
from tfrecord_tools.foreign.example_parser import Feature, ImageSeen, Seen, look, parse

VALUES: dict[str, dict[str, Any]] = {
    "no features": {},
    "one of each": {"bytes": b"x", "float": 0.5, "int64": 7},
    "many": {"bytes": [b"a", b"", b"c" * 300], "float": [0.5, -1e30, 1e-30], "int64": list(range(-500, 500))},
    "extreme": {"int64": [-1, 0, 1, 127, 128, -(2**63), 2**63 - 1], "float": [math.inf, -math.inf, 0.0, -0.0]},
    "empty": {"list": [], "no list": None},
    "names": {"": 1, "кошки/🐈": 2, "a b\n": 3, "x" * 200: 4},
}


def delimited(number: int, content: bytes) -> bytes:
    """Return a protobuf field of wire type 2; `number` is below 16, `content` shorter than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def entry(name: bytes, *lists: bytes) -> bytes:
    """Return an entry of the map of features; `lists` are the parts of the Feature."""
    return delimited(1, delimited(1, name) + delimited(2, b"".join(lists)))


FIVE, SIX = b"\x08\x05", b"\x08\x06"  # Field 1 as a number, unpacked.
INT64, FLOAT, BYTES = 3, 2, 1
HALF = b"\x0d\x00\x00\x00\x3f"  # 0.5, unpacked.
WIRE = {
    "unpacked integers": delimited(1, entry(b"k", delimited(INT64, FIVE + SIX))),
    "packed integers": delimited(1, entry(b"k", delimited(INT64, b"\x0a\x02\x05\x06"))),
    "packed and unpacked": delimited(1, entry(b"k", delimited(INT64, FIVE + b"\x0a\x02\x07\x08" + SIX))),
    "negative, unpacked": delimited(1, entry(b"k", delimited(INT64, b"\x08" + b"\xff" * 9 + b"\x01"))),
    "more bits than 64": delimited(
        1, entry(b"k", delimited(INT64, b"\x08" + b"\xff" * 9 + b"\x7f"))
    ),  # Higher bits are dropped.
    "zero of two bytes": delimited(1, entry(b"k", delimited(INT64, b"\x08\x80\x00"))),
    "unpacked floats": delimited(1, entry(b"k", delimited(FLOAT, HALF + HALF))),
    "packed and unpacked floats": delimited(1, entry(b"k", delimited(FLOAT, HALF + b"\x0a\x04\x00\x00\x80\x3f"))),
    "the same key twice": delimited(1, entry(b"k", delimited(INT64, FIVE)) + entry(b"k", delimited(INT64, SIX))),
    "and of other types": delimited(1, entry(b"k", delimited(INT64, FIVE)) + entry(b"k", delimited(FLOAT, HALF))),
    "two lists of a kind": delimited(
        1, entry(b"k", delimited(INT64, FIVE), delimited(INT64, SIX))
    ),  # The lists are merged.
    "two kinds of lists": delimited(
        1, entry(b"k", delimited(INT64, FIVE), delimited(FLOAT, HALF))
    ),  # The last list is used.
    "there and back": delimited(1, entry(b"k", delimited(INT64, FIVE), delimited(FLOAT, HALF), delimited(INT64, SIX))),
    "features twice": delimited(1, entry(b"k", delimited(INT64, FIVE)))
    + delimited(1, entry(b"l")),  # The maps are merged.
    "an entry without a value": delimited(1, delimited(1, delimited(1, b"k"))),
    "an entry without a key": delimited(1, delimited(1, delimited(2, delimited(INT64, FIVE)))),
    "an empty entry": delimited(1, delimited(1, b"")),
    "a value before its key": delimited(1, delimited(1, delimited(2, delimited(INT64, FIVE)) + delimited(1, b"k"))),
    "a value in two parts": delimited(
        1, delimited(1, delimited(1, b"k") + delimited(2, delimited(INT64, FIVE)) + delimited(2, delimited(INT64, SIX)))
    ),
    "a long tag": b"\x8a\x00" + delimited(1, entry(b"k", delimited(BYTES, delimited(1, b"x"))))[1:],
}


def plain(parsed: dict[str, Feature] | None) -> dict[str, tuple[str, list[Any]]] | None:
    """Return values as Python numbers, like those of protobuf."""
    if parsed is None:
        return None
    return {name: (f.type, f.values if f.type in ("bytes", "") else f.values.tolist()) for name, f in parsed.items()}


def by_tensorflow(serialized: bytes) -> dict[str, tuple[str, list[Any]]]:
    message = tf.train.Example.FromString(serialized)
    features = {}
    for name, value in sorted(message.features.feature.items()):
        kind = value.WhichOneof("kind")
        features[name] = (kind.removesuffix("_list"), list(getattr(value, kind).value)) if kind else ("", [])
    return features


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_parses_what_tensorflow_writes(values: dict[str, Any]) -> None:
    serialized = example(values)
    parsed = parse(serialized)
    assert parsed is not None
    assert list(parsed) == sorted(values)
    assert plain(parsed) == by_tensorflow(serialized)
    assert example_parser.counts(serialized) == lengths(parsed)


def lengths(parsed: dict[str, Feature] | None) -> dict[str, tuple[str, int]] | None:
    return None if parsed is None else {name: (f.type, len(f.values)) for name, f in parsed.items()}


@pytest.mark.parametrize("serialized", WIRE.values(), ids=WIRE)
def test_parses_every_valid_encoding(serialized: bytes) -> None:
    assert plain(parse(serialized)) == by_tensorflow(serialized)
    assert example_parser.counts(serialized) == lengths(parse(serialized))


def test_types_of_numbers() -> None:
    parsed = parse(example({"float": [0.1], "int64": [-3], "empty": []}))
    assert parsed is not None
    assert {name: value.values.dtype for name, value in parsed.items()} == {
        "float": np.float32,
        "int64": np.int64,
        "empty": np.int64,
    }


@pytest.mark.parametrize(
    "data",
    [
        image("any"),
        b"some text",
        b"\x00" * 30,  # There is no field 0.
        b"\x08\x01\x12\x03abc",  # Another message with a number and a text.
        b"\xff" * 1_000_000,  # A number without an end, which must not take minutes.
        example({"k": 5}) + delimited(2, b""),  # Examples do not have this field.
        delimited(1, entry(b"k", delimited(INT64, FIVE)) + b"\x10\x01"),  # An unknown field in the map.
        delimited(1, entry(b"k", delimited(INT64, HALF))),  # A float among integers.
        delimited(1, entry(b"k", delimited(INT64, b"\x0a\x01\x80"))),  # A packed number that does not end.
        delimited(1, entry(b"k", delimited(INT64, b"\x0a\x0b" + b"\x80" * 10 + b"\x01"))),  # A number of eleven bytes.
        delimited(1, entry(b"k", delimited(FLOAT, b"\x0a\x03\x00\x00\x00"))),  # Three quarters of a float.
        delimited(1, entry(b"\xff", delimited(INT64, FIVE))),  # A name that is not UTF-8.
        sequence({"id": 1}, {"steps": [1, 2]}),
    ],
)
def test_other_bytes_are_not_examples(data: bytes) -> None:
    assert parse(data) is None
    assert example_parser.counts(data) is None


def test_cut_examples_are_not_examples() -> None:
    whole = example(VALUES["one of each"])
    assert [length for length in range(1, len(whole)) if parse(whole[:length]) is not None] == []
    assert [length for length in range(1, len(whole)) if example_parser.counts(whole[:length]) is not None] == []


def test_damaged_examples_are_parsed_like_protobuf_or_refused() -> None:
    rng = np.random.default_rng(0)
    whole = example(VALUES["one of each"] | {"many": [1, -2, 300], "floats": [0.5, 2.0], "texts": [b"a", b"bc"]})
    survived = 0
    for _ in range(3000):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 3)):
            damaged[place] = rng.integers(256)
        parsed = parse(bytes(damaged))
        assert example_parser.counts(bytes(damaged)) == lengths(parsed)
        if parsed is not None:
            survived += 1
            expected = by_tensorflow(bytes(damaged))
            assert repr(plain(parsed)) == repr({name: expected[name] for name in sorted(expected)})
    assert survived > 100


def sequence_by_tensorflow(serialized: bytes) -> tuple[Any, Any]:
    message = tf.train.SequenceExample.FromString(serialized)
    context = by_tensorflow(tf.train.Example(features=message.context).SerializeToString())
    lists = {}
    for name, steps in sorted(message.feature_lists.feature_list.items()):
        features = [tf.train.Features(feature={"": step}) for step in steps.feature]
        lists[name] = [by_tensorflow(tf.train.Example(features=f).SerializeToString())[""] for f in features]
    return context, lists


def plain_sequence(serialized: bytes) -> tuple[Any, Any] | None:
    parsed = example_parser.parse_sequence(serialized)
    if parsed is None:
        return None
    lists = {name: [plain({"": step}) for step in steps] for name, steps in parsed[1].items()}
    return plain(parsed[0]), {name: [step[""] for step in steps if step] for name, steps in lists.items()}


def test_damaged_sequences_are_parsed_like_protobuf_or_refused() -> None:
    rng = np.random.default_rng(0)
    steps: dict[str, list[Any]] = {"frames": [b"a", b"bc"], "n": [[1, 2], [], -3], "f": [0.5]}
    steps |= {"none": [], "untyped": [None]}
    whole = sequence({"id": 1, "texts": [b"a", b"bc"]}, steps)
    survived = 0
    for _ in range(3000):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(0, 3)):
            damaged[place] = rng.integers(256)
        parsed = plain_sequence(bytes(damaged))
        if parsed is not None:
            survived += 1
            assert repr(parsed) == repr(sequence_by_tensorflow(bytes(damaged)))
    assert survived > 100


def test_records_of_any_bytes_are_counted_or_refused() -> None:
    rng = np.random.default_rng(0)
    for length in rng.integers(0, 60, 3000):
        data = rng.choice(np.array([0x0A, 0x12, 0x1A, 1, 2, 3, 0x80, 0xFF], np.uint8), length).tobytes()
        assert example_parser.counts(data) == lengths(parse(data))
        example_parser.parse_sequence(data)


@pytest.mark.parametrize(
    ("data", "is_sequence"),
    [
        (sequence({"id": 1}, {"steps": [1, 2], "words": [b"a", b"b"]}), True),
        (sequence({}, {"steps": [1]}), True),
        (sequence({"id": 1}, {"steps": []}), True),
        (b"\x08\x01\x12\x03abc", False),  # Another message with a field 2.
        (delimited(2, b"text"), False),
        (
            delimited(2, delimited(1, delimited(1, b"k") + delimited(2, delimited(2, b"")))),
            False,
        ),  # The entry does not hold a FeatureList.
        (image("any"), False),
    ],
)
def test_sequences(data: bytes, is_sequence: bool) -> None:
    assert (example_parser.parse_sequence(data) is not None) == is_sequence
    if is_sequence:
        assert plain_sequence(data) == sequence_by_tensorflow(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_images_are_recognized_and_decoded(kind: str) -> None:
    data = image("any", kind, size=(12, 9))
    assert example_parser.image_type(data) == kind
    decoded = example_parser.decode(data)
    assert decoded is not None
    assert decoded.size == (12, 9)
    assert np.array_equal(np.asarray(decoded.convert("RGB")), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"BMW 3 Series, 4 doors",  # Starts like a BMP.
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"GIF is pronounced",
        image("any", "TIFF"),  # TensorFlow cannot decode TIFF.
    ],
)
def test_other_bytes_are_not_images(data: bytes) -> None:
    assert example_parser.image_type(data) is None
    assert example_parser.decode(data) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_cut_images_do_not_decode(kind: str) -> None:
    data = image("any", kind, size=(64, 64))
    assert example_parser.image_type(data[: len(data) // 2]) == kind
    assert example_parser.decode(data[: len(data) // 2]) is None


INT, BIG = np.array([3, -1, 3]), np.arange(5000)
LONG = "long " * 100


@pytest.mark.parametrize(
    ("feature", "seen"),
    [
        (Feature("int64", INT), Seen(3, (-1, 3), 0, (3, -1), True, ())),  # Values keep their order.
        (Feature("int64", INT[:0]), Seen(0, (), 0, (), True, ())),
        (Feature("int64", BIG), Seen(5000, (0, 4999), 0, tuple(range(1000)), False, ())),
        (Feature("float", np.array([np.nan, 0.5, -2.0], "f4")), Seen(3, (-2.0, 0.5), 1, (0.5, -2.0), True, ())),
        (Feature("float", np.array([np.nan], "f4")), Seen(1, (), 1, (), True, ())),
        (Feature("bytes", [b"cat", b"", b"cat"]), Seen(3, (0, 3), 0, ("cat", ""), True, ())),
        (Feature("bytes", []), Seen(0, (), 0, (), True, ())),
        (Feature("bytes", ["кот\n".encode()]), Seen(1, (7, 7), 0, ("кот\n",), True, ())),
        (Feature("bytes", [b"\x00\x01", b"\xff"]), Seen(2, (1, 2), 0, (b"\x00\x01", b"\xff"), True, ())),
        (Feature("bytes", [LONG.encode()]), Seen(1, (500, 500), 0, (LONG[:64],), False, ())),
        (
            Feature("bytes", [image("a"), image("b")[:99], b"no image"]),
            Seen(
                3,
                (8, len(image("a"))),
                0,
                (image("a")[:64], "no image"),  # The first 64 bytes of both images are equal.
                False,
                (ImageSeen("JPEG", (12, 9)), ImageSeen("JPEG", None)),
            ),
        ),
    ],
)
def test_look(feature: Feature, seen: Seen) -> None:
    assert look(feature) == seen
