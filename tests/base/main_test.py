"""Tests of `python -m tfrecord_tools`."""

from __future__ import annotations

from pathlib import Path

from image_sources import run

from tfrecord_tools.__main__ import COMMANDS


def test_each_command_is_listed_on_one_line(tmp_path: Path) -> None:
    done = run("tfrecord_tools", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(COMMANDS)
    for line, (name, purpose) in zip(lines, COMMANDS.items()):
        assert line.startswith(f"python -m tfrecord_tools.{name} ")
        assert line.endswith(f"  {purpose}")
        assert len(line) <= 120
