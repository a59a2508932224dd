"""Says what holds a dataset's input pipeline back, and what would change it.

python -m tfrecord_tools.bench out/ --image_size=160 --augment=standard
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from tfrecord_tools.augment_config import FORMER_NAMES, PRESETS
from tfrecord_tools.base import command, words, workers
from tfrecord_tools.decoding import geometry
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Records, open_dataset

if TYPE_CHECKING:
    from tfrecord_tools.dataset import Cache

CACHE_BYTES = 2 << 30
_IN_MEMORY = "python -m trainers.finetune --cache=memory (or frozen, or scratch)"
_WARM_UP = 0.2  # Share of the time of a measurement that is not counted.
_NEAR = 0.9  # Input of less than this share of the model's own speed holds it back.


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is measured.

    Attributes:
        tfrecords: The dataset directory.
        split: Whose records.
        image_size: Height and width in pixels.
        crop: As in `dataset.train_batches`.
        batch_size: Images a batch.
        augment: Name of a preset.
        cached: Decoded images come from memory.
        seconds: How long each stage is measured.
    """

    tfrecords: str
    split: str = "train"
    image_size: int = 160
    crop: float = 0.875
    batch_size: int = 32
    augment: str = "standard"
    cached: bool = False
    seconds: float = 4.0

    def __post_init__(self) -> None:
        for name in ("image_size", "batch_size", "seconds"):
            if not getattr(self, name) > 0:
                raise UserError(f"--{name}={getattr(self, name)}: above 0 is expected.")
        geometry.check_crop(self.crop, "--crop=")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of the pipeline: images a second of all stages up to this one."""

    name: str
    rate: float


def measure(records: Records, config: BenchConfig, cache: Cache | None = None) -> list[Stage]:
    """Measures reading, then also decoding (or reading from a cache), then also augmenting."""
    from tfrecord_tools import dataset

    stages: dict[str, Callable[[], Any]] = {}
    common: dict[str, Any] = {"batch_size": config.batch_size, "image_size": config.image_size, "seed": 0}
    common["crop"] = config.crop
    if cache is not None:
        common["cache"] = cache
        stages["reading from memory"] = lambda: dataset.train_batches(records, **common)
    else:
        stages["reading"] = lambda: dataset.serialized_batches(records, batch_size=config.batch_size, seed=0)
        stages["decoding"] = lambda: dataset.train_batches(records, **common)
    if PRESETS[config.augment]:
        stages["augmenting"] = lambda: dataset.train_batches(records, augment=PRESETS[config.augment], **common)
    return [Stage(name, rate(make(), config.batch_size, config.seconds)) for name, make in stages.items()]


def rate(batches: Iterable[Any], batch_size: int, seconds: float) -> float:
    """Images a second that come out of endless batches, after a warm-up."""
    iterator = iter(batches)
    next(iterator)
    until = time.perf_counter() + seconds * _WARM_UP
    while time.perf_counter() < until:
        next(iterator)
    start, count, passed = time.perf_counter(), 0, 0.0
    while passed < seconds * (1 - _WARM_UP):
        next(iterator)
        count, passed = count + batch_size, time.perf_counter() - start
    return count / passed


def verdict(
    stages: Sequence[Stage],
    records: int,
    image_size: int,
    crop: float,
    model_rate: float | None = None,
    in_memory: str = _IN_MEMORY,
) -> str:
    """Says in one line which stage binds, by how much, and what to change.

    Args:
        stages: Of `measure`.
        records: How many there are, for the size of a cache.
        image_size: In pixels.
        crop: As in `BenchConfig`.
        model_rate: Images a second of the model alone; None: there is none.
        in_memory: The flag that keeps decoded images in memory, with its command unless that is what the user ran.
    """
    supply = stages[-1].rate
    if model_rate is not None and supply >= model_rate * _NEAR:
        spare = f"{supply / model_rate:.1f} times what it takes" if supply > model_rate else "as fast as it"
        return (
            f"the model binds: {model_rate:,.0f} images/s; the input is {spare}. A faster device, or a smaller model."
        )
    times = [1 / stages[0].rate, *(1 / b.rate - 1 / a.rate for a, b in itertools.pairwise(stages))]
    share, binding = max(zip((t * supply for t in times), stages), key=lambda pair: pair[0])
    starved = f", {supply / model_rate:.0%} of what the model could take" if model_rate else ""
    what = f"{binding.name} binds: {share:.0%} of the time at {supply:,.0f} images/s{starved}"
    return f"{what}. {_remedy(binding, records, image_size, crop, in_memory)}"


def _remedy(binding: Stage, records: int, image_size: int, crop: float, in_memory: str) -> str:
    needed = records * image_size**2 * 3
    if binding.name == "decoding":
        cache = f"{in_memory} keeps all decoded images in {needed / 1e6:,.0f} MB" if needed <= CACHE_BYTES else ""
        # Of just the size that, cropped, is the one wanted: then nothing is resized either.
        side, mode = (round(image_size / crop), "center_crop") if crop else (image_size, "exact")
        convert = f"python -m tfrecord_tools.convert --resize={side} --resize_mode={mode}"
        resize = f"{convert} makes records that decode faster"
        return "; or ".join(filter(None, (cache, resize))) + "."
    if binding.name == "augmenting":
        return "Fewer kinds of change (colours cost as much as all moves), or more processors."
    if binding.name == "reading":
        return "A faster disk, or fewer and larger reads: order.Blocks."
    return "More processors, or larger batches."


def main(argv: Sequence[str]) -> None:
    directory = command.one_argument(argv, "a dataset's directory, as in python -m tfrecord_tools.bench out/,")
    config = command.from_flags(BenchConfig, tfrecords=directory)
    records = open_dataset(directory).records(config.split)
    print(
        f"{directory}: {words.number(len(records), 'record')} of {config.split}, {config.image_size} px, batches of"
        f" {config.batch_size}, {workers.default_workers()} processors"
    )
    cache = None
    if config.cached:
        from tfrecord_tools import dataset

        cache = dataset.cache_pixels(records, image_size=config.image_size, crop=config.crop, budget_bytes=CACHE_BYTES)
        if cache is None:
            raise UserError(
                f"--cached: {words.number(len(records), 'image does not', 'images do not')} fit into"
                f" {CACHE_BYTES / 1e9:.1f} GB."
            )
    stages = measure(records, config, cache)
    for number, stage in enumerate(stages):
        print(f"  {'+ ' if number else ''}{stage.name:<{22 - 2 * bool(number)}} {stage.rate:>9,.0f} images/s")
    print(verdict(stages, len(records), config.image_size, config.crop))


def define_flags() -> None:
    flags.DEFINE_string("split", BenchConfig.split, "Whose records.")
    flags.DEFINE_integer("image_size", BenchConfig.image_size, "Height and width in pixels.")
    flags.DEFINE_float(
        "crop", BenchConfig.crop, "Share of the shorter side whose central square is taken; 0 stretches."
    )
    flags.DEFINE_integer("batch_size", BenchConfig.batch_size, "Images a batch.")
    flags.DEFINE_enum("augment", BenchConfig.augment, [*PRESETS, *FORMER_NAMES], "The augmentation.")
    flags.DEFINE_bool(
        "cached", BenchConfig.cached, "Read decoded images from memory, as trainers do that keep them there."
    )
    flags.DEFINE_float("seconds", BenchConfig.seconds, "How long each stage is measured.")


if __name__ == "__main__":
    define_flags()
    command.run(main, arguments="DIRECTORY")
