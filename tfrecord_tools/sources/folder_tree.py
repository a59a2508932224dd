"""The tree of the directories that contain images."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from tfrecord_tools.sources.folder_names import KINDS, plain


class Node:
    """A directory with images in it or below it."""

    def __init__(self, path: str = "", name: str = ""):
        self.path = path
        self.name = unicodedata.normalize("NFC", name)
        self.images: list[str] = []  # Paths of the images directly in it.
        self.children: dict[str, Node] = {}

    @property
    def count(self) -> int:
        """Number of images in and below the directory."""
        return len(self.images) + sum(child.count for child in self.children.values())

    @property
    def names(self) -> list[str]:
        return [child.name for child in self.children.values()]


def tree(images: Mapping[str, list[str]]) -> Node:
    """Make the tree from a mapping: path of a directory -> paths of the images in it. Returns the root."""
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
    """Return the directory at `path`. None: it does not exist, or has no images."""
    node = top
    for part in unicodedata.normalize("NFC", path).split("/") if path else ():
        matches = [child for child in node.children.values() if child.name == part]
        if not matches:
            return None
        node = matches[0]
    return node


def names_below(nodes: Sequence[Node]) -> list[str]:
    """Return the names of the directories in `nodes`. It looks through directories such as images."""
    return [child.name for node in nodes for top in tops_of(node) for child in top.children.values()]


def tops_of(node: Node) -> list[Node]:
    """Return the directory itself. If all its children are named after a kind of file, return them."""
    kinds = [child for child in node.children.values() if plain(child.name) in KINDS]
    if kinds and len(kinds) == len(node.children):
        return [top for child in kinds for top in tops_of(child)]
    return [node]


def only_directory(node: Node) -> Node:
    """Go down while a directory contains one directory and no images. Return the last directory."""
    while len(node.children) == 1 and not node.images:
        (node,) = node.children.values()
    return node
