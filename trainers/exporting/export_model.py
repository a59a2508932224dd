"""Export a trained classifier to another format, and compare it with the Keras model."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfrecord_tools.base import files, words
from tfrecord_tools.decoding import decoder
from tfrecord_tools.errors import UserError, one_line, refusal
from tfrecord_tools.layout import schema
from tfrecord_tools.records import Dataset, open_dataset
from trainers.models import model_file
from trainers.models.model_file import ModelInfo
from trainers.results import predictions

if TYPE_CHECKING:
    import keras

FORMATS = {"saved_model": "", "litert": "model.tflite", "onnx": "model.onnx"}  # Format -> file in the output directory.
QUANTIZE = ("none", "float16", "int8")
LABELS = "labels.txt"
FACTS = "export.json"
_PACKAGES = {"litert": ("ai_edge_litert",), "onnx": ("tf2onnx", "onnxruntime")}  # Needed in addition to Keras.
# docs/benchmarks.md has the measurements behind these values.
TOLERANCES = {"saved_model": 1e-5, "litert": 1e-3, "litert-float16": 0.1, "litert-int8": 0.03, "onnx": 1e-3}
_DRAWN = 32  # Number of generated images, if no dataset is given.
SAMPLES = 256  # Number of records, if a dataset is given.
_OF_TFRECORDS = ("samples", "cache_dir", "cache_bytes")  # Settings that do nothing without a dataset.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelExportConfig:
    """Settings of an export.

    Attributes:
        run: A run directory or a model file.
        format: One of `FORMATS`.
        quantize: One of `QUANTIZE`. Only for LiteRT.
        tfrecords: A dataset directory, or its URL, with images to calibrate "int8" and to compare the models. If None,
            the models are compared on generated images.
        cache_dir: As in `records.open_dataset`. Only with `tfrecords`.
        cache_bytes: As in `records.open_dataset`. Only with `tfrecords`.
        samples: Largest number of records for calibration and for comparison, at least 1. None: 256. Only with
            `tfrecords`.
        tolerance: Largest allowed difference of a probability, 0..1. For "int8", it is the largest allowed share of
            images that get another class. If None, the value in `TOLERANCES`.
        out: Directory to write. If None, `export/FORMAT[-QUANTIZE]` next to the model.
        overwrite: Whether to replace an existing export.
        threshold: For two-class models: the second class is chosen if its probability is at least this number, between
            0 and 1. If None, the threshold of the model.
        custom_objects: Modules and files that register the custom layers of the model.
    """

    run: str
    format: str = "saved_model"
    quantize: str = "none"
    tfrecords: str | None = None
    cache_dir: str | None = None
    cache_bytes: int | None = None
    samples: int | None = None
    tolerance: float | None = None
    out: str | None = None
    overwrite: bool = False
    threshold: float | None = None
    custom_objects: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError(
                "--run is missing. Pass the run directory of a trainer or the .keras file of the model to export."
            )
        for name, allowed in (("format", tuple(FORMATS)), ("quantize", QUANTIZE)):
            if getattr(self, name) not in allowed:
                raise UserError(f"--{name}={getattr(self, name)}: must be one of {', '.join(allowed)}.")
        if self.quantize != "none" and self.format != "litert":
            raise UserError(
                f"--quantize={self.quantize} with --format={self.format}: only --format=litert can be quantized. Pass"
                " --format=litert, or remove --quantize."
            )
        if self.quantize == "int8" and not self.tfrecords:
            raise UserError(
                "--quantize=int8: needs images for calibration, but --tfrecords is missing. Pass the dataset of the"
                " training as --tfrecords."
            )
        if self.samples is not None and self.samples < 1:
            raise UserError(f"--samples={self.samples}: must be at least 1.")
        for name in _OF_TFRECORDS:
            value = getattr(self, name)
            if value is not None and not self.tfrecords:
                raise UserError(f"--{name}={value}: only --tfrecords uses it. Add --tfrecords, or remove --{name}.")
        if self.tolerance is not None and not 0 <= self.tolerance <= 1:
            raise UserError(f"--tolerance={self.tolerance}: must be from 0 to 1.")

    @property
    def name(self) -> str:
        """Format and quantization."""
        return self.format if self.quantize == "none" else f"{self.format}-{self.quantize}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """A comparison of the exported model with the Keras model.

    Attributes:
        images: Description of the images that both models classified.
        count: Number of images.
        range: Largest difference of the probability of a class between two of these images, in the Keras model. If it
            is near 0, the model gives nearly the same answer for all images. The comparison then shows little.
        difference: Largest difference of any probability of any image.
        other_answers: Share of images that get another class.
        tolerance: As in `ModelExportConfig`.
        quantized: If true, `tolerance` is the limit of `other_answers`. If false, it is the limit of `difference`.
    """

    images: str
    count: int
    range: float
    difference: float
    other_answers: float
    tolerance: float
    quantized: bool = False

    @property
    def passed(self) -> bool:
        # A difference that is NaN does not pass, because `NaN <= x` is false.
        return (self.other_answers if self.quantized else self.difference) <= self.tolerance

    def __str__(self) -> str:
        singular = self.images.replace("records", "record", 1).replace("images", "image", 1)
        images = words.number(self.count, singular, self.images)
        if self.quantized:
            return (
                f"{1 - self.other_answers:.2%} of {images} get the same class as from the Keras model (at least"
                f" {1 - self.tolerance:.2%} is required). Probabilities differ by up to {self.difference:.2g}, because"
                " int8 stores all values of a layer in 256 steps. Use the predicted class, and do not choose a"
                " threshold from these probabilities"
            )
        return (
            f"the probabilities of {images} differ from those of the Keras model by at most {self.difference:.2g}"
            f" ({self.tolerance:.2g} is allowed). For comparison: between these images, the probability of a class"
            f" differs by up to {self.range:.2g}. {self.other_answers:.2%} of the images get another class"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """A finished export.

    Attributes:
        directory: Directory of the export.
        info: Description of the model.
        check: Comparison with the Keras model.
    """

    directory: Path
    info: ModelInfo
    check: Check

    def __fspath__(self) -> str:
        """Return the directory, so that `tf.saved_model.load` and others take the export as a path."""
        return str(self.directory)

    def __repr__(self) -> str:
        return f"Exported({str(self.directory)!r}): {self.check}"


def export(config: ModelExportConfig) -> Exported:
    """Export a model to a directory, with labels.txt (one class name per line) and export.json.

    export.json says how to use the model. Nothing is written if the export fails.

    Args:
        config: The settings.

    Returns:
        The directory, the description of the model, and its comparison with the Keras model.

    Raises:
        UserError: The user can correct the cause, or the outputs differ by more than the tolerance.
    """
    path = model_file.find(config.run)
    out = Path(config.out) if config.out else path.parent / "export" / config.name
    _check_packages(config)
    _check_out(out, config.overwrite)  # Before a dataset in a bucket is fetched.
    data = (
        open_dataset(config.tfrecords, cache_dir=config.cache_dir, cache_bytes=config.cache_bytes)
        if config.tfrecords
        else None
    )
    info = model_file.with_threshold(model_file.read_info(path), config.threshold)

    from trainers.devices import device  # Imported late: wrong flags are reported without waiting for TensorFlow.

    device.set_up(precision="float32")
    model, _ = model_file.load(path, info, config.custom_objects)
    try:
        with _replaced(out) as directory:
            check = _write(config, model, info, data, directory)
            _check_out(out, config.overwrite)  # Another process may have written it in the meantime.
    except OSError as error:
        raise UserError(
            f"--out={out}: cannot be written ({refusal(error)}). Correct the cause, or pass another --out."
        ) from error
    return Exported(directory=out, info=info, check=check)


def _write(
    config: ModelExportConfig, model: keras.Model, info: ModelInfo, data: Dataset | None, directory: Path
) -> Check:
    """Write all files of the export and compare the models."""
    from trainers.exporting import writers

    calibration: Iterable[np.ndarray] = ()
    if data is None:
        images, encoded = "generated images", writers.drawn(_DRAWN)
    else:
        most = config.samples or SAMPLES
        images, encoded = _record_images(data, ("validation", "test", "train"), most)
        if config.quantize == "int8":
            training_images = _record_images(data, ("train", *data.splits), most)[1]
            calibration = writers.decoded(training_images, info).numpy()
    pixels = writers.decoded(encoded, info).numpy()
    expected = writers.answers_of_keras(model, pixels)  # Computed first, because `write_onnx` changes layers.
    named = writers.with_names(model, info)
    path = directory / FORMATS[config.format]
    with _as_user_error(config.format):
        if config.format == "saved_model":
            writers.write_saved_model(named, info, path)
            answers = writers.answers_of_saved_model(path, encoded, pixels)
        elif config.format == "litert":
            writers.write_litert(named, info, path, config.quantize, calibration)
            answers = writers.answers_of_litert(path, pixels)
        else:
            writers.write_onnx(named, info, path)
            answers = writers.answers_of_onnx(path, pixels)
    check = _compare(config, info, images, expected, answers)
    facts = {"format": config.format, "quantize": config.quantize, **dataclasses.asdict(info)}
    facts |= {"crop": info.geometry.crop, "fit": info.geometry.fit}
    facts["check"] = dataclasses.asdict(check)
    (directory / LABELS).write_text("".join(f"{name}\n" for name in info.classes), encoding="utf-8")
    (directory / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return check


@contextlib.contextmanager
def _as_user_error(to: str) -> Iterator[None]:
    """Turn errors of converters and runtimes, except OSError, into UserError, and ignore their warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The converters use deprecated functions of each other.
            yield
    except OSError:
        raise
    except Exception as error:
        raise UserError(
            f"--format={to}: cannot convert this model: {one_line(error)}. Pass another --format."
        ) from error


def _record_images(data: Dataset, splits: tuple[str, ...], most: int) -> tuple[str, list[bytes]]:
    """Read the first images of the first split that has records.

    `convert` has shuffled the records. An adopted dataset keeps the order of its files.

    Returns:
        A description of the images and their encoded bytes.
    """
    from trainers.exporting import writers

    split = next((split for split in splits if data.splits.get(split)), None)
    records = data.records(split or "")

    def image(serialized: bytes) -> bytes:
        encoded: bytes = schema.decode_example(serialized, data.keys)["image"]
        decoder.decode(encoded, 1, raw_size=data.raw_size)  # Raises an error if the image is damaged.
        return encoded

    images = records.batch_or_none(np.arange(min(most, len(records))), image)
    encoded = [data for data in images if data is not None]
    if not encoded:
        raise UserError(
            f"--tfrecords={data.location}: the split {split!r} has no valid record. Copy or convert the dataset again."
        )
    if data.raw_size is not None:
        encoded = [writers.as_png(image, data.raw_size) for image in encoded]
    return f"records of {split}", encoded


def _compare(
    config: ModelExportConfig, info: ModelInfo, images: str, expected: np.ndarray, answers: list[np.ndarray]
) -> Check:
    """Compare the expected probabilities f32[n classes] with those of each signature.

    Raises:
        UserError: A difference is larger than the tolerance.
    """
    tolerance = TOLERANCES[config.name] if config.tolerance is None else config.tolerance
    labels = predictions.decide(expected, info.threshold)
    check = Check(
        images=images,
        count=len(expected),
        range=float(np.ptp(expected, axis=0).max()),
        # Python's max would ignore NaN.
        difference=float(np.max([np.abs(answer - expected).max() for answer in answers])),
        other_answers=max(float((predictions.decide(answer, info.threshold) != labels).mean()) for answer in answers),
        tolerance=tolerance,
        quantized=config.quantize == "int8",
    )
    if not check.passed:
        advice = (
            "Calibrate on more images (--samples), use --quantize=float16, or"
            if check.quantized
            else "If this difference is acceptable,"
        )
        raise UserError(
            f"{config.name}: the exported model differs too much from the Keras model, and nothing was written:"
            f" {check}. {advice} pass a larger --tolerance."
        )
    return check


def _check_packages(config: ModelExportConfig) -> None:
    missing = [name for name in _PACKAGES.get(config.format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format={config.format}: {' and '.join(missing)} must be installed. Run"
            f" pip install 'tfrecord-tools[{config.format}]'."
        )


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise UserError(f"--out={out}: exists already. Pass --overwrite to replace it, or another --out.")
    if not (out / FACTS).is_file():
        raise UserError(
            f"--out={out}: is not the directory of an export (it has no {FACTS}), so --overwrite does not replace"
            " this directory. Pass another --out."
        )


@contextlib.contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """Yield a new directory that replaces `out` when the block succeeds. If it fails, nothing is left."""
    missing = [parent for parent in out.absolute().parents if not parent.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))  # No other process uses this name.
    made = holder / "export"  # `holder` is private. This subdirectory gets the usual permissions.
    try:
        made.mkdir()
        yield made
        for path in (made, *made.rglob("*")):
            files.sync(path)
        if out.exists() and not files.exchange(made, out):
            shutil.rmtree(out)
        if not out.exists():
            os.rename(made, out)
        files.sync(out.parent)
    finally:
        shutil.rmtree(holder, ignore_errors=True)  # It holds the failed export, or the replaced one.
        for parent in missing:
            with contextlib.suppress(OSError):  # It is not empty: it holds the export.
                parent.rmdir()
