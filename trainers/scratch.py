"""Train a network from random weights, on a dataset or on CSVs of pixels.

    python -m trainers.scratch --tfrecords out/
    python -m trainers.scratch --csv csv/

CSVs from tfrecord_tools.to_csv are first converted to TFRecords, next to the directory of the CSVs. The default of
--image_size is then the size of the images in the CSVs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfrecord_tools.base import callable_module, command, options
from trainers import training_options
from trainers.run import Run

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from trainers.training_options import ScratchOptions

OPTIONS = training_options.OPTIONS["scratch"]


@options.document(OPTIONS)
def scratch(**given: Unpack[ScratchOptions]) -> Run:
    """Train a network from random weights, on a dataset or on CSVs of pixels.

    It does the same as `python -m trainers.scratch`, and a second call continues an interrupted training.

    Args:
        {options}

    Returns:
        The finished training.

    Raises:
        UserError: A value is not allowed, or the dataset cannot be used. The message says what to do.

    Example:
        run = trainers.scratch(tfrecords="out", epochs=100, image_size=64)
    """
    return Run(training_options.train("scratch", given, command.say))


def define_flags() -> None:
    options.define(OPTIONS)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    scratch(**options.from_flags(OPTIONS))


callable_module.make(__name__, scratch)

if __name__ == "__main__":
    define_flags()
    command.run(main, training_options.INTERRUPTED)
