"""A Keras model in ten lines: fully shuffled and augmented batches, the same at every run.

python examples/fit_keras.py out/ trains a small network for an epoch and prints its accuracy.
"""

from __future__ import annotations

import sys

import keras

from tfrecord_tools import dataset
from tfrecord_tools.augment_config import PRESETS


def fit(directory: str, image_size: int = 96, batch_size: int = 32, epochs: int = 1) -> keras.callbacks.History:
    """Returns the history, with `val_accuracy`."""
    data = dataset.open(directory)
    train, validation = data.records("train"), data.records("validation")
    model = keras.Sequential([keras.Input((image_size, image_size, 3)), keras.layers.Rescaling(1 / 255)])
    for filters in (16, 32, 64):
        model.add(keras.layers.Conv2D(filters, 3, strides=2, activation="relu"))
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(len(data.class_names), activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    batches = dataset.train_batches(
        train, batch_size=batch_size, image_size=image_size, seed=0, augment=PRESETS["standard"]
    )
    return model.fit(
        batches,
        steps_per_epoch=max(1, len(train) // batch_size),  # The batches never end.
        epochs=epochs,
        validation_data=dataset.eval_batches(validation, batch_size=batch_size, image_size=image_size),
        verbose=0,
    )


if __name__ == "__main__":
    print(f"accuracy {fit(sys.argv[1]).history['val_accuracy'][-1]:.3f}")
