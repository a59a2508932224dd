"""Keras's `image_dataset_from_directory`, with Keras's layers for augmentation, and `Model.predict`."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from benchmarks.peers import peer
from benchmarks.peers.peer import Figures, Job


def batches(job: Job, augment: bool = False) -> tf.data.Dataset:
    data = keras.utils.image_dataset_from_directory(
        str(job.train), image_size=(job.size, job.size), batch_size=job.batch, verbose=False
    ).repeat()
    if augment:
        edges: dict[str, Any] = {"fill_mode": "nearest"}
        layers = [
            keras.layers.RandomRotation(0.25, **edges),
            keras.layers.RandomTranslation(0.2, 0.2, **edges),
            keras.layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), **edges),
            keras.layers.RandomFlip(),
        ]
        data = data.map(
            lambda images, labels: (functools.reduce(lambda x, f: f(x, training=True), layers, images), labels),
            tf.data.AUTOTUNE,
        )
    return data.prefetch(tf.data.AUTOTUNE)


def predict(job: Job) -> Figures:
    """Predict all training photographs. The first, uncounted run traces the model."""
    model = keras.models.load_model(job.model)
    data = keras.utils.image_dataset_from_directory(
        str(job.train), image_size=model.input_shape[1:3], batch_size=32, shuffle=False, verbose=False
    ).prefetch(tf.data.AUTOTUNE)
    model.predict(data, verbose=0)
    start = time.perf_counter()
    count = len(model.predict(data, verbose=0))
    return {"images_per_second": count / (time.perf_counter() - start)}


def predict_one(job: Job) -> Figures:
    model = keras.models.load_model(job.model)
    path = next(iter(sorted(Path(job.train).rglob("*.jpg"))))
    image = keras.utils.img_to_array(keras.utils.load_img(path, target_size=model.input_shape[1:3]))
    model.predict(image[None], verbose=0)
    return {"seconds": job.seconds}


if __name__ == "__main__":
    peer.main(
        {
            "plain": lambda job: peer.steady(batches(job), job),
            "augmented": lambda job: peer.steady(batches(job, augment=True), job),
            "first": lambda job: peer.first(batches(job), job),
            "predict": predict,
            "predict_one": predict_one,
        },
        {
            "resume": "has no position; skip(n) decodes n batches",
            "features": "its examples train without cached features",
            "": "writes no dataset",
        },
    )
