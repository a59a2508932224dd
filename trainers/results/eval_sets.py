"""Images with labels to evaluate a model on: a split of a dataset, or a folder that was not converted."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import dataset_files
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.records import Dataset, Records
from tfrecord_tools.sources.scan import ScanConfig, Sources, scan
from trainers.models.model_file import ModelInfo
from trainers.results import class_map, image_files, pictures, predictions, views
from trainers.results.class_map import ClassMatch
from trainers.results.pictures import Pictures
from trainers.results.predictions import Predictions
from trainers.results.sources import FileSource
from trainers.run_directory import Metrics

if TYPE_CHECKING:
    import keras

DEFAULT_SPLIT = "test"
_ALL = "all"  # In the name of the results of a folder without splits.
_KEY_DIGITS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The predictions for a set.

    Attributes:
        predicted: The predictions, with labels.
        pictures: The input of the model for each prediction.
        facts: The metrics that describe the set.
        unreadable: Path -> reason, sorted, for images of a folder that cannot be read.
        skipped: Path -> reason, sorted, for files of a folder that are not images.
    """

    predicted: Predictions
    pictures: Pictures
    facts: Metrics
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)


class EvalSet(Protocol):
    """Images with labels.

    Attributes:
        title: Description, such as "the test split of pets".
        name: Name of the directory with the results.
        match: The classes of the images, and the label of the model for each of them.
        notes: Lines for the user on how the images were found.
    """

    @property
    def title(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def match(self) -> ClassMatch: ...

    @property
    def notes(self) -> Sequence[str]: ...

    def note(self, info: ModelInfo) -> str:
        """Return a note that says what results on this set mean for new images."""

    def evaluate(self, model: keras.Model, info: ModelInfo, tta: Sequence[str]) -> Evaluated:
        """Predict the classes of the images.

        Raises:
            UserError: All images, or too many of them, cannot be read.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSet:
    """A split of a dataset. See `EvalSet` for the methods.

    Attributes:
        data: The dataset.
        split: Name of the split.
        records: The records of the split, without those that --class_map leaves out.
        match: As in `EvalSet`.
        notes: As in `EvalSet`.
    """

    data: Dataset
    split: str
    records: Records
    match: ClassMatch
    notes: Sequence[str] = ()

    @property
    def title(self) -> str:
        return f"the {self.split} split of {self.data.name}"

    @property
    def name(self) -> str:
        return f"evaluation-{self.data.name}-{self.split}-{self.data.digest[:_KEY_DIGITS]}"

    def note(self, info: ModelInfo) -> str:
        if self.data.digest != info.dataset_digest:
            return "The model was trained on another dataset. It was not checked whether both datasets share images."
        return {
            "train": "The model was trained on this split. The results say nothing about new images.",
            "validation": f"{predictions.MAY_BE_CHOSEN_ON} {predictions.ON_NEW_IMAGES}",
        }.get(self.split, "This split was not used for training.")

    def evaluate(self, model: keras.Model, info: ModelInfo, tta: Sequence[str]) -> Evaluated:
        predicted = predictions.of_records(views.predictor(model, tta), info, self.records, self.match.labels_of)
        return Evaluated(
            predicted=predicted,
            pictures=pictures.of_records(info, self.records, predicted),
            facts={
                "corrupt": list(self.records.corrupt.values()),
                "dataset": self.data.name,
                "digest": self.data.digest,
            },
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderSet:
    """The images of a folder, read by the rules of `convert`. See `EvalSet` for the methods.

    Attributes:
        images: The folder.
        split: Name of the split. None: the folder has no splits, and all of its images are evaluated.
        sources: The images of all splits.
        numbers: i64[n], the images to evaluate, as indices into `sources`.
        match: As in `EvalSet`.
        notes: As in `EvalSet`.
    """

    images: str
    split: str | None
    sources: Sources
    numbers: np.ndarray
    match: ClassMatch
    notes: Sequence[str] = ()

    @property
    def title(self) -> str:
        what = "images" if self.split is None else f"{self.split} split"
        return f"the {what} of {self.images}"

    @property
    def name(self) -> str:
        path = self.images if files.is_url(self.images) else os.path.realpath(self.images)
        name = dataset_files.dataset_name(Path(path).stem)
        return f"evaluation-{name}-{self.split or _ALL}-{hashlib.sha256(path.encode()).hexdigest()[:_KEY_DIGITS]}"

    def note(self, info: ModelInfo) -> str:
        return "It was not checked whether the model was trained on some of these images."

    def evaluate(self, model: keras.Model, info: ModelInfo, tta: Sequence[str]) -> Evaluated:
        paths = self.sources.paths
        listed = [FileSource(path=paths[i], listing=self.sources, number=i) for i in self.numbers.tolist()]
        parts = list(image_files.judge(views.predictor(model, tta), info, listed))
        unreadable = dict(sorted([*self._rejected(), *(pair for part in parts for pair in part.unreadable.items())]))
        numbers = np.concatenate([part.numbers for part in parts])
        if not len(numbers):
            path, reason = next(iter(unreadable.items()), (paths[int(self.numbers[0])], "is not an image"))
            raise UserError(f"--images={self.images}: no image can be read, for example {path}: {reason}.")
        predicted = predictions.joined([part.predictions for part in parts])
        labels = self.match.labels_of[self.sources.labels[self.numbers[numbers]]]
        return Evaluated(
            predicted=dataclasses.replace(predicted, labels=labels),
            pictures=pictures.of_sources(info, [listed[i] for i in numbers.tolist()]),
            facts={
                "corrupt": [],
                "unreadable": [f"{path}: {reason}" for path, reason in unreadable.items()],
                "dataset": self.images,
            },
            unreadable=unreadable,
            skipped=dict(sorted(pair for part in parts for pair in part.skipped.items())),
        )

    def _rejected(self) -> Iterator[tuple[str, str]]:
        """Yield path and reason of files that cannot become records, without files of other splits."""
        splits_of: dict[str, set[int]] = {}
        for path, split in zip(self.sources.paths, self.sources.splits.tolist()) if self.sources.rejected else ():
            while path:
                path = path.rpartition("/")[0]
                splits_of.setdefault(path, set()).add(split)
        for rejected in self.sources.rejected:
            directory = rejected.path.rpartition("/")[0]
            while directory and directory not in splits_of:
                directory = directory.rpartition("/")[0]
            if self.split is None or SPLITS.index(self.split) in splits_of.get(directory, ()):
                yield rejected.path, rejected.reason


def of_dataset(data: Dataset, split: str | None, info: ModelInfo, names: Mapping[str, str]) -> RecordSet:
    """Open a split of a dataset.

    Args:
        data: The dataset.
        split: Name of the split; None: `DEFAULT_SPLIT`.
        info: The description of the model.
        names: Class of the dataset -> class of the model, as in `class_map.match`.

    Raises:
        UserError: The dataset or the split does not exist, the split has no images, or the model lacks a class.
    """
    split = split or DEFAULT_SPLIT
    records = predictions.records_of(data, split)
    counts = np.bincount(records.labels, minlength=len(data.class_names))
    match = class_map.match(info.classes, data.class_names, counts, names, f"--tfrecords={data.location}")
    if match.left_out:
        records = records.select(np.flatnonzero(match.labels_of[records.labels] != class_map.LEFT_OUT))
    return RecordSet(data=data, split=split, records=records, match=match)


def of_folder(images: str, split: str | None, info: ModelInfo, names: Mapping[str, str]) -> FolderSet:
    """Find the images of a folder, and their classes, as `convert` would find them.

    Args:
        images: A folder, or any other source of `convert` that needs no further flags, such as an archive.
        split: Name of the split; None: `DEFAULT_SPLIT`, if the folder has splits.
        info: The description of the model.
        names: Class of the folder -> class of the model, as in `class_map.match`.

    Raises:
        UserError: The folder does not exist or can be understood in two ways, it does not have the split, or the model
            lacks a class.
    """
    where = f"--images={images}"
    sources = _scanned(images, class_map.expected(info.classes, names))
    chosen = _chosen_split(sources, split, where)
    numbers = np.arange(len(sources)) if chosen is None else np.flatnonzero(sources.splits == SPLITS.index(chosen))
    counts = np.bincount(sources.labels[numbers], minlength=len(sources.class_names))
    match = class_map.match(info.classes, sources.class_names, counts, names, where)
    kept = numbers[match.labels_of[sources.labels[numbers]] != class_map.LEFT_OUT]
    return FolderSet(
        images=images, split=chosen, sources=sources, numbers=kept, match=match, notes=_notes(images, sources)
    )


def _notes(images: str, sources: Sources) -> list[str]:
    """Return lines on how the images were found. They name flags of `convert`."""
    notes = [f"  note: {note}" for note in sources.notes]
    return [f"images: read with the rules of {_command(images)}", *notes] if notes else []


def _command(images: str) -> str:
    return f"python -m tfrecord_tools.convert --src={shlex.quote(images)}"


def _scanned(images: str, known_classes: Sequence[str]) -> Sources:
    """Scan a source by the rules of `convert`."""
    if not files.is_url(images) and not os.path.exists(images):
        raise UserError(f"--images={images}: does not exist. Pass a folder with a subfolder for each class.")
    if os.path.isfile(os.path.join(images, dataset_files.CONVERT_JSON)):
        raise UserError(f"--images={images}: is a dataset. Pass it as --tfrecords={images}.")
    try:
        return scan(ScanConfig(src=images), known_classes)
    except UserError as error:  # The message names flags of `convert`, so this message shows the command.
        raise UserError(
            f"--images={images}: cannot be read: {error} Convert the images, with such flags instead of FLAGS:"
            f" {_command(images)} FLAGS. Then pass the dataset as --tfrecords."
        ) from error


def _chosen_split(sources: Sources, split: str | None, where: str) -> str | None:
    """Return the split to evaluate; None if the source has no splits."""
    if not sources.has_splits:
        if split is None:
            return None
        raise UserError(f"--split={split}: {where} has no splits, so all of its images are used. Remove --split.")
    present = [name for number, name in enumerate(SPLITS) if (sources.splits == number).any()]
    chosen = split or DEFAULT_SPLIT
    if chosen not in present:
        raise UserError(
            f"{where}: split {chosen!r} does not exist. Splits: {', '.join(present)}. Pass one of these splits as"
            " --split."
        )
    return chosen
