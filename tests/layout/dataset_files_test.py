"""Tests of the types of `convert.json` against real files and against the documentation."""

from __future__ import annotations

import hashlib
import re
import shutil
import typing
from pathlib import Path
from typing import Any

import pytest
from foreign_records import example, write
from image_sources import REPOSITORY, converted, image, tree

from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.layout import dataset_files
from tfrecord_tools.layout.dataset_files import ConvertJson


def problems(value: Any, kind: Any, path: str = "") -> list[str]:
    """Return where a value does not have a type, made of TypedDict, dict, list and plain types."""
    if kind is Any:
        return []
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        wrong = [f"{path}: {key} is missing" for key in kind.__required_keys__ - value.keys()]
        wrong += [f"{path}: {key} has no type" for key in value.keys() - hints.keys()]
        return wrong + [line for key in value.keys() & hints.keys() for line in problems(value[key], hints[key], key)]
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is dict:
        return [line for key, entry in value.items() for line in problems(entry, arguments[1], f"{path}.{key}")]
    if typing.get_origin(kind) is list:
        return [line for entry in value for line in problems(entry, arguments[0], f"{path}[]")]
    if typing.get_origin(kind) is typing.Literal:
        return [] if value in arguments else [f"{path}: {value!r} is none of {arguments}"]
    return [] if type(value) is kind else [f"{path}: {value!r} is not of type {kind.__name__}"]


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a source with duplicates of all kinds, a bad file, and labels to replace."""
    root = tree(tmp_path_factory.mktemp("types") / "pets", {"cats": 9, "dogs": 9})
    shutil.copy(root / "cats/000.jpg", root / "cats/copy.jpg")
    shutil.copy(root / "cats/001.jpg", root / "dogs/conflict.jpg")
    (root / "dogs/bad.jpg").write_bytes(b"<html>")
    rows = {"cats/003.jpg": "label,dogs", "cats/004.jpg": "drop,", "cats/006.jpg": "keep,"}
    lines = [f"{hashlib.sha256((root / path).read_bytes()).hexdigest()},{what}" for path, what in rows.items()]
    (root.parent / "decisions.csv").write_text("\n".join(["sha256,decision,label", *lines]))
    return root


def test_a_converted_dataset_has_the_keys_and_types(src: Path, tmp_path: Path) -> None:
    facts = converted(src, tmp_path / "out", decisions=str(src.parent / "decisions.csv"), max_bad=0.5)
    assert facts.keys() == typing.get_type_hints(ConvertJson).keys() - {"keys"}
    assert facts["duplicates"]["examples"]["conflicts"]
    assert facts["notes"]
    assert problems(facts, ConvertJson) == []


def test_an_adopted_dataset_has_the_keys_and_types(tmp_path: Path) -> None:
    records = [example({"img": image(number), "class": 1 + number % 2}) for number in range(8)]
    write(tmp_path / "train.tfrecord", records)
    facts = adopt(AdoptConfig(records=str(tmp_path), out=str(tmp_path / "out"), workers=1), lambda line: None)
    assert facts["keys"] == {"image": "img", "label": "class", "path": "", "label_offset": 1}
    assert problems(facts, ConvertJson) == []


def test_a_dry_run_has_no_report(src: Path) -> None:
    facts = convert(ConvertConfig(src=str(src), workers=1, max_bad=0.5, dry_run=True), lambda line: None)
    assert facts.keys().isdisjoint(dataset_files.Report.__annotations__)
    assert problems(facts, ConvertJson) == []


def test_wrong_keys_and_types_are_detected(src: Path, tmp_path: Path) -> None:
    facts: Any = converted(src, tmp_path / "out", max_bad=0.5)
    del facts["versions"]["pillow"]
    facts["images"]["colors"]["mean"][0] = "gray"
    facts["more"] = 1
    assert sorted(problems(facts, ConvertJson)) == [
        ": more has no type", "mean[]: 'gray' is not of type float", "versions: pillow is missing",
    ]  # fmt: skip


def test_the_documentation_lists_the_keys() -> None:
    text = (REPOSITORY / "docs/format.md").read_text().split("## convert.json\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", text, re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(documented) == sorted(typing.get_type_hints(ConvertJson))
