"""Export a trained classifier for TensorFlow Serving, LiteRT or ONNX, and check its outputs.

    python -m trainers.export --run runs/finetune-… --format=saved_model
    python -m trainers.export --run runs/finetune-… --format=litert --quantize=int8 --tfrecords out/

The input of a SavedModel is encoded images (such as JPEG) or pixels. The input of the other formats is pixels. The
output is a probability for each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import logging

from tfrecord_tools.base import cache_options, callable_module, command, options
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.base.options import Option
from trainers.exporting import export_model
from trainers.exporting.export_model import Exported, ModelExportConfig
from trainers.models import keras_files, model_file

OPTIONS = (
    Option("run", "path", "Run directory or .keras file of a training."),
    Option(
        "format",
        "text",
        "Format to write. saved_model: for TensorFlow and TensorFlow Serving; litert: for Android, iOS and"
        " microcontrollers; onnx: for ONNX Runtime.",
        default=ModelExportConfig.format,
        choices=tuple(export_model.FORMATS),
    ),
    Option(
        "quantize",
        "text",
        "Quantization for --format=litert. none: float32 weights; float16: half-precision weights; int8: 8-bit weights"
        " and activations.",
        default=ModelExportConfig.quantize,
        choices=export_model.QUANTIZE,
    ),
    Option(
        "tfrecords",
        "path",
        "Directory of a dataset, or its URL in a bucket, such as s3://bucket/pets. The images in the dataset are used"
        " to calibrate int8, and to compare the exported model with the Keras model. Default: both models are compared"
        " on generated images.",
    ),
    *cache_options.OPTIONS,
    Option(
        "samples",
        "integer",
        "Largest number of records to use from --tfrecords, both to compare the models and to calibrate int8. Default:"
        f" {export_model.SAMPLES}.",
    ),
    Option(
        "tolerance",
        "number",
        "Largest allowed difference between a probability of the exported model and of the Keras model. For int8:"
        " largest allowed share of images that get another class. Default: "
        + ", ".join(f"{name} {value:g}" for name, value in export_model.TOLERANCES.items())
        + ".",
    ),
    Option(
        "out",
        "path",
        "Directory to write. Default: export/FORMAT in the run directory, or export/FORMAT-QUANTIZE with --quantize.",
        written=True,
    ),
    Option("threshold", "number", model_file.THRESHOLD_HELP),
    Option("overwrite", "switch", "Replace an existing export.", default=ModelExportConfig.overwrite),
    keras_files.OPTION,
)


def export(
    *,
    run: StrPath,
    format: str = ModelExportConfig.format,
    quantize: str = ModelExportConfig.quantize,
    tfrecords: StrPath | None = None,
    cache_dir: StrPath | None = None,
    cache_bytes: int | None = None,
    samples: int | None = None,
    tolerance: float | None = None,
    out: StrPath | None = None,
    threshold: float | None = None,
    overwrite: bool = ModelExportConfig.overwrite,
    custom_objects: str | Sequence[str] = (),
) -> Exported:
    """Export a trained classifier and compare it with the Keras model. If this fails, nothing is written.

    Args:
        run: A run directory or a model file.
        format: "saved_model", "litert" or "onnx".
        quantize: "none", "float16" or "int8". Only for LiteRT.
        tfrecords: A dataset directory, or its URL, with images to calibrate "int8" and to compare the models. If None,
            the models are compared on generated images.
        cache_dir: As in `records.open_dataset`. Only with `tfrecords`.
        cache_bytes: As in `records.open_dataset`. Only with `tfrecords`.
        samples: Largest number of records for calibration and for comparison, at least 1. If None, 256. Only with
            `tfrecords`.
        tolerance: Largest allowed difference of a probability from the Keras model, 0..1. For "int8": largest allowed
            share of images that get another class, 0..1. If None, the value in `export_model.TOLERANCES`.
        out: Directory to write. If None, `export/FORMAT[-QUANTIZE]` next to the model.
        threshold: For two-class models: the second class is chosen if its probability is at least this value. If None,
            the threshold of the model.
        overwrite: Whether to replace an existing export.
        custom_objects: Modules and files that register the custom layers of the model. They are imported.

    Returns:
        The directory, the description of the model, and its comparison with the Keras model.

    Raises:
        UserError: An argument is not allowed, the model cannot be exported, or the outputs differ by more than the
            tolerance.

    Example:
        trainers.export(run="runs/pets", format="litert").directory
    """
    given: dict[str, Any] = {
        "run": run,
        "format": format,
        "quantize": quantize,
        "tfrecords": tfrecords,
        "cache_dir": cache_dir,
        "cache_bytes": cache_bytes,
        "samples": samples,
    }
    given |= {"tolerance": tolerance, "out": out, "threshold": threshold, "overwrite": overwrite}
    given |= {"custom_objects": custom_objects}
    config = ModelExportConfig(**options.checked(OPTIONS, given))
    return export_model.export(config)


def define_flags() -> None:
    options.define(OPTIONS)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    config = command.from_flags(ModelExportConfig)
    logging.set_verbosity(logging.WARNING)  # Without this, TensorFlow logs every file that it writes.
    exported = export_model.export(config)
    names = sorted(path.name for path in exported.directory.iterdir())
    print(f"export: {exported.directory}/ with {', '.join(names)}")
    print(f"check: {exported.check}")
    if flags_of_images := exported.info.preparation():
        print(
            f"note: the training images were prepared with {flags_of_images}. Prepare new images in the same way:"
            " with tfrecord_tools.images.prepare, which trainers.predict also uses"
        )


callable_module.make(__name__, export)

if __name__ == "__main__":
    define_flags()
    command.run(main)
