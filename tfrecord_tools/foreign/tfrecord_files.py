"""Find TFRecord files of any origin, group those that belong together, and read their records.

The files are on this machine or in a bucket.
"""

from __future__ import annotations

import dataclasses
import glob
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from tfrecord_tools.base import files, words
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.foreign.example_parser import image_type
from tfrecord_tools.layout import schema

_EXPECTED = (
    "Expected a TFRecord file, plain or compressed as a whole with GZIP or ZLIB, or a directory of such files."
    " To create TFRecords from images, run `python -m tfrecord_tools.convert --src=DIRECTORY`."
)
NAMES = re.compile(r"\.tfrec(ords?)?(-\d+-of-\d+)?(\.gz|\.zlib)?$|-\d{5,}-of-\d{5,}$")
_SHARD = re.compile(r"-(\d+)-of-(\d+)")
_ANY_HEADER = 32 + zlib.MAX_WBITS  # Accepts the headers of GZIP and ZLIB.
_CHUNK_BYTES = 1 << 16


class RemoteFile(Protocol):
    """A file that is not on this machine."""

    @property
    def name(self) -> str:
        """Name of the file, without its directory."""

    @property
    def parent(self) -> str:
        """URL of the directory of the file."""

    @property
    def size(self) -> int:
        """Size of the file in bytes."""

    def open(self) -> io.RawIOBase:
        """Return a stream of the content."""


File: TypeAlias = Path | RemoteFile
AnyFile = TypeVar("AnyFile", Path, RemoteFile)


@dataclasses.dataclass(frozen=True)
class Group(Generic[AnyFile]):
    """Files of a directory that belong together according to their names.

    Attributes:
        name: Name of a single file, or a `glob` pattern of several files.
        compression: "", "GZIP" or "ZLIB", as `tf.data.TFRecordDataset` names them.
        paths: The files, sorted.
    """

    name: str
    compression: str
    paths: Sequence[AnyFile]

    @property
    def missing(self) -> int:
        """The number of missing files according to the names."""
        shard = _SHARD.search(self.paths[0].name)
        return int(shard[2]) - len(self.paths) if shard else 0


class Damage(UserError):
    """Damage of a file. The caller of a reader catches it, and raises `advised`.

    Args:
        reason: File, record number, byte offset, and what is wrong.
        effect: The part that `read` leaves out because of the damage.
    """

    def __init__(self, reason: str, effect: str = ""):
        super().__init__(reason, effect)  # Both, so that worker processes can send the exception.
        self.effect = effect

    def __str__(self) -> str:
        return str(self.args[0])

    def advised(self, state: str = "") -> UserError:
        """Return the error for the user.

        Args:
            state: Sentences about the work that the damage stopped, which only the caller knows. They end with a space.
        """
        return UserError(
            f"{str(self).rstrip('.')}. {state}Copy the file again from an intact copy, or leave this file out."
        )


def refuse(message: str) -> None:
    """Raise a `Damage`, as an `on_damage` for callers that read intact files only."""
    raise Damage(message)


def find(path: Path, on_damage: Callable[[str], object], below: bool = False) -> list[Group[Path]]:
    """Find TFRecord files: `path` itself, or the files in the directory `path`.

    Args:
        path: A file or directory.
        on_damage: Called with a message for each file that is not a TFRecord although its name says so.
        below: If the directory itself has no TFRecords, search its subdirectories for files with names of TFRecords.
            Files in both are an error.

    Raises:
        UserError: There are no TFRecords.
    """
    if not path.is_dir():
        return [Group(path.name, compression(path), [path])]
    groups = grouped(_list(path), on_damage)
    deeper = _below(path) if below or not groups else []
    if below:
        if groups and deeper:
            raise UserError(
                f"{path}: there are TFRecords in this directory and in its subdirectories, for example"
                f" {groups[0].paths[0]} and {deeper[0]}. Select the right ones with a pattern: '{path}/*' or"
                f" '{path}/*/*'."
            )
        groups = groups or grouped(deeper, on_damage)
    if not groups:
        raise no_file(path, deeper)
    return groups


def no_file(place: Path | str, deeper: Sequence[File]) -> UserError:
    """Return the error for a directory without TFRecords.

    Args:
        place: The directory or its URL.
        deeper: Files below it with names of TFRecords.
    """
    if deeper:
        directories = named(list(dict.fromkeys(str(file.parent) for file in deeper)), 3)
        return UserError(
            f"{place}: no TFRecord file directly in this directory. Pass a directory that contains TFRecord files:"
            f" {directories}."
        )
    return UserError(f"{place}: no TFRecord file in this directory. {_EXPECTED}")


def matching(flag: str, pattern: str, notes: list[str], on_damage: Callable[[str], object]) -> list[Path]:
    """Return the TFRecord files in a directory or of a pattern, sorted, without empty files.

    Args:
        flag: The flag with the pattern, for messages.
        pattern: A directory, or a shell pattern, which may contain `**`.
        notes: Gets a note if some files are empty.
        on_damage: As in `find`.

    Raises:
        UserError: No file matches, or all files are empty.
    """
    if files.is_url(pattern):
        raise UserError(
            f"--{flag}={pattern}: must be files on this machine. Copy the files to this machine first, and pass their"
            " directory."
        )
    if Path(pattern).is_dir():
        groups = find(Path(pattern), on_damage, below=True)
        paths = sorted(path for group in groups for path in group.paths)
    else:
        paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if not os.path.isdir(name))
    if not paths:
        raise UserError(
            f"--{flag}={pattern}: no file matches. Pass a directory, or a pattern in quotes, for example"
            " 'data/train-*'."
        )
    empty = [str(path) for path in paths if not path.stat().st_size]
    if len(empty) == len(paths):
        which = "the file is" if len(paths) == 1 else f"all {len(paths):,} files are"
        raise UserError(
            f"--{flag}={pattern}: {which} empty ({named(empty, 3)}). Perhaps the program that wrote them was stopped."
            " Write the records again, or choose other files."
        )
    if empty:
        notes.append(f"{len(empty):,} of {len(paths):,} files are empty and are left out: {named(empty, 3)}")
    return [path for path in paths if path.stat().st_size]


def grouped(paths: Sequence[AnyFile], on_damage: Callable[[str], object]) -> list[Group[AnyFile]]:
    """Group TFRecord files by directory, name and compression.

    Args:
        paths: Files, which need not be TFRecords.
        on_damage: Called with a message for each file that is not a TFRecord although its name says so.
    """
    groups: dict[tuple[Path | str, str, str], list[AnyFile]] = {}
    for file in paths:
        try:
            groups.setdefault((file.parent, _pattern(file.name), compression(file)), []).append(file)
        except UserError as error:
            if NAMES.search(file.name):
                on_damage(str(error))
    return [Group(name if files[1:] else files[0].name, kind, files) for (_, name, kind), files in groups.items()]


def compression(path: File) -> str:
    """Detect the compression of a TFRecord file from its content.

    Only a file that is empty or damaged at its start is recognized by its name.

    Returns:
        "", "GZIP" or "ZLIB".

    Raises:
        UserError: The file is not a TFRecord, or cannot be read.
    """
    if isinstance(path, Path) and not path.is_file():
        problem = "is neither a file nor a directory" if path.exists() else "does not exist"
        raise UserError(f"{path}: {problem}. {_EXPECTED}")
    try:
        head = _start(path, compressed=False) or b""
        inflated = _start(path, compressed=True)
        size = size_of(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}). Make it readable, or pass another file."
        ) from error
    has_name = bool(NAMES.search(path.name))
    if schema.data_bytes(head) is not None or (has_name and not head):
        return ""
    if inflated is not None and (has_name or schema.data_bytes(inflated) is not None):
        return "GZIP" if head.startswith(b"\x1f") else "ZLIB"
    if has_name and (len(head) < schema.HEADER_BYTES or int.from_bytes(head[:8], "little") < size):
        return ""  # The file is cut off, or its first length is plausible and only the checksum is wrong.
    reason = f"the file starts with {head!r}" if head else "the file is empty"
    if kind := image_type(head):
        reason = f"the file is {words.with_article(kind)} image"
    raise UserError(f"{path}: is not a TFRecord file: {reason}. {_EXPECTED}")


def size_of(file: File) -> int:
    """Return the size of a file in bytes."""
    return file.stat().st_size if isinstance(file, Path) else file.size


def read(path: File, compression: str, on_damage: Callable[[str], object]) -> Iterator[bytes]:
    """Yield the data of the valid records of a file, in order.

    A record with damaged data is left out. After a damaged length, the rest of the file cannot be read. Memory is a few
    times the size of the largest record. A file in a bucket is fetched in parts of up to 8 MiB.

    Args:
        path: A TFRecord file.
        compression: The file's compression, as the function `compression` returned it.
        on_damage: Called with a message for each damage: file, record number, byte offset and reason.
    """
    for data in _records(path, compression):
        if isinstance(data, Damage):
            on_damage(f"{data}; {data.effect}")
        else:
            yield data


def read_intact(path: Path, compression: str) -> Iterator[bytes]:
    """Yield the data of the records of a file, in order.

    Args:
        path: A TFRecord file.
        compression: The file's compression, as the function `compression` returned it.

    Raises:
        Damage: The file is damaged. The message names the first damage.
    """
    for data in _records(path, compression):
        if isinstance(data, Damage):
            raise data
        yield data


def _records(path: File, compression: str) -> Iterator[bytes | Damage]:
    """Yield the data of the valid records of a file, and the damage in place of the others."""
    number = offset = 0
    position = f"byte {{:,}} of the unpacked {compression} data" if compression else "byte {:,}"

    def damage(reason: object, effect: str) -> Damage:
        return Damage(f"{path}: record {number:,} (counted from 0) at {position.format(offset)}: {reason}", effect)

    try:
        with _open(path, bool(compression)) as file:
            while framed := _frame(file):
                data = schema.unframe(framed)
                yield damage("the checksum of its data is wrong", "the record is left out") if data is None else data
                number, offset = number + 1, offset + len(framed)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        yield damage(error, "the rest of the file cannot be read")


def _frame(file: io.BufferedReader) -> bytes:
    """Read the next frame; return b"" at the end of the file.

    Raises:
        ValueError: The frame's length is damaged or too large for memory.
        EOFError: The file ends inside the frame.
    """
    header = file.read(schema.HEADER_BYTES)
    if not header:
        return b""
    length = schema.data_bytes(header)
    if length is None and len(header) == schema.HEADER_BYTES:
        raise ValueError("the checksum of its length is wrong")
    try:
        framed = header + file.read(length + 4) if length is not None else header
    except (MemoryError, OverflowError) as error:
        raise ValueError(f"its {length:,} bytes do not fit into memory") from error
    if length is None or len(framed) < length + schema.FRAME_BYTES:
        raise EOFError("the file ends inside the record")
    return framed


def _start(path: File, compressed: bool) -> bytes | None:
    """Return the first `schema.HEADER_BYTES` bytes of a file; None if it cannot be decompressed."""
    try:
        with _open(path, compressed) as file:
            return file.read(schema.HEADER_BYTES)
    except EOFError:  # The compressed data is cut off.
        return b""
    except zlib.error:
        return None


def _open(path: File, compressed: bool) -> io.BufferedReader:
    raw = io.FileIO(path) if isinstance(path, Path) else path.open()
    return io.BufferedReader(_Inflated(raw) if compressed else raw)


class _Inflated(io.RawIOBase):
    """The decompressed content of a file; several gzip streams in one file are joined."""

    def __init__(self, raw: io.RawIOBase):
        self._raw = raw
        self._stream = zlib.decompressobj(_ANY_HEADER)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            chunk = self._stream.unused_data or self._stream.unconsumed_tail or self._raw.read(_CHUNK_BYTES) or b""
            if self._stream.eof:
                if not chunk:
                    return 0
                self._stream = zlib.decompressobj(_ANY_HEADER)
            data = self._stream.decompress(chunk, len(buffer))
            if not chunk and not data:
                raise EOFError("the compressed file ends before its end marker")
        buffer[: len(data)] = data
        return len(data)


def _below(path: Path) -> list[Path]:
    """Return the files in subdirectories that have names of TFRecords."""
    matches = (file for file in path.rglob("*") if NAMES.search(file.name) and file.is_file())
    return sorted(file for file in matches if file.parent != path)


def _list(directory: Path) -> list[Path]:
    try:
        return sorted(entry for entry in directory.iterdir() if entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{directory}: cannot be listed ({error.strerror}). Make it readable.") from error


def _pattern(name: str) -> str:
    """Return the pattern of the names in a group.

    In names with `-NUMBER-of-TOTAL`, each digit of the number becomes `?`. In other names, each number becomes `*`.
    """
    escaped = glob.escape(name)
    if _SHARD.search(name):
        return _SHARD.sub(lambda match: f"-{'?' * len(match[1])}-of-{match[2]}", escaped)
    return re.sub(r"\d+", "*", escaped)
