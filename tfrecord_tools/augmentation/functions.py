"""Find functions of the user that change batches of images, and name them.

This module does not need TensorFlow.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError, named, one_line

AugmentFunction = Callable[[Any, Any], Any]  # (images u8[b h w 3], keys i64[b]) -> images u8[b h w 3].
_NAMED = re.compile(r"(?P<source>[^=,]+|.*\.py):(?P<name>[A-Za-z_][\w.]*)")


def is_named(text: str) -> bool:
    """Return whether a text names a function, as in `module:function` or `file.py:function`."""
    return _NAMED.fullmatch(text) is not None


def load(text: str, prefix: str = "augment=") -> AugmentFunction:
    """Import the function that a text names.

    Args:
        text: `module:function`, for a module in the working directory or an installed one, or `file.py:function`.
        prefix: Text before the value in messages.

    Raises:
        UserError: The file, the module or the function does not exist, or the code of the module fails.
    """
    match = _NAMED.fullmatch(text)
    if match is None:
        raise ValueError(text)
    shown, source = f"{prefix}{text}", match["source"]
    module = _of_file(source, shown, prefix) if source.endswith(".py") else _imported(source, shown)
    function: Any = module
    for part in match["name"].split("."):
        function = getattr(function, part, None)
    if function is None:
        raise UserError(f"{shown}: {source} has no function {match['name']!r}. {_others(module, match['name'])}")
    if not callable(function):
        raise UserError(f"{shown}: is not a function. It must take images and keys, and return images.")
    loaded: AugmentFunction = function
    return loaded


def name_of(function: AugmentFunction) -> str:
    """Return the name of a function, as in `module:function`. A partial function also has its arguments."""
    if isinstance(function, functools.partial):
        given = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
        return f"{name_of(function.func)}({', '.join(given)})"
    owner: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{owner.__module__}:{owner.__qualname__}"


def sha256_of(function: AugmentFunction) -> str | None:
    """Return the hash of a function's source code. None: it has no source code.

    Functions that it calls are not included.
    """
    if isinstance(function, functools.partial):
        return sha256_of(function.func)
    try:
        source = inspect.getsource(function if inspect.isroutine(function) else type(function))
    except (OSError, TypeError):
        return None
    return hashlib.sha256(source.encode()).hexdigest()


def _others(module: ModuleType, name: str) -> str:
    """Return what to do if a module has no function of this name."""
    names = [one for one, value in vars(module).items() if inspect.isroutine(value) and not one.startswith("_")]
    if near := difflib.get_close_matches(name, names, 1):
        return f"Did you mean {near[0]}?"
    return f"Its functions are {named(names)}." if names else "It has no functions."


def _of_file(source: str, shown: str, prefix: str) -> ModuleType:
    path = Path(files.expand_user(source, prefix))
    if not path.is_file():
        raise UserError(f"{shown}: {path} does not exist. Pass FILE.py:FUNCTION or MODULE:FUNCTION.")
    with _explained(source, shown):
        return _run(path.resolve(), path.stat().st_mtime_ns)


@functools.cache
def _run(path: Path, mtime_ns: int) -> ModuleType:
    """Run a file as a module, once for each version of it.

    It can import files beside it, as a script can.
    """
    name = f"augment_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Dataclasses and pickle find classes by it.
    with _importable(path.parent):
        spec.loader.exec_module(module)
    return module


def _imported(source: str, shown: str) -> ModuleType:
    with _explained(source, shown), _importable(Path.cwd()):
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{source}.".startswith(f"{error.name}."):
                raise  # The module exists, and imports another one that does not.
            raise UserError(
                f"{shown}: there is no module {source!r}, neither in {Path.cwd()} nor among the installed packages."
                " Pass MODULE:FUNCTION or FILE.py:FUNCTION."
            ) from error


@contextlib.contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """Let modules in a directory be imported, after all others."""
    text = str(directory)
    if text in sys.path:
        yield
        return
    sys.path.append(text)
    try:
        yield
    finally:
        sys.path.remove(text)


@contextlib.contextmanager
def _explained(source: str, shown: str) -> Iterator[None]:
    """Turn errors of the user's code into UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # The user's code can raise anything.
        raise UserError(f"{shown}: {source} fails: {type(error).__name__}: {one_line(error, 'all')}.") from error
