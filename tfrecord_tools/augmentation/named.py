"""Read and write augmentations as text: a preset, a preset with changed values, or a function.

This module does not need TensorFlow.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

from tfrecord_tools.augment_config import FORMER_NAMES, PRESETS, AugmentConfig, current_name
from tfrecord_tools.augmentation import functions
from tfrecord_tools.augmentation.functions import AugmentFunction
from tfrecord_tools.base import options, user_code
from tfrecord_tools.errors import UserError

Augment = str | AugmentConfig | Callable[[Any, Any], Any]  # A text, the values, or a function.
_FIELDS = tuple(field.name for field in dataclasses.fields(AugmentConfig))
FORMS = (
    f"the name of a preset ({', '.join(PRESETS)}), a preset with changed values (for example"
    " standard,horizontal_flip=False,rotation_range=5), or a function of yours (MODULE:FUNCTION or FILE.py:FUNCTION)"
)


def resolve(augment: Augment, prefix: str = "augment=") -> AugmentConfig | AugmentFunction:
    """Return the values or the function of an augmentation.

    Args:
        augment: A text as in `FORMS`, an `AugmentConfig`, or a function.
        prefix: Text before the value in messages, such as "--augment=".

    Raises:
        UserError: There is no such preset, setting or function, or a value is not allowed.
    """
    if isinstance(augment, AugmentConfig):
        return augment
    if not isinstance(augment, str):
        if callable(augment):
            return augment
        raise UserError(
            f"{prefix}{augment}: must be {FORMS}. In Python, it may also be an `AugmentConfig` or a function."
        )
    if user_code.is_named(augment):
        return user_code.function(augment, prefix, "It must take images and keys, and return images.")
    return _config(augment, prefix)


def name_of(augment: Augment, prefix: str = "augment=") -> str:
    """Return the name of an augmentation: the same name for a text and for the values that it means.

    For an `AugmentConfig`, this is the preset with the fewest different values, and these values in the order of the
    fields: "standard,rotation_range=5". The name of a function is the text that names it, or `module:function`.

    Raises:
        UserError: As in `resolve`.
    """
    chosen = resolve(augment, prefix)
    if not isinstance(chosen, AugmentConfig):
        return augment if isinstance(augment, str) else functions.name_of(chosen)
    changed = {
        name: [field for field in _FIELDS if getattr(chosen, field) != getattr(preset, field)]
        for name, preset in PRESETS.items()
    }
    name = min(changed, key=lambda name: len(changed[name]))
    return ",".join([name, *(f"{field}={_literal(getattr(chosen, field))}" for field in changed[name])])


def settings_of(augment: Augment, prefix: str = "augment=") -> dict[str, Any]:
    """Return JSON values that decide the result of an augmentation.

    They are the values of an `AugmentConfig`, or the name and the hash of a function.

    Raises:
        UserError: As in `resolve`. Or a function is not at the top level of a module, so that it may have values that
            are not in its source.
    """
    chosen = resolve(augment, prefix)
    if isinstance(chosen, AugmentConfig):
        return dataclasses.asdict(chosen)
    if isinstance(augment, str):
        return {"function": augment, "sha256": user_code.sha256_of_function(augment, prefix)}
    return functions.settings_of(chosen, prefix)


def _config(text: str, prefix: str) -> AugmentConfig:
    """Return the values of a preset, or of a preset with changes."""
    name, _, rest = text.partition(",")
    name = name.strip()
    if current_name(name) not in PRESETS:
        raise UserError(f"{prefix}{text}: {_unknown(name, text)}")
    try:
        values = options.arguments(rest, words=True)
    except (ValueError, SyntaxError):
        raise UserError(
            f"{prefix}{text}: after the preset, there must be SETTING=VALUE pairs, separated by commas, as in"
            f" {name},horizontal_flip=False,zoom_range=(0.8,1.2). Each setting may occur once."
        ) from None
    for setting in values:
        if setting not in _FIELDS:
            near = difflib.get_close_matches(setting, _FIELDS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(
                f"{prefix}{text}: there is no setting {setting!r}.{hint} The settings are {', '.join(_FIELDS)}."
            )
    try:
        return dataclasses.replace(PRESETS[name], **values)
    except UserError as error:
        raise UserError(f"{prefix}{text}: {error}") from None


def _unknown(name: str, text: str) -> str:
    """Return what is wrong with a text that does not begin with a preset."""
    if name.partition("=")[0].strip() in _FIELDS:
        return f"must begin with a preset, as in none,{text}. The presets are {', '.join(PRESETS)}."
    near = difflib.get_close_matches(name, [*PRESETS, *FORMER_NAMES], 1)
    return f"must be {FORMS}." + (f" Did you mean {near[0]}?" if near else "")


def _literal(value: Any) -> str:
    """Return a value as in a text for `_config`."""
    if isinstance(value, tuple):
        return f"({','.join(map(_literal, value))})"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)  # True, None, 0.15, reflect.
