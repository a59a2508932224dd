"""Train a small Keras model on shuffled and augmented batches. Each run has the same batches.

python examples/fit_keras.py out/ trains for three epochs and prints the accuracy on the validation images. The accuracy
is near 1 for the drawings of tfrecord_tools.sample; photographs need more epochs or pretrained weights.
"""

from __future__ import annotations

import sys
from typing import Any

import keras

from tfrecord_tools import dataset
from tfrecord_tools.augment_config import AugmentConfig


def network(image_size: int, classes: int) -> keras.Model:
    """Return a small convolutional network: u8[b h w 3] -> probabilities f32[b classes]."""
    layers = [keras.Input((image_size, image_size, 3)), keras.layers.Rescaling(1 / 127.5, -1)]
    for filters in (16, 32, 64, 64):
        layers.append(keras.layers.Conv2D(filters, 3, padding="same", use_bias=False))
        layers.append(keras.layers.BatchNormalization(momentum=0.9))  # The default 0.99 is too slow for few steps.
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    layers += [keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(classes, activation="softmax")]
    return keras.Sequential(layers)


def fit(directory: str, image_size: int = 64, batch_size: int = 16, epochs: int = 3) -> keras.callbacks.History:
    """Train a model, and return the history with `val_accuracy`."""
    keras.utils.set_random_seed(0)
    data = dataset.open(directory)
    train, validation = data.records("train"), data.records("validation")
    model = network(image_size, len(data.class_names))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    settings: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "crop": 0.0}  # 0: no cropping.
    return model.fit(
        dataset.train_batches(train, seed=0, augment=AugmentConfig(horizontal_flip=True), **settings),
        epochs=epochs,
        validation_data=dataset.eval_batches(validation, **settings),
        verbose=0,
    )


if __name__ == "__main__":
    accuracy = fit(sys.argv[1]).history["val_accuracy"][-1]
    data = dataset.open(sys.argv[1])
    images, classes = len(data.records("validation")), len(data.class_names)
    print(f"accuracy {accuracy:.3f} on the {images:,} images of the validation split (random guess: {1 / classes:.3f})")
