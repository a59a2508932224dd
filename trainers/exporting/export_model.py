"""Writes a trained classifier in another format, and proves that it answers as the Keras model does."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
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

FORMATS = {"saved_model": "", "litert": "model.tflite", "onnx": "model.onnx"}  # Format -> its file in the output.
QUANTIZE = ("none", "float16", "int8")
LABELS = "labels.txt"
FACTS = "export.json"
_PACKAGES = {"litert": ("ai_edge_litert",), "onnx": ("tf2onnx", "onnxruntime")}  # Beyond what Keras brings.
# BUILD_NOTES has what was measured.
TOLERANCES = {"saved_model": 1e-5, "litert": 1e-3, "litert-float16": 0.1, "litert-int8": 0.03, "onnx": 1e-3}
_DRAWN = 32  # Images that are drawn where no records are given.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelExportConfig:
    """What is exported.

    Attributes:
        run: A run directory, or a model file.
        format: One of `FORMATS`.
        quantize: One of `QUANTIZE`, for LiteRT alone.
        tfrecords: A dataset directory: what "int8" is calibrated on, and what the answers are compared on.
        samples: How many of its records at most, for either.
        tolerance: The largest difference of a probability that is let pass; for "int8" the largest share of images
            with another answer. None: what the format should reach.
        out: The directory to write. None: `export/FORMAT[-QUANTIZE]` beside the model.
        overwrite: Replace what is there.
        threshold: Of two classes, the probability from which an image is of the second; None: the model's.
    """

    run: str
    format: str = "saved_model"
    quantize: str = "none"
    tfrecords: str | None = None
    samples: int = 256
    tolerance: float | None = None
    out: str | None = None
    overwrite: bool = False
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("--run is missing: the run directory of a trainer, or a .keras file that one wrote.")
        for name, allowed in (("format", tuple(FORMATS)), ("quantize", QUANTIZE)):
            if getattr(self, name) not in allowed:
                raise UserError(f"--{name}={getattr(self, name)}: one of {', '.join(allowed)} is expected.")
        if self.quantize != "none" and self.format != "litert":
            raise UserError(f"--quantize={self.quantize} is of --format=litert; {self.format} holds float32.")
        if self.quantize == "int8" and not self.tfrecords:
            raise UserError("--quantize=int8 is calibrated on images: pass --tfrecords, the dataset of the training.")
        if self.samples < 1:
            raise UserError(f"--samples={self.samples}: at least 1.")
        if self.tolerance is not None and not 0 <= self.tolerance <= 1:
            raise UserError(f"--tolerance={self.tolerance}: 0 to 1 is expected.")

    @property
    def name(self) -> str:
        """The format with its quantization."""
        return self.format if self.quantize == "none" else f"{self.format}-{self.quantize}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """How near the exported model comes to the Keras model.

    Attributes:
        images: What both were asked, in words.
        count: How many images.
        range: How far the Keras model's probabilities of a class lie apart: with all alike, little is shown.
        difference: The largest, of any probability of any image.
        other_answers: Share of images whose class is another.
        tolerance: As in `ModelExportConfig`.
        quantized: Whether `other_answers` is what must lie within `tolerance`, and not `difference`.
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
        return (self.other_answers if self.quantized else self.difference) <= self.tolerance  # False for NaN.

    def __str__(self) -> str:
        singular = self.images.replace("records", "record", 1).replace("images", "image", 1)
        asked = words.number(self.count, singular, self.images)
        if self.quantized:
            return (
                f"{1 - self.other_answers:.2%} of {asked} get the same class as from the Keras model, and"
                f" {1 - self.tolerance:.2%} must. Probabilities may differ, here by up to {self.difference:.2g}: int8"
                " has 256 steps for all values of a layer. Use the class, and set no threshold by these probabilities"
            )
        return (
            f"the probabilities of {asked} differ from the Keras model's by at most {self.difference:.2g}, and"
            f" {self.tolerance:.2g} is allowed; they range over {self.range:.2g}. {self.other_answers:.2%} get another"
            " class"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        directory: Where it lies.
        info: How the model in it is used.
        check: How near it comes to the Keras model.
    """

    directory: Path
    info: ModelInfo
    check: Check


def export(config: ModelExportConfig) -> Exported:
    """Writes a directory with the model in another format, labels.txt (a name a line) and export.json (how to use it).

    Raises:
        UserError: What the user can mend, or the exported model answers otherwise than it should; nothing is left then.
    """
    path = model_file.find(config.run)
    out = Path(config.out) if config.out else path.parent / "export" / config.name
    _check_packages(config)
    data = open_dataset(config.tfrecords) if config.tfrecords else None
    _check_out(out, config.overwrite)
    info = model_file.with_threshold(model_file.read_info(path), config.threshold)

    from trainers.devices import device  # Here, since it takes seconds to import TensorFlow.

    device.set_up(precision="float32")
    model, _ = model_file.load(path, info)
    try:
        with _replaced(out) as directory:
            check = _write(config, model, info, data, directory)
            _check_out(out, config.overwrite)  # Another export may have been faster.
    except OSError as error:
        raise UserError(
            f"--out={out}: it cannot be written ({refusal(error)}). Mend the cause, or pass another --out."
        ) from error
    return Exported(directory=out, info=info, check=check)


def _write(
    config: ModelExportConfig, model: keras.Model, info: ModelInfo, data: Dataset | None, directory: Path
) -> Check:
    """Writes all of the output, and checks it."""
    from trainers.exporting import writers

    calibration: Iterable[np.ndarray] = ()
    if data is None:
        images, encoded = "generated images", writers.drawn(_DRAWN)
    else:
        images, encoded = _stored(data, ("validation", "test", "train"), config.samples)
        if config.quantize == "int8":
            calibration = writers.decoded(_stored(data, ("train", *data.splits), config.samples)[1], info).numpy()
    pixels = writers.decoded(encoded, info).numpy()
    expected = writers.answers_of_keras(model, pixels)  # Before writers change layers of it.
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
    check = _compared(config, info, images, expected, answers)
    facts = {"format": config.format, "quantize": config.quantize} | dataclasses.asdict(info)
    facts["check"] = dataclasses.asdict(check)
    (directory / LABELS).write_text("".join(f"{name}\n" for name in info.classes), encoding="utf-8")
    (directory / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return check


@contextlib.contextmanager
def _as_user_error(to: str) -> Iterator[None]:
    """What two converters and three runtimes raise on a model becomes `UserError`; what they warn of, nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of what they use of each other and will not find there some day.
            yield
    except OSError:
        raise
    except Exception as error:
        raise UserError(
            f"--format={to}: this model cannot be converted: {one_line(error)}. Pass another --format."
        ) from error


def _stored(data: Dataset, splits: tuple[str, ...], most: int) -> tuple[str, list[bytes]]:
    """Returns the images of the first records of the first split that has any: records lie in random order.

    Returns:
        What they are, in words, and their bytes.
    """
    from trainers.exporting import writers

    split = next((split for split in splits if data.splits.get(split)), None)
    records = data.records(split or "")

    def image(serialized: bytes) -> bytes:
        encoded: bytes = schema.decode_example(serialized, data.keys)["image"]
        decoder.decode(encoded, 1, raw_size=data.raw_size)  # Proves it.
        return encoded

    images = [records.get_or_none(number, image) for number in range(min(most, len(records)))]
    encoded = [data for data in images if data is not None]
    if not encoded:
        raise UserError(f"--tfrecords={data.directory}: {split} has no sound record. Copy or convert it again.")
    if data.raw_size is not None:
        encoded = [writers.as_png(image, data.raw_size) for image in encoded]
    return f"records of {split}", encoded


def _compared(
    config: ModelExportConfig, info: ModelInfo, images: str, expected: np.ndarray, answers: list[np.ndarray]
) -> Check:
    """Compares f32[n classes] with each of the answers.

    Raises:
        UserError: One lies beyond the tolerance.
    """
    tolerance = TOLERANCES[config.name] if config.tolerance is None else config.tolerance
    labels = predictions.decide(expected, info.threshold)
    check = Check(
        images=images,
        count=len(expected),
        range=float(np.ptp(expected, axis=0).max()),
        difference=float(
            np.max([np.abs(answer - expected).max() for answer in answers])
        ),  # Python's max passes NaN by.
        other_answers=max(float((predictions.decide(answer, info.threshold) != labels).mean()) for answer in answers),
        tolerance=tolerance,
        quantized=config.quantize == "int8",
    )
    if not check.passed:
        more = (
            "Calibrate on more --samples, take --quantize=float16, or" if check.quantized else "If it is good enough,"
        )
        raise UserError(
            f"{config.name} is not near enough, and nothing was written: {check}. {more} pass a larger --tolerance."
        )
    return check


def _check_packages(config: ModelExportConfig) -> None:
    missing = [name for name in _PACKAGES.get(config.format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format={config.format} needs {' and '.join(missing)}, not installed here."
            f" pip install 'tfrecord-tools[{config.format}]' installs what it needs."
        )


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise UserError(f"--out={out}: it is there already. Pass --overwrite to replace it, or another --out.")
    if not (out / FACTS).is_file():
        raise UserError(f"--out={out}: no export (it has no {FACTS}), and not replaced. Pass another --out.")


@contextlib.contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """Yield a new directory that replaces `out` when the block succeeds; when it fails, nothing is left."""
    missing = [parent for parent in out.absolute().parents if not parent.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))  # A name that nobody else has.
    made = holder / "export"  # Within, since the holder's own permissions are its owner's alone.
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
        shutil.rmtree(holder, ignore_errors=True)  # With what failed, or what was replaced.
        for parent in missing:
            with contextlib.suppress(OSError):  # `parent` holds the export, or files of another process.
                parent.rmdir()
