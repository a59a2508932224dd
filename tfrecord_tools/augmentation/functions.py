"""Find functions of the user that change batches of images, and name them.

This module does not need TensorFlow.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from tfrecord_tools.base import user_code

AugmentFunction = Callable[[Any, Any], Any]  # (images u8[b h w 3], keys i64[b]) -> images u8[b h w 3].


def is_named(text: str) -> bool:
    """Return whether a text names a function, as in `module:function` or `file.py:function`."""
    return user_code.is_named(text)


def load(text: str, prefix: str = "augment=") -> AugmentFunction:
    """Import the function that a text names, as `user_code.function` does.

    Raises:
        UserError: The file, the module or the function does not exist, or the code of the module fails.
    """
    return user_code.function(text, prefix, "It must take images and keys, and return images.")


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
