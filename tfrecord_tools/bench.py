"""Measure the input pipeline of a dataset, and name its slowest stage and a remedy.

python -m tfrecord_tools.bench out/ --image_size=160 --augment=standard
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from tfrecord_tools.augmentation import named
from tfrecord_tools.augmentation.named import Augment
from tfrecord_tools.base import cache_options, command, sizes, usage, words, workers
from tfrecord_tools.base.sizes import Size
from tfrecord_tools.decoding.geometry import FITS, Geometry
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Records, open_dataset

if TYPE_CHECKING:
    from tfrecord_tools.dataset import Cache

CACHE_BYTES = 2 << 30
_IN_MEMORY = "--cache=memory of trainers.finetune, trainers.frozen and trainers.scratch"
_WARM_UP = 0.2  # Share of a measurement that is not counted.
_NEAR = 0.9  # The input is the bottleneck if its rate is below this share of the model's rate.


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Settings of a measurement.

    Attributes:
        tfrecords: The dataset directory.
        cache_dir: As in `records.open_dataset`.
        cache_bytes: As in `records.open_dataset`.
        split: The split that is read.
        image_size: Height and width in pixels: one number for a square, or a pair.
        crop: As in `dataset.train_batches`. Not used with fit "pad" and "stretch".
        fit: As in `dataset.train_batches`.
        batch_size: Images per batch.
        augment: Random changes, as in `dataset.train_batches`.
        cached: Read decoded images from memory.
        seconds: Seconds that each stage is measured.
    """

    tfrecords: str
    cache_dir: str | None = None
    cache_bytes: int | None = None
    split: str = "train"
    image_size: Size = 160
    crop: float = 0.875
    fit: str | None = None
    batch_size: int = 32
    augment: Augment = "standard"
    cached: bool = False
    seconds: float = 4.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "seconds"):
            if not getattr(self, name) > 0:
                raise UserError(f"--{name}={getattr(self, name)}: must be above 0.")
        _ = self.geometry  # Checks its values.
        named.resolve(self.augment, "--augment=")

    @property
    def geometry(self) -> Geometry:
        """How images become the input of a network."""
        return Geometry.of(self.image_size, 0.0 if self.fit in ("pad", "stretch") else self.crop, self.fit, "--")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of the pipeline, with the rate in images/s of all stages up to this one."""

    name: str
    rate: float


def measure(records: Records, config: BenchConfig, cache: Cache | None = None) -> list[Stage]:
    """Measure reading, then reading and decoding (or a cache), then all of it with augmentation."""
    from tfrecord_tools import dataset

    stages: dict[str, Callable[[], Any]] = {}
    common: dict[str, Any] = {"batch_size": config.batch_size, "image_size": config.geometry, "seed": 0}
    if cache is not None:
        common["cache"] = cache
        stages["reading from memory"] = lambda: dataset.train_stream(records, **common)
    else:
        stages["reading"] = lambda: dataset.serialized_batches(records, batch_size=config.batch_size, seed=0)
        stages["decoding"] = lambda: dataset.train_stream(records, **common)
    if named.resolve(config.augment):
        stages["augmenting"] = lambda: dataset.train_stream(records, augment=config.augment, **common)
    return [Stage(name, rate(make(), config.batch_size, config.seconds)) for name, make in stages.items()]


def rate(batches: Iterable[Any], batch_size: int, seconds: float) -> float:
    """Return the images/s of endless batches, after a warm-up."""
    iterator = iter(batches)
    next(iterator)
    warm = time.perf_counter() + seconds * _WARM_UP
    while time.perf_counter() < warm:
        next(iterator)
    start, count, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < seconds * (1 - _WARM_UP):
        next(iterator)
        count, elapsed = count + batch_size, time.perf_counter() - start
    return count / elapsed


def verdict(
    stages: Sequence[Stage],
    records: int,
    geometry: Geometry,
    model_rate: float | None = None,
    in_memory: str = _IN_MEMORY,
) -> str:
    """Return a line that names the bottleneck, its share of the time, and a remedy.

    Args:
        stages: Result of `measure`.
        records: Number of records, for the size of a cache.
        geometry: How images become the input of a network.
        model_rate: Images/s of the model alone. None: only the input was measured.
        in_memory: Text for the advice: the flag that keeps decoded images in memory. It includes the names of the
            commands if the user runs another command.
    """
    supply = stages[-1].rate
    if model_rate is not None and supply >= model_rate * _NEAR:
        input_rate = f"{supply / model_rate:.1f} times as fast" if supply > model_rate else "about as fast"
        return (
            f"bottleneck: the model, with {model_rate:,.0f} images/s. The input is {input_rate}. Use a faster device or"
            " a smaller model."
        )
    times = [1 / stages[0].rate, *(1 / b.rate - 1 / a.rate for a, b in itertools.pairwise(stages))]
    share, bottleneck = max(zip((t * supply for t in times), stages), key=lambda pair: pair[0])
    of_model = f", {supply / model_rate:.0%} of the model's own speed" if model_rate else ""
    problem = (
        f"bottleneck: {bottleneck.name} takes {share:.0%} of the time. The input gives {supply:,.0f} images/s{of_model}"
    )
    return f"{problem}. {_remedy(bottleneck, records, geometry, in_memory)}"


def _remedy(bottleneck: Stage, records: int, geometry: Geometry, in_memory: str) -> str:
    needed = records * math.prod(geometry.shape)
    if bottleneck.name == "decoding":
        cache = f"{in_memory} keeps all decoded images in {needed / 1e6:,.0f} MB" if needed <= CACHE_BYTES else ""
        side, mode = _stored_size(geometry)
        convert = f"python -m tfrecord_tools.convert --resize={side} --resize_mode={mode}"
        resize = f"{convert} makes records that decode faster"
        return "; or ".join(filter(None, (cache, resize))) + "."
    if bottleneck.name == "augmenting":
        return (
            "Use fewer kinds of augmentation (color changes cost as much as all geometric changes), or use more"
            " processors."
        )
    if bottleneck.name == "reading":
        return "Use a faster disk, or order.Blocks in your own code, which reads neighboring records one after another."
    return "Use more processors, or larger batches."


def _stored_size(geometry: Geometry) -> tuple[int, str]:
    """Return --resize and --resize_mode for records with just enough pixels.

    If the input is a square without padding, such records are not resized again.
    """
    longer = max(geometry.height, geometry.width)
    if geometry.fit == "pad":
        return longer, "longer"
    square = geometry.height == geometry.width
    if geometry.fit == "crop":
        return round(longer / geometry.crop), "center_crop" if square else "shorter"
    return longer, "exact" if square else "shorter"


def main(argv: Sequence[str]) -> None:
    directory = command.one_argument(argv, "the directory of one dataset, as in python -m tfrecord_tools.bench out/")
    config = command.from_flags(BenchConfig, tfrecords=directory)
    records = open_dataset(directory, cache_dir=config.cache_dir, cache_bytes=config.cache_bytes).records(config.split)
    print(
        f"{directory}: {words.number(len(records), 'record')} of {config.split}, {sizes.text(config.image_size)} px,"
        f" batches of {config.batch_size}, {workers.default_workers()} processors"
    )
    cache = None
    if config.cached:
        from tfrecord_tools import dataset

        cache = dataset.cache_pixels(records, image_size=config.geometry, budget_bytes=CACHE_BYTES)
        if cache is None:
            raise UserError(
                f"--cached: {words.number(len(records), 'image does not', 'images do not')} fit into"
                f" {CACHE_BYTES / 1e9:.1f} GB. Remove --cached, or use a smaller --image_size."
            )
    stages = measure(records, config, cache)
    for number, stage in enumerate(stages):
        print(f"  {'+ ' if number else ''}{stage.name:<{22 - 2 * bool(number)}} {stage.rate:>9,.0f} images/s")
    print(verdict(stages, len(records), config.geometry))


def define_flags() -> None:
    for option in cache_options.OPTIONS:
        option.define()
    flags.DEFINE_string("split", BenchConfig.split, "Split to read: train, validation or test.")
    usage.define_size(
        "image_size",
        BenchConfig.image_size,
        "Height and width of the decoded images in pixels: one number for a square, or HEIGHTxWIDTH as in 96x256.",
    )
    flags.DEFINE_float(
        "crop",
        BenchConfig.crop,
        "Size of the central square that is cut from each image: 0.875 means 0.875 times the shorter side of the"
        " image. 0: the whole image is stretched.",
    )
    flags.DEFINE_enum(
        "fit",
        BenchConfig.fit,
        FITS,
        "How images are fitted into --image_size. crop: the center of the image is used; pad: the whole image is used,"
        " and the rest is filled with gray; stretch: the whole image is stretched. Default: stretch if --crop is 0,"
        " else crop.",
    )
    flags.DEFINE_integer("batch_size", BenchConfig.batch_size, "Number of images per batch.")
    flags.DEFINE_string("augment", str(BenchConfig.augment), f"Random changes of the images: {named.FORMS}.")
    flags.DEFINE_bool(
        "cached",
        BenchConfig.cached,
        "Read decoded images from memory, as a trainer can do.",
    )
    flags.DEFINE_float("seconds", BenchConfig.seconds, "Time for the measurement of each stage, in seconds.")


if __name__ == "__main__":
    define_flags()
    command.run(main, arguments="DIRECTORY")
