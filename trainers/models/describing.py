"""Describe a model of another program, so that `predict`, `evaluate` and `export` can use it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.base import options
from tfrecord_tools.base.files import StrPath, paths
from tfrecord_tools.base.options import Option
from tfrecord_tools.base.sizes import Size
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.errors import UserError
from trainers import backbones
from trainers.models import keras_files, model_file
from trainers.models.model_file import ModelInfo

_OPTIONS = (
    Option("classes", "names", "Class names in the order of the model's outputs."),
    Option("image_size", "size", "Height and width of the model's input in pixels."),
    Option(
        "crop",
        "number",
        "Size of the central region that the model gets, as a fraction of the largest possible region. 0: the model"
        " gets the whole image, stretched.",
    ),
    Option(
        "threshold",
        "number",
        "For two classes: the second class is chosen if its probability is at least this number, from 0 to 1.",
    ),
    Option("logits", "switch", "Whether the outputs are logits."),
    keras_files.OPTION,
)
_PIXELS = "uint8 RGB in 0..255, scaled inside of the model"


def describe_model(
    path: StrPath,
    *,
    out: StrPath,
    classes: str | Sequence[str],
    image_size: Size | None = None,
    crop: float = 0.0,
    fit: str | None = None,
    scaling: str = backbones.OWN,
    threshold: float = 0.5,
    logits: bool = False,
    custom_objects: str | Sequence[str] = (),
) -> Path:
    """Write a copy of a Keras model with the description that `predict`, `evaluate` and `export` need.

    The copy takes pixels u8[b h w 3] in 0..255 and returns probabilities f32[b 1] or f32[b classes], as the models of
    the trainers do. If a model of two classes returns two probabilities, the copy returns the second.

    Args:
        path: The .keras file of a classifier.
        out: File to write.
        classes: Class names in the order of the model's outputs. A single output is the probability of the second
            class.
        image_size: Height and width of the model's input in pixels: one number for a square, or a pair. If None, the
            size in the file.
        crop: The largest central region with the shape of the input is cropped to this share of its height and width,
            0..1. The model gets the result. 0: the model gets the whole image, stretched.
        fit: As in `Geometry.of`. If None, "crop" if `crop` is above 0, else "stretch".
        scaling: How the copy scales pixels 0..255 before they reach the model, as in `recipes.ModelConfig`. "own": the
            model scales them itself.
        threshold: For two classes: the second class is chosen if its probability is at least this number, 0..1.
        logits: Whether the outputs are logits. The copy then applies a sigmoid or a softmax.
        custom_objects: Modules and files that register the custom layers of the model. They are imported.

    Returns:
        The path of the copy.

    Raises:
        UserError: The file cannot be read, or the model does not take images or does not return one value per class.

    Example:
        trainers.describe_model("theirs.keras", out="ours.keras", classes=["cats", "dogs"], scaling="tf")
    """
    import keras

    from trainers.models import cutting, networks, own_networks

    given = paths(path=path, out=out)
    values: dict[str, Any] = {"classes": classes, "custom_objects": custom_objects, "logits": logits}
    values |= {"image_size": image_size, "crop": crop, "threshold": threshold}
    values = options.checked(_OPTIONS, values)
    classes, custom_objects, image_size = values["classes"], values["custom_objects"], values.get("image_size")
    source, target = model_file.find(given["path"], "run"), Path(given["out"])
    if target.suffix != source.suffix or target.absolute() == source.absolute():
        raise UserError(
            f"out={target}: must be a .keras file, and not the file of the given model. Pass the name of a new file."
        )
    if not target.parent.is_dir():
        raise UserError(f"out={target}: the folder {target.parent} does not exist. Create it first.")
    if scaling not in backbones.SCALINGS:
        raise UserError(f"scaling={scaling}: must be one of {', '.join(backbones.SCALINGS)}.")
    keras_files.metadata(source)
    model = keras_files.load(source, custom_objects)
    size = image_size or backbones.size_in_file(source)
    if size is None:
        raise UserError(
            f"{source}: takes images of any size. Pass image_size=N, the size of the images in its training."
        )
    try:
        geometry = Geometry.of(size, values["crop"], fit)
        info = ModelInfo(
            classes=tuple(classes),
            image_size=geometry.image_size,
            crop=geometry.crop,
            fit=geometry.stored().get("fit"),
            threshold=values["threshold"],
            pixels=_PIXELS,
        )
    except ValueError as error:
        raise UserError(f"{source}: {error}. Pass other values to describe_model.") from error
    with keras_files.dtype_policy("float32"):
        model.name = own_networks.free_name(model.name)
        pixels = keras.Input(geometry.shape, dtype="uint8", name="pixels")
        try:
            outputs = model(networks.scale(pixels, scaling))
        except Exception as error:  # Keras raises errors of many types.
            raise UserError(
                f"{source}: cannot be called with images of {geometry.height} x {geometry.width} pixels. Pass the"
                " image_size of the model. The model must take images only."
            ) from error
        if logits and cutting.has_activation(keras.Model(pixels, outputs)):
            raise UserError(f"{source}: returns probabilities. Remove logits=True.")
        outputs = _checked(outputs, len(classes), logits, source)
        if not own_networks.returns_probabilities(keras.Model(pixels, outputs), geometry.shape):
            raise UserError(
                f"{source}: does not return probabilities. If it returns logits, pass logits=True. If the model"
                " needs scaled pixels, pass scaling."
            )
        if len(classes) == 2 and outputs.shape[1] == 2:
            outputs = outputs[:, 1:]
        model_file.save(keras.Model(pixels, outputs, name="classifier"), info, target, custom_objects)
    return target


def _checked(outputs: Any, class_count: int, logits: bool, source: Path) -> Any:
    """Check the shape of outputs, cast them to float32, and make probabilities of logits."""
    import keras

    shape = tuple(getattr(outputs, "shape", ()))  # A list of outputs has no shape.
    allowed = [(None, class_count), (None, 1)] if class_count == 2 else [(None, class_count)]
    if shape not in allowed:
        raise UserError(
            f"{source}: returns {shape or type(outputs).__name__} for {class_count} classes, but must return"
            f" {' or '.join(map(str, allowed))}. Pass the names of all classes of the model, in the order of its"
            " outputs."
        )
    activation = "linear" if not logits else ("sigmoid" if shape[1] == 1 else "softmax")
    if not logits and outputs.dtype == "float32":
        return outputs
    return keras.layers.Activation(activation, dtype="float32", name="probabilities")(outputs)
