"""The file of a trained classifier: Keras's own, with a member `classifier.json` that says how it is to be used.

A `.keras` file is a zip archive; Keras reads its own members and passes over others, so that
`keras.models.load_model` reads it as it reads any. Nothing in it is executed: no pickle, no Lambda.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfrecord_tools import files, metadata
from tfrecord_tools.errors import UserError
from tfrecord_tools.images import ImageConfig
from tfrecord_tools.records import Dataset
from trainers import run_directory

if TYPE_CHECKING:
    import keras

MEMBER = "classifier.json"
_FORMAT = 1  # Raised when an older reader would misunderstand.
_KERAS_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
_IMAGE_SETTINGS = ImageConfig().image_settings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What else than the model it takes to classify an image as in training, and where the model comes from.

    The model takes pixels in 0..255 and scales them itself; all before that is `images.prepare` with
    `image_config()`, then `pixels.decode_pixels` with `image_size`, `crop` and `raw_size`.

    Attributes:
        classes: The names, in the order of the labels. Of two, the model puts out the probability of the second.
        image_size: Height and width of its input in pixels.
        crop: As in `pixels.decode_pixels`.
        threshold: Of two classes, the probability from which an image is said to be of the second.
        images: How the dataset's images were prepared, as `ImageConfig.image_settings` gives it.
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

    @property
    def raw_size(self) -> int | None:
        """As in `records.Dataset`."""
        config = self.image_config()
        return config.resize if config.store == "raw" else None


def describe(data: Dataset, *, image_size: int, crop: float, trainer: str) -> ModelInfo:
    """What is to be known of a model that was trained on a dataset."""
    config = metadata.read(data.directory)["config"]
    return ModelInfo(
        classes=data.class_names,
        image_size=image_size,
        crop=crop,
        images={name: config.get(name, default) for name, default in _IMAGE_SETTINGS.items()},
        trainer=trainer,
        dataset_name=data.name,
        dataset_digest=data.digest,
    )


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
    return path


def save(model: keras.Model, info: ModelInfo, path: Path) -> None:
    """Writes a model; the old file or the new one is there at any moment, each of them whole."""
    temporary = path.with_name("unfinished.keras")  # Keras insists on the suffix.
    try:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(MEMBER, json.dumps({"format": _FORMAT} | dataclasses.asdict(info), indent=2))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    files.sync_directory(path.parent)


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
            return _parsed(archive.read(MEMBER))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. A .keras file that a trainer wrote is expected.") from None
    except KeyError:  # Of ZipFile.read.
        raise UserError(
            f"{path}: it has no {MEMBER}, which holds its classes and how images are prepared. Pass a model that a"
            " trainer of this package wrote."
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: cut off, damaged or no .keras file ({error}). {again}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {MEMBER} in it is damaged: {error}. {again}") from error


def load(path: Path) -> tuple[keras.Model, ModelInfo]:
    """Reads a model and what it says of itself; executes nothing that is in the file.

    Returns:
        The model, u8[b h w 3] -> f32[b 1] or f32[b classes], not compiled; and how to use it.

    Raises:
        UserError: As of `read_info`, or Keras refuses it, or it is a model of other images or classes than it says.
    """
    info = read_info(path)
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # What Keras raises on a file of any origin is no narrower.
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise UserError(
            f"{path}: refused by Keras: {reason}. Only models of Keras's own layers, without Lambda, are loaded: no"
            " code of a file is executed."
        ) from error
    size, count = info.image_size, len(info.classes)
    expected = ((None, size, size, 3), (None, 1 if count == 2 else count))
    if (model.input_shape, model.output_shape) != expected:
        raise UserError(
            f"{path}: the model is {model.input_shape} -> {model.output_shape}, and its {MEMBER} asks for"
            f" {expected[0]} -> {expected[1]}. It was put together of two models: train again."
        )
    return model, info


def _parsed(text: bytes) -> ModelInfo:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is no object")
    if values.pop("format", None) != _FORMAT:
        raise ValueError("it is of another format; a newer version of this package may read it")
    return ModelInfo(**values | {"classes": tuple(values.get("classes", ()))})
