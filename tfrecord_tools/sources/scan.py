"""What is there, nothing opened: the images of a source, sorted, with class, split and group of each."""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import hashlib
import os
import re
import shlex
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfrecord_tools.base import files, words
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.split_names import SPLIT_WORDS, SPLITS, split_named
from tfrecord_tools.layout.splitting import NO_GROUP
from tfrecord_tools.sources import (
    arrange,
    manifest,
    manifest_paths,
    object_store,
    parquet_images,
    parquet_source,
    stores,
)
from tfrecord_tools.sources.base import Files, Listing, Store, is_utf8, printable
from tfrecord_tools.sources.directory import stat_files
from tfrecord_tools.sources.folder_rules import EXAMPLES, NO_CLASS, TO_BE_SPLIT
from tfrecord_tools.sources.manifest import COLUMNS, Reading

_NAMES_SHOWN = 10  # Of classes, in a message.
_WAYS_SHOWN = 5  # From one label to another.
_ADDRESS = "an address, and no file of its name is in the source: download the images first"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """What the source is and how it says which image is of which class.

    Attributes:
        src: A directory, a zip or tar archive, a manifest (CSV or Parquet), a CSV of pixels, Parquet files of images,
            or the URL of a prefix in an object store.
        classes: Class names in label order; others are left out. None: all, sorted.
        label_regex: Searched in each path; its first group is the class. None: by directories.
        group_regex: Searched in each path; images with the same first group stay on one side of a split.
        split: `NAME=DIR` each: this directory, relative to `src`, is (part of) that split. What none of them names is
            left out. None: the names of the directories tell.
        exclude: Patterns of paths relative to `src` that are left out, also where a manifest names them: `*` stands
            for any part of a name, `**` for any directories. A pattern that names a directory means everything in it.
        zip_encoding: Encoding of the names in an archive that does not say it, such as "cp949".
        manifest: A CSV or Parquet file that names the images in `src`, their classes, and what else is known.
        path_column: The manifest's column of paths; of Parquet files of images, the column of images.
        label_column: The column of class names.
        split_column: Used if it is there.
        group_column: Used if it is there.
        label_columns: Columns of a manifest of which exactly one is 1 in each row; their names are the classes. None:
            `label_column` holds the labels.
        manifest_encoding: Encoding of a CSV manifest. None: UTF-8, or what its byte order mark says.
        relabel: CSV or Parquet file with the columns `path` and `label` (or `predicted_label`), whose images get these
            labels instead.
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
    relabel: str | None = None

    def __post_init__(self) -> None:
        if not self.src:
            raise UserError(f"--src is missing: images such as {EXAMPLES}, an archive of these, or a manifest.")
        if self.classes is not None and len(self.classes) < 2:
            raise UserError(f"--classes={','.join(self.classes)}: at least two class names, separated by commas.")
        for name in ("label_regex", "group_regex"):
            _check_regex(name, getattr(self, name))
        if self.zip_encoding:
            _check_encoding(self.zip_encoding)
        if self.manifest_path and self.split:
            raise UserError(
                "--split and a manifest exclude each other: the manifest's split column says the split of each image."
                " Remove --split, or name the column with --split_column."
            )
        if self.manifest_path and self.label_regex:
            raise UserError("--label_regex and a manifest exclude each other: the manifest gives the labels.")
        self._check_label_columns()

    def _check_label_columns(self) -> None:
        if self.label_columns is None:
            return
        given = f"--label_columns={','.join(self.label_columns)}"
        if len(self.label_columns) < 2 or len(set(self.label_columns)) < len(self.label_columns):
            raise UserError(f"{given}: must be two or more different columns, one per class.")
        if self.label_column != ScanConfig.label_column:
            raise UserError(f"{given} and --label_column={self.label_column} exclude each other: pass one of them.")

    def scan_settings(self) -> dict[str, Any]:
        """The settings that the output depends on beside the source, as JSON gives them back."""
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
        """`classes` in Unicode's form NFC, as all class names are."""
        return None if self.classes is None else tuple(unicodedata.normalize("NFC", name) for name in self.classes)

    def reading(self) -> Reading:
        """How a manifest, or a Parquet file of images, is read."""
        return Reading(
            columns={name: getattr(self, f"{name}_column") for name in COLUMNS},
            label_columns=self.label_columns or (),
            classes=self.wanted or (),
            encoding=self.manifest_encoding,
        )

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
        spans: As in `base.Listing`.
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

    def files(self, numbers: np.ndarray) -> Files:
        """Return the files with these numbers, i64[k], in the order given."""
        return Files(self.store, [self.paths[number] for number in numbers.tolist()], self.spans[numbers])


def scan(config: ScanConfig) -> Sources:
    """Find the images of a source, and the class, split and group of each.

    Raises:
        UserError: No such source, no images, fewer than two classes, two meanings, or names that cannot be kept.
    """
    if config.manifest_path:
        return _scan_manifest(config, config.manifest_path)
    if not files.is_url(config.src) and parquet_images.is_one(config.src):
        return _scan_parquet(config)
    if config.label_columns:
        raise UserError(
            f"--label_columns={','.join(config.label_columns)}: only a manifest has columns. Remove the flag."
        )
    listing, notes = _without_excluded(config, _list(config))
    arranged = arrange.arrange(
        listing,
        config.src,
        classes=config.wanted,
        label_regex=config.label_regex,
        splits=arrange.given_splits(config.split or (), listing),
    )
    return _sources(
        config,
        listing,
        arranged.labels,
        arranged.splits,
        arranged.rejected,
        notes=[*notes, *listing.notes, *arranged.notes],
    )


def _without_excluded(config: ScanConfig, listing: Listing) -> tuple[Listing, list[str]]:
    return arrange.without(listing, config.exclude, config.src) if config.exclude else (listing, [])


def _list(config: ScanConfig) -> Listing:
    if files.is_url(config.src):
        return object_store.list_objects(config.src)
    return stores.list_store(config.src, zip_encoding=config.zip_encoding)


def _scan_manifest(config: ScanConfig, path: str) -> Sources:
    root = os.path.dirname(path) if config.manifest is None else config.src
    rows = manifest.read(path, root, config.reading())
    listing, at, notes = _named(config, rows, path, root)
    row_of = dict(zip(listing.paths, at))
    listing, excluded = _without_excluded(config, listing)
    at = [row_of[p] for p in listing.paths]
    wanted = config.wanted or set(rows.labels)
    label_of = dict(zip(rows.paths, rows.labels))
    rejected = [r for r in listing.rejected if label_of.get(r.path) in {*wanted, None}]
    splits = _table_splits(rows.splits, path, config.split_column)
    sources = _sources(
        config,
        listing,
        [rows.labels[row] for row in at],
        [splits[row] for row in at] if splits else [TO_BE_SPLIT] * len(at),
        rejected,
        None if rows.groups is None else [rows.groups[row] for row in at],
    )
    return dataclasses.replace(sources, notes=(*rows.notes, *notes, *excluded, *sources.notes))


def _table_splits(names: Sequence[str] | None, path: str, column: str) -> list[int]:
    """Return the split of each row; nothing if the table has none."""
    known = {name: _split_of(name, path, column) for name in set(names or ())}
    return [known[name] for name in names or ()]


def _named(
    config: ScanConfig, rows: manifest.Manifest, path: str, root: str
) -> tuple[Listing, list[int], tuple[str, ...]]:
    """Find the files that a manifest names: a directory is only listed if some are not where they should be.

    Args:
        config: What the source is.
        rows: The manifest.
        path: The manifest's own path, for messages.
        root: Where the files are.

    Returns:
        The files, the row of each, and notes on how rows were understood.
    """
    if config.manifest is not None and not os.path.isdir(root):
        listing = _list(config)
        if listing.top and all(p.startswith(listing.top) for p in rows.paths):
            rows = dataclasses.replace(rows, paths=[p.removeprefix(listing.top) for p in rows.paths])
        return _only_named(listing, rows, path, {})
    found = stat_files(root, rows.paths)
    row_of = {p: row for row, p in enumerate(rows.paths)}
    if not found.rejected and all(map(_is_nfc, found.paths)):
        return found, [row_of[p] for p in found.paths], ()
    listing = stores.list_store(root or ".", strict=False)
    outside = found if not set(found.paths) <= set(listing.paths) else None
    reasons = {r.path: r.reason for r in found.rejected}
    return _only_named(_joined(listing, outside), rows, path, reasons)


def _is_nfc(path: str) -> bool:
    return path.isascii() or unicodedata.is_normalized("NFC", path)


def _joined(listing: Listing, more: Listing | None) -> Listing:
    """Add the files of another listing of the same store that the first does not have: hidden ones, or from outside."""
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


def _only_named(
    listing: Listing, rows: manifest.Manifest, path: str, reasons: Mapping[str, str]
) -> tuple[Listing, list[int], tuple[str, ...]]:
    """Those files of a listing that a manifest names; `reasons` says why others are not there, by their paths."""
    names = [*listing.paths, *(r.path for r in listing.rejected)]
    matches = manifest_paths.match(path, rows.paths, names, rows.lines)
    absent = "named by the manifest, but not in the archive"
    rejected = []
    numbers: dict[int, int] = {}
    for row, number in enumerate(matches.numbers.tolist()):
        if number == manifest_paths.MISSING:
            reason = _ADDRESS if files.is_url(rows.paths[row]) else reasons.get(rows.paths[row], absent)
            rejected.append(Rejected(path=rows.paths[row], reason=reason))
        elif number >= len(listing.paths):
            reason = listing.rejected[number - len(listing.paths)].reason
            rejected.append(Rejected(path=rows.paths[row], reason=reason))
        else:
            numbers[number] = row
    ordered = sorted(numbers, key=lambda number: names[number].split("/"))
    listed = listing.take(np.array(ordered, np.int64), rejected)
    return listed, [numbers[number] for number in ordered], matches.notes


def _scan_parquet(config: ScanConfig) -> Sources:
    """Scan Parquet files with the images in them."""
    if config.label_regex:
        raise UserError("--label_regex and Parquet files of images exclude each other: a column gives the labels.")
    if config.split:
        raise UserError(
            f"--split={config.split[0]} and Parquet files of images exclude each other: the splits come from the names"
            " of the files, such as train.parquet and test.parquet, or from a column. Remove --split and rename the"
            " files, or name the column with --split_column."
        )
    source = parquet_source.read(config.src, config.reading(), config.exclude or ())
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
    )
    return dataclasses.replace(sources, notes=(*source.notes, *sources.notes))


def _sources(
    config: ScanConfig,
    listing: Listing,
    labels: Sequence[str | None],
    splits: Sequence[int],
    rejected: Sequence[Rejected],
    groups: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Sources:
    """Makes numbers of the names and leaves out what is not wanted."""
    labels, spellings = _same_spelling(labels, splits)
    labels, relabelled, unchanged = _relabel(config, listing.paths, labels)
    counts = Counter(label for label in labels if label is not None)
    class_names = _class_names(config, counts, rejected, listing)
    label_of = {name: label for label, name in enumerate(class_names)}
    numbers = np.array([-1 if label is None else label_of.get(label, -1) for label in labels], np.int32)
    rows = np.flatnonzero(numbers >= 0)
    listing = listing.take(rows, [])
    if groups is not None:
        groups = [groups[i] for i in rows.tolist()]
    elif config.group_regex:
        groups = _groups(config.group_regex, listing.paths)
    sides = np.array(splits, np.int8)[rows]
    return Sources(
        root=config.src,
        store=listing.store,
        class_names=class_names,
        paths=listing.paths,
        spans=listing.spans,
        labels=numbers[rows],
        splits=sides,
        groups=np.zeros(len(rows), np.uint64) if groups is None else _hashes(groups),
        sizes=listing.sizes,
        mtimes_ns=listing.mtimes_ns,
        has_splits=bool(len(sides)) and bool((sides != TO_BE_SPLIT).all()),
        rejected=tuple(rejected),
        left_out={name: counts[name] for name in sorted(counts) if name not in label_of},
        notes=(*notes, *spellings, *_relabel_notes(relabelled, unchanged)),
        relabelled=relabelled,
    )


def _relabel(
    config: ScanConfig, paths: Sequence[str], labels: Sequence[str | None]
) -> tuple[Sequence[str | None], Counter[tuple[str, str]], int]:
    """Gives the images that `config.relabel` names the labels that stand there; counts what is changed and what is not.

    Raises:
        UserError: It cannot be read, or names a path that is none of an image, or a label that is none of a class.
    """
    if config.relabel is None:
        return labels, Counter(), 0
    reading = Reading(
        columns={"path": "path", "label": "label"},
        also={"label": "predicted_label"},  # In suspects.csv, whose column `label` it was in earlier releases.
        classes=set(filter(None, labels)),
        flag="relabel",
        exact=True,
    )
    rows = manifest.read(config.relabel, config.src, reading)
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
    return changed, counts, len(rows.paths) - counts.total()


def _relabel_notes(relabelled: Counter[tuple[str, str]], unchanged: int) -> Iterator[str]:
    if relabelled:
        ways = ", ".join(f"{count:,} from {old} to {new}" for (old, new), count in relabelled.most_common(_WAYS_SHOWN))
        more = f", {len(relabelled) - _WAYS_SHOWN:,} ways more" if len(relabelled) > _WAYS_SHOWN else ""
        yield f"{words.number(relabelled.total(), 'image')} relabelled: {ways}{more}"
    if unchanged:
        singular, plural = (
            "line of --relabel changes nothing: its image has",
            "lines of --relabel change nothing: their images have",
        )
        yield f"{words.number(unchanged, singular, plural)} that label already"


def _split_of(name: str, path: str, column: str) -> int:
    split = split_named(name)
    if split is None:
        raise UserError(
            f"{path}: {name!r} in the column {column!r} is not the name of a split. Use {', '.join(SPLIT_WORDS)},"
            " or name another column with --split_column."
        )
    return SPLITS.index(split)


def _same_spelling(labels: Sequence[str | None], splits: Sequence[int]) -> tuple[Sequence[str | None], list[str]]:
    """Write names in Unicode's form NFC, and as one class those of different splits that differ only by capitals.

    Returns:
        The labels, and a note for each class of two spellings: the first split's spelling is kept.
    """
    sides: dict[str, set[int]] = {}
    for label, split in {*zip(labels, splits)}:
        if label is not None:
            sides.setdefault(label, set()).add(split)
    spelled = {label: unicodedata.normalize("NFC", label) for label in sides}
    places: dict[str, set[int]] = {}
    for label, name in spelled.items():
        places.setdefault(name, set()).update(sides[label])
    first: dict[str, list[str]] = {}
    for name in sorted(places, key=lambda name: (min(places[name]), name)):
        first.setdefault(name.casefold(), []).append(name)
    notes = []
    for names in first.values():
        taken = [side for name in names for side in places[name]]
        if len(names) > 1 and len(taken) == len(set(taken)):
            notes.append(f"{' and '.join(names)} are one class, {names[0]}: they differ only by capital letters")
            spelled |= {label: names[0] for label, name in spelled.items() if name in names}
    if all(label == name for label, name in spelled.items()):
        return labels, notes
    return [None if label is None else sys.intern(spelled[label]) for label in labels], notes


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


def _class_names(
    config: ScanConfig, counts: Counter[str], rejected: Sequence[Rejected], listing: Listing
) -> tuple[str, ...]:
    """Returns the class table: `classes` if given, else the found names sorted; checked."""
    root = config.src
    if not counts:
        raise UserError(f"--src={root}: {_why_none(rejected, _table_hint(root, arrange.tables_beside(listing)))}")
    names = tuple(sorted(counts, key=_by_number_or_name(counts)) if config.wanted is None else config.wanted)
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
            wrong += f" Expected {EXAMPLES}. Did you mean --src={inner}, or a directory above?"
        tables = arrange.tables_beside(listing)
        raise UserError(f"{wrong} {_table_hint(root, tables)}" if tables else wrong)
    return names


def _why_none(rejected: Sequence[Rejected], hint: str) -> str:
    """Says why there is no image of any class."""
    strange = [r for r in rejected if r.reason != NO_CLASS]
    if strange:
        first = strange[0]
        return f"no image of any class; {len(rejected):,} files cannot be used, such as {first.path}: {first.reason}."
    what = "image such as {} lies" if len(rejected) == 1 else "images such as {} lie"
    loose = f" {len(rejected):,} {what.format(rejected[0].path)} in no class directory." if rejected else ""
    return f"no images in class directories.{loose} Expected {EXAMPLES}. {hint}"


def _table_hint(root: str, tables: Sequence[str]) -> str:
    if tables:
        flag = f"--manifest={shlex.quote(os.path.join(root, tables[0]))}"
        return f"If {tables[0]} holds the labels, pass {flag}."
    return "Labels in a table are read with --manifest."


def _by_number_or_name(names: Counter[str]) -> Callable[[str], Any]:
    """Names that are all numbers are sorted as such: 10 behind 9."""
    if all(name.isascii() and name.isdigit() for name in names):
        return lambda name: (int(name), name)
    return str


def _check_class_name(root: str, name: str) -> None:
    if not is_utf8(name):
        raise UserError(
            f"{root}: the class name {printable(name)!r} is not valid UTF-8. Rename it, or leave it out with --exclude."
        )
    if not name or name != name.strip() or any(unicodedata.category(c) == "Cc" for c in name):
        raise UserError(
            f"{root}: the class name {name!r} cannot be kept: TensorFlow Datasets strips spaces at its ends and splits"
            " it at line breaks. Rename the directory, leave it out with --exclude, or give the labels with --manifest."
        )


def _check_distinct(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.get(name.casefold())) is not None:
            what = "stands twice in --classes" if other == name else f"differs from {other!r} only by capital letters"
            raise UserError(
                f"the class name {name!r} {what}. Class names must be distinct. Leave one out with --exclude, or give"
                " the labels in a table with --manifest."
            )
        seen[name.casefold()] = name


def _check_encoding(name: str) -> None:
    try:
        codecs.lookup(name)
    except LookupError:
        raise UserError(
            f"--zip_encoding={name}: not a known encoding. Common ones are cp949 (Korean), cp932 (Japanese), gbk and"
            " big5 (Chinese), cp1251 (Cyrillic), cp437 and cp850 (Western Europe)."
        ) from None


def _check_regex(flag: str, pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"--{flag}={pattern}: no regular expression: {error}.") from error
    if groups < 1:
        raise UserError(f"--{flag}={pattern}: it has no group; put parentheses around the part that is meant.")
