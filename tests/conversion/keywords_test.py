"""Convert and open from Python."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from image_sources import contents, converted, tree

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
