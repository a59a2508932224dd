"""Sources of images to classify: files, directories, images in memory, records of other tools."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import ExifTags, Image

from tfrecord_tools.base.files import StrPath, paths
from tfrecord_tools.errors import UserError, one_line, short
from tfrecord_tools.images import formats, preparation, recode
from tfrecord_tools.layout import dataset_files
from tfrecord_tools.sources import stores
from tfrecord_tools.sources.base import ReadError, Store, printable
from tfrecord_tools.sources.directory import stat_files

_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "I;16B", "P", "RGB", "RGBA"})
_NO_NUMBERS = "OSTU"  # Kinds of NumPy arrays: objects and texts.
_FORMS = (
    "paths of images, the bytes of image files, uint8 arrays of shape (height, width, 3), images of Pillow, or a list"
    " of these"
)


class Source(Protocol):
    """An image to predict the class of.

    Attributes:
        path: Path, as it is shown to the user.
        named: Whether the user named the image itself, and not a directory above it.
    """

    @property
    def path(self) -> str: ...

    @property
    def named(self) -> bool: ...

    def read(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            OSError, ReadError: The file cannot be read.
        """


class Listed(Protocol):
    """Files in a store, such as `sources.base.Listing` and `sources.scan.Sources`."""

    @property
    def store(self) -> Store: ...

    @property
    def paths(self) -> Sequence[str]: ...

    @property
    def spans(self) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FileSource:
    """A file; small, since there may be millions.

    Attributes:
        path, named: As in `Source`.
        listing: The listing that holds the file.
        number: Position of the file in the listing.
    """

    path: str
    listing: Listed
    number: int
    named: bool = False

    def read(self) -> bytes:
        """Return the bytes of the file; see `Source.read`."""
        return self.listing.store.read(self.listing.paths[self.number], self.listing.spans[self.number]).data


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MemorySource:
    """An image in memory.

    Attributes:
        path, named: As in `Source`.
        data: The bytes of the file.
        reason: Why the image cannot be read; "" if it can be read.
    """

    path: str
    data: bytes
    reason: str = ""
    named: bool = True

    def read(self) -> bytes:
        """Return the bytes of the file; see `Source.read`."""
        if self.reason:
            raise ReadError(self.reason)
        return self.data


OneImage = StrPath | bytes | BinaryIO | np.ndarray | Image.Image
Images = OneImage | Sequence[OneImage]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The files that the command line names.

    Attributes:
        sources: The files, in the order of the command line; sorted within directories, each file once.
        numbers: i64[sources], the position of the argument that names the file or a directory above it.
        unreadable: Path -> reason, for directories that cannot be listed and files that cannot be images.
    """

    sources: Sequence[Source]
    numbers: np.ndarray
    unreadable: Mapping[str, str]


def find(arguments: Sequence[str]) -> Found:
    """Find the named files, and all files below the named directories except hidden ones.

    Raises:
        UserError: A file does not exist, a directory is a dataset, or there are no files.
    """
    sources: dict[str, Source] = {}
    numbers: list[int] = []
    unreadable: dict[str, str] = {}
    for position, argument in enumerate(arguments):
        if os.path.isfile(os.path.join(argument, dataset_files.CONVERT_JSON)):
            raise UserError(f"{argument}: is a dataset, not a directory of images. Pass it as --tfrecords={argument}.")
        if os.path.isdir(argument):
            root, listing = argument, stores.list_store(argument, strict=False)
        elif os.path.exists(argument):
            root, listing = "", stat_files("", [argument])
        else:
            raise UserError(f"{argument}: does not exist. Pass images, or directories of images.")
        for number, name in enumerate(listing.paths):
            path = shown(root, name)
            if path not in sources:
                sources[path] = FileSource(path=path, listing=listing, number=number, named=not root)
                numbers.append(position)
        unreadable |= {shown(root, rejected.path): rejected.reason for rejected in listing.rejected}
    if not sources and not unreadable:
        raise UserError(f"{', '.join(arguments)}: contains no files. Pass images, or directories of images.")
    return Found(sources=list(sources.values()), numbers=np.array(numbers, np.int64), unreadable=unreadable)


def of_images(images: Images) -> Found:
    """Return files, directories of files, and images in memory as sources.

    Args:
        images: A path, the bytes of an image file, or a file that is open for reading; pixels u8[h w 3],
            u8[h w] or u8[h w 1]; an image of Pillow; or a sequence of these.

    Raises:
        UserError: A file does not exist, or pixels have another type or shape.
    """
    given = _listed(images)
    if not given:
        raise UserError(f"no images given. Pass {_FORMS}.")
    sources: list[Source] = []
    numbers: list[int] = []
    unreadable: dict[str, str] = {}
    for number, image in enumerate(given):
        if isinstance(image, (str, os.PathLike)):
            found = find([paths(image=image)["image"]])
            sources += found.sources
            unreadable |= found.unreadable
        else:
            sources.append(_in_memory(image, f"image {number}"))
        numbers += [number] * (len(sources) - len(numbers))
    return Found(sources=sources, numbers=np.array(numbers, np.int64), unreadable=unreadable)


def _listed(images: Any) -> list[Any]:
    """Return the items of a sequence, of a batch of pixels, or of an array or a column of paths or images."""
    if isinstance(images, (str, bytes, os.PathLike, Image.Image)) or hasattr(images, "read"):
        return [images]
    if getattr(images, "ndim", 4) >= 4:
        if not isinstance(images, Iterable):
            raise UserError(f"images={short(images)}: must be images. Pass {_FORMS}.")
        return list(images)
    array = np.asarray(images)  # A column of pandas, too.
    return np.atleast_1d(array).tolist() if array.dtype.kind in _NO_NUMBERS else [images]


def _in_memory(image: Any, name: str) -> Source:
    """Return an image as a file in memory, so that it is prepared like any other file."""
    if hasattr(image, "read"):
        image = _content(image, name)
    if isinstance(image, bytes):
        return MemorySource(path=name, data=image)
    if not isinstance(image, Image.Image):
        image = Image.fromarray(_pixels(image, name))
    try:
        with preparation.as_bad_image():
            data = _encoded(image)
    except preparation.BadImage as error:
        return MemorySource(path=name, data=b"", reason=str(error))
    return MemorySource(path=name, data=data)


def _content(file: Any, name: str) -> Any:
    """Read an open file to its end. The result is bytes, unless the file is not a binary file.

    Raises:
        UserError: The file is closed, or cannot be read for another reason.
    """
    try:
        return file.read()
    except (OSError, ValueError, TypeError) as error:  # TypeError: a class of files instead of a file.
        raise UserError(
            f"{name}: cannot be read: {one_line(error)}. Pass a file that is open for reading, as by open(path, 'rb'),"
            " or the path of the image."
        ) from error


def _pixels(image: Any, name: str) -> np.ndarray:
    """Return pixels as u8[h w 3] or u8[h w].

    Raises:
        UserError: The image has another type or shape.
    """
    try:
        pixels = np.asarray(image)
    except ValueError:  # Lists of different lengths.
        pixels = np.array(None)
    if pixels.dtype.kind in _NO_NUMBERS:
        raise UserError(f"{name}: is {type(image).__name__}, which is not an image. Pass {_FORMS}.")
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,)):
        raise UserError(
            f"{name}: is {pixels.dtype} of shape {pixels.shape}, but pixels must be uint8 of shape (height, width, 3),"
            " with values from 0 to 255. A gray image may have the shape (height, width). Convert the pixels, or pass"
            " the path of the image."
        )
    return pixels[..., 0] if pixels.shape[2:] == (1,) else pixels


def _encoded(image: Image.Image) -> bytes:
    """Encode an image without loss, with its EXIF orientation. `prepare` turns it if the model needs that."""
    image.load()  # Turns a TIFF upright, and reads an orientation that is stored after the pixels.
    orientation = preparation.orientation_of(image)
    image = formats.with_common_mode(image)
    file = io.BytesIO()
    if image.mode in ("I", "F"):  # Only a TIFF can hold these levels. `prepare` maps them to 0..255, or refuses them.
        Image.fromarray(np.asarray(image)).save(file, "TIFF")
        return file.getvalue()
    if image.mode.startswith("I;16") and image.mode not in _PNG_MODES:  # Another byte order.
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode not in _PNG_MODES:
        image = recode.plain(image)
    more = {}
    if orientation != 1:
        more["exif"] = Image.Exif()
        more["exif"][ExifTags.Base.Orientation] = orientation
    image.save(file, "PNG", compress_level=1, **more)
    return file.getvalue()


def shown(root: str, name: str) -> str:
    """Return a printable path. Different spellings of a path give the same result."""
    return printable(os.path.normpath(os.path.join(root, name)))
