"""The code of the README runs, and the Korean README has the same commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfrecord_tools.convert import ConvertConfig, convert

README = Path(__file__).parents[2] / "README.md"
KOREAN = README.with_name("README.ko.md")
LONGEST = 130  # Lines.
SECTIONS = {
    "Install": "설치",
    "From a folder to a classifier": "폴더에서 분류기까지",
    "Output files": "출력 파일",
    "Reading the records elsewhere": "다른 곳에서 레코드 읽기",
    "You want …": "하고 싶은 일 …",
    "Compared with other tools": "다른 도구와 비교",
    "More": "더 읽을거리",
}


def code_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


BLOCKS = code_blocks(README)


@pytest.fixture
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an `out/` of 12 train and 6 validation images, and their pixels as PNG."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("validation", 3)):
        for name in ("cats", "dogs"):
            folder = tmp_path / "cat_dog_img" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (20 + number, 30, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    convert(ConvertConfig(src="cat_dog_img", workers=1), log=lambda line: None)
    return tmp_path


def test_the_plain_tensorflow_snippet_reads_every_record(converted: Path) -> None:
    snippet = BLOCKS[0]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 15
    names: dict[str, Any] = {}
    exec(snippet, names)
    ((images, labels),) = names["train"]  # Twelve records are one batch.
    assert images.shape == (12, 160, 160, 3)
    read = sorted((int(label), image.numpy().tobytes()) for image, label in zip(images, labels))
    stored = [
        (label, tf.image.resize(np.asarray(Image.open(path)), [160, 160]).numpy().tobytes())
        for label, name in enumerate(("cats", "dogs"))
        for path in (converted / "cat_dog_img" / "train" / name).iterdir()
    ]
    assert read == sorted(stored)


def test_the_index_snippet_yields_batches(converted: Path) -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS[1], names)
    images, labels = next(iter(names["train"]))
    assert images.shape == (32, 160, 160, 3)
    assert set(labels.numpy()) == {0, 1}
    assert sum(len(labels) for _, labels in names["validation"]) == 6


def commands(path: Path) -> list[list[str]]:
    """The words of each command in the indented blocks, without comments."""
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    return [line.split("#")[0].split() for line in text.splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("path", [README, KOREAN], ids=lambda path: path.name)
def test_the_readme_starts_with_the_two_set_up_commands(path: Path) -> None:
    assert commands(path)[:2] == [["make", "demo"], ["make", "test"]]
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST


def inline_commands(path: Path) -> list[str]:
    return re.findall(r"`(python -m [^`]+|make [^`]+|pip [^`]+|--[^`]+)`", path.read_text("utf-8"))


def links(path: Path) -> list[str]:
    """The targets of links and pictures, without those to the other README."""
    targets = re.findall(r"\]\((\S+?)\)", path.read_text("utf-8"))
    return [target for target in targets if not target.startswith("README")]


def without_comments(block: str) -> str:
    return re.sub(r" +#.*", "", block)


def test_the_korean_readme_has_the_same_sections_and_commands() -> None:
    titles = [re.findall(r"^## (.+)$", path.read_text("utf-8"), re.MULTILINE) for path in (README, KOREAN)]
    assert titles == [list(SECTIONS), list(SECTIONS.values())]
    assert commands(KOREAN) == commands(README)
    assert sorted(inline_commands(KOREAN)) == sorted(inline_commands(README))
    assert [without_comments(block) for block in code_blocks(KOREAN)] == [without_comments(block) for block in BLOCKS]
    assert links(KOREAN) == links(README)
    rows = [
        [line.count("|") for line in path.read_text("utf-8").splitlines() if "|" in line] for path in (README, KOREAN)
    ]
    assert rows[0] == rows[1]
