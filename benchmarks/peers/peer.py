"""The interface of the scripts in this folder: one process measures one row and prints one JSON line.

    python -m benchmarks.peers.grain_array_record --row=plain --photos=DIR --work=DIR --size=150 --batch=20

The line is {"images_per_second": 1234.5}, with other keys for other rows, or {"cannot": "the reason"}. This module
imports only the standard library, because each script runs in the environment of the library that it measures.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import random
import resource
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

WORKERS = os.cpu_count() or 1
_WARM_UP_IMAGES = 1000
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        row: Name of the row to measure.
        photos: Directory of photographs, split/class/image.
        work: Directory for the files of this library. Later measurements find the files there.
        size: Height and width of the decoded images in pixels.
        batch: Images per batch.
        images: Number of images that are read in one measurement.
        side: Height and width in pixels of the images of the row "raw".
        step: Number of the batch at which the row "resume" starts.
        weights: Weights file of MobileNetV2 without top. "": random weights.
        model: Path of a Keras model, for the rows about prediction.
        cache: Bytes of the cache for data in a bucket.
        decode: Whether the rows about a bucket decode the images. Otherwise, they give bytes.
        started: When the process was started, as `time.time()`.
    """

    row: str
    photos: Path
    work: Path
    size: int
    batch: int
    images: int
    side: int
    step: int
    weights: str
    model: str
    cache: int
    decode: bool
    started: float

    @property
    def train(self) -> Path:
        """Directory of the training photographs, class/image."""
        return self.photos / "train"

    @property
    def seconds(self) -> float:
        """Seconds since the process was started."""
        return time.time() - self.started

    def written(self, name: str, write: Callable[[Path], object]) -> Path:
        """Return the path `work/name`. If it does not exist, `write` creates it first."""
        path, partial = self.work / name, self.work / f"{name}.partial"
        if not path.exists():
            shutil.rmtree(partial, ignore_errors=True)
            self.work.mkdir(parents=True, exist_ok=True)
            write(partial)
            partial.rename(path)
        return path


Measure = Callable[[Job], Figures]
Item = tuple[str, bytes, int]  # Key, bytes of the image, label.


def labeled(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files of class/image and their labels."""
    for label, directory in enumerate(sorted(folder.iterdir())):
        yield from ((path, label) for path in sorted(directory.rglob("*.jpg")))


def items(folder: Path, raw: bool) -> Iterator[Item]:
    """Yield the images of class/image: files as they are, or their pixels, u8[h w 3]."""
    for path, label in labeled(folder):
        key = str(path.relative_to(folder).with_suffix("")).replace(".", "_")  # webdataset cuts keys at dots.
        yield key, content(path, raw), label


def content(path: Path, raw: bool) -> bytes:
    """Return the bytes of a file, or its pixels, u8[h w 3]."""
    if not raw:
        return path.read_bytes()
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def steady(batches: Iterable[Any], job: Job) -> Figures:
    """Return the images/s of endless batches, after a warm-up with images / 10 images, but at least 1,000."""
    iterator = iter(batches)
    warm_up = min(max(job.images // 10, _WARM_UP_IMAGES), job.images)
    for _ in range(warm_up // job.batch):
        next(iterator)
    start = time.perf_counter()
    for _ in range(job.images // job.batch):
        next(iterator)
    return {"images_per_second": job.images // job.batch * job.batch / (time.perf_counter() - start)}


def bucket_epoch(epoch: Callable[[], Iterable[Any]], job: Job) -> Figures:
    """Read an epoch from a bucket that fills the cache, and measure the next one.

    `benchmarks.slow_store` counts the bytes and the requests, so they are counted alike for all libraries.

    Args:
        epoch: Returns the batches of the next epoch.
        job: The measurement.
    """
    for _ in epoch():
        pass
    before, start = _counts(), time.perf_counter()
    images = job.batch * sum(1 for _ in epoch())
    seconds = time.perf_counter() - start
    after = _counts()
    return {"images_per_second": images / seconds, "images": images} | {
        f"fetched_{name}": after[name] - before[name] for name in after
    }


def bucket_url(job: Job) -> str:
    """Return the URL of the data of this library. `job.work` is STORE/BUCKET/NAME."""
    return f"s3://{job.work.parent.name}/{job.work.name}/data"


def _counts() -> Figures:
    with urllib.request.urlopen(f"{os.environ['AWS_ENDPOINT_URL']}/counts") as answer:
        counts: Figures = json.load(answer)
    return counts


def endless(epoch: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """Yield the batches of one epoch after the other."""
    while True:
        yield from epoch()


def first(batches: Iterable[Any], job: Job) -> Figures:
    """Return the seconds from the start of the process to the first batch."""
    next(iter(batches))
    return {"seconds": job.seconds}


def numbers_at_random(count: int, job: Job) -> Iterator[list[int]]:
    """Yield record numbers in batches, in an endless order with replacement."""
    draw = random.Random(0)
    return ([draw.randrange(count) for _ in range(job.batch)] for _ in itertools.count())


def numbers_in_sequence(count: int, job: Job) -> Iterator[list[int]]:
    endless_numbers = itertools.cycle(range(count))
    return ([next(endless_numbers) for _ in range(job.batch)] for _ in itertools.count())


def conversion(job: Job, write: Callable[[Path], object]) -> Figures:
    """Write a dataset; return seconds, bytes on disk, and the peak memory of the largest process in bytes."""
    out = job.work / "converted"
    shutil.rmtree(out, ignore_errors=True)
    job.work.mkdir(parents=True, exist_ok=True)
    write(out)
    seconds = job.seconds
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    kilobytes = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"seconds": seconds, "bytes": size, "peak": kilobytes * 1024}


@dataclasses.dataclass(frozen=True)
class Store:
    """A library that writes images as bytes into files of its own, and reads them again.

    Attributes:
        write: Writes the images of a folder, class/image, to a directory: (folder, raw, directory).
        batches: Returns endless, shuffled batches of decoded images from (directory, raw, job).
        by_number: Returns (number of items, function that reads the items with these numbers) of a directory. None: the
            library cannot read an item by its number.
        in_sequence: Returns one pass over the bytes of a directory. None: by number.
        resumed: Like `batches`, from batch `job.step` on. None: the library has no such position.
        write_bucket: Writes the images of a folder for a cache that is smaller than the data: (folder, directory).
        bucket: Returns a function that gives the batches of the next epoch, from (URL, directory of the cache, job).
            None: the library cannot read from a bucket with a limit for the cache.
    """

    write: Callable[[Path, bool, Path], object]
    batches: Callable[[Path, bool, Job], Iterable[Any]]
    by_number: Callable[[Path], tuple[int, Callable[[Sequence[int]], Any]]] | None = None
    in_sequence: Callable[[Path], Iterable[Any]] | None = None
    resumed: Callable[[Path, bool, Job], Iterable[Any]] | None = None
    write_bucket: Callable[[Path, Path], object] | None = None
    bucket: Callable[[str, Path, Job], Callable[[], Iterable[Any]]] | None = None

    def rows(self) -> dict[str, Measure]:
        """Return what can be measured, by the name of the row."""
        rows: dict[str, Measure] = {
            "convert": lambda job: conversion(job, lambda out: self._write_splits(job, out)),
            "plain": lambda job: steady(self.batches(self._stored(job), False, job), job),
            "raw": lambda job: steady(self.batches(self._stored(job, raw=True), True, job), job),
            "first": lambda job: first(self.batches(self._stored(job), False, job), job),
        }
        if self.by_number:
            rows |= {"random": self._random, "sequence": self._sequence}
        if self.in_sequence:
            rows["sequence"] = self._sequence
        if resumed := self.resumed:
            rows["resume"] = lambda job: first(resumed(self._stored(job), False, job), job)
        if self.bucket:
            rows |= {"bucket_write": self._written_to_bucket, "bucket": self._bucket}
        return rows

    def _written_to_bucket(self, job: Job) -> Figures:
        """Write the images to the directory of the bucket, `job.work`."""
        assert self.write_bucket
        write = self.write_bucket
        out = job.written("data", lambda out: write(job.train, out))
        return {"bytes": sum(path.stat().st_size for path in out.rglob("*"))}

    def _bucket(self, job: Job) -> Figures:
        assert self.bucket
        with tempfile.TemporaryDirectory(dir=job.work.parent.parent.parent, ignore_cleanup_errors=True) as cache:
            return bucket_epoch(self.bucket(bucket_url(job), Path(cache), job), job)

    def _random(self, job: Job) -> Figures:
        assert self.by_number
        count, read = self.by_number(self._stored(job))
        return steady(map(read, numbers_at_random(count, job)), job)

    def _sequence(self, job: Job) -> Figures:
        stored, passes = self._stored(job), self.in_sequence
        if passes:
            each = endless(lambda: passes(stored))
            return steady(([next(each) for _ in range(job.batch)] for _ in itertools.count()), job)
        assert self.by_number
        count, read = self.by_number(stored)
        return steady(map(read, numbers_in_sequence(count, job)), job)

    def _write_splits(self, job: Job, out: Path) -> None:
        out.mkdir()
        for split in sorted(job.photos.iterdir()):
            self.write(split, False, out / split.name)

    def _stored(self, job: Job, raw: bool = False) -> Path:
        return job.written("raw" if raw else "encoded", lambda out: self.write(job.train, raw, out))


def main(rows: Mapping[str, Measure], cannot: Mapping[str, str]) -> None:
    """Parse the arguments, measure one row, and print one JSON line.

    Args:
        rows: Row -> the function that measures it.
        cannot: Row -> why the library cannot do it. The key "" has the reason for all other rows.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--row", required=True)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--size", required=True, type=int)
    parser.add_argument("--batch", required=True, type=int)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--step", type=int, default=500)
    parser.add_argument("--weights", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--cache", type=int, default=0)
    parser.add_argument("--decode", type=int, choices=(0, 1), default=0)
    parser.add_argument("--started", type=float, default=time.time())
    job = Job(**vars(parser.parse_args()))
    answer: Mapping[str, Any] = (
        rows[job.row](job) if job.row in rows else {"cannot": cannot.get(job.row) or cannot.get("", "no such function")}
    )
    print(json.dumps(answer), flush=True)
    if job.row in ("first", "resume"):
        os._exit(0)  # Otherwise the end of the worker processes would be awaited.
