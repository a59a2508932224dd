"""What every command of this project shares: the way in, and the way out on a user's mistake."""

from __future__ import annotations

import dataclasses
import io
import os
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from absl import app, flags

from tfrecord_tools import console
from tfrecord_tools.errors import UserError, refusal

Config = TypeVar("Config")
EXIT_USER_ERROR = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it.


def run(main: Callable[[Sequence[str]], None], interrupted: str = "interrupted") -> None:
    """Parses the flags, calls `main(argv)` and exits: 0, 1 (a user's mistake) or 130 (Ctrl-C, `interrupted` told).

    What the system refuses (a full disk, a missing permission) is told in a line, as a mistake is; and when the reader
    of the output, `head` say, has enough, the command ends with 0.
    """

    def guarded(argv: Sequence[str]) -> int:
        try:
            main(argv)
            sys.stdout.flush()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _reader_is_gone():
                return 0
            print(f"error: {refusal(error)}. Mend the cause and repeat the command.", file=sys.stderr)
            return EXIT_USER_ERROR
        except KeyboardInterrupt:
            print(f"\n{interrupted}", file=sys.stderr)
            return EXIT_INTERRUPTED
        return 0

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A name that the terminal cannot show must not end the work.
            stream.reconfigure(errors="backslashreplace")
    console.quiet_tensorflow()
    app.run(guarded)


def _reader_is_gone() -> bool:
    """Whether it is standard output that broke, and no other pipe; what is left in its buffer is dropped then."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in output.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def no_arguments(argv: Sequence[str]) -> None:
    """Refuses positional arguments, which would otherwise be ignored silently."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: everything is given by flags, --name=value (see --help)")


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
    width = max(map(len, commands))
    for name, purpose in commands.items():
        print(f"python -m {package}.{name:<{width}}  {purpose}")
