"""Fine-tunes a pretrained network on a dataset directory: the head first, then the network's last stage.

    python -m trainers.finetune --tfrecords out/

The same command continues a training that was killed, and ends as if it had not been.
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
        "What the second phase trains of the backbone: last_stage, all, the last N layers with weights, or those that a"
        " regular expression is found in; BatchNormalization stays frozen.",
    )


def main(argv: Sequence[str]) -> None:
    training_flags.train("finetune", argv)


if __name__ == "__main__":
    define_flags()
    command.run(main, training_flags.INTERRUPTED)
