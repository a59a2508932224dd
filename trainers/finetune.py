"""Fine-tune a pretrained network: train a new head first, then also the last stage of the network.

    python -m trainers.finetune --tfrecords out/

Running the command again continues an interrupted training, with the same result as without the interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfrecord_tools.base import callable_module, command, options
from trainers import training_options
from trainers.run import Run

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from trainers.training_options import FinetuneOptions

OPTIONS = training_options.OPTIONS["finetune"]


@options.document(OPTIONS)
def finetune(**given: Unpack[FinetuneOptions]) -> Run:
    """Fine-tune a pretrained network: train a new head first, then also its last stage.

    It does the same as `python -m trainers.finetune`, and a second call continues an interrupted training.

    Args:
        {options}

    Returns:
        The finished training.

    Raises:
        UserError: A value is not allowed, or the dataset cannot be used. The message says what to do.

    Example:
        run = trainers.finetune(tfrecords="out", backbone="MobileNetV2", epochs=[5, 10])
    """
    return Run(training_options.train("finetune", given, command.say))


def define_flags() -> None:
    options.define(OPTIONS)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    finetune(**options.from_flags(OPTIONS))


callable_module.make(__name__, finetune)

if __name__ == "__main__":
    define_flags()
    command.run(main, training_options.INTERRUPTED)
