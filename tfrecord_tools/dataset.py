"""`tf.data` pipelines over a converted directory: any order from any start, a pure function of (seed, step).

data = dataset.open("out")
train = dataset.train_batches(data.records("train"), batch_size=32, image_size=160, seed=0)
validation = dataset.eval_batches(data.records("validation"), batch_size=32, image_size=160)
model.fit(train, steps_per_epoch=100, epochs=10, validation_data=validation)

`_Chosen.batches` asks `order` for positions. A corrupt record, found by `Records.get_or_none`, is replaced in training
by the next valid one of the order (`_next_sound`), and left out in evaluation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfrecord_tools import order as orders
from tfrecord_tools.augment_config import AugmentConfig
from tfrecord_tools.augmentation.augment import augment as augmented
from tfrecord_tools.base import graphs, python_calls, words, workers
from tfrecord_tools.decoding import decoder
from tfrecord_tools.decoding.geometry import check_crop
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import schema
from tfrecord_tools.order import Order
from tfrecord_tools.records import Records, open_dataset

open = open_dataset

_CHUNK = 64  # At most so many images are read and decoded in one call of Python: few calls, little to hold.
_DRAWS = 6  # What these keys are for: other hashes of the same numbers are those of orders.
_TRIED = 16  # Positions that are looked up at once.
Fetch = Callable[[int], Any]


class Batch(NamedTuple):
    """A batch of `train_stream` or `eval_stream`: everything that is known about its images.

    Attributes:
        images: u8[b h w 3].
        labels: i64[b].
        numbers: i64[b], the record numbers.
        keys: i64[b], the keys of the random draws, as `mix` takes them; None for evaluation.
    """

    images: tf.Tensor
    labels: tf.Tensor
    numbers: tf.Tensor
    keys: tf.Tensor | None = None

    def parts(self, with_numbers: bool, with_keys: bool = False) -> tuple[tf.Tensor, ...]:
        """Return the tuple that users get: (images, labels[, numbers][, keys])."""
        return (
            self.images,
            self.labels,
            *((self.numbers,) if with_numbers else ()),
            *((self.keys,) if with_keys else ()),
        )


def train_batches(
    records: Records,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    crop: float = 0.0,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    order: Order | None = None,
    augment: AugmentConfig = AugmentConfig(),
    cache: Cache | None = None,
    with_numbers: bool = False,
    with_keys: bool = False,
    parallel: int | None = None,
    jit: bool = True,
) -> tf.data.Dataset:
    """An endless stream of shuffled batches; batch k is the same whatever came before it.

    By default each epoch is another permutation of all records, and batches run on across epochs, so that nothing is
    dropped or repeated within one. A corrupt record is replaced by another one, logged and kept in `records.corrupt`;
    all other positions stay what they are. What is drawn for an image depends on the seed, its round (see `Order.at`)
    and its number alone: not on its batch, the workers, `parallel` or `jit`.

    Args:
        records: What to read.
        batch_size: Of the global batch, over all workers.
        image_size: Height and width in pixels.
        seed: Of order and augmentation.
        crop: 0 stretches the whole image, above 0 takes its central square (see `reference.decode_pixels`).
        start_step: The first batch's number.
        shard: (i, w): yield the i-th of w equal, contiguous slices of each global batch.
        order: `order.Blocks` or `order.Balanced` of these records; by default they are `order.Shuffled`.
        augment: What may happen to the images, drawn anew for each occurrence.
        cache: The images as `cache_pixels` returned them for the same size and crop; nothing is decoded then.
        with_numbers: Yield the record numbers too.
        with_keys: Yield the keys of the draws too, as `mix` takes them.
        parallel: How many threads read and decode; None: one a processor.
        jit: Compile the augmentation with XLA; its result is the same.

    Returns:
        Of (images u8[b h w 3], labels i64[b][, numbers i64[b]][, keys i64[b]]), b = batch_size / w.

    Raises:
        UserError: A size that is not positive, a batch that w workers cannot share equally, or an order or a cache of
            other records.
    """
    return train_stream(
        records,
        batch_size=batch_size,
        image_size=image_size,
        seed=seed,
        crop=crop,
        start_step=start_step,
        shard=shard,
        order=order,
        augment=augment,
        cache=cache,
        parallel=parallel,
        jit=jit,
        select=lambda batch: batch.parts(with_numbers, with_keys),
    )


def train_stream(
    records: Records,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    crop: float = 0.0,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    order: Order | None = None,
    augment: AugmentConfig = AugmentConfig(),
    cache: Cache | None = None,
    parallel: int | None = None,
    jit: bool = True,
    select: Callable[[Batch], Any] | None = None,
) -> tf.data.Dataset:
    """Return the stream of `train_batches`, which explains the arguments, with a `Batch` as each element.

    If `select` is given, its results are the elements. A `map` behind the stream would cost 0.3 ms a batch more.
    """
    _check_positive(batch_size=batch_size, image_size=image_size)
    check_crop(crop)
    chosen = _Chosen(records, order or orders.Shuffled(max(len(records), 1), seed), seed, batch_size, shard)
    if cache is None:
        fetch = fetch_decoded(records, image_size, crop)
    else:
        _check_cache(cache, records, image_size, crop)
        fetch = cache.get
    data = chosen.batches(start_step, fetch, tf.uint8, (image_size, image_size, 3), parallel)

    @graphs.plain
    def finish(batch: Batch) -> Any:
        batch = batch._replace(images=augmented(batch.images, batch.keys, augment, jit))
        return select(batch) if select else batch

    return data.map(finish, parallel or tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def serialized_batches(
    records: Records, *, batch_size: int, seed: int, start_step: int = 0, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """The stream of `train_batches` before it is decoded: (serialized examples string[b], record numbers i64[b]).

    An image that cannot be decoded is not found here, and stays in it.
    """
    chosen = _Chosen(records, orders.Shuffled(max(len(records), 1), seed), seed, batch_size, shard)
    data = chosen.batches(start_step, records.get_or_none, tf.string, ())
    return data.map(graphs.plain(lambda batch: (batch.images, batch.numbers)))


@dataclasses.dataclass(frozen=True)
class Cache:
    """Decoded images.

    Attributes:
        pixels: u8[n h w 3], zeros where a record is corrupt.
        crop: As in `train_batches`.
        corrupt: The numbers of the corrupt ones.
    """

    pixels: np.ndarray
    crop: float
    corrupt: frozenset[int]

    def get(self, number: int) -> np.ndarray | None:
        """Returns u8[h w 3]; None if the record is corrupt."""
        return None if number in self.corrupt else self.pixels[number]


def cache_pixels(
    records: Records, *, image_size: int, crop: float = 0.0, budget_bytes: int | None = None
) -> Cache | None:
    """Decodes all records once, for `train_batches(cache=...)`.

    Args:
        records: What to read.
        image_size: As in `train_batches`.
        crop: Likewise.
        budget_bytes: The most that it may take; None: any.

    Returns:
        image_size**2 * 3 bytes a record; None if that is above the budget.
    """
    shape = (len(records), image_size, image_size, 3)
    if budget_bytes is not None and np.prod(shape, dtype=np.int64) > budget_bytes:
        return None
    cached = np.zeros(shape, np.uint8)
    for batch in eval_stream(records, batch_size=64, image_size=image_size, crop=crop).as_numpy_iterator():
        cached[batch.numbers] = batch.images
    return Cache(cached, crop, frozenset(records.corrupt))


class _Chosen:
    """Which records stand in a worker's share of each batch, and what is drawn for them."""

    def __init__(self, records: Records, order: Order, seed: int, batch_size: int, shard: tuple[int, int]):
        _check_any(records)
        _check_positive(batch_size=batch_size)
        index, workers = shard
        if not 0 <= index < workers or batch_size % workers:
            raise UserError(
                f"shard={shard}: worker i of w with 0 <= i < w is expected, and w must divide the batch size"
                f" {batch_size}."
            )
        if order.count != len(records):
            raise UserError(
                f"order: it is one of {words.number(order.count, 'record')}, and these are {len(records):,}."
            )
        self.share = batch_size // workers
        self._records, self._order, self._seed = records, order, seed
        self._batch_size, self._shard = batch_size, shard

    def batches(
        self, start_step: int, fetch: Fetch, dtype: tf.DType, shape: tuple[int, ...], parallel: int | None = None
    ) -> tf.data.Dataset:
        """Return the batches from a step on, with what `fetch` returns in the place of the images.

        Args:
            start_step: Number of the first batch.
            fetch: Record number -> what the batch holds of this record; None if the record is corrupt.
            dtype: Type of what `fetch` returns.
            shape: Shape of what `fetch` returns.
            parallel: As in `train_batches`.
        """
        if start_step < 0:
            raise UserError(f"start_step={start_step}: at least 0.")
        start, chunk = start_step * self.share, min(self.share, _CHUNK)

        def read(number: np.ndarray) -> tuple[np.ndarray, ...]:
            slots = start + int(number) * chunk + np.arange(chunk)
            positions = orders.stream_positions(slots, self._batch_size, self._shard)
            rounds, numbers = self._order.at(positions)
            images = python_calls.each(fetch, numbers.tolist())
            instead = np.zeros_like(numbers)  # Draws for a replacement differ from those at its own position.
            for i, image in enumerate(images):
                if image is None:
                    images[i], numbers[i] = self._next_sound(int(positions[i]), fetch)
                    instead[i] = positions[i] + 1
            keys = orders.hash64(self._seed, _DRAWS, rounds, numbers, instead).view(np.int64)
            return _stacked(images, dtype, shape), self._records.labels[numbers], numbers, keys

        dtypes = (dtype, tf.int64, tf.int64, tf.int64)
        data = _map_python(tf.data.Dataset.counter(), read, dtypes, shape, length=chunk, parallel=parallel)
        if chunk == self.share:
            return data
        data = data.rebatch(self.share, drop_remainder=True)
        sized = graphs.plain(
            lambda batch: Batch(*(tf.ensure_shape(part, [self.share, *part.shape[1:]]) for part in batch))
        )
        return data.map(sized)

    def _next_sound(self, position: int, fetch: Fetch) -> tuple[Any, int]:
        """Fetches the next sound record behind a position, with its number."""
        for start in range(position + 1, position + 1 + 2 * len(self._records), _TRIED):
            for number in self._order[np.arange(start, start + _TRIED)].tolist():
                if (image := fetch(number)) is not None:
                    return image, number
        raise UserError("every record is corrupt. Copy or convert the dataset again.")


def fetch_decoded(records: Records, image_size: int, crop: float) -> Fetch:
    """Return a function that reads and decodes a record: number -> u8[h w 3], None if the record is corrupt."""

    def pixels(serialized: bytes) -> np.ndarray:
        encoded = schema.decode_example(serialized, records.keys)["image"]
        return decoder.decode(encoded, image_size, crop, records.raw_size)

    return lambda number: records.get_or_none(number, pixels)


def _stacked(images: Sequence[Any], dtype: tf.DType, shape: tuple[int, ...]) -> np.ndarray:
    if dtype == tf.string:
        return np.array(images, object)
    return np.stack(images) if images else np.zeros((0, *shape), dtype.as_numpy_dtype)


def eval_batches(
    records: Records, *, batch_size: int, image_size: int, crop: float = 0.0, with_numbers: bool = False
) -> tf.data.Dataset:
    """All records once, in order; the last batch may be smaller. A corrupt record is left out and logged.

    Args:
        records: What to read.
        batch_size: Images a batch.
        image_size: Height and width in pixels.
        crop: As in `train_batches`.
        with_numbers: Yield the record numbers too.

    Returns:
        Of (images u8[b h w 3], labels i64[b]) or (images, labels, numbers i64[b]).
    """
    return eval_stream(
        records,
        batch_size=batch_size,
        image_size=image_size,
        crop=crop,
        select=lambda batch: batch.parts(with_numbers),
    )


def eval_stream(
    records: Records,
    *,
    batch_size: int,
    image_size: int,
    crop: float = 0.0,
    select: Callable[[Batch], Any] | None = None,
) -> tf.data.Dataset:
    """Return the batches of `eval_batches`, which explains the arguments, with a `Batch` as each element.

    If `select` is given, its results are the elements.
    """
    _check_any(records)
    _check_positive(batch_size=batch_size, image_size=image_size)
    check_crop(crop)

    fetch, shape = fetch_decoded(records, image_size, crop), (image_size, image_size, 3)

    def read(numbers: np.ndarray) -> tuple[np.ndarray, ...]:
        images = python_calls.each(fetch, numbers.tolist())
        decoded = {number: image for number, image in zip(numbers.tolist(), images) if image is not None}
        valid = np.array(list(decoded), np.int64)
        return _stacked(list(decoded.values()), tf.uint8, shape), records.labels[valid], valid

    chunks = tf.data.Dataset.range(len(records)).batch(_CHUNK)
    data = _map_python(chunks, read, (tf.uint8, tf.int64, tf.int64), shape).rebatch(batch_size)
    return (data.map(graphs.plain(select)) if select else data).prefetch(tf.data.AUTOTUNE)


def _map_python(
    chunks: tf.data.Dataset,
    read: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    dtypes: Sequence[tf.DType],
    shape: tuple[int, ...],
    length: int | None = None,
    parallel: int | None = None,
) -> tf.data.Dataset:
    """Call Python for each chunk, and return the results as `Batch`es.

    Args:
        chunks: A dataset of single tensors.
        read: Chunk -> the fields of a `Batch`, as arrays of the same length.
        dtypes: The types of these arrays.
        shape: Shape of an element of the first array; the elements of the others are scalars.
        length: Length of the arrays, if it is always the same.
        parallel: Number of threads; None: one per processor. More of them would wait for Python's lock.
    """

    @graphs.plain
    def as_tensors(chunk: tf.Tensor) -> Batch:
        parts = python_calls.numpy_function(read, [chunk], dtypes)
        for number, part in enumerate(parts):
            part.set_shape([length, *(() if number else shape)])
        return Batch(*parts)

    return chunks.map(as_tensors, parallel or workers.default_workers())


def _check_any(records: Records) -> None:
    if not len(records):
        raise UserError("there are no records to read: the split, or what was selected of it, is empty.")


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{name}={value}: at least 1.")


def _check_cache(cache: Cache, records: Records, image_size: int, crop: float) -> None:
    expected = (len(records), image_size, image_size, 3)
    if cache.pixels.shape != expected or cache.crop != crop:
        raise UserError(
            f"cache: pixels of shape {cache.pixels.shape} with crop={cache.crop}; {expected} with crop={crop}"
            " is expected, as of cache_pixels with the same settings."
        )
