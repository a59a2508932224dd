"""Measure how time and memory of each kind of work grow with the number of records.

    python -m benchmarks.growth --sizes=1000,10000,100000

The images are drawn (32 x 32 pixels, all files differ). Each measurement is a process of its own. The exponent is the
slope of log(seconds) over log(records), and 1 means linear. A fixed time at the start makes the exponent smaller, so
the second figure matters as much: the time of a further record among many, divided by that among few. Where it is
above 1, the work grows faster than the dataset.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import common, scale
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError

_SIDE = 32
_FEATURES = 128  # Width of the simulated features.


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds, and peak memory in bytes."""

    seconds: float
    peak: float


@dataclasses.dataclass(frozen=True)
class Data:
    """The files of one size: images/class/image, and the dataset `out` that was converted from them.

    All files in the directory `equal` are identical.
    """

    directory: Path

    @property
    def images(self) -> Path:
        return self.directory / "images"

    @property
    def equal(self) -> Path:
        return self.directory / "equal"

    @property
    def out(self) -> Path:
        return self.directory / "out"


Measure = Callable[[Data], Cost]


def _command(module: str, arguments: Callable[[Data], Sequence[str]]) -> Measure:
    """Return the measurement of a whole command, with the time to start."""

    def measure(data: Data) -> Cost:
        words = [sys.executable, "-m", module, *arguments(data)]
        finished = common.run(words)
        if finished.exit_code:
            raise UserError(f"{' '.join(words)} failed with exit code {finished.exit_code}.")
        return Cost(finished.seconds, finished.peak_bytes)

    return measure


def _inside(work: Callable[[Path], Callable[[], object]]) -> Measure:
    """Return the measurement of a function in a new process, without the time to start.

    Args:
        work: Prepares the work on a dataset, and returns the function to measure.
    """
    return lambda data: Cost(*scale.in_new_process(_measured, work, data.out))


def _measured(work: Callable[[Path], Callable[[], object]], out: Path) -> tuple[float, int]:
    function = work(out)
    start = time.perf_counter()
    function()
    return time.perf_counter() - start, common.peak_bytes()


def _opening(out: Path) -> Callable[[], object]:
    from tfrecord_tools.records import open_dataset

    return lambda: open_dataset(out).records("train")


def _random_reads(out: Path) -> Callable[[], object]:
    """Read each record once, in the order of a training."""
    from tfrecord_tools import order
    from tfrecord_tools.records import open_dataset

    records = open_dataset(out).records("train")
    shuffled = order.Shuffled(len(records), 0)

    def read() -> None:
        for start in range(0, len(records), 64):
            records.serialized_batch(shuffled[np.arange(start, min(start + 64, len(records)))])

    return read


def _epoch(out: Path) -> Callable[[], object]:
    """Read and decode one epoch of training batches."""
    from tfrecord_tools import dataset

    batches = dataset.train_batches(dataset.open(out).records("train"), batch_size=50, image_size=_SIDE, seed=0)
    return lambda: sum(1 for _ in batches)


def _audit(out: Path) -> Callable[[], object]:
    """Audit as many simulated features as there are records."""
    from benchmarks import audit
    from tfrecord_tools.records import open_dataset
    from trainers.auditing import scoring

    truth = open_dataset(out).records("train").labels
    random = np.random.default_rng(0)
    centers = random.normal(size=(int(truth.max()) + 1, _FEATURES))
    features = (0.3 * centers[truth] + random.normal(size=(len(truth), _FEATURES))).astype(np.float32)
    given, _ = audit.flipped(truth, 0.05, False, 0)
    return lambda: scoring.audit(audit.inputs_of(features, given))


ROWS: Mapping[str, Measure] = {
    "convert": _command(
        "tfrecord_tools.convert", lambda data: [f"--src={data.images}", f"--out={data.out}", "--shard_bytes=1048576"]
    ),
    "convert again, nothing changed": _command(
        "tfrecord_tools.convert",
        lambda data: [f"--src={data.images}", f"--out={data.out.resolve()}", "--update"],
    ),
    "convert equal images": _command(
        "tfrecord_tools.convert",
        lambda data: [f"--src={data.equal}", f"--out={data.directory / 'copies'}", "--shard_bytes=1048576"],
    ),
    "verify": _command("tfrecord_tools.verify", lambda data: [str(data.out)]),
    "to_csv": _command(
        "tfrecord_tools.to_csv",
        lambda data: [f"--src={data.images}", f"--out={data.directory / 'csv'}", f"--image_size={_SIDE}"],
    ),
    "features and training": _command(
        "trainers.features",
        lambda data: [
            f"--tfrecords={data.out}",
            f"--run={data.directory / 'run'}",
            f"--features={data.directory / 'features'}",
            "--backbone=MobileNet",
            "--backbone_kwargs=alpha=0.25",
            "--weights=none",
            f"--image_size={_SIDE}",
            "--epochs=1",
        ],
    ),
    "open": _inside(_opening),
    "read all bytes at random": _inside(_random_reads),
    "an epoch of batches": _inside(_epoch),
    "audit of features": _inside(_audit),
}


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the slope of log(values) over log(sizes), fitted by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def further(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the growth per record between the last two sizes, divided by that between the first two.

    NaN if the value did not grow between the first two sizes.
    """
    steps = np.diff(values) / np.diff(sizes)
    return float(steps[-1] / steps[0]) if steps[0] > 0 else float("nan")


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.peak for cost in costs),
    )


def line(name: str, sizes: Sequence[int], costs: Sequence[Cost]) -> str:
    """Return the line of a row: seconds and memory of each size, then how both grow."""
    seconds, peaks = [cost.seconds for cost in costs], [cost.peak for cost in costs]
    cells = "".join(f" {second:9.2f} s {peak / 1e6:6,.0f} MB" for second, peak in zip(seconds, peaks))
    return (
        f"{name:<31}{cells}   {exponent(sizes, seconds):5.2f}  {further(sizes, seconds):5.2f}"
        f"   {exponent(sizes, peaks):5.2f}  {(peaks[-1] - peaks[0]) / (sizes[-1] - sizes[0]):8,.0f}"
    )


def measure(directory: Path, sizes: Sequence[int], rows: Sequence[str], rounds: int) -> dict[str, list[Cost]]:
    """Return the costs of each row for each size: medians of the rounds, in which all sizes take turns.

    Rows later than `convert` read what `convert` has written, so it is always done.
    """
    for size in sizes:
        common.make_images(directory / str(size) / "images", size, _SIDE)
        if "convert equal images" in rows:
            common.make_images(directory / str(size) / "equal", size, _SIDE, equal=True)
    found: dict[str, list[Cost]] = {}
    for name in ROWS:
        if name not in rows and name != "convert":
            continue
        costs: dict[int, list[Cost]] = {size: [] for size in sizes}
        for number in range(rounds if name in rows else 1):
            for size in sizes:
                data = Data(directory / str(size) / "work" / f"{name}-{number}")
                data.directory.mkdir(parents=True, exist_ok=True)
                _link(data.images, directory / str(size) / "images")
                _link(data.equal, directory / str(size) / "equal")
                if name != "convert":
                    _link(data.out, directory / str(size) / "work" / "convert-0" / "out")
                costs[size].append(ROWS[name](data))
        if name in rows:
            found[name] = [median(costs[size]) for size in sizes]
            print(line(name, sizes, found[name]), flush=True)
    return found


def _link(path: Path, target: Path) -> None:
    path.symlink_to(target, target_is_directory=True)


def sizes_of(texts: Sequence[str]) -> list[int]:
    """Return the numbers of images, ascending.

    Raises:
        UserError: They are not at least two different positive numbers.
    """
    sizes = sorted({int(text) for text in texts if text.isascii() and text.isdigit()})
    if len(sizes) < max(2, len(texts)) or not sizes[0]:
        raise UserError(f"--sizes={','.join(texts)}: must be two or more different numbers, as in 1000,10000.")
    return sizes


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # The started processes print less.
    sizes = sizes_of(flags.FLAGS.sizes)
    width = 22 * len(sizes)
    print(f"{'':<31}{'':{width}}   time:            memory:")
    print(f"{'records':<31}" + "".join(f"{size:>22,}" for size in sizes) + "   slope further   slope  B/record")
    with tempfile.TemporaryDirectory(dir=flags.FLAGS.work) as directory:
        measure(Path(directory), sizes, flags.FLAGS.rows, flags.FLAGS.rounds)


if __name__ == "__main__":
    flags.DEFINE_list("sizes", ["1000", "10000", "100000"], "Numbers of images.")
    flags.DEFINE_multi_enum("rows", list(ROWS), list(ROWS), "Rows to measure. May be given several times.")
    flags.DEFINE_integer("rounds", 3, "Number of measurements of each row and size. The median counts.", lower_bound=1)
    flags.DEFINE_string("work", None, "Directory for the images and datasets. Default: the system's directory.")
    command.run(main)
