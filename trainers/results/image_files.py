"""Image files as input of a classifier, prepared as `convert` would prepare them."""

from __future__ import annotations

import dataclasses
import io
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tfrecord_tools.base import workers
from tfrecord_tools.base.files import StrPath, paths
from tfrecord_tools.decoding import decoder
from tfrecord_tools.errors import UndecodableImage, UserError
from tfrecord_tools.images import jpeg, preparation
from tfrecord_tools.sources import stores
from tfrecord_tools.sources.base import Content, Listing, ReadError, printable
from tfrecord_tools.sources.directory import stat_files
from trainers.models.model_file import ModelInfo
from trainers.results import predictions
from trainers.results.predictions import Predictions

if TYPE_CHECKING:
    import keras

_AHEAD = 2 * predictions.BATCH_SIZE  # Files that are read and decoded ahead, while the model computes.
_MOST_FILES = 1024  # At most this many files per batch, so that progress in a directory without images is visible.
_NO_IMAGE = ("not an image", "empty file")  # The reasons of `preparation.BadImage` for other files begin so.
# fmt: off
_SUFFIXES = frozenset(
    {
        ".apng", ".avif", ".bmp", ".dcm", ".dib", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe",
        ".jpeg", ".jpg", ".jxl", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".svg", ".tga", ".tif",
        ".tiff", ".webp", ".split",
    }
)
# fmt: on


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file to predict the class of; small, since there may be millions.

    Attributes:
        path: Path, as it is shown to the user.
        listing: The listing that holds the file.
        number: Position of the file in the listing.
        named: Whether the user named the file itself, and not a directory above it.
    """

    path: str
    listing: Listing
    number: int
    named: bool = False

    def read(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            OSError, ReadError: The file cannot be read.
        """
        return self.listing.store.read(self.listing.paths[self.number], self.listing.spans[self.number]).data


Pixels = np.ndarray  # u8[h w 3]
OneImage = StrPath | np.ndarray | Image.Image
Images = OneImage | Sequence[OneImage]


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """The result for a file that cannot be decoded, with the reason in words."""

    reason: str

    @property
    def may_be_image(self) -> bool:
        """Whether the file could be an image, judged by its content."""
        return not self.reason.startswith(_NO_IMAGE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The files that the command line names.

    Attributes:
        sources: The files, in the order of the command line; sorted within directories, each file once.
        unreadable: Path -> reason, for directories that cannot be listed and files that cannot be images.
    """

    sources: Sequence[Source]
    unreadable: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """The results for some files.

    Attributes:
        predictions: The predictions for the images.
        unreadable: Path -> reason, for images that cannot be decoded, and for other files that the user named.
        skipped: Path -> reason, for files within directories that are not images, such as notes.txt.
    """

    predictions: Predictions
    unreadable: Mapping[str, str]
    skipped: Mapping[str, str]


def find(arguments: Sequence[str]) -> Found:
    """Find the named files, and all files below the named directories except hidden ones.

    Raises:
        UserError: A file does not exist, or there are no files.
    """
    sources: dict[str, Source] = {}
    unreadable: dict[str, str] = {}
    for argument in arguments:
        if os.path.isdir(argument):
            root, listing = argument, stores.list_store(argument, strict=False)
        elif os.path.exists(argument):
            root, listing = "", stat_files("", [argument])
        else:
            raise UserError(f"{argument}: does not exist. Pass images, or directories of images.")
        for number, name in enumerate(listing.paths):
            path = _shown(root, name)
            sources.setdefault(path, Source(path=path, listing=listing, number=number, named=not root))
        unreadable |= {_shown(root, rejected.path): rejected.reason for rejected in listing.rejected}
    if not sources and not unreadable:
        raise UserError(f"{', '.join(arguments)}: contains no files. Pass images, or directories of images.")
    return Found(sources=list(sources.values()), unreadable=unreadable)


def of_images(images: Images) -> Found:
    """Return files, directories of files, and images in memory as sources.

    Args:
        images: A path, pixels u8[h w 3] or u8[h w], an image of Pillow, or a sequence of these.

    Raises:
        UserError: A file does not exist, or pixels have another type or shape.
    """
    single = isinstance(images, (str, os.PathLike, Image.Image)) or getattr(images, "ndim", 4) < 4
    given: Sequence[Any] = [images] if single else list(images)  # type: ignore[arg-type]
    if not given:
        raise UserError("no images given. Pass paths of images, pixels u8[h w 3], or images of Pillow.")
    sources: list[Source] = []
    unreadable: dict[str, str] = {}
    for number, image in enumerate(given):
        if isinstance(image, (str, os.PathLike)):
            found = find([paths(image=image)["image"]])
            sources += found.sources
            unreadable |= found.unreadable
        else:
            sources.append(_in_memory(image, f"image {number}"))
    return Found(sources=sources, unreadable=unreadable)


@dataclasses.dataclass(frozen=True)
class _Memory:
    """A store of one file in memory."""

    data: bytes

    def read(self, path: str, span: np.void) -> Content:
        return Content(self.data, len(self.data), 0)


def _in_memory(image: Any, name: str) -> Source:
    """Return an image as a PNG file in memory, so that it is prepared as any other file."""
    pixels = image if isinstance(image, Image.Image) else np.asarray(image)
    if isinstance(pixels, np.ndarray):
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
            raise UserError(
                f"{name}: is {pixels.dtype}{list(pixels.shape)}, but pixels must be uint8 with the shape [height,"
                " width, 3], from 0 to 255. Convert them, or pass the path of the image."
            )
        pixels = Image.fromarray(pixels)
    file = io.BytesIO()
    pixels.save(file, "PNG", compress_level=1)
    empty = np.zeros(1, np.int64)
    listing = Listing(
        store=_Memory(file.getvalue()), paths=[name], spans=empty, sizes=empty, mtimes_ns=empty, rejected=[]
    )
    return Source(path=name, listing=listing, number=0, named=True)


def judge(model: keras.Model, info: ModelInfo, sources: Sequence[Source]) -> Iterator[Judged]:
    """Predict the classes of files, a batch at a time, in their order.

    Args:
        model: The model, as `model_file.load` returns it.
        info: The description of the model, as `model_file.load` returns it.
        sources: The files.
    """
    from trainers.models import inference  # Here, since it imports TensorFlow.

    predict = inference.compiled(model)
    for batch in _batches(sources, info):
        images = [(source.path, pixels) for source, pixels in batch if not isinstance(pixels, Unreadable)]
        failures = [(source, failure) for source, failure in batch if isinstance(failure, Unreadable)]
        skipped = {source.path: failure.reason for source, failure in failures if _is_other(source, failure)}
        probabilities = np.zeros((0, len(info.classes)), np.float32)
        if images:
            probabilities = predictions.both_classes(predict(np.stack([pixels for _, pixels in images])).numpy())
        yield Judged(
            predictions=Predictions(
                classes=info.classes,
                probabilities=probabilities,
                predicted=predictions.decide(probabilities, info.threshold),
                paths=[path for path, _ in images],
            ),
            unreadable={source.path: f.reason for source, f in failures if source.path not in skipped},
            skipped=skipped,
        )


def decode_file(data: bytes, info: ModelInfo) -> Pixels | Unreadable:
    """Decode a file to the input of a model, as the record of the file would be decoded."""
    try:
        return _decode(data, info)
    except preparation.BadImage as error:
        return Unreadable(str(error))
    except UndecodableImage as error:
        return Unreadable(f"valid for Pillow, but TensorFlow cannot decode it: {error}")


def _decode(data: bytes, info: ModelInfo) -> Pixels:
    config = info.image_config()
    # Most JPEGs are stored unchanged, so decoding them verifies them. `prepare` decodes, and verifies, all others.
    plain = jpeg.plain_size(data) is not None and config.on_bad_image != "repair"
    prepared = preparation.prepare(data, dataclasses.replace(config, verify="header") if plain else config).data
    if plain and prepared == data:
        pixels = decoder.decode_plain_jpeg(data, info.geometry)
        if pixels is not None:
            return pixels
        prepared = preparation.prepare(data, config).data
    return decoder.decode(prepared if info.images else data, info.geometry, raw_size=info.raw_size)


def _batches(sources: Sequence[Source], info: ModelInfo) -> Iterator[list[tuple[Source, Pixels | Unreadable]]]:
    """Yield the files with their results, in batches of `BATCH_SIZE` images or `_MOST_FILES` files."""
    batch: list[tuple[Source, Pixels | Unreadable]] = []
    images = 0
    for source, result in zip(sources, _read_ahead(sources, info), strict=True):
        batch.append((source, result))
        images += not isinstance(result, Unreadable)
        if images == predictions.BATCH_SIZE or len(batch) == _MOST_FILES:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _read_ahead(sources: Sequence[Source], info: ModelInfo) -> Iterator[Pixels | Unreadable]:
    """Yield the result for each file, in their order; threads read and decode some files ahead."""
    waiting: deque[Future[Pixels | Unreadable]] = deque()
    pool = ThreadPoolExecutor(workers.default_workers())
    try:
        for source in sources:
            waiting.append(pool.submit(_read, source, info))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # After Ctrl-C, files that wait are not decoded first.


def _read(source: Source, info: ModelInfo) -> Pixels | Unreadable:
    try:
        return decode_file(source.read(), info)
    except ReadError as error:
        return Unreadable(str(error))
    except OSError as error:
        return Unreadable(error.strerror or str(error))
    except Exception as error:  # noqa: BLE001  One file must not end the whole command.
        return Unreadable(f"{type(error).__name__}: {error}")


def _is_other(source: Source, failure: Unreadable) -> bool:
    """Return whether a file within a directory is not an image and is not named like one."""
    return not (failure.may_be_image or source.named) and Path(source.path).suffix.lower() not in _SUFFIXES


def _shown(root: str, name: str) -> str:
    """Return a path that can be printed and written, and that is the same for all spellings of it."""
    return printable(os.path.normpath(os.path.join(root, name)))
