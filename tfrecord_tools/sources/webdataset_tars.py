"""Read tar files as the library webdataset has them: members with the same key are a sample.

The key is the path of a member up to the first dot of its name. The rest is its extension. For example, 000.jpg,
000.cls and 000.json are the members jpg, cls and json of the sample 000.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.sources import any_files, archives, manifest
from tfrecord_tools.sources.base import Content, ReadError, is_litter, is_utf8
from tfrecord_tools.sources.folder_names import IMAGE_ENDINGS

MEMBER = np.dtype([("file", "<i4"), ("offset", "<i8"), ("size", "<i8")])
LABELS = ("cls", "cls.txt", "class", "class.txt")  # Extensions of members with a label.
TEXTS = ("json", *LABELS)
ENDING = ".tar"
_PROBED_MEMBERS = 64
_MAX_TEXT_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Tars:
    """A store: the images in tar files of one directory."""

    root: str
    files: tuple[str, ...]

    def read(self, path: str, span: np.void) -> Content:
        """Read an image.

        Raises:
            OSError, ReadError: It cannot be read.
        """
        file, size = os.path.join(self.root, self.files[int(span["file"])]), int(span["size"])
        return Content(any_files.read_at(file, size, int(span["offset"])), size, any_files.status(file)[1])


@dataclasses.dataclass
class Sample:
    """The members of a sample.

    Attributes:
        key: The key.
        images: Extension -> (offset, size) of the images.
        texts: Extension -> text of the members in `TEXTS`.
        repeated: Extensions of members that occur more than once. Only the first one is used.
    """

    key: str
    images: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    repeated: list[str] = dataclasses.field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """Return the values of the JSON member.

        Raises:
            ReadError: It is not a JSON object.
        """
        if "json" not in self.texts:
            return {}
        try:
            fields = json.loads(self.texts["json"])
        except ValueError as error:
            raise ReadError(f"its member json is not valid: {error}") from error
        if not isinstance(fields, dict):
            raise ReadError("its member json is not an object with fields")
        return fields

    @property
    def label_member(self) -> str | None:
        """The text of the member with the label. None: there is no such member."""
        return next((self.texts[extension].strip() for extension in LABELS if extension in self.texts), None)


def has_samples(path: str) -> bool:
    """Whether a tar file contains samples of webdataset: images that have members with labels.

    If no label is in a member `cls`, the images must not be in directories, since these may be their classes. The first
    members decide.

    Raises:
        ReadError: The file is not a tar archive, is damaged, or cannot be opened.
    """
    try:
        with _opened(path) as archive:
            members = itertools.islice(_files(path, archive), _PROBED_MEMBERS)
            found = list(_grouped(archive, members).values())
    except (OSError, tarfile.TarError, UserError) as error:
        reason = str(error).removeprefix(f"--src={path}: ").removesuffix(archives.REMEDY)
        raise ReadError(reason.rstrip(". ")) from error
    return any(sample.images and _is_labeled(sample) for sample in found)


def _is_labeled(sample: Sample) -> bool:
    if sample.label_member is not None:
        return True
    with contextlib.suppress(ReadError):
        return "/" not in sample.key and any(map(manifest.may_be_label, sample.fields()))
    return False


def samples(path: str) -> list[Sample]:
    """Return the samples of a tar file, in the order of their first members.

    Raises:
        UserError: The archive is damaged or compressed.
    """
    try:
        with _opened(path) as archive:
            return list(_grouped(archive, _files(path, archive)).values())
    except tarfile.TarError as error:
        raise UserError(f"{path}: the tar archive is damaged: {error}. {archives.REMEDY}") from error


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tarfile.TarFile]:
    with any_files.open_binary(path) as file, tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
        yield archive


def _files(path: str, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members that are files, without hidden files and without metadata such as `__index__`."""
    for member in archives.members(path, archive):
        name = member.name.rpartition("/")[2]
        if member.isreg() and is_utf8(member.name) and not is_litter(name) and not name.startswith("__"):
            yield member


def _grouped(archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo]) -> dict[str, Sample]:
    """Return key -> sample. The texts are read, and the images are not."""
    grouped: dict[str, Sample] = {}
    for member in members:
        directory, slash, name = member.name.removeprefix("./").rpartition("/")
        stem, dot, extension = name.partition(".")
        if not dot or not stem:
            continue
        key, extension = f"{directory}{slash}{stem}", extension.lower()
        is_image = extension.rpartition(".")[2] in IMAGE_ENDINGS
        if not is_image and extension not in TEXTS:
            continue
        sample = grouped.setdefault(key, Sample(key))
        if extension in sample.images or extension in sample.texts:
            sample.repeated.append(extension)
        elif is_image:
            sample.images[extension] = (member.offset_data, member.size)
        elif member.size <= _MAX_TEXT_BYTES and (content := archive.extractfile(member)) is not None:
            sample.texts[extension] = content.read().decode("utf-8", "backslashreplace")
    return grouped
