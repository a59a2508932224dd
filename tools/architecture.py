"""Draw the rooms of both packages and their imports: docs/architecture.svg.

    python -m tools.architecture            # writes the drawing (`make architecture`)
    python -m tools.architecture --check    # exits with 1 if the drawing is not the current one

A node is a room (a subpackage), a front module (a file directly in the package), or all commands of a package. An
arrow is an import. An arrow is left out if a longer
path of arrows leads to the same room.
"""

from __future__ import annotations

import ast
import dataclasses
import html
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tools import structure

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ROOT / "docs" / "architecture.svg"
COMMANDS = "commands"

BOX, HEIGHT, COMMANDS_BOX, COMMANDS_HEIGHT = 150, 34, 300, 68  # Pixels.
BEND, GAP, ROW = 14, 22, 80  # Width of a bend of a long arrow, gap between boxes, distance of two rows.
WIDTH, MARGIN, TITLE, PANEL_GAP = 900, 16, 50, 56
SWEEPS = 12  # Passes over the rows, down and up, that order the boxes.

STYLE = """
  svg { color-scheme: light dark; font-family: system-ui, sans-serif; font-size: 14px; }
  .page { fill: #ffffff; }
  .panel { fill: #f6f7f9; }
  .room { fill: #dbe8fb; stroke: #3b6ea8; }
  .module { fill: #ffffff; stroke: #6b7280; }
  .commands { fill: #fdecc8; stroke: #a86b12; }
  text { fill: #1b1f24; text-anchor: middle; }
  .title { font-size: 17px; font-weight: 600; }
  .small { font-size: 12px; }
  .arrow { fill: none; stroke: #6b7280; stroke-width: 1.3; }
  .between { stroke: #1b1f24; stroke-width: 3; }
  .head { fill: #6b7280; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #14171b; }
    .panel { fill: #1d2127; }
    .room { fill: #1f3a5c; stroke: #7fb0ea; }
    .module { fill: #2a2f37; stroke: #9aa3af; }
    .commands { fill: #4d3a14; stroke: #e3b45c; }
    text { fill: #e8eaed; }
    .arrow { stroke: #9aa3af; }
    .between { stroke: #e8eaed; }
    .head { fill: #9aa3af; }
  }
"""


@dataclasses.dataclass
class Box:
    """A node of the drawing, or a bend of an arrow that spans several rows; `x` is the center in pixels."""

    name: str
    width: int
    x: float = 0.0


@dataclasses.dataclass(frozen=True)
class Package:
    """The nodes of one package: the kind of each node, and which nodes each node imports."""

    name: str
    kinds: dict[str, str]  # room, module or commands.
    graph: structure.Graph
    commands: tuple[str, ...]


def is_command(tree: ast.Module) -> bool:
    """Return whether a module runs as `python -m`."""
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)


def read_package(root: Path, package: str) -> Package:
    """Read the nodes and arrows of a package from the imports in its source."""
    trees = structure.modules(root)
    rooms = structure.rooms_of(structure.imports(trees))
    commands = {full for full, tree in trees.items() if is_command(tree)}
    nodes = {}  # Room or front module by its full name -> name in the drawing.
    kinds = {}
    for full in sorted(name for name in rooms if name.startswith(f"{package}.")):
        name = full.partition(".")[2]
        is_room = (root / package / name).is_dir()
        # A module that imports commands is drawn as a command. Otherwise, there would be arrows in both directions.
        among = full in commands or bool(rooms[full] & commands)
        nodes[full] = COMMANDS if not is_room and among else name
        kinds[nodes[full]] = COMMANDS if nodes[full] == COMMANDS else "room" if is_room else "module"
    graph: structure.Graph = {node: set() for node in kinds}
    for full, node in nodes.items():
        graph[node] |= {nodes[target] for target in rooms[full] if target in nodes} - {node}
    names = [full.partition(".")[2] for full, node in nodes.items() if node == COMMANDS]
    return Package(package, kinds, graph, tuple(name for name in names if name != "__main__"))


def reachable(graph: structure.Graph, start: Iterable[str]) -> set[str]:
    """Return the nodes that some nodes import, directly or through others."""
    reached: set[str] = set()
    waiting = [target for node in start for target in graph[node]]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(graph[node])
    return reached


def reduced(graph: structure.Graph) -> structure.Graph:
    """Return a graph without the arrows that a longer path of arrows implies.

    Raises ValueError if the graph has a cycle.
    """
    if structure.cycles(graph):
        raise ValueError("The rooms import each other in a cycle. Remove the cycle: `lint-imports` names it.")
    return {node: targets - reachable(graph, targets) for node, targets in graph.items()}


def levels(graph: structure.Graph) -> dict[str, int]:
    """Return the row of each node, counted from the bottom: one above the highest node that it imports."""
    rows: dict[str, int] = {}

    def level(node: str) -> int:
        if node not in rows:
            rows[node] = 1 + max((level(target) for target in graph[node]), default=-1)
        return rows[node]

    for node in sorted(graph):
        level(node)
    return rows


def with_bends(package: Package) -> tuple[list[list[Box]], dict[str, list[str]]]:
    """Return the rows of boxes, from the bottom, and the arrows.

    A long arrow has a bend in each row that it passes.
    """
    rows = levels(package.graph)
    boxes = [[] for _ in range(1 + max(rows.values()))]  # type: list[list[Box]]
    arrows: dict[str, list[str]] = {}
    for node in sorted(rows):
        boxes[rows[node]].append(Box(node, COMMANDS_BOX if node == COMMANDS else BOX))
    for node, targets in sorted(reduced(package.graph).items()):
        for target in sorted(targets):
            path = [node]
            for row in range(rows[node] - 1, rows[target], -1):
                path.append(f"{node}>{target}>{row}")
                boxes[row].append(Box(path[-1], BEND))
            for start, end in zip(path, [*path[1:], target], strict=True):
                arrows.setdefault(start, []).append(end)
    return boxes, arrows


def spread(row: Sequence[Box], wanted: Sequence[float]) -> None:
    """Place the boxes of a row near the wanted centers, in this order and without overlap."""
    right = float("-inf")
    for box, center in zip(row, wanted, strict=True):
        box.x = max(center, right + GAP + box.width / 2)
        right = box.x + box.width / 2
    shift = sum(center - box.x for box, center in zip(row, wanted, strict=True)) / len(row)
    for box in row:
        box.x += shift


def arrange(rows: list[list[Box]], arrows: dict[str, list[str]]) -> None:
    """Order the boxes of each row and set their centers so that arrows are short and cross little."""
    boxes = {box.name: box for row in rows for box in row}
    neighbors: dict[str, list[Box]] = {name: [] for name in boxes}
    for start, ends in arrows.items():
        for end in ends:
            neighbors[start].append(boxes[end])
            neighbors[end].append(boxes[start])
    for row in rows:
        spread(row, [0.0] * len(row))
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 else rows[::-1]:
            mean = {box.name: sum(n.x for n in neighbors[box.name]) / max(1, len(neighbors[box.name])) for box in row}
            row.sort(key=lambda box: (round(mean[box.name], 3), box.name))
            spread(row, [mean[box.name] for box in row])


def tag(name: str, content: str = "", **attributes: object) -> str:
    """Return an SVG element; `class_` is written as `class`."""
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{value}"' for key, value in attributes.items())
    return f"<{name}{pairs}>{content}</{name}>" if content else f"<{name}{pairs}/>"


def label(content: str, x: float, y: float, kind: str = "") -> str:
    """Return a line of text."""
    return tag("text", html.escape(content), x=round(x), y=round(y), **({"class_": kind} if kind else {}))


def draw_box(box: Box, y: float, package: Package) -> Iterator[str]:
    """Yield the elements of a node at the top edge `y`."""
    kind = package.kinds[box.name]
    height = COMMANDS_HEIGHT if kind == COMMANDS else HEIGHT
    left = round(box.x - box.width / 2)
    yield tag("rect", x=left, y=round(y), width=box.width, height=height, rx=6, class_=kind)
    if kind != COMMANDS:
        yield label(f"{box.name}{'/' if kind == 'room' else '.py'}", box.x, y + 22)
        return
    yield label("commands", box.x, y + 20)
    for number, line in enumerate(textwrap.wrap(", ".join(package.commands), 46)):
        yield label(line, box.x, y + 40 + 17 * number, "small")


def curve(start: tuple[float, float], end: tuple[float, float]) -> str:
    """Return the path of an arrow from the end of the path so far."""
    middle = round((start[1] + end[1]) / 2)
    return f"C {round(start[0])} {middle} {round(end[0])} {middle} {round(end[0])} {round(end[1])}"


def draw_arrow(boxes: dict[str, tuple[Box, float]], arrows: dict[str, list[str]], start: str, end: str) -> str:
    """Return one arrow from a node down to the node that it imports, through the bends between them."""
    box, y = boxes[start]
    at = (box.x, y + (COMMANDS_HEIGHT if start == COMMANDS else HEIGHT))
    path = [f"M {round(at[0])} {round(at[1])}"]
    while True:
        target, top = boxes[end]
        is_bend = ">" in end
        path.append(curve(at, (target.x, top if is_bend else top - 2)))
        if not is_bend:
            return tag("path", d=" ".join(path), class_="arrow", marker_end="url(#head)")
        path.append(f"L {round(target.x)} {round(top + HEIGHT)}")
        at = (target.x, top + HEIGHT)
        (end,) = arrows[end]


def position_boxes(
    package: Package, middle: float, top: float
) -> tuple[dict[str, tuple[Box, float]], dict[str, list[str]]]:
    """Return each box with its top edge, and the arrows, of a panel around `middle` and below `top`."""
    rows, arrows = with_bends(package)
    arrange(rows, arrows)
    edges = [box.x + side * box.width / 2 for row in rows for box in row for side in (-1, 1)]
    shift = middle - (min(edges) + max(edges)) / 2
    grown = COMMANDS_HEIGHT - HEIGHT  # The box of the commands is higher than the others, and grows upward.
    positions = {}
    for number, row in enumerate(reversed(rows)):
        for box in row:
            box.x += shift
            positions[box.name] = (box, top + TITLE + grown + ROW * number - grown * (box.name == COMMANDS))
    return positions, arrows


def draw_panel(package: Package, top: float) -> tuple[list[str], float]:
    """Return the elements of a package's panel, and its height."""
    positions, arrows = position_boxes(package, WIDTH / 2, top)
    height = max(y for _, y in positions.values()) + HEIGHT + MARGIN - top
    elements = [
        tag("rect", x=MARGIN, y=round(top), width=WIDTH - 2 * MARGIN, height=round(height), rx=10, class_="panel"),
        label(package.name, WIDTH / 2, top + 30, "title"),
    ]
    for start, ends in sorted(arrows.items()):
        if ">" not in start:
            elements.extend(draw_arrow(positions, arrows, start, end) for end in ends)
    for name, (box, y) in sorted(positions.items()):
        if ">" not in name:
            elements.extend(draw_box(box, y, package))
    return elements, height


def draw_import_between(top: float) -> list[str]:
    """Return the thick arrow from the upper package down to the lower one."""
    x, end = WIDTH // 2, round(top + PANEL_GAP)
    return [
        tag("path", d=f"M {x} {round(top)} V {end - 10}", class_="arrow between"),
        tag("path", d=f"M {x - 8} {end - 13} l 16 0 l -8 13 z", class_="head"),
        label("imports", x + 36, top + PANEL_GAP / 2 + 4, "small"),
    ]


def drawing(root: Path) -> str:
    """Return the drawing of a checkout as SVG."""
    upper, lower = (read_package(root, name) for name in ("trainers", "tfrecord_tools"))
    elements, height = draw_panel(upper, MARGIN)
    elements += draw_import_between(MARGIN + height)
    below, lower_height = draw_panel(lower, MARGIN + height + PANEL_GAP)
    total = round(2 * MARGIN + height + PANEL_GAP + lower_height)
    head = tag("path", d="M 0 0 L 10 5 L 0 10 z", class_="head")
    size = {"viewBox": "0 0 10 10", "refX": 9, "refY": 5, "markerWidth": 7, "markerHeight": 7}
    start = [
        tag("title", f"Rooms and imports of {upper.name} and {lower.name}"),
        tag("style", STYLE),
        tag("defs", tag("marker", head, id="head", orient="auto", **size)),
        tag("rect", width=WIDTH, height=total, class_="page"),
    ]
    body = "\n".join(["", *start, *elements, *below, ""])
    return tag("svg", body, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {total}") + "\n"


def main(arguments: list[str]) -> int:
    current = drawing(ROOT)
    if arguments != ["--check"]:
        DRAWING.write_text(current, encoding="utf-8")
        print(f"{DRAWING.relative_to(ROOT)} is written.")
    elif not DRAWING.exists() or DRAWING.read_text("utf-8") != current:
        print(f"{DRAWING.relative_to(ROOT)} is not the drawing of the current imports. Run `make architecture`.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
