"""examples/fit_keras.py learns the drawings that people try it on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from image_sources import REPOSITORY, converted

from tfrecord_tools.sample import draw_sample


@pytest.mark.slow
def test_the_accuracy_is_above_chance(tmp_path: Path) -> None:
    draw_sample(tmp_path / "sample", images=600)
    converted(tmp_path / "sample", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "examples/fit_keras.py", "out"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = r"accuracy (0\.\d{3}|1\.000) on the 180 images of the validation split \(random guess: 0\.500\)\n"
    match = re.fullmatch(expected, done.stdout)
    assert match, done.stdout
    assert float(match.group(1)) > 0.8
