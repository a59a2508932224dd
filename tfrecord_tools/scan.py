"""What is there: class directories, splits and files of a source directory, sorted, nothing opened."""

from __future__ import annotations

import dataclasses
import difflib
import os
import stat
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from tfrecord_tools.errors import UserError

SPLITS = ("train", "validation", "test")
SPLIT_DIRECTORIES = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
TO_BE_SPLIT = -1  # The split of a file whose side is not given by its directory.
LAYOUTS = "cat_dog_img/train/cats/1.jpg (split/class/image) or cat_dog_img/cats/1.jpg (class/image)"
IGNORED = frozenset({"thumbs.db", "__macosx"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejected:
    """A file that does not become a record."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """The files of a source directory, sorted by path. Columns run over files.

    Attributes:
        root: The source directory as given.
        class_names: A label is an index into it.
        paths: Relative to `root`, with `/`, valid UTF-8.
        labels: i32[n].
        splits: i8[n], an index into `SPLITS` or `TO_BE_SPLIT`.
        sizes: i64[n] in bytes.
        mtimes_ns: i64[n] in nanoseconds since the epoch.
        has_splits: Whether the top directories are the splits.
        rejected: What cannot be a record, known without opening it.
        left_out: Files in class directories that `classes` does not name, per directory name.
    """

    root: str
    class_names: tuple[str, ...]
    paths: Sequence[str]
    labels: np.ndarray
    splits: np.ndarray
    sizes: np.ndarray
    mtimes_ns: np.ndarray
    has_splits: bool
    rejected: tuple[Rejected, ...]
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.paths)


def scan(root: str | os.PathLike[str], classes: Sequence[str] | None = None) -> Sources:
    """Finds the files below `root/class` or `root/split/class`.

    Hidden files and directories, `Thumbs.db` and `__MACOSX` are passed over; links are followed.
    The top directories are taken as splits only if every one of them has a split's name.

    Args:
        root: The source directory.
        classes: Class names in the order of their labels; others are left out. Default: all, sorted.

    Raises:
        UserError: No such directory, no images, fewer than two classes, or names that cannot be kept.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        what = "is a file, not a directory" if os.path.exists(root) else "no such directory"
        raise UserError(f"--src={root}: {what}. Expected a directory such as {LAYOUTS}.")
    found = _Found(root, classes)
    split_directories = _split_directories(root)
    if split_directories:
        found.reject_files_in("")
    for top, split in split_directories.items() or {"": TO_BE_SPLIT}.items():
        found.add_split(top, split)
    counts = found.files_per_class()
    class_names = _class_names(root, counts, classes, found.rejected)
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = np.array([label_of.get(name, -1) for name in counts], np.int32)[found.classes]
    kept = np.flatnonzero(labels >= 0)
    return Sources(
        root=root,
        class_names=class_names,
        paths=[found.paths[i] for i in kept],
        labels=labels[kept],
        splits=np.array(found.splits, np.int8)[kept],
        sizes=np.array(found.sizes, np.int64)[kept],
        mtimes_ns=np.array(found.mtimes_ns, np.int64)[kept],
        has_splits=bool(split_directories),
        rejected=tuple(found.rejected),
        left_out={name: count for name, count in counts.items() if name not in label_of},
    )


class _Found:
    """The columns that fill up during the walk; compact, since there may be many millions of rows."""

    def __init__(self, root: str, wanted: Sequence[str] | None):
        self.root = root
        self.wanted = wanted
        self.paths: list[str] = []
        self.classes = array("i")  # Index into the class names in the order of their discovery.
        self.splits = array("b")
        self.sizes = array("q")
        self.mtimes_ns = array("q")
        self.rejected: list[Rejected] = []
        self._class_index: dict[str, int] = {}

    def files_per_class(self) -> dict[str, int]:
        """Class names in the order of `classes`' numbers, with the number of files of each."""
        counts = Counter(self.classes)
        return {name: counts[index] for name, index in self._class_index.items()}

    def reject_files_in(self, directory: str) -> None:
        """Rejects what lies beside the directories."""
        for entry in _entries(self.root, directory):
            if not os.path.isdir(entry.path):  # Not entry.is_dir(), which raises for a link to itself.
                self._reject(_join(directory, entry.name), "not inside a class directory")

    def add_split(self, top: str, split: int) -> None:
        """Takes every directory in `root/top` as a class."""
        self.reject_files_in(top)
        for entry in _entries(self.root, top):
            if os.path.isdir(entry.path):
                self._add_class(_join(top, entry.name), entry.name, split)

    def _add_class(self, directory: str, name: str, split: int) -> None:
        rejected_before = len(self.rejected)
        above = (self.root, os.path.join(self.root, os.path.dirname(directory)))  # A link to these mixes the classes.
        for path, status in self._walk(directory, frozenset(map(_identity, map(os.stat, above)))):
            if not _is_utf8(path):
                self._reject(path, "the name is not valid UTF-8: rename it")
                continue
            self.paths.append(path)
            self.classes.append(self._class_index.setdefault(name, len(self._class_index)))
            self.splits.append(split)
            self.sizes.append(status.st_size)
            self.mtimes_ns.append(status.st_mtime_ns)
        if self.wanted is not None and name not in self.wanted:
            del self.rejected[rejected_before:]  # Left out like the files that are sound.

    def _walk(self, directory: str, ancestors: frozenset[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
        """Yields (path, status) of the files below `directory`, in the order of the sorted names."""
        identity = _identity(os.stat(os.path.join(self.root, directory)))
        if identity in ancestors:
            self._reject(directory, "a link to a directory that contains it")
            return
        for entry in _entries(self.root, directory):
            path = _join(directory, entry.name)
            try:
                status = entry.stat()
            except OSError as error:  # A dangling or looping link.
                self._reject(path, f"cannot be followed: {error.strerror}")
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(path, ancestors | {identity})
            elif stat.S_ISREG(status.st_mode):
                yield path, status
            else:
                self._reject(path, "neither a file nor a directory")

    def _reject(self, path: str, reason: str) -> None:
        self.rejected.append(Rejected(path=_printable(path), reason=reason))


def _split_directories(root: str) -> dict[str, int]:
    """Maps top directories to indices into `SPLITS`; empty unless every top directory has a split's name."""
    tops = [entry.name for entry in _entries(root, "") if os.path.isdir(entry.path)]
    splits = [SPLIT_DIRECTORIES.get(top.lower()) for top in tops]
    named = {top: SPLITS.index(split) for top, split in zip(tops, splits) if split}
    if len(named) < len(tops):
        return {}
    for split in SPLITS:
        same = [top for top, number in named.items() if SPLITS[number] == split]
        if len(same) > 1:
            raise UserError(f"{root}: {' and '.join(same)} both mean the {split} split. Merge them or move one away.")
    return named


def _class_names(
    root: str, counts: dict[str, int], classes: Sequence[str] | None, rejected: Sequence[Rejected]
) -> tuple[str, ...]:
    """Returns the class table: `classes` if given, else the found names sorted; checked."""
    if not counts:
        loose = f" {len(rejected):,} loose files such as {rejected[0].path} belong to no class." if rejected else ""
        raise UserError(f"--src={root}: no image files in class directories.{loose} Expected {LAYOUTS}.")
    names = tuple(sorted(counts) if classes is None else classes)
    for name in names:
        _check_class_name(root, name)
        if name not in counts:
            near = difflib.get_close_matches(name, counts, n=3) or sorted(counts)[:10]
            raise UserError(
                f"--classes: {name!r} is no class directory with files in {root}; there is {', '.join(near)}."
            )
    _check_distinct(names)
    if len(names) < 2:
        inner = os.path.join(root, names[0])
        raise UserError(
            f"--src={root}: only one class, {names[0]!r}; a classifier has nothing to learn from one."
            f" Expected {LAYOUTS}. Did you mean --src={inner}, or a directory above?"
        )
    return names


def _check_class_name(root: str, name: str) -> None:
    if not _is_utf8(name):
        raise UserError(f"{root}: the class directory {_printable(name)!r} is not valid UTF-8. Rename it.")
    if name != name.strip() or any(unicodedata.category(c) == "Cc" for c in name):
        raise UserError(
            f"{root}: the class name {name!r} cannot be kept: TensorFlow Datasets strips spaces at its ends and splits"
            " it at line breaks. Rename the directory."
        )


def _check_distinct(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.get(name.casefold())) is not None:
            what = "stands twice in --classes" if other == name else f"differs from {other!r} only by case"
            raise UserError(f"the class name {name!r} {what}; class names must be distinct. Rename or merge one.")
        seen[name.casefold()] = name


def _entries(root: str, directory: str) -> list[os.DirEntry[str]]:
    """The entries of a directory sorted by name, without hidden ones and system litter."""
    path = os.path.join(root, directory)
    try:
        with os.scandir(path) as entries:
            kept = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in IGNORED]
    except OSError as error:
        raise UserError(
            f"{_printable(path)}: cannot be listed: {error.strerror}. Make it readable or move it away."
        ) from error
    return sorted(kept, key=lambda entry: entry.name)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in name) if not name.isascii() else True


def _printable(name: str) -> str:
    """A name that can be printed and stored: bytes that are not UTF-8 appear as `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
