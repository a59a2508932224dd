"""The backbones by name, with what is known of each before TensorFlow is imported."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from pathlib import Path
from typing import Any

from tfrecord_tools.errors import UserError


@dataclasses.dataclass(frozen=True)
class Backbone:
    """What a network expects.

    Attributes:
        scaling: How pixels in 0..255 become its input, by the names of
            `keras.src.applications.imagenet_utils.preprocess_input`: "tf" (x / 127.5 - 1), "torch" ((x / 255 - mean)
            / deviation), "caffe" (BGR, x - mean), or "own" (the model scales by itself).
        image_size: Height and width in pixels that its ImageNet weights were trained at.
    """

    scaling: str
    image_size: int


CNN = "CNN"  # The notes' network, for training from scratch; the others are names in `keras.applications`.
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
    """Looks a backbone up.

    Raises:
        UserError: There is none of this name; the near ones are named.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    by_lower_case = {known.lower(): known for known in BACKBONES}
    near = [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case, n=3)]
    meant = f"did you mean {' or '.join(near)}?" if near else "nothing comes near it."
    where = f"python -m trainers.finetune --help lists all {len(BACKBONES)}."
    raise UserError(f"--backbone={name}: unknown; {meant} {where}")


def check_weights(weights: str) -> None:
    """Checks what can be known of a --weights value without reading weights.

    Raises:
        UserError: Neither a word that is known nor a weights file.
    """
    if weights in ("imagenet", "none"):
        return
    if not weights.endswith((".h5", ".hdf5")):
        raise UserError(f"--weights={weights}: imagenet, none, or a .h5 or .weights.h5 file is expected.")
    if not Path(weights).is_file():
        raise UserError(f"--weights={weights}: there is no such file.")


def parse_kwargs(flag: str, text: str, example: str = "alpha=0.25,minimalistic=True") -> dict[str, Any]:
    """Reads `name=value,name=value`, the values as Python literals: `alpha=0.25,minimalistic=True`.

    Args:
        flag: The name of the flag that the text was given by.
        text: What was given.
        example: For the message.

    Raises:
        UserError: A part that is no `name=literal`, or a name given twice.
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body  # Python's own grammar splits at the right commas.
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        names = [name for name in kwargs if name is not None]
        if len(names) < len(call.keywords):  # A name given twice, or a `**`.
            raise ValueError
    except (SyntaxError, ValueError):
        raise UserError(
            f"--{flag}={text}: not understood; name=value pairs with Python literals are, "
            f"separated by commas, as in {example}."
        ) from None
    return {name: kwargs[name] for name in names}
