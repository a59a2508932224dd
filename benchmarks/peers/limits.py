"""Limits of this machine: decoding, copying, the disk, and the network alone."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg

from benchmarks.peers import peer
from benchmarks.peers.peer import Figures, Job
from tfrecord_tools.images import jpeg

if TYPE_CHECKING:
    from trainers.models.model_file import ModelInfo

_FILES_PER_PART = 256
_BATCH = 32
_SECONDS = 5.0


def contents(job: Job) -> list[bytes]:
    return [data for _, data, _ in peer.items(job.train, raw=False)]


def verify_all(paths: Sequence[str]) -> int:
    """Do the least work that verifies JPEGs: decode all entropy-coded data, at 1/8 of the size."""
    for path in paths:
        jpeg.decodes_cleanly(Path(path).read_bytes())
    return len(paths)


def verifying(job: Job) -> Figures:
    """Verify all JPEGs in one process per processor."""
    paths = [str(path) for path in sorted(job.photos.rglob("*.jpg"))]
    parts = [paths[i : i + _FILES_PER_PART] for i in range(0, len(paths), _FILES_PER_PART)]
    with ProcessPoolExecutor(peer.WORKERS) as pool:
        list(pool.map(verify_all, parts[: peer.WORKERS]))
        start = time.perf_counter()
        return {"images_per_second": sum(pool.map(verify_all, parts)) / (time.perf_counter() - start)}


def disk(job: Job) -> Figures:
    """Write the bytes of all files into one file and make it durable."""
    data = [path.read_bytes() for path in sorted(job.photos.rglob("*.jpg"))]
    job.work.mkdir(parents=True, exist_ok=True)
    path = job.work / "bytes"
    start = time.perf_counter()
    with open(path, "wb") as file:
        file.writelines(data)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return {"images_per_second": len(data) / seconds}


def one_core(job: Job) -> Figures:
    """Decode JPEGs in full with libjpeg-turbo in one thread."""
    files = itertools.cycle(contents(job))
    return peer.steady(([_pixels(next(files)) for _ in range(job.batch)] for _ in itertools.count()), job)


def decoding(job: Job) -> Figures:
    """Decode JPEGs at the smallest scale that has enough pixels, in one thread per processor.

    A task is a whole batch. With a task per image, small images would mostly wait for Python.
    """
    files = itertools.cycle(contents(job))

    def decoded(batch: Sequence[bytes]) -> list[np.ndarray]:
        return [_pixels(data, job.size) for data in batch]

    def batches() -> Iterator[Any]:
        with ThreadPoolExecutor(peer.WORKERS) as pool:
            tasks: deque[Future[list[np.ndarray]]] = deque()
            while True:
                while len(tasks) < 2 * peer.WORKERS:
                    tasks.append(pool.submit(decoded, [next(files) for _ in range(job.batch)]))
                yield tasks.popleft().result()

    return peer.steady(batches(), job)


def _pixels(data: bytes, size: int = 0) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False, min_height=size, min_width=size)


def copying(job: Job) -> Figures:
    """Copy the pixels of batches from one array to another (memcpy)."""
    source = np.ones((64, job.batch, job.size, job.size, 3), np.uint8)
    target = source.copy()  # An empty array would get its memory during the measurement.

    def copied(number: int) -> np.ndarray:
        target[number % 64] = source[(number * 7) % 64]
        return target

    return peer.steady(map(copied, itertools.count()), job)


def files(job: Job) -> Figures:
    """Open, read and close one file after the other, in random order."""
    paths = sorted(job.train.rglob("*.jpg"))
    numbers = peer.numbers_at_random(len(paths), job)
    return peer.steady(([paths[number].read_bytes() for number in batch] for batch in numbers), job)


def network(job: Job) -> Figures:
    """Compute the features of MobileNetV2 for one batch in memory, again and again."""
    import tensorflow as tf

    from tfrecord_tools import bench
    from trainers.models import networks
    from trainers.recipes import ModelConfig

    config = ModelConfig(backbone="MobileNetV2", weights=job.weights or "none", image_size=job.side)
    extractor, _ = networks.split(networks.build(config, 2).model)
    compute = tf.function(lambda images: extractor(images, training=False))
    images = tf.constant(np.zeros((_BATCH, job.side, job.side, 3), np.uint8))
    return {"images_per_second": bench.rate((compute(images).numpy() for _ in itertools.count()), _BATCH, _SECONDS)}


def _compiled(job: Job) -> tuple[Callable[[Any], Any], ModelInfo]:
    """Return the model of the prediction rows as a function, and its description."""
    from trainers.models import inference, model_file

    loaded, info = model_file.load(Path(job.model))
    return inference.compiled(loaded), info


def model(job: Job) -> Figures:
    """Call the model of the prediction rows on one batch in memory, again and again."""
    import tensorflow as tf

    from tfrecord_tools import bench
    from trainers.results import predictions

    call, info = _compiled(job)
    batch = tf.zeros((predictions.BATCH_SIZE, *info.geometry.shape), tf.uint8)
    calls = (call(batch).numpy() for _ in itertools.count())
    return {"images_per_second": bench.rate(calls, predictions.BATCH_SIZE, _SECONDS)}


def in_turn(job: Job) -> Figures:
    """Decode each batch of files in one thread per processor, then call the model on it.

    Prediction can be faster, because it decodes while the model computes.
    """
    from tfrecord_tools.decoding import decoder
    from trainers.results import predictions

    call, info = _compiled(job)
    files = itertools.cycle(contents(job))
    size = predictions.BATCH_SIZE

    def decoded(part: Sequence[bytes]) -> list[np.ndarray]:
        return [decoder.decode(data, info.geometry) for data in part]

    def batches() -> Iterator[Any]:
        with ThreadPoolExecutor(peer.WORKERS) as pool:
            while True:
                batch = list(itertools.islice(files, size))
                parts = pool.map(decoded, [batch[i :: peer.WORKERS] for i in range(peer.WORKERS)])
                yield call(np.stack([*itertools.chain.from_iterable(parts)])).numpy()

    return peer.steady(batches(), dataclasses.replace(job, batch=size))


def one_call(job: Job) -> Figures:
    """Import Keras, load the model and call it once."""
    import keras

    loaded = keras.models.load_model(job.model)
    loaded(np.zeros((1, *loaded.input_shape[1:]), np.uint8)).numpy()
    return {"seconds": job.seconds}


if __name__ == "__main__":
    peer.main(
        {
            "verifying": verifying, "disk": disk, "one_core": one_core, "decoding": decoding, "copying": copying,
            "files": files, "network": network, "model": model, "in_turn": in_turn, "one_call": one_call,
        },
        {},
    )  # fmt: skip
