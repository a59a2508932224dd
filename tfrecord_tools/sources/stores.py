"""Where images lie: directories, zip and tar archives, CSVs of pixels. Listed once, then read at random."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import stat
import struct
import tarfile
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import preparation
from tfrecord_tools.layout.digest import Rejected
from tfrecord_tools.layout.splits import split_named
from tfrecord_tools.sources import pixel_csv

MAX_FILE_BYTES = preparation.MAX_IMAGE_BYTES  # What an example cannot hold is not read further.
IGNORED = frozenset({"thumbs.db", "__macosx", "desktop.ini"})
SPAN = np.dtype([("offset", "<i8"), ("stored", "<i8"), ("size", "<i8"), ("crc", "<u4")])
_ZIP_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7; the names of file and extra field follow.
_ZIP_SIGNATURE = b"PK\x03\x04"
_UTF8 = 0x800  # The flag of a name in UTF-8.
_ENCRYPTED = 1  # A bit of a member's flags.
_DOS = 0  # Programs of such systems may put backslashes between the parts of a name.
_COMPRESSED = {b"\x1f\x8b": "gunzip -k", b"BZh": "bunzip2 -k", b"\xfd7zXZ": "unxz -k", b"(\xb5/\xfd": "unzstd"}
_NO_FILE = "a link or a device in the archive, no file: unpack the archive first"
_WITHOUT_IT = "Fetch it again, or unpack what can be read of it and give that directory."


@dataclasses.dataclass(frozen=True)
class Content:
    """What was read: the bytes, and the size and mtime in ns by which a change since the listing is seen."""

    data: bytes
    size: int
    mtime_ns: int


class ReadError(Exception):
    """Why a member cannot be read, in words that follow `path: `."""


class Store(Protocol):
    """Random access to the files of a source; picklable."""

    def read(self, path: str, span: np.void) -> Content:
        """Reads one file.

        Raises:
            OSError, ReadError: It cannot be read.
        """


@dataclasses.dataclass(frozen=True)
class Files:
    """Some files of a store, as a worker gets them.

    Attributes:
        store: Reads the files.
        paths: The path of each file.
        spans: As in `Listing`.
    """

    store: Store
    paths: list[str]
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, number: int) -> Content:
        """Read one file; raises what `Store.read` does."""
        return self.store.read(self.paths[number], self.spans[number])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """What is in a store. Columns run over files, sorted by the parts of their paths.

    Attributes:
        store: Reads them.
        paths: With `/`, valid UTF-8.
        spans: What the store needs to read each, beside its path: SPAN[n], where in the store's file it lies; nothing
            for directories; `object_store.OBJECT`[n] for objects.
        sizes: i64[n] in bytes.
        mtimes_ns: i64[n] in nanoseconds since the epoch.
        rejected: What cannot be a record, known without opening it.
        labels: The class names that the store itself gives, as a CSV of pixels does; None else.
        notes: What the user should know of how the store was understood.
        top: The directory that contains everything in an archive, with a `/`, which the paths lack; "" without one.
    """

    store: Store
    paths: list[str]
    spans: np.ndarray
    sizes: np.ndarray
    mtimes_ns: np.ndarray
    rejected: list[Rejected]
    labels: list[str] | None = None
    notes: tuple[str, ...] = ()
    top: str = ""

    def take(self, numbers: np.ndarray, rejected: list[Rejected]) -> Listing:
        """Return the files with these numbers, i64[k], ascending, and with what is rejected then."""
        return dataclasses.replace(
            self,
            paths=[self.paths[i] for i in numbers.tolist()],
            spans=self.spans[numbers],
            sizes=self.sizes[numbers],
            mtimes_ns=self.mtimes_ns[numbers],
            rejected=rejected,
            labels=None if self.labels is None else [self.labels[i] for i in numbers.tolist()],
        )


@dataclasses.dataclass(frozen=True)
class Directory:
    """Files below a directory."""

    root: str

    def read(self, path: str, span: np.void) -> Content:
        descriptor = files.open_descriptor(os.path.join(self.root, path))
        try:
            status = os.fstat(descriptor)
            data = _read_up_to(descriptor, min(status.st_size, MAX_FILE_BYTES) + 1)
        finally:
            os.close(descriptor)
        return Content(data, status.st_size, status.st_mtime_ns)


@dataclasses.dataclass(frozen=True)
class Tar:
    """Members of an uncompressed tar archive."""

    file: str

    def read(self, path: str, span: np.void) -> Content:
        with open(self.file, "rb") as file:
            data = files.read_at(file.fileno(), min(int(span["size"]), MAX_FILE_BYTES + 1), int(span["offset"]))
            return Content(data, int(span["size"]), os.fstat(file.fileno()).st_mtime_ns)


@dataclasses.dataclass(frozen=True)
class Zip:
    """Members of a zip archive, stored or deflated.

    zipfile would read the whole directory of the archive in each process; the listing has what is needed.
    """

    file: str

    def read(self, path: str, span: np.void) -> Content:
        offset, size = int(span["offset"]), int(span["size"])
        limit = min(size, MAX_FILE_BYTES) + 1  # What is longer than its directory says is damaged, or a bomb.
        with open(self.file, "rb") as file:
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            header = files.read_at(file.fileno(), _ZIP_HEADER.size, offset)
            if len(header) < _ZIP_HEADER.size or not header.startswith(_ZIP_SIGNATURE):
                raise ReadError("damaged archive: no member where its directory says")
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


@dataclasses.dataclass(frozen=True)
class PixelCsv:
    """Rows of pixel values in CSV files of one directory, each read as a PNG."""

    root: str
    headers: dict[str, pixel_csv.Header]  # By file name.

    def read(self, path: str, span: np.void) -> Content:
        name = path.rpartition(":")[0]
        with open(os.path.join(self.root, name), "rb") as file:
            line = files.read_at(file.fileno(), int(span["stored"]), int(span["offset"]))
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
        try:
            return Content(pixel_csv.to_png(line, self.headers[name]), int(span["size"]), mtime_ns)
        except ValueError as error:
            raise ReadError(str(error)) from error


def _read_up_to(descriptor: int, limit: int) -> bytes:
    """Reads to the end of a file, or `limit` bytes; in one call of the system where it gives all at once."""
    data = os.read(descriptor, limit)
    while len(data) < limit and (more := os.read(descriptor, limit - len(data))):
        data += more
    return data


def check_exists(src: str) -> None:
    """Raises UserError if there is nothing at `src`; a URL is not looked up."""
    if not files.is_url(src) and not os.path.exists(src):
        raise UserError(
            f"--src={src}: no such file or directory. A directory of images, an archive, or a manifest is expected."
        )


def list_store(src: str, strict: bool = True, zip_encoding: str | None = None) -> Listing:
    """Lists the images of a directory, an archive, or a CSV of pixels (or a directory of nothing but these).

    Hidden files and directories, `Thumbs.db` and `__MACOSX` are passed over; links are followed in directories.

    Args:
        src: Where it lies.
        strict: A directory below it that cannot be listed is an error; else it is among the rejected.
        zip_encoding: Encoding of the names in an archive that does not say it.

    Raises:
        UserError: There is no such thing, or it is none of these.
    """
    if os.path.isdir(src):
        if names := pixel_csv.files_in(src, [entry.name for entry in _entries(src, "")]):
            return _list_csvs(src, names)
        return _list_directory(src, strict)
    check_exists(src)
    if pixel_csv.is_one(src):
        return _list_csvs(os.path.dirname(src), [os.path.basename(src)])
    try:
        archive = tarfile.open(src, "r:", encoding=zip_encoding or "utf-8")  # noqa: SIM115  Closed below.
    except tarfile.TarError as error:
        if not zipfile.is_zipfile(src):  # Asked second: it would also take a tar for one, of which a member is a zip.
            raise UserError(f"--src={src}: {_why_not(src, error)}") from error
        return _list_zip(src, zip_encoding)
    with archive:
        return _list_tar(src, archive)


def stat_files(root: str, paths: list[str]) -> Listing:
    """Lists given files of a directory, without walking through it; those that are not there are rejected."""
    found = _Found()
    for path in paths:
        try:
            found.add(path, os.stat(os.path.join(root, path)))
        except OSError as error:
            found.reject(path, f"named by the manifest, but cannot be found: {error.strerror}")
        except ValueError as error:
            found.reject(path, f"named by the manifest, but no name of a file: {error}")
    return found.listing(Directory(root))


class _Found:
    """Columns that fill up during a listing; compact, since there may be many millions of rows."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.sizes = array("q")
        self.mtimes_ns = array("q")
        self.rejected: list[Rejected] = []

    def add(self, path: str, status: os.stat_result) -> None:
        if not is_utf8(path):
            self.reject(path, "the name is not valid UTF-8: rename it")
        elif not stat.S_ISREG(status.st_mode):
            is_directory = stat.S_ISDIR(status.st_mode)
            self.reject(path, "a directory, no file" if is_directory else "neither a file nor a directory")
        else:
            self.paths.append(path)
            self.sizes.append(status.st_size)
            self.mtimes_ns.append(status.st_mtime_ns)

    def reject(self, path: str, reason: str) -> None:
        self.rejected.append(Rejected(path=printable(path), reason=reason))

    def listing(self, store: Store) -> Listing:
        return Listing(
            store=store,
            paths=self.paths,
            spans=np.broadcast_to(np.zeros(1, SPAN), len(self.paths)),
            sizes=np.array(self.sizes, np.int64),
            mtimes_ns=np.array(self.mtimes_ns, np.int64),
            rejected=self.rejected,
        )


def _list_directory(root: str, strict: bool) -> Listing:
    found = _Found()
    _walk(root, "", frozenset(), found, strict)
    return found.listing(Directory(root))


def _walk(root: str, directory: str, ancestors: frozenset[tuple[int, int]], found: _Found, strict: bool) -> None:
    """Finds the files below `directory`, in the order of the sorted names."""
    status = os.stat(os.path.join(root, directory))
    identity = status.st_dev, status.st_ino
    if identity in ancestors:
        found.reject(directory, "a link to a directory that contains it")
        return
    try:
        entries = _entries(root, directory)
    except UserError as error:
        if strict or not directory:
            raise
        found.reject(directory, f"cannot be listed: {getattr(error.__cause__, 'strerror', error)}")
        return
    for entry in entries:
        path = f"{directory}/{entry.name}" if directory else entry.name
        try:
            status = entry.stat()
        except OSError as error:  # A dangling or looping link.
            found.reject(path, f"cannot be followed: {error.strerror}")
            continue
        if stat.S_ISDIR(status.st_mode):
            _walk(root, path, ancestors | {identity}, found, strict)
        else:
            found.add(path, status)


def _entries(root: str, directory: str) -> list[os.DirEntry[str]]:
    """The entries of a directory sorted by name, without hidden ones and system litter."""
    path = os.path.join(root, directory)
    try:
        with os.scandir(path) as entries:
            kept = [entry for entry in entries if not is_litter(entry.name)]
    except OSError as error:
        raise UserError(
            f"{printable(path)}: cannot be listed: {error.strerror}. Make it readable or move it away."
        ) from error
    return sorted(kept, key=lambda entry: entry.name)


def _list_zip(file: str, encoding: str | None) -> Listing:
    rejected = []
    spans: dict[str, tuple[int, int, int, int]] = {}
    for member in _zip_members(file):
        name = _zip_name(file, member, encoding)
        path = _member_path(name)
        if name.endswith("/") or not path:
            continue
        if member.flag_bits & _ENCRYPTED:
            rejected.append(Rejected(path=path, reason="encrypted: unpack the archive first"))
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            rejected.append(Rejected(path=path, reason="an unusual compression of zip: unpack the archive first"))
        elif stat.S_ISLNK(member.external_attr >> 16):
            rejected.append(Rejected(path=path, reason=_NO_FILE))
        else:
            spans[path] = (member.header_offset, member.compress_size, member.file_size, member.CRC)
    return _archive_listing(Zip(file), file, spans, rejected)


def _zip_name(file: str, member: zipfile.ZipInfo, encoding: str | None) -> str:
    """Decode a member's name, which zipfile takes for code page 437 where the archive does not say that it is UTF-8.

    Raises:
        UserError: The archive does not say the encoding, and the name is not UTF-8 either.
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
                f"--zip_encoding={encoding}: the name {name!r} in {file} is not in this encoding ({error.reason})."
                f" {_readings(name)}"
            ) from None
        raise UserError(
            f"--src={file}: the archive does not say in which encoding its names are, and {name!r} is not UTF-8. Pass"
            f" --zip_encoding=NAME. {_readings(name)}"
        ) from None


def _readings(name: bytes) -> str:
    """Show how a name reads in the encodings that old archives are in."""
    shown = []
    for encoding in ("cp949", "cp932", "gbk", "big5", "cp1251", "cp850", "cp437"):
        with contextlib.suppress(UnicodeDecodeError):
            shown.append(f"{encoding} {name.decode(encoding)!r}")
    return f"It reads as: {', '.join(shown)}."


def _zip_members(file: str) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # Such as a name that is no UTF-8.
        raise UserError(f"--src={file}: a damaged zip archive: {error}. {_WITHOUT_IT}") from error


def _list_tar(file: str, archive: tarfile.TarFile) -> Listing:
    rejected = []
    spans: dict[str, tuple[int, int, int, int]] = {}
    for member in _tar_members(file, archive):
        path = _member_path(member.name)
        if member.isdir() or not path:
            continue
        if not is_utf8(path):
            rejected.append(Rejected(path=printable(path), reason="the name is not valid UTF-8: rename it"))
        elif not member.isreg():
            rejected.append(Rejected(path=path, reason=_NO_FILE))
        elif member.issparse():
            rejected.append(Rejected(path=path, reason="stored with holes: unpack the archive first"))
        else:
            spans[path] = (member.offset_data, member.size, member.size, 0)
    return _archive_listing(Tar(file), file, spans, rejected)


def _tar_members(file: str, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields all members; tarfile alone would end at a damaged header as if the archive ended there.

    Raises:
        UserError: The archive is damaged or was cut off.
    """
    try:
        for member in archive:
            vars(archive)["members"] = []  # Else it keeps them all, a kilobyte each.
            yield member
    except tarfile.TarError as error:
        raise UserError(f"--src={file}: a damaged tar archive: {error}. {_WITHOUT_IT}") from error
    with open(file, "rb") as opened:
        if files.read_at(opened.fileno(), tarfile.BLOCKSIZE, archive.offset) != bytes(tarfile.BLOCKSIZE):
            raise UserError(
                f"--src={file}: a damaged tar archive: neither a member nor the end of the archive at byte"
                f" {archive.offset:,}. {_WITHOUT_IT}"
            )


def _archive_listing(
    store: Store, file: str, spans: dict[str, tuple[int, int, int, int]], rejected: list[Rejected]
) -> Listing:
    """Sorts the members; a directory that contains everything is left out of the paths, unless it is a split."""
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


def _list_csvs(root: str, names: list[str]) -> Listing:
    paths: list[str] = []
    labels: list[str] = []
    offsets, lengths, mtimes = array("q"), array("q"), array("q")
    headers = {name: _csv_header(os.path.join(root, name)) for name in names}
    for name in (name for name in names if headers[name].label is not None):
        with open(os.path.join(root, name), "rb") as file:
            file.readline()
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            for row in pixel_csv.rows(file, headers[name]):
                paths.append(f"{name}:{row.line}")
                labels.append(row.label)
                offsets.append(row.offset)
                lengths.append(row.length)
                mtimes.append(mtime_ns)
    if not paths:
        raise UserError(f"{os.path.join(root, names[0])}: {_why_no_pixels(list(headers.values()))}")
    spans = np.zeros(len(paths), SPAN)
    spans["offset"], spans["stored"], spans["size"] = offsets, lengths, lengths
    return Listing(
        store=PixelCsv(root, headers),
        paths=paths,
        spans=spans,
        sizes=np.array(lengths, np.int64),
        mtimes_ns=np.array(mtimes, np.int64),
        rejected=[],
        labels=labels,
        notes=tuple(_csv_notes(root, headers)),
    )


def _csv_header(path: str) -> pixel_csv.Header:
    with open(path, "rb") as file:
        try:
            return pixel_csv.read_header(file)
        except ValueError as error:
            raise UserError(f"{path}: {error}.") from error


def _why_no_pixels(headers: list[pixel_csv.Header]) -> str:
    if any(header.label is not None for header in headers):
        return "a CSV of pixels without a line behind its header."
    return "a CSV of pixels without class names. A column named label is expected beside the pixels."


def _csv_notes(root: str, headers: dict[str, pixel_csv.Header]) -> Iterator[str]:
    """Say which shape was guessed, and which files have no class names."""
    counted = {header.shape: header.size for header in headers.values() if header.counted and header.label is not None}
    for (height, width, channels), size in counted.items():
        color = "grey" if channels == 1 else "RGB, the three values of a pixel side by side"
        yield f"{size:,} pixel columns are read as {height} x {width} pixels in {color}"
    for name in (name for name, header in headers.items() if header.label is None):
        with open(os.path.join(root, name), "rb") as file:
            lines = sum(1 for line in file if line.strip()) - 1
        yield f"{name}: {lines:,} lines are left out, since they have no column of class names"


def _why_not(src: str, error: Exception) -> str:
    with open(src, "rb") as file:
        start = file.read(16)
    for signature, command in _COMPRESSED.items():
        if start.startswith(signature):
            return (
                f"a compressed file, of which nothing can be read at random. Run `{command} {shlex.quote(src)}` first."
            )
    if start.startswith(_ZIP_SIGNATURE):
        return f"a zip archive that was cut off: its directory, which is at the end, is missing. {_WITHOUT_IT}"
    return (
        f"neither a directory, nor a zip or tar archive ({error}), nor a CSV of pixels (header label,1x1,1x2,…)."
        f" It starts with {start!r}."
    )


def _member_path(name: str) -> str:
    """A member's path without `./`; "" if it is hidden or litter."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "" if any(map(is_litter, parts)) else "/".join(parts)


def is_litter(name: str) -> bool:
    """Whether a file or directory of this name is passed over."""
    return name.startswith(".") or name.lower() in IGNORED


def is_utf8(name: str) -> bool:
    """Whether a name as the system gives it was valid UTF-8."""
    return name.isascii() or not any("\ud800" <= c <= "\udfff" for c in name)


def printable(name: str) -> str:
    """A name that can be printed and stored: bytes that are not UTF-8 appear as `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
