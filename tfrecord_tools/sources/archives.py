"""Read images from a zip archive or an uncompressed tar archive, in any order."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, cast

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout.dataset_files import Rejected
from tfrecord_tools.layout.split_names import split_named
from tfrecord_tools.sources.base import (
    MAX_FILE_BYTES,
    NOT_UTF8,
    SPAN,
    Content,
    Listing,
    ReadError,
    Store,
    is_litter,
    is_utf8,
    printable,
)

ZIP_SIGNATURE = b"PK\x03\x04"
REMEDY = "Download the archive again. Or unpack the part that can be read, and pass that directory instead."
_ZIP_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7. The file name and the extra field follow.
_UTF8 = 0x800  # Flag of a member: its name is in UTF-8.
_ENCRYPTED = 1  # Flag of a member: it is encrypted.
_DOS = 0  # Archives from MS-DOS and Windows may use backslashes in paths.
_NOT_A_FILE = "a link or a device, not a file: unpack the archive first"
_Spans = dict[str, tuple[int, int, int, int]]


@dataclasses.dataclass(frozen=True)
class Tar:
    """A store: the members of an uncompressed tar archive."""

    file: str

    def read(self, path: str, span: np.void) -> Content:
        with open(self.file, "rb") as file:
            data = files.read_at(file.fileno(), min(int(span["size"]), MAX_FILE_BYTES + 1), int(span["offset"]))
            return Content(data, int(span["size"]), os.fstat(file.fileno()).st_mtime_ns)


@dataclasses.dataclass(frozen=True)
class Zip:
    """A store: the members of a zip archive, stored or deflated.

    Members are read without zipfile, which would read the whole directory of the archive in every process.
    """

    file: str

    def read(self, path: str, span: np.void) -> Content:
        offset, size = int(span["offset"]), int(span["size"])
        limit = min(size, MAX_FILE_BYTES) + 1  # A member with more bytes is damaged or a zip bomb.
        with open(self.file, "rb") as file:
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            header = files.read_at(file.fileno(), _ZIP_HEADER.size, offset)
            if len(header) < _ZIP_HEADER.size or not header.startswith(ZIP_SIGNATURE):
                raise ReadError("damaged archive: its table of contents lists a file where there is none")
            method, name_bytes, extra_bytes = (_ZIP_HEADER.unpack(header)[i] for i in (3, 9, 10))
            start = offset + len(header) + name_bytes + extra_bytes
            data = files.read_at(file.fileno(), min(int(span["stored"]), MAX_FILE_BYTES + 1), start)
        if method == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)
            except zlib.error as error:
                raise ReadError(f"damaged archive: {error}") from error
        if size <= MAX_FILE_BYTES and zlib.crc32(data) != span["crc"]:
            raise ReadError("damaged archive: wrong checksum")
        return Content(data, size, mtime_ns)


def list_zip(file: str, encoding: str | None) -> Listing:
    """List the members of a zip archive.

    Args:
        file: The archive.
        encoding: Encoding of the names that are not marked as UTF-8. None: UTF-8.

    Raises:
        UserError: The archive is damaged, or a name is not in this encoding.
    """
    rejected = []
    spans: _Spans = {}
    for member in _zip_members(file):
        name = _zip_name(file, member, encoding)
        path = _member_path(name)
        if name.endswith("/") or not path:
            continue
        if member.flag_bits & _ENCRYPTED:
            rejected.append(Rejected(path=path, reason="encrypted: unpack the archive first"))
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            rejected.append(Rejected(path=path, reason="unsupported zip compression: unpack the archive first"))
        elif stat.S_ISLNK(member.external_attr >> 16):
            rejected.append(Rejected(path=path, reason=_NOT_A_FILE))
        else:
            spans[path] = (member.header_offset, member.compress_size, member.file_size, member.CRC)
    return _listing(Zip(file), file, spans, rejected)


def _zip_name(file: str, member: zipfile.ZipInfo, encoding: str | None) -> str:
    """Return the name of a member. If a name is not marked as UTF-8, zipfile decodes it by code page 437.

    Raises:
        UserError: The name is not in `encoding`, or not in UTF-8 if `encoding` is None.
    """
    name = member.filename
    if not name.isascii() and not member.flag_bits & _UTF8:
        name = _decoded(file, name.encode("cp437"), encoding)
    return name.replace("\\", "/") if member.create_system == _DOS else name


def _decoded(file: str, name: bytes, encoding: str | None) -> str:
    try:
        return name.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding:
            raise UserError(
                f"--zip_encoding={encoding}: the file name {name!r} in {file} is not in this encoding ({error.reason})."
                f" {_readings(name)}"
            ) from None
        raise UserError(
            f"--src={file}: the file name {name!r} is not in UTF-8, and the archive does not say which encoding the"
            f" name has. {_readings(name)}"
        ) from None


def _readings(name: bytes) -> str:
    """Return the end of a message: the name in the usual encodings of old archives, and what to do."""
    shown = []
    for encoding in ("cp949", "cp932", "gbk", "big5", "cp1251", "cp850", "cp437"):
        with contextlib.suppress(UnicodeDecodeError):
            shown.append(f"{encoding} {name.decode(encoding)!r}")
    return f"In common encodings, the name is: {', '.join(shown)}. Pass the right encoding as --zip_encoding."


def _zip_members(file: str) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # For example a name that is not UTF-8.
        raise UserError(f"--src={file}: the zip archive is damaged: {error}. {REMEDY}") from error


def list_tar(file: str, archive: tarfile.TarFile) -> Listing:
    """List the members of an open tar archive.

    Raises:
        UserError: The archive is damaged.
    """
    rejected = []
    spans: _Spans = {}
    for member in members(file, archive):
        path = _member_path(member.name)
        if member.isdir() or not path:
            continue
        if not is_utf8(path):
            rejected.append(Rejected(path=printable(path), reason=NOT_UTF8))
        elif not member.isreg():
            rejected.append(Rejected(path=path, reason=_NOT_A_FILE))
        elif member.issparse():
            rejected.append(Rejected(path=path, reason="a sparse file: unpack the archive first"))
        else:
            spans[path] = (member.offset_data, member.size, member.size, 0)
    return _listing(Tar(file), file, spans, rejected)


def members(file: str, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield all members of an open archive.

    Damaged headers are detected, which tarfile takes for the end of the archive.

    Raises:
        UserError: The archive is damaged or cut off.
    """
    try:
        for member in archive:
            vars(archive)["members"] = []  # Otherwise, tarfile keeps all members in memory, 1 kB each.
            yield member
    except tarfile.TarError as error:
        raise UserError(f"--src={file}: the tar archive is damaged: {error}. {REMEDY}") from error
    opened = cast(IO[bytes], archive.fileobj)
    opened.seek(archive.offset)
    if opened.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise UserError(
            f"--src={file}: the tar archive is damaged: at byte {archive.offset:,} neither a file nor the end of the"
            f" archive begins. {REMEDY}"
        )


def _listing(store: Store, file: str, spans: _Spans, rejected: list[Rejected]) -> Listing:
    """Make a sorted listing.

    If one directory contains all files, its name is removed from the paths, unless it is the name of a split.
    """
    names = sorted(spans, key=lambda path: path.split("/"))
    tops = {path.partition("/")[0] for path in [*names, *(r.path for r in rejected)]}
    enclosed = len(tops) == 1 and all("/" in name for name in names) and not any(map(split_named, tops))
    top = f"{tops.pop()}/" if enclosed else ""
    table = np.array([spans[name] for name in names], SPAN)
    return Listing(
        store=store,
        top=top,
        paths=[name[len(top) :] for name in names],
        spans=table,
        sizes=table["size"].astype(np.int64),
        mtimes_ns=np.full(len(names), os.stat(file).st_mtime_ns, np.int64),
        rejected=[dataclasses.replace(r, path=r.path.removeprefix(top)) for r in rejected],
    )


def _member_path(name: str) -> str:
    """Return the path of a member without `./`, or "" for hidden files and system files."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "" if any(map(is_litter, parts)) else "/".join(parts)
