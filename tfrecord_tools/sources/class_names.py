"""Make the list of class names of a source: unify their spelling, sort and check them."""

from __future__ import annotations

import difflib
import os
import shlex
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tfrecord_tools.errors import UserError, named
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.sources import arrange
from tfrecord_tools.sources.base import Listing, is_utf8, printable
from tfrecord_tools.sources.folder_rules import EXAMPLES, NO_CLASS

_NAMES_SHOWN = 10  # Maximum number of class names in a message.


def same_spelling(labels: Sequence[str | None], splits: Sequence[int]) -> tuple[Sequence[str | None], list[str]]:
    """Give every class one spelling.

    Names are stored in Unicode's form NFC. Names that differ only by capital letters are one class if every split uses
    only one of them. The spelling of the first split is used.

    Args:
        labels: Class name of each file. None: the file is not used.
        splits: Split of each file, an index into `SPLITS` or `TO_BE_SPLIT`.

    Returns:
        The labels, and a note if classes have several spellings.
    """
    splits_of: dict[str, set[int]] = {}
    for label, split in {*zip(labels, splits)}:
        if label is not None:
            splits_of.setdefault(label, set()).add(split)
    spelling = {label: unicodedata.normalize("NFC", label) for label in splits_of}
    splits_of_name: dict[str, set[int]] = {}
    for label, name in spelling.items():
        splits_of_name.setdefault(name, set()).update(splits_of[label])
    spellings: dict[str, list[str]] = {}
    for name in sorted(splits_of_name, key=lambda name: (min(splits_of_name[name]), name)):
        spellings.setdefault(name.casefold(), []).append(name)
    merged = []
    for names in spellings.values():
        all_splits = [split for name in names for split in splits_of_name[name]]
        if len(names) > 1 and len(all_splits) == len(set(all_splits)):
            merged.append(names)
    first = {name: names[0] for names in merged for name in names}
    spelling = {label: first.get(name, name) for label, name in spelling.items()}
    notes = _notes_on_spelling(merged)
    if all(label == name for label, name in spelling.items()):
        return labels, notes
    return [None if label is None else sys.intern(spelling[label]) for label in labels], notes


def _notes_on_spelling(merged: Sequence[Sequence[str]]) -> list[str]:
    """Return a note on classes with several spellings. The first spelling of each is used."""
    if not merged:
        return []
    texts = [" and ".join(names) for names in merged]
    if len(merged) == 1:
        return [f"{texts[0]} are read as one class, {merged[0][0]}, because the names differ only by capital letters"]
    return [
        f"{len(merged):,} classes have names that differ only by capital letters. Each is read as one class with the"
        f" first of its names: {named(texts)}"
    ]


def class_table(
    counts: Counter[str],
    wanted: Sequence[str] | None,
    src: str,
    rejected: Sequence[Rejected],
    listing: Listing,
    may_be_empty: Collection[str] = (),
    least: int = 2,
) -> tuple[str, ...]:
    """Return the class names in label order.

    Args:
        counts: Class name -> number of files.
        wanted: The names in --classes, in label order. None: all names, sorted.
        src: The source, for messages.
        rejected: The rejected files, for messages.
        listing: The files of the source. Error messages name tables among them, since a table may contain the labels.
        may_be_empty: Classes in `wanted` that need no file.
        least: Minimum number of classes.

    Raises:
        UserError: There are no images, too few classes, or names that cannot be stored.
    """
    if not counts:
        raise UserError(f"--src={src}: {_why_no_images(rejected, _table_hint(src, arrange.tables_beside(listing)))}")
    names = tuple(sorted(counts, key=_by_number_or_name(counts)) if wanted is None else wanted)
    for name in names:
        _check_name(src, name)
        if name not in counts and name not in may_be_empty:
            near = difflib.get_close_matches(name, counts, n=3) or sorted(counts)[:_NAMES_SHOWN]
            raise UserError(
                f"--classes: {src} has no files of the class {name!r}. Classes with files are, for example,"
                f" {', '.join(near)}. Correct the name, or remove it from --classes."
            )
    _check_distinct(names)
    if len(names) < least:
        inner = os.path.join(src, names[0])
        message = f"--src={src}: there is only one class, {names[0]!r}. A classifier needs at least two."
        if os.path.isdir(inner):
            message += f" Expected {EXAMPLES}. Did you mean --src={inner}, or a directory above {src}?"
        tables = arrange.tables_beside(listing)
        raise UserError(f"{message} {_table_hint(src, tables)}" if tables else message)
    return names


def is_storable(name: str) -> bool:
    """Whether a class name is not empty, has no space at its ends, and has no control characters."""
    return bool(name) and name == name.strip() and not any(unicodedata.category(c) == "Cc" for c in name)


def _why_no_images(rejected: Sequence[Rejected], hint: str) -> str:
    others = [file for file in rejected if file.reason != NO_CLASS]
    if others:
        first = others[0]
        return f"no usable images. {len(rejected):,} files cannot be used, for example {first.path}: {first.reason}."
    loose = ""
    if rejected:
        path = rejected[0].path
        loose = (
            f" The image {path} is not in a class directory."
            if len(rejected) == 1
            else f" {len(rejected):,} images are not in a class directory, for example {path}."
        )
    return f"no images in class directories.{loose} Expected {EXAMPLES}. {hint}"


def _table_hint(src: str, tables: Sequence[str]) -> str:
    if tables:
        flag = f"--manifest={shlex.quote(os.path.join(src, tables[0]))}"
        return f"If {tables[0]} holds the labels, pass {flag}."
    return "If a table holds the labels, pass it as --manifest."


def _by_number_or_name(names: Counter[str]) -> Callable[[str], Any]:
    """Return a sort key. If all names are numbers, they are sorted as numbers: 9 before 10."""
    if all(name.isascii() and name.isdigit() for name in names):
        return lambda name: (int(name), name)
    return str


def _check_name(src: str, name: str) -> None:
    if not is_utf8(name):
        raise UserError(
            f"{src}: the class name {printable(name)!r} is not valid UTF-8. Rename the class, or leave the class out"
            " with --exclude."
        )
    if not is_storable(name):
        raise UserError(
            f"{src}: TensorFlow Datasets cannot store the class name {name!r}. A class name must have at least one"
            " character, no space at its beginning or end, and no control characters. Rename the directory, leave it"
            " out with --exclude, or pass a table of the labels as --manifest."
        )


def _check_distinct(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.get(name.casefold())) is not None:
            problem = (
                "is listed twice in --classes" if other == name else f"differs from {other!r} only by capital letters"
            )
            raise UserError(
                f"the class name {name!r} {problem}. Class names must be unique. Leave one class out with --exclude, or"
                " pass a table of the labels as --manifest."
            )
        seen[name.casefold()] = name
