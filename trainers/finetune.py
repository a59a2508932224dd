"""Fine-tunes a pretrained network on a dataset directory: the head first, then the network's last stage.

    python -m trainers.finetune --tfrecords out/

The same command continues a training that was killed, and ends as if it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from tfrecord_tools import command
from tfrecord_tools.records import open_dataset
from trainers import cli, recipes

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_enum(
        "recipe", "default", list(recipes.RECIPES), "default: the best known; document: the numbers of the notes."
    )
    cli.define_training_flags()
    cli.define_model_flags()


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    config = cli.train_config()
    recipe = cli.recipe(recipes.RECIPES[FLAGS.recipe])
    data = open_dataset(config.tfrecords)
    if recipe.phases[0].trainable == "all":
        print("weights none: there is nothing to transfer, so that everything is trained from scratch")

    from trainers import training  # Here, since it takes seconds to import TensorFlow: a wrong flag is told at once.

    training.train("finetune", data, recipe, config, {"recipe": FLAGS.recipe} | cli.in_effect(recipe))


if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: the same command continues from here")
