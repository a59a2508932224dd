"""The class table of third-party records: which stored label is which class."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tfrecord_tools.errors import UserError, named
from tfrecord_tools.foreign import forms, guess_keys
from tfrecord_tools.foreign.forms import Form, Label

_MOST_CLASSES = 100_000  # A number above is no label.
_MANY_CLASSES = 20  # With fewer, a class per record may be meant.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes:
    """The class table.

    Attributes:
        names: A final label is an index into it.
        labels: Stored label -> final label.
        offset: The stored number that stands for the first class; 0 where labels are no numbers.
        notes: What the user should know about the classes.
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
    """Decide on the classes.

    Args:
        counts: Stored label -> records; not empty.
        texts: Stored label -> the class name in the records, if they hold one.
        form: How labels are stored.
        given: Class names in the order of the labels, if they are known.
        offset: The stored number that stands for the first class, if the user named it.
        where: Returns a file that holds records with a label, and how many.

    Raises:
        UserError: A label is none of the classes, or two classes cannot be told apart.
    """
    twice = [name for name, times in Counter(given or ()).items() if times > 1]
    if twice:
        raise UserError(f"the class name {twice[0]!r} is given twice. Tell the classes apart, with --classes.")
    if form.label == forms.TEXT:
        names = {str(label): count for label, count in counts.items()}
        found = _of_names(names, form) if given is None else _of_given_names(names, form, given)
    else:
        found = _of_numbers(counts, texts, form, given, offset, where)
    return dataclasses.replace(found, notes=(*found.notes, *_notes(found, counts, form)))


def _of_names(counts: Mapping[str, int], form: Form) -> Classes:
    """Text labels: the classes are their names, sorted."""
    if len(counts) > _MOST_CLASSES:
        raise UserError(
            f"{form.keys.label!r} holds {len(counts):,} different texts; {_MOST_CLASSES:,} classes at most are read."
            " Name the feature of the class with --label_key."
        )
    seen: dict[str, str] = {}
    for name in sorted(counts):
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(
                f"the classes {other!r} and {name!r} in {form.keys.label!r} differ only by case. Pass --classes with"
                f" the names of all classes: with {other!r} alone both are one class, with both names they are two."
            )
    names = tuple(sorted(counts, key=int if all(n.isascii() and n.isdigit() for n in counts) else None))
    return Classes(names=names, labels=dict(zip(names, range(len(names)))))


def _of_given_names(counts: Mapping[str, int], form: Form, given: Sequence[str]) -> Classes:
    """Text labels, and the names of the classes: exactly so, or in another case."""
    exact = {name: label for label, name in enumerate(given)}
    any_case = {name.casefold(): label for name, label in reversed(exact.items())}
    labels: dict[Label, int] = {name: exact.get(name, any_case.get(name.casefold(), -1)) for name in counts}
    unknown = sorted(name for name in counts if labels[name] < 0)
    if unknown:
        raise UserError(
            f"--classes={named(given)}: {len(unknown):,} texts in {form.keys.label!r} are none of these classes:"
            f" {named(list(map(repr, unknown)))}. Name all classes, or remove the flag."
        )
    notes = tuple(
        f"{counts[name]:,} records labeled {name!r} belong to the class {given[label]!r}"
        for name, label in zip(counts, labels.values())
        if given[label] != name
    )
    return Classes(names=tuple(given), labels=labels, notes=notes)


def _of_numbers(
    counts: Counter[Label],
    texts: Mapping[Label, str],
    form: Form,
    given: Sequence[str] | None,
    offset: int | None,
    where: Callable[[Label], str],
) -> Classes:
    """Labels that are numbers, positions of a one-hot label among them."""
    numbers = sorted(label for label in counts if not isinstance(label, str))
    named_numbers = {label: name for label, name in texts.items() if not isinstance(label, str)}
    if form.label == forms.ONE_HOT:
        offset = 0
        if given is None:
            given = guess_keys.class_names(range(form.length), named_numbers, 0)
        elif len(given) != form.length:
            raise UserError(
                f"{form.keys.label!r} has {form.length:,} values (one-hot), and {len(given):,} class names are given."
                " Pass as many --classes as values."
            )
    elif offset is None:
        offset = guess_keys.label_offset(numbers, None if given is None else len(given))
    end = offset + (len(given) if given is not None else _MOST_CLASSES)
    outside = [label for label in numbers if not offset <= label < end]
    if outside:
        what = f"{_MOST_CLASSES:,} classes at most" if given is None else f"{len(given):,} classes"
        raise UserError(
            f"{where(outside[0])} with label {outside[0]:,} in {form.keys.label!r}; of {what}, counted from"
            f" {offset}, {offset} to {end - 1:,} are expected. Pass another --label_offset (the label of the first"
            " class), --classes or --label_key."
        )
    names = tuple(given) if given is not None else guess_keys.class_names(numbers, named_numbers, offset)
    return Classes(names=names, labels={label: label - offset for label in numbers}, offset=offset)


def _notes(found: Classes, counts: Counter[Label], form: Form) -> list[str]:
    used = set(found.labels.values())
    empty = [name for label, name in enumerate(found.names) if label not in used]
    notes = [f"{len(empty):,} of {len(found.names):,} classes have no record: {named(empty)}"] if empty else []
    if len(used) > _MANY_CLASSES and 2 * len(used) > counts.total():
        what = f"{len(used):,} classes for {counts.total():,} records"
        notes.append(f"{what}: if {form.keys.label!r} is not the label, --label_key names it")
    return notes
