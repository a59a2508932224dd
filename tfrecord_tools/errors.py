"""The exceptions that carry a message for the person at the keyboard."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """A mistake that the user can mend; commands print it without a traceback.

    The message says what is wrong, which value, where, what is allowed and what to do.
    """


class CorruptRecord(UserError):
    """A record whose stored bytes are not what was written: the checksum or the length is wrong."""


class UndecodableImage(UserError):
    """Bytes that are no image, or none that TensorFlow decodes."""


def refusal(error: OSError) -> str:
    """What the system refused, in words, with the file where it has one; no full stop at the end."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def named(names: Sequence[str], most: int = 10) -> str:
    """Many names in a line: the first of them, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
