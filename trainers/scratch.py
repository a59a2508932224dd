"""Trains a network from random weights, on a dataset directory or on CSVs of pixels.

    python -m trainers.scratch --tfrecords out/
    python -m trainers.scratch --csv csv/

CSVs, as tfrecord_tools.to_csv writes them, are first converted into records beside them; --image_size is theirs then.
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
    usage.define_path("csv", None, "A directory of CSVs of pixels, train.csv and others, in place of --tfrecords.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    reference = recipes.current_name(FLAGS.recipe) == "reference"
    tfrecords = FLAGS.tfrecords
    how: dict[str, Any] = {}
    if reference:
        how["augmented"] = FLAGS.augment not in (None, "none")
    if FLAGS.csv:
        tfrecords, size = csv_dataset.as_dataset(FLAGS.csv, FLAGS.tfrecords, command.say)
        if FLAGS.image_size is None and not reference:
            how["image_size"] = size
    training_flags.train("scratch", argv, tfrecords, **how)


if __name__ == "__main__":
    define_flags()
    command.run(main, training_flags.INTERRUPTED)
