"""Tests of functions of the user: how they are named, found and hashed, and what is reported."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfrecord_tools.base import user_code
from tfrecord_tools.errors import UserError

CODE = """
import beside

def build(shape):
    return beside.VALUE + shape

class Holder:
    @staticmethod
    def inner(shape):
        return shape

number = 3
"""


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with a module, and a file beside which it has another module."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/my net.py").write_text(CODE)
    (tmp_path / "nets/beside.py").write_text("VALUE = 10\n")
    (tmp_path / "plain_net.py").write_text("def build(shape):\n    return shape\n")
    (tmp_path / "broken_net.py").write_text("\nimport no_such_package\n")
    (tmp_path / "failing_net.py").write_text("\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ("nets.vit:build", True),
        ("nets/my net.py:Holder.inner", True),
        (r"C:\nets\vit.py:build", True),
        ("MobileNetV2", False),
        ("nets/vit.py", False),
        ("nets/vit:build", False),  # A path without .py.
        ("vit:build()", False),
        ("keras_hub:vit_base-16", False),
    ],
)
def test_names_have_a_form(text: str, is_named: bool) -> None:
    assert user_code.is_named(text) == is_named


def test_functions_are_found_in_files_and_modules(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_code.function("nets/my net.py:build", "--backbone=")(1) == 11  # It imports a module beside it.
    assert user_code.function("nets/my net.py:Holder.inner", "--backbone=")(1) == 1
    assert user_code.function("plain_net:build", "--backbone=")(1) == 1
    monkeypatch.setenv("HOME", str(place))
    assert user_code.function("~/nets/my net.py:build", "--backbone=")(2) == 12
    first = user_code.function("nets/my net.py:build", "--backbone=")
    assert user_code.function(f"{place}/nets/my net.py:build", "--backbone=") is first  # It ran once.
    (place / "nets/my net.py").write_text(CODE.replace("beside.VALUE +", "beside.VALUE -"))
    assert user_code.function("nets/my net.py:build", "--backbone=")(1) == 9  # A changed file runs again.


def test_hash_is_that_of_the_file_that_defines_the_function(place: Path) -> None:
    (place / "outer_net.py").write_text("from plain_net import build\n")
    expected = hashlib.sha256((place / "plain_net.py").read_bytes()).hexdigest()
    for text in ("plain_net:build", "plain_net.py:build", "outer_net:build"):
        assert user_code.sha256_of_function(text, "--backbone=") == expected
    assert user_code.sha256_of_code("plain_net", "--custom_objects=") == expected
    assert user_code.sha256_of_code("plain_net.py", "--custom_objects=") == expected


def test_objects_and_results_have_the_hash_of_the_module_that_names_them(place: Path) -> None:
    (place / "made_net.py").write_text(
        "import functools\ndef make(depth):\n    return lambda shape: depth\n"
        "def traced(f):\n    return functools.wraps(f)(lambda shape: f(shape))\n"
    )
    named = "import made_net\n@made_net.traced\ndef net(shape): return shape\nother = made_net.make(3)\n"
    (place / "naming_net.py").write_text(named)
    expected = hashlib.sha256(named.encode()).hexdigest()
    assert user_code.sha256_of_function("naming_net:net", "--backbone=") == expected
    assert user_code.sha256_of_function("naming_net:other", "--backbone=") == expected


CHANGED = "--backbone={}: {}/plain_net.py has changed since it was imported, so the old code is still in use."


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_module_that_changes_after_its_import_is_refused(is_seen: bool, place: Path) -> None:
    if is_seen:
        before = user_code.sha256_of_function("plain_net:build", "--backbone=")
    else:  # The user imports it, and edits it before it is trained with.
        sys.path.append(str(place))
        importlib.import_module("plain_net")
    old = (place / "plain_net.py").read_text()
    (place / "plain_net.py").write_text("def build(shape):\n    return shape + 1\n")
    (place / "outer_net.py").write_text("from plain_net import build\n")
    for text in ("plain_net:build", "outer_net:build"):
        with pytest.raises(UserError, match=re.escape(CHANGED.format(text, place))):
            user_code.sha256_of_function(text, "--backbone=")
    for call in (user_code.run, user_code.sha256_of_code):
        with pytest.raises(UserError, match=r"changed since it was imported.*run importlib.reload on the module p"):
            call("plain_net", "--custom_objects=")
    if is_seen:
        (place / "plain_net.py").write_text(old)
        assert user_code.sha256_of_function("plain_net:build", "--backbone=") == before
    (place / "plain_net.py").write_text("def build(shape):\n    return shape + 22\n")
    sys.path.append(str(place))
    importlib.reload(sys.modules["plain_net"])
    new = hashlib.sha256((place / "plain_net.py").read_bytes()).hexdigest()
    assert user_code.sha256_of_function("plain_net:build", "--backbone=") == new
    assert user_code.function("plain_net:build", "--backbone=")(1) == 23


def test_a_file_that_changes_back_runs_again(place: Path) -> None:
    code = "import os\nos.environ['LAST_NET'] = '{}'\n"  # As a class that registers itself.
    for value in "121":
        (place / "plain_net.py").write_text(code.format(value))
        user_code.run("plain_net.py", "--custom_objects=")
        assert os.environ.pop("LAST_NET") == value


def test_functions_have_a_name() -> None:
    assert user_code.name_of(os.path.join, "backbone=") == "posixpath:join"
    for unnamed in (lambda shape: shape, functools.partial(os.path.join, "a"), os.getcwd().join):
        with pytest.raises(UserError, match=r"^backbone=.*: must be a function at the top level of a module, so that"):
            user_code.name_of(unnamed, "backbone=")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nets/no.py:build", "nets/no.py does not exist. Pass MODULE:FUNCTION or FILE.py:FUNCTION."),
        (
            "no_net:build",
            "there is no module 'no_net', neither in PLACE nor among the installed packages. Pass MODULE:",
        ),
        ("nets.no:build", "there is no module 'nets.no', neither in PLACE nor among"),
        ("plain_net:builds", "plain_net has no function 'builds'. Did you mean build?"),
        ("plain_net:x", "plain_net has no function 'x'. The functions of the module are build."),
        ("nets/my net.py:number", "is not a function. Pass MODULE:FUNCTION or FILE.py:FUNCTION."),
        ("broken_net.py:build", "broken_net.py fails: ModuleNotFoundError: No module named 'no_such_package' (line 2)"),
        (
            "broken_net:build",
            "broken_net fails: ModuleNotFoundError: No module named 'no_such_package'. Correct the code.",
        ),
        (
            "failing_net.py:build",
            "failing_net.py fails: ZeroDivisionError: division by zero (line 2). Correct the code.",
        ),
    ],
)
def test_mistakes_are_reported(text: str, message: str, place: Path) -> None:
    with pytest.raises(UserError) as error:
        user_code.function(text, "--backbone=")
    assert str(error.value).startswith(f"--backbone={text}: {message.replace('PLACE', str(place))}")
