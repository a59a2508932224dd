"""Exports a trained classifier for TensorFlow (Serving), LiteRT or ONNX, and proves that it answers as before.

    python -m trainers.export --run runs/finetune-… --format=saved_model
    python -m trainers.export --run runs/finetune-… --format=litert --quantize=int8 --tfrecords out/

A SavedModel takes the bytes of images, and pixels; the others take pixels. All put out a probability for each class.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags, logging

from tfrecord_tools.base import command, usage
from trainers.exporting import export_model
from trainers.exporting.export_model import ModelExportConfig
from trainers.models import model_file


def define_flags() -> None:
    usage.define_path("run", None, "The run directory of a trainer, or a .keras file that one wrote.")
    flags.DEFINE_enum("format", ModelExportConfig.format, list(export_model.FORMATS), "What to write.")
    flags.DEFINE_enum(
        "quantize",
        ModelExportConfig.quantize,
        export_model.QUANTIZE,
        "Of LiteRT: weights in half precision, or all in int8.",
    )
    usage.define_path(
        "tfrecords",
        None,
        "A dataset directory to compare the answers on, and to calibrate int8; else images are drawn.",
    )
    flags.DEFINE_integer("samples", ModelExportConfig.samples, "How many of its records at most, for either.")
    flags.DEFINE_float(
        "tolerance",
        None,
        "Largest difference of a probability that passes; of int8, largest share of other classes. Default: "
        + ", ".join(f"{name} {value:g}" for name, value in export_model.TOLERANCES.items())
        + ".",
    )
    usage.define_path("out", None, "The directory to write; by default export/FORMAT[-QUANTIZE] in the run directory.")
    flags.DEFINE_float("threshold", None, model_file.THRESHOLD_HELP)
    flags.DEFINE_boolean("overwrite", ModelExportConfig.overwrite, "Replace an export that is there.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    config = command.from_flags(ModelExportConfig)
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs every file that it writes.
    exported = export_model.export(config)
    names = sorted(path.name for path in exported.directory.iterdir())
    print(f"export: {exported.directory}/ with {', '.join(names)}")
    print(f"check: {exported.check}")
    if flags_of_images := exported.info.preparation():
        print(
            f"note: its training's images were made with {flags_of_images}: make others alike, as predict does"
            " (tfrecord_tools.images.prepare)"
        )


if __name__ == "__main__":
    define_flags()
    command.run(main)
