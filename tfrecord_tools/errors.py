"""Exceptions with messages for users, and helpers that write such messages."""

from __future__ import annotations

import csv
import errno
import io
import re
import shlex
import traceback
from collections.abc import Iterable, Sequence
from typing import Literal

# System errors that are clear with the file name alone. The message of others also shows the line of code.
_CLEAR = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENOENT,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EROFS,
    }
)
_STYLES = re.compile(r"\x1b\[[0-9;]*m")  # Codes that make text bold or colored in a terminal.
_LONGEST = 200  # Characters of an object in a message.


class UserError(Exception):
    """A mistake that the user can fix. Commands print it without a traceback.

    A message names the flag and its value, then says what is wrong, which values are allowed, and what to do.
    """


class CorruptRecord(UserError):
    """A record with a wrong checksum or length, because its stored bytes are damaged."""


class UndecodableImage(UserError):
    """Bytes that are not an image, or an image that TensorFlow cannot decode."""


def refusal(error: OSError) -> str:
    """Return a system error as a text with the file and, where needed, the line of code; without a period."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno is not None and not reason.endswith(")") and not (error.filename and error.errno in _CLEAR):
        reason += _call(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def one_line(error: BaseException, keep: Literal["first", "last", "all"] = "first") -> str:
    """Return the message of an exception as one line, without a period at its end.

    Args:
        error: The exception. If it has no message, the name of its type is returned.
        keep: The lines of the message to return.
    """
    text = _STYLES.sub("", str(error).partition("\n\nArguments received by ")[0])  # Keras adds both.
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    selected = {"first": lines[:1], "last": lines[-1:], "all": lines}[keep]
    return " ".join(" ".join(selected).split()).rstrip(".")


def _call(error: OSError) -> str:
    """Return the line of code that raised a system error, in parentheses, or "" if it is not known."""
    frames = traceback.extract_tb(error.__traceback__)
    line = frames[-1].line if frames else None
    return f" ({line})" if line and not line.startswith("raise") else ""


def named(names: Sequence[str], most: int = 10) -> str:
    """Return names as one line: the first `most` names, and the number of the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def short(value: object) -> str:
    """Return a value as a message shows it. Long values are shown as their type: `<ndarray>`."""
    text = str(value)
    is_plain = isinstance(value, str) or ("\n" not in text and len(text) <= _LONGEST)
    return text if is_plain else f"<{type(value).__name__}>"


def as_flag(flag: str, values: Iterable[str]) -> str:
    """Return a flag with a list of values, quoted for a shell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return f"--{flag}={shlex.quote(text.getvalue())}"
