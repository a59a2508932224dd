"""The exceptions that carry a message for the person at the keyboard."""

from __future__ import annotations

import csv
import errno
import io
import shlex
import traceback
from collections.abc import Iterable, Sequence
from typing import Literal

# Errors of the system that a file's name explains; others need the call too.
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


class UserError(Exception):
    """A mistake that the user can mend; commands print it without a traceback.

    The message says what is wrong, which value, where, what is allowed and what to do.
    """


class CorruptRecord(UserError):
    """A record whose stored bytes are not what was written: the checksum or the length is wrong."""


class UndecodableImage(UserError):
    """Bytes that are no image, or none that TensorFlow decodes."""


def refusal(error: OSError) -> str:
    """What the system refused, in words, with the file and, unless they say all, the call; no full stop at the end."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno is not None and not reason.endswith(")") and not (error.filename and error.errno in _CLEAR):
        reason += _call(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def one_line(error: BaseException, keep: Literal["first", "last", "all"] = "first") -> str:
    """Return the message of an exception as one line, without a full stop at its end.

    Args:
        error: Exception; one without a message gives the name of its type.
        keep: Which of the lines of its message.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    chosen = {"first": lines[:1], "last": lines[-1:], "all": lines}[keep]
    return " ".join(" ".join(chosen).split()).rstrip(".")


def _call(error: OSError) -> str:
    """The line of code that the system refused, in brackets; "" where it is not known."""
    frames = traceback.extract_tb(error.__traceback__)
    line = frames[-1].line if frames else None
    return f" ({line})" if line and not line.startswith("raise") else ""


def named(names: Sequence[str], most: int = 10) -> str:
    """Many names in a line: the first of them, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def as_flag(flag: str, values: Iterable[str]) -> str:
    """Return a flag with a list of values, ready to be copied into a shell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return f"--{flag}={shlex.quote(text.getvalue())}"
