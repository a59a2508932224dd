"""Names and hashes of functions of the user that change batches of images.

This module does not need TensorFlow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tfrecord_tools.base import user_code
from tfrecord_tools.errors import UserError

AugmentFunction = Callable[[Any, Any], Any]  # (images u8[b h w 3], keys i64[b]) -> images u8[b h w 3].


def name_of(function: AugmentFunction) -> str:
    """Return the name of a function, as in `module:function`. A partial function also has its arguments."""
    if isinstance(function, functools.partial):
        given = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
        return f"{name_of(function.func)}({', '.join(given)})"
    owner: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{owner.__module__}:{owner.__qualname__}"


def settings_of(function: AugmentFunction, prefix: str) -> dict[str, str]:
    """Return the name of a function, with the values of a partial function, and the hash of its source.

    Raises:
        UserError: The function may have values that are not in its name and its source.
    """
    inner: Any = function
    while isinstance(inner, functools.partial):
        for value in (*inner.args, *inner.keywords.values()):
            _check_plain(value, prefix)
        inner = inner.func
    text = user_code.name_of(inner, prefix, " Pass further values with functools.partial.")
    return {"function": name_of(function), "sha256": user_code.sha256_of_function(text, prefix)}


def _check_plain(value: Any, prefix: str) -> None:
    """Check that a value of a partial function is written out in full by `repr`."""
    if isinstance(value, (tuple, list)):
        for one in value:
            _check_plain(one, prefix)
    elif not isinstance(value, (bool, int, float, str, type(None))):
        raise UserError(
            f"{prefix}functools.partial(...): the value {value!r} is a {type(value).__name__}. Only numbers, texts,"
            " True, False, None, and lists and tuples of them are allowed. Make other values in the function."
        )
