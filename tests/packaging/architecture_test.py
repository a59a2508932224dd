"""The drawing of the architecture is the current one, and its page names every room and front module."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from image_sources import REPOSITORY

from tools import architecture, structure

PACKAGES = [architecture.read_package(REPOSITORY, name) for name in structure.PACKAGES]


def test_committed_drawing_is_current() -> None:
    assert architecture.DRAWING.read_text("utf-8") == architecture.drawing(REPOSITORY), "Run `make architecture`."


def test_check_fails_for_an_old_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert architecture.main(["--check"]) == 0
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(architecture, "DRAWING", tmp_path / "docs/architecture.svg")
    monkeypatch.setattr(architecture, "drawing", lambda root: "<svg>new</svg>")
    monkeypatch.setattr(architecture, "ROOT", tmp_path)
    architecture.DRAWING.write_text("<svg>old</svg>")
    assert architecture.main(["--check"]) == 1
    message = "docs/architecture.svg is not the drawing of the current imports. Run `make architecture`.\n"
    assert capsys.readouterr().out == message
    assert architecture.main([]) == 0
    assert architecture.main(["--check"]) == 0


def test_drawing_shows_every_node_and_every_arrow() -> None:
    image = ElementTree.fromstring(architecture.DRAWING.read_text("utf-8"))
    name = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in image.iter(f"{name}text")]
    for package in PACKAGES:
        ends = {"room": "/", "module": ".py", "commands": ""}
        assert {f"{node}{ends[kind]}" for node, kind in package.kinds.items()} <= set(texts)
    arrows = [element for element in image.iter(f"{name}path") if element.get("class") == "arrow"]
    assert len(arrows) == sum(len(ends) for each in PACKAGES for ends in architecture.reduced(each.graph).values())


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_arrows_point_down_and_boxes_do_not_overlap(package: architecture.Package) -> None:
    positions, arrows = architecture.position_boxes(package, middle=0, top=0)
    assert all(positions[start][1] < positions[end][1] for start, ends in arrows.items() for end in ends)
    boxes = sorted(positions.values(), key=lambda position: (position[1], position[0].x))
    for (left, y), (right, other_y) in itertools.pairwise(boxes):
        assert y != other_y or left.x + left.width / 2 < right.x - right.width / 2
    widest = max(abs(box.x) + box.width / 2 for box, _ in boxes)
    assert widest <= architecture.WIDTH / 2 - architecture.MARGIN


def test_implied_arrows_are_left_out() -> None:
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert architecture.reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert architecture.levels(graph) == {"a": 3, "b": 2, "c": 1, "d": 0}


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^The rooms import each other in a cycle\. Remove the cycle: "):
        architecture.reduced({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_page_describes_every_room_front_module_and_command(package: architecture.Package) -> None:
    page = (REPOSITORY / "docs/architecture.md").read_text()
    (section,) = re.findall(rf"^## {package.name}\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    names = [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)
    ]
    ends = {"room": "/", "module": ""}
    nodes = [f"{node}{ends[kind]}" for node, kind in package.kinds.items() if kind != "commands"]
    assert sorted(names) == sorted([*nodes, *package.commands])
