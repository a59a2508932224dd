"""Turn a folder of images into verified, indexed TFRecords, and read them for training.

- `python -m tfrecord_tools.convert`, or `tfrecord_tools.convert(src="images", out="out")`, writes a dataset.
- `tfrecord_tools.open("out").records("train")` reads any record, without TensorFlow, also for PyTorch and Grain.
- `dataset.train_batches` and `dataset.eval_batches` are `tf.data` pipelines of images and labels for `model.fit`.
- `AugmentConfig` holds random changes of training images, `augment_layer` makes them in a Keras layer, and `mix` blends
  images.
- `order` has the orders in which records are read: shuffled, in blocks, or with balanced classes.
- `quiet_tensorflow` hides the remarks that TensorFlow prints when it is imported.
- `UserError`, `CorruptRecord` and `UndecodableImage` are exceptions with messages that say what to do.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfrecord_tools import augment_config, augment_layer, dataset, errors, mix, order, records
    from tfrecord_tools.augment_config import AugmentConfig
    from tfrecord_tools.base.console import quiet_tensorflow
    from tfrecord_tools.convert import ConvertConfig
    from tfrecord_tools.convert import convert_images as convert
    from tfrecord_tools.errors import CorruptRecord, UndecodableImage, UserError
    from tfrecord_tools.records import Dataset, Records, open_dataset
    from tfrecord_tools.records import open_dataset as open  # noqa: F401  Not in __all__.

__version__ = "0.1.0"
__all__ = [
    "AugmentConfig",
    "ConvertConfig",
    "CorruptRecord",
    "Dataset",
    "Records",
    "UndecodableImage",
    "UserError",
    "__version__",
    "augment_config",
    "augment_layer",
    "convert",
    "dataset",
    "errors",
    "mix",
    "open_dataset",
    "order",
    "quiet_tensorflow",
    "records",
]
_MODULE_OF = {
    "AugmentConfig": "augment_config",
    "ConvertConfig": "convert",
    "CorruptRecord": "errors",
    "Dataset": "records",
    "Records": "records",
    "UndecodableImage": "errors",
    "UserError": "errors",
    "open_dataset": "records",
    "quiet_tensorflow": "base.console",
}

if not TYPE_CHECKING:  # With __getattr__, a type checker would accept any name.

    def __getattr__(name):
        """Import a public name when it is first used, because the import of TensorFlow takes seconds."""
        if name == "open":  # Not in __all__: `import *` would replace Python's own `open`.
            name = "open_dataset"
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        module = importlib.import_module(f"{__name__}.{_MODULE_OF.get(name, name)}")
        return getattr(module, name) if name in _MODULE_OF else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "open"})
