"""Images to predict the classes of: files, records of a dataset, or records of another tool."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.foreign import encoded_images
from tfrecord_tools.foreign.encoded_images import ImageRecords
from tfrecord_tools.layout import dataset_files
from tfrecord_tools.records import Dataset, Records, open_dataset
from trainers.models.model_file import ModelInfo
from trainers.results import image_files, predictions
from trainers.results.image_files import Judged
from trainers.results.predictions import Predictions
from trainers.results.sources import Found, MemorySource
from trainers.results.views import Predictor

DEFAULT_SPLIT = "test"


class PredictSet(Protocol):
    """Images to predict the classes of.

    Attributes:
        notes: Lines for the user on how the images were found.
    """

    @property
    def notes(self) -> Sequence[str]: ...

    def judge(self, predictor: Predictor, info: ModelInfo) -> Iterator[Judged]:
        """Predict the classes of the images, a batch at a time, in their order.

        The numbers are those of the records. Files have the position of the argument that names them.

        Raises:
            UserError: Too many records of a dataset are corrupt.
        """


@dataclasses.dataclass(frozen=True)
class FileSet:
    """Image files and images in memory. See `PredictSet`."""

    found: Found
    notes: Sequence[str] = ()

    def judge(self, predictor: Predictor, info: ModelInfo) -> Iterator[Judged]:
        yield _unreadable(info, self.found.unreadable)
        for part in image_files.judge(predictor, info, self.found.sources):
            yield dataclasses.replace(part, numbers=self.found.numbers[part.numbers])


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """The records of a split of a dataset. See `PredictSet`.

    Attributes:
        data: The dataset.
        records: The records.
        notes: As in `PredictSet`.
    """

    data: Dataset
    records: Records
    notes: Sequence[str] = ()

    def judge(self, predictor: Predictor, info: ModelInfo) -> Iterator[Judged]:
        records, names = self.records, self.data.class_names
        paths, sha256 = records.paths, records.source_sha256
        # The classes of the dataset may have names that the model does not know.
        label_of = {name: label for label, name in enumerate(info.classes)}
        labels_of = np.array([label_of.get(name, -1) for name in names], np.int64)
        known = bool((labels_of[records.labels] >= 0).all())
        for probabilities, numbers in predictions.probabilities_of_records(predictor, info, records):
            labels = records.labels[numbers]
            yield Judged(
                predictions=Predictions(
                    classes=info.classes,
                    probabilities=probabilities,
                    predicted=predictions.decide(probabilities, info.threshold),
                    paths=[paths[i] for i in numbers.tolist()],
                    labels=labels_of[labels] if known else None,
                    given=None if known else [names[label] for label in labels.tolist()],
                    records=records.rows[numbers],
                    sha256=sha256[numbers],
                    tta=predictor.tta,
                ),
                numbers=records.rows[numbers],
            )
        yield _unreadable(info, {paths[number]: text for number, text in records.corrupt.items()})


@dataclasses.dataclass(frozen=True)
class ForeignSet:
    """The records of files that another tool wrote. See `PredictSet`."""

    images: ImageRecords

    @property
    def notes(self) -> Sequence[str]:
        return self.images.notes

    def judge(self, predictor: Predictor, info: ModelInfo) -> Iterator[Judged]:
        damage: list[str] = []
        read = self.images.read(damage.append)
        sources = (MemorySource(path=image.path, data=image.data, reason=image.reason) for image in read)
        for part in image_files.judge(predictor, info, sources):
            yield dataclasses.replace(part, predictions=dataclasses.replace(part.predictions, records=part.numbers))
        parts = (message.rpartition(": ") for message in damage)
        yield _unreadable(info, {place: reason for place, _, reason in parts})


def of_tfrecords(
    tfrecords: str,
    split: str | None,
    image_key: str | None,
    cache_dir: str | None = None,
    cache_bytes: int | None = None,
) -> PredictSet:
    """Open a split of a dataset, or TFRecords of another tool.

    Args:
        tfrecords: A dataset directory, or the URL of a dataset in a bucket; or a TFRecord file, a directory of such
            files, or a shell pattern.
        split: Name of the split of a dataset; None: `DEFAULT_SPLIT`.
        image_key: Feature with the image in TFRecords of another tool; None: it is guessed.
        cache_dir: As in `records.open_dataset`.
        cache_bytes: As in `records.open_dataset`.

    Raises:
        UserError: There are no such records, or the split does not exist or has no images.
    """
    is_dataset = files.is_url(tfrecords) or os.path.isfile(os.path.join(tfrecords, dataset_files.CONVERT_JSON))
    if is_dataset and image_key:
        raise UserError(f"--image_key={image_key}: only TFRecords of other tools need it. Remove the flag.")
    if is_dataset or dataset_files.partial_of(Path(tfrecords)).exists():
        data = open_dataset(tfrecords, cache_dir=cache_dir, cache_bytes=cache_bytes)
        split = split or DEFAULT_SPLIT
        if split not in data.splits:
            raise UserError(
                f"{data.location}: split {split!r} does not exist. Splits: {', '.join(data.splits)}. Pass one of"
                " these splits as --split. A dataset contains only images with labels. To classify other images, pass"
                " their files, or the TFRecords that contain them."
            )
        return RecordSet(data, predictions.records_of(data, split))
    if split:
        raise UserError(
            f"--split={split}: only a dataset has splits, and --tfrecords={tfrecords} is not a dataset. Remove --split,"
            " and pass the files of the split as --tfrecords."
        )
    return ForeignSet(encoded_images.find("tfrecords", tfrecords, image_key))


def _unreadable(info: ModelInfo, unreadable: Mapping[str, str]) -> Judged:
    """Return a result that has only unreadable files."""
    none = Predictions(
        classes=info.classes,
        probabilities=np.zeros((0, len(info.classes)), np.float32),
        predicted=np.zeros(0, np.int64),
        paths=[],
    )
    return Judged(predictions=none, numbers=np.zeros(0, np.int64), unreadable=unreadable)
