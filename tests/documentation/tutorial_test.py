"""The commands of the tutorial run, and they print the lines that the tutorial quotes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from image_sources import save_weights

from tools import tutorial

pytestmark = pytest.mark.slow
# Short trainings: the flags that are given last are the ones that count.
QUICK = {
    "tfrecord_tools.sample": ["--images=60"],
    "trainers.scratch": ["--epochs=1"],
    "trainers.features": ["--epochs=1", "--image_size=32"],
    "trainers.frozen": ["--epochs=1", "--image_size=32"],
    "trainers.finetune": ["--epochs=1,1", "--image_size=32"],
}


def masked(line: str) -> str:
    """A line without its numbers, hexadecimal digests and widths of columns."""
    line = re.sub(r"\b[0-9a-f]{12,}\b|\d[\d,.]*(?:e-?\d+)?", "N", line)
    line = re.sub(r"\b(?:cat|dog)\.N", "ANIMAL.N", line.replace("cats", "CLASS").replace("dogs", "CLASS"))
    return " ".join(line.split())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tutorial")


def test_the_commands_print_the_quoted_lines(directory: Path) -> None:
    save_weights(directory / "small.weights.h5")
    steps = tutorial.steps(tutorial.PAGE.read_text("utf-8"))
    assert len(steps) >= 12
    for step in steps:
        arguments = [argument.replace("cat.210", "cat.21").replace("dog.210", "dog.21") for argument in step.arguments]
        weights = tutorial.weights_of(step, str(directory / "small.weights.h5"))
        quick = tutorial.Step(step.module, [*arguments, *QUICK.get(step.module, [])], step.quote)
        output = tutorial.quotable(step.module, tutorial.run(quick, directory, weights))
        if step.quote is not None:
            printed = [masked(line) for line in output.splitlines()]
            for line in step.quote.splitlines():
                # Values and file names of the first records depend on the drawings.
                assert masked(line) in printed or "distinct" in line, f"{step.module}: {line}\n{output}"


def test_the_training_loop_of_the_tutorial_runs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", tutorial.PAGE.read_text("utf-8"), re.DOTALL):
        exec(block, names)
    assert len(names["batches"]) == 2  # The test draws few images.
    assert names["model"].optimizer.iterations == 2 * len(names["model"].history.epoch)
