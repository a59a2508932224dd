"""Describe how third-party records hold the image and the label (`Form`), and read both."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from tfrecord_tools.foreign.example_parser import Feature
from tfrecord_tools.images import recode
from tfrecord_tools.layout.schema import Keys

Label = int | str  # A stored label: a number, or the name of the class.
Example = Mapping[str, Feature]
INDEX, NUMBER, TEXT, ONE_HOT = "index", "number", "text", "one_hot"  # Forms of a label.
UNLABELED = -1  # TensorFlow Datasets writes this number for images without a label.
NO_LABEL = f"it has no label ({UNLABELED})"
CHANNELS = (1, 2, 3, 4)  # Gray, gray and alpha, RGB, RGBA.
_WIDE = {2: "uint16", 4: "float32", 8: "float64"}  # Bytes per value -> type.


class Unusable(Exception):
    """A record cannot be used. The message says why, and is printed after `path: `."""


class Unlabeled(Unusable):
    """The record has no label."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixels:
    """The features with the size of raw pixels, and how to read the pixels.

    Attributes:
        height: Feature with the height in pixels. "": the images are square.
        width: Feature with the width in pixels. "": the images are square.
        channels: Feature with the number of channels. "": it follows from the number of values.
        shape: Feature with height, width and channels as one list. "": there is no such feature.
        planes: Whether the values are stored plane by plane (channels, height, width).
        scale: Factor that brings the values into the range 0 to 255.
    """

    height: str = ""
    width: str = ""
    channels: str = ""
    shape: str = ""
    planes: bool = False
    scale: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """The form in which the records of a dataset hold image and label.

    Attributes:
        keys: Features with image, label and path.
        text: Feature with the class name, if labels are numbers. "": there is no such feature.
        label: How labels are stored: INDEX (int64), NUMBER (int64, or a float without a fraction), TEXT or ONE_HOT.
        length: Number of values of a ONE_HOT label.
        encoding: Character encoding of a TEXT label.
        unlabeled: The number that means "no label". None: there is no such number.
        pixels: How raw pixels are stored. None: images are encoded.
    """

    keys: Keys
    text: str = ""
    label: str = INDEX
    length: int = 0
    encoding: str = "utf-8"
    unlabeled: int | None = UNLABELED
    pixels: Pixels | None = None

    @property
    def plain(self) -> bool:
        """Whether readers can use the records without rewriting."""
        return self.label == INDEX and self.pixels is None


def label_of(example: Example, form: Form) -> Label:
    """Return the stored label.

    Raises:
        Unlabeled: The label is missing.
        Unusable: The value is not a valid label, or is several labels.
    """
    key = form.keys.label
    feature = example.get(key)
    if feature is None or not len(feature.values):
        raise Unlabeled(f"it has no label: {key!r} is missing or empty")
    if form.label == ONE_HOT:
        return _hot(feature, key, form.length)
    if len(feature.values) != 1:
        raise Unusable(f"{len(feature.values):,} values in {key!r}; an image must have one label")
    if (feature.type == "bytes") != (form.label == TEXT):
        raise Unusable(f"{key!r} holds {_kind(feature)}, unlike in most records")
    if form.label == TEXT:
        return class_name(feature.values[0], form)
    if form.label == INDEX and feature.type != "int64":
        raise Unusable(f"{key!r} holds a float, unlike in most records")
    return _whole(feature.values[0].item(), form)


def check_number(label: int, form: Form) -> int:
    """Return the label, after checking that it does not mean "no label".

    Raises:
        Unlabeled: The label means "no label".
    """
    if label == form.unlabeled:
        raise Unlabeled(NO_LABEL)
    return label


def class_name(value: bytes, form: Form) -> str:
    """Return a class name that TensorFlow Datasets accepts: Unicode NFC, with single spaces between words.

    Raises:
        Unlabeled: The text is empty.
        Unusable: The text has another encoding or control characters.
    """
    try:
        text = unicodedata.normalize("NFC", value.decode(form.encoding))
    except UnicodeDecodeError:
        raise Unusable(
            f"{value[:40]!r} in {form.keys.label!r} is not {form.encoding} text; if it has another encoding,"
            " pass its name with --label_encoding"
        ) from None
    name = " ".join(text.split())
    if not name:
        raise Unlabeled(f"it has no label: the text in {form.keys.label!r} is empty")
    if not name.isprintable():
        raise Unusable(f"{value[:40]!r} in {form.keys.label!r} has characters that a class name cannot have")
    return name


def path_of(example: Example, form: Form) -> str:
    """Return the source path in a record; "" if there is none."""
    feature = example.get(form.keys.path)
    has_path = feature is not None and feature.type == "bytes" and len(feature.values) == 1
    return str(feature.values[0], "utf-8", "replace") if has_path and feature else ""


def image_of(example: Example, form: Form) -> bytes:
    """Return the encoded image; raw pixels are encoded as PNG.

    Raises:
        Unusable: There is no image, or the number of pixels does not match the size in the record.
    """
    key = form.keys.image
    feature = example.get(key)
    if feature is None or not len(feature.values):
        raise Unusable(f"it has no image: {key!r} is missing or empty")
    if form.pixels is not None:
        return _png(pixels_of(example, form.pixels, key))
    if feature.type != "bytes" or len(feature.values) != 1:
        raise Unusable(f"{key!r} must hold one encoded image, but holds {_kind(feature)}")
    return bytes(feature.values[0])


def pixels_of(example: Example, pixels: Pixels, key: str) -> np.ndarray:
    """Return the raw pixels of a feature, u8[h w c].

    Raises:
        Unusable: The number of values does not match the size, or a value is out of range.
    """
    feature = example[key]
    values = feature.values
    if feature.type == "bytes":
        if len(values) != 1:
            raise Unusable(f"{key!r} must hold the pixels of one image, but holds {len(values):,} values")
        values = np.frombuffer(values[0], np.uint8)
    height, width, channels = _size(example, len(values), pixels, key)
    values = _bytes_of(values, 1 if feature.type == "bytes" else pixels.scale, key)
    if pixels.planes:
        return values.reshape(channels, height, width).transpose(1, 2, 0)
    return values.reshape(height, width, channels)


def numbers_of(example: Example, key: str) -> list[int]:
    """Return the whole numbers of a feature; an empty list if it is missing or has another type."""
    feature = example.get(key)
    return [int(value) for value in feature.values] if feature is not None and feature.type == "int64" else []


def _size(example: Example, count: int, pixels: Pixels, key: str) -> tuple[int, int, int]:
    """Return height, width and channels of an image of `count` values."""
    if pixels.shape:
        stated = numbers_of(example, pixels.shape)
        sides = stated[1:3] + stated[:1] if pixels.planes and len(stated) == 3 else stated
    elif pixels.height and pixels.width:
        sides = numbers_of(example, pixels.height)[:1] + numbers_of(example, pixels.width)[:1]
        if len(sides) == 2:
            sides += numbers_of(example, pixels.channels)[:1]
        else:
            raise Unusable(f"{pixels.height!r} and {pixels.width!r} must hold one whole number each")
    else:
        sides = square(count)
    if len(sides) == 2 and min(sides) > 0:
        sides = [*sides, max(1, count // (sides[0] * sides[1]))]
    if len(sides) != 3 or min(sides) < 1 or sides[2] not in CHANNELS:
        size = " x ".join(map(str, sides)) or "an empty list"
        raise Unusable(
            f"{size} cannot be the size of {count:,} values; a size must be height x width x channels, with 1 to 4"
            " channels"
        )
    if math.prod(sides) != count:
        wide = next((name for n, name in _WIDE.items() if n * math.prod(sides) == count), "")
        reason = f" ({wide} pixels are not supported)" if wide and example[key].type == "bytes" else ""
        size = " x ".join(map(str, sides))
        raise Unusable(f"{key!r} must hold {size} = {math.prod(sides):,} values, but holds {count:,}{reason}")
    return sides[0], sides[1], sides[2]


def square(count: int) -> list[int]:
    """Return height, width and channels of a square gray or RGB image of `count` values; [] if none fits."""
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if count and side * side * channels == count:
            return [side, side, channels]
    return []


def _bytes_of(values: np.ndarray, scale: int, key: str) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    scaled = values * scale
    if not ((scaled >= 0) & (scaled <= 255)).all():  # NaN is refused as well.
        allowed = "from 0 to 255" if scale == 1 else "from 0 to 1, as in most records"
        raise Unusable(
            f"{key!r} holds values from {values.min():.4g} to {values.max():.4g}, but pixels must be {allowed}"
        )
    return np.rint(scaled).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    return recode.encoded(image, "PNG", quality=0)


def _hot(feature: Feature, key: str, length: int) -> int:
    """Return the position of the only value that is 1."""
    values = feature.values
    if feature.type == "bytes" or len(values) != length:
        raise Unusable(f"{key!r} holds {_kind(feature)}, but in most records it holds {length:,} numbers")
    hot = np.flatnonzero(values)
    if not len(hot):
        raise Unlabeled(f"it has no label: all {length:,} values of {key!r} are 0")
    if len(hot) > 1:
        raise Unusable(f"{len(hot):,} of {length:,} values in {key!r} are not 0; an image must have one label")
    if values[hot[0]] != 1:
        raise Unusable(f"{key!r} holds {values[hot[0]]:g}, but a one-hot label must hold only 0 and 1")
    return int(hot[0])


def _whole(value: Any, form: Form) -> int:
    if not math.isfinite(value) or value != int(value):
        raise Unusable(f"{value:g} in {form.keys.label!r} is not a whole number, so it cannot be a class")
    return check_number(int(value), form)


def _kind(feature: Feature) -> str:
    words = {"bytes": "text or bytes", "int64": "a whole number", "float": "a float", "": "nothing"}
    if len(feature.values) == 1:
        return words[feature.type]
    return f"{len(feature.values):,} values of type {feature.type}"
