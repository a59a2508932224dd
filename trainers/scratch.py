"""Trains a network from random weights, on a dataset directory or on CSVs of pixels.

    python -m trainers.scratch --tfrecords out/
    python -m trainers.scratch --csv csv/

CSVs, as tfrecord_tools.to_csv writes them, are first converted into records beside them; --image_size is theirs then.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from tfrecord_tools.base import command, usage
from trainers import training_flags
from trainers.fitting import csv_dataset

FLAGS = flags.FLAGS


def define_flags() -> None:
    training_flags.define_training_flags("scratch")
    training_flags.define_model_flags(weights="none")
    usage.define_path("csv", None, "A directory of CSVs of pixels, train.csv and others, in place of --tfrecords.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    tfrecords, how = FLAGS.tfrecords, {}
    if FLAGS.csv:
        tfrecords, size = csv_dataset.as_dataset(FLAGS.csv, FLAGS.tfrecords, command.say)
        if FLAGS.image_size is None and FLAGS.recipe != "document":
            how["image_size"] = size
    if FLAGS.recipe == "document":
        how["augmented"] = FLAGS.augment not in (None, "none")
    training_flags.train("scratch", argv, tfrecords, **how)


if __name__ == "__main__":
    define_flags()
    command.run(main, training_flags.INTERRUPTED)
