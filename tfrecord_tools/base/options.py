"""Options: the flags of a command, which are also the keyword arguments of its function in Python.

A table of `Option`s gives a command its flags, a function its documentation, and both the same checks.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import operator
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from absl import flags

from tfrecord_tools.base import files, usage
from tfrecord_tools.errors import UserError

# Flags defined here belong to the command that calls, and are listed in its --help.
flags.disclaim_key_flags()

Function = TypeVar("Function", bound=Callable[..., Any])
Kind = Literal["switch", "integer", "number", "text", "path", "integers", "numbers", "names", "arguments"]
# Kind -> the type of the keyword argument, and what its value must be.
_TYPES: Mapping[Kind, tuple[str, str]] = {
    "switch": ("bool", "True or False"),
    "integer": ("int", "a whole number"),
    "number": ("float", "a number"),
    "text": ("str", "a text"),
    "path": ("str | os.PathLike[str]", "a path"),
    "integers": ("int | Sequence[int]", "whole numbers, as in 5,8"),
    "numbers": ("float | Sequence[float]", "numbers, as in 3e-3,3e-4"),
    "names": ("Sequence[str]", "names, separated by commas"),
    "arguments": ("Mapping[str, Any]", "name=value pairs, separated by commas, with Python literals as values"),
}


@dataclasses.dataclass(frozen=True)
class Option:
    """A flag `--name=value`, which is also a keyword argument `name=value`.

    Attributes:
        name: Name of the flag and of the keyword argument.
        kind: Kind of the value.
        help: Description for `--help` and for the function's documentation; ends with a period.
        default: Value if the option is not given. None: `help` says what happens then.
        choices: The values that are allowed; (): all.
        example: Example for the error message, if `kind` is "arguments".
    """

    name: str
    kind: Kind
    help: str
    default: Any = None
    choices: Sequence[str] = ()
    example: str = ""

    def define(self, own: flags.FlagValues = flags.FLAGS) -> None:
        """Define the flag, among the flags of the running command or among others."""
        if self.choices:
            flags.DEFINE_enum(self.name, self.default, list(self.choices), self.help, flag_values=own)
            return
        define = {
            "switch": flags.DEFINE_boolean,
            "integer": flags.DEFINE_integer,
            "number": flags.DEFINE_float,
            "path": usage.define_path,
            **dict.fromkeys(("integers", "numbers", "names"), flags.DEFINE_list),
        }.get(self.kind, flags.DEFINE_string)
        define(self.name, self.default, self.help, flag_values=own)

    def value(self, given: Any) -> Any:
        """Check a value, and convert it to the type of the option.

        Args:
            given: A value of a flag (texts and lists of texts are parsed), or of a keyword argument.

        Returns:
            A bool, int, float or str; a list of them for kinds in the plural; a dict for "arguments".

        Raises:
            UserError: The value is not allowed.
        """
        try:
            value = _CONVERSIONS[self.kind](given)
        except (TypeError, ValueError, SyntaxError):
            example = f", as in {self.example}" if self.example else ""
            raise UserError(f"{self.shown(given)}: must be {_TYPES[self.kind][1]}{example}.") from None
        if self.kind == "path":
            value = files.expand_user(value, f"--{self.name}=")
        wrong = [
            one for one in (value if isinstance(value, list) else [value]) if self.choices and one not in self.choices
        ]
        if wrong:
            near = difflib.get_close_matches(str(wrong[0]), self.choices, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"{self.shown(given)}: must be one of {', '.join(self.choices)}.{hint}")
        return value

    def shown(self, given: Any) -> str:
        """Return the option with a value, as a flag."""
        texts = map(str, given) if isinstance(given, (list, tuple)) else [str(given)]
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
        TypeError: There is no option of this name, as Python says it of keyword arguments.
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


def arguments(text: str) -> dict[str, Any]:
    """Parse `name=value,name=value`, such as `alpha=0.25,minimalistic=True`. Values are Python literals.

    Raises:
        ValueError, SyntaxError: A part is not `name=literal`, or a name is repeated.
    """
    call = ast.parse(f"f({text})", mode="eval").body  # Python's grammar splits at the commas between arguments.
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError(text)
    values = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    names = {name: value for name, value in values.items() if name is not None}
    if len(names) < len(call.keywords):  # A name is repeated, or there is a `**`.
        raise ValueError(text)
    return names


def _arguments(given: Any) -> dict[str, Any]:
    return arguments(given) if isinstance(given, str) else dict(given)


def _switch(given: Any) -> bool:
    if not isinstance(given, bool):
        raise TypeError(given)
    return given


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


def _parts(given: Any) -> list[Any]:
    """Return the parts of a list; a text is divided at its commas, and a single value is its own list."""
    if isinstance(given, str):
        return given.split(",")
    return list(given) if isinstance(given, Iterable) else [given]


_CONVERSIONS: Mapping[Kind, Callable[[Any], Any]] = {
    "switch": _switch,
    "integer": _integer,
    "number": _number,
    "text": _text,
    "path": os.fspath,
    "integers": lambda given: [_integer(part) for part in _parts(given)],
    "numbers": lambda given: [_number(part) for part in _parts(given)],
    "names": lambda given: [_text(part) for part in _parts(given)],
    "arguments": _arguments,
}
