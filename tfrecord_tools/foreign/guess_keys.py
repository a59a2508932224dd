"""Guess which features of third-party TFRecords hold image, label and path, from names and content."""

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

# Names in ImageNet's scripts (build_imagenet_data.py, the Model Garden), then in TensorFlow Datasets, then on Kaggle.
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
_SIDES = {  # Side -> the last part of a feature's name.
    "height": re.compile(r"(?:^|[/_.])(?:height|rows|h)$"),
    "width": re.compile(r"(?:^|[/_.])(?:width|cols|columns|w)$"),
    "channels": re.compile(r"(?:^|[/_.])(?:depth|channels?|c)$"),
    "shape": re.compile(r"(?:^|[/_.])shape$"),
}
_OTHER_IMAGES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF.
_BRAND = slice(4, 8)  # AVIF, HEIC and similar files have b"ftyp" here.
_LONGEST_NAME = 200  # Maximum number of bytes in a class name.
_MIN_PIXELS = 16  # If the record does not state a size, a shorter list is not an image.
_PLANES_TRIED = 8  # Both orders of pixels are compared in this number of images.
# Plane by plane is the likely order if neighboring pixels then differ by less than this share of their difference pixel
# by pixel.
_SMOOTHER = 0.75
_WORDS = re.compile(r"[a-z]+")
_VERSION = re.compile(r"\d+\.\d+\.\d+$")  # Name of a dataset's directory in TensorFlow Datasets.
_SPLIT_FLAGS = f"--split=train='PATTERN' --split=validation='PATTERN' (names: {', '.join(SPLITS)})"

Columns = Mapping[str, Sequence[Feature]]  # Name -> this feature of each record, without records that have no values.


def form(
    samples: Sequence[Example],
    image_key: str | None,
    label_key: str | None,
    where: str,
    pixel_order: str | None = None,
    encoding: str = "utf-8",
) -> Form:
    """Find the features that hold image, label and path, and the form in which they hold them.

    Args:
        samples: Some records.
        image_key: The feature of the image, if the user named it.
        label_key: The feature of the label, if the user named it.
        where: A description of the records, for messages.
        pixel_order: One of `PIXEL_ORDERS`, if the user named it.
        encoding: Character encoding of text labels.

    Returns:
        The form, with a label offset of 0. The offset can only be found from the labels of all records.

    Raises:
        UserError: A feature is missing, several features fit and none has a known name, or the order of raw pixels is
            unclear.
    """
    columns = _columns(samples)
    features = _features(columns)
    image = _image(samples, columns, image_key, where, features)
    kinds = {name: _label(column) for name, column in columns.items() if name != image}
    label = _label_name(columns, kinds, label_key, where, features)
    pixels = None
    if not _mostly(_is_image, columns[image]):
        pixels = _with_order(samples, image, _pixels(samples, columns, image), pixel_order)
    texts = [name for name, column in columns.items() if _mostly(_is_text, column)]
    kind, length = kinds[label]
    return Form(
        keys=Keys(image=image, label=label, path=_path_key(columns, label)),
        text=next((k for k in TEXT_KEYS if k in texts and k != label), "") if kind != TEXT else "",
        label=kind,
        length=length,
        encoding=encoding,
        pixels=pixels,
    )


def keys_of_images(samples: Sequence[Example], image_key: str | None, where: str) -> Keys:
    """Find the features that hold encoded images and their paths. Labels are not needed.

    Args:
        samples: Some records.
        image_key: The feature of the image, if the user named it.
        where: A description of the records, for messages.

    Returns:
        The names of the features; that of the label is "".

    Raises:
        UserError: No feature holds an encoded image, or several do and none has a known name.
    """
    columns = _columns(samples)
    features, what = _features(columns), "an encoded image"
    images = [name for name, column in columns.items() if _mostly(_is_image, column)]
    if image_key is None:
        image_key = _chosen("image_key", images, IMAGE_KEYS, what, where, features)
    elif image_key not in images:
        raise UserError(_not_fitting("image_key", image_key, columns, what, where, features))
    return Keys(image=image_key, label="", path=_path_key(columns, ""))


def splits(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Assign files to splits by the names of the files and their directories.

    Returns:
        Split -> files. If no name contains a split, all files belong to train.

    Raises:
        UserError: Some names contain a split and others do not, or one name contains several.
    """
    top = Path(os.path.commonpath([path.absolute().parent for path in paths])) if paths else Path()
    files_of: dict[str | None, list[Path]] = {}
    for path in paths:
        files_of.setdefault(split_of(path, top), []).append(path)
    unnamed = files_of.pop(None, [])
    if unnamed and files_of:
        name, others = next(iter(files_of.items()))
        raise UserError(
            f"{unnamed[0]}: neither the file name nor the directory name contains a split, but {others[0]} belongs to"
            f" {name}. List the files of each split: {_SPLIT_FLAGS}."
        )
    return {name: files for name, files in files_of.items() if name is not None} or {"train": unnamed}


def split_of(path: Path, top: Path | None = None) -> str | None:
    """Return the split in a file's name, else in a directory's name; None if there is no split.

    Args:
        path: The file.
        top: The search in parent directories stops at `top`.

    Raises:
        UserError: The name contains several splits.
    """
    names = {split for word in _WORDS.findall(path.name.lower()) if (split := split_named(word))}
    if len(names) > 1:
        raise UserError(
            f"{path}: the name contains both {' and '.join(sorted(names))}. List the files of each split:"
            f" {_SPLIT_FLAGS}."
        )
    if names:
        return names.pop()
    parent = path.absolute().parent
    below = [d for d in parent.parents if top is not None and top in d.parents]
    return next((split for d in (parent, *below) if (split := split_named(d.name))), None)


def label_offset(labels: Collection[int], names: int | None) -> int:
    """Return the label of the first class: 1 if labels are counted from 1, as in ImageNet, else 0.

    Args:
        labels: All labels in the records.
        names: Number of class names; None if the names are unknown.
    """
    counts_from_1 = min(labels, default=0) == 1 and (names is None or max(labels) >= names)
    return int(counts_from_1)


def class_names(labels: Collection[int], texts: Mapping[int, str], offset: int) -> tuple[str, ...]:
    """Return a unique name for each label from `offset` up: its text, or its number if there is no text."""
    stored = range(offset, max(labels) + 1)
    names = [texts.get(label) or str(label) for label in stored]
    times = Counter(names)
    return tuple(f"{name} ({label})" if times[name] > 1 else name for name, label in zip(names, stored))


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


def _features(columns: Columns) -> str:
    """Return a sentence that lists all features."""
    return (
        "The features (fields) of the records:"
        f" {', '.join(f'{name} ({_describe(c)})' for name, c in columns.items()) or 'none'}."
    )


def _path_key(columns: Columns, label: str) -> str:
    """Return the feature of the path; "" if there is none."""
    texts = [name for name, column in columns.items() if _mostly(_is_text, column)]
    return next((key for key in PATH_KEYS if key in texts and key != label), "")


def _not_fitting(
    flag: str, given: str, columns: Columns, what: str, where: str, features: str, reason: str = ""
) -> str:
    """Return the message about a feature that the user named and that cannot be used."""
    problem = f"this feature does not hold {what}" if given in columns else "there is no such feature"
    return f"--{flag}={given}: {problem} in {where}.{reason} {features}"


def _image(samples: Sequence[Example], columns: Columns, given: str | None, where: str, features: str) -> str:
    """Return the feature of the image: an encoded image, or else raw pixels."""
    what = "an encoded image or raw pixels"
    encoded = [name for name, column in columns.items() if _mostly(_is_image, column)]
    raw = [name for name in columns if name not in encoded and _holds_pixels(samples, columns, name)]
    if given is not None:
        if given not in encoded + raw:
            raise UserError(_not_fitting("image_key", given, columns, what, where, features))
        return given
    return _chosen("image_key", encoded or raw, IMAGE_KEYS, what, where, features)


def _label_name(
    columns: Columns, kinds: Mapping[str, tuple[str, int]], given: str | None, where: str, features: str
) -> str:
    """Return the feature of the label.

    It is a number with a known name, else any label with a known name, else the only feature that can be a label.
    """
    what = "a label: one whole number, one text, or a 1 among zeros (one-hot)"
    fitting = [name for name, (kind, _) in kinds.items() if kind]
    if given is not None:
        if given not in fitting:
            reason = _why_no_label(given, columns[given]) if given in columns else ""
            raise UserError(_not_fitting("label_key", given, columns, what, where, features, reason))
        return given
    numbers = [name for name in fitting if kinds[name][0] == INDEX]
    for candidates, names in ((numbers, LABEL_KEYS), (fitting, LABEL_KEYS + TEXT_KEYS)):
        if known := [name for name in names if name in candidates]:
            return known[0]
    reason = next((_why_no_label(name, columns[name]) for name in LABEL_KEYS if name in columns), "")
    if reason:
        raise UserError(f"{where}: no feature holds {what}.{reason} Pass another feature as --label_key. {features}")
    sizes = [name for name in numbers if any(pattern.search(name) for pattern in _SIDES.values())]
    hot = [name for name in fitting if kinds[name][0] == ONE_HOT and _ONE_HOT_WORDS.search(name.lower())]
    others = [name for name in numbers if name not in sizes and name not in PATH_KEYS]
    return _chosen("label_key", hot or others, (), what, where, features)


def _label(column: Sequence[Feature]) -> tuple[str, int]:
    """Return the form of a label and its length if it is one-hot; "" if most values are not labels."""
    single = [feature for feature in column if len(feature.values) == 1]
    if 2 * len(single) > len(column):
        kind = Counter(feature.type for feature in single).most_common(1)[0][0]
        if kind == "bytes":
            return (TEXT, 0) if _mostly(_is_name, column) else ("", 0)
        whole = [f for f in single if f.type != "bytes" and float(f.values[0]).is_integer()]
        if 2 * len(whole) <= len(column):
            return "", 0
        return (INDEX if all(f.type != "float" for f in single) else NUMBER), 0
    length = Counter(len(feature.values) for feature in column).most_common(1)[0][0]
    return (ONE_HOT, length) if _mostly(lambda feature: _is_hot(feature, length), column) else ("", 0)


def _why_no_label(name: str, column: Sequence[Feature]) -> str:
    """Return why a feature is not a label, although its name says so."""
    lengths = sorted({len(feature.values) for feature in column})
    if lengths != [1]:
        several = f"{lengths[0]:,} to {lengths[-1]:,}" if len(lengths) > 1 else f"{lengths[0]:,}"
        return f" {name!r} holds {several} values per record, but an image must have one label."
    if column[0].type == "float":
        return f" {name!r} holds numbers such as {column[0].values[0]:g}, which are not classes."
    return ""


def _holds_pixels(samples: Sequence[Example], columns: Columns, name: str) -> bool:
    """Return whether a feature can be raw pixels, by its length and the stated sizes, or by its name."""
    pixels = _pixels(samples, columns, name)
    column = columns[name]
    if pixels.height or pixels.shape:
        fitting = sum(_fits(example, pixels, name) for example in samples if name in example)
        return 2 * fitting > len(column) or (name in IMAGE_KEYS and _counts(column)[0] >= _MIN_PIXELS)
    counts = set(_counts(column))
    return name in IMAGE_KEYS and len(counts) == 1 and min(counts) >= _MIN_PIXELS and bool(forms.square(min(counts)))


def _counts(column: Sequence[Feature]) -> list[int]:
    """Return the number of values of each feature, or the number of bytes of a single bytes value."""
    return [len(f.values[0]) if f.type == "bytes" and len(f.values) == 1 else len(f.values) for f in column]


def _fits(example: Example, pixels: Pixels, name: str) -> bool:
    try:
        return bool(forms.pixels_of(example, pixels, name).size)
    except forms.Unusable:
        return False


def _pixels(samples: Sequence[Example], columns: Columns, name: str) -> Pixels:
    """Find the features with the size of the images in feature `name`; closer names go first."""
    numbers = [n for n, column in columns.items() if n != name and _mostly(lambda f: f.type == "int64", column)]
    keys = {}
    for side, pattern in _SIDES.items():
        lengths = (2, 3) if side == "shape" else (1,)
        fitting = [n for n in numbers if pattern.search(n.lower()) and len(columns[n][0].values) in lengths]
        keys[side] = max(fitting, key=lambda n: (_shared(n, name), -len(n)), default="")
    if not (keys["height"] and keys["width"]):
        keys |= {"height": "", "width": "", "channels": ""}
    if keys["height"]:
        keys["shape"] = ""
    is_unit_range = all(f.type != "bytes" and f.values.max() <= 1 for f in columns[name] if len(f.values))
    shape = forms.numbers_of(samples[0], keys["shape"]) if keys["shape"] else []
    planes = len(shape) == 3 and shape[0] in forms.CHANNELS and shape[2] not in forms.CHANNELS
    return Pixels(**keys, planes=planes, scale=255 if is_unit_range else 1)


def _with_order(samples: Sequence[Example], name: str, pixels: Pixels, order: str | None) -> Pixels:
    """Set whether pixels are stored plane by plane.

    Raises:
        UserError: The order is unknown, and neighboring pixels are much more alike plane by plane.
    """
    given = None if order is None else order == "chw"
    if given is not None or pixels.shape:
        return dataclasses.replace(pixels, planes=pixels.planes if given is None else given)
    roughness = np.zeros(2)
    for example in [s for s in samples if _fits(s, pixels, name)][:_PLANES_TRIED]:
        image = forms.pixels_of(example, pixels, name)
        if image.shape[2] > 1:
            planes = image.reshape(image.shape[2], *image.shape[:2]).transpose(1, 2, 0)
            roughness += [_roughness(image), _roughness(planes)]
    if roughness[1] < _SMOOTHER * roughness[0]:
        raise UserError(
            f"{name!r}: the raw pixels are probably stored plane by plane (channels, height, width). If they"
            " are read plane by plane, neighboring pixels are more alike than if they are read pixel by pixel. Pass"
            " --pixel_order=chw if the pixels are stored plane by plane, or --pixel_order=hwc if they are stored pixel"
            " by pixel."
        )
    return pixels


def _roughness(image: np.ndarray) -> float:
    """Return the mean difference of neighboring pixels in both directions; 0 if there are none."""
    steps = (np.diff(image.astype(np.int16), axis=axis) for axis in (0, 1))
    return float(sum(np.abs(step).mean() for step in steps if step.size))


def _shared(first: str, second: str) -> int:
    """Return how many characters two names have in common at their start."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second)))


def _chosen(flag: str, fitting: Sequence[str], known: Sequence[str], what: str, where: str, features: str) -> str:
    known_names = [name for name in known if name in fitting]
    if not known_names and len(fitting) != 1:
        problem = "several features hold" if fitting else "no feature holds"
        raise UserError(f"{where}: {problem} {what}. Pass the right feature as --{flag}. {features}")
    return known_names[0] if known_names else fitting[0]


def _mostly(check: Callable[[Feature], bool], column: Sequence[Feature]) -> bool:
    return 2 * sum(map(check, column)) > len(column)


def _is_image(feature: Feature) -> bool:
    if feature.type != "bytes" or len(feature.values) != 1:
        return False
    value = feature.values[0]
    return image_type(value) is not None or value.startswith(_OTHER_IMAGES) or value[_BRAND] == b"ftyp"


def _is_text(feature: Feature) -> bool:
    return feature.type == "bytes" and len(feature.values) == 1 and bool(feature.values[0])


def _is_name(feature: Feature) -> bool:
    """Return whether a value may be a class name. `forms.class_name` checks the encoding later."""
    return _is_text(feature) and not _is_image(feature) and len(feature.values[0]) <= _LONGEST_NAME


def _is_hot(feature: Feature, length: int) -> bool:
    values = feature.values
    if feature.type == "bytes" or len(values) != length or length < 2:
        return False
    return bool(np.count_nonzero(values) == np.count_nonzero(values == 1) == 1)


def _describe(column: Sequence[Feature]) -> str:
    first = column[0]
    kinds = Counter(image_type(f.values[0]) for f in column if _is_image(f))
    image = f", {kinds.most_common(1)[0][0] or 'an image'}" if kinds else ""
    lengths = sorted({len(feature.values) for feature in column})
    span = f"{lengths[0]:,}" if len(lengths) == 1 else f"{lengths[0]:,}..{lengths[-1]:,}"
    return f"{span} {first.type}{image}"
