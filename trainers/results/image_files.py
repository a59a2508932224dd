"""Classify image files. They are prepared as `convert` would prepare them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfrecord_tools.base import workers
from tfrecord_tools.decoding import decoder
from tfrecord_tools.errors import UndecodableImage
from tfrecord_tools.images import jpeg, preparation
from tfrecord_tools.sources.base import ReadError
from trainers.models.model_file import ModelInfo
from trainers.results import predictions
from trainers.results.predictions import Predictions
from trainers.results.sources import Source
from trainers.results.views import Predictor

_AHEAD = 2 * predictions.BATCH_SIZE  # Files that are read and decoded ahead, while the model computes.
_MOST_FILES = 1024  # At most this many files per batch, so that progress in a directory without images is visible.
_NO_IMAGE = ("not an image", "empty file")  # Reasons of `preparation.BadImage` begin so for other files.
# fmt: off
_SUFFIXES = frozenset(
    {
        ".apng", ".avif", ".bmp", ".dcm", ".dib", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe",
        ".jpeg", ".jpg", ".jxl", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".svg", ".tga", ".tif",
        ".tiff", ".webp", ".split",
    }
)
# fmt: on


Pixels = np.ndarray  # u8[h w 3]


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """The result for a file that cannot be decoded, with the reason in words."""

    reason: str

    @property
    def may_be_image(self) -> bool:
        """Whether the file could be an image, judged by its content."""
        return not self.reason.startswith(_NO_IMAGE)


class _Read(NamedTuple):
    """A file that was read: its number, its source, its pixels, and the SHA-256 of its bytes."""

    number: int
    source: Source
    result: Pixels | Unreadable
    sha256: bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """The results for some files.

    Attributes:
        predictions: The predictions for the images.
        numbers: i64[n], the position of each of these images among all files.
        unreadable: Path -> reason, for images that cannot be decoded, and for other files that the user named.
        skipped: Path -> reason, for files within directories that are not images, such as notes.txt.
    """

    predictions: Predictions
    numbers: np.ndarray
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)


def judge(predictor: Predictor, info: ModelInfo, sources: Iterable[Source]) -> Iterator[Judged]:
    """Predict the classes of files, a batch at a time, in their order.

    Args:
        predictor: The model, as `views.predictor` returns it.
        info: The description of the model, as `model_file.load` returns it.
        sources: The files. They are read in this order. Some are read ahead, while the model computes.
    """
    for batch in _batches(sources, info):
        results = [one.result for one in batch]
        images = [one for one in batch if not isinstance(one.result, Unreadable)]
        failures = [(one.source, one.result) for one in batch if isinstance(one.result, Unreadable)]
        skipped = {source.path: failure.reason for source, failure in failures if _is_other(source, failure)}
        probabilities = np.zeros((0, len(info.classes)), np.float32)
        if images:
            probabilities = predictor(np.stack([pixels for pixels in results if not isinstance(pixels, Unreadable)]))
        yield Judged(
            predictions=Predictions(
                classes=info.classes,
                probabilities=probabilities,
                predicted=predictions.decide(probabilities, info.threshold),
                paths=[one.source.path for one in images],
                sha256=np.frombuffer(b"".join(one.sha256 for one in images), np.uint8).reshape(-1, 32),
                tta=predictor.tta,
            ),
            numbers=np.array([one.number for one in images], np.int64),
            unreadable={source.path: f.reason for source, f in failures if source.path not in skipped},
            skipped=skipped,
        )


def decode_file(data: bytes, info: ModelInfo) -> Pixels | Unreadable:
    """Decode a file to the input of a model, exactly as a record of this file would be decoded."""
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
        pixels = np.empty(info.geometry.shape, np.uint8)
        if decoder.decode_plain_jpeg_into(pixels, data, info.geometry):
            return pixels
        prepared = preparation.prepare(data, config).data
    return decoder.decode(prepared if info.images else data, info.geometry, raw_size=info.raw_size)


def read_pixels(source: Source, info: ModelInfo) -> Pixels | Unreadable:
    """Read and decode a file to the input of a model."""
    return _read(0, source, info).result


def _batches(sources: Iterable[Source], info: ModelInfo) -> Iterator[list[_Read]]:
    """Yield the files with their results, in batches of `BATCH_SIZE` images or `_MOST_FILES` files."""
    batch: list[_Read] = []
    images = 0
    for one in _read_ahead(sources, info):
        batch.append(one)
        images += not isinstance(one.result, Unreadable)
        if images == predictions.BATCH_SIZE or len(batch) == _MOST_FILES:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _read_ahead(sources: Iterable[Source], info: ModelInfo) -> Iterator[_Read]:
    """Yield the files in their order; threads read and decode some files ahead."""
    threads = workers.default_workers()
    return workers.in_threads(lambda job: _read(*job, info), enumerate(sources), threads, _AHEAD)


def _read(number: int, source: Source, info: ModelInfo) -> _Read:
    data = b""
    result: Pixels | Unreadable
    try:
        data = source.read()
        result = decode_file(data, info)
    except ReadError as error:
        result = Unreadable(str(error))
    except OSError as error:
        result = Unreadable(error.strerror or str(error))
    except Exception as error:  # noqa: BLE001  One file must not end the whole command.
        result = Unreadable(f"{type(error).__name__}: {error}")
    return _Read(number, source, result, hashlib.sha256(data).digest())


def _is_other(source: Source, failure: Unreadable) -> bool:
    """Return whether a file within a directory is not an image and is not named like one."""
    return not (failure.may_be_image or source.named) and Path(source.path).suffix.lower() not in _SUFFIXES
