"""Use a finished training in Python: its results and its model. Predict, evaluate, export, train more.

run = trainers.finetune(tfrecords="out", run="runs/pets")
run.metrics["accuracy"], run.predict("photo.jpg").names
run = trainers.load("runs/pets")  # Later, in another program.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfrecord_tools.base import command, files, html_frame
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.errors import UserError
from trainers import run_directory
from trainers.devices import cluster
from trainers.fitting import parents
from trainers.models import keras_files, model_file
from trainers.models.model_file import ModelInfo
from trainers.run_directory import Metrics, Settings

if TYPE_CHECKING:
    import keras
    from typing_extensions import Unpack

    from trainers.evaluate import EvaluateOptions, Evaluation
    from trainers.exporting.export_model import Exported
    from trainers.models import inference
    from trainers.predict import Answers, PredictOptions
    from trainers.results.sources import Images
    from trainers.training_options import Log


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished training. As the last line of a notebook cell, it shows the report of the training.

    Attributes:
        path: The run directory, as an absolute path. Files are read when they are needed, perhaps after a chdir.
        custom_objects: Modules and files that register the custom layers of the model. They are imported.
    """

    path: Path
    custom_objects: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).absolute())
        object.__setattr__(self, "custom_objects", tuple(keras_files.OPTION.value(self.custom_objects)))

    @functools.cached_property
    def metrics(self) -> Metrics:
        """The content of metrics.json. {} in a worker that is not the chief, which alone writes files."""
        return (run_directory.read_metrics(self.path) if self._has(run_directory.METRICS) else None) or {}

    @functools.cached_property
    def settings(self) -> Settings:
        """The content of settings.json."""
        return run_directory.read_settings(self.path) if self._has(run_directory.SETTINGS) else {}

    @functools.cached_property
    def history(self) -> dict[str, list[Any]]:
        """Column of history.csv -> its values, one per epoch: numbers, or texts such as the name of the phase."""
        if not self._has(run_directory.HISTORY):
            return {}
        with open(self.path / run_directory.HISTORY, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else {})}

    @functools.cached_property
    def info(self) -> ModelInfo:
        """The settings in the model file: class names, image size, crop, threshold, trainer and dataset."""
        return model_file.read_info(self.path / run_directory.MODEL)

    @functools.cached_property
    def model(self) -> keras.Model:
        """The Keras model: u8[b h w 3] -> f32[b 1] or f32[b classes]. It scales pixels 0..255 itself.

        A model of two classes returns only the probability of the second class, so `argmax` of the output is always 0.
        `predict` returns class names, and the probabilities of all classes.
        """
        return model_file.load(self.path / run_directory.MODEL, self.info, self.custom_objects)[0]

    @functools.cached_property
    def _compiled(self) -> inference.Kept:
        from trainers.models import inference  # Here, since it imports TensorFlow.

        return inference.Kept(self.model)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.info.classes

    def predict(
        self,
        images: Images | None = None,
        *,
        log: Callable[[str], object] = command.say,
        **options: Unpack[PredictOptions],
    ) -> Answers:
        """Classify images, or the records of a dataset.

        Args:
            images: The path of an image file or of a directory of images; the bytes of an image file,
                or a file that is open for reading; pixels u8[h w 3], or u8[h w] or u8[h w 1] for a gray image; a Pillow
                image; or a sequence of these, such as an array or a column of paths. An array u8[n h w 3] is a batch of
                n images. Each image is prepared in the same way as the training images. A
                Pillow image with an EXIF orientation is turned like its file. If None, the records in `tfrecords` are
                classified.
            log: Receives the lines for the user, for example about images that cannot be read.
            **options: As in `trainers.predict`: tfrecords, split, threshold, tta, image_key.

        Returns:
            The answers, in the order of the images. Images of a directory are sorted by path. Images that cannot be
            read have no answer, so `numbers` of the answers has the position of each image.

        Raises:
            TypeError: There is no such option. The run and its custom objects are those of this `Run`.
            UserError: A file does not exist, or pixels have another type or shape.
        """
        from trainers.predict import answers

        return answers(self._compiled.function(), self.info, images, log, **options)

    def evaluate(
        self,
        tfrecords: StrPath | None = None,
        *,
        log: Callable[[str], object] = command.say,
        **options: Unpack[EvaluateOptions],
    ) -> Evaluation:
        """Evaluate the model on a split of a dataset or on a folder, as `python -m trainers.evaluate` does.

        The arguments are those of `trainers.evaluate`.
        """
        from trainers.evaluate import evaluate

        options = {"custom_objects": self.custom_objects, **options}
        if tfrecords is None:  # The options name a folder of images.
            return evaluate(run=self.path, log=log, **options)
        return evaluate(run=self.path, tfrecords=tfrecords, log=log, **options)

    def export(self, format: str = "saved_model", **options: Any) -> Exported:
        """Export the model, as `python -m trainers.export` does.

        The arguments are those of `trainers.export`.
        """
        from trainers.export import export

        return export(run=self.path, format=format, **{"custom_objects": self.custom_objects} | options)

    def train_more(self, epochs: int, *, run: StrPath | None = None, log: Log = command.say, **options: Any) -> Run:
        """Train for more epochs in a new run directory, as the trainer does with `--run=RUN --more_epochs=N`.

        Args:
            epochs: Number of further epochs of the last phase.
            run: The new run directory. If None, the path of this run followed by `-moreN`.
            log: A function that receives the lines for the user, experiment trackers, or a list of both.
            options: Further options of the trainer that do not change the result, such as cache="off".

        Returns:
            The finished training. Calling this again returns it without training.

        Raises:
            UserError: This run has no saved state of the optimizer, or a value is not allowed.
        """
        from trainers import training_options

        if self.info.trainer not in training_options.OPTIONS:
            raise UserError(
                f"{self.path}: was trained by {self.info.trainer!r}, which is not a trainer of this package. Call"
                " training.train with the recipe of this run and with TrainConfig(init_from=..., more_epochs=...)."
            )
        if epochs is None:  # Without epochs, a new training would start.
            raise UserError("epochs=None: must be a whole number.")
        # An option that is given twice is a TypeError.
        run = run or f"{self.path}-more{epochs}"
        given = dict(init_from=self.path, more_epochs=epochs, run=run, log=log, **options)
        return Run(training_options.train(self.info.trainer, given, command.say))

    def _has(self, name: str) -> bool:
        """Return whether a file exists. It may be missing in workers that are not the chief, but nowhere else.

        Raises:
            UserError: It is missing.
        """
        if (self.path / name).is_file():
            return True
        if not cluster.is_chief():  # Shared storage may show files late.
            return False
        raise UserError(
            f"{self.path / name}: does not exist. The run was moved or deleted, or the directory has only a model. Pass"
            " the directory of a finished training to trainers.load."
        )

    def __reduce__(self) -> tuple[type[Run], tuple[Path, Sequence[str]]]:
        """Copy only the fields to another process, which reads the files itself."""
        return Run, (self.path, self.custom_objects)

    def __fspath__(self) -> str:
        """Return the run directory. So functions that take a path also take a run."""
        return str(self.path)

    def _repr_html_(self) -> str:
        from trainers.results.report import REPORT

        return html_frame.of_file(self.path / REPORT, html.escape(repr(self)))

    def __repr__(self) -> str:
        metrics: Metrics = {}
        with contextlib.suppress(UserError):  # The run was moved or deleted, or is damaged.
            metrics = self.metrics
        if "accuracy" not in metrics:
            return f"Run({str(self.path)!r})"
        return f"Run({str(self.path)!r}): accuracy {metrics['accuracy']:.4f} on {metrics['split']}"


def load(run: StrPath, custom_objects: str | Sequence[str] = ()) -> Run:
    """Open the run directory of a finished training.

    Args:
        run: The run directory.
        custom_objects: Modules and files that register the custom layers of the model. They are imported when the model
            is needed.

    Raises:
        UserError: The directory is not a run directory, or the training is unfinished.
    """
    path = Path(files.paths(run=run)["run"])
    if path.is_file():
        raise UserError(f"{path}: is a file. Pass the run directory that contains it.")
    parents.check_finished(model_file.find(str(path)), str(path), "run")
    return Run(path, custom_objects)


def _number(text: str) -> Any:
    """Convert a text to int or float. If it is not a number, return the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
