"""Files on disk as a classifier sees them: each first becomes what the converter would have stored of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfrecord_tools import images, stores
from tfrecord_tools.errors import UserError
from tfrecord_tools.stores import Listing
from trainers import predictions
from trainers.model_file import ModelInfo
from trainers.predictions import Predictions

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_READ_AT_ONCE = 8  # Files: fewer calls of Python from the pipeline, and not yet a wait for the first.
_READERS = 2  # Python runs in one thread at a time, but decoders and disks work beside it.


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file that is to be judged; small, since there may be millions.

    Attributes:
        path: As it is shown.
        listing: What it is found by.
        number: Of it there.
    """

    path: str
    listing: Listing
    number: int

    def read(self) -> bytes:
        """Reads it.

        Raises:
            OSError, stores.ReadError: It cannot be read.
        """
        return self.listing.store.read(self.listing.paths[self.number], self.listing.spans[self.number]).data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What was named on the command line.

    Attributes:
        sources: In its order; within directories sorted, none twice.
        unreadable: Path -> reason, of what cannot be an image; more comes when they are read.
    """

    sources: Sequence[Source]
    unreadable: dict[str, str]


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
            root, listing = "", stores.stat_files("", [argument])
        else:
            raise UserError(f"{argument}: no such file or directory. Pass images, or directories of images.")
        for number, name in enumerate(listing.paths):
            path = _shown(root, name)
            sources.setdefault(path, Source(path=path, listing=listing, number=number))
        unreadable |= {_shown(root, one.path): one.reason for one in listing.rejected}
    if not sources and not unreadable:
        raise UserError(f"{', '.join(arguments)}: no files there. Pass images, or directories of images.")
    return Found(sources=list(sources.values()), unreadable=unreadable)


def judge(model: keras.Model, info: ModelInfo, found: Found) -> Iterator[Predictions]:
    """Judges files, a batch at a time, in their order.

    Args:
        model: As of `model_file.load`.
        info: Likewise.
        found: What to judge; those that turn out to be no sound images are added to its `unreadable`, which is sorted
            at the end.
    """
    predict = predictions.compiled(model)
    missing = set(range(len(found.sources)))
    for pixels, which in _batches(info, found):
        numbers = which.numpy().tolist()
        missing.difference_update(numbers)
        probabilities = predictions.both_classes(predict(pixels).numpy())
        yield Predictions(
            classes=info.classes,
            probabilities=probabilities,
            predicted=predictions.decide(probabilities, info.threshold),
            paths=[found.sources[number].path for number in numbers],
        )
    for number in sorted(missing):
        found.unreadable.setdefault(found.sources[number].path, "sound for Pillow, and TensorFlow does not decode it")
    reasons = sorted(found.unreadable.items())  # Several threads have found them.
    found.unreadable.clear()
    found.unreadable.update(reasons)


def _shown(root: str, name: str) -> str:
    """A path that can be printed and written, the same however it was put."""
    return stores.printable(os.path.normpath(os.path.join(root, name)))


def _batches(info: ModelInfo, found: Found) -> tf.data.Dataset:
    """Yields (pixels u8[b h w 3], numbers i64[b] of the sources); what cannot be decoded is left out."""
    import tensorflow as tf

    from tfrecord_tools.pixels import decode_pixels

    config = info.image_config()

    def read(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        prepared: dict[int, bytes] = {}
        for number in numbers.tolist():
            source = found.sources[number]
            try:
                data = source.read()
                made = images.prepare(data, config).data  # Proves it sound, too.
                prepared[number] = made if info.images else data
            except (images.BadImage, stores.ReadError) as error:
                found.unreadable[source.path] = str(error)
            except OSError as error:
                found.unreadable[source.path] = error.strerror or str(error)
            except Exception as error:  # noqa: BLE001  One file must not take its neighbours with it.
                found.unreadable[source.path] = f"{type(error).__name__}: {error}"
        return np.array([*prepared.values()], object), np.array([*prepared], np.int64)

    def as_tensors(numbers: tf.Tensor) -> tuple[tf.Tensor, ...]:
        parts = tf.numpy_function(read, [numbers], (tf.string, tf.int64), stateful=False)
        for part in parts:
            part.set_shape([None])
        return tuple(parts)

    def decode(encoded: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return decode_pixels(encoded, info.image_size, info.crop, info.raw_size), number

    data = tf.data.Dataset.range(len(found.sources)).batch(_READ_AT_ONCE)
    data = data.map(as_tensors, num_parallel_calls=_READERS).unbatch()
    data = data.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.ignore_errors()  # Of single images here, each its own element.
    return data.batch(predictions.BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
