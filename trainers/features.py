"""Trains a head on the features of a pretrained network, which are computed once and kept in features/.

    python -m trainers.features --tfrecords out/

A second training on the same images, with whatever head, starts at once. What is saved is the whole model, pixels in.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from tfrecord_tools.base import command, usage
from trainers import training_flags
from trainers.recipes import TrainConfig

FLAGS = flags.FLAGS


def define_flags() -> None:
    training_flags.define_training_flags("features")
    training_flags.define_model_flags()
    flags.DEFINE_enum("head", "dense", ["dense", "linear"], "dense: a hidden layer; linear: a logistic regression.")
    usage.define_path("features", TrainConfig.features, "Where features are kept.")


def main(argv: Sequence[str]) -> None:
    training_flags.train("features", argv, head=FLAGS.head)


if __name__ == "__main__":
    define_flags()
    command.run(main, training_flags.INTERRUPTED)
