"""Trainers: train image classifiers on a dataset, and evaluate, use and export them.

    run = trainers.finetune(tfrecords="out", backbone="MobileNetV2", epochs=[5, 10])
    run.metrics["accuracy"], run.predict("photo.jpg").names
    run = trainers.load(run.path)  # Later, in another program.

Each command `python -m trainers.NAME` is also a function `trainers.NAME`, with the flags as keyword arguments: scratch,
features, frozen, finetune, compare, evaluate, predict, export and audit. `python -m trainers` lists the commands.

`trainers.describe_model` adds class names and image settings to a Keras model of another program.

If the options of the commands are not enough, `training.train` trains with a `Recipe` (the model and how it is trained)
and a `TrainConfig` (all other settings). `recipes.override` changes the values of a recipe. `fit.fit` trains your own
model in the `Phase`s of a recipe. `Checkpointer` continues an interrupted training at the same step, with the same
weights and history.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainers import checkpoint, fit, recipes, training
    from trainers.audit import audit
    from trainers.checkpoint import Checkpointer
    from trainers.compare import compare
    from trainers.evaluate import evaluate
    from trainers.export import export
    from trainers.features import features
    from trainers.finetune import finetune
    from trainers.frozen import frozen
    from trainers.models.describing import describe_model
    from trainers.predict import predict
    from trainers.recipes import ModelConfig, Phase, Recipe, TrainConfig
    from trainers.run import Run, load
    from trainers.scratch import scratch

__all__ = [
    "Checkpointer",
    "ModelConfig",
    "Phase",
    "Recipe",
    "Run",
    "TrainConfig",
    "audit",
    "checkpoint",
    "compare",
    "describe_model",
    "evaluate",
    "export",
    "features",
    "finetune",
    "fit",
    "frozen",
    "load",
    "predict",
    "recipes",
    "scratch",
    "training",
]
_MODULE_OF = {
    "Checkpointer": "checkpoint",
    "ModelConfig": "recipes",
    "Phase": "recipes",
    "Recipe": "recipes",
    "Run": "run",
    "TrainConfig": "recipes",
    "describe_model": "models.describing",
    "load": "run",
}

if not TYPE_CHECKING:  # With __getattr__, a type checker would accept any name.

    def __getattr__(name):
        """Import a public name when it is first used, because importing TensorFlow takes seconds.

        The modules of the commands can be called like functions (`base.callable_module`).
        """
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        module = importlib.import_module(f"{__name__}.{_MODULE_OF.get(name, name)}")
        return getattr(module, name) if name in _MODULE_OF else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
