"""Find the images of a source, sorted by path, with the class, split and group of each."""

from __future__ import annotations

import codecs
import dataclasses
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.split_names import SPLIT_WORDS, SPLITS, split_named
from tfrecord_tools.layout.splitting import group_hash
from tfrecord_tools.sources import (
    arrange,
    class_names,
    file_sets,
    imagefolder,
    manifest,
    manifest_paths,
    object_store,
    parquet_source,
    stores,
    webdataset_source,
)
from tfrecord_tools.sources.base import Files, Listing, Store
from tfrecord_tools.sources.directory import stat_files
from tfrecord_tools.sources.file_sets import FileSet, Kind
from tfrecord_tools.sources.folder_rules import EXAMPLES, TO_BE_SPLIT
from tfrecord_tools.sources.manifest import COLUMNS, Manifest, Reading
from tfrecord_tools.sources.row_source import RowSource

_ROW_KINDS = (
    (parquet_source.KIND, parquet_source.read),
    (webdataset_source.KIND, webdataset_source.read),
)  # Kinds of files that contain images and their labels.
_URL_MISSING = "this is a URL, and the source has no file with this name: download the images first"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """The source of the images, and how their classes, splits and groups are found.

    Attributes:
        src: A directory, a zip or tar archive, a manifest (CSV or Parquet), a CSV of pixels, Parquet files of images,
            tar files of webdataset, or the URL of a prefix in an object store. Several Parquet or tar files can also
            be given as a pattern.
        classes: Class names in label order. Images of other classes are left out. None: all classes, sorted.
        label_regex: Regular expression that is searched in each path. The first group is the class. None: the
            directories are the classes.
        group_regex: Regular expression that is searched in each path. Images with the same first group get the same
            split.
        split: Values `NAME=DIR`: the directory DIR, relative to `src`, belongs to the split NAME. Images in other
            directories are left out. None: the names of the directories decide.
        exclude: Patterns of paths to leave out, relative to `src`. `*` matches any part of a name, `**` any
            directories. A pattern that matches a directory leaves out everything in it. Patterns also apply to images
            in a manifest.
        zip_encoding: Encoding of the file names in an archive, for example "cp949". It is used if the archive does not
            say its encoding. None: UTF-8.
        manifest: A CSV or Parquet file with the paths and classes of the images in `src`.
        path_column: The column of paths in a manifest, or the column of images in Parquet files of images. In tar files
            of webdataset, the extension of the images.
        label_column: The column of class names.
        split_column: The column of splits. It may be missing.
        group_column: The column of groups. It may be missing.
        label_columns: Columns of a manifest, one per class. Exactly one of them must be 1 in each row. None: the labels
            are in `label_column`.
        manifest_encoding: Encoding of a CSV manifest. None: the byte order mark decides. A file without one is UTF-8.
        new_classes: Classes that may have no file, because decisions give them to images after the scan.
    """

    src: str
    classes: Sequence[str] | None = None
    label_regex: str | None = None
    group_regex: str | None = None
    split: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    zip_encoding: str | None = None
    manifest: str | None = None
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"
    group_column: str = "group"
    label_columns: Sequence[str] | None = None
    manifest_encoding: str | None = None
    new_classes: Collection[str] = ()

    def __post_init__(self) -> None:
        if not self.src:
            raise UserError(
                f"--src is missing. Pass a directory of images, an archive or a manifest. A directory looks like"
                f" {EXAMPLES}."
            )
        if self.classes is not None and len(self.classes) < 2:
            raise UserError(
                f"--classes={','.join(self.classes)}: must be at least two class names, separated by commas."
            )
        for name in ("label_regex", "group_regex"):
            _check_regex(name, getattr(self, name))
        if self.zip_encoding:
            _check_encoding(self.zip_encoding)
        if self.manifest_path and self.split:
            raise UserError(
                "--split and a manifest cannot be combined: the manifest's split column gives the split of each image."
                " Remove --split. If the column is not named split, pass --split_column."
            )
        if self.manifest_path and self.label_regex:
            raise UserError(
                "--label_regex and a manifest cannot be combined: the manifest gives the labels. Remove one of them."
            )
        self._check_label_columns()

    def _check_label_columns(self) -> None:
        if self.label_columns is None:
            return
        given = f"--label_columns={','.join(self.label_columns)}"
        if len(self.label_columns) < 2 or len(set(self.label_columns)) < len(self.label_columns):
            raise UserError(f"{given}: must be two or more different columns, one per class.")
        if self.label_column != ScanConfig.label_column:
            raise UserError(f"{given} and --label_column={self.label_column} cannot be combined. Pass one of them.")

    def scan_settings(self) -> dict[str, Any]:
        """The settings that change the output, as JSON types."""
        classes = list(self.classes) if self.classes else None
        return {
            "classes": classes,
            "label_regex": self.label_regex,
            "group_regex": self.group_regex,
            "split": list(self.split) if self.split else None,
            "exclude": list(self.exclude) if self.exclude else None,
            "zip_encoding": self.zip_encoding,
        }

    @property
    def wanted(self) -> tuple[str, ...] | None:
        """`classes` in Unicode's form NFC, like all stored class names."""
        return None if self.classes is None else tuple(unicodedata.normalize("NFC", name) for name in self.classes)

    def reading(self) -> Reading:
        """Return the settings for reading a manifest or Parquet files of images."""
        return Reading(
            columns={name: getattr(self, f"{name}_column") for name in COLUMNS},
            label_columns=self.label_columns or (),
            classes=self.wanted or (),
            encoding=self.manifest_encoding,
        )

    @property
    def names_labels(self) -> bool:
        """Whether a flag names the column of the labels."""
        return bool(self.label_columns) or self.label_column != ScanConfig.label_column

    @property
    def manifest_path(self) -> str | None:
        """Path of the manifest: `manifest`, or `src` if it is a manifest. None: there is none."""
        return self.manifest or (self.src if manifest.is_one(self.src) else None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """The images of a source, sorted by path, one column per property.

    Attributes:
        root: `ScanConfig.src`.
        store: Reads the images.
        class_names: Class names in label order.
        paths: Paths relative to the source, with `/` as separator, valid UTF-8.
        spans: Data that the store needs to read each file; see `base.Listing`.
        labels: i32[n], indices into `class_names`.
        splits: i8[n], indices into `SPLITS`, or `TO_BE_SPLIT`.
        groups: u64[n], hashes of the groups. `NO_GROUP`: the image has no group.
        sizes: i64[n] in bytes.
        mtimes_ns: i64[n] in nanoseconds since the epoch.
        has_splits: Whether the source gives the split of every image.
        rejected: Files that cannot become records. Damage inside a file is found later, when it is read.
        left_out: Class that is not in `ScanConfig.classes` -> its number of files.
        notes: How the source was read, for the user.
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

    def __len__(self) -> int:
        return len(self.paths)

    def files(self, numbers: np.ndarray) -> Files:
        """Return the files with these numbers, i64[k], in the order of `numbers`."""
        return Files(self.store, [self.paths[number] for number in numbers.tolist()], self.spans[numbers])


def scan(config: ScanConfig, known_classes: Collection[str] = ()) -> Sources:
    """Find the images of a source, and the class, split and group of each.

    Args:
        config: The source.
        known_classes: Names of classes that a model knows. A directory with such a name is a class, even if it could
            have another meaning. Other classes are not left out. With known classes, one class is enough.

    Raises:
        UserError: The source does not exist, or has no images or too few classes. Or its directories have two possible
            meanings, or a class name cannot be stored.
    """
    least = 1 if known_classes else 2
    if config.manifest_path:
        return _scan_manifest(config, config.manifest_path, least)
    objects = _objects(config.src)
    for kind, read in _ROW_KINDS:
        if kind is webdataset_source.KIND and config.label_regex:
            continue  # The paths in the archive give the classes.
        if found := file_sets.find(config.src, kind, objects.paths if objects else None):
            return _scan_rows(config, found, kind, read, least)
    if file_sets.is_pattern(config.src):
        file_sets.refuse(config.src)
    paths = frozenset(objects.paths) if objects else None
    tables = [] if config.label_regex or config.split else imagefolder.find(config.src, config.reading(), paths)
    if tables and config.names_labels:
        return _scan_imagefolder(config, tables, objects, least)
    if config.label_columns:
        raise UserError(
            f"--label_columns={','.join(config.label_columns)}: needs a manifest. Pass it as --manifest=FILE, or"
            " remove --label_columns."
        )
    try:
        sources = _scan_folder(config, objects or _list(config), known_classes, least)
    except UserError:
        if not tables:
            if not config.label_regex and not config.split:
                imagefolder.check_readable(config.src, config.manifest_encoding, paths)
            raise
        return _scan_imagefolder(config, tables, objects, least)
    unread = (
        f"the labels in {table.path} are not read, because the folders or the names of the images show the classes. To"
        " read the labels, name their column with --label_column, or pass the table as --manifest"
        for table in tables
    )
    return dataclasses.replace(sources, notes=(*sources.notes, *unread))


def _scan_folder(config: ScanConfig, listing: Listing, known_classes: Collection[str], least_classes: int) -> Sources:
    """Scan images with paths that show their classes."""
    listing, notes = _without_excluded(config, listing)
    arranged = arrange.arrange(
        listing,
        config.src,
        classes=config.wanted,
        known_classes=known_classes,
        label_regex=config.label_regex,
        splits=arrange.given_splits(config.split or (), listing),
    )
    return _sources(
        config,
        listing,
        arranged.labels,
        arranged.splits,
        arranged.rejected,
        least_classes=least_classes,
        notes=[*notes, *listing.notes, *arranged.notes],
    )


def _without_excluded(config: ScanConfig, listing: Listing) -> tuple[Listing, list[str]]:
    return arrange.without(listing, config.exclude, config.src) if config.exclude else (listing, [])


def _objects(src: str) -> Listing | None:
    """List the objects below a URL.

    The result is None if `src` is a path, a pattern, or the URL of a single file.
    """
    endings = tuple(kind.ending for kind, _ in _ROW_KINDS)
    single = file_sets.is_pattern(src) or src.lower().endswith(endings)
    return object_store.list_objects(src) if files.is_url(src) and not single else None


def _list(config: ScanConfig) -> Listing:
    if files.is_url(config.src):
        return object_store.list_objects(config.src)
    return stores.list_store(config.src, zip_encoding=config.zip_encoding)


def _scan_manifest(config: ScanConfig, path: str, least_classes: int) -> Sources:
    root = os.path.dirname(path) if config.manifest is None else config.src
    return _scan_table(config, manifest.read(path, root, config.reading()), path, root, least_classes)


def _scan_imagefolder(
    config: ScanConfig, tables: Sequence[imagefolder.Table], objects: Listing | None, least_classes: int
) -> Sources:
    rows = imagefolder.read(config.src, tables, config.reading(), objects.paths if objects else None)
    return _scan_table(config, rows, tables[0].path, config.src, least_classes, objects)


def _scan_table(
    config: ScanConfig, rows: Manifest, path: str, root: str, least_classes: int, objects: Listing | None = None
) -> Sources:
    """Scan the images in `root` that a table lists. `path` is the path of the table, for messages.

    `objects` has all files below `root`, if `root` is a URL.
    """
    if objects is None:
        listing, listed_rows, notes = _named_files(config, rows, path, root)
    else:
        listing, listed_rows, notes = _select(objects, rows, path, root, {})
    row_of = dict(zip(listing.paths, listed_rows))
    listing, excluded = _without_excluded(config, listing)
    numbers = [row_of[p] for p in listing.paths]
    wanted = config.wanted or set(rows.labels)
    label_of = dict(zip(rows.paths, rows.labels))
    rejected = [r for r in listing.rejected if label_of.get(r.path) in {*wanted, None}]
    splits = _table_splits(rows.splits, path, config.split_column)
    sources = _sources(
        config,
        listing,
        [rows.labels[row] for row in numbers],
        [splits[row] for row in numbers] if splits else [TO_BE_SPLIT] * len(numbers),
        rejected,
        None if rows.groups is None else [rows.groups[row] for row in numbers],
        least_classes=least_classes,
    )
    return dataclasses.replace(sources, notes=(*rows.notes, *notes, *excluded, *sources.notes))


def _table_splits(names: Sequence[str] | None, path: str, column: str) -> list[int]:
    """Return the split of each row, as an index into `SPLITS`. Empty if the table has no splits."""
    known = {name: _split_of(name, path, column) for name in set(names or ())}
    return [known[name] for name in names or ()]


def _named_files(
    config: ScanConfig, rows: Manifest, path: str, root: str
) -> tuple[Listing, list[int], tuple[str, ...]]:
    """Find the files in a manifest.

    First look at the paths in the manifest. Search the directory only if a file is missing there, or if a path is not
    in Unicode's form NFC.

    Args:
        config: The source.
        rows: The rows of the manifest.
        path: Path of the manifest, for messages.
        root: The directory or archive with the files.

    Returns:
        The files, the row of each file, and notes on paths that do not match exactly.
    """
    if config.manifest is not None and not os.path.isdir(root):
        listing = _list(config)
        if listing.top and all(p.startswith(listing.top) for p in rows.paths):
            rows = dataclasses.replace(rows, paths=[p.removeprefix(listing.top) for p in rows.paths])
        return _select(listing, rows, path, root, {})
    at_paths = stat_files(root, rows.paths)
    row_of = {p: row for row, p in enumerate(rows.paths)}
    if not at_paths.rejected and all(map(_is_nfc, at_paths.paths)):
        return at_paths, [row_of[p] for p in at_paths.paths], ()
    listing = stores.list_store(root or ".", strict=False)
    unlisted = at_paths if not set(at_paths.paths) <= set(listing.paths) else None
    reasons = {r.path: r.reason for r in at_paths.rejected}
    return _select(_joined(listing, unlisted), rows, path, root, reasons)


def _is_nfc(path: str) -> bool:
    return path.isascii() or unicodedata.is_normalized("NFC", path)


def _joined(listing: Listing, more: Listing | None) -> Listing:
    """Add the files of `more` that `listing` does not have: hidden files, and files outside the directory."""
    if more is None:
        return listing
    known = set(listing.paths)
    new = [number for number, path in enumerate(more.paths) if path not in known]
    return dataclasses.replace(
        listing,
        paths=[*listing.paths, *(more.paths[number] for number in new)],
        spans=np.concatenate([listing.spans, more.spans[new]]),
        sizes=np.concatenate([listing.sizes, more.sizes[new]]),
        mtimes_ns=np.concatenate([listing.mtimes_ns, more.mtimes_ns[new]]),
    )


def _select(
    listing: Listing, rows: Manifest, path: str, root: str, reasons: Mapping[str, str]
) -> tuple[Listing, list[int], tuple[str, ...]]:
    """Select the files of a listing of `root` that are in a manifest.

    Args:
        listing: The files.
        rows: The rows of the manifest.
        path: Path of the manifest, for messages.
        root: The directory, the archive or the URL with the files.
        reasons: Path -> why the file was not found.

    Returns:
        As `_named_files`.
    """
    names = [*listing.paths, *(r.path for r in listing.rejected)]
    matches = manifest_paths.match(path, rows.paths, names, rows.lines)
    missing = f"listed in the manifest, but not in the {'bucket' if files.is_url(root) else 'archive'}"
    rejected = []
    numbers: dict[int, int] = {}
    for row, number in enumerate(matches.numbers.tolist()):
        if number == manifest_paths.MISSING:
            reason = _URL_MISSING if files.is_url(rows.paths[row]) else reasons.get(rows.paths[row], missing)
            rejected.append(Rejected(path=rows.paths[row], reason=reason))
        elif number >= len(listing.paths):
            reason = listing.rejected[number - len(listing.paths)].reason
            rejected.append(Rejected(path=rows.paths[row], reason=reason))
        else:
            numbers[number] = row
    ordered = sorted(numbers, key=lambda number: names[number].split("/"))
    listed = listing.take(np.array(ordered, np.int64), rejected)
    return listed, [numbers[number] for number in ordered], matches.notes


def _scan_rows(
    config: ScanConfig,
    found: FileSet,
    kind: Kind,
    read: Callable[[FileSet, Reading, Sequence[str]], RowSource],
    least_classes: int,
) -> Sources:
    """Scan files that contain images and their labels."""
    named_kind = f"{kind.name} files of images"
    if config.label_regex:
        raise UserError(
            f"--label_regex and {named_kind} cannot be combined: a column gives the labels. Remove --label_regex."
        )
    if config.split:
        example = f"train{kind.ending} and test{kind.ending}"
        raise UserError(
            f"--split={config.split[0]} and {named_kind} cannot be combined: the splits come from the names of the"
            f" files, such as {example}, or from a column. Remove --split. To change the splits, rename the files, or"
            " pass --split_column."
        )
    source = read(found, config.reading(), config.exclude or ())
    splits = _table_splits(source.splits, config.src, config.split_column)
    if config.classes is None and source.class_names and len(source.class_names) > 1:
        config = dataclasses.replace(config, classes=source.class_names)
    sources = _sources(
        config,
        source.listing,
        list(source.labels),
        splits or [TO_BE_SPLIT] * len(source.labels),
        source.listing.rejected,
        source.groups,
        least_classes=least_classes,
    )
    return dataclasses.replace(sources, notes=(*source.notes, *sources.notes))


def _sources(
    config: ScanConfig,
    listing: Listing,
    labels: Sequence[str | None],
    splits: Sequence[int],
    rejected: Sequence[Rejected],
    groups: Sequence[str] | None = None,
    *,
    least_classes: int,
    notes: Sequence[str] = (),
) -> Sources:
    """Turn class names into labels, and keep the files of the wanted classes."""
    labels, spellings = class_names.same_spelling(labels, splits)
    counts = Counter(label for label in labels if label is not None)
    names = class_names.class_table(
        counts,
        config.wanted,
        config.src,
        rejected,
        listing,
        may_be_empty=config.new_classes,
        least=least_classes,
    )
    label_of = {name: label for label, name in enumerate(names)}
    numbers = np.array([-1 if label is None else label_of.get(label, -1) for label in labels], np.int32)
    rows = np.flatnonzero(numbers >= 0)
    listing = listing.take(rows, [])
    if groups is not None:
        groups = [groups[i] for i in rows.tolist()]
    elif config.group_regex:
        groups = _groups(config.group_regex, listing.paths)
    split_numbers = np.array(splits, np.int8)[rows]
    return Sources(
        root=config.src,
        store=listing.store,
        class_names=names,
        paths=listing.paths,
        spans=listing.spans,
        labels=numbers[rows],
        splits=split_numbers,
        groups=np.zeros(len(rows), np.uint64) if groups is None else _hashes(groups),
        sizes=listing.sizes,
        mtimes_ns=listing.mtimes_ns,
        has_splits=bool(len(rows)) and bool((split_numbers != TO_BE_SPLIT).all()),
        rejected=tuple(rejected),
        left_out={name: counts[name] for name in sorted(counts) if name not in label_of},
        notes=(*notes, *spellings),
    )


def _split_of(name: str, path: str, column: str) -> int:
    split = split_named(name)
    if split is None:
        raise UserError(
            f"{path}: {name!r} in the column {column!r} is not a split. Splits are {', '.join(SPLIT_WORDS)}. If another"
            " column has the splits, pass its name as --split_column."
        )
    return SPLITS.index(split)


def _groups(pattern: str, paths: Sequence[str]) -> list[str]:
    """Return the group of each path, or "" for a path without a group.

    Raises:
        UserError: No path matches.
    """
    compiled = re.compile(pattern)
    groups = [match[1] or "" if (match := compiled.search(path)) else "" for path in paths]
    if paths and not any(groups):
        raise UserError(
            f"--group_regex={pattern}: no path matches. Paths look like {paths[0]}. Correct the regular expression."
        )
    return groups


def _hashes(groups: Sequence[str]) -> np.ndarray:
    """Return u64[n], the hash of each group."""
    hashes = {group: group_hash(group) for group in set(groups)}
    return np.array([hashes[group] for group in groups], np.uint64)


def _check_encoding(name: str) -> None:
    try:
        codecs.lookup(name)
    except LookupError:
        raise UserError(
            f"--zip_encoding={name}: is not a known encoding. Common ones are cp949 (Korean), cp932 (Japanese), gbk and"
            " big5 (Chinese), cp1251 (Cyrillic), cp437 and cp850 (Western Europe)."
        ) from None


def _check_regex(flag: str, pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"--{flag}={pattern}: is not a regular expression: {error}.") from error
    if groups < 1:
        part = "the class" if flag == "label_regex" else "the group of images"
        raise UserError(f"--{flag}={pattern}: has no group in parentheses. Put ( ) around the part that is {part}.")
