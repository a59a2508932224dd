"""Tests of imports: they change only `sys.modules`, and the reader loads few modules."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from image_sources import REPOSITORY

MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for package in ("tfrecord_tools", "trainers")
    for path in (REPOSITORY / package).rglob("*.py")
    if path.stem not in ("__init__", "__main__", "beam_worker")  # The last one runs only on Beam's machines.
)

# Some libraries change the process when they are imported. They are imported first, so that only this project's changes
# are compared.
SNAPSHOT = """
import importlib, locale, logging, os, signal, sys, threading, warnings
import absl.app, absl.flags, absl.logging, google_crc32c, h5py, matplotlib, numpy, PIL.Image, PIL.ImageFile, pyarrow
import pyarrow.parquet, simplejpeg, tqdm, filelock
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, tensorflow

def snapshot():
    return {
        "PIL.Image.MAX_IMAGE_PIXELS": PIL.Image.MAX_IMAGE_PIXELS,
        "PIL.ImageFile.LOAD_TRUNCATED_IMAGES": PIL.ImageFile.LOAD_TRUNCATED_IMAGES,
        "warnings.filters": list(warnings.filters),
        "os.environ": dict(os.environ),
        "working directory": os.getcwd(),
        "loggers": {name: (logger.level, list(logger.handlers)) for name, logger in
                    [("", logging.getLogger()), *logging.root.manager.loggerDict.items()]
                    if isinstance(logger, logging.Logger) and (logger.level or logger.handlers)},
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "sys.path": list(sys.path),
        "sys.meta_path": list(sys.meta_path),
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "locale": locale.setlocale(locale.LC_ALL),
        **{f"matplotlib {name}": str(value) for name, value in matplotlib.rcParams.items() if name != "backend"},
        "matplotlib backend": matplotlib.get_backend(auto_select=False),
        "threads": threading.active_count(),
        "mixed precision": keras.mixed_precision.dtype_policy().name,
        "flags": set(absl.flags.FLAGS),
    }

before = snapshot()
for name in sys.argv[1:]:
    importlib.import_module(name)
    after = snapshot()
    for what in before:
        if after[what] != before[what]:
            print(f"{name} changes {what}: {before[what]} -> {after[what]}")
    before = after
print("compared", len(sys.argv) - 1)
"""


def test_no_import_changes_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", SNAPSHOT, *MODULES], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == f"compared {len(MODULES)}\n", done.stderr


def loaded(module: str) -> set[str]:
    """Return the names of all modules that a new process loads to import `module` (one name, or "a, b")."""
    code = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"PIL", "simplejpeg", "tqdm", "absl", "tensorflow", "keras", "matplotlib", "jinja2", "filelock"}


def test_the_reader_is_light() -> None:
    modules = loaded("tfrecord_tools.records")
    assert not modules & HEAVY
    ours = {name for name in modules if name.partition(".")[0] in ("tfrecord_tools", "trainers")}
    assert len(ours) <= 14, sorted(ours)


def test_the_layout_is_light() -> None:
    """Reading and writing use this package, but neither decodes images with it."""
    modules = loaded(", ".join(module for module in MODULES if module.startswith("tfrecord_tools.layout.")))
    assert "tfrecord_tools.layout.findings" in modules
    assert not modules & HEAVY


PACKAGES = pytest.mark.parametrize("package", ["tfrecord_tools", "trainers"])


@PACKAGES
def test_packages_load_modules_only_when_they_are_used(package: str) -> None:
    modules = loaded(package)
    assert not modules & {*HEAVY, "numpy", "pyarrow"}
    assert {name for name in modules if name.partition(".")[0] in ("tfrecord_tools", "trainers")} == {package}


@PACKAGES
def test_every_public_name_exists(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        submodule = module._MODULE_OF.get(name)
        home = importlib.import_module(f"{package}.{submodule or name}") if name != "__version__" else module
        assert getattr(module, name) is (getattr(home, name) if submodule or home is module else home), name


@PACKAGES
def test_other_names_do_not_exist(package: str) -> None:
    with pytest.raises(AttributeError, match=rf"module '{package}' has no attribute 'datasett'"):
        getattr(importlib.import_module(package), "datasett")  # noqa: B009  Type checkers reject the attribute.
    with pytest.raises(ImportError, match="cannot import name 'datasett'"):
        exec(f"from {package} import datasett")


def test_public_names_load_only_what_they_need() -> None:
    code = "import sys; from tfrecord_tools import open_dataset, UserError; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & HEAVY
    code = (
        "import sys; from tfrecord_tools import *; from tfrecord_tools import dataset; dataset.train_batches; Records"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_every_directory_with_modules_is_a_package() -> None:
    """A directory without `__init__.py` would be missing from the wheel."""
    directories = {
        path.parent for package in ("tfrecord_tools", "trainers") for path in Path(REPOSITORY / package).rglob("*.py")
    }
    assert [path for path in directories if not (path / "__init__.py").exists()] == []


def documented_names() -> list[str]:
    """Return the dotted names of this project in README, docs and examples."""
    paths = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "examples").glob("*.py")]
    names = {
        name for path in paths for name in re.findall(r"\b(?:tfrecord_tools|trainers)(?:\.\w+)+", path.read_text())
    }
    return sorted(name for name in names if not name.endswith((".md", ".py")))


RESOLVE = """
import importlib, sys
for name in sys.argv[1:]:
    module, *rest = name.split(".")
    value = importlib.import_module(module)
    for part in rest:
        try:
            value = getattr(value, part)
        except AttributeError:
            value = importlib.import_module(f"{value.__name__}.{part}")
print("resolved", len(sys.argv) - 1)
"""


def test_documented_names_exist() -> None:
    names = documented_names()
    assert {"tfrecord_tools.convert", "tfrecord_tools.images.prepare", "trainers.finetune"} <= set(names)
    done = subprocess.run([sys.executable, "-c", RESOLVE, *names], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == f"resolved {len(names)}\n", done.stderr
