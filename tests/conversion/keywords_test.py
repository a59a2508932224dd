"""Convert and open from Python."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import contents, converted, draw, tree

import tfrecord_tools
from tfrecord_tools.conversion.keywords import ConvertSettings
from tfrecord_tools.convert import ConvertConfig
from tfrecord_tools.errors import UserError


def test_keywords_are_the_settings() -> None:
    fields = {field.name for field in dataclasses.fields(ConvertConfig)}
    assert set(ConvertSettings.__annotations__) == fields - {"src", "dry_run", "explicit"}


def test_python_and_the_command_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    src = tree(tmp_path / "pets", {"cats": 6, "dogs": 6})
    lines: list[str] = []
    data = tfrecord_tools.convert(src=src, out="~/here", seed=3, workers=1, log=lines.append)
    converted(src, tmp_path / "there", seed=3)
    assert data.directory == tmp_path / "here"
    here, there = (
        {name: data for name, data in contents(tmp_path / out).items() if ".tfrecord-" in name}
        for out in ("here", "there")
    )
    assert here == there
    assert len(here) == 2
    assert any("12 images" in line for line in lines)
    assert tfrecord_tools.open(tmp_path / "here") == data


def test_a_finished_conversion_is_returned(tmp_path: Path) -> None:
    """The cell of a notebook is run a second time."""
    src = tree(tmp_path / "pets", {"cats": 6, "dogs": 6})
    settings: dict[str, Any] = {"src": src, "out": tmp_path / "out", "workers": 1}
    first = tfrecord_tools.convert(**settings, log=lambda line: None)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    lines: list[str] = []
    assert tfrecord_tools.convert(**settings, seed=0, log=lines.append) == first  # 0 is the default.
    assert lines == [
        f"{tmp_path}/out/: the dataset is finished already. The images and the settings are the same, so nothing was"
        " written"
    ]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert not (tmp_path / "out.partial").exists()
    message = r"out: the dataset exists\. Pass --overwrite to replace it when the new one is complete, or choose"
    with pytest.raises(UserError, match=message):
        tfrecord_tools.convert(**settings, seed=3, log=lines.append)
    draw(src / "cats/new.jpg")
    with pytest.raises(UserError, match=message):
        tfrecord_tools.convert(**settings, log=lines.append)
    assert tfrecord_tools.convert(**settings, overwrite=True, log=lines.append).digest != first.digest


def test_update_compares_the_given_settings(tmp_path: Path) -> None:
    src = tree(tmp_path / "pets", {"cats": 6, "dogs": 6})
    tfrecord_tools.convert(src=src, out=tmp_path / "out", seed=3, workers=1, log=lambda line: None)
    data = tfrecord_tools.convert(src=src, out=tmp_path / "out", update=True, workers=1, log=lambda line: None)
    assert sum(data.splits.values()) == 12
    with pytest.raises(UserError, match=r"^--update: --seed was 3 for .* and is 0 now"):
        tfrecord_tools.convert(src=src, out=tmp_path / "out", update=True, seed=0, workers=1, log=lambda line: None)


def test_a_dry_run_needs_the_command(tmp_path: Path) -> None:
    settings: dict[str, bool] = {"dry_run": True}
    with pytest.raises(UserError, match=r"^dry_run: must be left out in Python, .*--src=pets --dry_run$"):
        tfrecord_tools.convert(src="pets", **settings)  # type: ignore[arg-type]


def test_a_notebook_shows_the_card(tmp_path: Path) -> None:
    src = tree(tmp_path / "pets", {"cats": 6, "dogs": 6})
    page = tfrecord_tools.convert(src=src, out=tmp_path / "out", workers=1, log=lambda line: None)._repr_html_()
    assert page.startswith(f"<div>{tmp_path}/out: 2 classes, ")
    assert '<iframe srcdoc="&lt;!DOCTYPE html&gt;' in page or '<iframe srcdoc="&lt;!doctype html&gt;' in page
    (tmp_path / "out/card.html").unlink()
    assert "<iframe" not in tfrecord_tools.open(tmp_path / "out")._repr_html_()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("src", 3, "--src=3: must be a path."),
        ("out", ["a", "b"], "--out=a,b: must be a path."),
        ("overwrite", "False", "--overwrite=False: must be True or False."),  # A text is true.
        ("upscale", 1, "--upscale=1: must be True or False."),
        ("resize", True, "--resize=True: must be a whole number."),  # Not one pixel.
        ("resize", 64.0, "--resize=64.0: must be a whole number."),
        ("seed", 1.5, "--seed=1.5: must be a whole number."),
        ("workers", "two", "--workers=two: must be a whole number."),
        ("max_bad", "few", "--max_bad=few: must be a number."),
        ("label_regex", 3, "--label_regex=3: must be a text."),
        ("depth_range", (0, 9), "--depth_range=0,9: must be a text, as in '0,4095' or 'auto'."),
        ("exclude", 3, "--exclude=3: must be a text or several texts."),
        ("classes", np.zeros((9, 9)), "--classes=<ndarray>: must be names, separated by commas."),
    ],
)
def test_values_of_another_type_are_refused(tmp_path: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        tfrecord_tools.convert(**{"src": tmp_path, "out": tmp_path / "out", name: value})
    assert str(error.value) == message
    assert not list(tmp_path.iterdir())


def test_an_unknown_setting_names_the_one_that_is_meant() -> None:
    given: dict[str, Any] = {"src": "pets", "resiz": 64}
    with pytest.raises(TypeError, match=r"^there is no option 'resiz'\. Did you mean 'resize'\?$"):
        tfrecord_tools.convert(**given)


def test_values_of_numpy_texts_and_none_are_those_of_the_flags(tmp_path: Path) -> None:
    src = tree(tmp_path / "pets", {"cats": 6, "dogs": 6, "newts": 6})
    given: dict[str, Any] = {
        "seed": np.int64(3),
        "resize": np.int32(8),
        "quality": "90",
        "validation_fraction": np.float32(0.5),
        "classes": "cats,dogs",
        "exclude": "**/000.jpg",
        "store": None,
        "workers": 1,
    }
    data = tfrecord_tools.convert(src=src, out=tmp_path / "out", log=lambda line: None, **given)
    flags: dict[str, Any] = {"seed": 3, "resize": 8, "quality": 90, "validation_fraction": 0.5}
    converted(src, tmp_path / "there", classes=["cats", "dogs"], exclude=["**/000.jpg"], **flags)
    assert data.digest == tfrecord_tools.open(tmp_path / "there").digest
    assert sum(data.splits.values()) == 10
