"""Print figures about the structure of the code: modules, packages, imports, cycles and functions.

    python tools/structure.py [CHECKOUT ...]

Each checkout is a column. Without an argument, this repository is measured. The modules that the reader loads are
counted in the current environment.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = ("tfrecord_tools", "trainers")
BRANCHES = (
    ast.If,
    ast.For,
    ast.While,
    ast.ExceptHandler,
    ast.With,
    ast.IfExp,
    ast.comprehension,
    ast.BoolOp,
    ast.Assert,
)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, ast.Module]:
    """Return the syntax tree of each module by its dotted name, without empty `__init__` files."""
    trees = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            tree = ast.parse(path.read_text("utf-8"))
            if tree.body:
                trees[name] = tree
    return trees


def imports(trees: dict[str, ast.Module]) -> Graph:
    """Return the modules of this project that each module imports, anywhere in the file.

    The two top packages are left out, because they load modules only when they are used.
    """
    graph: Graph = {name: set() for name in trees if name not in PACKAGES}
    for name, tree in ((name, trees[name]) for name in graph):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                candidates = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                full_names = [f"{node.module}.{alias.name}" for alias in node.names]
                candidates = [full_name if full_name in trees else node.module for full_name in full_names]
            else:
                continue
            graph[name] |= {candidate for candidate in candidates if candidate in graph and candidate != name}
    return graph


def room(module: str) -> str:
    """Return the subpackage of a module, or the module itself if it is directly in the package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else module


def rooms_of(graph: Graph) -> Graph:
    """Return the graph of imports between subpackages and front modules."""
    rooms: Graph = {room(name): set() for name in graph}
    for name, targets in graph.items():
        rooms[room(name)] |= {room(target) for target in targets} - {room(name)}
    return rooms


def cycles(graph: Graph) -> int:
    """Count the strongly connected components of two or more nodes, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = 0

    def visit(node: str) -> None:
        nonlocal groups
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            size = len(stack) - stack.index(node)
            del stack[-size:]
            groups += size > 1

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return groups


def functions(trees: Iterable[ast.Module]) -> Iterator[Function]:
    """Yield every function and method."""
    for tree in trees:
        yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def complexity(function: Function) -> int:
    """Return McCabe's cyclomatic complexity: the number of branches plus one."""
    return 1 + sum(isinstance(node, BRANCHES) for node in ast.walk(function))


def length(function: Function) -> int:
    """Return the number of lines of a function without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return lines - ((first.end_lineno or first.lineno) - first.lineno + 1) * is_text


def percentile(values: list[int], share: float) -> int:
    """Return the value that a fraction `share` of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def loaded_by_reader(root: Path) -> int:
    """Return the number of this project's modules that `import tfrecord_tools.records` loads."""
    code = "import sys, tfrecord_tools.records; print(sum(n.split('.')[0] == 'tfrecord_tools' for n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return int(done.stdout)


def figures(root: Path) -> dict[str, object]:
    """Return all figures of a checkout, by title."""
    trees = modules(root)
    graph = imports(trees)
    rooms = rooms_of(graph)
    all_functions = list(functions(trees.values()))
    lengths = [length(function) for function in all_functions]
    paths = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    front = {
        package: sum(name.startswith(f"{package}.") and name.count(".") == 1 for name in trees) for package in PACKAGES
    }
    return {
        "modules": {package: sum(name.startswith(f"{package}.") for name in trees) for package in PACKAGES},
        "front modules": front,
        "subpackages": {
            package: sum(len(list(d.glob("*.py"))) > 0 for d in (root / package).iterdir()) for package in PACKAGES
        },
        "imports between modules": sum(map(len, graph.values())),
        "imports between subpackages": sum(map(len, rooms.values())),
        "import cycles of modules": cycles(graph),
        "import cycles of subpackages": cycles(rooms),
        "longest function, lines": max(lengths),
        "95th percentile of function lines": percentile(lengths, 0.95),
        "highest complexity": max(map(complexity, all_functions)),
        "95th percentile of complexity": percentile(list(map(complexity, all_functions)), 0.95),
        "modules that the reader loads": loaded_by_reader(root),
        "lines": sum(len(path.read_text("utf-8").splitlines()) for path in paths),
    }


def main(roots: list[str]) -> None:
    columns = [figures(Path(root)) for root in roots or [str(Path(__file__).parents[1])]]
    for title in columns[0]:
        cells = [column[title] for column in columns]
        texts = [", ".join(f"{v} {k}" for k, v in c.items()) if isinstance(c, dict) else f"{c:,}" for c in cells]
        print(f"{title:<40}" + "".join(f"{text:<40}" for text in texts).rstrip())


if __name__ == "__main__":
    main(sys.argv[1:])
