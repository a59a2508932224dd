"""This package, through its commands and its Python interface."""

from __future__ import annotations

import itertools
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import common
from benchmarks.peers import peer
from benchmarks.peers.peer import Figures, Job
from tfrecord_tools.errors import UserError

if TYPE_CHECKING:
    from tfrecord_tools.order import Order
    from tfrecord_tools.records import Records

_BLOCK = 40  # 16 blocks fit into a third of the cache, as docs/howto/bucket.md recommends.
_RATE = r"([\d.,]+) images/s\n"


def converted(job: Job, *options: str) -> Figures:
    return peer.conversion(job, lambda out: common.convert(f"--src={job.photos}", f"--out={out}", *options))


def records_of(job: Job, raw: bool = False) -> Records:
    from tfrecord_tools.records import open_dataset

    options = common.raw_options(job.side) if raw else []
    directory = job.written(
        "raw" if raw else "encoded",
        lambda out: common.convert(f"--src={job.photos}", f"--out={out}", *options),
    )
    return open_dataset(directory).records("train")


def batches(job: Job, raw: bool = False, **settings: Any) -> Iterable[Any]:
    from tfrecord_tools import dataset

    return dataset.train_batches(
        records_of(job, raw), batch_size=job.batch, image_size=job.size, seed=0, endless=True, **settings
    )


def numpy_batches(job: Job, start_step: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches (u8[b h w 3], i64[b]) without TensorFlow."""
    from tfrecord_tools.decoding import decoder
    from tfrecord_tools.order import Shuffled

    records = records_of(job)
    order = Shuffled(len(records), seed=0)
    for step in itertools.count(start_step):
        examples = records.__getitems__(order[step * job.batch + np.arange(job.batch)])
        images = np.stack([decoder.decode(example["image"], job.size) for example in examples])
        yield images, np.array([example["label"] for example in examples])


def from_memory(job: Job, **settings: Any) -> Figures:
    from tfrecord_tools import dataset

    cache = dataset.cache_pixels(records_of(job), image_size=job.size)
    return peer.steady(batches(job, cache=cache, **settings), job)


def at_random(job: Job) -> Figures:
    records = records_of(job)
    numbers = peer.numbers_at_random(len(records), job)
    return peer.steady((records.serialized_batch(batch) for batch in numbers), job)


def in_sequence(job: Job) -> Figures:
    records = records_of(job)
    numbers = peer.numbers_in_sequence(len(records), job)
    return peer.steady((records.serialized_batch(batch) for batch in numbers), job)


def bucket_write(job: Job) -> Figures:
    """Write the training photographs to the directory of the bucket, `job.work`."""
    out = job.written("data", lambda out: common.convert(f"--src={job.photos}", f"--out={out}"))
    return {"bytes": sum(path.stat().st_size for path in out.glob("*.tfrecord-*"))}


def bucket(job: Job, blocks: bool) -> Figures:
    from tfrecord_tools.order import Blocks, Shuffled
    from tfrecord_tools.records import open_dataset

    with tempfile.TemporaryDirectory(dir=job.work.parent.parent.parent, ignore_cleanup_errors=True) as cache:
        data = open_dataset(peer.bucket_url(job), cache_dir=cache, cache_bytes=job.cache)
        records = data.records(*data.splits)
        order = Blocks(len(records), 0, _BLOCK) if blocks else Shuffled(len(records), 0)
        epochs = _decoded_epochs(records, order, job) if job.decode else _byte_epochs(records, order, job)
        return peer.bucket_epoch(lambda: next(epochs), job)


def _byte_epochs(records: Records, order: Order, job: Job) -> Iterator[Iterable[Any]]:
    reading, steps = records.plan(order), len(records) // job.batch

    def batch(step: int) -> list[Any]:
        position = step * job.batch
        with reading(position):
            return records.__getitems__(order[np.arange(position, position + job.batch)])

    return (map(batch, range(epoch * steps, (epoch + 1) * steps)) for epoch in itertools.count())


def _decoded_epochs(records: Records, order: Order, job: Job) -> Iterator[Iterable[Any]]:
    from tfrecord_tools import dataset

    batches = dataset.train_batches(
        records, batch_size=job.batch, image_size=job.size, seed=0, order=order, endless=True
    ).as_numpy_iterator()
    return (itertools.islice(batches, len(records) // job.batch) for _ in itertools.count())


def features(job: Job) -> Figures:
    """Convert and train with the commands; return the rate of the extraction, seconds and accuracy."""
    job.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=job.work) as directory:
        out, run = f"{directory}/out", f"{directory}/run"
        start = time.perf_counter()
        common.convert(f"--src={job.photos}", f"--out={out}")
        printed = common.output(
            "trainers.features", f"--tfrecords={out}", f"--run={run}", f"--features={directory}/features",
            f"--weights={job.weights or 'none'}", f"--image_size={job.side}", "--backbone=MobileNetV2",
        )  # fmt: skip
        seconds = time.perf_counter() - start
        accuracy = json.loads(Path(run, "metrics.json").read_text())["accuracy"]
    rates = [float(rate.replace(",", "")) for rate in re.findall(_RATE, printed)]
    return {"images_per_second": rates[0], "seconds": seconds, "accuracy": 100 * accuracy}


def predict(job: Job) -> Figures:
    """Predict all training photographs. The first, uncounted run traces the model."""
    from trainers.models import model_file
    from trainers.results import image_files, sources, views

    model, info = model_file.load(Path(job.model))
    photos = sources.find([str(job.train)]).sources

    def judge() -> int:
        return sum(len(judged.predictions) for judged in image_files.judge(views.predictor(model), info, photos))

    judge()
    start = time.perf_counter()
    return {"images_per_second": judge() / (time.perf_counter() - start)}


def predict_one(job: Job) -> Figures:
    image = min(job.train.rglob("*.jpg"))
    finished = common.run([sys.executable, "-m", "trainers.predict", f"--run={job.model}", str(image)])
    if finished.exit_code:
        raise UserError(f"trainers.predict failed with exit code {finished.exit_code}")
    return {"seconds": finished.seconds}


ROWS: dict[str, Callable[[Job], Figures]] = {
    "convert": converted,
    "convert_header": lambda job: converted(job, "--verify=header"),
    "plain": lambda job: peer.steady(batches(job), job),
    "augmented": lambda job: peer.steady(batches(job, augment="reference"), job),
    "memory": from_memory,
    "memory_augmented": lambda job: from_memory(job, augment="reference"),
    "raw": lambda job: peer.steady(batches(job, raw=True), job),
    "random": at_random,
    "sequence": in_sequence,
    "first": lambda job: peer.first(batches(job), job),
    "resume": lambda job: peer.first(batches(job, start_step=job.step), job),
    "first_numpy": lambda job: peer.first(numpy_batches(job), job),
    "resume_numpy": lambda job: peer.first(numpy_batches(job, start_step=job.step), job),
    "bucket_write": bucket_write,
    "bucket_blocks": lambda job: bucket(job, blocks=True),
    "bucket_shuffled": lambda job: bucket(job, blocks=False),
    "features": features,
    "predict": predict,
    "predict_one": predict_one,
}

if __name__ == "__main__":
    peer.main(ROWS, {})
