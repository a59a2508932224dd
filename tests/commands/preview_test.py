"""Tests of preview."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import converted, image, run, with_splits
from PIL import Image

from tfrecord_tools.augment_config import PRESETS
from tfrecord_tools.errors import UserError
from tfrecord_tools.preview import PreviewConfig, grid, panels


def test_panels_are_draws_of_one_image() -> None:
    config = PreviewConfig(image="-", grid="2x3", image_size=20)
    drawn = panels(image(1, "PNG", size=(40, 40)), config, PRESETS["document"])
    assert drawn.shape == (6, 20, 20, 3)
    assert len({panel.tobytes() for panel in drawn}) == 6
    still = panels(image(1, "PNG", size=(40, 40)), config, PRESETS["none"])
    assert len({panel.tobytes() for panel in still}) == 1


def test_panels_of_any_shape_and_augmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "darker.py").write_text("def halved(images, keys):\n    return images // 2\n")
    config = PreviewConfig(image="-", grid="1x2", image_size=(10, 30), fit="pad")
    data = image(1, "PNG", size=(10, 10))
    drawn = panels(data, config, "none")
    assert drawn.shape == (2, 10, 30, 3)
    assert (drawn[:, :, :10] == 127).all()
    assert (drawn[:, :, 20:] == 127).all()
    np.testing.assert_array_equal(panels(data, config, "darker.py:halved"), drawn // 2)


def test_grid_lays_out_row_by_row() -> None:
    colors = np.arange(0, 240, 40, dtype=np.uint8)
    picture = np.asarray(grid(np.broadcast_to(colors[:, None, None, None], (6, 10, 12, 3)), columns=3))
    assert picture.shape == (2 * 14 + 4, 3 * 16 + 4, 3)
    assert picture[4:14:14, 4::16][0, :3, 0].tolist() == colors[:3].tolist()
    assert picture[18, 4::16][:3, 0].tolist() == colors[3:].tolist()
    assert (picture[:4] == 255).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"use either --tfrecords=DIRECTORY for a record, or --image=FILE for an image file\."),
        ({"image": "a", "tfrecords": "b"}, r"use either"),
        ({"image": "a", "grid": "3"}, r"--grid=3: must be ROWSxCOLUMNS, for example 3x4\."),
        ({"image": "a", "grid": "0x4"}, r"--grid=0x4: must be 1 to 400 panels\."),
        ({"image": "a", "image_size": 0}, r"--image_size=0: must be 1 to 2,048 pixels\."),
        ({"image": "a", "image_size": (20, 9000)}, r"--image_size=20x9000: must be 1 to 2,048 pixels\."),
        ({"image": "a", "crop": 0.5, "fit": "pad"}, r"--crop=0\.5 with --fit=pad: only --fit=crop cuts a part out"),
        ({"image": "a", "augment": "standard,flip=True"}, r"--augment=standard,flip=True: there is no setting 'flip'"),
    ],
)
def test_errors_name_the_flag(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PreviewConfig(**settings)


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    converted(with_splits(tmp_path / "pets"), tmp_path / "out")
    ended = run("tfrecord_tools.preview", "--tfrecords=out", "--record=3", "--image_size=32", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("preview.png: ")
    assert Image.open(tmp_path / "preview.png").size == (4 * 36 + 4, 3 * 36 + 4)
    (tmp_path / "no.jpg").write_bytes(b"<html>")
    for flag, message in (
        ("--image=no.jpg", "error: --image=no.jpg: not an image (starts with b'<html>'); an HTML page: "),
        ("--image=none.jpg", "error: --image=none.jpg: No such file or directory."),
        ("--tfrecords=out --record=99", "error: --record=99: must be 0 to "),
    ):
        ended = run("tfrecord_tools.preview", *flag.split(), cwd=tmp_path)
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1].startswith(message)
