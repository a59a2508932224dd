"""Match the classes of data with the classes of a model, by name or with --class_map."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tfrecord_tools.base import options, words
from tfrecord_tools.errors import UserError, named

LEFT_OUT = -1  # Label of images that are left out.
_NAMED = 10  # A message lists at most this number of classes.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassMatch:
    """The classes of data, as labels of a model.

    Attributes:
        labels_of: i64[classes of the data], label of the model, or `LEFT_OUT`.
        left_out: Class of the data -> number of its images, which are left out.
        absent: Classes of the model without images.
        class_count: Number of classes of the model.
    """

    labels_of: np.ndarray
    left_out: Mapping[str, int]
    absent: tuple[str, ...]
    class_count: int

    def lines(self) -> Iterator[str]:
        """Yield lines for the user about images that are left out and classes without images."""
        for name, count in self.left_out.items():
            yield f"--class_map={name}=: {words.number(count, 'image is', 'images are')} left out"
        if self.absent:
            present = words.number(self.class_count - len(self.absent), "class", "classes")
            yield (
                f"classes of the model without images ({len(self.absent):,} of {self.class_count:,}):"
                f" {named(self.absent)}. Rates per class and their means use only the {present} with images"
            )


def match(
    wanted: Sequence[str], given: Sequence[str], counts: np.ndarray, class_map: Mapping[str, str], where: str
) -> ClassMatch:
    """Match the classes of data with the classes of a model.

    Args:
        wanted: Class names of the model.
        given: Class names of the data.
        counts: i64[given], number of images of each class. The model may lack a class without images.
        class_map: Class of the data -> class of the model, or "" to leave out its images. Other classes must have the
            same name in both.
        where: The flag of the data with its value, for messages.

    Raises:
        UserError: A name in `class_map` does not exist, the model lacks a class with images, or no image is left.
    """
    _check_map(wanted, given, class_map, where)
    label_of = {name: label for label, name in enumerate(wanted)} | {"": LEFT_OUT}
    targets = [class_map.get(name, name) for name in given]
    images = dict(zip(given, counts.tolist()))
    unknown = [name for name, target in zip(given, targets) if target not in label_of and images[name]]
    if unknown:
        raise UserError(_unknown(wanted, unknown, images, class_map, where))
    labels_of = np.array([label_of.get(target, LEFT_OUT) for target in targets], np.int64)
    kept = labels_of >= 0
    present = np.unique(labels_of[kept & (counts > 0)])
    if not len(present):
        raise UserError(
            f"{where}: no image is left, because --class_map leaves out all of them. Map at least one class of the"
            " data to a class of the model: --class_map=CLASS_OF_THE_DATA=CLASS_OF_THE_MODEL."
        )
    return ClassMatch(
        labels_of=labels_of,
        left_out={name: images[name] for name, target in class_map.items() if not target and images[name]},
        absent=tuple(name for label, name in enumerate(wanted) if label not in present),
        class_count=len(wanted),
    )


def expected(wanted: Sequence[str], class_map: Mapping[str, str]) -> list[str]:
    """Return the class names that the data may have.

    They are the classes of the data in the map, and the classes of the model that are not in the map.
    """
    return [*class_map, *(name for name in wanted if name not in class_map.values() and name not in class_map)]


def _check_map(wanted: Sequence[str], given: Sequence[str], class_map: Mapping[str, str], where: str) -> None:
    flag = as_flag(class_map)
    for name, target in class_map.items():
        if name not in given:
            raise UserError(
                f"{flag}: {name!r} is not a class of {where}. The classes of the data are"
                f" {named(given, _NAMED)}.{_did_you_mean(name, given)} Write CLASS_OF_THE_DATA=CLASS_OF_THE_MODEL."
            )
        if target and target not in wanted:
            raise UserError(
                f"{flag}: {target!r} is not a class of the model. The classes of the model are {named(wanted, _NAMED)}."
                f"{_did_you_mean(target, wanted)} Write CLASS_OF_THE_DATA=CLASS_OF_THE_MODEL."
            )


def _unknown(
    wanted: Sequence[str], unknown: Sequence[str], images: Mapping[str, int], class_map: Mapping[str, str], where: str
) -> str:
    """Return the message about classes that the model does not have, with a flag to copy."""
    alike = {name: _alike(name, wanted) for name in unknown}
    suggestion = as_flag({**class_map, **{name: target or "" for name, target in alike.items()}})
    shown = named([f"{name} ({words.number(images[name], 'image')})" for name in unknown], _NAMED)
    others = [name for name, target in alike.items() if not target]
    message = f"{where}: the model has no class {shown}. The classes of the model are {named(wanted, _NAMED)}."
    if not others:
        return f"{message} If the names mean the same classes, pass {suggestion}."
    if all(name in others or class_map.get(name) == "" for name, count in images.items() if count):
        return (
            f"{message} Pass images of the model's classes. If the model has one of the other classes under another"
            " name, pass --class_map=CLASS_OF_THE_DATA=CLASS_OF_THE_MODEL."
        )
    return (
        f"{message} To leave out the images of {named(others, _NAMED)}, pass {suggestion}. To count them as a class of"
        " the model, write the name of that class after the =."
    )


def as_flag(class_map: Mapping[str, str]) -> str:
    """Return a class map as a flag, quoted for a shell."""
    return f"--class_map={shlex.quote(options.pairs_text(class_map, '='))}"


def _alike(name: str, wanted: Sequence[str]) -> str | None:
    """Return the class that equals a name, apart from capital letters, spaces, signs and plural endings.

    None: there is no such class.
    """
    return next((other for other in wanted if _forms(name) & _forms(other)), None)


def _forms(name: str) -> set[str]:
    """Return a name in lower case without spaces and signs, and what may be its singular."""
    plain = "".join(letter for letter in name.casefold() if letter.isalnum())
    endings = {"ies": "y", "es": "", "s": ""}
    singular = {plain.removesuffix(ending) + end for ending, end in endings.items() if plain.endswith(ending)}
    return ({plain} | singular) - {""} or {name}


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    return f" Did you mean {near[0]}?" if near else ""
