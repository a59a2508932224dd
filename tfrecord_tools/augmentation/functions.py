"""Names and hashes of functions of the user that change batches of images.

This module does not need TensorFlow.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

AugmentFunction = Callable[[Any, Any], Any]  # (images u8[b h w 3], keys i64[b]) -> images u8[b h w 3].


def name_of(function: AugmentFunction) -> str:
    """Return the name of a function, as in `module:function`. A partial function also has its arguments."""
    if isinstance(function, functools.partial):
        given = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
        return f"{name_of(function.func)}({', '.join(given)})"
    owner: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{owner.__module__}:{owner.__qualname__}"


def sha256_of(function: AugmentFunction) -> str | None:
    """Return the hash of a function's source code; None if the source code cannot be found.

    Functions that it calls are not included.
    """
    if isinstance(function, functools.partial):
        return sha256_of(function.func)
    try:
        source = inspect.getsource(function if inspect.isroutine(function) else type(function))
    except (OSError, TypeError):
        return None
    return hashlib.sha256(source.encode()).hexdigest()
