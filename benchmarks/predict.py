"""Compare the speed of predict with the model alone and the decoder alone; time predict on one image.

On a CPU, model and decoder share the cores. The limit there is 1 / (1 / model + 1 / decoder).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import flags

from benchmarks import common
from tfrecord_tools.base import command, workers
from tfrecord_tools.decoding import decoder
from trainers.models import model_file
from trainers.results import image_files, predictions, sources, views

_ONE_CALL = """
import keras, numpy
model = keras.models.load_model({path!r})
model(numpy.zeros((1, *{shape}), numpy.uint8)).numpy()
"""


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    path = model_file.find(flags.FLAGS.run)
    photos = sources.find([flags.FLAGS.photos]).sources
    _print_start(str(path), photos[0].path, model_file.read_info(path).geometry.shape)
    import tensorflow as tf

    from trainers.models import inference

    model, info = model_file.load(path)
    predict = inference.compiled(model)
    batch = tf.zeros((predictions.BATCH_SIZE, *info.geometry.shape), tf.uint8)

    def model_alone() -> int:
        batches = -(-len(photos) // predictions.BATCH_SIZE)
        return sum(len(predict(batch).numpy()) for _ in range(batches))

    def decode_alone() -> int:
        def decode(source: sources.Source) -> np.ndarray:
            return decoder.decode(source.read(), info.geometry)

        with ThreadPoolExecutor(workers.default_workers()) as pool:
            return sum(1 for _ in pool.map(decode, photos))

    def judge() -> int:
        return sum(len(judged.predictions) for judged in image_files.judge(views.predictor(model), info, photos))

    runs = (model_alone, decode_alone, judge)
    for run in runs:  # The first run traces the model and fills the page cache.
        run()
    for _ in range(flags.FLAGS.rounds):
        model_rate, decoder_rate, rate = map(_rate, runs)
        shared = 1 / (1 / model_rate + 1 / decoder_rate)
        print(
            f"model {model_rate:,.0f}, decoder {decoder_rate:,.0f}, predict {rate:,.0f} images/s:"
            f" {rate / min(model_rate, decoder_rate):.2f} of the slower one, {rate / shared:.2f} of the limit on a CPU"
        )


def _rate(run: Callable[[], int]) -> float:
    start = time.perf_counter()
    return run() / (time.perf_counter() - start)


def _print_start(model: str, image: str, shape: tuple[int, int, int]) -> None:
    commands = {
        "import, load, one call": [sys.executable, "-c", _ONE_CALL.format(path=model, shape=shape)],
        "predict of one image": [sys.executable, "-m", "trainers.predict", f"--run={model}", image],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(flags.FLAGS.rounds):  # In turn, so that a slow moment hits both.
        for name, words in commands.items():
            seconds[name].append(common.run(words).seconds)
    script, predict = (statistics.median(values) for values in seconds.values())
    print(f"one image: {predict:.2f} s, {predict / script:.2f} x the {script:.2f} s for import, load and one call")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of about 2,000 photographs.", required=True)
    flags.DEFINE_string("run", None, "Run directory of a trainer.", required=True)
    flags.DEFINE_integer("rounds", 3, "Number of measurements.")
    command.run(main)
