"""Build the class table of third-party records: find the class of each stored label."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tfrecord_tools.errors import UserError, named
from tfrecord_tools.foreign import forms, guess_keys
from tfrecord_tools.foreign.forms import Form, Label
from tfrecord_tools.sources import class_names
from tfrecord_tools.sources.base import is_utf8, printable

_MOST_CLASSES = 100_000  # Maximum number of classes. A larger number in a record cannot be a label.
# A note about too many classes appears only above this number, because small datasets may have nearly as many classes
# as records.
_MANY_CLASSES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes:
    """The class table.

    Attributes:
        names: The class names. A final label is an index into it.
        labels: Label in the records -> index into `names`.
        offset: The stored label of the first class; 0 if stored labels are not numbers.
        notes: Notes for the user about the classes.
    """

    names: tuple[str, ...]
    labels: Mapping[Label, int]
    offset: int = 0
    notes: tuple[str, ...] = ()


def table(
    counts: Counter[Label],
    texts: Mapping[Label, str],
    form: Form,
    given: Sequence[str] | None,
    offset: int | None,
    where: Callable[[Label], str],
) -> Classes:
    """Build the class table from the stored labels.

    Args:
        counts: Stored label -> number of records; not empty.
        texts: Stored label -> class name in the records, if the records hold class names.
        form: How labels are stored.
        given: The class names in label order, as the user gave them. None: they are found from the records.
        offset: The stored label of the first class, as the user gave it. None: it is guessed.
        where: Maps a label to a text for messages: a file with this label and the number of records.

    Returns:
        The class table.

    Raises:
        UserError: A label does not belong to any class, a name cannot be stored, or two classes have the same name.
    """
    given = None if given is None else [_normal(name) for name in given]
    repeated = [name for name, times in Counter(given or ()).items() if times > 1]
    if repeated:
        raise UserError(
            f"the class name {repeated[0]!r} is given twice. Class names must be unique. Correct them with --classes."
        )
    if form.label == forms.TEXT:
        names = {str(label): count for label, count in counts.items()}
        classes = _from_texts(names, form) if given is None else _from_given_names(names, form, given)
    else:
        classes = _from_numbers(counts, texts, form, given, offset, where)
    return dataclasses.replace(classes, notes=(*classes.notes, *_notes(classes, counts, form)))


def _normal(name: str) -> str:
    """Return a class name as `convert` stores it, because decisions and flags name classes in this form.

    Raises:
        UserError: The name cannot be stored.
    """
    normal = unicodedata.normalize("NFC", name).strip()
    if not is_utf8(normal) or not class_names.is_storable(normal):
        raise UserError(
            f"TensorFlow Datasets cannot store the class name {printable(normal)!r}. A class name must have at least"
            " one character, no control characters, and only valid UTF-8. Correct the names with --classes."
        )
    return normal


def _from_texts(counts: Mapping[str, int], form: Form) -> Classes:
    """Return the classes of text labels: the sorted texts."""
    if len(counts) > _MOST_CLASSES:
        raise UserError(
            f"{form.keys.label!r} holds {len(counts):,} different texts, but there can be at most {_MOST_CLASSES:,}"
            " classes. Pass the feature (field) that holds the class as --label_key."
        )
    seen: dict[str, str] = {}
    for name in sorted(counts):
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(
                f"the classes {other!r} and {name!r} in {form.keys.label!r} differ only in upper and lower case. Pass"
                f" the names of all classes with --classes. To merge these two, list only {other!r}. To keep two"
                " classes, list both names."
            )
    names = tuple(sorted(counts, key=int if all(n.isascii() and n.isdigit() for n in counts) else None))
    return Classes(names=names, labels=dict(zip(names, range(len(names)))))


def _from_given_names(counts: Mapping[str, int], form: Form, given: Sequence[str]) -> Classes:
    """Return the classes of text labels that equal the given names, exactly or except for case."""
    exact = {name: label for label, name in enumerate(given)}
    any_case = {name.casefold(): label for name, label in reversed(exact.items())}
    labels: dict[Label, int] = {name: exact.get(name, any_case.get(name.casefold(), -1)) for name in counts}
    unknown = sorted(name for name in counts if labels[name] < 0)
    if unknown:
        raise UserError(
            f"--classes={named(given)}: {len(unknown):,} texts in {form.keys.label!r} are not in this list:"
            f" {named(list(map(repr, unknown)))}. List all classes, or remove --classes."
        )
    differing = {name: given[label] for name, label in zip(counts, labels.values()) if given[label] != name}
    return Classes(names=tuple(given), labels=labels, notes=_notes_on_case(counts, differing))


def _notes_on_case(counts: Mapping[str, int], differing: Mapping[str, str]) -> tuple[str, ...]:
    """Return a note on texts that differ from their class only in upper and lower case: text -> class."""
    if not differing:
        return ()
    records = sum(counts[name] for name in differing)
    if len(differing) == 1:
        ((name, belongs),) = differing.items()
        return (f"{records:,} records labeled {name!r} belong to the class {belongs!r}",)
    pairs = [f"{name!r} to {belongs!r}" for name, belongs in differing.items()]
    return (
        f"{records:,} records have labels that differ from their class only in upper and lower case: {named(pairs)}",
    )


def _from_numbers(
    counts: Counter[Label],
    texts: Mapping[Label, str],
    form: Form,
    given: Sequence[str] | None,
    offset: int | None,
    where: Callable[[Label], str],
) -> Classes:
    """Return the classes of labels that are numbers. A one-hot label is the position of its 1."""
    numbers = sorted(label for label in counts if not isinstance(label, str))
    named_numbers = {label: name for label, name in texts.items() if not isinstance(label, str)}
    if form.label == forms.ONE_HOT:
        offset = 0
        if given is None:
            given = guess_keys.class_names(range(form.length), named_numbers, 0)
        elif len(given) != form.length:
            raise UserError(
                f"{form.keys.label!r} has {form.length:,} values (one-hot), but {len(given):,} class names are given."
                f" Pass {form.length:,} names with --classes."
            )
    elif offset is None:
        offset = guess_keys.label_offset(numbers, None if given is None else len(given))
    end = offset + (len(given) if given is not None else _MOST_CLASSES)
    outside = [label for label in numbers if not offset <= label < end]
    if outside:
        most = f"at most {_MOST_CLASSES:,} classes" if given is None else f"{len(given):,} classes"
        raise UserError(
            f"{where(outside[0])} with label {outside[0]:,} in {form.keys.label!r}. This label is out of range: with"
            f" {most} and the first label {offset}, labels must be from {offset} to {end - 1:,}. Pass another"
            " --label_offset (the label of the first class), --classes or --label_key."
        )
    names = tuple(given) if given is not None else guess_keys.class_names(numbers, named_numbers, offset)
    return Classes(names=names, labels={label: label - offset for label in numbers}, offset=offset)


def _notes(classes: Classes, counts: Counter[Label], form: Form) -> list[str]:
    used = set(classes.labels.values())
    empty = [name for label, name in enumerate(classes.names) if label not in used]
    notes = [f"{len(empty):,} of {len(classes.names):,} classes have no record: {named(empty)}"] if empty else []
    if len(used) > _MANY_CLASSES and 2 * len(used) > counts.total():
        numbers = f"{len(used):,} classes for {counts.total():,} records"
        notes.append(
            f"{numbers}: if {form.keys.label!r} is not the label, pass the feature (field) that holds the label as"
            " --label_key"
        )
    return notes
