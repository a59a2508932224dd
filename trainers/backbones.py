"""Names of backbones, with their input sizes and scaling. Does not need TensorFlow."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

from tfrecord_tools.errors import UserError


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The input of a backbone.

    Attributes:
        scaling: Scaling of pixels 0..255, by the names of `keras.src.applications.imagenet_utils.preprocess_input`:
            "tf" (x / 127.5 - 1), "torch" ((x / 255 - mean) / deviation), "caffe" (BGR, x - mean), "unit" (x / 255) or
            "own" (the model scales by itself).
        image_size: Height and width in pixels for which its ImageNet weights were trained.
    """

    scaling: str
    image_size: int


CNN = "CNN"  # The network of the reference recipe, for training from scratch. The others are in `keras.applications`.
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


def find(name: str) -> Backbone:
    """Return a backbone by name.

    Raises:
        UserError: The name is unknown. The message suggests similar names.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    by_lower_case = {known.lower(): known for known in BACKBONES}
    near = [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case, n=3)]
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UserError(
        f"--backbone={name}: is not a known backbone. {hint}python -m trainers.finetune --help lists all"
        f" {len(BACKBONES)}."
    )


def check_weights(weights: str) -> None:
    """Check a value of --weights without reading the weights.

    Raises:
        UserError: The value is neither imagenet or none, nor the path of a weights file.
    """
    if weights in ("imagenet", "none"):
        return
    if not weights.endswith((".h5", ".hdf5")):
        raise UserError(f"--weights={weights}: must be imagenet, none, or the path of a .h5 or .weights.h5 file.")
    if not Path(weights).is_file():
        raise UserError(f"--weights={weights}: does not exist. Pass the path of a weights file, imagenet or none.")
