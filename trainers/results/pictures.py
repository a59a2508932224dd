"""The input of the model for single predictions, to show them in a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tfrecord_tools.records import Records
from trainers.models.model_file import ModelInfo
from trainers.results import image_files
from trainers.results.image_files import Unreadable
from trainers.results.predictions import Predictions
from trainers.results.sources import Source

# Indices of predictions -> the input u8[h w 3] of the model for each. None: it cannot be read any more.
Pictures = Callable[[Sequence[int]], list[np.ndarray | None]]


def of_records(info: ModelInfo, records: Records, predicted: Predictions) -> Pictures:
    """Return the pictures of predictions for records."""
    from tfrecord_tools import dataset  # Here, since it imports TensorFlow.

    fetch = dataset.fetch_decoded(records, info.geometry)
    rows = np.asarray(predicted.records)

    def pictures(numbers: Sequence[int]) -> list[np.ndarray | None]:
        position_of = {row: position for position, row in enumerate(records.rows.tolist())}
        return [fetch(position_of[row]) for row in rows[list(numbers)].tolist()]

    return pictures


def of_sources(info: ModelInfo, sources: Sequence[Source]) -> Pictures:
    """Return the pictures of predictions for image files; `sources` has a file for each prediction."""

    def picture(source: Source) -> np.ndarray | None:
        pixels = image_files.read_pixels(source, info)
        return None if isinstance(pixels, Unreadable) else pixels

    return lambda numbers: [picture(sources[number]) for number in numbers]
