"""What the directories of a source mean: which ones are splits, which ones are classes, and what is left out.

Nothing is guessed where two meanings are possible: `read` stops and names the flag that decides. docs/folders.md shows
the rules with an example of each.
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

TO_BE_SPLIT = -1  # The split of a file whose side the source does not give.
EXAMPLES = "cat_dog_img/train/cats/1.jpg (split/class/image) or cat_dog_img/cats/1.jpg (class/image)"
NO_CLASS = "not inside a class directory"
NO_SPLIT = "lies beside the directories of the splits, in none of them"
NOT_IN_NAME = "its name does not say its class (see --label_regex)"
IMAGE_ENDINGS = frozenset(
    {
        "jpg", "jpeg", "jpe", "jfif", "jif", "png", "apng", "gif", "bmp", "dib", "tif", "tiff", "webp", "avif", "heic",
        "heif", "hif", "jxl", "jp2", "j2k", "jpf", "jpx", "jpm", "j2c", "jpc", "ppm", "pgm", "pbm", "pnm", "pam", "pfm",
        "ico", "tga", "psd", "svg", "dcm", "dicom", "nef", "cr2", "cr3", "arw", "dng",
        "orf", "rw2", "raf", "exr", "hdr",
    }
)  # fmt: skip
# Directories of these names lie beside the images of a class, or of a dataset, and hold something else than its images.
_BESIDE_IMAGES = frozenset(
    {
        "mask", "masks", "label", "labels", "annotation", "annotations", "ann", "anns", "segmentation", "segmentations",
        "gt", "groundtruth", "overlay", "overlays", "thumb", "thumbs", "thumbnail", "thumbnails", "depth", "edges",
    }
)  # fmt: skip
# Directories of these names say what kind of file they hold. They are not classes, and may be the same in every class.
_KINDS = _BESIDE_IMAGES | {
    "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "pic", "pics", "frames", "jpg", "jpeg",
    "jpegs", "png", "pngs", "jpegimages", "original", "originals", "raw", "rgb", "color", "data",
}  # fmt: skip
# Names that cameras and programs give to files, whatever is in the picture.
_DEVICES = frozenset(
    {
        "img", "image", "images", "pic", "picture", "photo", "dsc", "dscn", "dscf", "pxl", "mvi", "gopr", "vid",
        "video", "frame", "scan", "screenshot", "file", "untitled", "copy",
    }
)  # fmt: skip
_WITHOUT_LABEL = frozenset({"unknown", "unlabeled", "unlabelled", "nolabel", "nolabels", "none", "all"})
_NAMED_BY_CLASS = re.compile(r"(?:^|/)([^/]*?[^/\d._ -])[._ -]*\d+\.[^./]+$")  # cat.0.jpg, american_bulldog_100.jpg
_MIN_SHARE_NAMED = 0.9
_MAX_SHOWN = 6  # Names in a message.
_MAX_LISTED = 20  # Names in the value of a flag.


@dataclasses.dataclass(frozen=True)
class Root:
    """A directory that holds class directories, or the images of one class.

    Attributes:
        split: Index into `SPLITS`, or `TO_BE_SPLIT`.
        label: The class of all its images. None: the directories in it are the classes.
        by_name: The names of its files tell the class.
        left_out: Why its images do not count, in words for a note; "" if they do.
    """

    split: int
    label: str | None = None
    by_name: bool = False
    left_out: str = ""


@dataclasses.dataclass(frozen=True)
class Place:
    """What a directory says of the files in it; `reason` is why they have no class, "" if they have one."""

    split: int
    label: str | None
    by_name: bool = False
    reason: str = ""
    left_out: str = ""


_NO_CLASS = Place(TO_BE_SPLIT, None, reason=NO_CLASS)
_UNNAMED = Place(TO_BE_SPLIT, None, left_out="no --split names their directory")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How the directories of a source are understood.

    Attributes:
        roots: Path of a directory -> what it is. The longest path that a file lies below counts.
        notes: What the user should know.
        outside: What holds for files that lie below none of the roots.
    """

    roots: Mapping[str, Root]
    notes: tuple[str, ...] = ()
    outside: Place = _NO_CLASS

    def place(self, directory: str) -> Place:
        """Return what `directory` says of the files that lie in it."""
        inside = directory
        while inside not in self.roots:
            if not inside:
                return self.outside
            inside = inside.rpartition("/")[0]
        root = self.roots[inside]
        if root.left_out or root.by_name:
            return Place(root.split, None, by_name=root.by_name, left_out=root.left_out)
        rest = directory[len(inside) :].strip("/") if inside else directory
        label = root.label or sys.intern(unicodedata.normalize("NFC", rest.partition("/")[0]))
        return Place(root.split, label or None, reason="" if label else NO_CLASS)


class Node:
    """A directory that has images somewhere below it."""

    def __init__(self, path: str = "", name: str = ""):
        self.path = path
        self.name = unicodedata.normalize("NFC", name)
        self.images: list[str] = []  # Paths of the images that lie directly in it.
        self.children: dict[str, Node] = {}

    @property
    def count(self) -> int:
        """The number of images below it."""
        return len(self.images) + sum(child.count for child in self.children.values())

    @property
    def names(self) -> list[str]:
        return [child.name for child in self.children.values()]


def tree(images: Mapping[str, list[str]]) -> Node:
    """Make a tree of the directories that have images: path of a directory -> the paths of the images in it."""
    top = Node()
    for directory, paths in images.items():
        node = top
        for part in directory.split("/") if directory else ():
            child = node.children.get(part)
            if child is None:
                child = node.children[part] = Node(f"{node.path}/{part}" if node.path else part, part)
            node = child
        node.images = paths
    return top


def find(top: Node, path: str) -> Node | None:
    """Return the directory at `path`; None if there is none with images."""
    node = top
    for part in unicodedata.normalize("NFC", path).split("/") if path else ():
        same = [child for child in node.children.values() if child.name == part]
        if not same:
            return None
        node = same[0]
    return node


def read(
    top: Node,
    src: str,
    classes: Sequence[str] | None,
    splits: Sequence[tuple[str, str]],
    tables: Sequence[str] = (),
) -> Layout:
    """Find out what the directories of a source mean.

    Args:
        top: The directories that have images.
        src: The source, for messages.
        classes: The names in --classes, which decide what the directories leave open. None: not given.
        splits: (split, path of a directory) by --split; empty: the names of the directories tell.
        tables: Paths of tables that lie beside the directories and may hold the labels.

    Raises:
        UserError: Two meanings are possible, or --split names no directory.
    """
    return _Reader(src, frozenset(classes or ()), tables).read(top, splits)


def read_splits(top: Node, src: str, classes: Sequence[str] | None, splits: Sequence[tuple[str, str]]) -> Layout:
    """Find out which directories are splits, where the classes come from a regular expression; as `read`."""
    return _Reader(src, frozenset(classes or ())).read_splits(top, splits)


def read_tables(names: Sequence[str], src: str, splits: Sequence[tuple[str, str]]) -> Layout:
    """Find out which splits CSVs of pixels mean, by their names without the ending: train.csv, test.csv.

    Args:
        names: The names of the files. One alone is divided, whatever its name.
        src: The source, for messages.
        splits: As in `read`, with the names of files.

    Raises:
        UserError: Some are named by a split and others are not, or two mean the same.
    """
    top = Node()
    for name in names:
        top.children[name] = Node(name, os.path.splitext(name)[0])
    return _Reader(src, frozenset()).read_tables(top, splits)


class _Reader:
    """The rules, with what they have in common: the source for messages, the wanted classes, the notes so far."""

    def __init__(self, src: str, classes: frozenset[str], tables: Sequence[str] = ()):
        self._src = src
        self._classes = classes
        self._tables = tables
        self._notes: list[str] = []

    def read(self, top: Node, splits: Sequence[tuple[str, str]]) -> Layout:
        roots = self._given_splits(top, splits) if splits else self._found(self._unwrapped(top))
        return Layout(roots=roots, notes=tuple(self._notes), outside=_UNNAMED if splits else _NO_CLASS)

    def read_splits(self, top: Node, splits: Sequence[tuple[str, str]]) -> Layout:
        if splits:
            sides = self._given_sides(top, splits)
            roots = {node.path: Root(SPLITS.index(split), by_name=True) for split, node in sides}
            return Layout(roots=roots, outside=_UNNAMED)
        node = self._unwrapped(top)
        if any(map(split_named, node.names)) and not self._classes & {*filter(split_named, node.names)}:
            self._refuse_mixture(node)
            self._refuse_two_names(node)
            sides = [(split_named(child.name) or "", child) for child in node.children.values()]
            roots = {child.path: Root(SPLITS.index(split), by_name=True) for split, child in sides}
            return Layout(roots=roots, outside=Place(TO_BE_SPLIT, None, reason=NO_SPLIT))
        return Layout(roots={"": Root(TO_BE_SPLIT, by_name=True)})

    def read_tables(self, top: Node, splits: Sequence[tuple[str, str]]) -> Layout:
        tables = list(top.children.values())
        if splits:
            given = {path: split for split, path in splits}
            sides = [(given.get(table.path) or given.get(table.name), table) for table in tables]
            if unknown := given.keys() - {name for table in tables for name in (table.path, table.name)}:
                raise UserError(
                    f"--split={given[min(unknown)]}={min(unknown)}: {self._src} has no such CSV of pixels. There is"
                    f" {_and([table.path for table in tables])}."
                )
        elif len(tables) == 1 or not any(split_named(table.name) for table in tables):
            self._refuse_parts(tables)
            sides = [("", table) for table in tables]
            if len(tables) > 1:
                self._notes.append(f"{len(tables):,} CSVs of pixels are one source: {named(list(top.children), 6)}")
        else:
            self._refuse_mixture(top)
            self._refuse_two_names(top)
            sides = [(split_named(table.name), table) for table in tables]
        roots = {table.path: Root(SPLITS.index(split) if split else TO_BE_SPLIT) for split, table in sides}
        if splits:
            roots = {path: root for path, root in roots.items() if root.split != TO_BE_SPLIT}
        return Layout(roots=roots, notes=tuple(self._notes), outside=_UNNAMED)

    def _given_splits(self, top: Node, splits: Sequence[tuple[str, str]]) -> dict[str, Root]:
        return self._split_roots(self._given_sides(top, splits))

    def _given_sides(self, top: Node, splits: Sequence[tuple[str, str]]) -> list[tuple[str, Node]]:
        sides: dict[str, tuple[str, Node]] = {}
        for split, path in splits:
            node = find(top, path)
            if node is None:
                raise UserError(
                    f"--split={split}={path}: {self._src} has no directory {path!r} with images. At its top there is"
                    f" {_and(sorted(top.names)) if top.children else 'none'}."
                )
            other = next((p for p in sides if _is_in(node.path, p) or _is_in(p, node.path)), None)
            if other is not None:
                raise UserError(
                    f"--split={split}={path}: --split={sides[other][0]}={other} names the same images. Name each"
                    " directory once."
                )
            sides[node.path] = split, node
        return list(sides.values())

    def _unwrapped(self, node: Node) -> Node:
        """Pass through directories that hold everything else."""
        passed = []
        while len(node.children) == 1 and not node.images:
            (child,) = node.children.values()
            is_kind = _word(child.name) in _KINDS
            if split_named(child.name) or child.name in self._classes:
                break
            if child.images and (child.children or not is_kind):
                break  # Its images would be of no class, or it is the only class.
            node = child
            passed.append(child.name)
        if passed:
            self._notes.append(
                f"the directory {'/'.join(passed)} holds all {words.number(node.count, 'image')}; it is not a class"
            )
        return node

    def _found(self, node: Node) -> dict[str, Root]:
        """The roots below a directory that may hold splits, classes, or images named by class."""
        if not node.children:
            return {node.path: Root(TO_BE_SPLIT, by_name=self._named_by_class([node]))}
        all_given = bool(self._classes) and self._classes <= {*node.names}
        if all_given or not any(map(split_named, node.names)):
            return self._class_roots([(TO_BE_SPLIT, node)])
        self._refuse_mixture(node)
        self._refuse_two_names(node)
        return self._split_roots([(split_named(child.name) or "", child) for child in node.children.values()])

    def _refuse_mixture(self, node: Node) -> None:
        """Splits and something else beside them: a split that is not understood, or a class called train."""
        others = [child for child in node.children.values() if not split_named(child.name)]
        if not others:
            return
        splits = [child for child in node.children.values() if split_named(child.name)]
        if any(child.children or _classes_in_names(child.images) for child in splits):
            meanings = (
                f"{_split_flags(splits)} if these are the splits (the rest is left out), {_exclude_flags(others)} to"
                f" leave the rest out, or {_classes_flag(node.names)} if all are classes"
            )
        else:
            meanings = f"{_classes_flag(node.names)} if all are classes, or {_exclude_flags(splits)} to leave that out"
        raise UserError(
            f"{self._src}: {_and([c.name for c in splits])} {_are(splits)} named like a split,"
            f" {_and([c.name for c in others])} {_are(others)} not, and all of them hold images. Say what is meant:"
            f" {meanings}."
        )

    def _refuse_two_names(self, node: Node) -> None:
        for split in SPLITS:
            same = [child for child in node.children.values() if split_named(child.name) == split]
            if len(same) > 1:
                raise UserError(
                    f"{self._src}: {_and([c.name for c in same])} both mean the {split} split. Say which directories"
                    f" are meant, for example {_split_flags(list(node.children.values()))} to use both, or leave one"
                    f" out with {_exclude_flags(same[1:])}."
                )

    def _split_roots(self, sides: Sequence[tuple[str, Node]]) -> dict[str, Root]:
        """The roots of given splits: (split, its directory)."""
        inner = [(split, node, self._unwrapped_split(node, sides)) for split, node in sides]
        passed = [node.path for _, outer, node in inner if node is not outer and node.children]
        if passed:
            self._notes.append(f"each of {named(passed, _MAX_SHOWN)} holds all images of its split; it is not a class")
        with_classes = [(split, node) for split, _, node in inner if node.children]
        if not with_classes:
            return self._named_split_roots([(split, node) for split, _, node in inner])
        roots = self._class_roots([(SPLITS.index(split), node) for split, node in with_classes])
        for split, outer, node in inner:
            if not node.children:
                roots[outer.path] = self._unlabelled(split, outer)
        return roots

    def _unwrapped_split(self, node: Node, sides: Sequence[tuple[str, Node]]) -> Node:
        """Pass through a directory that holds all of a split: train/train/cats, train/images/cats, test/unknown/1.jpg.

        The only class of a split is not passed through: validation/cats/1.jpg beside train/cats and train/dogs.
        """
        known = {*self._classes}
        for _, side in sides:
            inner = side if side is node else _only_directory(side)
            known |= {*inner.names} if side is not node and len(inner.children) > 1 else set()
        while len(node.children) == 1 and not node.images:
            (child,) = node.children.values()
            says_nothing = _word(child.name) in _KINDS | _WITHOUT_LABEL or split_named(child.name)
            is_mixed = child.images and child.children
            if child.name in known or is_mixed or not (says_nothing or child.children or known):
                break
            node = child
        return node

    def _unlabelled(self, split: str, outer: Node) -> Root:
        if split == "train":
            raise UserError(
                f"{self._src}: {outer.path} has no class directories, while other splits have. Expected {EXAMPLES}."
                f" Leave it out with {_exclude_flags([outer])}, or give the labels in a table with --manifest."
            )
        return Root(SPLITS.index(split), left_out=f"{outer.path} has no labels, since it has no class directories")

    def _named_split_roots(self, sides: Sequence[tuple[str, Node]]) -> dict[str, Root]:
        """The roots of splits without class directories, whose files may be named by class."""
        classes = {node.path: _classes_in_names(node.images) for _, node in sides}
        of_train = {name for split, node in sides if split == "train" for name in classes[node.path]}
        labelled = [node for _, node in sides if classes[node.path].keys() & (of_train or classes[node.path].keys())]
        by_name = self._named_by_class(labelled)
        roots = {node.path: Root(SPLITS.index(split), by_name=by_name) for split, node in sides}
        for split, node in sides if by_name else ():
            if node not in labelled:
                why = f"{node.path} has no labels, since the names of its files tell no class of train"
                roots[node.path] = Root(SPLITS.index(split), left_out=why)
        return roots

    def _named_by_class(self, nodes: Sequence[Node]) -> bool:
        """Whether the names of the files tell several classes; says so in a note."""
        named_paths = [item for node in nodes for item in _classes_in_names(node.images).items()]
        if len({name for name, _ in named_paths}) < 2:
            return False
        name, path = named_paths[0]
        count = sum(len(node.images) for node in nodes)
        self._notes.append(
            f"classes of {words.number(count, 'image')} are taken from the names of the files, such as {name} from"
            f" {path} (see --label_regex)"
        )
        return True

    def _class_roots(self, sides: Sequence[tuple[int, Node]]) -> dict[str, Root]:
        """The roots of directories whose children are classes, one for each split."""
        classes: dict[str, list[Node]] = {}
        for _, node in sides:
            for child in node.children.values():
                classes.setdefault(child.name, []).append(child)
        if not (self._classes and self._classes <= classes.keys()):
            self._refuse_kinds(classes)
            first = [nodes[0] for nodes in classes.values()]
            self._refuse_parts(first)
            self._refuse_copies(first)
            self._refuse_numbered_parts(first)
            if sides[0][0] == TO_BE_SPLIT and (roots := self._splits_in_classes(classes)):
                return roots
            below = {nodes[0].path: _names_below(nodes) for nodes in classes.values()}
            certain = {nodes[0].path for nodes in classes.values() if any(node.images for node in nodes)}
            if self._classes and self._classes <= {name for names in below.values() for name in names}:
                upper = [top for _, node in sides for child in node.children.values() for top in _tops(child)]
                counts = [f"{top.path} ({top.count:,})" for top in upper]
                self._notes.append(f"the classes lie in {len(upper):,} directories: {named(counts, _MAX_SHOWN)}")
                return {n.path: Root(split) for split, node in sides for c in node.children.values() for n in _tops(c)}
            self._refuse_shared({path: below[path] for path in below if path not in certain}, classes)
        self._note_merged(classes)
        return {node.path: Root(split) for split, node in sides}

    def _refuse_parts(self, nodes: Sequence[Node]) -> None:
        """Names that differ only by a split's word: asl_train and asl_test, rps and rps-test-set."""
        rests = [without_split(node.name) for node in nodes]
        for rest, split in rests:
            same = [(node, side) for node, (other, side) in zip(nodes, rests) if other == rest]
            if split and len(same) > 1 and len({side for _, side in same}) > 1:
                flags = " ".join(f"--split={side or 'train'}={_quoted(node.path)}" for node, side in same)
                raise UserError(
                    f"{self._src}: the names of {_and([node.name for node, _ in same])} differ only by the word of a"
                    f" split. Say what is meant: {flags} if they are splits, or"
                    f" {_classes_flag(node.name for node in nodes)} if they are classes."
                )

    def _refuse_copies(self, nodes: Sequence[Node]) -> None:
        """A directory beside classes that holds directories of the same names may be a copy of them."""
        names = {node.name for node in nodes}
        for node in nodes:
            if inner := sorted({*node.names} & (names - {node.name})):
                raise UserError(
                    f"{self._src}: {node.path} holds directories of the same names as there are beside it"
                    f" ({', '.join(inner[:_MAX_SHOWN])}). Leave it out with {_exclude_flags([node])} if it is a copy,"
                    f" or pass {_classes_flag(names)} if it is a class."
                )

    def _refuse_numbered_parts(self, nodes: Sequence[Node]) -> None:
        """Directories such as images_part_1 and images_part_2 beside a table are parts, not classes."""
        stems = {re.sub(r"\d+", "", node.name) for node in nodes}
        if self._tables and len(nodes) > 1 and len(stems) == 1 and not any(node.children for node in nodes):
            table = os.path.join(self._src, self._tables[0])
            raise UserError(
                f"{self._src}: the names of {_and([node.name for node in nodes])} differ only by numbers, and"
                f" {self._tables[0]} may hold the labels. Pass --manifest={shlex.quote(table)} if it does, or"
                f" {_classes_flag(node.name for node in nodes)} if the directories are classes."
            )

    def _refuse_kinds(self, classes: Mapping[str, Sequence[Node]]) -> None:
        """Directories such as images and masks beside each other are no classes."""
        kinds = [nodes[0] for name, nodes in classes.items() if _word(name) in _KINDS]
        if len(classes) < 2 or len(kinds) < len(classes):
            return
        beside = [node for node in kinds if _word(node.name) in _BESIDE_IMAGES] or kinds[1:]
        raise UserError(
            f"{self._src}: {_and([node.name for node in kinds])} are names of kinds of files, not of classes. Leave out"
            f" what is not meant, for example with {_exclude_flags(beside)}, or pass"
            f" {_classes_flag(classes)} if they are classes."
        )

    def _splits_in_classes(self, classes: Mapping[str, Sequence[Node]]) -> dict[str, Root]:
        """The roots of class/split/image, if every class holds splits and nothing else."""
        nodes = [node for same in classes.values() for node in same]
        with_splits = [node for node in nodes if any(map(split_named, node.names))]
        if not with_splits or len(nodes) < 2:
            return {}
        strange = [node for node in nodes if node.images or not all(map(split_named, node.names))]
        if strange:
            inner = [child.path for child in strange[0].children.values() if not split_named(child.name)]
            raise UserError(
                f"{self._src}: {with_splits[0].path} holds directories with names of splits"
                f" ({', '.join(sorted(with_splits[0].names))}), but there is also"
                f" {inner[0] if inner else f'{strange[0].path} with images of no split'}. Leave one of them out with"
                f" --exclude=DIRECTORY, or pass {_classes_flag(classes)} to merge all directories into their"
                " class."
            )
        below = {child.path: _names_below([child]) for node in nodes for child in node.children.values()}
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
        """Stop where directories hold directories of the same names: the former may be parts, or the latter classes.

        Args:
            below: Path of a directory that has no images directly in it -> the names of the directories in it.
            classes: The names of the upper directories.
        """
        pairs = [name for names in below.values() for name in set(names)]
        times = Counter(pairs)
        shared = sorted(name for name in times if times[name] > 1)
        if 2 * sum(times[name] for name in shared) < len(pairs) or not shared or len(times) < 2:
            return  # One name alone cannot be all the classes.
        tops = [path for path, names in below.items() if not {*shared}.isdisjoint(names)]
        by_name = [without_split(path.rpartition("/")[2])[1] for path in tops]
        sides = [side or "train" for side in by_name] if any(by_name) else ["train", "validation"]
        flags = " ".join(f"--split={side}={_quoted(path)}" for side, path in zip(sides, tops))
        beside = [path for path in tops if _word(path.rpartition("/")[2]) in _BESIDE_IMAGES]
        without = f" --exclude={_quoted(_literal(beside[0]))} leaves {beside[0]} out." if beside else ""
        raise UserError(
            f"{self._src}: {_and(tops)} hold directories of the same names ({named(shared, _MAX_SHOWN)}). Say what is"
            f" meant: {flags} (one for each part) if these names are the classes and the upper directories say the"
            f" split; {_classes_flag(shared)} if these are the classes, wherever they lie; or"
            f" {_classes_flag(classes)} if the upper directories are the classes.{without}"
        )

    def _note_merged(self, classes: Mapping[str, Sequence[Node]]) -> None:
        """Name the directories whose images become images of the class above them."""
        below = {name: sorted({n for node in nodes for n in node.names}) for name, nodes in classes.items()}
        inner = {name: names for name, names in below.items() if names}
        every = sorted({name for names in inner.values() for name in names})
        loose = any(node.images for nodes in classes.values() for node in nodes)
        if not inner or (len(every) == 1 and _word(every[0]) in _KINDS - _BESIDE_IMAGES and not loose):
            return  # cats/images/1.jpg: nothing is merged.
        count = sum(child.count for nodes in classes.values() for n in nodes for child in n.children.values())
        if len(inner) > 1 and len({tuple(names) for names in inner.values()}) == 1:
            what = f"{named(next(iter(inner.values())), _MAX_SHOWN)} in each of {named(list(inner), _MAX_SHOWN)}"
        else:
            what = named([f"{name} ({named(names, _MAX_SHOWN)})" for name, names in inner.items()], _MAX_SHOWN)
        beside = [name for name in every if _word(name) in _BESIDE_IMAGES]
        advice = f"{_classes_flag(every)} makes them classes" if len(every) > 1 else f"--exclude='**/{every[0]}'"
        if beside or all(_word(name) in _KINDS for name in every):
            name = (beside or every)[0]
            advice = f"--exclude={_quoted(f'**/{_literal(name)}')} leaves {name} out"
        self._notes.append(
            f"{words.number(count, 'image')} in subdirectories are merged into their class: {what}; {advice}"
        )


def _classes_in_names(paths: Sequence[str]) -> dict[str, str]:
    """Return class -> a path that names it, if nearly all files bear names such as cat.0.jpg; else nothing."""
    path_of: dict[str, str] = {}
    count = 0
    for path in paths:
        if match := _NAMED_BY_CLASS.search(path):
            if says_nothing(match[1]):
                return {}
            path_of.setdefault(unicodedata.normalize("NFC", match[1]), path)
            count += 1
    return path_of if count and count >= _MIN_SHARE_NAMED * len(paths) else {}


def says_nothing(name: str) -> bool:
    """Whether a name is a split's, or one that cameras and programs give: no class, as in test_1.jpg, IMG_0001.jpg."""
    words = re.findall(r"[^\W\d_]+", name.casefold())
    return all(word in _DEVICES or split_named(word) for word in words)


def class_in_name(path: str) -> str | None:
    """Return the class that a file's name tells, such as cat of cat.0.jpg."""
    match = _NAMED_BY_CLASS.search(path)
    return sys.intern(match[1]) if match else None


def has_image_ending(path: str) -> bool:
    """Whether a file's name ends as those of images do."""
    return os.path.splitext(path)[1].lower().removeprefix(".") in IMAGE_ENDINGS


def _names_below(nodes: Sequence[Node]) -> list[str]:
    """The names of the first directories below these that say more than a kind of file."""
    return [child.name for node in nodes for top in _tops(node) for child in top.children.values()]


def _tops(node: Node) -> list[Node]:
    """The directory itself, or, where it holds kinds of files only, these."""
    kinds = [child for child in node.children.values() if _word(child.name) in _KINDS]
    if kinds and len(kinds) == len(node.children):
        return [top for child in kinds for top in _tops(child)]
    return [node]


def _word(name: str) -> str:
    """A name without capital letters, and without what is neither a letter nor a digit."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _only_directory(node: Node) -> Node:
    """The first directory below that has images, or several directories, in it."""
    while len(node.children) == 1 and not node.images:
        (node,) = node.children.values()
    return node


def _is_in(path: str, directory: str) -> bool:
    return path == directory or not directory or path.startswith(f"{directory}/")


def _split_flags(nodes: Sequence[Node]) -> str:
    return " ".join(f"--split={split_named(node.name) or 'train'}={_quoted(node.path)}" for node in nodes[:_MAX_SHOWN])


def _exclude_flags(nodes: Sequence[Node]) -> str:
    return " ".join(f"--exclude={_quoted(_literal(node.path))}" for node in nodes[:_MAX_SHOWN])


def _literal(path: str) -> str:
    """A pattern of --exclude that means this path alone."""
    return re.sub(r"[*?\[]", r"[\g<0>]", path)


def _classes_flag(names: Iterable[str]) -> str:
    """--classes with these names, ready to be copied; with many names, what to write."""
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
