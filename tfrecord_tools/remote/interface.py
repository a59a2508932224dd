"""Define the operations of a store of objects, such as a bucket or a web server, and its errors."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tfrecord_tools.errors import UserError

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # Seconds between attempts.


class Missing(UserError):
    """The object does not exist."""


class Exists(UserError):
    """An object with this name exists already. `put` or `copy` with `create=True` did not change it."""


class Changed(UserError):
    """The object is not the version that was asked for."""


class Denied(UserError):
    """The credentials are missing, wrong, or do not allow the operation."""


class Unreachable(UserError):
    """The store did not answer, or answered with errors, until the patience was used up."""


@dataclasses.dataclass(frozen=True)
class Object:
    """An object as it is in the store at one time.

    Attributes:
        path: Path below the URL of the store, with slashes.
        size: Size in bytes.
        tag: A text that changes if the object is written again: its ETag, or a similar property. "": the store has
            none.
    """

    path: str
    size: int
    tag: str = ""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a store may fail before an operation fails, in seconds.

    Attributes:
        connect: For a connection.
        stall: For the next bytes of an answer. A slow answer does not fail as long as bytes arrive.
        retry: For repeated attempts, with growing, random pauses between them. If the store asks for a pause or
            answers with an error that can pass, the operation is tried again.
    """

    connect: float = 5.0
    stall: float = 15.0
    retry: float = 180.0


class Attempts:
    """The attempts of one operation on a store, with growing, random pauses between them."""

    def __init__(self, patience: Patience):
        self._deadline = time.monotonic() + patience.retry
        self._pause = FIRST_PAUSE

    @property
    def are_over(self) -> bool:
        """Whether a further attempt would begin too late."""
        return time.monotonic() + self._pause > self._deadline

    def wait(self) -> None:
        """Wait before the next attempt."""
        time.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


SHORT = Patience(retry=10.0)  # For the first request. A wrong address is the likely cause of an error.


class Store(Protocol):
    """Objects below a URL. It can be pickled, and used after a fork and in several threads.

    All operations try again after errors that can pass. They raise `Missing`, `Denied`, `Unreachable` or another
    UserError. Each message names the URL of the object and says what to do.
    """

    @property
    def url(self) -> str:
        """The URL, without a slash at its end."""

    def head(self, path: str) -> Object:
        """Return size and version of an object."""

    def get(self, path: str, start: int = 0, end: int | None = None, tag: str = "") -> memoryview:
        """Read the bytes from `start` to `end` of an object. If `end` is None, read to the end of the object.

        Args:
            path: Path of the object below the URL.
            start: First byte.
            end: Byte after the last one. It must be above `start`.
            tag: `Object.tag` of the version to read. "": any version.

        Raises:
            Changed: The object has another tag, or it ends before `end`.
        """

    def list(self, prefix: str = "", below: bool = True) -> Iterator[Object]:
        """Return the objects in the directory `prefix`, in the order of their paths.

        Args:
            prefix: Path of the directory below the URL.
            below: Whether the objects in its subdirectories are returned, too.
        """

    def put(self, path: str, data: bytes | Path, create: bool = False) -> Object:
        """Write an object. Readers see the old object or the complete new one.

        Args:
            path: Path of the object below the URL.
            data: The content, or a file with the content. Large files are sent in parts.
            create: Do not replace an object. If several writers try, exactly one succeeds.

        Raises:
            Exists: `create` is True, and the object exists.
        """

    def copy(self, source: str, destination: str, create: bool = False) -> None:
        """Copy an object within the store, without sending its bytes here.

        Args:
            source: Path of the object below the URL.
            destination: Path of the copy below the URL.
            create: Do not replace an object. If several writers try, exactly one succeeds.

        Raises:
            Exists: `create` is True, and the destination exists.
        """

    def delete(self, path: str) -> None:
        """Delete an object. It is not an error if the object does not exist."""
