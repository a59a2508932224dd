"""Decide which directories of a source are splits, which are classes, and which are left out.

If a directory has two possible meanings, `read` does not guess. It raises an error that names the flags to choose a
meaning. docs/folders.md shows each rule with an example.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from tfrecord_tools.base import words
from tfrecord_tools.errors import UserError, as_flag, named
from tfrecord_tools.layout.split_names import SPLITS, split_named, without_split
from tfrecord_tools.sources.folder_names import BESIDE_IMAGES, KINDS, WITHOUT_LABEL, classes_in_names, plain
from tfrecord_tools.sources.folder_tree import Node, find, names_below, only_directory, tops_of

TO_BE_SPLIT = -1  # The split of a file if the source does not give one.
EXAMPLES = "cat_dog_img/train/cats/1.jpg (split/class/image) or cat_dog_img/cats/1.jpg (class/image)"
NO_CLASS = "not inside a class directory"
NO_SPLIT = "not inside a split directory"
NOT_IN_NAME = "its name does not contain a class (see --label_regex)"
_MAX_SHOWN = 6  # Names in a message.
_MAX_LISTED = 20  # Names in the value of a flag.


@dataclasses.dataclass(frozen=True)
class Root:
    """A directory that contains class directories, images of one class, or files named after classes.

    Attributes:
        split: Index into `SPLITS`, or `TO_BE_SPLIT`.
        label: The class of all images in the directory. None: the directories in it are the classes, or, if `by_name`,
            the file names contain the classes.
        by_name: Whether the names of the files contain the classes.
        left_out: The reason that the images are left out. It is shown to the user. "": they are used.
    """

    split: int
    label: str | None = None
    by_name: bool = False
    left_out: str = ""


@dataclasses.dataclass(frozen=True)
class Meaning:
    """The meaning of a directory for the files in it.

    Attributes:
        split: Index into `SPLITS`, or `TO_BE_SPLIT`.
        label: The class of the files. None: the file names contain the classes (`by_name`), or the files have no class
            (`reason`, `left_out`).
        by_name: Whether the names of the files contain the classes.
        reason: The reason that the files have no class. "": they have a class.
        left_out: The reason that the files are left out. It is shown to the user. "": they are used.
    """

    split: int
    label: str | None
    by_name: bool = False
    reason: str = ""
    left_out: str = ""


_NO_CLASS = Meaning(TO_BE_SPLIT, None, reason=NO_CLASS)
_NOT_IN_SPLIT_FLAG = Meaning(TO_BE_SPLIT, None, left_out="no --split includes their directory")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The meaning of all directories of a source.

    Attributes:
        roots: Path of a directory -> its role. For a file below several roots, the innermost root counts.
        notes: Notes for the user.
        outside: The meaning of files that are not below a root.
    """

    roots: Mapping[str, Root]
    notes: tuple[str, ...] = ()
    outside: Meaning = _NO_CLASS

    def meaning(self, directory: str) -> Meaning:
        """Return the meaning of `directory` for the files directly in it."""
        path = directory
        while path not in self.roots:
            if not path:
                return self.outside
            path = path.rpartition("/")[0]
        root = self.roots[path]
        if root.left_out or root.by_name:
            return Meaning(root.split, None, by_name=root.by_name, left_out=root.left_out)
        rest = directory[len(path) :].strip("/") if path else directory
        label = root.label or sys.intern(unicodedata.normalize("NFC", rest.partition("/")[0]))
        return Meaning(root.split, label or None, reason="" if label else NO_CLASS)


def read(
    top: Node,
    src: str,
    classes: Collection[str] | None,
    splits: Sequence[tuple[str, str]],
    tables: Sequence[str] = (),
) -> Layout:
    """Find the meaning of the directories of a source.

    Args:
        top: The tree of the directories with images.
        src: The source, for messages.
        classes: The names in --classes. If several meanings are possible, these names decide. None: the flag is
            not set.
        splits: The values of --split as (split, path of a directory). Empty: the names of the directories decide.
        tables: Paths of tables that may contain the labels. They lie beside the directories.

    Raises:
        UserError: The directories have two possible meanings, or a directory in --split does not exist.
    """
    return _Reader(src, frozenset(classes or ()), tables).read(top, splits)


def read_splits(top: Node, src: str, classes: Collection[str] | None, splits: Sequence[tuple[str, str]]) -> Layout:
    """Find only the splits. Used if --label_regex gives the classes. Arguments and errors: see `read`."""
    return _Reader(src, frozenset(classes or ())).read_splits(top, splits)


def read_tables(names: Sequence[str], src: str, splits: Sequence[tuple[str, str]]) -> Layout:
    """Find the split of each CSV of pixels from its name without the ending: train.csv, test.csv.

    Args:
        names: The names of the files. A single file is split automatically, whatever its name.
        src: The source, for messages.
        splits: The values of --split as (split, name of a file). Empty: the names decide.

    Raises:
        UserError: Only some files have the name of a split, or two files have the same split.
    """
    top = Node()
    for name in names:
        top.children[name] = Node(name, os.path.splitext(name)[0])
    return _Reader(src, frozenset()).read_tables(top, splits)


class _Reader:
    """Apply the rules. All methods use the name of the source, the wanted classes and the list of notes."""

    def __init__(self, src: str, classes: frozenset[str], tables: Sequence[str] = ()):
        self._src = src
        self._classes = classes
        self._tables = tables
        self._notes: list[str] = []

    def read(self, top: Node, splits: Sequence[tuple[str, str]]) -> Layout:
        roots = self._given_roots(top, splits) if splits else self._inferred_roots(self._unwrapped(top))
        return Layout(roots=roots, notes=tuple(self._notes), outside=_NOT_IN_SPLIT_FLAG if splits else _NO_CLASS)

    def read_splits(self, top: Node, splits: Sequence[tuple[str, str]]) -> Layout:
        if splits:
            split_dirs = self._given_directories(top, splits)
            roots = {node.path: Root(SPLITS.index(split), by_name=True) for split, node in split_dirs}
            return Layout(roots=roots, outside=_NOT_IN_SPLIT_FLAG)
        node = self._unwrapped(top)
        if any(map(split_named, node.names)) and not self._classes & {*filter(split_named, node.names)}:
            self._refuse_mixture(node)
            self._refuse_two_names(node)
            roots = {
                child.path: Root(SPLITS.index(split_named(child.name) or ""), by_name=True)
                for child in node.children.values()
            }
            return Layout(roots=roots, outside=Meaning(TO_BE_SPLIT, None, reason=NO_SPLIT))
        return Layout(roots={"": Root(TO_BE_SPLIT, by_name=True)})

    def read_tables(self, top: Node, splits: Sequence[tuple[str, str]]) -> Layout:
        tables = list(top.children.values())
        if splits:
            given = {path: split for split, path in splits}
            pairs = [(given.get(table.path) or given.get(table.name), table) for table in tables]
            if unknown := given.keys() - {name for table in tables for name in (table.path, table.name)}:
                raise UserError(
                    f"--split={given[min(unknown)]}={min(unknown)}: {self._src} has no CSV of pixels with this name."
                    f" The CSVs of pixels are {_and([table.path for table in tables])}."
                )
        elif len(tables) == 1 or not any(split_named(table.name) for table in tables):
            self._refuse_parts(tables)
            pairs = [("", table) for table in tables]
            if len(tables) > 1:
                self._notes.append(
                    f"{len(tables):,} CSVs of pixels are read as one source: {named(list(top.children), 6)}"
                )
        else:
            self._refuse_mixture(top)
            self._refuse_two_names(top)
            pairs = [(split_named(table.name), table) for table in tables]
        roots = {table.path: Root(SPLITS.index(split) if split else TO_BE_SPLIT) for split, table in pairs}
        if splits:
            roots = {path: root for path, root in roots.items() if root.split != TO_BE_SPLIT}
        return Layout(roots=roots, notes=tuple(self._notes), outside=_NOT_IN_SPLIT_FLAG)

    def _given_roots(self, top: Node, splits: Sequence[tuple[str, str]]) -> dict[str, Root]:
        return self._split_roots(self._given_directories(top, splits))

    def _given_directories(self, top: Node, splits: Sequence[tuple[str, str]]) -> list[tuple[str, Node]]:
        directories: dict[str, tuple[str, Node]] = {}
        for split, path in splits:
            node = find(top, path)
            if node is None:
                raise UserError(
                    f"--split={split}={path}: {self._src} has no directory {path!r} with images. The directories at the"
                    f" top of --src are: {_and(sorted(top.names)) if top.children else 'none'}."
                )
            other = next((p for p in directories if _is_in(node.path, p) or _is_in(p, node.path)), None)
            if other is not None:
                raise UserError(
                    f"--split={split}={path}: --split={directories[other][0]}={other} already includes these"
                    " images. Name each directory once."
                )
            directories[node.path] = split, node
        return list(directories.values())

    def _unwrapped(self, node: Node) -> Node:
        """While a directory contains only one directory, go into the inner directory. Return the last one."""
        skipped = []
        while len(node.children) == 1 and not node.images:
            (child,) = node.children.values()
            is_kind = plain(child.name) in KINDS
            if split_named(child.name) or child.name in self._classes:
                break
            if child.images and (child.children or not is_kind):
                break  # Stop here: the images of the child would lose their class.
            node = child
            skipped.append(child.name)
        if skipped:
            self._notes.append(
                f"the directory {'/'.join(skipped)} holds all {words.number(node.count, 'image')}; it is not a class"
            )
        return node

    def _inferred_roots(self, node: Node) -> dict[str, Root]:
        """Return the roots below a directory that may contain splits, classes, or images named after classes."""
        if not node.children:
            return {node.path: Root(TO_BE_SPLIT, by_name=self._named_by_class([node]))}
        all_given = bool(self._classes) and self._classes <= {*node.names}
        if all_given or not any(map(split_named, node.names)):
            return self._class_roots([(TO_BE_SPLIT, node)])
        self._refuse_mixture(node)
        self._refuse_two_names(node)
        return self._split_roots([(split_named(child.name) or "", child) for child in node.children.values()])

    def _refuse_mixture(self, node: Node) -> None:
        """Refuse directories with the names of splits beside directories with other names.

        Another directory may be a split with an unknown name, or "train" may be a class.
        """
        others = [child for child in node.children.values() if not split_named(child.name)]
        if not others:
            return
        splits = [child for child in node.children.values() if split_named(child.name)]
        if any(child.children or classes_in_names(child.images) for child in splits):
            meanings = (
                f"{_split_flags(splits)}, or {_exclude_flags(others)}, to use only the splits. Pass"
                f" {_classes_flag(node.names)} if all of them are classes"
            )
        else:
            meanings = (
                f"{_classes_flag(node.names)} if all of them are classes, or {_exclude_flags(splits)} to leave out"
                f" {_and([c.name for c in splits])}"
            )
        raise UserError(
            f"{self._src}: {_and([c.name for c in splits])} {_are(splits)} named like"
            f" {'a split' if len(splits) == 1 else 'splits'}, but {_and([c.name for c in others])} {_are(others)} not,"
            f" and all of them contain images. Pass {meanings}."
        )

    def _refuse_two_names(self, node: Node) -> None:
        """Refuse several directories for the same split, such as val and validation."""
        for split in SPLITS:
            same = [child for child in node.children.values() if split_named(child.name) == split]
            if len(same) > 1:
                raise UserError(
                    f"{self._src}: {_and([c.name for c in same])} mean the same split, {split}. Pass"
                    f" {_split_flags(list(node.children.values()))} to use all of them, or pass"
                    f" {_exclude_flags(same[1:])} to use only {same[0].name}."
                )

    def _split_roots(self, split_dirs: Sequence[tuple[str, Node]]) -> dict[str, Root]:
        """Return the roots of splits, from pairs of a split and its directory."""
        inner = [(split, node, self._unwrapped_split(node, split_dirs)) for split, node in split_dirs]
        skipped = [node.path for _, outer, node in inner if node is not outer and node.children]
        if skipped:
            self._notes.append(f"each of {named(skipped, _MAX_SHOWN)} holds all images of its split; it is not a class")
        with_classes = [(split, node) for split, _, node in inner if node.children]
        if not with_classes:
            return self._named_split_roots([(split, node) for split, _, node in inner])
        roots = self._class_roots([(SPLITS.index(split), node) for split, node in with_classes])
        for split, outer, node in inner:
            if not node.children:
                roots[outer.path] = self._unlabeled(split, outer)
        return roots

    def _unwrapped_split(self, node: Node, split_dirs: Sequence[tuple[str, Node]]) -> Node:
        """Go down through a directory that contains a whole split: train/images/cats, test/unknown/1.jpg.

        A directory is not skipped if it is the only class of a split: validation/cats/1.jpg, with train/cats and
        train/dogs.
        """
        known = {*self._classes}
        for _, other in split_dirs:
            inner = other if other is node else only_directory(other)
            known |= {*inner.names} if other is not node and len(inner.children) > 1 else set()
        while len(node.children) == 1 and not node.images:
            (child,) = node.children.values()
            is_generic = plain(child.name) in KINDS | WITHOUT_LABEL or split_named(child.name)
            is_mixed = child.images and child.children
            if child.name in known or is_mixed or not (is_generic or child.children or known):
                break
            node = child
        return node

    def _unlabeled(self, split: str, outer: Node) -> Root:
        if split == "train":
            raise UserError(
                f"{self._src}: {outer.path} has no class directories, but other splits have them. Expected {EXAMPLES}."
                f" Leave {outer.path} out with {_exclude_flags([outer])}, or pass a table of the labels as --manifest."
            )
        return Root(SPLITS.index(split), left_out=f"{outer.path} has no labels, since it has no class directories")

    def _named_split_roots(self, split_dirs: Sequence[tuple[str, Node]]) -> dict[str, Root]:
        """Return the roots of splits without class directories. File names may contain the classes."""
        classes = {node.path: classes_in_names(node.images) for _, node in split_dirs}
        train_classes = {name for split, node in split_dirs if split == "train" for name in classes[node.path]}
        labeled = [
            node for _, node in split_dirs if classes[node.path].keys() & (train_classes or classes[node.path].keys())
        ]
        by_name = self._named_by_class(labeled)
        roots = {node.path: Root(SPLITS.index(split), by_name=by_name) for split, node in split_dirs}
        for split, node in split_dirs if by_name else ():
            if node not in labeled:
                why = f"{node.path} has no labels, since the names of its files do not contain a class of train"
                roots[node.path] = Root(SPLITS.index(split), left_out=why)
        return roots

    def _named_by_class(self, nodes: Sequence[Node]) -> bool:
        """Return whether the names of the files contain several classes. If so, add a note."""
        named_paths = [item for node in nodes for item in classes_in_names(node.images).items()]
        if len({name for name, _ in named_paths}) < 2:
            return False
        name, path = named_paths[0]
        count = sum(len(node.images) for node in nodes)
        self._notes.append(
            f"the classes of {words.number(count, 'image')} come from the names of the files, for example {name} from"
            f" {path} (see --label_regex)"
        )
        return True

    def _class_roots(self, split_dirs: Sequence[tuple[int, Node]]) -> dict[str, Root]:
        """Return the roots for class directories: usually one root per split, the directory above the classes."""
        classes: dict[str, list[Node]] = {}
        for _, node in split_dirs:
            for child in node.children.values():
                classes.setdefault(child.name, []).append(child)
        if not (self._classes and self._classes <= classes.keys()):
            self._refuse_kinds(classes)
            first = [nodes[0] for nodes in classes.values()]
            self._refuse_parts(first)
            self._refuse_copies(first)
            self._refuse_numbered_parts(first)
            if split_dirs[0][0] == TO_BE_SPLIT and (roots := self._splits_in_classes(classes)):
                return roots
            below = {nodes[0].path: names_below(nodes) for nodes in classes.values()}
            with_images = {nodes[0].path for nodes in classes.values() if any(node.images for node in nodes)}
            if self._classes and self._classes <= {name for names in below.values() for name in names}:
                upper = [top for _, node in split_dirs for child in node.children.values() for top in tops_of(child)]
                counts = [f"{top.path} ({top.count:,})" for top in upper]
                self._notes.append(f"the classes lie in {len(upper):,} directories: {named(counts, _MAX_SHOWN)}")
                return {
                    n.path: Root(split)
                    for split, node in split_dirs
                    for c in node.children.values()
                    for n in tops_of(c)
                }
            self._refuse_shared({path: below[path] for path in below if path not in with_images}, classes)
        self._note_merged(classes)
        return {node.path: Root(split) for split, node in split_dirs}

    def _refuse_parts(self, nodes: Sequence[Node]) -> None:
        """Refuse names that differ only by the name of a split: asl_train and asl_test, rps and rps-test-set."""
        rests = [without_split(node.name) for node in nodes]
        for rest, split in rests:
            same = [(node, other_split) for node, (other, other_split) in zip(nodes, rests) if other == rest]
            if split and len(same) > 1 and len({each_split for _, each_split in same}) > 1:
                flags = " ".join(f"--split={each_split or 'train'}={_quoted(node.path)}" for node, each_split in same)
                raise UserError(
                    f"{self._src}: the names of {_and([node.name for node, _ in same])} differ only by the name of a"
                    f" split. If these directories are splits, pass {flags}. If they are classes, pass"
                    f" {_classes_flag(node.name for node in nodes)}."
                )

    def _refuse_copies(self, nodes: Sequence[Node]) -> None:
        """Refuse a class directory that contains directories with the names of its neighbors.

        It may be a copy of the classes.
        """
        names = {node.name for node in nodes}
        for node in nodes:
            if inner := sorted({*node.names} & (names - {node.name})):
                raise UserError(
                    f"{self._src}: {node.path} contains directories with the same names as the directories beside it"
                    f" ({', '.join(inner[:_MAX_SHOWN])}). If {node.path} is a copy of the classes, leave it out with"
                    f" {_exclude_flags([node])}. If {node.path} is a class, pass {_classes_flag(names)}."
                )

    def _refuse_numbered_parts(self, nodes: Sequence[Node]) -> None:
        """Refuse names such as images_part_1 and images_part_2 beside a table: perhaps they are not classes."""
        stems = {re.sub(r"\d+", "", node.name) for node in nodes}
        if self._tables and len(nodes) > 1 and len(stems) == 1 and not any(node.children for node in nodes):
            table = os.path.join(self._src, self._tables[0])
            raise UserError(
                f"{self._src}: the names of {_and([node.name for node in nodes])} differ only by numbers, and"
                f" {self._tables[0]} may contain the labels. If this table contains the labels, pass"
                f" --manifest={shlex.quote(table)}. If the directories are classes, pass"
                f" {_classes_flag(node.name for node in nodes)}."
            )

    def _refuse_kinds(self, classes: Mapping[str, Sequence[Node]]) -> None:
        """Refuse directories such as images and masks beside each other: they are not classes."""
        kinds = [nodes[0] for name, nodes in classes.items() if plain(name) in KINDS]
        if len(classes) < 2 or len(kinds) < len(classes):
            return
        beside = [node for node in kinds if plain(node.name) in BESIDE_IMAGES] or kinds[1:]
        raise UserError(
            f"{self._src}: {_and([node.name for node in kinds])} are names of kinds of files, not of classes. Leave out"
            f" the directories that you do not need, for example with {_exclude_flags(beside)}. If the directories are"
            f" classes, pass {_classes_flag(classes)}."
        )

    def _splits_in_classes(self, classes: Mapping[str, Sequence[Node]]) -> dict[str, Root]:
        """Return the roots of a layout class/split/image. {}: it is another layout.

        Every class must contain splits and nothing else.
        """
        nodes = [node for same in classes.values() for node in same]
        with_splits = [node for node in nodes if any(map(split_named, node.names))]
        if not with_splits or len(nodes) < 2:
            return {}
        others = [node for node in nodes if node.images or not all(map(split_named, node.names))]
        if others:
            inner = [child for child in others[0].children.values() if not split_named(child.name)]
            odd = inner[0] if inner else others[0]
            fault = "is not a split" if inner else "has images that are in no split"
            raise UserError(
                f"{self._src}: {with_splits[0].path} contains splits ({', '.join(sorted(with_splits[0].names))}), but"
                f" {odd.path} {fault}. Leave {odd.path} out with {_exclude_flags([odd])}. Or pass"
                f" {_classes_flag(classes)}: all images below the directory of a class are then images of this class,"
                " and the splits are ignored."
            )
        below = {child.path: names_below([child]) for node in nodes for child in node.children.values()}
        if self._classes and self._classes <= {name for names in below.values() for name in names}:
            return {path: Root(SPLITS.index(split_named(path.rpartition("/")[2]) or "")) for path in below}
        self._refuse_shared(below, classes)
        for node in nodes:
            self._refuse_two_names(node)
        return {
            child.path: Root(SPLITS.index(split_named(child.name) or ""), label=sys.intern(node.name))
            for node in nodes
            for child in node.children.values()
        }

    def _refuse_shared(self, below: Mapping[str, Sequence[str]], classes: Collection[str]) -> None:
        """Refuse directories that contain directories with equal names: either level may be the classes.

        Args:
            below: Path of a directory without images directly in it -> the names of the directories in it.
            classes: The names of the upper directories.
        """
        pairs = [name for names in below.values() for name in set(names)]
        times = Counter(pairs)
        shared = sorted(name for name in times if times[name] > 1)
        if 2 * sum(times[name] for name in shared) < len(pairs) or not shared or len(times) < 2:
            return  # A dataset needs two classes, so a single shared name cannot be the only class.
        tops = [path for path, names in below.items() if not {*shared}.isdisjoint(names)]
        by_name = [without_split(path.rpartition("/")[2])[1] for path in tops]
        splits = [split or "train" for split in by_name] if any(by_name) else ["train", "validation"]
        flags = " ".join(f"--split={split}={_quoted(path)}" for split, path in zip(splits, tops))
        beside = [path for path in tops if plain(path.rpartition("/")[2]) in BESIDE_IMAGES]
        without = f" --exclude={_quoted(_literal(beside[0]))} leaves {beside[0]} out." if beside else ""
        raise UserError(
            f"{self._src}: {_and(tops)} contain directories with the same names ({named(shared, _MAX_SHOWN)}). If the"
            f" upper directories are splits, pass {flags} (one for each directory). If the lower directories are the"
            f" classes and there are no splits, pass {_classes_flag(shared)}. If the upper directories are the classes,"
            f" pass {_classes_flag(classes)}.{without}"
        )

    def _note_merged(self, classes: Mapping[str, Sequence[Node]]) -> None:
        """Note which directories are merged into the class above them."""
        inner = {name: names for name, nodes in classes.items() if (names := _inner_names(nodes))}
        every = sorted({name for names in inner.values() for name in names})
        if not inner or _is_one_kind(every, classes):
            return
        count = sum(child.count for nodes in classes.values() for node in nodes for child in node.children.values())
        self._notes.append(
            f"{words.number(count, 'image')} in subdirectories are merged into their class:"
            f" {_merged_directories(inner)}; {_merge_advice(every)}"
        )


def _inner_names(nodes: Sequence[Node]) -> list[str]:
    return sorted({name for node in nodes for name in node.names})


def _is_one_kind(inner: Sequence[str], classes: Mapping[str, Sequence[Node]]) -> bool:
    """Whether all images of each class are in one subdirectory such as "images": cats/images/1.jpg."""
    if len(inner) != 1 or plain(inner[0]) not in KINDS - BESIDE_IMAGES:
        return False
    return not any(node.images for nodes in classes.values() for node in nodes)


def _merged_directories(inner: Mapping[str, Sequence[str]]) -> str:
    """List the directories in each class: `a, b in each of cats, dogs`, or `cats (a), dogs (b)`."""
    if len(inner) > 1 and len({tuple(names) for names in inner.values()}) == 1:
        return f"{named(next(iter(inner.values())), _MAX_SHOWN)} in each of {named(list(inner), _MAX_SHOWN)}"
    return named([f"{name} ({named(names, _MAX_SHOWN)})" for name, names in inner.items()], _MAX_SHOWN)


def _merge_advice(inner: Sequence[str]) -> str:
    beside = [name for name in inner if plain(name) in BESIDE_IMAGES]
    if len(inner) > 1 and not beside and not all(plain(name) in KINDS for name in inner):
        return f"{_classes_flag(inner)} makes them classes"
    name = (beside or inner)[0]
    return f"--exclude={_quoted(f'**/{_literal(name)}')} leaves {name} out"


def _is_in(path: str, directory: str) -> bool:
    return path == directory or not directory or path.startswith(f"{directory}/")


def _split_flags(nodes: Sequence[Node]) -> str:
    return " ".join(f"--split={split_named(node.name) or 'train'}={_quoted(node.path)}" for node in nodes[:_MAX_SHOWN])


def _exclude_flags(nodes: Sequence[Node]) -> str:
    return " ".join(f"--exclude={_quoted(_literal(node.path))}" for node in nodes[:_MAX_SHOWN])


def _literal(path: str) -> str:
    """Return the pattern of --exclude that matches only this path."""
    return re.sub(r"[*?\[]", r"[\g<0>]", path)


def _classes_flag(names: Iterable[str]) -> str:
    """Return --classes with these names, ready to copy. With many names, describe the flag instead."""
    names = sorted(names)
    return as_flag("classes", names) if len(names) <= _MAX_LISTED else f"--classes with all {len(names):,} names"


def _are(nodes: Sequence[Node]) -> str:
    return "is" if len(nodes) == 1 else "are"


def _quoted(path: str) -> str:
    return path if re.fullmatch(r"[\w./-]+", path) else shlex.quote(path)


def _and(names: Sequence[str]) -> str:
    if len(names) > _MAX_SHOWN:
        return named(names, _MAX_SHOWN)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
