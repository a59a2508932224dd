"""Train a new head on a frozen pretrained network, with augmented images.

    python -m trainers.frozen --tfrecords out/

Without augmentation, `trainers.features` gives the same result in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfrecord_tools.base import command
from trainers import training_flags


def define_flags() -> None:
    training_flags.define_training_flags("frozen")
    training_flags.define_model_flags()


def main(argv: Sequence[str]) -> None:
    training_flags.train("frozen", argv)


if __name__ == "__main__":
    define_flags()
    command.run(main, training_flags.INTERRUPTED)
