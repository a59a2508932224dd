"""The names of all backbones, with the image size and scaling of each. Does not need TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.base import files, sizes, user_code
from tfrecord_tools.base.sizes import Size
from tfrecord_tools.errors import UserError


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The input of a backbone.

    Attributes:
        scaling: Scaling of pixels 0..255, by the names of `keras.src.applications.imagenet_utils.preprocess_input`:
            "tf" (x / 127.5 - 1), "torch" ((x / 255 - mean) / deviation), "caffe" (BGR, x - mean), "unit" (x / 255) or
            "own" (the network itself scales the pixels).
        image_size: Height and width of the images in pixels for which the weights were trained: one number for a
            square, else a pair.
    """

    scaling: str
    image_size: Size


CNN = "CNN"  # A small network for training from scratch. All other networks are in `keras.applications`.
BACKBONES = {
    CNN: Backbone("unit", 150),
    "ConvNeXtBase": Backbone("own", 224),
    "ConvNeXtLarge": Backbone("own", 224),
    "ConvNeXtSmall": Backbone("own", 224),
    "ConvNeXtTiny": Backbone("own", 224),
    "ConvNeXtXLarge": Backbone("own", 224),
    "DenseNet121": Backbone("torch", 224),
    "DenseNet169": Backbone("torch", 224),
    "DenseNet201": Backbone("torch", 224),
    "EfficientNetB0": Backbone("own", 224),
    "EfficientNetB1": Backbone("own", 240),
    "EfficientNetB2": Backbone("own", 260),
    "EfficientNetB3": Backbone("own", 300),
    "EfficientNetB4": Backbone("own", 380),
    "EfficientNetB5": Backbone("own", 456),
    "EfficientNetB6": Backbone("own", 528),
    "EfficientNetB7": Backbone("own", 600),
    "EfficientNetV2B0": Backbone("own", 224),
    "EfficientNetV2B1": Backbone("own", 240),
    "EfficientNetV2B2": Backbone("own", 260),
    "EfficientNetV2B3": Backbone("own", 300),
    "EfficientNetV2L": Backbone("own", 480),
    "EfficientNetV2M": Backbone("own", 480),
    "EfficientNetV2S": Backbone("own", 384),
    "InceptionResNetV2": Backbone("tf", 299),
    "InceptionV3": Backbone("tf", 299),
    "MobileNet": Backbone("tf", 224),
    "MobileNetV2": Backbone("tf", 224),
    "MobileNetV3Large": Backbone("own", 224),
    "MobileNetV3Small": Backbone("own", 224),
    "NASNetLarge": Backbone("tf", 331),
    "NASNetMobile": Backbone("tf", 224),
    "ResNet101": Backbone("caffe", 224),
    "ResNet101V2": Backbone("tf", 224),
    "ResNet152": Backbone("caffe", 224),
    "ResNet152V2": Backbone("tf", 224),
    "ResNet50": Backbone("caffe", 224),
    "ResNet50V2": Backbone("tf", 224),
    "VGG16": Backbone("caffe", 224),
    "VGG19": Backbone("caffe", 224),
    "Xception": Backbone("tf", 299),
}


SCALINGS = ("own", "unit", "tf", "torch", "caffe")
KERAS_HUB = "keras_hub:"  # The name of a preset of KerasHub follows.
IMAGENET, NONE, OWN = "imagenet", "none", "own"  # Values of --weights that are not files.
FORMS = f"MODULE:FUNCTION, FILE.py:FUNCTION, FILE.keras or {KERAS_HUB}PRESET"  # How the user names other networks.
_IMAGE_SIZE = 224  # For networks without a known image size.


def is_known(name: str) -> bool:
    """Return whether a name is in `BACKBONES`."""
    return name in BACKBONES


def is_own(name: str) -> bool:
    """Return whether a name has one of the forms in `FORMS`."""
    return is_file(name) or name.startswith(KERAS_HUB) or user_code.is_named(name)


def is_file(name: str) -> bool:
    """Return whether a name has the form of a Keras file."""
    return name.endswith(".keras") and not name.startswith(KERAS_HUB)


def find(name: str, flag: str = "backbone") -> Backbone:
    """Return a backbone by name.

    Args:
        name: A name in `BACKBONES`, or one of the forms in `FORMS`.
        flag: Name of the flag, for errors.

    Raises:
        UserError: The name is unknown (the message suggests similar names), or the file does not exist.
    """
    if is_known(name):
        return BACKBONES[name]
    if is_file(name):
        return Backbone(OWN, size_in_file(file_of(name, flag)) or _IMAGE_SIZE)
    if name.startswith(KERAS_HUB):
        if importlib.util.find_spec("keras_hub") is None:
            raise UserError(f"--{flag}={name}: KerasHub is not installed. Run pip install 'tfrecord-tools[hub]'.")
        return Backbone(OWN, _IMAGE_SIZE)
    if user_code.is_named(name):
        user_code.check(name, f"--{flag}=")
        return Backbone(OWN, _IMAGE_SIZE)
    by_lower_case = {known.lower(): known for known in BACKBONES}
    near = [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case, n=3)]
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UserError(
        f"--{flag}={name}: is not a known backbone. {hint}python -m trainers.finetune --help lists all"
        f" {len(BACKBONES)} backbones. For another network, pass {FORMS}."
    )


def file_of(name: str, flag: str = "backbone") -> Path:
    """Return the path of a Keras file.

    Raises:
        UserError: The file does not exist.
    """
    path = Path(files.expand_user(name, f"--{flag}="))
    if not path.is_file():
        raise UserError(f"--{flag}={name}: does not exist. Pass the path of a .keras file.")
    return path


def size_in_file(path: Path) -> Size | None:
    """Return the image size of the network in a Keras file; None if it is not fixed or not known.

    Damaged files are reported later, when they are loaded.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config: Any = json.loads(archive.read("config.json"))["config"]
        layers = config.get("layers", ())
        inputs = [layer["config"]["batch_shape"] for layer in layers if layer["class_name"] == "InputLayer"]
        shape = inputs[0][1:] if inputs else config["image_shape"]  # KerasHub backbones have no list of layers.
        return sizes.parse([int(side) for side in shape[:2]])
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def check_weights(weights: str) -> None:
    """Check a value of --weights without reading the weights.

    Raises:
        UserError: The value is not imagenet, none, own, or the path of a weights file.
    """
    if weights in (IMAGENET, NONE, OWN):
        return
    if not weights.endswith((".h5", ".hdf5")):
        raise UserError(f"--weights={weights}: must be imagenet, none, or the path of a .h5 or .weights.h5 file.")
    if not Path(weights).is_file():
        raise UserError(
            f"--weights={weights}: does not exist. Pass imagenet, none, or the path of an existing weights file."
        )


def hashes(name: str, custom_objects: Sequence[str] = (), flag: str = "backbone") -> dict[str, str]:
    """Return hashes and versions that identify a network together with its name and its arguments.

    This imports the code of the user.

    Args:
        name: A name as in `find`.
        custom_objects: Modules and files with the custom layers of a Keras file.
        flag: Name of the flag, for errors.

    Returns:
        Description -> value. For a Keras file or a function of the user, the SHA-256 of the file. For a KerasHub
        preset, the version of KerasHub. For a known backbone, nothing. The SHA-256 of each file in `custom_objects` is
        added.

    Raises:
        UserError: The file, the function or a module does not exist, or its code fails.
    """
    codes = {f"sha256 of {code}": user_code.sha256_of_code(code, "--custom_objects=") for code in custom_objects}
    if is_known(name):
        return codes
    if is_file(name):
        return {f"sha256 of {name}": sha256(file_of(name, flag))} | codes
    if name.startswith(KERAS_HUB):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return {"keras_hub": importlib.metadata.version("keras-hub")} | codes
        return codes
    return {f"sha256 of {name}": user_code.sha256_of_function(name, f"--{flag}=")} | codes


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
