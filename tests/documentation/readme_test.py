"""The README's code does what the README says."""

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
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


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


def test_the_readme_starts_with_the_two_set_up_commands() -> None:
    commands = [line.split("#")[0].split() for line in README.read_text().splitlines() if line.startswith("    ")]
    assert commands[:2] == [["make", "demo"], ["make", "test"]]
