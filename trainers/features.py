"""Train a head on features of a pretrained network, which are computed once and kept in features/.

    python -m trainers.features --tfrecords out/

The next training on the same images starts at once, with the same or another head. The saved model is the whole
network, so it takes pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfrecord_tools.base import callable_module, command, options
from trainers import training_options
from trainers.run import Run

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from trainers.training_options import FeaturesOptions

OPTIONS = training_options.OPTIONS["features"]


@options.document(OPTIONS)
def features(**given: Unpack[FeaturesOptions]) -> Run:
    """Train a head on features of a pretrained network, which are computed once.

    It does the same as `python -m trainers.features`, and a second call continues an interrupted training.

    Args:
        {options}

    Returns:
        The finished training.

    Raises:
        UserError: A value is not allowed, or the dataset cannot be used. The message says what to do.

    Example:
        run = trainers.features(tfrecords="out", head="linear")
    """
    return Run(training_options.train("features", given, command.say))


def define_flags() -> None:
    options.define(OPTIONS)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    features(**options.from_flags(OPTIONS))


callable_module.make(__name__, features)

if __name__ == "__main__":
    define_flags()
    command.run(main, training_options.INTERRUPTED)
