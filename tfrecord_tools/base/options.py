"""Options: the flags of a command, which are also the keyword arguments of its function in Python.

A command and its function share one table of `Option`s. The table defines the flags of the command, the documentation
of the function, and the checks of the values.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import difflib
import inspect
import io
import operator
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from absl import flags

from tfrecord_tools.base import files, sizes, usage, user_code
from tfrecord_tools.errors import UserError, short

# The flags belong to the command that calls `define`, and are listed in its --help.
flags.disclaim_key_flags()

Function = TypeVar("Function", bound=Callable[..., Any])
Kind = Literal[
    "switch", "integer", "number", "text", "path", "size", "function", "integers", "numbers", "names", "texts",
    "outputs", "arguments", "mapping", "weights", "augmentation",
]  # fmt: skip
# Kind -> the type of the keyword argument, and what its value must be.
_TYPES: Mapping[Kind, tuple[str, str]] = {
    "switch": ("bool", "True or False"),
    "integer": ("int", "a whole number"),
    "number": ("float", "a number"),
    "text": ("str", "a text"),
    "path": ("str | os.PathLike[str]", "a path"),
    "function": ("str | os.PathLike[str] | Callable[..., Any]", "a text, a path or a function"),
    "size": ("int | str | tuple[int, int]", sizes.WHAT),
    "integers": ("int | Sequence[int]", "whole numbers, as in 5,8"),
    "numbers": ("float | Sequence[float]", "numbers, as in 3e-3,3e-4"),
    "names": ("Sequence[str]", "names, separated by commas"),
    "texts": ("str | Sequence[str]", "a text or several texts"),
    "outputs": (
        "str | Callable[[str], object] | Sequence[str | Callable[[str], object]]",
        "names, separated by commas, or a function that takes a text",
    ),
    "arguments": (
        "Mapping[str, Any]",
        "name=value pairs, separated by commas, with values as in Python (0.25, True, 'text')",
    ),
    "mapping": ("Mapping[str, str]", "NAME=NAME pairs with different names before the =, separated by commas"),
    "weights": ("str | Mapping[str, float]", "NAME:NUMBER pairs with different names, separated by commas"),
    "augmentation": ("str | AugmentConfig | Callable", "a text, an AugmentConfig or a function"),
}
_SEPARATORS: Mapping[Kind, str] = {"mapping": "=", "weights": ":"}  # Between the two parts of a pair.


@dataclasses.dataclass(frozen=True)
class Option:
    """A flag `--name=value`, which is also a keyword argument `name=value`.

    Attributes:
        name: Name of the flag and of the keyword argument.
        kind: Kind of the value.
        help: Description for `--help` and for the function's documentation; ends with a period.
        default: Value if the option is not given. None: `help` says what happens then.
        choices: The allowed values. If it is empty, all are allowed. If `kind` is "weights", these words are allowed
            instead of pairs.
        example: Example for the error message.
        hint: Sentence for the message about a function that cannot be imported by name.
        written: Whether the command writes to this path. A URL is then refused.
    """

    name: str
    kind: Kind
    help: str
    default: Any = None
    choices: Sequence[str] = ()
    example: str = ""
    hint: str = ""
    written: bool = False

    def define(self, own: flags.FlagValues = flags.FLAGS) -> None:
        """Define the flag in `own`. By default, these are the flags of the running command."""
        if self.choices and self.kind == "text":
            flags.DEFINE_enum(self.name, self.default, list(self.choices), self.help, flag_values=own)
            return
        define = {
            "switch": flags.DEFINE_boolean,
            "integer": flags.DEFINE_integer,
            "number": flags.DEFINE_float,
            "path": usage.define_path,
            "size": usage.define_size,
            **dict.fromkeys(("integers", "numbers", "names", "outputs"), flags.DEFINE_list),
            "texts": flags.DEFINE_multi_string,
        }.get(self.kind, flags.DEFINE_string)
        define(self.name, self.default, self.help, flag_values=own)

    def value(self, given: Any) -> Any:
        """Check a value, and convert it to the type of the option.

        Args:
            given: A value of a flag (texts and lists of texts are parsed), or of a keyword argument.

        Returns:
            A bool, int, float or str. For "integers", "numbers", "names" and "texts", a list of them. For "outputs", a
            list of texts and functions. For "arguments", "mapping" and "weights", a dict. For "weights", it may also be
            one of the choices, a str. For "size", a `sizes.Size`. For "function", a text: a function becomes
            `module:function`. For "augmentation", the value itself, which `augmentation.named` checks.

        Raises:
            UserError: The value is not allowed.
        """
        if self.kind == "weights" and given in self.choices:
            return given
        try:
            if self.kind == "function" and callable(given):
                return user_code.name_of(given, f"{self.name}=", self.hint and f" {self.hint}")
            value = _CONVERSIONS[self.kind](given)
        except (TypeError, ValueError, SyntaxError, csv.Error):
            what, _, example = _TYPES[self.kind][1].partition(", as in ")
            if self.choices and self.kind == "text":
                what = f"one of {', '.join(self.choices)}"
            example = f", as in {self.example or example}" if self.example or example else ""
            words = f"{', '.join(self.choices)}, or " if self.kind == "weights" else ""
            raise UserError(f"{self.shown(given)}: must be {words}{what}{example}.") from None
        if self.kind == "path":
            value = files.expand_user(value, f"--{self.name}=")
            if self.written:
                files.check_local(self.name, value)
        if isinstance(value, dict):
            return value
        wrong = [
            one
            for one in (value if isinstance(value, list) else [value])
            if self.choices and not callable(one) and one not in self.choices
        ]
        if wrong:
            near = difflib.get_close_matches(str(wrong[0]), self.choices, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"{self.shown(given)}: must be one of {', '.join(self.choices)}.{hint}")
        return value

    def shown(self, given: Any) -> str:
        """Return the text `--name=value`."""
        if self.kind in _SEPARATORS and isinstance(given, Mapping):
            return f"--{self.name}={pairs_text(given, _SEPARATORS[self.kind])}"
        texts = map(short, given) if isinstance(given, (list, tuple)) else [short(given)]
        return f"--{self.name}={','.join(texts)}"


def define(options: Iterable[Option]) -> None:
    """Define the flags of a command."""
    for option in options:
        option.define()


def from_flags(options: Iterable[Option]) -> dict[str, Any]:
    """Return the values of the flags that the user gave, by name."""
    return {one.name: flags.FLAGS[one.name].value for one in options if flags.FLAGS[one.name].present}


def parsed(options: Sequence[Option], words: Sequence[str], command: str) -> dict[str, Any]:
    """Return the values of flags that are given as words, such as the flags of another command.

    Args:
        options: The options of the command.
        words: The flags, as a shell splits them.
        command: Name of the command, for messages.

    Raises:
        UserError: A flag does not exist, has no value, or has a value that is not allowed.
    """
    own = flags.FlagValues()
    for option in options:
        option.define(own)
    try:
        _, *rest = own([command, *words])
    except flags.UnrecognizedFlagError as error:
        meant = usage.name_meant(error.flagname, [option.name for option in options])
        hint = f"Did you mean --{meant}?" if meant else f"python -m {command} --help lists the flags."
        raise UserError(f"--{error.flagname}: is not a flag of {command}. {hint}") from error
    except flags.Error as error:
        raise UserError(usage.wrong(error, own)) from error
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}: {command} takes only flags, --name=value.")
    return checked(options, {option.name: own[option.name].value for option in options if own[option.name].present})


def checked(options: Sequence[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check values and convert them to the types of their options.

    Args:
        options: The options.
        given: Name -> value. None stands for an option that is not given.

    Raises:
        TypeError: There is no option of this name. Python raises the same error for unknown arguments.
        UserError: A value is not allowed.
    """
    by_name = {option.name: option for option in options}
    for name in given:
        if name not in by_name:
            meant = usage.name_meant(name, by_name)
            raise TypeError(f"there is no option {name!r}." + (f" Did you mean {meant!r}?" if meant else ""))
    return {name: by_name[name].value(value) for name, value in given.items() if value is not None}


def document(options: Sequence[Option]) -> Callable[[Function], Function]:
    """Decorate a function `f(**options)`: list the options in its documentation and in its signature."""

    def documented(function: Function) -> Function:
        lines = [f"{one.name} ({_TYPES[one.kind][0]}): {one.help}" for one in options]
        listed = "\n".join(
            textwrap.fill(line, 100, initial_indent="    ", subsequent_indent="        ") for line in lines
        )
        function.__doc__ = (inspect.getdoc(function) or "").replace("{options}", listed.lstrip())
        own = inspect.signature(function)
        kept = [one for one in own.parameters.values() if one.kind != inspect.Parameter.VAR_KEYWORD]
        named = [
            inspect.Parameter(
                one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=_TYPES[one.kind][0]
            )
            for one in options
        ]
        function.__signature__ = own.replace(parameters=[*kept, *named])  # type: ignore[attr-defined]
        return function

    return documented


def arguments(text: str, words: bool = False) -> dict[str, Any]:
    """Parse `name=value,name=value`, such as `alpha=0.25,minimalistic=True`. Values are Python literals.

    Args:
        text: The text.
        words: Whether a value may also be a word without quotes, as in `fill_mode=reflect`.

    Raises:
        ValueError, SyntaxError: A part is not `name=literal`, or a name is repeated.
    """
    call = ast.parse(f"f({text})", mode="eval").body  # Python's grammar splits at the commas between arguments.
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError(text)
    values = {
        keyword.arg: keyword.value.id
        if words and isinstance(keyword.value, ast.Name)
        else ast.literal_eval(keyword.value)
        for keyword in call.keywords
    }
    names = {name: value for name, value in values.items() if name is not None}
    if len(names) < len(call.keywords):  # A name is repeated, or there is a `**`.
        raise ValueError(text)
    return names


def pairs_text(pairs: Mapping[str, Any], separator: str) -> str:
    """Write pairs as a flag accepts them: `Cat=cats,Dog=dogs`. Parts with a comma are in quotes."""
    text = io.StringIO()
    numbers = (f"{value:g}" if isinstance(value, float) else str(value) for value in pairs.values())
    csv.writer(text, lineterminator="").writerow(f"{name}{separator}{value}" for name, value in zip(pairs, numbers))
    return text.getvalue()


def _pairs(text: str, separator: str) -> dict[str, str]:
    """Parse `name=value,name=value`; a part with a comma is in quotes.

    Raises:
        ValueError: A part has no separator or no name, or a name is repeated.
    """
    (parts,) = csv.reader([text], strict=True)
    split = [part.rpartition(separator) for part in parts]
    pairs = {name.strip(): value.strip() for name, _, value in split}
    if len(pairs) < len(parts) or not all(pairs):
        raise ValueError(text)
    return pairs


def _mapping(given: Any) -> dict[str, str]:
    pairs = _pairs(given, "=") if isinstance(given, str) else dict(given)
    return {_text(name): _text(value) for name, value in pairs.items()}


def _weights(given: Any) -> dict[str, float]:
    pairs = _pairs(given, ":") if isinstance(given, str) else dict(given)
    return {_text(name): _number(value) for name, value in pairs.items()}


def _arguments(given: Any) -> dict[str, Any]:
    return arguments(given) if isinstance(given, str) else dict(given)


def _switch(given: Any) -> bool:
    if not isinstance(given, bool) and str(getattr(given, "dtype", "")) != "bool":
        raise TypeError(given)
    return bool(given)  # NumPy's bool, too.


def _integer(given: Any) -> int:
    if isinstance(given, bool):
        raise TypeError(given)
    return int(given) if isinstance(given, str) else operator.index(given)


def _number(given: Any) -> float:
    if isinstance(given, bool):
        raise TypeError(given)
    return float(given)


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise TypeError(given)
    return given


def _augmentation(given: Any) -> Any:
    if isinstance(given, (bool, int, float)):
        raise TypeError(given)
    return given


def _parts(given: Any) -> list[Any]:
    """Return the items as a list. A text is split at its commas. A single value becomes a list of one."""
    if isinstance(given, str):
        return given.split(",")
    return list(given) if isinstance(given, Iterable) else [given]


_CONVERSIONS: Mapping[Kind, Callable[[Any], Any]] = {
    "switch": _switch,
    "integer": _integer,
    "number": _number,
    "text": _text,
    "path": os.fspath,
    "function": os.fspath,
    "size": sizes.parse,
    "integers": lambda given: [_integer(part) for part in _parts(given)],
    "numbers": lambda given: [_number(part) for part in _parts(given)],
    "names": lambda given: [_text(part) for part in _parts(given)],
    "outputs": lambda given: [one if callable(one) else _text(one) for one in _parts(given)],
    "texts": lambda given: [_text(one) for one in ([given] if isinstance(given, str) else given)],
    "arguments": _arguments,
    "mapping": _mapping,
    "weights": _weights,
    "augmentation": _augmentation,
}
