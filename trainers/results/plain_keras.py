"""Write lines of Python that classify a picture with a trained model, without this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tfrecord_tools.decoding.geometry import FILL
from trainers.models import model_file
from trainers.models.model_file import ModelInfo

_INDENT = "  "
_WIDTH = 98  # If the class names do not fit into a line of this length, they are read from the model file.


def block(model: Path, info: ModelInfo, codes: Sequence[str] = ()) -> list[str]:
    """Return lines for the console that show how to classify a picture: a title and a program.

    The program prints the class of the picture photo.jpg. It needs Keras and Pillow only. The picture is turned
    upright, fitted into the input and resized as in training. The pixels are those of Pillow, which may differ by a few
    gray levels.

    Args:
        model: The model file.
        info: The description of the model.
        codes: Modules and files that register custom layers of the model. The program runs them.
    """
    prepared = info.preparation()
    note = f" (trainers.predict also applies {prepared} of the dataset)" if prepared else ""
    lines = [*map(_registering, codes), *_program(model, info)]
    return [f"to classify a picture with Keras alone{note}:", *(_INDENT + line for line in lines)]


def _registering(code: str) -> str:
    return f"import runpy; runpy.run_path({code!r})" if code.endswith(".py") else f"import {code}"


def _program(model: Path, info: ModelInfo) -> list[str]:
    file = repr(str(model))
    names = list(info.classes)
    if len(names) == 2:
        answer = f"print({names[1]!r} if p[0] >= {info.threshold:g} else {names[0]!r})"
    else:
        answer = f"print({names!r}[keras.ops.argmax(p)])"
    if len(_INDENT + answer) <= _WIDTH:
        return ["; ".join(("import keras", *_imports(info))), _photo(info), _probabilities(file), answer]
    label = f"int(p[0] >= {info.threshold:g})" if len(names) == 2 else "keras.ops.argmax(p)"
    members = f"['{model_file.KEY}']['classes']"
    return [
        "; ".join(("import json, keras, zipfile", *_imports(info))),
        f"file = {file}",
        _photo(info),
        _probabilities("file"),
        f"names = json.load(zipfile.ZipFile(file).open('{model_file.MEMBER}')){members}",
        f"print(names[{label}])",
    ]


def _imports(info: ModelInfo) -> Sequence[str]:
    fitting = {"crop": ["fit"], "pad": ["pad"], "stretch": []}[info.geometry.fit]
    names = ["exif_transpose"] * bool(info.images) + fitting
    return [f"from PIL.ImageOps import {', '.join(names)}"] if names else []


def _photo(info: ModelInfo) -> str:
    """Return the line that reads the picture.

    Images of adopted records were not turned before training. So the line does not turn pictures either.
    """
    photo = "keras.utils.load_img('photo.jpg')"
    if info.images:
        photo = f"exif_transpose({photo})"
    geometry = info.geometry
    size = f"({geometry.width}, {geometry.height})"  # The number 2 is Pillow's Resampling.BILINEAR.
    if geometry.fit == "stretch":
        return f"photo = {photo}.resize({size}, 2)"
    if geometry.fit == "pad":
        return f"photo = pad({photo}, {size}, 2, '#{3 * f'{FILL:02x}'}')"
    bleed = round((1 - geometry.crop) / 2, 6)
    return f"photo = fit({photo}, {size}, method=2" + (f", bleed={bleed:g})" if bleed else ")")


def _probabilities(file: str) -> str:
    return f"p = keras.models.load_model({file})(keras.utils.img_to_array(photo)[None])[0]"
