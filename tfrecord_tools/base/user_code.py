"""Import the user's functions, which are named `module:function` or `file.py:function`."""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError, named, one_line, refusal

FORMS = "MODULE:FUNCTION or FILE.py:FUNCTION"
_NAMED = re.compile(r"(?P<code>.+\.py|[^\W\d]\w*(?:\.\w+)*):(?P<name>[^\W\d]\w*(?:\.\w+)*)")


def is_named(text: str) -> bool:
    """Return whether a text has the form `module:function` or `file.py:function`."""
    return _NAMED.fullmatch(text) is not None


def code_of(text: str) -> str:
    """Return the module or the file of a text for which `is_named` is true."""
    return _parts(text)[0]


def check(text: str, prefix: str) -> None:
    """Check that the file of `file.py:function` exists, without running it. Modules are not checked.

    Raises:
        UserError: The file does not exist.
    """
    code, _ = _parts(text)
    if code.endswith(".py"):
        _existing(code, f"{prefix}{text}", prefix)


def function(text: str, prefix: str, must: str = "") -> Callable[..., Any]:
    """Import the function that a text names. This runs the code of its module or file.

    Args:
        text: `module:function`, for a module in the working directory or an installed one, or `file.py:function`.
        prefix: Text before the value in messages, such as "--backbone=".
        must: Sentence for the error message if the value is not a function. It says what the function must do.

    Raises:
        UserError: There is no such function, or its code fails.
    """
    shown, (code, name) = f"{prefix}{text}", _parts(text)
    module = _imported(code, shown, prefix)
    found = _attribute(module, name)
    if found is None:
        raise UserError(f"{shown}: {code} has no function {name!r}. {_others(module, name)}")
    if not callable(found):
        raise UserError(f"{shown}: is not a function. {must or f'Pass {FORMS}.'}")
    return found


def run(code: str, prefix: str) -> None:
    """Import a module or a file, so that the classes in it are registered.

    Raises:
        UserError: The module or the file does not exist, or its code fails.
    """
    _imported(code, f"{prefix}{code}", prefix)


def name_of(given: Callable[..., Any], prefix: str) -> str:
    """Return the text `module:function`, from which `function` imports a function again.

    Raises:
        UserError: The function has no such name, because it is nested, a lambda or a partial function.
    """
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", "")
    text = f"{module}:{name}"
    if not is_named(text) or _attribute(sys.modules.get(module or ""), name) is not given:
        raise UserError(
            f"{prefix}{given!r}: must be a function at the top level of a module, so that it can be imported by name."
            f" Define it with def, outside of other functions, or pass its name as a text: {FORMS}."
        )
    return text


def sha256_of_function(text: str, prefix: str) -> str:
    """Return the hash of the file that defines a function.

    In a notebook, it is the hash of the function alone.

    Raises:
        UserError: The source of the function cannot be read.
    """
    found = function(text, prefix)
    try:
        path = Path(inspect.getsourcefile(found) or "")
        source = path.read_bytes() if path.is_file() else inspect.getsource(found).encode()
    except (OSError, TypeError) as error:
        raise UserError(
            f"{prefix}{text}: its source code cannot be read. It is needed to notice later changes of the function."
            " Define the function in a file or in a cell of a notebook."
        ) from error
    return hashlib.sha256(source).hexdigest()


def sha256_of_code(code: str, prefix: str) -> str:
    """Return the hash of the file of a module, or of a file.

    Raises:
        UserError: There is no such module or file, or its code fails.
    """
    path = _imported(code, f"{prefix}{code}", prefix).__file__
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""


def line_of(error: BaseException, code: str) -> str:
    """Return the line of the user's file that raised an error, in parentheses, or "" if it is not known."""
    name, trace, line = Path(code).name, error.__traceback__, ""
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).name == name:
            line = f" (line {trace.tb_lineno})"
        trace = trace.tb_next
    return line


@contextlib.contextmanager
def importable(code: str) -> Iterator[None]:
    """Let code import modules from the directory of its file, or from the working directory.

    The directory is searched last. Python searches it for scripts and for `python -m`, but not for installed commands.

    Args:
        code: A module or a file.
    """
    is_file = code.endswith(".py")
    directory = str(Path(files.expand_user(code)).resolve().parent if is_file else Path.cwd())
    if directory in sys.path:
        yield
        return
    sys.path.append(directory)
    importlib.invalidate_caches()  # A module may be new.
    try:
        yield
    finally:
        sys.path.remove(directory)


def _parts(text: str) -> tuple[str, str]:
    match = _NAMED.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return match["code"], match["name"]


def _attribute(owner: Any, name: str) -> Any:
    for part in name.split("."):
        owner = getattr(owner, part, None)
    return owner


def _others(module: ModuleType, name: str) -> str:
    """Return what to do if a module has no function of this name."""
    names = [one for one, value in vars(module).items() if inspect.isroutine(value) and not one.startswith("_")]
    if near := difflib.get_close_matches(name, names, 1):
        return f"Did you mean {near[0]}?"
    return f"Its functions are {named(names)}." if names else "It has no functions."


def _existing(code: str, shown: str, prefix: str) -> Path:
    path = Path(files.expand_user(code, prefix))
    if not path.is_file():
        raise UserError(f"{shown}: {path} does not exist. Pass {FORMS}.")
    return path


def _imported(code: str, shown: str, prefix: str) -> ModuleType:
    try:
        if code.endswith(".py"):
            path = _existing(code, shown, prefix).resolve()
            return _of_file(path, hashlib.sha256(path.read_bytes()).hexdigest())
        return _of_module(code, shown)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{shown}: {code} fails: {refusal(error)}. Correct the cause.") from error
    except Exception as error:  # The code of the user can raise anything.
        reason = f"{type(error).__name__}: {one_line(error, 'all')}{line_of(error, code)}"
        raise UserError(f"{shown}: {code} fails: {reason}. Correct it.") from error


@functools.cache
def _of_file(path: Path, sha256: str) -> ModuleType:
    """Run a file as a module, once for each version of its content."""
    name = f"{path.stem}_{sha256[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = (
        module  # Dataclasses, pickle and `name_of` find the classes and functions of the module by this name.
    )
    try:
        with importable(str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _of_module(code: str, shown: str) -> ModuleType:
    try:
        with importable(code):
            return importlib.import_module(code)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{code}.".startswith(f"{error.name}."):
            raise  # The module exists, but imports another module that does not exist.
        raise UserError(
            f"{shown}: there is no module {code!r}, neither in {Path.cwd()} nor among the installed packages. Pass"
            f" {FORMS}."
        ) from error
