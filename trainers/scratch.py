"""Train a network from random weights, on a dataset or on CSVs of pixels.

    python -m trainers.scratch --tfrecords out/
    python -m trainers.scratch --csv csv/

CSVs from tfrecord_tools.to_csv are first converted to TFRecords next to them. The default of --image_size is then the
size of their images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from tfrecord_tools.base import command, usage
from trainers import recipes, training_flags
from trainers.fitting import csv_dataset

FLAGS = flags.FLAGS


def define_flags() -> None:
    training_flags.define_training_flags("scratch")
    training_flags.define_model_flags(weights="none")
    usage.define_path(
        "csv",
        None,
        "Directory of CSV files of pixels, one per split (train.csv, ...), from tfrecord_tools.to_csv. Use it instead"
        " of --tfrecords.",
    )


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    reference = recipes.current_name(FLAGS.recipe) == "reference"
    tfrecords = FLAGS.tfrecords
    options: dict[str, Any] = {}
    if reference:
        options["augmented"] = FLAGS.augment not in (None, "none")
    if FLAGS.csv:
        tfrecords, size = csv_dataset.as_dataset(FLAGS.csv, FLAGS.tfrecords, command.say)
        if FLAGS.image_size is None and not reference:
            options["image_size"] = size
    training_flags.train("scratch", argv, tfrecords, **options)


if __name__ == "__main__":
    define_flags()
    command.run(main, training_flags.INTERRUPTED)
