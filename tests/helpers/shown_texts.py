"""Find the commands that can show a text of the source, by following references from each main.

The result may contain too many commands, but none is missing: a reference to a function counts as a call, and an
attribute counts as a call of every method with this name.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator, Mapping

from command_list import FLAG
from image_sources import REPOSITORY

PACKAGES = ("tfrecord_tools", "trainers")
PARSER = "tfrecord_tools.base.usage.parse"  # Every command calls it before its main.
_FUNCTIONS = (ast.FunctionDef, ast.ClassDef)
_DYNAMIC = "{}"  # Stands for values that are known only at run time.


@dataclasses.dataclass(frozen=True)
class Definition:
    """A function, method, class without its methods, or variable of a module, and its references.

    Attributes:
        module: Dotted name of the module.
        node: Syntax tree of the definition.
        names: Name in the module -> dotted name.
        skipped: Parts that are separate definitions.
    """

    module: str
    node: ast.AST
    names: Mapping[str, str]
    skipped: tuple[ast.AST, ...] = ()

    def walk(self) -> Iterator[ast.AST]:
        todo: list[ast.AST] = [self.node]
        while todo:
            node = todo.pop()
            yield node
            todo += [child for child in ast.iter_child_nodes(node) if child not in self.skipped]

    def references(self) -> tuple[set[str], set[str]]:
        """Return the dotted names in the definition, and the names of all attributes."""
        dotted, attributes = set(), set()
        for node in self.walk():
            if isinstance(node, ast.Name) and node.id in self.names:
                dotted.add(self.names[node.id])
            elif isinstance(node, ast.Attribute):
                attributes.add(node.attr)
                if isinstance(node.value, ast.Name) and node.value.id in self.names:
                    dotted.add(f"{self.names[node.value.id]}.{node.attr}")
        return dotted, attributes

    def texts(self, every: bool = False) -> Iterator[tuple[int, str]]:
        """Yield line and text of each string that names a flag, or of every string.

        `{}` stands for unknown values. Docstrings are left out.
        """
        inner = {id(part) for node in self.walk() if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        inner |= {id(node.value) for node in self.walk() if isinstance(node, ast.Expr)}
        for node in self.walk():
            joined = isinstance(node, ast.JoinedStr)
            constant = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner
            if (joined or constant) and (FLAG.search(text := _text(node)) or every):
                yield node.lineno, text


def _text(node: ast.AST) -> str:
    """Return the text of a string, including strings in its formatted values."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else _DYNAMIC
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.FormattedValue):
        within = [_text(part) for part in ast.walk(node.value) if isinstance(part, ast.Constant | ast.JoinedStr)]
        return " ".join(filter(lambda text: FLAG.search(text), within)) or _DYNAMIC
    return _DYNAMIC


@functools.cache
def definitions() -> dict[str, Definition]:
    """Return all definitions of both packages by dotted name."""
    found: dict[str, Definition] = {}
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            found |= dict(_of_module(module, ast.parse(path.read_text())))
    return found


def _of_module(module: str, tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    own = {name: node for node in tree.body for name in _defines(node)}
    names |= {name: f"{module}.{name}" for name in own}
    for name, node in own.items():
        methods = [part for part in node.body if isinstance(part, _FUNCTIONS)] if isinstance(node, ast.ClassDef) else []
        yield f"{module}.{name}", Definition(module, node, names, tuple(methods))
        for method in methods:
            yield f"{module}.{name}.{method.name}", Definition(module, method, names)


def _defines(node: ast.AST) -> Iterator[str]:
    if isinstance(node, _FUNCTIONS):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (part.id for part in ast.walk(target) if isinstance(part, ast.Name))


@functools.cache
def reached(command: str, border: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the definitions that a command can reach without going beyond those in `border`."""
    everything = definitions()
    found, followed, attributes = {f"{command}.main", PARSER}, set[str](), set[str]()
    while todo := found - followed:
        for name in todo - border:
            dotted, named = everything[name].references()
            found |= dotted & everything.keys()
            attributes |= named
        followed |= todo
        found |= {name for name in everything if _is_called(name, found, attributes)}
    return frozenset(found)


def _is_called(name: str, found: set[str], attributes: set[str]) -> bool:
    owner, _, method = name.rpartition(".")
    return owner in found and (method in attributes or method.startswith("__"))
