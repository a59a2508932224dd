"""Read Keras files: check them, and load their models without running code that the files name.

A custom layer is loaded only if its class is registered. The user imports its module, or passes it in
--custom_objects.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfrecord_tools.base import user_code
from tfrecord_tools.base.options import Option
from tfrecord_tools.errors import UserError, named, one_line

if TYPE_CHECKING:
    import keras

METADATA = "metadata.json"
CUSTOM_OBJECTS = "custom_objects"  # Key in `METADATA`: modules and files of custom layers, for advice in errors.
CUSTOM_OBJECTS_HELP = (
    "Python modules and files that register the custom layers of the model, as in mine.layers or layers.py. The code"
    " in the modules and files is run. Default: only Keras's own layers can be loaded."
)
OPTION = Option("custom_objects", "names", CUSTOM_OBJECTS_HELP, default=[])
_MEMBERS = (METADATA, "config.json", "model.weights.h5")
_MOST_BYTES = 1 << 24  # Size limit of `metadata.json`, enough for 100,000 classes.
_AGAIN = "Replace this file by an undamaged copy, or train again."


def metadata(path: Path) -> dict[str, Any]:
    """Return the content of `metadata.json` in a Keras file, and verify the checksums of all members.

    It does not need TensorFlow.

    Raises:
        UserError: The file is not a Keras file, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # Reads everything, because Keras's errors for damaged files say little.
            missing = {*_MEMBERS} - {*archive.namelist()}
            if damaged or missing:
                problem = (
                    f"{damaged} in this file is damaged"
                    if damaged
                    else f"this file has no {', '.join(sorted(missing))}"
                )
                raise UserError(f"{path}: {problem}. {_AGAIN}")
            if archive.getinfo(METADATA).file_size > _MOST_BYTES:
                raise UserError(f"{path}: {METADATA} in this file is larger than {_MOST_BYTES:,} bytes. {_AGAIN}")
            values = json.loads(archive.read(METADATA))
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
        return values
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. Pass a .keras file.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: is cut off, damaged or not a .keras file ({error}). {_AGAIN}") from error
    except ValueError as error:
        raise damaged_metadata(path, error) from error


def damaged_metadata(path: Path, error: Exception) -> UserError:
    """Return the error for a description that cannot be used."""
    return UserError(f"{path}: {METADATA} in this file is damaged: {error}. {_AGAIN}")


def load(path: Path, custom_objects: Sequence[str] = (), source: str | None = None) -> keras.Model:
    """Load the model of a Keras file that `metadata` has verified.

    Args:
        path: The file.
        custom_objects: Modules and files that register custom layers. They are imported.
        source: The flag that names the file, with its value, for errors. If None, the path.

    Returns:
        The model, not compiled.

    Raises:
        UserError: A module in `custom_objects` does not exist, a layer is not registered, or Keras cannot load the
            model.
    """
    import keras

    for code in custom_objects:
        user_code.run(code, "--custom_objects=")
    source = source or str(path)
    _check_classes(path, custom_objects, source)
    try:
        with dtype_policy("float32"):  # For layers that custom layers create without a policy.
            model = keras.models.load_model(path, compile=False, safe_mode=True)
        if not isinstance(model, keras.Model):
            raise TypeError(f"the file has a {type(model).__name__}, not a model")
    except Exception as error:  # Keras raises errors of many types on files of unknown origin.
        if isinstance(error, MemoryError) or getattr(error, "errno", None):  # The machine is the cause, not the file.
            raise
        reason = one_line(error, "all").split(". ")[0]
        raise UserError(
            f"{source}: Keras cannot load this model: {reason}. For safety, code in a model file is not run. So all"
            " layers of a model must be Keras's own layers or registered layers, and Lambda layers are not allowed."
        ) from error
    return model


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Set Keras's global dtype policy within a block."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _check_classes(path: Path, custom_objects: Sequence[str], source: str) -> None:
    """Raise UserError if the file has classes or functions that are not registered."""
    import keras

    names = set(_registered_names(_config(path)))
    if any(name.startswith("keras_hub>") for name in names):
        _import_keras_hub(source)
    missing = sorted(name for name in names if keras.saving.get_registered_object(name) is None)
    if not missing:
        return
    what = f"has custom layers or functions ({named(missing)})"
    if custom_objects:
        raise UserError(
            f"--custom_objects={','.join(custom_objects)}: {source} {what}, and the code in --custom_objects does not"
            " register them."
            f' Write @keras.saving.register_keras_serializable("{missing[0].rpartition(">")[0] or "mine"}") above each'
            " of these classes and functions, or pass the module or file that registers them."
        )
    hint = ",".join(_hint(path)) or "MODULE or FILE.py"
    raise UserError(
        f"{source}: {what}. A model file has the names of Python modules. For safety, these modules are not imported"
        f" automatically. Pass --custom_objects={hint}, the code that registers these layers or functions. In Python,"
        " import this code first."
    )


def _import_keras_hub(source: str) -> None:
    try:
        import keras_hub  # noqa: F401  It registers its layers.
    except ImportError as error:
        raise UserError(
            f"{source}: has layers of KerasHub, which cannot be imported: {one_line(error)}. Run pip install"
            " 'tfrecord-tools[hub]'."
        ) from error


def _hint(path: Path) -> list[str]:
    """Return the modules and files that define the custom layers, if the file names them in plain text."""
    codes = metadata(path).get(CUSTOM_OBJECTS)
    texts = codes if isinstance(codes, list) else []
    return [code for code in texts if isinstance(code, str) and code.isprintable()]


def _config(path: Path) -> Any:
    """Return the configuration of the model; None if it is damaged, which Keras will report."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    except (ValueError, KeyError):
        return None


def _registered_names(config: Any) -> Iterator[str]:
    """Yield the names under which the custom classes and functions of a configuration must be registered."""
    if isinstance(config, dict):
        is_function = config.get("class_name") == "function"
        name = config.get("config") if is_function else config.get("registered_name")
        is_of_keras = is_function or str(config.get("module")).startswith("keras")
        if isinstance(name, str) and (">" in name or not is_of_keras):
            yield name
        for value in config.values():
            yield from _registered_names(value)
    elif isinstance(config, list):
        for value in config:
            yield from _registered_names(value)
