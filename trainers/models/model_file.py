"""The file of a trained classifier: Keras's own, whose `metadata.json` also says how it is to be used.

A `.keras` file is a zip archive of three members, and `keras.models.load_model` reads this one as it reads any. A
fourth member would make it unpack all of them to a temporary directory. Nothing in it is executed: no pickle, no
Lambda.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError, one_line
from tfrecord_tools.images.preparation import ImageConfig
from tfrecord_tools.layout import dataset_files
from tfrecord_tools.records import Dataset
from trainers import run_directory

if TYPE_CHECKING:
    import keras

MEMBER = "metadata.json"
KEY = "classifier"  # Of what is added to it.
_SUFFIX = ".keras"  # Keras insists on it.
_FORMAT = 1  # Raised when an older reader would misunderstand.
_KERAS_MEMBERS = (MEMBER, "config.json", "model.weights.h5")
THRESHOLD_HELP = "Of two classes: the probability from which an image is of the second; by default the model's own."
_MOST_BYTES = 1 << 24  # Of the member: a hundred thousand classes.
_IMAGE_SETTINGS = ImageConfig().image_settings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What else than the model it takes to classify an image as in training, and where the model comes from.

    The model takes pixels in 0..255 and scales them itself; all before that is `images.prepare` with
    `image_config()`, then `reference.decode_pixels` with `image_size`, `crop` and `raw_size`.

    Attributes:
        classes: The names, in the order of the labels. Of two, the model puts out the probability of the second.
        image_size: Height and width of its input in pixels.
        crop: As in `reference.decode_pixels`.
        threshold: Of two classes, the probability from which an image is said to be of the second.
        images: How the dataset's images were prepared, as `ImageConfig.image_settings` gives it; empty for adopted
            ones that were not written anew, which are as they were.
        pixels: What it takes, in words.
        trainer: The name of the trainer that made it.
        dataset_name: The name of the dataset it was trained on.
        dataset_digest: Its digest.
        versions: Package -> version.
    """

    classes: tuple[str, ...]
    image_size: int
    crop: float = 0.0
    threshold: float = 0.5
    images: Mapping[str, Any] = dataclasses.field(default_factory=lambda: dict(_IMAGE_SETTINGS))
    pixels: str = "uint8 RGB in 0..255, scaled inside of the model"
    trainer: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=run_directory.versions)

    def __post_init__(self) -> None:
        """Checks what a file of any origin may say."""
        names = self.classes
        if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"classes are {list(names)}, not two or more distinct names")
        if not isinstance(self.versions, Mapping):
            raise ValueError(f"versions are {self.versions!r}")
        texts = [self.pixels, self.trainer, self.dataset_name, self.dataset_digest, *self.versions]
        for text in (*names, *texts, *self.versions.values()):
            if not _is_line(text):
                raise ValueError(f"{text!r} is no line of text that can be shown")
        if not isinstance(self.image_size, int) or self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size!r}")
        for name in ("crop", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}")
        try:
            self.image_config()
        except UserError as error:
            raise ValueError(f"images: {error}") from error

    def image_config(self) -> ImageConfig:
        """How a file on disk becomes what a record of the dataset held."""
        settings = dict(self.images)
        repair = settings.pop("repair", False)
        return ImageConfig(on_bad_image="repair" if repair else "skip", **settings)

    def preparation(self) -> str:
        """What the dataset's images went through: flags of the converter that are not its defaults, or ""."""
        settings = {name: value for name, value in self.images.items() if value != _IMAGE_SETTINGS.get(name)}
        return " ".join(f"--{name}={value}" for name, value in settings.items())

    @property
    def raw_size(self) -> int | None:
        """As in `records.Dataset`."""
        config = self.image_config()
        return config.resize if config.store == "raw" else None


def describe(data: Dataset, *, image_size: int, crop: float, trainer: str) -> ModelInfo:
    """What is to be known of a model that is trained on a dataset.

    Raises:
        UserError: It has a class whose name no model file may hold.
    """
    config = dataset_files.read(data.directory)["config"]
    prepared = {name: config.get(name, default) for name, default in _IMAGE_SETTINGS.items()}
    try:
        return ModelInfo(
            classes=data.class_names,
            image_size=image_size,
            crop=crop,
            images={} if config.get("adopted") and not config.get("rewritten") else prepared,
            trainer=trainer,
            dataset_name=data.name,
            dataset_digest=data.digest,
        )
    except ValueError as error:
        raise UserError(f"--tfrecords={data.directory}: {error}. Convert or adopt it with other names.") from error


def find(run: str) -> Path:
    """Returns the model file of a run directory; of a model file, itself.

    Raises:
        UserError: There is none.
    """
    path = Path(run)
    if path.is_dir():
        model = path / run_directory.MODEL
        if model.is_file():
            return model
        if (path / run_directory.SETTINGS).is_file():
            raise UserError(f"--run={run}: the training is unfinished, it has no {model.name} yet. Repeat its command.")
        raise UserError(f"--run={run}: no run directory (it has no {model.name}). Pass one that a trainer wrote.")
    if not path.exists():
        raise UserError(f"--run={run}: no such directory. Pass the run directory of a trainer, or a .keras file.")
    if path.suffix != _SUFFIX:
        raise UserError(f"--run={run}: no .keras file, by its name. Pass one, or the run directory of a trainer.")
    return path


def save(model: keras.Model, info: ModelInfo, path: Path) -> None:
    """Writes a model; the old file or the new one is there at any moment, each of them whole."""
    temporary = path.with_name(f"unfinished{_SUFFIX}")
    try:
        model.save(temporary)
        with zipfile.ZipFile(temporary) as archive, files.atomic(path) as file, zipfile.ZipFile(file, "w") as made:
            for member in archive.infolist():
                large = member.file_size > 1 << 30
                with archive.open(member) as source, made.open(member.filename, "w", force_zip64=large) as copy:
                    if member.filename == MEMBER:
                        about = {"format": _FORMAT} | dataclasses.asdict(info)
                        copy.write(json.dumps(json.load(source) | {KEY: about}, indent=2).encode())
                    else:
                        shutil.copyfileobj(source, copy)
    finally:
        temporary.unlink(missing_ok=True)


def read_info(path: Path) -> ModelInfo:
    """Reads what a model file says of itself, the checksums of all its members proven; without TensorFlow.

    Raises:
        UserError: It is no model file, damaged, or not one of this package.
    """
    again = "Copy it again from where it is sound, or train again."
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # Reads everything: Keras's own errors on damaged files say little.
            missing = {*_KERAS_MEMBERS} - {*archive.namelist()}
            if damaged or missing:
                wrong = f"{damaged} in it is damaged" if damaged else f"it has no {', '.join(sorted(missing))}"
                raise UserError(f"{path}: {wrong}. {again}")
            if archive.getinfo(MEMBER).file_size > _MOST_BYTES:
                raise UserError(f"{path}: {MEMBER} in it has more than {_MOST_BYTES:,} bytes. {again}")
            values = json.loads(archive.read(MEMBER))
        if KEY not in values:
            raise UserError(
                f"{path}: {MEMBER} in it does not say its classes and how images are prepared. Pass a model that a"
                " trainer of this package wrote."
            )
        return _parsed(values[KEY])
    except OSError as error:
        raise UserError(f"{path}: it cannot be read: {error.strerror}. A .keras file is expected.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: cut off, damaged or no .keras file ({error}). {again}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {MEMBER} in it is damaged: {error}. {again}") from error


def with_threshold(info: ModelInfo, threshold: float | None) -> ModelInfo:
    """Replaces the threshold, unless it is None.

    Raises:
        UserError: It is not within 0..1, or there are more than two classes.
    """
    if threshold is None:
        return info
    if len(info.classes) != 2:
        raise UserError(
            f"--threshold={threshold:g}: it is of two classes, and the model has {len(info.classes):,}, of which the"
            " likeliest is taken. Leave it out."
        )
    if not 0 < threshold < 1:
        raise UserError(f"--threshold={threshold:g}: a probability between 0 and 1 is expected, neither of them.")
    return dataclasses.replace(info, threshold=threshold)


def load(path: Path, info: ModelInfo | None = None) -> tuple[keras.Model, ModelInfo]:
    """Reads a model and what it says of itself; executes nothing that is in the file.

    Args:
        path: The file.
        info: As of `read_info`, where that was asked already: it reads all of the file.

    Returns:
        The model, u8[b h w 3] -> f32[b 1] or f32[b classes], not compiled; and how to use it.

    Raises:
        UserError: As of `read_info`, or Keras refuses it, or it is a model of other images or classes than it says.
    """
    info = info or read_info(path)
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        if not isinstance(model, keras.Model):
            raise TypeError(f"it holds a {type(model).__name__}, no model")
    except Exception as error:  # What Keras raises on a file of any origin is no narrower.
        if isinstance(error, MemoryError) or getattr(error, "errno", None):  # Of this machine, not of the file.
            raise
        reason = one_line(error, "all").split(". ")[0]
        raise UserError(
            f"{path}: refused by Keras: {reason}. Only models of Keras's own layers, without Lambda, are loaded: no"
            " code of a file is executed."
        ) from error
    size, count = info.image_size, len(info.classes)
    expected = ((None, size, size, 3), (None, 1 if count == 2 else count))
    shapes = (getattr(model, "input_shape", None), getattr(model, "output_shape", None))  # Some models have none.
    if shapes != expected:
        raise UserError(
            f"{path}: the model is {shapes[0]} -> {shapes[1]}, and its {MEMBER} asks for"
            f" {expected[0]} -> {expected[1]}. It was put together of two models: train again."
        )
    return model, info


def _parsed(values: Any) -> ModelInfo:
    if not isinstance(values, dict):
        raise ValueError(f"its {KEY} is no object")
    if values.pop("format", None) != _FORMAT:
        raise ValueError("it is of another format; a newer version of this package may read it")
    return ModelInfo(**values | {"classes": tuple(values.get("classes", ()))})


def _is_line(text: Any) -> bool:
    """Whether it is text without control characters and halves of surrogate pairs, which cannot be shown or written."""
    return isinstance(text, str) and not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)
