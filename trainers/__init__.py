"""Trainers: train image classifiers on a dataset, and evaluate, use and export them.

`python -m trainers.finetune --tfrecords=out` trains a classifier. `python -m trainers` lists all commands.
From Python, `training.train` trains with a `Recipe` and a `TrainConfig`. `recipes.finetune()`, `frozen()`, `features()`
and `scratch()` make recipes, and `recipes.override` changes their values. `fit.fit` trains your own model in the
`Phase`s of a recipe. `Checkpointer` continues an interrupted training at the same step, with the same weights and
history.
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

if not TYPE_CHECKING:  # With __getattr__, a type checker would accept any name.

    def __getattr__(name):
        """Import a public name when it is first used, because importing TensorFlow takes seconds."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        module = importlib.import_module(f"{__name__}.{_MODULE_OF.get(name, name)}")
        return getattr(module, name) if name in _MODULE_OF else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
