"""What TFRecords of others hold where, guessed from the names that are in use; every guess is there to be told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tfrecord_tools.errors import UserError
from tfrecord_tools.examples import Feature, image_type
from tfrecord_tools.schema import Keys
from tfrecord_tools.splits import split_named

# The first ones are of ImageNet's scripts (build_imagenet_data.py, the Model Garden), then come those of TensorFlow
# Datasets, then what is to be found on Kaggle.
IMAGE_KEYS = ("image/encoded", "image", "image_raw", "img", "jpeg", "encoded")
LABEL_KEYS = ("image/class/label", "label", "class", "target")
PATH_KEYS = ("image/filename", "filename", "file_name", "id", "image_name")
TEXT_KEYS = ("image/class/text", "class/text", "class_name", "label_name")
_WORDS = re.compile(r"[a-z]+")
_VERSION = re.compile(r"\d+\.\d+\.\d+$")  # The directory of a dataset of TensorFlow Datasets.


def keys(example: Mapping[str, Feature], image_key: str | None, label_key: str | None, where: str) -> Keys:
    """Finds the features that hold the image, the label and the path.

    Args:
        example: The first record.
        image_key: Where the user said it is.
        label_key: Likewise.
        where: Which record that is, for messages.

    Returns:
        With the label offset of 0: that is decided by all labels.

    Raises:
        UserError: There is none, or there are several and none of a known name.
    """
    images = [name for name, feature in example.items() if _is_image(feature)]
    labels = [name for name, feature in example.items() if feature.type == "int64" and len(feature.values) == 1]
    texts = [name for name, feature in example.items() if feature.type == "bytes" and len(feature.values) == 1]
    there = f"It has {', '.join(f'{name} ({_words(feature)})' for name, feature in example.items()) or 'no features'}."
    return Keys(
        image=_chosen("image_key", image_key, images, IMAGE_KEYS, "an encoded image", where, there),
        label=_chosen("label_key", label_key, labels, LABEL_KEYS, "one whole number, the label", where, there),
        path=next((name for name in PATH_KEYS if name in texts and example[name].values[0]), ""),
    )


def text_key(example: Mapping[str, Feature]) -> str:
    """The feature that holds the name of the class; "" if there is none."""
    texts = {name for name, feature in example.items() if feature.type == "bytes" and len(feature.values) == 1}
    return next((name for name in TEXT_KEYS if name in texts), "")


def splits(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Divides files by the split that is in the name of each, or else of its directory: all are of train if none is.

    Raises:
        UserError: Some are named by a split and others are not, or one by several.
    """
    found: dict[str | None, list[Path]] = {}
    for path in paths:
        found.setdefault(split_of(path), []).append(path)
    unnamed = found.pop(None, [])
    if unnamed and found:
        name, others = next(iter(found.items()))
        raise UserError(
            f"{unnamed[0]}: neither its name nor its directory's says which split it is of, while {others[0]} is of"
            f" {name}. Name them: --split=train='PATTERN' --split=validation='PATTERN'."
        )
    return {name: files for name, files in found.items() if name is not None} or {"train": unnamed}


def split_of(path: Path) -> str | None:
    """The split that is a word in a file's name, or else the name of its directory."""
    found = sorted({split for word in _WORDS.findall(path.name.lower()) if (split := split_named(word))})
    if len(found) > 1:
        raise UserError(
            f"{path}: its name says both {' and '.join(found)}. Name the files of each split:"
            " --split=train='PATTERN' --split=validation='PATTERN'."
        )
    return found[0] if found else split_named(path.resolve().parent.name)


def label_offset(labels: Collection[int], names: int | None) -> int:
    """The label of the first class: 1 where labels count from 1, as ImageNet's do, else 0.

    Args:
        labels: All that occur.
        names: How many classes are named; None: not known.
    """
    counts_from_1 = min(labels, default=0) == 1 and (names is None or max(labels) >= names)
    return int(counts_from_1)


def class_names(labels: Collection[int], texts: Mapping[int, str], offset: int) -> tuple[str, ...]:
    """Names for the classes `offset`..max: what the records say, each name once; else the labels themselves."""
    stored = range(offset, max(labels) + 1)
    named = [texts.get(label) or str(label) for label in stored]
    times = Counter(named)
    return tuple(f"{name} ({label})" if times[name] > 1 else name for name, label in zip(named, stored))


def dataset_name(path: Path) -> str:
    """The name of the directory of a file, of a dataset of TensorFlow Datasets that of the dataset."""
    directory = path.resolve().parent
    return (directory.parent if _VERSION.match(directory.name) else directory).name


def _chosen(
    flag: str, given: str | None, fitting: Sequence[str], known: Sequence[str], what: str, where: str, there: str
) -> str:
    if given is not None:
        if given not in fitting:
            raise UserError(f"--{flag}={given}: {where} has no such feature that holds {what}. {there}")
        return given
    of_known_name = [name for name in known if name in fitting]
    if not of_known_name and len(fitting) != 1:
        several = "several features hold" if fitting else "no feature holds"
        raise UserError(f"{where}: {several} {what}. Name it with --{flag}. {there}")
    return of_known_name[0] if of_known_name else fitting[0]


def _is_image(feature: Feature) -> bool:
    return feature.type == "bytes" and len(feature.values) == 1 and image_type(feature.values[0]) is not None


def _words(feature: Feature) -> str:
    image = f", {image_type(feature.values[0])}" if _is_image(feature) else ""
    return f"{len(feature.values):,} {feature.type or 'values'}{image}"
