"""Import the user's functions, which are named `module:function` or `file.py:function`."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError, named, one_line, refusal, short

FORMS = "MODULE:FUNCTION or FILE.py:FUNCTION"
_NAMED = re.compile(r"(?P<code>.+\.py|[^\W\d]\w*(?:\.\w+)*):(?P<name>[^\W\d]\w*(?:\.\w+)*)")
_FILES: dict[Path, ModuleType] = {}  # File -> its module, as it ran last.
# Module -> its specification, which `importlib.reload` replaces, and the hash of its file when it was imported.
_HASHES: dict[str, tuple[Any, str]] = {}


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


def name_of(given: Callable[..., Any], prefix: str, hint: str = "") -> str:
    """Return the text `module:function`, from which `function` imports a function again.

    Args:
        given: The function.
        prefix: Text before the value in messages, such as "backbone=".
        hint: Another way to pass such a function, for the message.

    Raises:
        UserError: The function has no such name, because it is nested, a lambda, a partial function, a method or an
            object.
    """
    text = f"{getattr(given, '__module__', None)}:{getattr(given, '__qualname__', '')}"
    if not is_named(text) or not _is_plain(given):
        raise UserError(
            f"{prefix}{short(given)}: must be a function at the top level of a module, so that it can be imported by"
            f" name. Define it with def, outside of other functions, or pass its name as a text: {FORMS}.{hint}"
        )
    return text


def sha256_of_function(text: str, prefix: str) -> str:
    """Return the hash of the file that defines a function, as it was when it was imported.

    In a notebook, it is the hash of the function alone.

    Raises:
        UserError: The source of the function cannot be read, or has changed since it was imported.
    """
    shown, found = f"{prefix}{text}", function(text, prefix)
    try:
        if not _is_plain(found):  # An object or the result of a call: the module that names it decides its values.
            return _sha256_of_loaded(_imported(_parts(text)[0], shown, prefix), shown)
        inner = inspect.unwrap(found)
        if Path(inspect.getsourcefile(inner) or "").is_file():
            return _sha256_of_loaded(sys.modules[inner.__module__], shown)
        source = inspect.getsource(inner).encode()
    except (OSError, TypeError) as error:
        raise UserError(
            f"{shown}: the source code of the function cannot be read. The code is needed to notice later changes."
            " Define the function in a file or in a cell of a notebook."
        ) from error
    return hashlib.sha256(source).hexdigest()


def sha256_of_code(code: str, prefix: str) -> str:
    """Return the hash of the file of a module, or of a file, as it was when it was imported.

    Raises:
        UserError: There is no such module or file, its code fails, or it has changed since it was imported.
    """
    shown = f"{prefix}{code}"
    module = _imported(code, shown, prefix)
    return _sha256_of_loaded(module, shown) if getattr(module, "__file__", None) else ""


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


def _is_plain(found: Any) -> bool:
    """Return whether the name of a function finds it in its module, so that all its values are there."""
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", "")
    return _attribute(sys.modules.get(module or ""), name) is found


def _others(module: ModuleType, name: str) -> str:
    """Return what to do if a module has no function of this name."""
    names = [one for one, value in vars(module).items() if inspect.isroutine(value) and not one.startswith("_")]
    if near := difflib.get_close_matches(name, names, 1):
        return f"Did you mean {near[0]}?"
    return f"The functions of the module are {named(names)}." if names else "The module has no functions."


def _existing(code: str, shown: str, prefix: str) -> Path:
    path = Path(files.expand_user(code, prefix))
    if not path.is_file():
        raise UserError(f"{shown}: {path} does not exist. Pass {FORMS}.")
    return path


def _imported(code: str, shown: str, prefix: str) -> ModuleType:
    try:
        if code.endswith(".py"):
            path = _existing(code, shown, prefix).resolve()
            return _of_file(path, path.read_bytes())
        return _of_module(code, shown)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{shown}: {code} fails: {refusal(error)}. Correct the code.") from error
    except Exception as error:  # The code of the user can raise anything.
        reason = f"{type(error).__name__}: {one_line(error, 'all')}{line_of(error, code)}"
        raise UserError(f"{shown}: {code} fails: {reason}. Correct the code.") from error


def _of_file(path: Path, source: bytes) -> ModuleType:
    """Run a file as a module, again after each change, so that its classes are those that are registered."""
    sha256 = hashlib.sha256(source).hexdigest()
    name = f"{path.stem}_{sha256[:8]}"
    if path in _FILES and _FILES[path].__name__ == name:
        return _FILES[path]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses, pickle and `name_of` find the classes and functions of the module by this name.
    sys.modules[name] = module
    try:
        with importable(str(path)):
            # The loader may take the code from a .pyc that is a second older than the source.
            exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    _FILES[path], _HASHES[name] = module, (spec, sha256)
    return module


def _of_module(code: str, shown: str) -> ModuleType:
    try:
        with importable(code):
            module = importlib.import_module(code)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{code}.".startswith(f"{error.name}."):
            raise  # The module exists, but imports another module that does not exist.
        raise UserError(
            f"{shown}: there is no module {code!r}, neither in {Path.cwd()} nor among the installed packages. Pass"
            f" {FORMS}."
        ) from error
    if Path(getattr(module, "__file__", None) or "").is_file():
        _sha256_of_loaded(module, shown)
    return module


# --- Changes of the source after the import --------------------------------------------------------------------------


def _sha256_of_loaded(module: ModuleType, shown: str) -> str:
    """Return the hash of the file of a module, as it was when the module was imported.

    Raises:
        OSError: The file cannot be read.
        TypeError: The module has no file.
        UserError: The file has changed since then, so the hash would be that of other code.
    """
    path = getattr(module, "__file__", None)
    if path is None:
        raise TypeError(f"{module.__name__} has no file")
    source, spec = Path(path).read_bytes(), getattr(module, "__spec__", None)
    now = hashlib.sha256(source).hexdigest()
    known = module.__name__ in _HASHES and _HASHES[module.__name__][0] is spec
    sha256 = _HASHES[module.__name__][1] if known else now
    is_script = module.__name__ == "__main__"  # It runs as it was started.
    if (known and sha256 != now and not is_script) or not (known or _is_of(module, source)):
        raise UserError(
            f"{shown}: {path} has changed since it was imported, so the old code is still in use. Restart the program"
            f" or the kernel of the notebook, or run importlib.reload on the module {module.__name__}."
        )
    _HASHES[module.__name__] = (spec, sha256)
    return sha256


def _is_of(module: ModuleType, source: bytes) -> bool:
    """Return whether the functions in a module are those of a source, as far as this can be known.

    A module may be imported, and its file edited, before it is seen here for the first time.
    """
    if type(getattr(module, "__loader__", None)) is not importlib.machinery.SourceFileLoader:
        return True  # Others, such as pytest's, change the code.
    codes = set(_codes(compile(source, str(module.__file__), "exec", dont_inherit=True)))
    classes = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__]
    values = [inspect.unwrap(one) for owner in (module, *classes) for one in vars(owner).values() if callable(one)]
    mine = [one.__code__ for one in values if inspect.isfunction(one) and one.__module__ == module.__name__]
    return all(code in codes for code in mine if code.co_filename == module.__file__)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of all functions in a code."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from _codes(one)
