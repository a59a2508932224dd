"""What every command of this project shares: the way in, and the way out on a user's mistake."""

from __future__ import annotations

import dataclasses
import errno
import functools
import io
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO, TypeVar

from absl import app, flags

from tfrecord_tools.base import console, files, tabular, usage
from tfrecord_tools.errors import UserError, refusal

Config = TypeVar("Config")
EXIT_USER_ERROR = 1
say = functools.partial(print, flush=True)  # For `log` arguments: a pipe or a file shows each line at once.
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it.
_READER_GONE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)


def run(main: Callable[[Sequence[str]], None], interrupted: str = "interrupted", arguments: str = "") -> None:
    """Parses the flags, calls `main(argv)` and exits: 0, 1 (a user's mistake) or 130 (Ctrl-C, `interrupted` told).

    What the system refuses (a full disk, a missing permission) is told in a line, as a mistake is. When the reader of
    the output, `head` say, has enough, the work goes on and the exit code is that of the work.

    Args:
        main: Does the work; its argument is the program and the arguments that are not flags.
        interrupted: The line that is printed after Ctrl-C.
        arguments: How the help shows the arguments beside the flags, such as "DIRECTORY"; "" if there are none.
    """

    def parsed(argv: Sequence[str]) -> list[str]:
        rest: list[str] = []
        code = _exit_code(lambda: rest.extend(usage.parse(argv, arguments)), interrupted)
        if not rest:
            sys.exit(code)
        return rest

    _prepare_streams()
    console.quiet_tensorflow()
    app.run(lambda argv: _exit_code(lambda: main(argv), interrupted), flags_parser=parsed)


def run_package(package: str, commands: Mapping[str, str]) -> None:
    """Does what `python -m package` is asked for: lists its commands, or is one of them, `python -m package name …`."""
    _prepare_streams()
    first, *rest = sys.argv[1:] or [""]
    name = first.replace("-", "_")
    if name in commands:
        sys.argv[1:] = rest
        runpy.run_module(f"{package}.{name}", run_name="__main__", alter_sys=True)  # As `python -m package.name`.
        return
    sys.exit(_exit_code(lambda: _answer(package, commands, first), "interrupted"))


def _answer(package: str, commands: Mapping[str, str], first: str) -> None:
    """Lists a package's commands; refuses whatever else is no command."""
    if first in ("-h", "--help", "help"):
        print(f"usage: python -m {package} COMMAND [--flag=value ...]; COMMAND --help explains each.\n")
    if first in ("", "-h", "--help", "help"):
        print_list(package, commands)
    elif first == "--version":
        print(usage.VERSION)
    elif first.startswith("-"):
        found = usage.homes([first.lstrip("-").partition("=")[0].replace("-", "_")])
        raise UserError(f"{first}: a command is expected first, one of {', '.join(commands)}. {found}".rstrip())
    else:
        raise UserError(f"{first}: there is no such command of {package}. {usage.command_meant(first, commands)}")


def _exit_code(work: Callable[[], object], interrupted: str) -> int:
    """Does the work and reports what ends it early in a line."""
    try:
        work()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        print(f"error: {refusal(error)}. Mend the cause and repeat the command.", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


class _Output(io.FileIO):
    """A standard stream whose reader may go, as `head` does when it has enough: the work goes on, unheard."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in _READER_GONE:
                raise files.named(error, f"standard {'error' if self.fileno() == 2 else 'output'}", "write") from error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return len(data)


def _prepare_streams() -> None:
    sys.stdout, sys.stderr = _steady(sys.stdout), _steady(sys.stderr)


def _steady(stream: TextIO) -> TextIO:
    """The same stream without two ends to the work: a reader that is gone, and a name that a terminal cannot show."""
    if not isinstance(stream, io.TextIOWrapper):  # None, or what a notebook or a test has put there.
        return stream
    stream.flush()
    raw: Any = _Output(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def no_arguments(argv: Sequence[str]) -> None:
    """Refuses positional arguments, which would otherwise be ignored silently."""
    if len(argv) > 1:
        raise UserError(usage.unexpected(argv[1]))


def one_argument(argv: Sequence[str], what: str) -> str:
    """Returns the only positional argument; `what` says in a message what is expected of it."""
    if len(argv) != 2:
        given = f"{len(argv) - 1} arguments were given" if len(argv) > 2 else "nothing was given"
        raise UserError(f"{given}: {what} is expected.")
    return argv[1]


def two_arguments(argv: Sequence[str], what: str) -> tuple[str, str]:
    """Returns the only two positional arguments; `what` says in a message what is expected of them."""
    if len(argv) != 3:
        given = {1: "nothing was", 2: "one argument was"}.get(len(argv), f"{len(argv) - 1} arguments were")
        raise UserError(f"{given} given: {what} are expected.")
    return argv[1], argv[2]


def from_flags(config_type: type[Config], **values: Any) -> Config:
    """Builds a config dataclass of the flags that bear its fields' names; `values` go before flags."""
    parsed = flags.FLAGS.flag_values_dict()
    names = {field.name for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    return config_type(**{name: parsed[name] for name in names if name in parsed} | values)


def print_list(package: str, commands: Mapping[str, str]) -> None:
    """Prints the commands of a package, a line each: `python -m package.name   what it does`."""
    rows = [[f"python -m {package}.{name}", purpose] for name, purpose in commands.items()]
    print("\n".join(tabular.aligned(rows, left=(0, 1))))
