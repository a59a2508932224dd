"""Find the files of a source that consists of large files of one kind, such as Parquet or tar files.

The source may be a file, a directory, a pattern such as `data/train-*.parquet` or `train-{000000..000012}.tar`, or the
URL of one of these.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

from tfrecord_tools.base import files, words
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.layout.split_names import split_named
from tfrecord_tools.sources import arrange, object_store
from tfrecord_tools.sources.base import ReadError, is_litter

_PROBED_ENTRIES = 100
_SHARD = re.compile(r"[-_.]?(\d+)[-_.]of[-_.](\d+)$", re.IGNORECASE)  # train-00000-of-00002
_ENDING = re.compile(r"\.\w+$")
_SHOWN = 3  # Maximum number of names in a note.
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPECIAL = re.compile(r"[*?\[{]")
_SPECIAL_IN_URL = re.compile(r"[*{]")


@dataclasses.dataclass(frozen=True)
class FileSet:
    """Files of one kind.

    Attributes:
        src: The source, for messages.
        kind: Name of the kind of the files, for messages.
        root: A directory or a URL. "": the working directory.
        files: Paths relative to `root`, sorted, with `/` as separator.
        others: Paths of files of the same kind without labeled images.
        unreadable: Path of a file of the same kind -> why it cannot be read.
        whole: Whether `src` is a directory, so that all files of a dataset should be there.
    """

    src: str
    kind: str
    root: str
    files: tuple[str, ...]
    others: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    whole: bool = False

    @property
    def paths(self) -> list[str]:
        """The paths or the URLs of the files."""
        return [self.path(file) for file in self.files]

    def path(self, file: str) -> str:
        """Return the path or the URL of a file."""
        return os.path.join(self.root, file)

    def to_read(self, patterns: Sequence[str]) -> tuple[FileSet, list[str]]:
        """Leave out the files that match a pattern of --exclude, and those without labeled images.

        Returns:
            The files to read, and notes about the others.

        Raises:
            UserError: A pattern matches nothing, all files match, or a file cannot be read.
        """
        names: Sequence[str] = sorted([*self.files, *self.others, *self.unreadable])
        notes = _missing(names) if self.whole else []
        if patterns:
            names, excluded = arrange.without_files(names, patterns, self.src)
            notes += excluded
        left = set(names)
        rest = tuple(file for file in self.files if file in left)
        if not rest:
            raise UserError(
                f"--exclude={patterns[0]}: no {self.kind} file of images in {self.src} is left. Remove a pattern."
            )
        if broken := [file for file in self.unreadable if file in left]:
            raise UserError(
                f"--src={self.src}: {broken[0]} cannot be read as a {self.kind} file: {self.unreadable[broken[0]]}."
                f" Repair the file, or leave it out with --exclude={broken[0]}."
            )
        if others := [file for file in self.others if file in left]:
            notes.append(
                f"{words.number(len(others), 'file is', 'files are')} left out, since no images with labels were found"
                f" in {named(others, _SHOWN)}"
            )
        return dataclasses.replace(self, files=rest, others=(), unreadable={}), notes

    def splits(self) -> tuple[FileSet, list[str] | None, list[str]]:
        """Find the splits in the names of the files.

        Returns:
            The files to read, the split of each (None: unknown), and a note on the other files.
        """
        splits = {file: split_of(self.path(file)) for file in self.files}
        if len({split for split in splits.values() if split}) < 2:
            return self, None, []
        used = tuple(file for file in self.files if splits[file])
        others = [os.path.basename(file) for file in self.files if not splits[file]]
        notes = (
            [f"{len(others):,} files are left out, since their names do not contain a split: {named(others, _SHOWN)}"]
            if others
            else []
        )
        return dataclasses.replace(self, files=used), [split for file in used if (split := splits[file])], notes


def _missing(names: Iterable[str]) -> list[str]:
    """Return a note for each set of files, such as train-00000-of-00002, that is not complete."""
    found: dict[str, set[int]] = {}
    totals = {}
    for name in names:
        stem, ending = os.path.splitext(name)
        if shard := _SHARD.search(stem):
            pattern = f"{stem[: shard.start(1)]}*{stem[shard.end(1) :]}{ending}"
            found.setdefault(pattern, set()).add(int(shard[1]))
            totals[pattern] = int(shard[2])
    return [
        f"only {len(numbers):,} of {totals[pattern]:,} files {pattern} are there"
        for pattern, numbers in found.items()
        if len(numbers) < totals[pattern]
    ]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of files that contain images.

    Attributes:
        name: Name in messages, such as "Parquet".
        ending: Ending of the files, such as `.parquet`.
        has_images: Whether the file at a path or a URL contains images. Raises ReadError if it cannot be read.
    """

    name: str
    ending: str
    has_images: Callable[[str], bool]

    def named(self, path: str) -> bool:
        """Whether the name of a file has the ending of this kind."""
        return path.lower().endswith(self.ending)

    def seems_to_have_images(self, path: str) -> bool:
        """Whether a file can be read and contains images."""
        try:
            return self.has_images(path)
        except ReadError:
            return False


def find(src: str, kind: Kind, objects: Sequence[str] | None = None) -> FileSet | None:
    """Find the files of one kind.

    A directory must contain either such files, or subdirectories with such files, not both.

    Args:
        src: A file, a directory, a pattern, or a URL of one of these.
        kind: The kind of the files.
        objects: Paths of all objects below `src`, if `src` is the URL of a directory.

    Returns:
        The files. None: the source is of another kind.

    Raises:
        UserError: The files are in several directories that are not splits, or no file matches the pattern.
    """
    whole = False
    if is_pattern(src):
        root, found = root_of(src), []
        if kind.named(src) or not _ENDING.search(src):  # Matching may list a bucket, so other endings are skipped.
            found = [path for path in _matching(src) if kind.named(path)]
    elif objects is not None:
        root, whole = src.rstrip("/"), True
        found = [f"{root}/{path}" for path in _below("", kind, _Objects(objects), src)]
    elif files.is_url(src) or os.path.isfile(src):
        root, found = os.path.dirname(src), [src] if kind.named(src) else []
    else:
        root, found, whole = src, _below(src, kind, _Disk(), src), True
    with_images, others, unreadable = list[str](), list[str](), dict[str, str]()
    for path in found:
        name = _relative(path, root)
        try:
            (with_images if kind.has_images(path) else others).append(name)
        except ReadError as error:
            unreadable[name] = str(error)
    return FileSet(src, kind.name, root, tuple(with_images), tuple(others), unreadable, whole) if with_images else None


def _relative(path: str, root: str) -> str:
    if files.is_url(path):
        return path.removeprefix(f"{root}/")
    return os.path.relpath(path, root or ".").replace(os.sep, "/")


# --- Directories ------------------------------------------------------------------------------------------------------


class _Disk:
    """Directories on a disk."""

    def entries(self, directory: str, kind: Kind) -> tuple[list[str], list[str]]:
        """Return the paths of the files of the kind and of the directories in a directory."""
        found, directories = [], []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if is_litter(entry.name):
                        continue
                    if kind.named(entry.name):
                        found.append(entry.path)
                    elif _is_directory(entry):
                        directories.append(entry.path)
        except OSError:
            return [], []
        return sorted(found), sorted(directories)

    def begins_with(self, directory: str, kind: Kind) -> bool:
        """Whether one of the first entries is a file of the kind. The rest may be millions of images."""
        try:
            with os.scandir(directory) as entries:
                return any(kind.named(entry.name) for entry in itertools.islice(entries, _PROBED_ENTRIES))
        except OSError:
            return False


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself.
        return False


class _Objects:
    """Directories in the paths of objects that are already listed."""

    def __init__(self, paths: Sequence[str]):
        self._paths = paths

    def entries(self, directory: str, kind: Kind) -> tuple[list[str], list[str]]:
        """Return the paths of the files of the kind and of the directories in a directory."""
        start = f"{directory}/" if directory else ""
        rests = [path.removeprefix(start) for path in self._paths if path.startswith(start)]
        directories = {rest.partition("/")[0] for rest in rests if "/" in rest}
        found = [rest for rest in rests if "/" not in rest and kind.named(rest)]
        return [f"{start}{name}" for name in sorted(found)], [f"{start}{name}" for name in sorted(directories)]

    def begins_with(self, directory: str, kind: Kind) -> bool:
        """Whether the directory contains a file of the kind."""
        return bool(self.entries(directory, kind)[0])


def _below(directory: str, kind: Kind, place: _Disk | _Objects, src: str) -> list[str]:
    """Return the paths of the files of the kind in a directory or in its subdirectories.

    Raises:
        UserError: The files are in several directories that are not splits.
    """
    found, directories = place.entries(directory, kind)
    if found:
        return [] if directories else found
    inner: dict[str, list[str]] = {}
    for path in directories:
        if not place.begins_with(path, kind):
            return _below(path, kind, place, src) if len(directories) == 1 else []
        inner[path] = place.entries(path, kind)[0]
    with_images = [path for paths in inner.values() for path in paths]
    several = len(inner) > 1 and not all(split_named(os.path.basename(path)) for path in inner)
    if several and any(map(kind.seems_to_have_images, with_images)):
        raise UserError(
            f"--src={src}: {kind.name} files with images are in several directories, for example {directories[0]} and"
            f" {directories[1]}. Pass one of them as --src."
        )
    return with_images


# --- Patterns ---------------------------------------------------------------------------------------------------------


def is_pattern(src: str) -> bool:
    """Whether a source is a pattern of several files."""
    if files.is_url(src):
        return _SPECIAL_IN_URL.search(src) is not None
    return _SPECIAL.search(src) is not None and not os.path.exists(src)


def root_of(pattern: str) -> str:
    """Return the directory or URL that is in front of the first special character of a pattern."""
    special = (_SPECIAL_IN_URL if files.is_url(pattern) else _SPECIAL).search(pattern)
    return os.path.dirname(pattern[: special.start()] if special else pattern)


def check_matches(pattern: str) -> None:
    """Raise a UserError if no file matches a pattern."""
    _matching(pattern)


def refuse(pattern: str) -> NoReturn:
    """Raise a UserError about a pattern without files of a known kind."""
    first = _matching(pattern)[0]
    raise UserError(
        f"--src={pattern}: the files that match are neither Parquet files of images nor tar files of webdataset, for"
        f" example {first}. Pass the directory of the files instead of a pattern."
    )


def _matching(pattern: str) -> list[str]:
    """Return the sorted paths of the files that match a pattern.

    Raises:
        UserError: There is no such file, or a file in a range such as {000..012} is missing.
    """
    found: dict[str, None] = {}
    for part in expanded(pattern):
        if files.is_url(part):
            matches = sorted(object_store.matching(part, root_of(pattern)))
        else:
            matches = sorted(filter(os.path.isfile, glob.glob(part, recursive=True)))
        if not matches:
            missing = "" if part == pattern else f" ({part} is missing)"
            raise UserError(
                f"--src={pattern}: no file matches{missing}. Pass the path of a file, of a directory, or a pattern such"
                " as 'data/train-*.parquet' or 'train-{000000..000012}.tar', in quotes."
            )
        found |= dict.fromkeys(matches)
    return sorted(found)


def expanded(pattern: str) -> Iterator[str]:
    """Yield the patterns without braces for a pattern with `{a,b}` or ranges such as `{000..012}`."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    for choice in _choices(braces[1]):
        yield from expanded(f"{pattern[: braces.start()]}{choice}{pattern[braces.end() :]}")


def _choices(text: str) -> Iterable[str]:
    if numbers := _RANGE.fullmatch(text):
        first, last = int(numbers[1]), int(numbers[2])
        width = len(numbers[1]) if numbers[1].startswith("0") or numbers[2].startswith("0") else 0
        return (f"{number:0{width}d}" for number in range(first, last + 1))
    return text.split(",")


# --- Splits -----------------------------------------------------------------------------------------------------------


def split_of(path: str) -> str | None:
    """Return the split in the name of a file. If it has none, return that of its directory, or None."""
    stem = _SHARD.sub("", os.path.splitext(os.path.basename(path))[0])
    words = {split_named(word) for word in [stem, *re.split(r"[-_.]", stem)]} - {None}
    return words.pop() if len(words) == 1 else split_named(os.path.basename(os.path.dirname(path)))
