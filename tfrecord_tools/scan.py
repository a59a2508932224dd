"""What is there, nothing opened: the images of a source, sorted, with class, split and group of each."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfrecord_tools import files, manifest, object_store, page, stores
from tfrecord_tools.errors import UserError
from tfrecord_tools.splits import SPLIT_NAMES, SPLITS
from tfrecord_tools.stores import Listing, Rejected, Store

TO_BE_SPLIT = -1  # The split of a file whose side the source does not give.
NO_GROUP = 0
LAYOUTS = "cat_dog_img/train/cats/1.jpg (split/class/image) or cat_dog_img/cats/1.jpg (class/image)"
_NAMED_BY_CLASS = r"(?:^|/)([^/]*?[^/\d._ -])[._ -]*\d+\.[^./]+$"  # cat.0.jpg, american_bulldog_100.jpg: Kaggle's way.
_MIN_SHARE_NAMED = 0.9
_NAMES_SHOWN = 10  # Of classes, in a message.
_WAYS_SHOWN = 5  # From one label to another.
_NO_CLASS = "not inside a class directory"
_NOT_IN_NAME = "its name does not say its class (see --label_regex)"
_NO_SPLIT = "lies beside the directories of the splits, in none of them"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """What the source is and how it says which image is of which class.

    Attributes:
        src: A directory, a zip or tar archive, a manifest (CSV or Parquet), a CSV of pixels, or the URL of a prefix in
            an object store.
        classes: Class names in label order; others are left out. None: all, sorted.
        label_regex: Searched in each path; its first group is the class. None: by directories.
        group_regex: Searched in each path; images with the same first group stay on one side of a split.
        manifest: A CSV or Parquet file that names the images in `src`, their classes, and what else is known.
        path_column: Its column of paths; likewise the other names.
        label_column: Class names.
        split_column: Used if it is there.
        group_column: Used if it is there.
        relabel: A CSV or Parquet file with the columns `path` and `label`: these images get these labels instead.
    """

    src: str
    classes: Sequence[str] | None = None
    label_regex: str | None = None
    group_regex: str | None = None
    manifest: str | None = None
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"
    group_column: str = "group"
    relabel: str | None = None

    def __post_init__(self) -> None:
        if not self.src:
            raise UserError(f"--src is missing: images such as {LAYOUTS}, an archive of these, or a manifest.")
        if self.classes is not None and len(self.classes) < 2:
            raise UserError(f"--classes={','.join(self.classes)}: at least two class names, separated by commas.")
        for name in ("label_regex", "group_regex"):
            _check_regex(name, getattr(self, name))
        if self.manifest_path and self.label_regex:
            raise UserError("--label_regex and a manifest exclude each other: the manifest gives the labels.")

    def scan_settings(self) -> dict[str, Any]:
        """The settings that the output depends on beside the source, as JSON gives them back."""
        classes = list(self.classes) if self.classes else None
        return {"classes": classes, "label_regex": self.label_regex, "group_regex": self.group_regex}

    @property
    def manifest_path(self) -> str | None:
        """The manifest, also where `src` is one."""
        return self.manifest or (self.src if manifest.is_one(self.src) else None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """The images of a source, sorted by path. Columns run over files.

    Attributes:
        root: The source as given.
        store: Reads them.
        class_names: A label is an index into it.
        paths: Relative to the source, with `/`, valid UTF-8.
        spans: As in `stores.Listing`.
        labels: i32[n].
        splits: i8[n], an index into `SPLITS` or `TO_BE_SPLIT`.
        groups: u64[n], the hash of each one's group, `NO_GROUP` where it has none.
        sizes: i64[n] in bytes.
        mtimes_ns: i64[n] in nanoseconds since the epoch.
        has_splits: Whether the source gives the splits.
        rejected: What cannot be a record, known without opening it.
        left_out: Files of the classes that `classes` does not name, per class.
        notes: What the user should know of how the source was understood.
        relabelled: (label by the source, label by `ScanConfig.relabel`) -> files for which these differ.
    """

    root: str
    store: Store
    class_names: tuple[str, ...]
    paths: Sequence[str]
    spans: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    groups: np.ndarray
    sizes: np.ndarray
    mtimes_ns: np.ndarray
    has_splits: bool
    rejected: tuple[Rejected, ...]
    left_out: dict[str, int]
    notes: tuple[str, ...] = ()
    relabelled: Mapping[tuple[str, str], int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """How paths say what they are.

    Attributes:
        label: Path -> class name, or None.
        splits: The first part of a path (of a row of a CSV: the file's name) -> the split, if these are splits.
        no_label: What is wrong with a path without a class name.
        note: What the user should know.
    """

    label: Callable[[str], str | None]
    splits: Mapping[str, int]
    no_label: str
    note: str = ""

    def split(self, path: str) -> int:
        return self.splits.get(_top(path), TO_BE_SPLIT) if self.splits else TO_BE_SPLIT


def scan(config: ScanConfig) -> Sources:
    """Finds the images of a source and what they are.

    Raises:
        UserError: No such source, no images, fewer than two classes, or names that cannot be kept.
    """
    if config.manifest_path:
        return _scan_manifest(config, config.manifest_path)
    listing = _list(config.src)
    layout = _layout(config, listing)
    found = map(layout.label, listing.paths) if listing.labels is None else listing.labels
    labels = [name or None for name in found]
    splits = [layout.split(path) for path in listing.paths]
    wanted = set(config.classes or ())
    rejected = [r for r in listing.rejected if not wanted or layout.label(r.path) in {*wanted, None}]
    for number, path in enumerate(listing.paths):
        if labels[number] is None:
            rejected.append(Rejected(path=path, reason=layout.no_label))
        elif layout.splits and splits[number] == TO_BE_SPLIT:
            rejected.append(Rejected(path=path, reason=_NO_SPLIT))
            labels[number] = None
    return _sources(config, listing, labels, splits, rejected, note=layout.note)


def _list(src: str) -> Listing:
    return object_store.list_objects(src) if files.is_url(src) else stores.list_store(src)


def _scan_manifest(config: ScanConfig, path: str) -> Sources:
    columns = {c: getattr(config, f"{c}_column") for c in ("path", "label", "split", "group")}
    root = os.path.dirname(path) if config.manifest is None else config.src
    rows = manifest.read(path, columns, root)
    if config.manifest is None or os.path.isdir(root):
        listing = stores.stat_files(root, rows.paths)
    else:
        listing = _list(root)
        if listing.top and all(p.startswith(listing.top) for p in rows.paths):
            rows = dataclasses.replace(rows, paths=[p.removeprefix(listing.top) for p in rows.paths])
        listing = _only_named(listing, rows.paths)
    row_of = {p: row for row, p in enumerate(rows.paths)}
    at = [row_of[p] for p in listing.paths]
    wanted = config.classes or set(rows.labels)
    rejected = [r for r in listing.rejected if rows.labels[row_of[r.path]] in wanted]
    splits = [TO_BE_SPLIT] * len(at)
    if rows.splits is not None:
        known = {name: _split_of(name, path, config.split_column) for name in set(rows.splits)}
        splits = [known[rows.splits[row]] for row in at]
    groups = None if rows.groups is None else [rows.groups[row] for row in at]
    return _sources(config, listing, [rows.labels[row] for row in at], splits, rejected, groups)


def _only_named(listing: Listing, paths: Sequence[str]) -> Listing:
    """Those of an archive's members that a manifest names."""
    number_of = {path: number for number, path in enumerate(listing.paths)}
    reasons = {r.path: r.reason for r in listing.rejected}
    absent = "named by the manifest, but not in the archive"
    missing = [path for path in paths if path not in number_of]
    kept = np.sort(np.array([number_of[path] for path in paths if path in number_of], np.int64))
    return dataclasses.replace(
        listing,
        paths=[listing.paths[i] for i in kept.tolist()],
        spans=listing.spans[kept],
        sizes=listing.sizes[kept],
        mtimes_ns=listing.mtimes_ns[kept],
        rejected=[Rejected(path=path, reason=reasons.get(path, absent)) for path in missing],
    )


def _sources(
    config: ScanConfig,
    listing: Listing,
    labels: Sequence[str | None],
    splits: Sequence[int],
    rejected: Sequence[Rejected],
    groups: Sequence[str] | None = None,
    note: str = "",
) -> Sources:
    """Makes numbers of the names and leaves out what is not wanted."""
    labels, relabelled = _relabel(config, listing.paths, labels)
    counts = Counter(label for label in labels if label is not None)
    class_names = _class_names(config, counts, rejected)
    label_of = {name: label for label, name in enumerate(class_names)}
    numbers = np.array([-1 if label is None else label_of.get(label, -1) for label in labels], np.int32)
    kept = np.flatnonzero(numbers >= 0)
    paths = [listing.paths[i] for i in kept.tolist()]
    if groups is not None:
        groups = [groups[i] for i in kept.tolist()]
    elif config.group_regex:
        groups = _groups(config.group_regex, paths)
    sides = np.array(splits, np.int8)[kept]
    return Sources(
        root=config.src,
        store=listing.store,
        class_names=class_names,
        paths=paths,
        spans=listing.spans[kept],
        labels=numbers[kept],
        splits=sides,
        groups=np.zeros(len(kept), np.uint64) if groups is None else _hashes(groups),
        sizes=listing.sizes[kept],
        mtimes_ns=listing.mtimes_ns[kept],
        has_splits=bool(len(sides)) and bool((sides != TO_BE_SPLIT).all()),
        rejected=tuple(rejected),
        left_out={name: counts[name] for name in sorted(counts) if name not in label_of},
        notes=tuple(_notes(note, relabelled)),
        relabelled=relabelled,
    )


def _relabel(
    config: ScanConfig, paths: Sequence[str], labels: Sequence[str | None]
) -> tuple[Sequence[str | None], Counter[tuple[str, str]]]:
    """Gives the images that `config.relabel` names the labels that stand there, and counts what is changed.

    Raises:
        UserError: It cannot be read, or names a path that is none of an image, or a label that is none of a class.
    """
    if config.relabel is None:
        return labels, Counter()
    rows = manifest.read(config.relabel, {"path": "path", "label": "label"}, config.src, "relabel")
    number_of = {path: number for number, path in enumerate(paths) if labels[number] is not None}
    unknown = [path for path in rows.paths if path not in number_of]
    if unknown:
        raise UserError(
            f"--relabel={config.relabel}: {len(unknown):,} of {len(rows.paths):,} paths are none of an image in"
            f" {config.src}, such as {unknown[0]!r}. Paths are expected as predictions.csv and records.parquet have"
            f" them, such as {next(iter(number_of), 'none')!r}."
        )
    names = {name for name in labels if name is not None}
    for path, name in zip(rows.paths, rows.labels):
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3) or sorted(names)[:_NAMES_SHOWN]
            raise UserError(
                f"--relabel={config.relabel}: {name!r}, the label of {path!r}, is no class; there is {', '.join(near)}."
            )
    changed, counts = list(labels), Counter[tuple[str, str]]()
    for path, name in zip(rows.paths, rows.labels):
        old = labels[number_of[path]]
        if old is not None and old != name:
            changed[number_of[path]] = sys.intern(name)
            counts[old, name] += 1
    return changed, counts


def _notes(note: str, relabelled: Counter[tuple[str, str]]) -> Iterator[str]:
    if note:
        yield note
    if relabelled:
        ways = ", ".join(f"{count:,} from {old} to {new}" for (old, new), count in relabelled.most_common(_WAYS_SHOWN))
        more = f", {len(relabelled) - _WAYS_SHOWN:,} ways more" if len(relabelled) > _WAYS_SHOWN else ""
        yield f"{page.number(relabelled.total(), 'image')} relabelled: {ways}{more}"


def _layout(config: ScanConfig, listing: Listing) -> _Layout:
    """Finds out how the paths of a source say what they are.

    The top directories (of CSVs of pixels: the files) are taken as splits only if every one has a split's name.
    """
    csv = listing.labels is not None
    tops = sorted({_top(path) for path in listing.paths if csv or "/" in path})
    splits = {} if csv and len(tops) == 1 else _splits(config.src, tops)
    if csv:
        if config.label_regex:
            raise UserError("--label_regex and a CSV of pixels exclude each other: each line begins with its class.")
        return _Layout(label=lambda path: None, splits=splits, no_label="no class name in its line")
    if config.label_regex:
        return _by_regex(config.label_regex, splits)
    depth = 2 if splits else 1
    if not any(path.count("/") >= depth for path in listing.paths) and (names := _named_by_class(listing.paths)):
        return dataclasses.replace(
            _by_regex(_NAMED_BY_CLASS, splits),
            note=f"classes taken from the files' names, as {names[0]} of {names[1]} (see --label_regex)",
        )
    strange = [top for top in tops if not splits and top.lower() in SPLIT_NAMES]
    note = f"{strange[0]} is taken for a class, since there is {_other(tops)} beside it" if strange else ""

    def label(path: str) -> str | None:
        parts = path.split("/")
        return sys.intern(parts[depth - 1]) if len(parts) > depth else None  # One object a class, not one a file.

    return _Layout(label=label, splits=splits, no_label=_NO_CLASS, note=note)


def _by_regex(pattern: str, splits: Mapping[str, int]) -> _Layout:
    compiled = re.compile(pattern)

    def label(path: str) -> str | None:
        match = compiled.search(path)
        return sys.intern(match[1]) if match and match[1] else None

    return _Layout(label=label, splits=splits, no_label=_NOT_IN_NAME)


def _named_by_class(paths: Sequence[str]) -> tuple[str, str] | None:
    """A class and the path that names it, if nearly all files bear names such as cat.0.jpg, of several classes."""
    compiled = re.compile(_NAMED_BY_CLASS)
    found = [(match[1], path) for path in paths if (match := compiled.search(path))]
    several = len({name for name, _ in found}) > 1
    return found[0] if several and len(found) >= _MIN_SHARE_NAMED * len(paths) else None


def _splits(src: str, tops: Sequence[str]) -> dict[str, int]:
    """The split of each top directory if all are splits; nothing else. Refuses two names for one."""
    named = [SPLIT_NAMES.get(top.lower()) for top in tops]
    if None in named:
        return {}
    for split in SPLITS:
        same = [top for top, name in zip(tops, named) if name == split]
        if len(same) > 1:
            raise UserError(f"{src}: {' and '.join(same)} both mean the {split} split. Merge them or move one away.")
    return {top: SPLITS.index(name) for top, name in zip(tops, named) if name}


def _top(path: str) -> str:
    """The first directory of a path; of a row of a CSV, `name.csv:line`, the name."""
    top, slash, _ = path.partition("/")
    return top if slash else os.path.splitext(path.rpartition(":")[0])[0]


def _other(tops: Sequence[str]) -> str:
    return next(top for top in tops if top.lower() not in SPLIT_NAMES)


def _split_of(name: str, path: str, column: str) -> int:
    if name.lower() not in SPLIT_NAMES:
        raise UserError(
            f"{path}: {name!r} in the column {column!r} is no split; {', '.join(SPLIT_NAMES)} are known."
            " Mend it, or name another column with --split_column."
        )
    return SPLITS.index(SPLIT_NAMES[name.lower()])


def _groups(pattern: str, paths: Sequence[str]) -> list[str]:
    """The group of each path; "" if it has none.

    Raises:
        UserError: No path has one, so that the pattern must be wrong.
    """
    compiled = re.compile(pattern)
    groups = [match[1] or "" if (match := compiled.search(path)) else "" for path in paths]
    if paths and not any(groups):
        raise UserError(f"--group_regex={pattern}: no path matches, such as {paths[0]}.")
    return groups


def _hashes(groups: Sequence[str]) -> np.ndarray:
    """Returns u64[n], the same for the same group everywhere; `NO_GROUP` for ""."""
    hashes = {group: int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "little") for group in set(groups)}
    return np.array([hashes[group] if group else NO_GROUP for group in groups], np.uint64)


def _class_names(config: ScanConfig, counts: Counter[str], rejected: Sequence[Rejected]) -> tuple[str, ...]:
    """Returns the class table: `classes` if given, else the found names sorted; checked."""
    root = config.src
    if not counts:
        raise UserError(f"--src={root}: {_why_none(rejected)}")
    names = tuple(sorted(counts, key=_by_number_or_name(counts)) if config.classes is None else config.classes)
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
        wrong = f"--src={root}: only one class, {names[0]!r}; a classifier has nothing to learn from one."
        if os.path.isdir(inner):
            wrong += f" Expected {LAYOUTS}. Did you mean --src={inner}, or a directory above?"
        raise UserError(wrong)
    return names


def _why_none(rejected: Sequence[Rejected]) -> str:
    """Says why there is no image of any class."""
    strange = [r for r in rejected if r.reason != _NO_CLASS]
    if strange:
        first = strange[0]
        return f"no image of any class; {len(rejected):,} files cannot be used, such as {first.path}: {first.reason}."
    loose = f" {len(rejected):,} loose files such as {rejected[0].path} belong to no class." if rejected else ""
    return f"no image files in class directories.{loose} Expected {LAYOUTS}."


def _by_number_or_name(names: Counter[str]) -> Callable[[str], Any]:
    """Names that are all numbers are sorted as such: 10 behind 9."""
    if all(name.isascii() and name.isdigit() for name in names):
        return lambda name: (int(name), name)
    return str


def _check_class_name(root: str, name: str) -> None:
    if not stores.is_utf8(name):
        raise UserError(f"{root}: the class name {stores.printable(name)!r} is not valid UTF-8. Rename it.")
    if not name or name != name.strip() or any(unicodedata.category(c) == "Cc" for c in name):
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


def _check_regex(flag: str, pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"--{flag}={pattern}: no regular expression: {error}.") from error
    if groups < 1:
        raise UserError(f"--{flag}={pattern}: it has no group; put parentheses around the part that is meant.")
