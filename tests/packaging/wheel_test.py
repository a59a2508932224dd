"""The wheel is built, installed into a fresh environment, and used there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from image_sources import REPOSITORY

pytestmark = pytest.mark.slow


def succeed(command: Sequence[str | Path], cwd: Path) -> str:
    """Run a command without this checkout on its path; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    copy = directory / "source"  # Setuptools writes into the directory that it builds.
    tracked = succeed(["git", "ls-files", "-z"], REPOSITORY).split("\0")
    for name in filter(None, tracked):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((REPOSITORY / name).read_bytes())
    succeed([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", directory, copy], directory)
    (path,) = directory.glob("*.whl")
    return path


def test_every_module_and_every_data_file_is_in_it(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = succeed(["git", "ls-files", "tfrecord_tools", "trainers"], REPOSITORY).split()
    assert packed == set(tracked)


def test_a_fresh_environment_converts_verifies_and_lists_trainers(wheel: Path, tmp_path: Path) -> None:
    succeed([sys.executable, "-m", "venv", "fresh"], tmp_path)
    bin_directory = tmp_path / "fresh" / "bin"
    succeed([bin_directory / "python", "-m", "pip", "install", "--quiet", wheel], tmp_path)
    tools, trainers = bin_directory / "tfrecord-tools", bin_directory / "tfrecord-trainers"
    succeed([tools, "sample", "--out=drawn", "--images=8"], tmp_path)
    assert "records" in succeed([tools, "convert", "--src=drawn", "--out=out"], tmp_path)
    assert (tmp_path / "out/card.html").exists()
    succeed([tools, "verify", "out"], tmp_path)
    flags = ["--weights=none", "--image_size=32", "--epochs=1", "--batch_size=4", "--run=run"]
    succeed([trainers, "finetune", "--tfrecords=out", "--backbone_kwargs=alpha=0.25", *flags], tmp_path)
    assert (tmp_path / "run/report.html").exists()
