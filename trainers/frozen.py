"""Train a new head on a frozen pretrained network, with augmented images.

    python -m trainers.frozen --tfrecords out/

Without augmentation, `trainers.features` gives the same result in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfrecord_tools.base import callable_module, command, options
from trainers import training_options
from trainers.run import Run

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from trainers.training_options import ImageOptions

OPTIONS = training_options.OPTIONS["frozen"]


@options.document(OPTIONS)
def frozen(**given: Unpack[ImageOptions]) -> Run:
    """Train a new head on a frozen pretrained network, with augmented images.

    It does the same as `python -m trainers.frozen`, and a second call continues an interrupted training.

    Args:
        {options}

    Returns:
        The finished training.

    Raises:
        UserError: A value is not allowed, or the dataset cannot be used. The message says what to do.

    Example:
        run = trainers.frozen(tfrecords="out", augment="strong")
    """
    return Run(training_options.train("frozen", given, command.say))


def define_flags() -> None:
    options.define(OPTIONS)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    frozen(**options.from_flags(OPTIONS))


callable_module.make(__name__, frozen)

if __name__ == "__main__":
    define_flags()
    command.run(main, training_options.INTERRUPTED)
