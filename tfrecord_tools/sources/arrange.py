"""Find the class and the split of every file in a listing.

Some files are left out: a note reports their number. Other files should become records, but cannot. They are rejected:
each is reported with a reason.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tfrecord_tools.base import tables, words
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.images import formats
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.split_names import SPLIT_WORDS, split_named
from tfrecord_tools.sources import folder_names, folder_rules, folder_tree
from tfrecord_tools.sources.base import Listing, ReadError
from tfrecord_tools.sources.folder_rules import Layout

_SNIFFED_FILES = 4  # Number of files that are opened in a directory without image endings, to look for images.
_SNIFFED_BYTES = 1 << 25  # Larger files are not opened to look for images.
_MAX_SHOWN = 6  # Maximum number of names in a note.
_TABLE_ENDINGS = tables.ENDINGS
# Files with these endings describe images in the same directory. They are not images.
_BESIDE_ENDINGS = frozenset(
    {"txt", "csv", "tsv", "json", "jsonl", "xml", "yaml", "yml", "md", "rst", "ini", "cfg", "log", "db", "url"}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arranged:
    """The result of `arrange`: one entry of `labels` and `splits` per file of the listing.

    Attributes:
        labels: Class names. None: the file is left out or rejected.
        splits: Indices into `SPLITS`, or `TO_BE_SPLIT`.
        rejected: Files that cannot become records. Damage inside a file is found later, when it is read.
        notes: Notes for the user.
    """

    labels: list[str | None]
    splits: list[int]
    rejected: list[Rejected]
    notes: list[str]


def without(listing: Listing, patterns: Sequence[str], src: str) -> tuple[Listing, list[str]]:
    """Leave out the files that match a pattern of --exclude.

    Returns:
        The listing of the other files, and a note.

    Raises:
        UserError: A pattern matches nothing, or all files match.
    """
    names = [_file(path, listing) for path in listing.paths] + [rejected.path for rejected in listing.rejected]
    excluded, excluded_rejected = np.split(_excluded(names, patterns, src, listing.top), [len(listing.paths)])
    remaining = np.flatnonzero(~excluded)
    if not len(remaining):
        raise UserError(
            f"--exclude={' --exclude='.join(patterns)}: all files in {src} match, so no file is left. Remove a pattern."
        )
    rejected = [file for file, is_excluded in zip(listing.rejected, excluded_rejected) if not is_excluded]
    count = int(excluded.sum() + excluded_rejected.sum())
    return listing.take(remaining, rejected), [f"{_files(count)} left out by --exclude"]


def without_files(paths: Sequence[str], patterns: Sequence[str], src: str) -> tuple[list[str], list[str]]:
    """Leave out the paths that match a pattern of --exclude.

    Returns:
        The other paths, and a note.

    Raises:
        UserError: A pattern matches nothing.
    """
    excluded = _excluded(paths, patterns, src)
    rest = [path for path, is_excluded in zip(paths, excluded) if not is_excluded]
    return rest, [f"{_files(int(excluded.sum()))} left out by --exclude"]


def _excluded(paths: Sequence[str], patterns: Sequence[str], src: str, top: str = "") -> NDArray[np.bool_]:
    """Return bool[n], whether each path matches a pattern. Patterns may begin with `top`, paths do not."""
    excluded = np.zeros(len(paths), bool)
    for pattern in patterns:
        compiled = glob(pattern.removeprefix("./").removeprefix(top))
        matching = np.fromiter((compiled.fullmatch(_nfc(path)) is not None for path in paths), bool, len(paths))
        if not matching.any():
            raise UserError(
                f"--exclude={pattern}: no path in {src} matches. Paths look like {next(iter(paths), 'none')!r}. Pass a"
                " pattern for paths relative to --src, for example '**/masks'. In a pattern, * stands for any part of a"
                " name, and ** stands for any directories."
            )
        excluded |= matching
    return excluded


def glob(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of paths.

    `*` and `?` match within a name, `**` matches any directories, `[ab]` matches a or b. A pattern that matches a
    directory also matches everything below the directory.

    Raises:
        UserError: The pattern is not valid.
    """
    regex, position, given = "", 0, pattern
    pattern = _nfc(pattern.removeprefix("./").rstrip("/"))
    for token in re.finditer(r"\*\*/|\*\*|\*|\?|\[!?[^\]]+\]", pattern):
        regex += re.escape(pattern[position : token.start()])
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        regex += known.get(token[0]) or _one_of(token[0][1:-1])
        position = token.end()
    try:
        return re.compile(f"{regex}{re.escape(pattern[position:])}(?:/.*)?", re.DOTALL)
    except re.error as error:
        raise UserError(f"--exclude={given}: is not a valid pattern: {error}. To match a [, write [[].") from error


def _one_of(characters: str) -> str:
    """Return the regular expression for `[ab]` or `[!ab]`, given without the brackets."""
    negated = "^" * characters.startswith("!")
    escaped = re.sub(r"[\\\[^]", r"\\\g<0>", characters[len(negated) :])
    return f"[{negated}{escaped}]"


def _nfc(path: str) -> str:
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def given_splits(values: Sequence[str], listing: Listing) -> list[tuple[str, str]]:
    """Parse the values of --split into pairs (split, path of a directory).

    Raises:
        UserError: A value is not NAME=DIR, or NAME is not a split.
    """
    pairs = []
    for value in values:
        name, equals, path = value.partition("=")
        split = split_named(name)
        if not equals or split is None or not path:
            raise UserError(
                f"--split={value}: must be NAME=DIR, for example --split=train=site_a. NAME must be one of"
                f" {', '.join(SPLIT_WORDS)}. DIR must be a directory relative to --src."
            )
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
        cleaned = "/".join(parts)
        pairs.append((split, cleaned.removeprefix(listing.top) if cleaned != listing.top.rstrip("/") else ""))
    return pairs


def arrange(
    listing: Listing,
    src: str,
    *,
    classes: Sequence[str] | None = None,
    known_classes: Collection[str] = (),
    label_regex: str | None = None,
    splits: Sequence[tuple[str, str]] = (),
) -> Arranged:
    """Find the class and the split of every file from its path, or from its row in a CSV of pixels.

    Args:
        listing: The files.
        src: The source, for messages.
        classes: The names in --classes. None: all classes.
        known_classes: Names of classes that a model knows. A directory with such a name is a class, as with --classes.
            Files of other classes are not left out.
        label_regex: Regular expression that finds the class in a path. None: directories or names decide.
        splits: The values of --split, from `given_splits`.

    Raises:
        UserError: The directories have two possible meanings. The message names the flags to choose one.
    """
    if listing.labels is not None:
        return _tables(listing, src, label_regex, splits)
    file_tree = _Files(listing)
    deciding = classes or known_classes
    if label_regex:
        label = by_regex(label_regex)
        layout = file_tree.without_unlabeled(folder_rules.read_splits(file_tree.tree, src, deciding, splits), label)
        return file_tree.arranged(layout, label, classes)
    layout = folder_rules.read(file_tree.tree, src, deciding, splits, tables_beside(listing))
    return file_tree.arranged(layout, folder_names.class_in_name, classes)


def tables_beside(listing: Listing) -> list[str]:
    """Return the paths of tables at the top of a source. They may contain the labels of its images."""
    return [path for path in listing.paths if "/" not in path and path.lower().endswith(_TABLE_ENDINGS)]


def by_regex(pattern: str) -> Callable[[str], str | None]:
    """Return a function that finds the class in a path: the first group of `pattern`. None: no match."""
    compiled = re.compile(pattern)

    def label(path: str) -> str | None:
        match = compiled.search(path)
        return sys.intern(match[1]) if match and match[1] else None

    return label


def _tables(listing: Listing, src: str, label_regex: str | None, splits: Sequence[tuple[str, str]]) -> Arranged:
    if label_regex:
        raise UserError(
            "--label_regex and a CSV of pixels cannot be combined: each line contains its class. Remove --label_regex."
        )
    names = sorted({_file(path, listing) for path in listing.paths})
    layout = folder_rules.read_tables(names, src, splits)
    meanings = {name: layout.meaning(name) for name in names}
    labels: list[str | None] = []
    split_numbers, rejected, left_out = [], list(listing.rejected), Counter[str]()
    for path, label in zip(listing.paths, listing.labels or ()):
        meaning = meanings[_file(path, listing)]
        if meaning.left_out:
            left_out[meaning.left_out] += 1
        elif not label:
            rejected.append(Rejected(path=path, reason="its line has no class name"))
        labels.append(label if label and not meaning.left_out else None)
        split_numbers.append(meaning.split)
    return Arranged(labels=labels, splits=split_numbers, rejected=rejected, notes=list(_left_out_notes(left_out)))


class _Files:
    """The files of a listing, grouped by directory, and the directories that contain images."""

    def __init__(self, listing: Listing):
        self._listing = listing
        self._by_directory: dict[str, list[int]] = {}
        for number, path in enumerate(listing.paths):
            directory = path[: max(path.rfind("/"), 0)]
            if (numbers := self._by_directory.get(directory)) is None:
                numbers = self._by_directory[directory] = []
            numbers.append(number)
        self._images = _images_in(listing, self._by_directory)
        self.tree = folder_tree.tree({d: [listing.paths[i] for i in numbers] for d, numbers in self._images.items()})
        self._with_images = {""} | {directory[:end] for directory in self._images for end in _ends(directory)}

    def without_unlabeled(self, layout: Layout, named_class: Callable[[str], str | None]) -> Layout:
        """Leave out splits without labeled images, if another split has labeled images."""
        labeled: dict[int, bool] = {}
        for directory, numbers in self._images.items():
            split = layout.meaning(directory).split
            is_labeled = any(named_class(self._listing.paths[number]) for number in numbers)
            labeled[split] = labeled.get(split, False) or is_labeled
        if all(labeled.values()) or not any(labeled.values()):
            return layout
        roots = {
            path: root
            if labeled.get(root.split, True)
            else dataclasses.replace(
                root, left_out=f"{path} has no labels, since --label_regex matches none of its files"
            )
            for path, root in layout.roots.items()
        }
        return dataclasses.replace(layout, roots=roots)

    def arranged(
        self, layout: Layout, named_class: Callable[[str], str | None], classes: Collection[str] | None
    ) -> Arranged:
        """Give every file a class and a split, one directory at a time."""
        paths = self._listing.paths
        labels = np.full(len(paths), None, object)
        splits = np.full(len(paths), folder_rules.TO_BE_SPLIT, np.int8)
        rejected: list[Rejected] = []
        left_out, without_images = Counter[str](), Counter[str]()
        loose: list[str] = []
        beside = 0
        for directory, numbers in self._by_directory.items():
            meaning = layout.meaning(directory)
            splits[numbers] = meaning.split
            if directory not in self._with_images:
                without_images[self._top_without_images(directory)] += len(numbers)
            elif meaning.left_out:
                left_out[meaning.left_out] += len(numbers)
            elif meaning.label is not None:
                candidates = self._image_candidates(directory, numbers)
                labels[candidates] = meaning.label
                beside += len(numbers) - len(candidates)
            else:
                images = {*self._images.get(directory, ())}
                for number in numbers:
                    label = labels[number] = named_class(paths[number]) if meaning.by_name else None
                    if label is None and number in images:
                        rejected.append(Rejected(path=paths[number], reason=meaning.reason or folder_rules.NOT_IN_NAME))
                    elif label is None:
                        loose.append(paths[number])
        names: list[str | None] = labels.tolist()
        unread = []
        for file, why in self._unread(layout, named_class, {*names} - {None}, classes):
            if why:
                left_out[why] += 1
            else:
                unread.append(file)
        notes = [*layout.notes, *_left_out_notes(left_out), *_beside_notes(without_images, loose, beside)]
        return Arranged(labels=names, splits=splits.tolist(), rejected=[*unread, *rejected], notes=notes)

    def _unread(
        self,
        layout: Layout,
        named_class: Callable[[str], str | None],
        labels: Collection[str | None],
        classes: Collection[str] | None,
    ) -> Iterator[tuple[Rejected, str]]:
        """Yield rejected files, each with the reason to leave it out. "": it is reported as rejected."""
        for rejected in self._listing.rejected:
            directory = rejected.path.rpartition("/")[0]
            meaning = layout.meaning(directory)
            label = named_class(rejected.path) if meaning.by_name else meaning.label
            counts = directory in self._with_images or label in labels or folder_names.has_image_ending(rejected.path)
            if meaning.left_out or not counts:
                yield rejected, meaning.left_out or "they cannot be read, and their directories contain no images"
            elif not classes or label in {*classes, None}:
                yield rejected, ""

    def _image_candidates(self, directory: str, numbers: list[int]) -> list[int]:
        """Return the files of a class that may be images. Texts and tables beside images are not."""
        images = self._images.get(directory, ())
        if len(images) in (0, len(numbers)):
            return numbers
        paths = self._listing.paths
        return [number for number in numbers if paths[number].rpartition(".")[2].lower() not in _BESIDE_ENDINGS]

    def _top_without_images(self, directory: str) -> str:
        return next(directory[:end] for end in _ends(directory) if directory[:end] not in self._with_images)


def _images_in(listing: Listing, by_directory: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return directory -> numbers of the files in it that have an image ending.

    If no file in a directory has an image ending, some files are opened. If one of them is an image, all files in the
    directory count as images.
    """
    images = {}
    known: dict[str, bool] = {}  # Ending of a name -> whether it is an image ending.
    for directory, numbers in by_directory.items():
        with_ending = []
        for number in numbers:
            path = listing.paths[number]
            dot = path.rfind(".", len(directory))
            ending = path[dot:] if dot >= 0 else ""
            if (is_image := known.get(ending)) is None:
                is_image = known[ending] = folder_names.has_image_ending(f"a{ending}")
            if is_image:
                with_ending.append(number)
        if with_ending:
            images[directory] = with_ending
    above = {directory[:end] for directory in images for end in _ends(directory)} | ({""} if images else set())
    for directory, numbers in by_directory.items():
        if directory not in above and any(_is_image(listing, i) for i in _sample(numbers)):
            images[directory] = numbers
    return dict(sorted(images.items(), key=lambda item: item[0].split("/")))


def _is_image(listing: Listing, number: int) -> bool:
    if not 0 < listing.sizes[number] <= _SNIFFED_BYTES:
        return False
    try:
        data = listing.store.read(listing.paths[number], listing.spans[number]).data
    except (OSError, ReadError):
        return True  # The conversion will report that the file cannot be read.
    return formats.detect(data) is not None


def _sample(numbers: Sequence[int]) -> list[int]:
    """Return up to `_SNIFFED_FILES` of the numbers, spread evenly."""
    step = max(1, len(numbers) // _SNIFFED_FILES)
    return list(numbers[::step])[:_SNIFFED_FILES]


def _ends(directory: str) -> Iterator[int]:
    """Yield the positions where the parts of a path end: 1 and 3 for a/b."""
    position = directory.find("/")
    while position >= 0:
        yield position
        position = directory.find("/", position + 1)
    if directory:
        yield len(directory)


def _left_out_notes(left_out: Counter[str]) -> Iterator[str]:
    for reason, count in left_out.items():
        yield f"{_files(count)} left out: {reason}"


def _beside_notes(without_images: Counter[str], loose: Sequence[str], beside: int) -> Iterator[str]:
    if beside:
        yield f"{_files(beside)} left out: text files and tables in the same directories as the images of a class"
    if without_images:
        where = named(sorted(without_images), _MAX_SHOWN)
        yield f"{_files(without_images.total())} left out, because their directories contain no images: {where}"
    if loose:
        yield f"{_files(len(loose))} left out, because they are not in a class directory: {named(loose, _MAX_SHOWN)}"


def _file(path: str, listing: Listing) -> str:
    """Return the path of the file. For a row of a CSV of pixels, `name.csv:line`, it is `name.csv`."""
    return path if listing.labels is None else path.rpartition(":")[0]


def _files(count: int) -> str:
    return words.number(count, "file is", "files are")
