"""The file of a trained classifier: a Keras file with a description in its `metadata.json`.

A `.keras` file is a zip archive of three members. `keras.models.load_model` can read a model file like any other Keras
file. The description is not a fourth member, because Keras would then unpack the archive to a temporary directory. No
code in the file is executed: there is no pickle and no Lambda layer. A network of the user may have custom layers.
Python imports their module only if the user names it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfrecord_tools.base import files
from tfrecord_tools.base.sizes import Size
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.errors import UserError, one_line
from tfrecord_tools.images.preparation import ImageConfig
from tfrecord_tools.layout import dataset_files
from tfrecord_tools.records import Dataset
from trainers import backbones, run_directory
from trainers.models import keras_files

if TYPE_CHECKING:
    import keras

MEMBER = keras_files.METADATA
KEY = "classifier"  # Key of the description in `metadata.json`.
OUTPUTS = "outputs"  # Key of a sentence that explains the outputs.
_SUFFIX = ".keras"  # Required by Keras.
_FORMAT = 1  # Increased when older readers would misunderstand the description.
_FORMAT_OF_GEOMETRY = 2  # Used if the input is not a square, or if images are padded.
THRESHOLD_HELP = (
    "A probability between 0 and 1, for models with two classes. The second class is chosen if its probability is at"
    " least this number. Default: the threshold that is stored in the model."
)
_IMAGE_SETTINGS = ImageConfig().image_settings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Description of a trained classifier: how to prepare images for it, and where it comes from.

    The model takes pixels 0..255 and scales them itself. Prepare an image with `images.prepare` and `image_config()`,
    then decode it with `reference.decode_pixels`, `geometry` and `raw_size`.

    Attributes:
        classes: Class names in the order of the labels. A two-class model returns the probability of the second class.
        image_size: Height and width of the model's input in pixels: one number for a square, else a pair.
        crop: As in `Geometry.of`.
        fit: As in `Geometry.of`. It is stored in the file only if it is "pad".
        threshold: For two-class models: the second class is chosen if its probability is at least this number, 0..1.
        images: How the images of the dataset were prepared, from `ImageConfig.image_settings`. Empty for adopted
            records that were not rewritten: their images are unchanged.
        pixels: Description of the model's input.
        trainer: Name of the trainer.
        dataset_name: Name of the training dataset.
        dataset_digest: Digest of the training dataset.
        versions: Package name -> version.
    """

    classes: tuple[str, ...]
    image_size: Size
    crop: float = 0.0
    fit: str | None = None
    threshold: float = 0.5
    images: Mapping[str, Any] = dataclasses.field(default_factory=lambda: dict(_IMAGE_SETTINGS))
    pixels: str = "uint8 RGB in 0..255, scaled inside of the model"
    trainer: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=run_directory.versions)

    def __post_init__(self) -> None:
        """Check all values, since they may come from a file of unknown origin."""
        names = self.classes
        if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"classes are {list(names)}, but must be two or more distinct names")
        if not isinstance(self.versions, Mapping):
            raise ValueError(f"versions are {self.versions!r}, but must be a JSON object")
        texts = [self.pixels, self.trainer, self.dataset_name, self.dataset_digest, *self.versions]
        for text in (*names, *texts, *self.versions.values()):
            if not _is_line(text):
                raise ValueError(f"{text!r} is not a line of printable text")
        sides = self.image_size if isinstance(self.image_size, tuple) else (self.image_size,)
        if len(sides) not in (1, 2) or not all(isinstance(side, int) and side >= 1 for side in sides):
            raise ValueError(f"image_size is {self.image_size!r}, but must be one or two whole numbers of at least 1")
        for name in ("crop", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be from 0 to 1")
        for name, check in (("images", self.image_config), ("geometry", lambda: self.geometry)):
            try:
                check()
            except UserError as error:
                raise ValueError(f"{name}: {one_line(error)}") from error

    @property
    def geometry(self) -> Geometry:
        """How an image becomes the input of the model."""
        return Geometry.of(self.image_size, self.crop, self.fit)

    def image_config(self) -> ImageConfig:
        """Return the settings that prepare an image file in the same way as the images of the dataset."""
        settings = dict(self.images)
        repair = settings.pop("repair", False)
        return ImageConfig(on_bad_image="repair" if repair else "skip", **settings)

    @property
    def outputs(self) -> str:
        """The meaning of the model's outputs, in words."""
        if len(self.classes) == 2:
            first, second = self.classes
            return f"probability of {second} (class 1); 1 - it is the probability of {first} (class 0)"
        return f"probabilities of the {len(self.classes)} classes, in the order of the classes; their sum is 1"

    def preparation(self) -> str:
        """Return the flags of `convert` that prepared the images, without defaults; "" if all are defaults."""
        settings = {name: value for name, value in self.images.items() if value != _IMAGE_SETTINGS.get(name)}
        return " ".join(f"--{name}={value}" for name, value in settings.items())

    @property
    def raw_size(self) -> int | None:
        """Height and width of raw images in pixels, as in `records.Dataset`. None for encoded images."""
        config = self.image_config()
        return config.resize if config.store == "raw" else None


def describe(data: Dataset, *, image_size: Size | Geometry, crop: float = 0.0, trainer: str) -> ModelInfo:
    """Make the description of a model that is trained on a dataset.

    Args:
        data: The training dataset.
        image_size: Height and width of the model's input in pixels. If it is a `Geometry`, `crop` is not used.
        crop: As in `Geometry.of`.
        trainer: Name of the trainer.

    Raises:
        UserError: The dataset has a class name that cannot be written to a model file.
    """
    geometry = Geometry.of(image_size, crop)
    config = dataset_files.read(data.directory)["config"]
    prepared = {name: config.get(name, default) for name, default in _IMAGE_SETTINGS.items()}
    try:
        return ModelInfo(
            classes=data.class_names,
            image_size=geometry.image_size,
            crop=geometry.crop,
            fit=geometry.stored().get("fit"),
            images={} if config.get("adopted") and not config.get("rewritten") else prepared,
            trainer=trainer,
            dataset_name=data.name,
            dataset_digest=data.digest,
        )
    except ValueError as error:
        raise UserError(
            f"--tfrecords={data.location}: {error}. Convert or adopt the dataset again, with other class names."
        ) from error


def find(run: str, flag: str = "run") -> Path:
    """Find the model file.

    Args:
        run: A run directory, or a model file.
        flag: Name of the flag, for errors.

    Returns:
        The path of the model file.

    Raises:
        UserError: There is no model file.
    """
    path = Path(run)
    if path.is_dir():
        model = path / run_directory.MODEL
        if model.is_file():
            return model
        if (path / run_directory.SETTINGS).is_file():
            raise UserError(
                f"--{flag}={run}: the training is unfinished, so there is no {model.name} yet. Run the command of the"
                " training again to finish it."
            )
        raise UserError(
            f"--{flag}={run}: is not a run directory, since it has no {model.name}. Pass the run directory of a"
            " trainer."
        )
    if not path.exists():
        raise UserError(f"--{flag}={run}: does not exist. Pass the run directory of a trainer, or a .keras file.")
    if path.suffix != _SUFFIX:
        raise UserError(f"--{flag}={run}: is not a .keras file. Pass a .keras file, or the run directory of a trainer.")
    return path


def save(model: keras.Model, info: ModelInfo, path: Path, custom_objects: Sequence[str] = ()) -> None:
    """Write a model file. At any moment, either the old or the new file exists completely.

    Args:
        model: The model.
        info: The description of the model.
        path: The file.
        custom_objects: Modules and files that register custom layers. Readers print them, but do not import them.
    """
    more = {keras_files.CUSTOM_OBJECTS: list(custom_objects)} if custom_objects else {}
    # No other process and no file of the user has this name.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as directory:
        temporary = Path(directory, f"unfinished{_SUFFIX}")
        model.save(temporary)
        with zipfile.ZipFile(temporary) as archive, files.atomic(path) as file, zipfile.ZipFile(file, "w") as output:
            for member in archive.infolist():
                large = member.file_size > 1 << 30
                with archive.open(member) as source, output.open(member.filename, "w", force_zip64=large) as copy:
                    if member.filename == MEMBER:
                        # The sentence is not in the description: older readers refuse a description with new keys.
                        added = {KEY: _described(info), OUTPUTS: info.outputs} | more
                        copy.write(json.dumps(json.load(source) | added, indent=2).encode())
                    else:
                        shutil.copyfileobj(source, copy)


def is_described(path: Path) -> bool:
    """Return whether a Keras file has a description. Files that other programs wrote do not have one.

    Raises:
        UserError: As in `keras_files.metadata`.
    """
    return KEY in keras_files.metadata(path)


def read_info(path: Path) -> ModelInfo:
    """Read the description in a model file and verify the checksums of all members.

    It does not need TensorFlow.

    Raises:
        UserError: The file is not a model file, is damaged, or was not written by this package.
    """
    values = keras_files.metadata(path)
    if KEY not in values:
        raise UserError(
            f"{path}: the class names and image settings are missing in the {MEMBER} of this file."
            f" {_how_to_describe(path)}"
        )
    try:
        return _parsed(values[KEY])
    except (ValueError, TypeError) as error:
        raise keras_files.damaged_metadata(path, error) from error


def _how_to_describe(path: Path) -> str:
    """Return advice for a model that another program has saved."""
    size = backbones.size_in_file(path) or 224
    out = path.with_name(f"{path.stem}-described{_SUFFIX}")
    return (
        "In Python, write a copy of the model with them. Use your own values in this command: import trainers;"
        f" trainers.describe_model({str(path)!r}, out={str(out)!r}, classes=['cats', 'dogs'], image_size={size},"
        " crop=0.0, scaling='own')"
    )


def with_threshold(info: ModelInfo, threshold: float | None) -> ModelInfo:
    """Return the description with another threshold, or unchanged if the threshold is None.

    Raises:
        UserError: The threshold is not between 0 and 1, or the model does not have two classes.
    """
    if threshold is None:
        return info
    if len(info.classes) != 2:
        raise UserError(
            f"--threshold={threshold:g}: applies to two-class models only. This model has {len(info.classes):,}"
            " classes. Remove the flag."
        )
    if not 0 < threshold < 1:
        raise UserError(f"--threshold={threshold:g}: must be above 0 and below 1.")
    return dataclasses.replace(info, threshold=threshold)


def load(
    path: Path, info: ModelInfo | None = None, custom_objects: Sequence[str] = ()
) -> tuple[keras.Model, ModelInfo]:
    """Read a model and its description. No code is run, except the modules and files in `custom_objects`.

    Args:
        path: The model file.
        info: The result of an earlier call of `read_info`. If None, `read_info` is called. It reads the whole file.
        custom_objects: Modules and files that register the custom layers of the model.

    Returns:
        The model u8[b h w 3] -> f32[b 1] or f32[b classes], not compiled, and its description.

    Raises:
        UserError: `read_info` fails, Keras cannot load the model, or the description does not fit the model.
    """
    info = info or read_info(path)
    model = keras_files.load(path, custom_objects)
    count = len(info.classes)
    expected = ((None, *info.geometry.shape), (None, 1 if count == 2 else count))
    shapes = (getattr(model, "input_shape", None), getattr(model, "output_shape", None))  # Some models have none.
    if shapes != expected:
        raise UserError(
            f"{path}: the model has the shapes {shapes[0]} -> {shapes[1]}, but {MEMBER} in this file describes the"
            f" shapes {expected[0]} -> {expected[1]}. The file is a mixture of two models. Train again."
        )
    return model, info


def _parsed(values: Any) -> ModelInfo:
    if not isinstance(values, dict):
        raise ValueError(f"its {KEY} is not a JSON object")
    if values.pop("format", None) not in (_FORMAT, _FORMAT_OF_GEOMETRY):
        raise ValueError("its format is not known. Perhaps a newer version of this package can read it")
    if isinstance(values.get("image_size"), list):
        values["image_size"] = tuple(values["image_size"])
    return ModelInfo(**values | {"classes": tuple(values.get("classes", ()))})


def _described(info: ModelInfo) -> dict[str, Any]:
    """Return the description as JSON values. Older readers can only read squares without padding."""
    values = dataclasses.asdict(info)
    del values["fit"]
    values |= info.geometry.stored()
    is_old = isinstance(values["image_size"], int) and "fit" not in values
    return {"format": _FORMAT if is_old else _FORMAT_OF_GEOMETRY, **values}


def _is_line(text: Any) -> bool:
    """Return whether a value is text that can be printed: no control characters, no surrogates."""
    return isinstance(text, str) and not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)
