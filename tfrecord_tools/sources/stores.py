"""Open a directory, a zip or tar archive, or a CSV of pixels as a store, and list its images."""

from __future__ import annotations

import os
import shlex
import tarfile
import zipfile

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.sources import archives, file_sets, pixel_csv
from tfrecord_tools.sources.base import Listing
from tfrecord_tools.sources.directory import entries, list_directory
from tfrecord_tools.sources.pixel_csv_source import list_csvs

_COMPRESSED = {b"\x1f\x8b": "gunzip -k", b"BZh": "bunzip2 -k", b"\xfd7zXZ": "unxz -k", b"(\xb5/\xfd": "unzstd"}


def check_exists(src: str) -> None:
    """Raise a UserError if `src` is a path that does not exist, or a pattern that matches no file."""
    if not files.is_url(src) and file_sets.is_pattern(src):
        file_sets.check_matches(src)
    elif not files.is_url(src) and not os.path.exists(src):
        raise UserError(f"--src={src}: does not exist. Pass a directory of images, an archive, or a manifest.")


def list_store(src: str, strict: bool = True, zip_encoding: str | None = None) -> Listing:
    """List the images of a directory, an archive, or a CSV of pixels.

    A directory may also hold CSVs of pixels instead of images.

    Hidden files and directories, `Thumbs.db`, `desktop.ini` and `__MACOSX` are ignored. Links in directories are
    followed.

    Args:
        src: Path of the directory, the archive or the CSV.
        strict: If True, a subdirectory that cannot be listed raises a `UserError`. If False, it is rejected.
        zip_encoding: Encoding of the file names in an archive, if the archive does not say it. None: UTF-8.

    Raises:
        UserError: `src` does not exist, or is not a directory, an archive or a CSV of pixels.
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
        if not zipfile.is_zipfile(src):  # Checked second, since a tar archive that contains a zip also passes.
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
                f"images cannot be read from a compressed file. Run `{command} {shlex.quote(src)}` first, and pass the"
                " result."
            )
    if start.startswith(archives.ZIP_SIGNATURE):
        return f"the zip archive is incomplete: the list of files at its end is missing. {archives.REMEDY}"
    return (
        "must be a directory, a zip or tar archive, or a CSV of pixels (header label,1x1,1x2,…). The file begins with"
        f" {start!r} ({error})."
    )
