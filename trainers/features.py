"""Train a head on features of a pretrained network, which are computed once and kept in features/.

    python -m trainers.features --tfrecords out/

Another training on the same images, with the same or another head, starts at once. The saved model is the whole
network: its input is pixels.
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
    flags.DEFINE_enum(
        "head",
        "dense",
        ["dense", "linear"],
        "Layers of the head. dense: with a hidden layer of 256 units; linear: a logistic regression.",
    )
    usage.define_path("features", TrainConfig.features, "Directory in which features are kept for other trainings.")


def main(argv: Sequence[str]) -> None:
    training_flags.train("features", argv, head=FLAGS.head)


if __name__ == "__main__":
    define_flags()
    command.run(main, training_flags.INTERRUPTED)
