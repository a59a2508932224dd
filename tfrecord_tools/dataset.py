"""`tf.data` pipelines of a converted directory. The same seed and step give the same batch.

data = dataset.open("out")
train = dataset.train_batches(data.records("train"), batch_size=32, image_size=160, seed=0)
validation = dataset.eval_batches(data.records("validation"), batch_size=32, image_size=160)
model.fit(train, epochs=10, validation_data=validation)

Each epoch has another order. Training can start at any step. A corrupt record is reported and skipped: in training, the
next valid record of the order replaces it. In evaluation, it is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfrecord_tools import order as orders
from tfrecord_tools.augment_config import AugmentConfig
from tfrecord_tools.augmentation import changes
from tfrecord_tools.augmentation.named import Augment
from tfrecord_tools.base import graphs, python_calls, words, workers
from tfrecord_tools.base.checks import check_whole
from tfrecord_tools.base.sizes import Size
from tfrecord_tools.decoding import decoder
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.errors import UserError, short
from tfrecord_tools.layout import schema
from tfrecord_tools.order import Order
from tfrecord_tools.records import Records, open_dataset

open = open_dataset

_CHUNK = 128  # Largest number of images in a chunk, see `_Chunks`.
_CHUNK_BYTES, _ALL_CHUNKS_BYTES = 16 << 20, 256 << 20  # Largest size of a chunk, and of one chunk for each thread.
# An iteration has at least this number of chunks for each thread, so that threads have work until its end. In a short
# iteration, there are fewer chunks: a chunk has at least a batch, or `_SMALL` images of a larger batch.
_CHUNKS_PER_THREAD = 8
_SMALL = 64
# A constant that is hashed into `Batch.keys`, so that the keys differ from the hashes that `order` uses for shuffling.
_DRAWS = 6
_LOOKUP = 16  # Number of positions that the search for a valid record looks up at once.
_ALIGNMENT = 64  # Bytes; EIGEN_MAX_ALIGN_BYTES of TensorFlow.
# Writes the images of record numbers i64[k] into an array [k ...]. Returns bool[k], whether each record is valid. The
# images of corrupt records are undefined.
Fetch = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Batch(NamedTuple):
    """A batch of `train_stream` or `eval_stream`.

    Attributes:
        images: u8[b h w 3].
        labels: i64[b].
        numbers: i64[b], the record numbers.
        keys: i64[b], a number for each image. Like a seed, it decides the random changes of the image. Pass the keys to
            `tfrecord_tools.mix`. None in evaluation.
    """

    images: tf.Tensor
    labels: tf.Tensor
    numbers: tf.Tensor
    keys: tf.Tensor | None = None

    def parts(self, with_numbers: bool, with_keys: bool = False) -> tuple[tf.Tensor, ...]:
        """Return the tuple (images, labels[, numbers][, keys]) that users get."""
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
    image_size: Size,
    seed: int,
    crop: float = 0.0,
    fit: str | None = None,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    order: Order | None = None,
    augment: Augment = AugmentConfig(),
    cache: Cache | None = None,
    with_numbers: bool = False,
    with_keys: bool = False,
    endless: bool = False,
    parallel: int | None = None,
    jit: bool = True,
) -> tf.data.Dataset:
    """Return a `tf.data.Dataset` of shuffled training batches, one epoch per iteration.

    The batches of all epochs are one endless stream. Each pass over the records is a new permutation. A batch may
    contain the end of one pass and the start of the next, so no record is dropped or repeated within a pass. Batch k of
    the stream depends only on the arguments, not on earlier batches.

    An iteration (an epoch of `fit`, a `for` loop) gives the next `len(dataset)` batches of the stream, so every epoch
    has another order. Each loop counts as an epoch, even if it ends early.

    A corrupt record is logged and listed in `records.corrupt`. Another record takes its position. All other positions
    stay the same. The random changes of an image depend only on the seed, the epoch (see `Order.at`) and the record
    number, not on the batch, the number of workers, `parallel` or `jit`.

    Args:
        records: The records to read, from `open("out").records("train")`.
        batch_size: Images per step, over all workers.
        image_size: Height and width of the images in pixels: one number, or a pair (height, width).
        seed: Seed of the order and the augmentation, any integer.
        crop: A number in 0..1. 0: stretch the whole image. Above 0: cut out the center with the aspect ratio of
            `image_size`. If `image_size` is a square, the side of the center is `crop` times the shorter side of the
            image.
        fit: "crop": cut out the center; `crop` may be left out, and is then 1. "pad": keep the whole image and its
            aspect ratio, with gray around it. "stretch": stretch the whole image. None: "crop" if `crop` is above 0,
            else "stretch".
        start_step: Number of the first batch, from 0. To continue after e epochs, pass e * len(dataset).
        shard: (i, w): each batch is cut into w equal, contiguous slices. Worker i of w gets slice i, counted from 0.
        order: `order.Blocks` or `order.Balanced` of these records. None: `order.Shuffled`.
        augment: Random changes of the images, drawn again in each epoch: an `AugmentConfig`, the name of a preset, a
            preset with changed values such as "standard,horizontal_flip=False", or your own function (see
            docs/pipeline.md). The function may also be named: "module:function" or "file.py:function". Default: no
            changes.
        cache: Decoded images from `cache_pixels` with the same `image_size`, `crop` and `fit`. None: decode each image.
        with_numbers: Add the record numbers to each batch.
        with_keys: Add `Batch.keys` to each batch.
        endless: An iteration does not end. `fit` then needs `steps_per_epoch`.
        parallel: Number of threads that read and decode. None or `tf.data.AUTOTUNE`: one per processor.
        jit: Compile the augmentation with XLA. The result is the same.

    Returns:
        Batches (images u8[b h w 3], labels i64[b]) with b = batch_size / w. If they were asked for, numbers i64[b] and
        keys i64[b] follow. The length is the number of records divided by the batch size, rounded, and at least 1.

    Raises:
        UserError: A number is not whole or too small, w does not divide the batch size, `augment` cannot be used, or
            `order` or `cache` belongs to other records.

    Example:
        train = train_batches(records, batch_size=32, image_size=160, seed=0, augment=AugmentConfig(zoom_range=0.2))
        model.fit(train, epochs=10)
    """
    _check_records(records)
    check_whole(1, batch_size=batch_size)
    return train_stream(
        records,
        batch_size=batch_size,
        image_size=Geometry.of(image_size, crop, fit),
        seed=seed,
        start_step=start_step,
        shard=shard,
        order=order,
        augment=augment,
        cache=cache,
        parallel=parallel,
        jit=jit,
        steps=None if endless else orders.steps_per_epoch(len(records), batch_size),
        select=lambda batch: batch.parts(with_numbers, with_keys),
    )


def train_stream(
    records: Records,
    *,
    batch_size: int,
    image_size: Size | Geometry,
    seed: int,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    order: Order | None = None,
    augment: Augment = AugmentConfig(),
    cache: Cache | None = None,
    parallel: int | None = None,
    jit: bool = True,
    steps: int | None = None,
    select: Callable[[Batch], Any] | None = None,
) -> tf.data.Dataset:
    """Return the stream of `train_batches`, with a `Batch` as each element.

    Args:
        image_size: How images become the input of a network. A size alone: the whole image is stretched.
        steps: Number of batches in an iteration. Each iteration continues where the one before it ends. None: an
            iteration does not end.
        select: Function from a `Batch` to the element of the dataset. None: the `Batch` itself. A call of `map` on the
            result would do the same, but takes 0.3 ms more per batch.

    The other arguments are those of `train_batches`.
    """
    geometry = Geometry.of(image_size)
    selection = _Selection(records, order, seed, batch_size, shard)
    if cache is None:
        fetch = fetch_decoded(records, geometry)
    else:
        _check_cache(cache, records, geometry)
        fetch = cache.fetch
    data = selection.batches(start_step, fetch, tf.uint8, geometry.shape, parallel, steps, reads=cache is None)
    change = changes.of(augment, (selection.share, *geometry.shape), jit)

    @graphs.plain
    def finish(batch: Batch) -> Any:
        batch = batch._replace(images=change(batch.images, batch.keys))
        return select(batch) if select else batch

    data = data.map(finish, _threads(parallel)).prefetch(tf.data.AUTOTUNE)
    # Corrupt records are replaced, so the number of batches is always right.
    return data.apply(tf.data.experimental.assert_cardinality(steps)) if steps else data


def serialized_batches(
    records: Records, *, batch_size: int, seed: int, start_step: int = 0, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """Return the stream of `train_batches` without decoding the images.

    If the checksums of a record are valid, it is included, even if its image cannot be decoded.

    Returns:
        Batches (serialized examples string[b], record numbers i64[b]).
    """
    selection = _Selection(records, None, seed, batch_size, shard)

    def fetch(numbers: np.ndarray, serialized: np.ndarray) -> np.ndarray:
        def put(i: int, data: memoryview) -> None:
            serialized[i] = bytes(data)

        return _visited(records, numbers, put)

    data = selection.batches(start_step, fetch, tf.string, ())
    return data.map(graphs.plain(lambda batch: (batch.images, batch.numbers)))


@dataclasses.dataclass(frozen=True)
class Cache:
    """Decoded images in memory.

    Attributes:
        pixels: u8[n h w 3]; zeros for corrupt records.
        geometry: How the images were fitted into the input of a network.
        corrupt: The numbers of the corrupt records.
        records: `Records.identity` of the records. "": not known, as in a cache of an earlier version.
    """

    pixels: np.ndarray
    geometry: Geometry
    corrupt: frozenset[int]
    records: str = ""

    def fetch(self, numbers: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Copy the pixels of records i64[k] into u8[k h w 3]. Return bool[k], whether each record is valid."""
        count = len(self.pixels)
        outside = numbers[(numbers < -count) | (numbers >= count)]
        if len(outside):
            raise IndexError(f"record {outside[0]:,} does not exist: there are {count:,} records")
        np.take(self.pixels, numbers, axis=0, out=images, mode="wrap")  # The mode "raise" copies everything twice.
        return ~np.isin(numbers, list(self.corrupt))


def cache_pixels(
    records: Records,
    *,
    image_size: Size | Geometry,
    crop: float = 0.0,
    fit: str | None = None,
    budget_bytes: int | None = None,
) -> Cache | None:
    """Decode all records once, for `train_batches(cache=...)`. A record takes `height * width * 3` bytes.

    Args:
        records: The records to decode.
        image_size: As in `train_batches`.
        crop: As in `train_batches`.
        fit: As in `train_batches`.
        budget_bytes: Largest size of the cache in bytes. None: no limit.

    Returns:
        The cache, or None if it would be larger than `budget_bytes`.
    """
    _check_records(records)
    geometry = Geometry.of(image_size, crop, fit)
    shape = (len(records), *geometry.shape)
    if budget_bytes is not None and np.prod(shape, dtype=np.int64) > budget_bytes:
        return None
    cached = np.zeros(shape, np.uint8)
    for batch in eval_stream(records, batch_size=64, image_size=geometry).as_numpy_iterator():
        cached[batch.numbers] = batch.images
    return Cache(cached, geometry, frozenset(records.corrupt), records.identity)


class _Selection:
    """The records in a worker's share of each batch, and the keys of their random draws."""

    def __init__(self, records: Records, order: Order | None, seed: int, batch_size: int, shard: tuple[int, int]):
        _check_records(records)
        check_whole(1, batch_size=batch_size)
        check_whole(seed=seed)
        order = order or orders.Shuffled(len(records), seed)
        index, workers = shard
        if not 0 <= index < workers or batch_size % workers:
            raise UserError(
                f"shard={shard}: must be (index of this worker, count of workers). The first worker has index 0. The"
                f" batch size {batch_size} must be a multiple of the number of workers."
            )
        if order.count != len(records):
            raise UserError(
                f"order: was made for {words.number(order.count, 'record')}, but there are {len(records):,} records."
                " Make the order for these records: Shuffled(len(records), seed) or Balanced(records.labels, seed)."
            )
        self._batch_size, self._shard = int(batch_size), shard  # Small integers of NumPy would overflow.
        self.share = self._batch_size // workers
        self._records, self._order, self._seed = records, order, seed

    def batches(
        self,
        start_step: int,
        fetch: Fetch,
        dtype: tf.DType,
        shape: tuple[int, ...],
        parallel: int | None = None,
        steps: int | None = None,
        reads: bool = True,
    ) -> tf.data.Dataset:
        """Return the batches, beginning with batch `start_step`. The images are what `fetch` returns.

        Args:
            start_step: Number of the first batch.
            fetch: Function that writes the images of record numbers into an array.
            dtype: Type of an image of `fetch`.
            shape: Shape of an image of `fetch`.
            parallel: As in `train_batches`.
            steps: As in `train_stream`.
            reads: Whether `fetch` reads the records, so that a bucket fetches them ahead.
        """
        check_whole(0, start_step=start_step)
        threads = _threads(parallel)
        length = None if steps is None else steps * self.share
        item_bytes = self._records.mean_bytes if dtype == tf.string else int(np.prod(shape)) * dtype.size
        chunks = _Chunks.of(int(start_step) * self.share, length, self.share, item_bytes, threads)
        reading = self._records.plan(self._order) if reads else lambda position: contextlib.nullcontext()

        def read(first: np.ndarray) -> tuple[np.ndarray, ...]:
            slots = chunks.slots(int(first))
            positions = orders.stream_positions(slots, self._batch_size, self._shard)
            epochs, numbers = self._order.at(positions)
            replaced = np.zeros_like(numbers)  # A record that replaces a corrupt one gets another key.
            images = _empty((len(slots), *shape), dtype)
            with reading(int(positions[0])):
                for i in np.flatnonzero(~fetch(numbers, images)).tolist():
                    numbers[i] = self._put_next_valid(int(positions[i]), fetch, images[i : i + 1])
                    replaced[i] = positions[i] + 1
            keys = orders.hash64(self._seed, _DRAWS, epochs, numbers, replaced).view(np.int64)
            return images, self._records.labels[numbers], numbers, keys

        dtypes = (dtype, tf.int64, tf.int64, tf.int64)
        firsts = chunks.firsts(chunks.start) if length is None else _iterations(chunks)
        data = _map_python(firsts, read, dtypes, shape, threads).rebatch(self.share, drop_remainder=True)
        if length is None:  # After `rebatch`, TensorFlow does not know it.
            data = data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        return data

    def _put_next_valid(self, position: int, fetch: Fetch, image: np.ndarray) -> int:
        """Fetch the next valid record after a position into [1 ...], and return its number."""
        for start in range(position + 1, position + 1 + 2 * len(self._records), _LOOKUP):
            for number in self._order[np.arange(start, start + _LOOKUP)]:
                if fetch(number[None], image)[0]:
                    return int(number)
        raise UserError("all records are corrupt. Copy or convert the dataset again.")


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """How an iteration is divided into chunks. One call of a Python function reads a chunk of images.

    Large chunks are faster: each call takes time, and the other threads wait for Python's lock. More than 128 images
    gain little. The first chunks are small, so that the first batch is soon there. Batches do not depend on chunks.

    A slot is a position in the stream of this worker. A chunk is a run of slots.

    Attributes:
        start: First slot of the first iteration.
        length: Number of slots in an iteration. None: the iteration does not end.
        small: Number of slots in each of the first chunks.
        large: Number of slots in each later chunk.
        begin: Number of slots of an iteration that are in small chunks.
    """

    start: int
    length: int | None
    small: int
    large: int
    begin: int

    @classmethod
    def of(cls, start: int, length: int | None, share: int, item_bytes: int, threads: int) -> _Chunks:
        """Choose the sizes.

        Args:
            start: As in the class.
            length: As in the class.
            share: Number of images in a batch.
            item_bytes: Bytes of an image, or mean number of bytes of a serialized record.
            threads: Number of threads that read chunks.
        """
        most_bytes = min(_CHUNK_BYTES, _ALL_CHUNKS_BYTES // threads)
        small = min(share, _SMALL)
        useful = _CHUNK if length is None else max(small, length // (_CHUNKS_PER_THREAD * threads))
        large = max(1, min(_CHUNK, most_bytes // max(1, item_bytes), useful))
        large -= large % share if large > share else 0  # Batches that cross chunks are copied.
        small = min(small, large)
        begin = 2 * threads * small
        return cls(start, length, small, large, begin if length is None else min(begin, length))

    def slots(self, first: int) -> np.ndarray:
        """Return the slots of the chunk that begins with slot `first`, i64[k]."""
        offset = first - self.start
        if self.length is not None:
            offset %= self.length
        size = self.small if offset < self.begin else self.large
        return first + np.arange(size if self.length is None else min(size, self.length - offset))

    def firsts(self, start: int | tf.Tensor) -> tf.data.Dataset:
        """Return the first slot of each chunk in the iteration that begins with slot `start`, i64."""
        later = start + self.begin
        small = tf.data.Dataset.range(start, later, self.small)
        if self.length is None:
            return small.concatenate(tf.data.Dataset.counter(later, self.large))
        return small.concatenate(tf.data.Dataset.range(later, start + self.length, self.large))


def _threads(parallel: int | None) -> int:
    """Return the number of threads for the argument `parallel`."""
    if parallel is None or parallel == tf.data.AUTOTUNE:
        return workers.default_workers()
    check_whole(1, parallel=parallel)
    return int(parallel)


def _iterations(chunks: _Chunks) -> tf.data.Dataset:
    """Return the first slot of each chunk, i64.

    Each iteration continues where the iteration before it ends.
    """
    starts = itertools.count(chunks.start, chunks.length or 0)

    @graphs.plain
    def firsts(_: tf.Tensor) -> tf.data.Dataset:
        (start,) = python_calls.numpy_function(lambda _: (np.int64(next(starts)),), [_], [tf.int64])
        start.set_shape([])
        return chunks.firsts(start)

    return tf.data.Dataset.range(1).flat_map(firsts)


def fetch_decoded(records: Records, geometry: Geometry) -> Fetch:
    """Return a function that writes the pixels of record numbers i64[k] into u8[k h w 3]."""
    size = records.raw_size
    is_straight = size is not None and geometry.is_kept(size, size)

    def fetch(numbers: np.ndarray, images: np.ndarray) -> np.ndarray:
        valid = np.zeros(len(numbers), bool)
        if is_straight:
            valid = records.read_pixels(numbers, images, python_calls.check)
        unread = np.flatnonzero(~valid)

        def put(i: int, serialized: memoryview) -> None:
            encoded = schema.image_of(serialized, records.keys)
            decoder.decode_into(images[unread[i]], encoded, geometry, records.raw_size)

        if len(unread):
            valid[unread] = _visited(records, numbers[unread], put)
        return valid

    return fetch


def _visited(records: Records, numbers: np.ndarray, put: Callable[[int, memoryview], None]) -> np.ndarray:
    """Call a function of index and serialized example for records i64[k]. Return which are valid, bool[k]."""

    def checked(i: int, serialized: memoryview) -> bool:
        python_calls.check()
        put(i, serialized)
        return True

    return np.array(records.visit(numbers, checked), bool)


def _empty(shape: tuple[int, ...], dtype: tf.DType) -> np.ndarray:
    """Return a new array with undefined values, aligned to 64 bytes.

    TensorFlow uses the memory of such an array. Others are copied, which takes 4 us per image of 150 x 150 pixels.
    `rebatch` copies again, unless a batch is an aligned part of one chunk.
    """
    if dtype == tf.string:
        return np.empty(shape, object)
    item = np.dtype(dtype.as_numpy_dtype)
    size = int(np.prod(shape)) * item.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(item).reshape(shape)


def eval_batches(
    records: Records,
    *,
    batch_size: int,
    image_size: Size,
    crop: float = 0.0,
    fit: str | None = None,
    with_numbers: bool = False,
) -> tf.data.Dataset:
    """Return a `tf.data.Dataset` with each record once, in order, for evaluation and prediction.

    The last batch may be smaller. A corrupt record is left out and logged. `len` of the dataset is the number of
    batches if no record is corrupt.

    Args:
        records: The records to read.
        batch_size: Images per batch.
        image_size: As in `train_batches`.
        crop: As in `train_batches`.
        fit: As in `train_batches`.
        with_numbers: Add the record numbers to each batch.

    Returns:
        Batches (images u8[b h w 3], labels i64[b][, numbers i64[b]]).

    Raises:
        UserError: There are no records, or a size is not positive.
    """
    return eval_stream(
        records,
        batch_size=batch_size,
        image_size=Geometry.of(image_size, crop, fit),
        select=lambda batch: batch.parts(with_numbers),
    )


def eval_stream(
    records: Records,
    *,
    batch_size: int,
    image_size: Size | Geometry,
    select: Callable[[Batch], Any] | None = None,
) -> tf.data.Dataset:
    """Return the batches of `eval_batches`, with a `Batch` as each element.

    Args:
        image_size: How images become the input of a network. A size alone: the whole image is stretched.
        select: Function from a `Batch` to the element of the dataset. None: the `Batch` itself.

    The other arguments are those of `eval_batches`.
    """
    _check_records(records)
    check_whole(1, batch_size=batch_size)
    batch_size = int(batch_size)
    geometry = Geometry.of(image_size)
    fetch, shape = fetch_decoded(records, geometry), geometry.shape
    reading = records.plan()

    threads = workers.default_workers()
    chunks = _Chunks.of(0, len(records), _SMALL, int(np.prod(shape)), threads)

    def read(first: np.ndarray) -> tuple[np.ndarray, ...]:
        numbers = chunks.slots(int(first))
        images = _empty((len(numbers), *shape), tf.uint8)
        with reading(int(numbers[0])):
            valid = fetch(numbers, images)
        if not valid.all():
            images, numbers = images[valid], numbers[valid]
        return images, records.labels[numbers], numbers

    dtypes = (tf.uint8, tf.int64, tf.int64)
    data = _map_python(chunks.firsts(0), read, dtypes, shape, threads).rebatch(batch_size)
    data = (data.map(graphs.plain(select)) if select else data).prefetch(tf.data.AUTOTUNE)
    # `len` and Keras's progress bar need this. Corrupt records are left out, so there may be fewer batches. With
    # `assert_cardinality`, this would be an error.
    data.cardinality = lambda: tf.constant(-(-len(records) // batch_size), tf.int64)
    return data


def _map_python(
    firsts: tf.data.Dataset,
    read: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    dtypes: Sequence[tf.DType],
    shape: tuple[int, ...],
    parallel: int,
) -> tf.data.Dataset:
    """Call a Python function for each chunk, and return the results as `Batch`es.

    Args:
        firsts: The first slot of each chunk.
        read: Function from it to the fields of a `Batch`, as arrays of the same length.
        dtypes: The types of the arrays.
        shape: Shape of an element of the first array. The other arrays hold scalars.
        parallel: Number of threads. More threads than processors would wait for Python's lock.
    """

    @graphs.plain
    def as_tensors(first: tf.Tensor) -> Batch:
        parts = python_calls.numpy_function(read, [first], dtypes)
        for number, part in enumerate(parts):
            part.set_shape([None, *(() if number else shape)])
        return Batch(*parts)

    data = firsts.map(as_tensors, parallel, deterministic=True)  # Otherwise, batches would depend on the threads.
    return python_calls.without_autotune(data)


def _check_records(records: Records) -> None:
    if not isinstance(records, Records):
        raise UserError(
            f"records={short(records)}: must be the records of a split. Pass the result of"
            ' dataset.open("out").records("train").'
        )
    if not len(records):
        raise UserError("there are no records to read: the split or the selection is empty. Use another split.")


def _check_cache(cache: Cache, records: Records, geometry: Geometry) -> None:
    count = len(cache.pixels)
    if count != len(records) or cache.geometry != geometry:
        raise UserError(
            f"cache: does not fit the records. The cache has {words.number(count, 'image')} of {cache.geometry}. The"
            f" cache must have {words.number(len(records), 'image')} of {geometry}. Call cache_pixels with the same"
            " records, image_size, crop and fit."
        )
    if cache.records and cache.records != records.identity:
        raise UserError(
            "cache: belongs to other records, so its images would get wrong labels. Call cache_pixels with the records"
            " that are passed to train_batches."
        )
