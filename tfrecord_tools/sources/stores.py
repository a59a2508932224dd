"""Where images lie: a directory, a zip or tar archive, a CSV of pixels. Listed once, then read at random."""

from __future__ import annotations

import os
import shlex
import tarfile
import zipfile

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.sources import archives, pixel_csv
from tfrecord_tools.sources.base import Listing
from tfrecord_tools.sources.directory import entries, list_directory
from tfrecord_tools.sources.pixel_csv_source import list_csvs

_COMPRESSED = {b"\x1f\x8b": "gunzip -k", b"BZh": "bunzip2 -k", b"\xfd7zXZ": "unxz -k", b"(\xb5/\xfd": "unzstd"}


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
        if names := pixel_csv.files_in(src, [entry.name for entry in entries(src, "")]):
            return list_csvs(src, names)
        return list_directory(src, strict)
    check_exists(src)
    if pixel_csv.is_one(src):
        return list_csvs(os.path.dirname(src), [os.path.basename(src)])
    try:
        archive = tarfile.open(src, "r:", encoding=zip_encoding or "utf-8")  # noqa: SIM115  Closed below.
    except tarfile.TarError as error:
        if not zipfile.is_zipfile(src):  # Asked second: it would also take a tar for one, of which a member is a zip.
            raise UserError(f"--src={src}: {_why_not(src, error)}") from error
        return archives.list_zip(src, zip_encoding)
    with archive:
        return archives.list_tar(src, archive)


def _why_not(src: str, error: Exception) -> str:
    with open(src, "rb") as file:
        start = file.read(16)
    for signature, command in _COMPRESSED.items():
        if start.startswith(signature):
            return (
                f"a compressed file, of which nothing can be read at random. Run `{command} {shlex.quote(src)}` first."
            )
    if start.startswith(archives.ZIP_SIGNATURE):
        return f"a zip archive that was cut off: its directory, which is at the end, is missing. {archives.REMEDY}"
    return (
        f"neither a directory, nor a zip or tar archive ({error}), nor a CSV of pixels (header label,1x1,1x2,…)."
        f" It starts with {start!r}."
    )
