"""Tests without functions that only Unix has, as on Windows; they are hidden in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from image_sources import REPOSITORY, converted, with_splits

# Functions that Windows does not have, except those that Python itself uses on Unix: os.fork, os.statvfs, SIGKILL.
HIDDEN = """
import os, select, signal, sys, threading
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None  # Importing the module fails.
for module, names in {
    os: "pread preadv sync getuid geteuid getpgid killpg posix_fallocate sched_getaffinity O_CLOEXEC",
    select: "poll epoll",
    signal: "SIGALRM SIGHUP SIGUSR1 setitimer pthread_sigmask",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
opened = os.open
def open_no_directory(path, flags, *more, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opened(path, flags, *more, **options)
os.open = open_no_directory
def refuse(*_, **__):
    raise OSError(1, "A required privilege is not held by the client")
os.link = os.symlink = refuse
import ctypes
loaded = ctypes.CDLL
class NamedLibrary(loaded):
    def __init__(self, name, *more, **options):
        if name is None:
            raise TypeError("a name is needed")
        super().__init__(name, *more, **options)
ctypes.CDLL = NamedLibrary
"""


def without_unix(code: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in `tmp_path` with Unix's functions hidden. It is a file, so that workers can import it."""
    (tmp_path / "hidden.py").write_text(HIDDEN)
    (tmp_path / "program.py").write_text(f"import hidden\n{code}")
    return subprocess.run(
        [sys.executable, "program.py", *arguments],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore:only soft file lock"},
        capture_output=True,
        text=True,
        check=False,
    )


MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for package in ("tfrecord_tools", "trainers")
    for path in (REPOSITORY / package).rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)
NEEDS_BEAM = {"tfrecord_tools.conversion.beam_worker"}


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    code = f"import importlib\nfor name in {MODULES!r}: importlib.import_module(name)\nprint('all')"
    done = without_unix(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr


CONVERT = """
import sys
from tfrecord_tools import dataset
from tfrecord_tools.convert import ConvertConfig, convert

if __name__ == "__main__":
    out, workers, update = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "update"
    facts = convert(ConvertConfig(src="pets", out=out, workers=workers, update=update), log=print)
    records = dataset.open(out).records("train")
    print(len(records), {len(records[i]["image"]) > 0 for i in range(len(records))})
"""


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_conversion_an_update_and_reading(tmp_path: Path, workers: str) -> None:
    with_splits(tmp_path / "pets")
    done = without_unix(CONVERT, tmp_path, "out", workers, "new")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("10 {True}\n")
    converted(tmp_path / "pets", tmp_path / "here")
    for name in ("convert.json", "records.parquet", "rejected.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    (tmp_path / "pets/train/cats/new.png").write_bytes((tmp_path / "pets/train/cats/002.png").read_bytes() + b"1")
    done = without_unix(CONVERT, tmp_path, "out", workers, "update")
    assert done.returncode == 0, done.stderr
    assert "note: 2 unchanged shards were copied, because the file system has no hard links\n" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".partial") == []


def test_adopting_and_verifying(tmp_path: Path) -> None:
    converted(with_splits(tmp_path / "pets"), tmp_path / "out")
    code = """
import sys
from tfrecord_tools.adopt import AdoptConfig, adopt
from tfrecord_tools.export import ExportConfig, export
from tfrecord_tools.verify import VerifyConfig, verify
if __name__ == "__main__":
    adopt(AdoptConfig(records="out/*train*", out="adopted", workers=1))
    export(ExportConfig(tfrecords="out", out="images"))
    print(verify(VerifyConfig(directory="adopted", workers=1)))
"""
    done = without_unix(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "  note: 1 file was copied, because the file system has no symbolic links\n" in done.stdout
    assert done.stdout.endswith("[]\n")
    assert not any(path.is_symlink() for path in (tmp_path / "adopted").iterdir())


def test_commands_print_help(tmp_path: Path) -> None:
    code = "import runpy, sys\nsys.argv[1:] = ['convert', '--help']\n"
    code += "runpy.run_module('tfrecord_tools', run_name='__main__')"
    done = without_unix(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Convert images into verified, indexed TFRecords.\n")


@pytest.mark.slow
def test_a_training_continues(tmp_path: Path) -> None:
    """Train on the features of a small network. They are stored in a file that is filled step by step."""
    converted(with_splits(tmp_path / "pets"), tmp_path / "out")
    code = """
import runpy, sys
if __name__ == "__main__":
    flags = "--tfrecords=out --run=run --weights=none --image_size=32 --epochs=1 --backbone=MobileNet".split()
    sys.argv[1:] = ["features", *flags, "--backbone_kwargs=alpha=0.25"]
    runpy.run_module("trainers", run_name="__main__")
"""
    done = without_unix(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "lock" not in {path.name for path in (tmp_path / "run").iterdir()}
