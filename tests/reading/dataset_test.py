"""Tests of the pipelines: order, start steps, worker slices, and corrupt records."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_sources import break_image, converted, flip, frame, rewrite, tree

from tfrecord_tools import dataset
from tfrecord_tools.augment_config import PRESETS, AugmentConfig
from tfrecord_tools.decoding.geometry import Geometry
from tfrecord_tools.decoding.reference import decode_pixels
from tfrecord_tools.errors import UserError
from tfrecord_tools.mix import mixup
from tfrecord_tools.order import Balanced, Blocks, Shuffled
from tfrecord_tools.records import Records

SIZE = 8
SHIFT = AugmentConfig(width_shift_range=0.2, horizontal_flip=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of 10 training and 7 validation records with different pixels."""
    root = tmp_path_factory.mktemp("dataset")
    tree(root / "pets", {"train/cats": 5, "train/dogs": 5, "validation/cats": 4, "validation/dogs": 3})
    converted(root / "pets", root / "out", shards=5)
    return root / "out"


def test_sizes_of_the_images(out: Path) -> None:
    records = dataset.open(out).records("train").select(np.array([3, 0]))
    assert records.sizes.tolist() == [[9, 12]] * 2  # Height and width.


@pytest.fixture
def train(out: Path) -> Records:
    return dataset.open(out).records("train")


@pytest.fixture
def validation(out: Path) -> Records:
    return dataset.open(out).records("validation")


@pytest.fixture
def damaged(out: Path, tmp_path: Path) -> Records:
    """Return the training records. The fifth has a damaged byte."""
    return damaged_copy(out, tmp_path / "damaged", [4])


def damaged_copy(out: Path, copy: Path, numbers: list[int]) -> Records:
    shutil.copytree(out, copy)
    records = dataset.open(copy).records("train")
    for number in numbers:
        shard, offset, _ = frame(records, number)
        flip(shard, offset + 60)
    return dataset.open(copy).records("train")


def batches(records: Records, steps: int, **settings: Any) -> list[tuple[np.ndarray, ...]]:
    """Return the first training batches as arrays: images, labels and, with `with_numbers`, numbers."""
    settings = {"batch_size": 4, "image_size": SIZE, "seed": 0} | settings
    data = dataset.train_batches(records, endless=True, **settings)
    return [tuple(part.numpy() for part in batch) for batch in data.take(steps)]


def numbers(records: Records, steps: int, **settings: Any) -> list[list[int]]:
    return [batch[2].tolist() for batch in batches(records, steps, with_numbers=True, **settings)]


def as_bytes(some: list[tuple[np.ndarray, ...]]) -> list[tuple[bytes, ...]]:
    return [tuple(part.tobytes() for part in batch) for batch in some]


def evaluated(records: Records, batch_size: int = 4) -> Iterator[tuple[np.ndarray, ...]]:
    data = dataset.eval_batches(records, batch_size=batch_size, image_size=SIZE, with_numbers=True)
    return data.as_numpy_iterator()


# --- Training ------------------------------------------------------------------------------------------------------


def test_batches_follow_the_order(train: Records) -> None:
    expected = Shuffled(10, seed=3)[np.arange(60)].reshape(15, 4)
    assert numbers(train, 15, seed=3) == expected.tolist()


def test_images_and_labels_match_the_numbers(train: Records) -> None:
    for images, labels, chosen in batches(train, 5, with_numbers=True):
        assert images.shape == (4, SIZE, SIZE, 3)
        assert (images.dtype, labels.dtype) == (np.dtype(np.uint8), np.dtype(np.int64))
        for image, label, number in zip(images, labels, chosen):
            record = train[int(number)]
            np.testing.assert_array_equal(image, decode_pixels(tf.constant(record["image"]), SIZE))
            assert label == record["label"]


@pytest.mark.parametrize(
    ("image_size", "settings"),
    [((6, 15), {"crop": 0.875}), ((6, 15), {"fit": "crop"}), ("15x6", {"fit": "stretch"}), (9, {"fit": "pad"})],
    ids=str,
)
def test_images_of_any_shape(train: Records, validation: Records, image_size: Any, settings: dict[str, Any]) -> None:
    geometry = Geometry.of(image_size, **settings)
    cache = dataset.cache_pixels(train, image_size=image_size, **settings)
    given = {"image_size": image_size, "with_numbers": True, **settings}
    for images, _, chosen in batches(train, 3, **given):
        assert images.shape == (4, *geometry.shape)
        for image, number in zip(images, chosen):
            expected = decode_pixels(tf.constant(train[int(number)]["image"]), geometry)
            np.testing.assert_array_equal(image, expected)
    assert as_bytes(batches(train, 3, cache=cache, **given)) == as_bytes(batches(train, 3, **given))
    data = dataset.eval_batches(validation, batch_size=4, **given)
    assert data.element_spec[0].shape.as_list() == [None, *geometry.shape]
    for images, _, chosen in data:
        expected = [decode_pixels(tf.constant(validation[int(number)]["image"]), geometry) for number in chosen]
        np.testing.assert_array_equal(images, np.stack(expected))


def test_epochs_are_different_permutations(train: Records) -> None:
    stream = list(
        itertools.chain(*numbers(train, 15))
    )  # 60 positions are 6 epochs; a batch covers the end of one and the start of the next.
    epochs = [stream[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_batch_may_be_larger_than_the_epoch(train: Records) -> None:
    (batch,) = numbers(train, 1, batch_size=25)
    assert sorted(batch[:10]) == sorted(batch[10:20]) == list(range(10))


def test_seeds_give_other_orders(train: Records) -> None:
    assert len({str(numbers(train, 3, seed=seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("augment", [AugmentConfig(), SHIFT], ids=["plain", "augmented"])
@pytest.mark.parametrize("start", [1, 5])
def test_starting_at_a_step_equals_the_tail(train: Records, start: int, augment: AugmentConfig) -> None:
    whole = batches(train, 9, augment=augment, with_numbers=True)
    tail = batches(train, 9 - start, augment=augment, with_numbers=True, start_step=start)
    assert as_bytes(tail) == as_bytes(whole[start:])


def test_starting_at_a_very_late_step(train: Records) -> None:
    expected = Shuffled(10, seed=0)[np.arange(4_000_000_000, 4_000_000_004)].tolist()
    assert numbers(train, 1, start_step=1_000_000_000) == [expected]


@pytest.mark.parametrize("workers", [2, 4])
def test_worker_slices_form_the_global_batches(train: Records, workers: int) -> None:
    whole = batches(train, 6, with_numbers=True)
    slices = [batches(train, 6, with_numbers=True, shard=(i, workers)) for i in range(workers)]
    for step, batch in enumerate(whole):
        for part in range(3):
            joined = np.concatenate([worker[step][part] for worker in slices])
            np.testing.assert_array_equal(joined, batch[part])


@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
@pytest.mark.parametrize(("parallel", "chunk"), [(1, 1), (3, 2), (2, 3)], ids=["one", "halves", "across batches"])
def test_order_does_not_depend_on_parallelism(
    train: Records, parallel: int, chunk: int, shard: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "augment": SHIFT,
        "with_numbers": True,
        "shard": shard,
        "batch_size": 8,
        "start_step": 5,
    }
    expected = as_bytes(batches(train, 12, parallel=1, **settings))
    monkeypatch.setattr(dataset, "_CHUNK", chunk)
    assert as_bytes(batches(train, 12, parallel=parallel, **settings)) == expected


@pytest.mark.parametrize(
    ("item_bytes", "share", "length", "threads", "expected"),
    [
        pytest.param(192, 4, None, 2, (4, 128), id="small images: the largest number"),
        pytest.param(192, 20, None, 2, (20, 120), id="several whole batches"),
        pytest.param(224 * 224 * 3, 32, None, 2, (32, 96), id="as many batches as fit into 16 MB"),
        pytest.param(224 * 224 * 3, 32, None, 128, (13, 13), id="many threads: as many as fit into 256 MB together"),
        pytest.param(27_000_000, 32, None, 2, (1, 1), id="one image has more than 16 MB"),
        pytest.param(0, 32, None, 2, (32, 128), id="empty records"),
        pytest.param(192, 20, 1400, 2, (20, 80), id="eight chunks for each thread"),
        pytest.param(192, 20, 1400, 16, (20, 20), id="many threads, few images: a batch"),
        pytest.param(192, 4, 1400, 16, (4, 8), id="a small batch"),
        pytest.param(192, 500, 1000, 16, (64, 64), id="a large batch: a part of it"),
        pytest.param(192, 500, 10**9, 64, (64, 128), id="a large batch in a long epoch"),
    ],
)
def test_sizes_of_chunks(
    item_bytes: int, share: int, length: int | None, threads: int, expected: tuple[int, int]
) -> None:
    chunks = dataset._Chunks.of(0, length, share, item_bytes, threads)
    assert (chunks.small, chunks.large) == expected


@pytest.mark.parametrize(
    ("chunks", "sizes"),
    [
        (dataset._Chunks(0, 20, small=3, large=8, begin=6), [3, 3, 8, 6]),
        (dataset._Chunks(0, 20, small=8, large=8, begin=20), [8, 8, 4]),
        (dataset._Chunks(40, 5, small=3, large=8, begin=5), [3, 2]),
        (dataset._Chunks(40, 6, small=3, large=8, begin=6), [3, 3]),
    ],
)
def test_chunks_cover_each_iteration(chunks: dataset._Chunks, sizes: list[int]) -> None:
    assert chunks.length is not None
    for epoch in range(3):
        start = chunks.start + epoch * chunks.length
        found = [chunks.slots(int(first)) for first in chunks.firsts(start)]
        assert [len(slots) for slots in found] == sizes
        np.testing.assert_array_equal(np.concatenate(found), start + np.arange(chunks.length))


def test_no_image_is_read_that_no_batch_has(train: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_decoded, sizes = dataset.fetch_decoded, []

    def counted(*arguments: Any) -> dataset.Fetch:
        fetch = fetch_decoded(*arguments)

        def read(numbers: np.ndarray, images: np.ndarray) -> np.ndarray:
            sizes.append(len(numbers))
            return fetch(numbers, images)

        return read

    monkeypatch.setattr(dataset, "fetch_decoded", counted)
    many = train.select(np.arange(300) % len(train))
    data = dataset.train_batches(many, batch_size=5, image_size=SIZE, seed=0, parallel=1)
    assert [len(images) for _ in range(2) for images, _ in data] == [5] * 120
    assert sizes == 2 * [5, 5, *[35] * 8, 10]


def test_an_endless_dataset_has_no_end(train: Records) -> None:
    data = dataset.train_batches(train, batch_size=4, image_size=SIZE, seed=0, endless=True)
    serialized = dataset.serialized_batches(train, batch_size=4, seed=0)
    for endless in (data, serialized):
        assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
        assert len(endless.take(6)) == 6


def test_chunks_without_an_end() -> None:
    chunks = dataset._Chunks(40, None, small=3, large=8, begin=6)
    firsts = [int(first) for first in chunks.firsts(40).take(5)]
    assert firsts == [40, 43, 46, 54, 62]
    np.testing.assert_array_equal(np.concatenate([chunks.slots(first) for first in firsts]), np.arange(40, 70))


@pytest.fixture(params=["usual chunks", "chunks of three images"])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three images do not end where a batch ends."""
    if request.param == "chunks of three images":
        monkeypatch.setattr(dataset, "_CHUNK", 3)


@pytest.mark.parametrize(
    "settings",
    [{}, {"start_step": 61}, {"shard": (1, 2)}],
    ids=["from the start", "continued", "a worker's share"],
)
def test_small_and_large_chunks_give_the_same_epochs(train: Records, settings: dict[str, Any]) -> None:
    many = train.select(np.arange(300) % len(train))
    share = 4 // settings.get("shard", (0, 1))[1]
    sizes = dataset._Chunks.of(0, 300 // 4 * share, share, SIZE * SIZE * 3, 1)
    assert sizes.small < sizes.large  # An epoch has chunks of both sizes, and a smaller one at its end.
    given: dict[str, Any] = {"batch_size": 4, "image_size": SIZE, "seed": 0, "with_numbers": True} | settings
    data = dataset.train_batches(many, parallel=1, **given)
    first, (index, count) = settings.get("start_step", 0), settings.get("shard", (0, 1))
    order = Shuffled(300, 0)[first * 4 + np.arange(2 * 300)].reshape(-1, 4)
    found = np.array([numbers.numpy() for _ in range(2) for _, _, numbers in data])
    np.testing.assert_array_equal(found, order[:, index * share : (index + 1) * share])
    assert count * share == 4


@pytest.mark.parametrize("parallel", [tf.data.AUTOTUNE, np.int8(2), 5])
def test_the_number_of_threads_does_not_change_batches(train: Records, parallel: Any) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "start_step": 2, "with_numbers": True}
    expected = as_bytes(batches(train, 6, parallel=1, **settings))
    assert as_bytes(batches(train, 6, parallel=parallel, **settings)) == expected


@pytest.mark.parametrize(
    ("parallel", "problem"), [(0, "must be at least 1"), (-2, "must be at least 1"), (1.5, "must be a whole number")]
)
def test_a_number_of_threads_that_is_not_possible(train: Records, parallel: Any, problem: str) -> None:
    with pytest.raises(UserError, match=rf"^parallel={parallel}: {problem}"):
        batches(train, 1, parallel=parallel)


def test_batches_do_not_depend_on_the_option_deterministic(train: Records) -> None:
    options = tf.data.Options()
    options.deterministic = False
    settings: dict[str, Any] = {"batch_size": 4, "image_size": SIZE, "seed": 0, "with_numbers": True}
    data = dataset.train_batches(train, endless=True, parallel=4, **settings)
    expected = {tuple(numbers.numpy()) for _, _, numbers in data.take(80)}
    found = {tuple(numbers.numpy()) for _, _, numbers in data.with_options(options).take(60)}
    assert len(found) > 20
    assert found <= expected


def test_iterating_an_endless_dataset_twice_gives_the_same(train: Records) -> None:
    data = dataset.train_batches(train, batch_size=4, image_size=SIZE, seed=0, augment=SHIFT, endless=True).take(6)
    first, second = ([images.numpy().tobytes() for images, _ in data] for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"batch_size": 4}, id="batches within an epoch"),
        pytest.param({"batch_size": 100}, id="more images than records"),
        pytest.param({"batch_size": 4, "start_step": 3}, id="continued"),
        pytest.param({"batch_size": 4, "shard": (1, 2)}, id="a worker's share"),
        pytest.param({"batch_size": 4, "shard": (1, 2), "start_step": 3}, id="a worker's share, continued"),
        pytest.param({"batch_size": 4, "augment": SHIFT}, id="augmented"),
    ],
)
def test_each_iteration_is_the_next_epoch_of_the_endless_stream(
    settings: dict[str, Any], train: Records, chunked: None
) -> None:
    data = dataset.train_batches(train, image_size=SIZE, seed=0, with_numbers=True, **settings)
    steps = max(1, round(len(train) / settings["batch_size"]))
    assert len(data) == steps
    epochs = [[tuple(part.numpy() for part in batch) for batch in data] for _ in range(3)]
    assert as_bytes([batch for epoch in epochs for batch in epoch]) == as_bytes(
        batches(train, 3 * steps, with_numbers=True, **settings)
    )
    orders = [np.concatenate([batch[2] for batch in epoch]).tolist() for epoch in epochs]
    assert len({tuple(order) for order in orders}) == 3


def test_a_loop_that_ends_early_is_an_epoch(train: Records) -> None:
    data = dataset.train_batches(train, batch_size=4, image_size=SIZE, seed=0, with_numbers=True)
    first = [batch[2].numpy().tolist() for batch in data.take(1)]
    second = [next(iter(data))[2].numpy().tolist()]
    stream = numbers(train, len(data) + 1)
    assert (first, second) == (stream[:1], stream[len(data) :])


def test_corrupt_records_do_not_change_the_length_of_an_epoch(damaged: Records) -> None:
    data = dataset.train_batches(damaged, batch_size=3, image_size=SIZE, seed=0)
    assert [len(list(data)) for _ in range(3)] == [len(data)] * 3


@pytest.mark.parametrize("strategy", [None, "mirrored"])
def test_fit_needs_no_steps(strategy: str | None, train: Records, validation: Records) -> None:
    """Three epochs have the length of an epoch and three orders, also if Keras distributes the batches."""
    seen: list[list[int]] = [[]]

    class Epochs(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen[-1].append(batch)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append([])

    used: list[list[int]] = []

    def record(numbers: np.ndarray) -> np.ndarray:
        used.append(numbers.tolist())
        return numbers

    data = dataset.train_batches(train, batch_size=4, image_size=SIZE, seed=0, with_numbers=True)
    watched = data.map(lambda images, labels, numbers: (images, labels, tf.numpy_function(record, [numbers], tf.int64)))
    pairs = watched.map(
        lambda images, labels, numbers: (images, tf.reshape(labels, [-1]) + 0 * tf.size(numbers, tf.int64))
    )
    scope = tf.distribute.MirroredStrategy(["CPU:0"]).scope() if strategy else contextlib.nullcontext()
    with scope:
        layers = [keras.Input((SIZE, SIZE, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential(layers)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    evaluation = dataset.eval_batches(validation, batch_size=4, image_size=SIZE)
    history = model.fit(pairs, epochs=3, validation_data=evaluation, callbacks=[Epochs()], verbose=0)
    assert len(history.history["val_loss"]) == 3
    assert [len(epoch) for epoch in seen] == [len(data)] * 3 + [0]
    assert len(used) >= 3 * len(data)
    if strategy is None:
        assert used == numbers(train, 3 * len(data))


def test_eval_batches_have_a_length(validation: Records, damaged: Records) -> None:
    for batch_size in (1, 3, 4, 100):
        data = dataset.eval_batches(validation, batch_size=batch_size, image_size=SIZE)
        assert len(data) == len(list(data)) == -(-len(validation) // batch_size)
    data = dataset.eval_batches(damaged, batch_size=1, image_size=SIZE)
    assert len(list(data)) == len(data) - 1  # A corrupt record is left out, and the evaluation ends as usual.


def test_shapes_are_static(train: Records, validation: Records) -> None:
    spec = dataset.train_batches(train, batch_size=4, image_size=SIZE, seed=0, shard=(0, 2), augment=SHIFT).element_spec
    assert [(part.shape.as_list(), part.dtype) for part in spec] == [([2, SIZE, SIZE, 3], tf.uint8), ([2], tf.int64)]
    spec = dataset.eval_batches(validation, batch_size=4, image_size=SIZE).element_spec
    assert [part.shape.as_list() for part in spec] == [[None, SIZE, SIZE, 3], [None]]


def test_streams_have_named_parts(train: Records, validation: Records) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "image_size": SIZE, "seed": 0, "augment": SHIFT}
    stream = dataset.train_stream(train, **settings)
    expected = batches(train, 3, with_numbers=True, with_keys=True, augment=SHIFT)
    for batch, parts in zip(stream.take(3), expected, strict=True):
        assert isinstance(batch, dataset.Batch)
        received: list[Any] = list(batch)
        assert [part.numpy().tobytes() for part in received] == [part.tobytes() for part in parts]
    assert [part.shape.as_list() for part in stream.element_spec] == [[4, SIZE, SIZE, 3], [4], [4], [4]]
    evaluation = dataset.eval_stream(validation, batch_size=4, image_size=SIZE)
    for batch, parts in zip(evaluation, evaluated(validation), strict=True):
        assert isinstance(batch, dataset.Batch)
        assert [part.numpy().tobytes() for part in batch[:3]] == [part.tobytes() for part in parts]
        assert batch.keys is None


def test_selected_records(train: Records) -> None:
    some = train.select(np.array([3, 9, 5]))
    stream = list(itertools.chain(*numbers(some, 3, batch_size=3)))
    assert [sorted(stream[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 2]] * 3  # Numbers count within the selection.
    for images, _, chosen in batches(some, 1, batch_size=3, with_numbers=True):
        for image, number in zip(images, chosen):
            np.testing.assert_array_equal(image, decode_pixels(tf.constant(train[[3, 9, 5][number]]["image"]), SIZE))


# --- Augmentation --------------------------------------------------------------------------------------------------


def test_augmentation_is_reproducible_and_differs_between_steps(train: Records) -> None:
    one = train.select(np.array([0]))  # Each batch contains the same image four times.
    first = batches(one, 6, augment=SHIFT)
    assert as_bytes(batches(one, 6, augment=SHIFT)) == as_bytes(first)
    assert len({batch[0].tobytes() for batch in first}) == 6
    assert len({image.tobytes() for image in first[0][0]}) > 1
    assert as_bytes(batches(one, 6, augment=SHIFT, seed=1)) != as_bytes(first)


def test_augmentation_changes_only_images(train: Records) -> None:
    plain = batches(train, 5, with_numbers=True)
    none = batches(train, 5, with_numbers=True, augment=PRESETS["none"])
    changed = batches(train, 5, with_numbers=True, augment=PRESETS["reference"])
    assert as_bytes(none) == as_bytes(plain)
    for before, after in zip(plain, changed):
        assert not np.array_equal(before[0], after[0])
        assert after[0].dtype == np.uint8
        np.testing.assert_array_equal(before[1], after[1])
        np.testing.assert_array_equal(before[2], after[2])


def test_workers_draw_differently(train: Records) -> None:
    """With equal draws in all workers, augmentation would give only half of the variety."""
    one = train.select(np.array([0]))
    slices = [batches(one, 4, augment=SHIFT, shard=(i, 2)) for i in range(2)]
    assert as_bytes(slices[0]) != as_bytes(slices[1])


# --- Evaluation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_evaluation_is_complete_and_in_order(validation: Records, batch_size: int, chunked: None) -> None:
    seen = list(evaluated(validation, batch_size))
    assert [len(batch[1]) for batch in seen] == [batch_size] * (7 // batch_size) + [7 % batch_size] * (
        7 % batch_size > 0
    )
    assert np.concatenate([batch[2] for batch in seen]).tolist() == list(range(7))
    assert np.concatenate([batch[1] for batch in seen]).tolist() == validation.labels.tolist()
    for image, number in zip(np.concatenate([batch[0] for batch in seen]), range(7)):
        np.testing.assert_array_equal(image, decode_pixels(tf.constant(validation[number]["image"]), SIZE))


def test_evaluation_without_numbers(validation: Records) -> None:
    data = dataset.eval_batches(validation, batch_size=4, image_size=SIZE)
    assert [len(batch) for batch in data] == [2, 2]


# --- Corrupt records -----------------------------------------------------------------------------------------------


def test_evaluation_skips_and_reports_a_corrupt_record(train: Records, damaged: Records, chunked: None) -> None:
    seen = list(evaluated(damaged))
    assert np.concatenate([batch[2] for batch in seen]).tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [len(batch[1]) for batch in seen] == [4, 4, 1]
    expected = np.concatenate([batch[0] for batch in evaluated(train)])
    np.testing.assert_array_equal(np.concatenate([batch[0] for batch in seen]), np.delete(expected, 4, 0))
    assert list(damaged.corrupt) == [4]
    assert train.paths[4] in damaged.corrupt[4]


def test_other_positions_do_not_change(train: Records, damaged: Records) -> None:
    whole = list(itertools.chain(*numbers(train, 15)))
    seen = list(itertools.chain(*numbers(damaged, 15)))
    replaced = [position for position in range(60) if whole[position] == 4]
    assert [position for position in range(60) if whole[position] != seen[position]] == replaced
    assert len(replaced) == 6
    for position in replaced:  # The next record of the order replaces it.
        epoch = position - position % 10
        assert seen[position] == whole[epoch + (position + 1) % 10]
    assert list(damaged.corrupt) == [4]


def test_replacement_is_the_same_for_any_start_and_worker(damaged: Records) -> None:
    whole = numbers(damaged, 10)
    assert numbers(damaged, 5, start_step=5) == whole[5:]
    halves = [numbers(damaged, 10, shard=(i, 2)) for i in range(2)]
    assert [first + second for first, second in zip(*halves)] == whole


def test_replacement_skips_further_corrupt_records(out: Path, tmp_path: Path) -> None:
    order = Shuffled(10, seed=0)[np.arange(20)].tolist()
    bad = [order[2], order[3], order[9], order[0]]  # Two in a row, and the last record of the first epoch.
    records = damaged_copy(out, tmp_path / "copy", bad)
    seen = list(itertools.chain(*numbers(records, 5, batch_size=2)))
    assert seen[2:4] == [order[4], order[4]]
    assert (seen[9], seen[0]) == (next(n for n in order[10:] if n not in bad), order[1])
    assert sorted(records.corrupt) == sorted(bad)


def test_all_but_one_corrupt(out: Path, tmp_path: Path) -> None:
    records = damaged_copy(out, tmp_path / "copy", [0, 1, 2, 3, 4, 5, 7, 8, 9])
    assert numbers(records, 5) == [[6] * 4] * 5


def test_all_corrupt(out: Path, tmp_path: Path) -> None:
    records = damaged_copy(out, tmp_path / "copy", list(range(10)))
    with pytest.raises(tf.errors.OpError, match=r"all records are corrupt\. Copy or convert the dataset again\."):
        batches(records, 1)
    assert len(records.corrupt) == 10


def test_evaluation_of_nothing_but_corrupt_records(out: Path, tmp_path: Path) -> None:
    records = damaged_copy(out, tmp_path / "copy", list(range(10)))
    assert list(evaluated(records)) == []
    assert len(records.corrupt) == 10


@pytest.fixture
def undecodable(out: Path, tmp_path: Path) -> Records:
    """Return the training records. The fifth has a valid checksum, but is not an image."""
    shutil.copytree(out, tmp_path / "undecodable")
    break_image(tmp_path / "undecodable", 4)
    return dataset.open(tmp_path / "undecodable").records("train")


def test_undecodable_image_counts_as_corrupt(train: Records, undecodable: Records, damaged: Records) -> None:
    assert numbers(undecodable, 15) == numbers(damaged, 15)
    assert train.paths[4] in undecodable.corrupt[4]
    assert "cannot be decoded: Unknown image file format" in undecodable.corrupt[4]
    again = dataset.open(Path(undecodable._index_path).parent).records("train")
    assert np.concatenate([batch[2] for batch in evaluated(again)]).tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    cache = dataset.cache_pixels(again, image_size=SIZE)
    assert cache is not None
    assert cache.corrupt == {4}


def test_truncated_example_counts_as_corrupt(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "copy")
    rewrite(tmp_path / "copy", 4, lambda example: example[:-1] + b"\x81")  # A number with missing bytes.
    records = dataset.open(tmp_path / "copy").records("train")
    assert sum(len(batch[2]) for batch in evaluated(records)) == 9
    assert records.corrupt[4].endswith("cannot be decoded: the example ends within a field.")


# --- Settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, r"batch_size=0: must be at least 1\."),
        ({"image_size": 0}, r"image_size=0: must be at least 1\."),
        (
            {"shard": (2, 2)},
            r"shard=\(2, 2\): must be \(index of this worker, count of workers\)\. The first worker has index 0\.",
        ),  # Workers are counted from 0.
        ({"shard": (-1, 2)}, r"shard=\(-1, 2\)"),
        ({"shard": (0, 3)}, r"shard=\(0, 3\): .* The batch size 4 must be a multiple of the number of workers\."),
        ({"shard": (0, 0)}, r"shard=\(0, 0\)"),
        ({"start_step": -1}, r"start_step=-1: must be at least 0\."),
        ({"start_step": 1.5}, r"start_step=1\.5: must be a whole number\."),
        ({"batch_size": "4"}, r"batch_size=4: must be a whole number\."),
        ({"seed": None}, r"seed=None: must be a whole number\."),
        ({"seed": True}, r"seed=True: must be a whole number\."),
    ],
)
def test_errors_name_the_setting(train: Records, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        batches(train, 1, **settings)


@pytest.mark.parametrize("make", [dataset.train_batches, dataset.eval_batches, dataset.cache_pixels])
def test_what_is_not_the_records_of_a_split_is_refused(make: Any, out: Path) -> None:
    settings: dict[str, Any] = {} if make is dataset.cache_pixels else {"batch_size": 4}
    settings |= {"seed": 0} if make is dataset.train_batches else {}
    for given in (str(out), dataset.open(out)):
        with pytest.raises(
            UserError, match=r"^records=.*: must be the records of a split\. Pass the result of dataset"
        ):
            make(given, image_size=8, **settings)


@pytest.mark.parametrize("make", [dataset.train_batches, dataset.eval_batches])
def test_a_wrong_batch_size_is_refused_before_anything_is_computed(make: Any, train: Records) -> None:
    settings = {"seed": 0} if make is dataset.train_batches else {}
    for value, what in ((0, "at least 1"), ("4", "a whole number"), (2.0, "a whole number")):
        with pytest.raises(UserError, match=rf"^batch_size={value}: must be {what}\.$"):
            make(train, batch_size=value, image_size=8, **settings)
    make(train, batch_size=np.int64(4), image_size=8, **settings)


def test_small_integers_of_numpy_do_not_overflow(train: Records) -> None:
    given: list[Any] = [
        [batch[2].numpy().tolist() for batch in dataset.train_stream(
            train, batch_size=kind(100), image_size=8, seed=0, start_step=kind(3)
        ).take(1)]
        for kind in (int, np.int8)
    ]  # fmt: skip
    assert given[0] == given[1]
    for kind in (np.int8, np.uint8):
        many = train.select(np.arange(300) % len(train))
        batches = dataset.train_batches(many, batch_size=kind(100), image_size=8, seed=0)
        assert int(batches.cardinality()) == 3
        assert int(dataset.eval_batches(many, batch_size=kind(100), image_size=8).cardinality()) == 3


def test_no_records(train: Records) -> None:
    none = train.select(np.array([], np.int64))
    with pytest.raises(UserError, match=r"there are no records to read"):
        batches(none, 1)
    with pytest.raises(UserError, match=r"there are no records to read"):
        dataset.eval_batches(none, batch_size=2, image_size=2)


def test_replacement_has_other_draws_than_at_its_own_position(damaged: Records) -> None:
    for images, _, chosen in batches(damaged, 5, batch_size=10, augment=PRESETS["strong"], with_numbers=True):
        twice = [n for n in set(chosen.tolist()) if chosen.tolist().count(n) == 2]
        assert len(twice) == 1
        assert len({image.tobytes() for image in images[chosen == twice[0]]}) == 2


def test_order_must_fit_the_records(train: Records) -> None:
    for count in (3, 11):
        with pytest.raises(UserError, match=rf"order: was made for {count} records, but there are 10 records\."):
            batches(train, 1, order=Shuffled(count, 0))


@pytest.mark.parametrize("crop", [-1.0, 2.0])
def test_crop_must_be_a_share(train: Records, crop: float) -> None:
    with pytest.raises(UserError, match=rf"crop={crop}: must be between 0 and 1\. It is the side of the central"):
        batches(train, 1, crop=crop)
    with pytest.raises(UserError, match=rf"crop={crop}: must be between 0 and 1"):
        dataset.eval_batches(train, batch_size=4, image_size=SIZE, crop=crop)


def test_keys_are_yielded(train: Records) -> None:
    ((images, labels, keys),) = batches(train, 1, with_keys=True)
    mixed, targets = mixup(tf.constant(images), tf.one_hot(labels, 2), tf.constant(keys))
    assert mixed.shape == images.shape
    np.testing.assert_allclose(tf.reduce_sum(targets, 1), 1, rtol=1e-6)


# --- The same stream -----------------------------------------------------------------------------------------------

STRONG = PRESETS["strong"]


def stream(
    records: Records, count: int, *, batch_size: int = 20, augment: Any = STRONG, **settings: Any
) -> dict[str, bytes]:
    """Return a hash of (record number, pixels) for each of the first `count` positions."""
    settings |= {"batch_size": batch_size, "augment": augment, "with_numbers": True}
    arrays = batches(records, -(-count // batch_size), **settings)
    images, _, chosen = (np.concatenate(parts)[:count] for parts in zip(*arrays))
    return {"numbers": hashlib.sha256(chosen.tobytes()).digest(), "pixels": hashlib.sha256(images.tobytes()).digest()}


@pytest.mark.parametrize(
    "settings",
    [
        {"parallel": 1},
        {"parallel": 2},
        {"parallel": 8},
        {"jit": False},
        {"batch_size": 7},
        {"batch_size": 7, "parallel": 1, "jit": False},
    ],
    ids=str,
)
def test_stream_is_reproducible_bit_for_bit(train: Records, settings: dict[str, Any]) -> None:
    assert stream(train, 140, **settings) == stream(train, 140)


def test_another_seed_gives_other_pixels_and_another_order(train: Records) -> None:
    one, other = stream(train, 40), stream(train, 40, seed=1)
    assert one["numbers"] != other["numbers"]
    assert one["pixels"] != other["pixels"]


def test_augmented_worker_slices_form_the_global_batches(train: Records) -> None:
    whole = batches(train, 6, augment=STRONG)
    halves = zip(*(batches(train, 6, augment=STRONG, shard=(i, 2)) for i in range(2)))
    for (images, labels), (first, second) in zip(whole, halves):
        np.testing.assert_array_equal(images, np.concatenate([first[0], second[0]]))
        np.testing.assert_array_equal(labels, np.concatenate([first[1], second[1]]))


def test_cached_pixels_give_the_same_stream(train: Records, damaged: Records) -> None:
    for records in (train, damaged):
        cache = dataset.cache_pixels(records, image_size=SIZE)
        again = dataset.open(Path(records._index_path).parent).records("train")  # It has not met corrupt records yet.
        assert stream(again, 60, cache=cache) == stream(records, 60)


@pytest.mark.parametrize("number", [10, -11])
def test_a_cache_has_no_images_of_other_records(train: Records, number: int) -> None:
    cache = dataset.cache_pixels(train, image_size=SIZE)
    assert cache is not None
    images = np.empty((2, SIZE, SIZE, 3), np.uint8)
    assert cache.fetch(np.array([-1, 9]), images).all()
    np.testing.assert_array_equal(images[0], images[1])
    with pytest.raises(IndexError, match=f"^record {number} does not exist: there are 10 records$"):
        cache.fetch(np.array([0, number]), images)


def test_cache_keeps_to_its_budget(train: Records) -> None:
    size = 10 * SIZE * SIZE * 3
    cached = dataset.cache_pixels(train, image_size=SIZE, budget_bytes=size)
    assert cached is not None
    assert cached.pixels.nbytes == size
    assert dataset.cache_pixels(train, image_size=SIZE, budget_bytes=size - 1) is None
    message = (
        r"cache: does not fit the records\. The cache has 10 images of 8 px, stretch\. The cache must have 10 images of"
        r" 9 px, stretch\. Call cache_pixels with the same records, image_size, crop and fit\."
    )
    with pytest.raises(UserError, match=message):
        dataset.train_batches(train, batch_size=4, image_size=9, seed=0, cache=cached)
    with pytest.raises(UserError, match=r"The cache must have 10 images of 8 px, pad\."):
        dataset.train_batches(train, batch_size=4, image_size=SIZE, fit="pad", seed=0, cache=cached)


def test_a_cache_of_other_records_is_refused(out: Path, train: Records, tmp_path: Path) -> None:
    """All have as many images of the same shape, so nothing else would show that the labels are wrong."""
    shutil.copytree(out, tmp_path / "copy")
    message = (
        r"^cache: belongs to other records, so its images would get wrong labels\. Call cache_pixels with the records"
        r" that are passed to train_batches\.$"
    )
    some, rest = np.arange(4), np.arange(4, 8)
    copied = dataset.open(tmp_path / "copy").records("train")
    for cached, read in (
        (train.select(some), train.select(rest)),
        (train, train.select(np.arange(10)[::-1])),
        (train.select(some), dataset.open(out).records("validation").select(np.resize(np.arange(2), 4))),
        (train, copied),
    ):
        cache = dataset.cache_pixels(cached, image_size=SIZE)
        assert len(cached) == len(read)
        with pytest.raises(UserError, match=message):
            dataset.train_batches(read, batch_size=4, image_size=SIZE, seed=0, cache=cache)


def test_a_cache_of_the_same_records_is_accepted(
    out: Path, train: Records, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = dataset.cache_pixels(train, image_size=SIZE)
    assert cache is not None
    monkeypatch.chdir(out.parent)
    relative = dataset.open(out.name).records("train")
    assert stream(relative, 5, cache=pickle.loads(pickle.dumps(cache))) == stream(train, 5)
    own = dataset.cache_pixels(relative, image_size=SIZE)
    monkeypatch.chdir(tmp_path)
    assert stream(relative, 5, cache=own) == stream(train, 5)
    # Earlier versions did not store the records.
    old = object.__new__(dataset.Cache)
    old.__dict__.update({name: value for name, value in vars(cache).items() if name != "records"})
    assert stream(train, 5, cache=pickle.loads(pickle.dumps(old))) == stream(train, 5)


def test_other_orders(train: Records) -> None:
    balanced = Balanced(np.array([0] * 9 + [1]), seed=0)  # Groups may be others than the classes.
    chosen = np.concatenate(numbers(train, 10, order=balanced))
    assert np.sum(chosen == 9) == 20
    assert sorted(np.concatenate(numbers(train, 5, order=Blocks(10, 0, block=3, window=2))).tolist()) == sorted(
        list(range(10)) * 2
    )


def test_repeated_record_has_other_draws(train: Records) -> None:
    one = Balanced(np.array([0] * 9 + [1]), seed=0)  # Record 9 is at every second position.
    images, _, chosen = (
        np.concatenate(p) for p in zip(*batches(train, 8, order=one, augment=STRONG, with_numbers=True))
    )
    again = images[chosen == 9]
    assert len({image.tobytes() for image in again}) == len(again) == 16


def test_batches_start_where_tensorflow_needs_no_copy() -> None:
    assert dataset._empty((0, 3, 5, 3), tf.uint8).shape == (0, 3, 5, 3)
    for count in range(1, 8):
        images = dataset._empty((count, 3, 5, 3), tf.uint8)
        assert images.ctypes.data % 64 == 0
        assert images.flags.c_contiguous
        images[...] = 1  # It can be written.
        assert images.shape == (count, 3, 5, 3)
        assert images.dtype == np.uint8
    assert dataset._empty((2,), tf.string).dtype == object
