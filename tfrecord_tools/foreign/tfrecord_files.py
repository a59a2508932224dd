"""TFRecord files of any origin: which of a directory's files are some, which belong together, and their records."""

from __future__ import annotations

import glob
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfrecord_tools.base import words
from tfrecord_tools.errors import UserError, named
from tfrecord_tools.foreign.example_parser import image_type
from tfrecord_tools.layout import schema

_EXPECTED = (
    "Expected a TFRecord file, plain or compressed as a whole with GZIP or ZLIB, or a directory that holds such files."
    " Of images, `python -m tfrecord_tools.convert --src=DIRECTORY` makes them."
)
_NAMES = re.compile(r"\.tfrec(ords?)?(-\d+-of-\d+)?(\.gz|\.zlib)?$|-\d{5,}-of-\d{5,}$")
_SHARD = re.compile(r"-(\d+)-of-(\d+)")
_ANY_HEADER = 32 + zlib.MAX_WBITS  # GZIP's or ZLIB's.
_CHUNK_BYTES = 1 << 16


class Group(NamedTuple):
    """Files of a directory that belong together, as their names say.

    Attributes:
        name: Of a single file its name; of several their pattern, as `glob` takes it.
        compression: "", "GZIP" or "ZLIB", as `tf.data.TFRecordDataset` names them.
        paths: The files, sorted.
    """

    name: str
    compression: str
    paths: Sequence[Path]

    @property
    def missing(self) -> int:
        """How many more files there should be, as the names say."""
        shard = _SHARD.search(self.paths[0].name)
        return int(shard[2]) - len(self.paths) if shard else 0


def find(path: Path, damage: Callable[[str], object], below: bool = False) -> list[Group]:
    """Find the TFRecord files that `path` names: the file itself, or those in the directory.

    Args:
        path: A file or directory.
        damage: Takes a message for each file of the directory that is named like a TFRecord and is none.
        below: If a directory has none, use the files in the directories below it that are named like TFRecords.
            Files in both places are an error.

    Raises:
        UserError: There is none.
    """
    if not path.is_dir():
        return [Group(path.name, compression(path), [path])]
    groups = grouped(_list(path), damage)
    deeper = _below(path) if below or not groups else []
    if below:
        if groups and deeper:
            raise UserError(
                f"{path}: TFRecords lie both in this directory and below it, such as {groups[0].paths[0]} and"
                f" {deeper[0]}. Name those that are meant with a pattern, such as '{path}/*' or '{path}/*/*'."
            )
        groups = groups or grouped(deeper, damage)
    if not groups:
        if deeper:
            directories = named(list(dict.fromkeys(str(file.parent) for file in deeper)), 3)
            raise UserError(f"{path}: no TFRecord in this directory itself. Name one that has some: {directories}.")
        raise UserError(f"{path}: no TFRecord in this directory. {_EXPECTED}")
    return groups


def grouped(paths: Sequence[Path], damage: Callable[[str], object]) -> list[Group]:
    """Group files by directory and name; leave out what is no TFRecord, and pass it to `damage` if it is named so."""
    groups: dict[tuple[Path, str, str], list[Path]] = {}
    for file in paths:
        try:
            groups.setdefault((file.parent, _pattern(file.name), compression(file)), []).append(file)
        except UserError as error:
            if _NAMES.search(file.name):
                damage(str(error))
    return [Group(name if files[1:] else files[0].name, kind, files) for (_, name, kind), files in groups.items()]


def compression(path: Path) -> str:
    """Returns how a TFRecord file is compressed: "", "GZIP" or "ZLIB", by its content.

    Its name decides only where the content cannot: whether what is empty or damaged at its start is meant to be one.

    Raises:
        UserError: It is no TFRecord, or cannot be read.
    """
    if not path.is_file():
        what = "neither a file nor a directory" if path.exists() else "no such file or directory"
        raise UserError(f"{path}: {what}. {_EXPECTED}")
    try:
        head = _start(path, compressed=False) or b""
        inflated = _start(path, compressed=True)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Make it readable, or give another one.") from error
    named = bool(_NAMES.search(path.name))
    if schema.data_bytes(head) is not None or (named and not head):
        return ""
    if inflated is not None and (named or schema.data_bytes(inflated) is not None):
        return "GZIP" if head.startswith(b"\x1f") else "ZLIB"
    if named and (len(head) < schema.HEADER_BYTES or int.from_bytes(head[:8], "little") < size):
        return ""  # Cut, or its first length makes sense and its checksum does not.
    what = f"it starts with {head!r}" if head else "it is empty"
    if kind := image_type(head):
        what = f"it is {words.with_article(kind)} image"
    raise UserError(f"{path}: no TFRecord: {what}. {_EXPECTED}")


def read(path: Path, compression: str, damage: Callable[[str], object]) -> Iterator[bytes]:
    """Yields the data of the sound records of a file, in order; a few times the largest one is held in memory.

    A record whose data is damaged is left out. Behind a damaged length nothing can be found any more.

    Args:
        path: A TFRecord file.
        compression: As `compression` returned it.
        damage: Takes a message for each damaged place: file, record number, byte offset, what is wrong.
    """
    number = offset = 0
    place = f"byte {{:,}} of what {compression} holds" if compression else "byte {:,}"

    def tell(reason: object) -> None:
        damage(f"{path}: record {number:,} (the first is 0) at {place.format(offset)}: {reason}")

    try:
        with _open(path, bool(compression)) as file:
            while framed := _frame(file):
                data = schema.unframe(framed)
                if data is None:
                    tell("the checksum of its data is wrong; it is left out")
                else:
                    yield data
                number, offset = number + 1, offset + len(framed)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        tell(f"{error}; nothing can be read from there on")


def _frame(file: io.BufferedReader) -> bytes:
    """Reads the next frame, whole and of a sound length; empty at the end of the file."""
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
        raise EOFError("the file ends within it")
    return framed


def _start(path: Path, compressed: bool) -> bytes | None:
    """The first bytes that a file holds, as many as a frame's header has; None if it is not compressed."""
    try:
        with _open(path, compressed) as file:
            return file.read(schema.HEADER_BYTES)
    except EOFError:  # Compressed, and cut.
        return b""
    except zlib.error:
        return None


def _open(path: Path, compressed: bool) -> io.BufferedReader:
    return io.BufferedReader(_Inflated(path) if compressed else io.FileIO(path))


class _Inflated(io.FileIO):
    """What a file holds that is compressed as a whole; as everywhere, several gzip files in one are their sum."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._stream = zlib.decompressobj(_ANY_HEADER)

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            chunk = self._stream.unused_data or self._stream.unconsumed_tail or self.read(_CHUNK_BYTES)
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
    """The files in the directories of a directory that are named like TFRecords."""
    found = (file for file in path.rglob("*") if _NAMES.search(file.name) and file.is_file())
    return sorted(file for file in found if file.parent != path)


def _list(directory: Path) -> list[Path]:
    try:
        return sorted(entry for entry in directory.iterdir() if entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{directory}: cannot be listed ({error.strerror}). Make it readable.") from error


def _pattern(name: str) -> str:
    """What the names of a group have in common: `?` for a shard's number; in other names `*` for each number."""
    escaped = glob.escape(name)
    if _SHARD.search(name):
        return _SHARD.sub(lambda match: f"-{'?' * len(match[1])}-of-{match[2]}", escaped)
    return re.sub(r"\d+", "*", escaped)
