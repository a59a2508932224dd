"""Export a trained classifier for TensorFlow Serving, LiteRT or ONNX, and check its outputs.

    python -m trainers.export --run runs/finetune-… --format=saved_model
    python -m trainers.export --run runs/finetune-… --format=litert --quantize=int8 --tfrecords out/

A SavedModel takes encoded images or pixels; the other formats take pixels. All return a probability for each class.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags, logging

from tfrecord_tools.base import command, usage
from trainers.exporting import export_model
from trainers.exporting.export_model import ModelExportConfig
from trainers.models import model_file


def define_flags() -> None:
    usage.define_path("run", None, "Run directory of a trainer, or a .keras file of a trainer.")
    flags.DEFINE_enum(
        "format",
        ModelExportConfig.format,
        list(export_model.FORMATS),
        "Format to write. saved_model: TensorFlow and TensorFlow Serving; litert: Android, iOS and microcontrollers;"
        " onnx: ONNX Runtime.",
    )
    flags.DEFINE_enum(
        "quantize",
        ModelExportConfig.quantize,
        export_model.QUANTIZE,
        "Quantization with --format=litert. float16: half-precision weights; int8: 8-bit weights and activations.",
    )
    usage.define_path(
        "tfrecords",
        None,
        "Directory of a dataset with images to calibrate int8, and to compare the exported model with the Keras model."
        " Default: compare on generated images.",
    )
    flags.DEFINE_integer(
        "samples",
        ModelExportConfig.samples,
        "Largest number of records of --tfrecords to compare on, and to calibrate int8 on.",
    )
    flags.DEFINE_float(
        "tolerance",
        None,
        "Largest allowed difference of a probability from the Keras model. For int8: largest allowed share of images"
        " that get another class. Default: "
        + ", ".join(f"{name} {value:g}" for name, value in export_model.TOLERANCES.items())
        + ".",
    )
    usage.define_path("out", None, "Directory to write. Default: export/FORMAT[-QUANTIZE] in the run directory.")
    flags.DEFINE_float("threshold", None, model_file.THRESHOLD_HELP)
    flags.DEFINE_boolean("overwrite", ModelExportConfig.overwrite, "Replace an existing export.")


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
            f"note: the training images were prepared with {flags_of_images}. Prepare other images in the same way, as"
            " predict does (tfrecord_tools.images.prepare)"
        )


if __name__ == "__main__":
    define_flags()
    command.run(main)
