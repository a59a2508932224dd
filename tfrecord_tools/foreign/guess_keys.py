"""Guess how third-party TFRecords hold image, label and path, from common names and from content."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.foreign import forms
from tfrecord_tools.foreign.example_parser import Feature, image_type
from tfrecord_tools.foreign.forms import INDEX, NUMBER, ONE_HOT, TEXT, Example, Form, Pixels
from tfrecord_tools.layout.schema import Keys
from tfrecord_tools.layout.split_names import SPLITS, split_named

# The first ones are of ImageNet's scripts (build_imagenet_data.py, the Model Garden), then come those of TensorFlow
# Datasets, then what is to be found on Kaggle.
IMAGE_KEYS = ("image/encoded", "image", "image_raw", "img", "jpeg", "encoded", "image/raw", "img_raw", "pixels", "x")
LABEL_KEYS = (
    "image/class/label", "label", "class", "target", "labels", "class_id", "label_id", "image/label", "category", "y",
)  # fmt: skip
PATH_KEYS = ("image/filename", "filename", "file_name", "id", "image_name")
TEXT_KEYS = ("image/class/text", "class/text", "class_name", "label_name")
PIXEL_ORDERS = ("hwc", "chw")
_ONE_HOT_WORDS = re.compile(
    r"(?:^|[^a-z])(one|hot|onehot|label|labels|class|classes|target|targets|category|y)(?![a-z])"
)
_SIDES = {  # What the last part of a feature's name says of an image's size.
    "height": re.compile(r"(?:^|[/_.])(?:height|rows|h)$"),
    "width": re.compile(r"(?:^|[/_.])(?:width|cols|columns|w)$"),
    "channels": re.compile(r"(?:^|[/_.])(?:depth|channels?|c)$"),
    "shape": re.compile(r"(?:^|[/_.])shape$"),
}
_OTHER_IMAGES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF.
_BRAND = slice(4, 8)  # Where the files of AVIF, HEIC and their like say b"ftyp".
_LONGEST_NAME = 200  # Bytes.
_MIN_PIXELS = 16  # A shorter list is no image whose size goes unsaid.
_PLANES_TRIED = 8  # Images.
_SMOOTHER = 0.75  # Differences of neighbors that are so much smaller in the other order speak for it.
_WORDS = re.compile(r"[a-z]+")
_VERSION = re.compile(r"\d+\.\d+\.\d+$")  # The directory of a dataset of TensorFlow Datasets.
_SAY_SPLITS = f"--split=train='PATTERN' --split=validation='PATTERN' (NAME=PATTERN, NAME one of {', '.join(SPLITS)})"

Columns = Mapping[str, Sequence[Feature]]  # Name -> what the records hold that have values in it.


def form(
    samples: Sequence[Example],
    image_key: str | None,
    label_key: str | None,
    where: str,
    pixel_order: str | None = None,
    encoding: str = "utf-8",
) -> Form:
    """Find the features that hold the image, the label and the path, and how they hold them.

    Args:
        samples: Some records.
        image_key: The feature of the image, if the user named it.
        label_key: The feature of the label, if the user named it.
        where: Which records these are, for messages.
        pixel_order: One of `PIXEL_ORDERS`, if the user named it.
        encoding: Character encoding of labels that are text.

    Returns:
        The form, with a label offset of 0: all labels decide on that.

    Raises:
        UserError: A feature is missing, several fit and none has a known name, or pixels can be read in two ways.
    """
    columns = _columns(samples)
    there = f"The features: {', '.join(f'{name} ({_words(some)})' for name, some in columns.items()) or 'none'}."
    image = _image(samples, columns, image_key, where, there)
    kinds = {name: _label(some) for name, some in columns.items() if name != image}
    label = _label_name(columns, kinds, label_key, where, there)
    pixels = None
    if not _mostly(_is_image, columns[image]):
        pixels = _with_order(samples, image, _pixels(samples, columns, image), pixel_order)
    texts = [name for name, some in columns.items() if _mostly(_is_text, some)]
    kind, length = kinds[label]
    return Form(
        keys=Keys(image=image, label=label, path=next((k for k in PATH_KEYS if k in texts and k != label), "")),
        text=next((k for k in TEXT_KEYS if k in texts and k != label), "") if kind != TEXT else "",
        label=kind,
        length=length,
        encoding=encoding,
        pixels=pixels,
    )


def splits(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Divide files by the split in the name of each file or its directory; if no name says one, all are of train.

    Raises:
        UserError: Some are named by a split and others are not, or one by several.
    """
    top = Path(os.path.commonpath([path.absolute().parent for path in paths])) if paths else Path()
    found: dict[str | None, list[Path]] = {}
    for path in paths:
        found.setdefault(split_of(path, top), []).append(path)
    unnamed = found.pop(None, [])
    if unnamed and found:
        name, others = next(iter(found.items()))
        raise UserError(
            f"{unnamed[0]}: neither the file's name nor its directory's says a split, while {others[0]} belongs to"
            f" {name}. Name the files of each split: {_SAY_SPLITS}."
        )
    return {name: files for name, files in found.items() if name is not None} or {"train": unnamed}


def split_of(path: Path, top: Path | None = None) -> str | None:
    """Return the split that a word in a file's name says, or its directory, or a directory up to `top`."""
    named = {split for word in _WORDS.findall(path.name.lower()) if (split := split_named(word))}
    if len(named) > 1:
        raise UserError(
            f"{path}: its name says both {' and '.join(sorted(named))}. Name the files of each split: {_SAY_SPLITS}."
        )
    if named:
        return named.pop()
    parent = path.absolute().parent
    below = [d for d in parent.parents if top is not None and top in d.parents]
    return next((split for d in (parent, *below) if (split := split_named(d.name))), None)


def label_offset(labels: Collection[int], names: int | None) -> int:
    """Return the label of the first class: 1 where labels count from 1, as ImageNet's do, else 0.

    Args:
        labels: All that occur.
        names: How many classes are named; None: not known.
    """
    counts_from_1 = min(labels, default=0) == 1 and (names is None or max(labels) >= names)
    return int(counts_from_1)


def class_names(labels: Collection[int], texts: Mapping[int, str], offset: int) -> tuple[str, ...]:
    """Return names for the classes `offset`..max: what the records say, each name once; else the labels themselves."""
    stored = range(offset, max(labels) + 1)
    named = [texts.get(label) or str(label) for label in stored]
    times = Counter(named)
    return tuple(f"{name} ({label})" if times[name] > 1 else name for name, label in zip(named, stored))


def dataset_name(path: Path) -> str:
    """Return the name of a file's directory; in a dataset of TensorFlow Datasets, the dataset's name."""
    directory = path.resolve().parent
    return (directory.parent if _VERSION.match(directory.name) else directory).name


def _columns(samples: Sequence[Example]) -> dict[str, list[Feature]]:
    columns: dict[str, list[Feature]] = {}
    for example in samples:
        for name, feature in example.items():
            if len(feature.values):
                columns.setdefault(name, []).append(feature)
    return dict(sorted(columns.items()))


def _image(samples: Sequence[Example], columns: Columns, given: str | None, where: str, there: str) -> str:
    """The feature of the image: encoded, or else raw pixels."""
    what = "an encoded image or raw pixels"
    encoded = [name for name, some in columns.items() if _mostly(_is_image, some)]
    raw = [name for name in columns if name not in encoded and _holds_pixels(samples, columns, name)]
    if given is not None:
        if given not in encoded + raw:
            raise UserError(f"--image_key={given}: no such feature holds {what} in {where}. {there}")
        return given
    return _chosen("image_key", encoded or raw, IMAGE_KEYS, what, where, there)


def _label_name(
    columns: Columns, kinds: Mapping[str, tuple[str, int]], given: str | None, where: str, there: str
) -> str:
    """The label: a number of a known name, else anything of a known name, else the only feature that fits."""
    what = "a label: one whole number, one text, or a 1 among zeros (one-hot)"
    fitting = [name for name, (kind, _) in kinds.items() if kind]
    if given is not None:
        if given not in fitting:
            why = _why_no_label(given, columns[given]) if given in columns else ""
            raise UserError(f"--label_key={given}: no such feature holds {what} in {where}.{why} {there}")
        return given
    numbers = [name for name in fitting if kinds[name][0] == INDEX]
    for some, names in ((numbers, LABEL_KEYS), (fitting, LABEL_KEYS + TEXT_KEYS)):
        if known := [name for name in names if name in some]:
            return known[0]
    wrong = next((_why_no_label(name, columns[name]) for name in LABEL_KEYS if name in columns), "")
    if wrong:
        raise UserError(f"{where}: no feature holds {what}.{wrong} Name another one with --label_key. {there}")
    sizes = [name for name in numbers if any(pattern.search(name) for pattern in _SIDES.values())]
    hot = [name for name in fitting if kinds[name][0] == ONE_HOT and _ONE_HOT_WORDS.search(name.lower())]
    others = [name for name in numbers if name not in sizes and name not in PATH_KEYS]
    return _chosen("label_key", hot or others, (), what, where, there)


def _label(some: Sequence[Feature]) -> tuple[str, int]:
    """The form of a label, and the length of a one-hot one; "" for what is none in most records."""
    single = [feature for feature in some if len(feature.values) == 1]
    if 2 * len(single) > len(some):
        kind = Counter(feature.type for feature in single).most_common(1)[0][0]
        if kind == "bytes":
            return (TEXT, 0) if _mostly(_is_name, some) else ("", 0)
        whole = [f for f in single if f.type != "bytes" and float(f.values[0]).is_integer()]
        if 2 * len(whole) <= len(some):
            return "", 0
        return (INDEX if all(f.type != "float" for f in single) else NUMBER), 0
    length = Counter(len(feature.values) for feature in some).most_common(1)[0][0]
    return (ONE_HOT, length) if _mostly(lambda feature: _is_hot(feature, length), some) else ("", 0)


def _why_no_label(name: str, some: Sequence[Feature]) -> str:
    """Why a feature that is named like a label is none."""
    lengths = sorted({len(feature.values) for feature in some})
    if lengths != [1]:
        several = f"{lengths[0]:,} to {lengths[-1]:,}" if len(lengths) > 1 else f"{lengths[0]:,}"
        return f" {name!r} holds {several} values per record, and an image must have one label."
    if some[0].type == "float":
        return f" {name!r} holds numbers such as {some[0].values[0]:g}, which are no classes."
    return ""


def _holds_pixels(samples: Sequence[Example], columns: Columns, name: str) -> bool:
    """Whether most records have as many values in a feature as their sizes say, or it is named like raw pixels."""
    pixels = _pixels(samples, columns, name)
    some = columns[name]
    if pixels.height or pixels.shape:
        fitting = sum(_fits(example, pixels, name) for example in samples if name in example)
        return 2 * fitting > len(some) or (name in IMAGE_KEYS and _counts(some)[0] >= _MIN_PIXELS)
    counts = set(_counts(some))
    return name in IMAGE_KEYS and len(counts) == 1 and min(counts) >= _MIN_PIXELS and bool(forms.square(min(counts)))


def _counts(some: Sequence[Feature]) -> list[int]:
    """How many values each feature has; bytes are counted in one that holds one value of bytes."""
    return [len(f.values[0]) if f.type == "bytes" and len(f.values) == 1 else len(f.values) for f in some]


def _fits(example: Example, pixels: Pixels, name: str) -> bool:
    try:
        return bool(forms.pixels_of(example, pixels, name).size)
    except forms.Unusable:
        return False


def _pixels(samples: Sequence[Example], columns: Columns, name: str) -> Pixels:
    """Where the size of the images in a feature is stored; of several features the one whose name is most alike."""
    numbers = [n for n, some in columns.items() if n != name and _mostly(lambda f: f.type == "int64", some)]
    found = {}
    for side, pattern in _SIDES.items():
        lengths = (2, 3) if side == "shape" else (1,)
        fitting = [n for n in numbers if pattern.search(n.lower()) and len(columns[n][0].values) in lengths]
        found[side] = max(fitting, key=lambda n: (_shared(n, name), -len(n)), default="")
    if not (found["height"] and found["width"]):
        found |= {"height": "", "width": "", "channels": ""}
    if found["height"]:
        found["shape"] = ""
    unit = all(f.type != "bytes" and f.values.max() <= 1 for f in columns[name] if len(f.values))
    stated = forms.numbers_of(samples[0], found["shape"]) if found["shape"] else []
    planes = len(stated) == 3 and stated[0] in forms.CHANNELS and stated[2] not in forms.CHANNELS
    return Pixels(**found, planes=planes, scale=255 if unit else 1)


def _with_order(samples: Sequence[Example], name: str, pixels: Pixels, order: str | None) -> Pixels:
    """Decide whether pixels are stored plane by plane.

    Raises:
        UserError: No shape states it, and neighboring pixels are far more alike if they are.
    """
    given = None if order is None else order == "chw"
    if given is not None or pixels.shape:
        return dataclasses.replace(pixels, planes=pixels.planes if given is None else given)
    rough = np.zeros(2)
    for example in [s for s in samples if _fits(s, pixels, name)][:_PLANES_TRIED]:
        image = forms.pixels_of(example, pixels, name)
        if image.shape[2] > 1:
            planes = image.reshape(image.shape[2], *image.shape[:2]).transpose(1, 2, 0)
            rough += [_roughness(image), _roughness(planes)]
    if rough[1] < _SMOOTHER * rough[0]:
        raise UserError(
            f"{name!r}: the raw pixels look as if they were stored plane by plane (channels, height, width), since"
            " neighboring pixels are more alike then. Pass --pixel_order=chw to read them so, or --pixel_order=hwc to"
            " read them pixel by pixel."
        )
    return pixels


def _roughness(image: np.ndarray) -> float:
    """Mean difference of neighbors, both ways; 0 if there are none."""
    steps = (np.diff(image.astype(np.int16), axis=axis) for axis in (0, 1))
    return float(sum(np.abs(step).mean() for step in steps if step.size))


def _shared(one: str, other: str) -> int:
    """How many characters two names have in common at their start."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other)))


def _chosen(flag: str, fitting: Sequence[str], known: Sequence[str], what: str, where: str, there: str) -> str:
    of_known_name = [name for name in known if name in fitting]
    if not of_known_name and len(fitting) != 1:
        several = "several features hold" if fitting else "no feature holds"
        raise UserError(f"{where}: {several} {what}. Name it with --{flag}. {there}")
    return of_known_name[0] if of_known_name else fitting[0]


def _mostly(check: Callable[[Feature], bool], some: Sequence[Feature]) -> bool:
    return 2 * sum(map(check, some)) > len(some)


def _is_image(feature: Feature) -> bool:
    if feature.type != "bytes" or len(feature.values) != 1:
        return False
    value = feature.values[0]
    return image_type(value) is not None or value.startswith(_OTHER_IMAGES) or value[_BRAND] == b"ftyp"


def _is_text(feature: Feature) -> bool:
    return feature.type == "bytes" and len(feature.values) == 1 and bool(feature.values[0])


def _is_name(feature: Feature) -> bool:
    """Whether it may be the name of a class; text in another encoding is refused later, with the flag that helps."""
    return _is_text(feature) and not _is_image(feature) and len(feature.values[0]) <= _LONGEST_NAME


def _is_hot(feature: Feature, length: int) -> bool:
    values = feature.values
    if feature.type == "bytes" or len(values) != length or length < 2:
        return False
    return bool(np.count_nonzero(values) == np.count_nonzero(values == 1) == 1)


def _words(some: Sequence[Feature]) -> str:
    first = some[0]
    kinds = Counter(image_type(f.values[0]) for f in some if _is_image(f))
    image = f", {kinds.most_common(1)[0][0] or 'an image'}" if kinds else ""
    lengths = sorted({len(feature.values) for feature in some})
    span = f"{lengths[0]:,}" if len(lengths) == 1 else f"{lengths[0]:,}..{lengths[-1]:,}"
    return f"{span} {first.type}{image}"
