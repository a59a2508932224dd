"""The code of the reference recipe, section 4.1: extract features of a directory, then train a head.

The code is unchanged except for the network.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from benchmarks.peers.peer import Figures, Job

BATCH = 20


def network(weights: str, size: int) -> keras.Model:
    """Return MobileNetV2, in place of the recipe's VGG16, because its weights are easier to get."""
    base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(size, size, 3))
    if weights:
        base.load_weights(weights)
    return base


def extract(base: keras.Model, directory: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Extract features as the reference recipe does: one `predict` per batch, into arrays for all images."""
    generator: Any = ImageDataGenerator(rescale=1 / 255).flow_from_directory(
        directory, target_size=(size, size), batch_size=BATCH, class_mode="binary"
    )
    count = generator.samples
    features = np.zeros((count, *base.output_shape[1:]))
    labels = np.zeros(count)
    for i, (images, classes) in enumerate(generator):
        features[i * BATCH : (i + 1) * BATCH] = base.predict(images, verbose=0)
        labels[i * BATCH : (i + 1) * BATCH] = classes
        if (i + 1) * BATCH >= count:
            break
    return features.reshape(count, -1), labels


def features(job: Job) -> Figures:
    """Return the images/s of the extraction, the seconds, and the final accuracy in percent."""
    base = network(job.weights, job.side)
    began = time.perf_counter()
    train, train_labels = extract(base, job.train, job.side)
    validation, validation_labels = extract(base, job.photos / "validation", job.side)
    seconds = time.perf_counter() - began
    model = keras.Sequential(
        [
            keras.Input((train.shape[1],)),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.RMSprop(learning_rate=1e-2), "binary_crossentropy", metrics=["accuracy"])
    history = model.fit(
        train,
        train_labels,
        epochs=30,
        batch_size=BATCH,
        validation_data=(validation, validation_labels),
        verbose=0,
    )
    return {
        "images_per_second": (len(train) + len(validation)) / seconds,
        "seconds": job.seconds,
        "accuracy": 100 * history.history["val_accuracy"][-1],
    }
