"""Fine-tune a pretrained network: train a new head first, then also the last stage of the network.

    python -m trainers.finetune --tfrecords out/

Running the command again continues an interrupted training, with the same result as without the interruption.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from tfrecord_tools.base import command
from trainers import training_flags


def define_flags() -> None:
    training_flags.define_training_flags("finetune")
    training_flags.define_model_flags()
    flags.DEFINE_string(
        "unfreeze",
        None,
        "Layers of the backbone that the second phase trains. last_stage: the last layers, which share the smallest"
        " height and width; all: every layer; N: the last N layers with weights; or a regular expression for layer"
        " names. BatchNormalization stays frozen, except with --weights=none. Default: last_stage.",
    )


def main(argv: Sequence[str]) -> None:
    training_flags.train("finetune", argv)


if __name__ == "__main__":
    define_flags()
    command.run(main, training_flags.INTERRUPTED)
