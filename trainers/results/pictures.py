"""Read the model's inputs for some predictions again, to show these images in a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tfrecord_tools.records import Records
from trainers.models.model_file import ModelInfo
from trainers.results import image_files
from trainers.results.image_files import Unreadable
from trainers.results.predictions import Predictions
from trainers.results.sources import Source

# Indices of predictions -> the model's input u8[h w 3] for each; None if it cannot be read any more.
Pictures = Callable[[Sequence[int]], list[np.ndarray | None]]


def of_records(info: ModelInfo, records: Records, predicted: Predictions) -> Pictures:
    """Return the pictures of predictions for records."""
    from tfrecord_tools import dataset  # Here, since it imports TensorFlow.

    fetch = dataset.fetch_decoded(records, info.geometry)
    rows = np.asarray(predicted.records)

    def pictures(numbers: Sequence[int]) -> list[np.ndarray | None]:
        splits, own = records.places
        position_of = {place: position for position, place in enumerate(zip(splits, own.tolist()))}
        names = [records.split if predicted.splits is None else predicted.splits[number] for number in numbers]
        places = zip(names, rows[list(numbers)].tolist())
        images = np.empty((len(numbers), *info.geometry.shape), np.uint8)
        valid = fetch(np.array([position_of[place] for place in places], np.int64), images)
        return [image if is_valid else None for image, is_valid in zip(images, valid.tolist())]

    return pictures


def of_sources(info: ModelInfo, sources: Sequence[Source]) -> Pictures:
    """Return the pictures of predictions for image files; `sources` has a file for each prediction."""

    def picture(source: Source) -> np.ndarray | None:
        pixels = image_files.read_pixels(source, info)
        return None if isinstance(pixels, Unreadable) else pixels

    return lambda numbers: [picture(sources[number]) for number in numbers]
