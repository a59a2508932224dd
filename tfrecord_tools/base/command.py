"""Start and exit of every command: flags, exit codes, and a one-line message for a user's mistake."""

from __future__ import annotations

import atexit
import dataclasses
import errno
import functools
import gc
import io
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO, TypeVar

from absl import app, flags

from tfrecord_tools.base import console, files, tabular, usage, words
from tfrecord_tools.errors import UserError, refusal

Config = TypeVar("Config")
EXIT_USER_ERROR = 1
# Like print, but each line is written immediately, also to a pipe or a file. Commands pass it as the argument `log`.
say = functools.partial(print, flush=True)
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it.
_READER_GONE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)


def run(main: Callable[[Sequence[str]], None], interrupted: str = "interrupted", arguments: str = "") -> None:
    """Parse the flags, call `main(argv)` and exit with 0, 1 (user's or system's error) or 130 (Ctrl-C).

    An error of the system (a full disk, a missing permission) is printed as one line, like a user's mistake. If the
    reader of the output stops reading (`head`, for example), the work continues and the exit code stays the same.

    Args:
        main: Function that does the work. It gets the program name and the arguments that are not flags.
        interrupted: Line to print after Ctrl-C.
        arguments: Names of the positional arguments in the help, such as "DIRECTORY". "": there are none.
    """

    def parsed(argv: Sequence[str]) -> list[str]:
        rest: list[str] = []
        code = exit_code(lambda: rest.extend(usage.parse(argv, arguments)), interrupted)
        if not rest:
            sys.exit(code)
        return rest

    _prepare_streams()
    # TensorFlow creates half a million objects. Unless they are frozen, garbage collection takes a second at exit.
    atexit.register(gc.freeze)
    console.quiet_tensorflow()
    app.run(lambda argv: exit_code(lambda: main(argv), interrupted), flags_parser=parsed)


def run_package(package: str, commands: Mapping[str, str]) -> None:
    """Run `python -m package`: list the commands, or run one of them (`python -m package name …`)."""
    _prepare_streams()
    first, *rest = sys.argv[1:] or [""]
    name = first.replace("-", "_")
    if name in commands:
        sys.argv[1:] = rest
        runpy.run_module(f"{package}.{name}", run_name="__main__", alter_sys=True)  # Like `python -m package.name`.
        return
    sys.exit(exit_code(lambda: _answer(package, commands, first), "interrupted"))


def _answer(package: str, commands: Mapping[str, str], first: str) -> None:
    """List a package's commands, or raise UserError for a word that is not a command."""
    if first in ("-h", "--help", "help"):
        print(f"usage: python -m {package} COMMAND [--flag=value ...]. Add --help to a command to see its flags.\n")
    if first in ("", "-h", "--help", "help"):
        print_list(package, commands)
    elif first == "--version":
        print(usage.VERSION)
    elif first.startswith("-"):
        hint = usage.homes([first.lstrip("-").partition("=")[0].replace("-", "_")])
        message = f"{first}: the first word must be a command. The commands are {', '.join(commands)}. {hint}"
        raise UserError(message.rstrip())
    else:
        raise UserError(f"{first}: is not a command of {package}. {usage.command_meant(first, commands)}")


def exit_code(work: Callable[[], object], interrupted: str) -> int:
    """Do the work, print an error as one line, and return the exit code."""
    try:
        work()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        print(f"error: {refusal(error)}. Fix the cause and run the command again.", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


class _Output(io.FileIO):
    """A standard stream that ignores writes after its reader is gone (`head`, for example)."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in _READER_GONE:
                raise files.named(error, f"standard {'error' if self.fileno() == 2 else 'output'}", "write") from error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        return len(data)


def _prepare_streams() -> None:
    sys.stdout, sys.stderr = _robust(sys.stdout), _robust(sys.stderr)


def _robust(stream: TextIO) -> TextIO:
    """Return a stream that does not fail if its reader has stopped or if it cannot show a character."""
    if not isinstance(stream, io.TextIOWrapper):  # None, or the stream of a notebook or a test.
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
    """Raise UserError for positional arguments, which would otherwise be ignored."""
    if len(argv) > 1:
        raise UserError(usage.unexpected(argv[1]))


def one_argument(argv: Sequence[str], what: str) -> str:
    """Return the only positional argument; `what` describes it after "Pass" in error messages."""
    if len(argv) != 2:
        given = f"{len(argv) - 1} arguments were given" if len(argv) > 2 else "no argument was given"
        raise UserError(f"{given}. Pass {what}")
    return argv[1]


def two_arguments(argv: Sequence[str], what: str) -> tuple[str, str]:
    """Return the only two positional arguments; `what` describes them after "Pass" in error messages."""
    if len(argv) != 3:
        given = {1: "no argument was", 2: "one argument was"}.get(len(argv), f"{len(argv) - 1} arguments were")
        raise UserError(f"{given} given. Pass {what}")
    return argv[1], argv[2]


def from_flags(config_type: type[Config], **values: Any) -> Config:
    """Build a config dataclass from the flags that have the names of its fields; `values` override flags."""
    return config_type(**flag_values(config_type) | values)


def flag_values(config_type: type[Any]) -> dict[str, Any]:
    """Return the values of the flags that have the names of a dataclass's fields."""
    parsed = flags.FLAGS.flag_values_dict()
    names = {field.name for field in dataclasses.fields(config_type)}
    return {name: parsed[name] for name in names if name in parsed}


def print_left_out(unreadable: Mapping[str, str], skipped: Mapping[str, str]) -> None:
    """Print the files that cannot be read, one per line, and the number of files that are not images.

    Args:
        unreadable: Path -> reason.
        skipped: Path -> reason.
    """
    for path, reason in unreadable.items():
        print(f"unreadable: {path}: {reason}", file=sys.stderr)
    for line in left_out_notes({}, skipped):
        print(line, file=sys.stderr)


def left_out_notes(unreadable: Mapping[str, str], skipped: Mapping[str, str]) -> Iterator[str]:
    """Yield short lines for the caller of a function, since its result has the files of `print_left_out`."""
    if unreadable:
        path, reason = next(iter(unreadable.items()))
        count = words.number(len(unreadable), "image")
        yield (
            f"note: {count} cannot be read, for example {path}: {reason}. The result lists all of them in `unreadable`"
        )
    if skipped:
        count = words.number(len(skipped), "file that is not an image", "files that are not images")
        yield f"note: skipped {count}, for example {next(iter(skipped))}"


def print_list(package: str, commands: Mapping[str, str]) -> None:
    """Print the commands of a package, one per line: `python -m package.name   what it does`."""
    rows = [[f"python -m {package}.{name}", purpose] for name, purpose in commands.items()]
    print("\n".join(tabular.aligned(rows, left=(0, 1))))
