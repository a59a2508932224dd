"""Trainers: from a dataset directory to a run directory with a trained classifier.

`python -m trainers.finetune --tfrecords=out` trains, `python -m trainers` lists all commands.
`training.train` is what these commands call; it takes a `Recipe` and a `TrainConfig`.
`recipes.finetune()`, `frozen()`, `features()` and `scratch()` are the recipes; `recipes.override` changes their values.
`fit.fit` trains a model of your own in the `Phase`s of a recipe.
`Checkpointer` lets an interrupted training continue at the same step, with the same weights and history.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainers import checkpoint, fit, recipes, training
    from trainers.checkpoint import Checkpointer
    from trainers.recipes import ModelConfig, Phase, Recipe, TrainConfig

__all__ = [
    "Checkpointer",
    "ModelConfig",
    "Phase",
    "Recipe",
    "TrainConfig",
    "checkpoint",
    "fit",
    "recipes",
    "training",
]
_MODULE_OF = {
    "Checkpointer": "checkpoint",
    "ModelConfig": "recipes",
    "Phase": "recipes",
    "Recipe": "recipes",
    "TrainConfig": "recipes",
}

if not TYPE_CHECKING:  # A type checker must see that any other name is wrong.

    def __getattr__(name):
        """Load a public name when it is first used: Keras and TensorFlow take seconds."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        module = importlib.import_module(f"{__name__}.{_MODULE_OF.get(name, name)}")
        return getattr(module, name) if name in _MODULE_OF else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
