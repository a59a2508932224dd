"""Files on disk as a classifier sees them: each first becomes what the converter would have stored of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfrecord_tools.decoding import decoder
from tfrecord_tools.errors import UndecodableImage, UserError
from tfrecord_tools.images import jpeg, preparation
from tfrecord_tools.sources import stores
from tfrecord_tools.sources.base import Listing, ReadError, printable
from tfrecord_tools.sources.directory import stat_files
from trainers.models.model_file import ModelInfo
from trainers.results import predictions
from trainers.results.predictions import Predictions

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_READ_AT_ONCE = 8  # Files: fewer calls of Python from the pipeline, and not yet a wait for the first.
_NO_IMAGE = ("not an image", "empty file")  # How the reasons of `images.BadImage` begin that speak of no image.
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
    """A file that is to be judged; small, since there may be millions.

    Attributes:
        path: As it is shown.
        listing: What it is found by.
        number: Of it there.
        named: Whether the file itself was named, and not a directory above it.
    """

    path: str
    listing: Listing
    number: int
    named: bool = False

    def read(self) -> bytes:
        """Reads it.

        Raises:
            OSError, ReadError: It cannot be read.
        """
        return self.listing.store.read(self.listing.paths[self.number], self.listing.spans[self.number]).data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What was named on the command line.

    Attributes:
        sources: In its order; within directories sorted, none twice.
        unreadable: Path -> reason, of what cannot be an image; more comes when they are read.
        skipped: Path -> reason, of files below directories that neither are images nor have the name of one, such as
            notes.txt; filled when they are read.
    """

    sources: Sequence[Source]
    unreadable: dict[str, str]
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)

    def leave_out(self, source: Source, reason: str) -> None:
        """Notes that a file is no sound image."""
        other = reason.startswith(_NO_IMAGE) and Path(source.path).suffix.lower() not in _SUFFIXES
        (self.skipped if other and not source.named else self.unreadable)[source.path] = reason


def find(arguments: Sequence[str]) -> Found:
    """Finds the files that are named, and all files below the directories that are, hidden ones passed over.

    Raises:
        UserError: There is no such file, or there are none.
    """
    sources: dict[str, Source] = {}
    unreadable: dict[str, str] = {}
    for argument in arguments:
        if os.path.isdir(argument):
            root, listing = argument, stores.list_store(argument, strict=False)
        elif os.path.exists(argument):
            root, listing = "", stat_files("", [argument])
        else:
            raise UserError(f"{argument}: no such file or directory. Pass images, or directories of images.")
        for number, name in enumerate(listing.paths):
            path = _shown(root, name)
            sources.setdefault(path, Source(path=path, listing=listing, number=number, named=not root))
        unreadable |= {_shown(root, one.path): one.reason for one in listing.rejected}
    if not sources and not unreadable:
        raise UserError(f"{', '.join(arguments)}: no files there. Pass images, or directories of images.")
    return Found(sources=list(sources.values()), unreadable=unreadable)


def judge(model: keras.Model, info: ModelInfo, found: Found) -> Iterator[Predictions]:
    """Judges files, a batch at a time, in their order.

    Args:
        model: As of `model_file.load`.
        info: Likewise.
        found: What to judge; those that turn out to be no sound images are added to its `unreadable` and `skipped`,
            which are sorted at the end.
    """
    from trainers.models import inference  # Here, since it imports TensorFlow.

    predict = inference.compiled(model)
    for pixels, which in _batches(info, found):
        numbers = which.numpy().tolist()
        probabilities = predictions.both_classes(predict(pixels).numpy())
        yield Predictions(
            classes=info.classes,
            probabilities=probabilities,
            predicted=predictions.decide(probabilities, info.threshold),
            paths=[found.sources[number].path for number in numbers],
        )
    for reasons in (found.unreadable, found.skipped):
        in_order = sorted(reasons.items())  # Several threads have found them.
        reasons.clear()
        reasons.update(in_order)


def _shown(root: str, name: str) -> str:
    """A path that can be printed and written, the same however it was put."""
    return printable(os.path.normpath(os.path.join(root, name)))


def _batches(info: ModelInfo, found: Found) -> tf.data.Dataset:
    """Yields (pixels u8[b h w 3], numbers i64[b] of the sources); what cannot be decoded is left out."""
    import tensorflow as tf

    from tfrecord_tools import dataset

    config, shape = info.image_config(), (info.image_size, info.image_size, 3)
    unproven = dataclasses.replace(config, verify="header")

    def decode(source: Source) -> np.ndarray:
        data = source.read()
        # Most pass as they are: then decoding is the proof, too. What is changed is decoded for it, and so proven.
        plain = jpeg.plain_size(data) is not None and config.on_bad_image != "repair"
        made = preparation.prepare(data, unproven if plain else config).data
        if plain and made == data:
            pixels = decoder.decode_plain_jpeg(data, info.image_size, info.crop)
            if pixels is not None:
                return pixels
            made = preparation.prepare(data, config).data
        return decoder.decode(made if info.images else data, info.image_size, info.crop, info.raw_size)

    def read(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        decoded: dict[int, np.ndarray] = {}
        for number in numbers.tolist():
            source = found.sources[number]
            try:
                decoded[number] = decode(source)
            except (preparation.BadImage, ReadError) as error:
                found.leave_out(source, str(error))
            except UndecodableImage as error:
                found.unreadable[source.path] = f"sound for Pillow, and TensorFlow does not decode it: {error}"
            except OSError as error:
                found.unreadable[source.path] = error.strerror or str(error)
            except Exception as error:  # noqa: BLE001  One file must not take its neighbours with it.
                found.unreadable[source.path] = f"{type(error).__name__}: {error}"
        pixels = np.stack([*decoded.values()]) if decoded else np.zeros((0, *shape), np.uint8)
        return pixels, np.array([*decoded], np.int64)

    numbers = tf.data.Dataset.range(len(found.sources)).batch(_READ_AT_ONCE)
    data = dataset.map_python(numbers, read, (tf.uint8, tf.int64), shape)
    return data.rebatch(predictions.BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
