"""Tests of Records: random access from processes and threads, and damage that is always found."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import contents, converted, draw, flip, frame, tree, with_splits

from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.errors import CorruptRecord, UndecodableImage, UserError
from tfrecord_tools.layout import shard_files
from tfrecord_tools.records import Records, open_dataset, read_numbers


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_splits(tmp_path_factory.mktemp("records") / "pets")


@pytest.fixture(scope="module")
def valid(source: Path) -> Path:
    """Return a dataset of 10 training and 6 validation records in six shards. `out` is a copy to damage."""
    converted(source, source.parent / "out", shards=6)
    return source.parent / "out"


@pytest.fixture
def out(valid: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(valid, tmp_path / "out"))


def frames(out: Path, split: str) -> Iterator[tuple[Path, int, int]]:
    """Yield (shard path, offset of the frame, length of the frame) of each record."""
    records = open_dataset(out).records(split)
    for number in range(len(records)):
        yield frame(records, number)


def damage(out: Path, split: str, number: int, at: int = 40) -> None:
    """Flip one bit of a record."""
    shard, offset, _ = list(frames(out, split))[number]
    flip(shard, offset + at)


# --- Sound ---------------------------------------------------------------------------------------------------------


def test_dataset_attributes(valid: Path) -> None:
    data = open_dataset(valid)
    assert data.directory == valid
    assert data.name == "pets"
    assert data.class_names == ("cats", "dogs")
    assert data.splits == {"train": 10, "validation": 6}
    assert sum(data.shards.values()) == 6
    assert data.digest == json.loads((valid / "convert.json").read_text())["digest"]
    assert open_dataset(str(valid)) == data


@pytest.mark.parametrize("split", ["train", "validation"])
def test_each_record_equals_its_file(source: Path, valid: Path, split: str) -> None:
    records = open_dataset(valid).records(split)
    files = {path: data for path, data in contents(source).items() if path.startswith(split)}
    assert len(records) == len(files)
    for number in np.random.default_rng(0).permutation(len(records)):
        record = records[int(number)]
        assert record["image"] == files.pop(record["path"])
        assert record["label"] == records.labels[number] == ["cats", "dogs"].index(record["path"].split("/")[1])
        assert records.paths[number] == record["path"]
    assert not files


def test_order_equals_that_of_the_shards(valid: Path) -> None:
    where = [(shard.name, offset) for shard, offset, _ in frames(valid, "train")]
    assert where == sorted(where)


def test_negative_numbers_and_numbers_out_of_range(valid: Path) -> None:
    records = open_dataset(valid).records("train")
    assert records[-1] == records[9]
    assert records.serialized(-1) == records.serialized(9)
    for number in (10, -11):
        for ask in (records.__getitem__, records.serialized, records.get_or_none, lambda one: records.select([0, one])):
            with pytest.raises(IndexError, match=f"^record {number} does not exist: there are 10 records$"):
                ask(number)


@pytest.mark.parametrize("kind", [np.uint64, np.uint8, np.int8])
def test_the_largest_number_of_a_type_is_no_record(valid: Path, kind: type[np.integer]) -> None:
    """Converted to i64, the largest u64 would be -1, which is the last record."""
    records = open_dataset(valid).records("train")
    with pytest.raises(IndexError, match=r"^record [\d,]+ does not exist: there are 10 records$"):
        records.serialized_batch(np.array([0, np.iinfo(kind).max], kind))
    assert records.serialized_batch(np.array([9, 0], kind)) == records.serialized_batch([9, 0])


def test_numbers_that_are_not_integers(valid: Path) -> None:
    records = open_dataset(valid).records("train")
    assert records[np.uint8(3)] == records[3]
    numbers: Any
    for numbers, kind in ((slice(1, 3), "slice"), (1.0, "float"), ("a", "str"), ([1, 2], "list")):
        with pytest.raises(TypeError, match=f"^record numbers must be integers, not {kind}; for several records, call"):
            records[numbers]
    for numbers, kind in (([1.5], "float64"), (slice(1, 3), "object")):
        with pytest.raises(TypeError, match=f"^record numbers must be integers, not {kind}; "):
            records.select(numbers)
    for numbers, dimensions in ((3, 0), ([[0, 1], [2, 3]], 2)):
        for ask in (records.select, records.serialized_batch, records.batch_or_none):
            with pytest.raises(TypeError, match=f"must be a list of integers, not an array with {dimensions} dimens"):
                ask(numbers)
    assert records.select([-1, 2]).paths == [records.paths[9], records.paths[2]]
    assert records.select(records.labels == 1).labels.tolist() == [1] * int(records.labels.sum())


def test_a_dataset_is_a_path(valid: Path) -> None:
    data = open_dataset(valid)
    assert Path(data) == data.directory
    assert open_dataset(data) == data
    with pytest.raises(UserError, match=r"^--directory=3: must be a path\.$"):
        open_dataset(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cache_dir", "message"),
    [
        (3, "--cache_dir=3: must be a path."),
        (
            "gs://bucket/maps",
            "--cache_dir=gs://bucket/maps: must be a directory on this machine.",
        ),
    ],
)
def test_wrong_cache_directories_are_refused(valid: Path, cache_dir: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        open_dataset(valid, cache_dir=cache_dir)
    assert str(error.value) == message


def test_labels_are_integers_of_all_records(valid: Path) -> None:
    labels = open_dataset(valid).records("train").labels
    assert labels.dtype == np.int64
    assert sorted(labels) == [0] * 5 + [1] * 5


def test_select_keeps_the_given_order(valid: Path) -> None:
    records = open_dataset(valid).records("train")
    some = records.select(np.array([7, 2, 5]))
    assert len(some) == 3
    assert [some[i] for i in range(3)] == [records[7], records[2], records[5]]
    assert some.labels.tolist() == records.labels[[7, 2, 5]].tolist()
    assert list(some.paths) == [records.paths[i] for i in (7, 2, 5)]
    again = some.select(np.array([2, 0]))
    assert [again[0], again[1]] == [records[5], records[7]]
    assert some.describe(0) == f"train record 7, {records.paths[7]}"  # The row in the split.


def test_several_splits_are_one_sequence(valid: Path) -> None:
    data = open_dataset(valid)
    parts = [data.records("train"), data.records("validation")]
    records = data.records("train", "validation")
    assert (records.split, records.splits, len(records)) == ("train+validation", ("train", "validation"), 16)
    assert [records[i] for i in range(16)] == [part[i] for part in parts for i in range(len(part))]
    shards, sizes, offsets = (part.tolist() for part in records._frames(np.arange(16)))
    assert [*zip(shards, sizes, offsets)] == [records._frame(number) for number in range(16)]
    some = records.select(np.array([12, 3, 15]))
    splits, numbers = some.places
    assert (splits, numbers.tolist(), some.rows.tolist()) == (
        ["validation", "train", "validation"],
        [2, 3, 5],
        [12, 3, 15],
    )
    assert list(some.paths) == [parts[1].paths[2], parts[0].paths[3], parts[1].paths[5]]
    np.testing.assert_array_equal(some.source_sha256[0], parts[1].source_sha256[2])
    assert some.describe(0) == f"validation record 2, {some.paths[0]}"
    assert "'train+validation', n=3" in repr(some)
    assert pickle.loads(pickle.dumps(some))[1] == parts[0][3]
    assert some.indexed("label", "split").to_pydict() == {
        "label": some.labels.tolist(), "split": ["validation", "train", "validation"],
    }  # fmt: skip
    with pytest.raises(UserError, match="split 'test' does not exist"):
        data.records("train", "test")


def test_places_of_one_split(valid: Path) -> None:
    splits, numbers = open_dataset(valid).records("train").select(np.array([4, 1])).places
    assert (splits, numbers.tolist()) == (["train", "train"], [4, 1])


def test_hold_out_is_disjoint_and_complete(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", {"train/cats": 40, "train/dogs": 40})
    for number in (0, 1, 3, 4, 6):
        shutil.copy(source / f"train/cats/{number:03d}.jpg", source / f"train/dogs/copy{number}.jpg")
    converted(source, tmp_path / "out")
    records = open_dataset(tmp_path / "out").records("train")
    rest, held = records.hold_out(0.3, seed=0)
    assert sorted([*rest.paths, *held.paths]) == sorted(records.paths)
    assert not {rest[i]["image"] for i in range(len(rest))} & {held[i]["image"] for i in range(len(held))}
    assert 10 <= len(held) <= 40
    assert list(rest.paths) == [path for path in records.paths if path in set(rest.paths)]  # The order is kept.


def test_hold_out_differs_from_the_split_of_convert(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", {"cats": 60, "dogs": 60})
    converted(source, tmp_path / "out", validation_fraction=0.0, test_fraction=0.3)
    train = open_dataset(tmp_path / "out").records("train")
    assert 8 <= len(train.hold_out(0.3)[1]) <= 45  # With the converter's own hash, there would be none.


@pytest.mark.parametrize("fraction", [2, -0.1, float("nan"), "half", True])
def test_hold_out_of_what_is_no_fraction(valid: Path, fraction: Any) -> None:
    with pytest.raises(UserError, match=rf"^fraction={fraction}: must be a number from 0 to 1\.$"):
        open_dataset(valid).records("train").hold_out(fraction)


def test_hold_out_with_fraction_0_and_another_seed(valid: Path) -> None:
    records = open_dataset(valid).records("train")
    rest, held = records.hold_out(0.0, seed=0)
    assert (len(rest), len(held)) == (10, 0)
    assert len({tuple(records.hold_out(0.5, seed)[1].paths) for seed in range(5)}) > 1


def test_hold_out_of_a_selection(valid: Path) -> None:
    some = open_dataset(valid).records("train").select(np.array([8, 1, 3, 4]))
    rest, held = some.hold_out(0.5, seed=1)
    assert sorted([*rest.paths, *held.paths]) == sorted(some.paths)
    of_class = np.bincount(some.labels)
    assert np.bincount(held.labels, minlength=2).tolist() == [max(n > 1, round(n / 2)) for n in of_class.tolist()]


# --- Processes, threads, open files --------------------------------------------------------------------------------


def open_shards(directory: Path) -> int:
    """Return the number of open shards. The index may be open, too, until pyarrow's memory is freed."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.lexists(link)]
    return sum(target.startswith(f"{directory}/pets-") for target in targets)


def test_more_shards_than_open_files(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "_MAX_OPEN_FILES", 2)
    records = open_dataset(out).records("train")
    assert len(records._shards.paths) > 2
    for _ in range(2):
        assert {records[i]["path"] for i in range(10)} == set(records.paths)
        assert open_shards(out) == 2
    del records
    assert open_shards(out) == 0  # All files are closed with it.


def test_pickle(valid: Path) -> None:
    records = open_dataset(valid).records("train")
    first = records[0]
    again: Records = pickle.loads(pickle.dumps(records))
    assert again[0] == first
    assert again.labels.tolist() == records.labels.tolist()
    assert len(pickle.dumps(records)) < 20_000
    del again
    assert records[0] == first  # The copy closed only its own files.


def test_repr_identifies_records_in_all_processes(valid: Path) -> None:
    records = open_dataset(valid).records("train")
    again = pickle.loads(pickle.dumps(open_dataset(valid).records("train")))
    assert repr(records) == repr(again)
    others = [records.select(np.arange(10)[::-1]), records.select(np.arange(9)), records.hold_out(0.5)[0]]
    assert len({repr(one) for one in [records, *others]}) == 4
    assert f"{valid}/records.parquet', 'train', n=10, rows=" in repr(records)


def test_number_of_any_integer_type(valid: Path) -> None:
    records = open_dataset(valid).records("train")
    assert records[np.int64(3)] == records[np.uint8(3)] == records[3]  # Samplers return such integers.


def read_all(records: Records, queue: multiprocessing.Queue[list[str]]) -> None:
    queue.put([records[i]["path"] for i in range(len(records))])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_in_several_processes(valid: Path, method: str) -> None:
    records = open_dataset(valid).records("train")
    expected = [records[i]["path"] for i in range(10)]  # The files are open during the fork.
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    processes = [context.Process(target=read_all, args=(records, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    for _ in range(20):
        assert [records[i]["path"] for i in range(10)] == expected
    assert [queue.get(timeout=60) for _ in processes] == [expected] * 2
    for process in processes:
        process.join()
    assert records[3]["path"] == expected[3]  # The other processes did not close our files.


def in_threads(function: Callable[[int], object]) -> None:
    """Call a function in eight threads at once, each with another number."""
    threads = [threading.Thread(target=function, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_in_threads(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "_MAX_OPEN_FILES", 3)
    records = open_dataset(out).records("train")
    expected = [records.serialized(i) for i in range(10)]
    wrong: list[int] = []

    def read(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 10, 300).tolist():
            if records.serialized(number) != expected[number]:
                wrong.append(number)

    in_threads(read)
    assert wrong == []
    assert open_shards(out) == 3


# --- Batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ([], "nothing"),
        ([4], "one record"),
        (range(10), "all shards, each with neighbors"),
        ([9, 0, 5, 1, 8], "any order"),
        ([3, 3, 2, 3], "a number twice"),
        ([-1, 0, -10], "from the end"),
        (np.array([7, 2], np.uint8), "any type"),
    ],
)
def test_a_batch_equals_its_records(out: Path, numbers: Sequence[int], reason: str) -> None:
    records = open_dataset(out).records("train")
    single = [records[int(number)] for number in numbers]
    assert records.__getitems__(numbers) == single, reason
    expected = [records.serialized(int(number) % 10) for number in numbers]
    assert records.serialized_batch(numbers) == expected
    assert records.batch_or_none(np.asarray(numbers, np.int64) % 10) == expected
    chosen = records.select(np.arange(10)[::-1])
    assert chosen.serialized_batch(9 - np.arange(10)) == records.serialized_batch(range(10))


@pytest.fixture
def no_single_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches read wrong records again, one by one. Without this, wrong batches would only be slow."""

    def read(*arguments: object) -> bytes:
        raise AssertionError("a record was read alone")

    monkeypatch.setattr(shard_files.ShardFiles, "read", read)


@pytest.mark.usefixtures("no_single_reads")
def test_a_batch_needs_no_single_reads(out: Path, source: Path) -> None:
    records = open_dataset(out).records("train")
    files = contents(source)
    for order in (range(10), [9, 0, 5, 5, 1, 8]):
        found = records.__getitems__(order)
        assert [record["image"] for record in found] == [files[records.paths[number]] for number in order]
    assert None not in records.batch_or_none(np.arange(10))


@pytest.mark.usefixtures("no_single_reads")
def test_batches_in_threads_and_after_a_fork(out: Path, source: Path) -> None:
    """Each thread and each process has a buffer of its own."""
    records = open_dataset(out).records("train")
    expected = [contents(source)[path] for path in records.paths]
    wrong: list[int] = []

    def read(seed: int) -> None:
        for _ in range(60):
            numbers = np.random.default_rng(seed).permutation(10)
            found = [record["image"] for record in records.__getitems__(numbers)]
            if found != [expected[number] for number in numbers]:
                wrong.append(seed)

    in_threads(read)
    assert wrong == []
    child = os.fork()
    if not child:
        read(9)
        os._exit(len(wrong))
    read(10)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 == len(wrong)


@pytest.mark.parametrize("numbers", [[1.5, 2.9], np.array([False, True, True]), ["1"]])
def test_numbers_that_are_no_integers(out: Path, numbers: Sequence[Any]) -> None:
    with pytest.raises(TypeError, match=r"^record numbers must be integers, not "):
        open_dataset(out).records("train").serialized_batch(numbers)


def test_a_large_record_leaves_no_large_buffer(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = open_dataset(out).records("train").serialized_batch(range(10))
    monkeypatch.setattr(shard_files, "_MAX_READ", 8)
    monkeypatch.setattr(shard_files, "_local", threading.local())
    assert open_dataset(out).records("train").serialized_batch(range(10)) == expected
    assert len(shard_files._local.buffer) == 2 * 8


def test_few_records_are_read_before_they_are_decoded(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "_MAX_READ", 2000)
    records = open_dataset(out).records("train")
    read, decoded = [0], [0]
    read_into = shard_files.files.read_into

    def counted(file: int, buffers: list[memoryview], offset: int) -> int:
        count = read_into(file, buffers, offset)
        read[0] += count
        return count

    def decode(data: bytes) -> int:
        decoded[0] += len(data)
        assert read[0] - decoded[0] < 4000  # A read has at most `_MAX_READ` bytes and a record.
        return len(data)

    monkeypatch.setattr(shard_files.files, "read_into", counted)
    assert records.batch_or_none(np.arange(10), decode) == [len(data) for data in records.serialized_batch(range(10))]
    assert read[0] > 2 * 4000


def test_a_visit_passes_indexes_and_views(out: Path) -> None:
    records = open_dataset(out).records("train")
    damage(out, "train", 4, 40)
    numbers = np.array([7, 4, 2, 7])
    seen: dict[int, bytes] = {}

    def use(index: int, serialized: memoryview) -> int:
        seen[index] = bytes(serialized)
        return index

    assert records.visit(numbers, use) == [0, None, 2, 3]
    assert seen == {index: records.serialized(int(numbers[index])) for index in (0, 2, 3)}


def test_a_batch_within_a_visit_does_no_harm(tmp_path: Path) -> None:
    """Records of equal length have the same places in a buffer. A shared one would give wrong records."""
    for number in range(8):
        draw(tmp_path / "images" / ("cats", "dogs")[number % 2] / f"{number}.png")
    out = tmp_path / "out"
    converted(tmp_path / "images", out, store="raw", resize=8, resize_mode="exact", validation_fraction=0.0)
    records = open_dataset(out).records("train")
    expected = [records.serialized(number) for number in range(8)]
    assert len(set(map(len, expected))) == 1

    def decode(data: bytes) -> bytes:
        assert records.serialized_batch([3, 4, 5]) == expected[3:6]
        return data

    def seen(_: int, data: memoryview) -> bytes:
        records.serialized_batch([3, 4, 5])
        return bytes(data)

    assert records.batch_or_none(np.arange(3), decode) == expected[:3]
    assert records.visit(np.arange(3), seen) == expected[:3]
    assert not records.corrupt


def test_neighbors_are_read_together(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = open_dataset(out).records("train")
    reads: list[int] = []
    read_into = shard_files.files.read_into

    def counted(file: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(read_into(file, buffers, offset))
        return reads[-1]

    monkeypatch.setattr(shard_files.files, "read_into", counted)
    expected = records.serialized_batch(range(10))
    assert len(reads) == len(records._shards.paths)
    assert sum(reads) == sum(os.path.getsize(path) for path in records._shards.paths)
    reads.clear()
    monkeypatch.setattr(shard_files, "_MAX_READ", 1)
    assert records.serialized_batch(range(10)) == expected
    assert len(reads) == 10


@pytest.mark.parametrize("number", [10, -11])
def test_a_batch_with_a_number_out_of_range(out: Path, number: int) -> None:
    with pytest.raises(IndexError, match=f"^record {number} does not exist: there are 10 records$"):
        open_dataset(out).records("train").__getitems__([0, number])


@pytest.mark.parametrize("at", [0, 3, 9, 12, 40])
def test_a_corrupt_record_costs_only_itself_in_a_batch(out: Path, at: int) -> None:
    expected = open_dataset(out).records("train").serialized_batch(range(10))
    damage(out, "train", 4, at)
    records = open_dataset(out).records("train")
    read = records.batch_or_none(np.arange(10))
    assert read == [*expected[:4], None, *expected[5:]]
    assert list(records.corrupt) == [4]
    with pytest.raises(CorruptRecord, match=r"is corrupt: train record 4, "):
        records.serialized_batch(range(10))


def test_a_shard_that_is_cut_or_deleted_costs_only_its_end(out: Path) -> None:
    expected = open_dataset(out).records("train").serialized_batch(range(10))
    records = open_dataset(out).records("train")
    shards = list(frames(out, "train"))
    last, offset, _ = shards[-1]
    os.truncate(last, offset + 5)  # Within the header of the frame.
    shards[0][0].unlink()
    gone = [number for number, (path, _, _) in enumerate(shards) if path == shards[0][0]]
    read = records.batch_or_none(np.arange(10))
    assert [number for number in range(10) if read[number] is None] == [*gone, 9] == list(records.corrupt)
    assert [data for data in read if data] == [data for number, data in enumerate(expected) if read[number]]
    assert "unreadable (No such file or directory)" in records.corrupt[0]


# --- Damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 3, 9, 12, 40, -1])  # Length, its checksum, the data, its checksum.
def test_corrupt_record_is_found_and_named(out: Path, at: int) -> None:
    shard, offset, length = list(frames(out, "train"))[4]
    flip(shard, offset + (at if at >= 0 else length - 1))
    records = open_dataset(out).records("train")
    with pytest.raises(CorruptRecord) as caught:
        records[4]
    assert str(caught.value) == (
        f"{shard}: the record at byte {offset:,} is corrupt: train record 4, {records.paths[4]}."
        " Copy the shard again from an undamaged copy, or convert again."
    )
    for number in (0, 1, 2, 3, 5, 6, 7, 8, 9):
        assert records[number]["path"] == records.paths[number]


def test_a_replaced_dataset_is_noticed(out: Path, source: Path, tmp_path: Path) -> None:
    """The index is read again for paths. After an update, a row may be that of another record."""
    records, data = open_dataset(out).records("train"), open_dataset(out)
    paths, index_path = list(records.paths), out / "records.parquet"
    os.utime(index_path)  # The content is the same.
    assert pickle.loads(pickle.dumps(records)).paths == paths
    fewer = shutil.copytree(source, tmp_path / "fewer")
    (fewer / paths[0]).unlink()
    config = ConvertConfig(src=str(fewer), out=str(out), update=True)
    convert(config, log=lambda line: None)
    message = rf"^{index_path}: has changed since the dataset was opened\. Open the dataset again\.$"
    one = records.select([9])
    for ask in (lambda: one.paths, lambda: records.paths, lambda: records.sizes, lambda: records.hold_out(0.5)):
        with pytest.raises(UserError, match=message):
            ask()
    failed = [number for number in range(10) if records.get_or_none(number) is None]
    assert 0 < len(failed) < 10  # A shard was written again. The others can still be read.
    for number in failed:
        assert (
            f"train record {number}, path unknown, because {index_path} is missing or has changed."
            in (records.corrupt[number])
        )
    assert len(data.records("train").paths) == 9


def test_get_or_none_logs_once(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(out, "train", 4)
    records = open_dataset(out).records("train")
    assert [number for number in [*range(10), *range(10)] if records.get_or_none(number) is None] == [4, 4]
    assert list(records.corrupt) == [4]
    assert caplog.messages == [records.corrupt[4]]
    assert records.paths[4] in caplog.messages[0]


def test_error_on_many_undecodable_records(valid: Path) -> None:
    def decode(serialized: bytes) -> None:
        raise UndecodableImage("not an image.")

    records = open_dataset(valid).records("train").select(np.arange(20) % 10)
    for number in range(10):
        assert records.get_or_none(number, decode) is None
    message = (
        rf"^11 of 20 records are corrupt\. The last one is {re.escape(records.describe(10))}: cannot be decoded: not an"
        r" image\. Was the dataset replaced while it was read\? Run the verify command to see all damage: python -m"
    )
    with pytest.raises(UserError, match=message) as caught:
        records.get_or_none(10, decode)
    assert records.failure == str(caught.value)


def test_former_names_warn(out: Path) -> None:
    damage(out, "train", 4)
    records = open_dataset(out).records("train")
    with pytest.warns(DeprecationWarning, match=r"^Records\.sound was renamed: use Records\.get_or_none\.$"):
        assert records.sound(4) is None
    with pytest.warns(DeprecationWarning, match=r"^Records\.sound was"):
        assert records.sound(3, len) == len(records.serialized(3))
    records.failure = "so many"
    with pytest.warns(DeprecationWarning, match=r"^Records\.damage was renamed: use Records\.failure\.$"):
        assert records.damage == "so many"


def test_shard_that_is_cut_while_it_is_read(out: Path) -> None:
    records = open_dataset(out).records("train")
    shard, offset, _ = list(frames(out, "train"))[-1]
    os.truncate(shard, offset + 20)
    with pytest.raises(CorruptRecord, match=r"train record 9"):
        records[9]


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (remove, "does not exist"),
        (cut, r"has [\d,]+ bytes and should have [\d,]+"),
        (lengthen, r"has [\d,]+ bytes and should have [\d,]+"),  # Perhaps a shard of another conversion.
    ],
)
def test_missing_or_incomplete_shard(out: Path, change: Callable[[Path], None], state: str) -> None:
    shard = sorted(out.glob("*-train.tfrecord-*"))[1]
    change(shard)
    message = rf"{shard}: {state}\. The dataset is incomplete\. Copy or convert it again\."
    with pytest.raises(UserError, match=message):
        open_dataset(out).records("train")
    assert len(open_dataset(out).records("validation")) == 6


def test_a_directory_without_permission_to_list_it(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(directory: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)

    monkeypatch.setattr(shard_files.os, "scandir", refused)
    records = open_dataset(out).records("train")
    for lengths in (True, False):
        records.check_shards(lengths)
    shard = Path(records._shards.paths[0])
    shard.unlink()
    for lengths in (True, False):
        with pytest.raises(UserError, match=rf"^{shard}: does not exist\. "):
            records.check_shards(lengths)


@pytest.mark.parametrize("lengths", [True, False])
def test_a_deleted_directory_and_a_deleted_target_of_a_link(out: Path, tmp_path: Path, lengths: bool) -> None:
    records = open_dataset(out).records("train")
    shard, target = Path(records._shards.paths[0]), tmp_path / "elsewhere"
    shard.rename(target)
    shard.symlink_to(target)
    records.check_shards(lengths)
    target.unlink()
    with pytest.raises(UserError, match=rf"^{shard}: is a link to {target}, which does not exist\. "):
        records.check_shards(lengths)
    shutil.rmtree(out)
    with pytest.raises(UserError, match=rf"^{shard}: does not exist\. The dataset is incomplete\."):
        records.check_shards(lengths)


@pytest.mark.parametrize("content", [None, b"", b"PAR1 no parquet at all"])
def test_missing_or_damaged_index(out: Path, content: bytes | None) -> None:
    path = out / "records.parquet"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path}.*Copy or convert it again\."):
        open_dataset(out).records("train")


# --- Not a dataset -------------------------------------------------------------------------------------------------


def test_no_such_split(valid: Path) -> None:
    with pytest.raises(UserError, match=r"out: split 'test' does not exist\. Splits: train, validation\."):
        open_dataset(valid).records("test")


def test_no_such_directory(tmp_path: Path) -> None:
    message = (
        r"gone: does not exist\. Pass a directory that was written by python -m tfrecord_tools\.convert --src=IMAGES"
        r" --out=.*gone$"
    )
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path / "gone")


@pytest.mark.parametrize("directory", ["images", ".", "/"])
def test_directory_without_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
    draw(tmp_path / "images/cats/1.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is not a dataset \(it has no convert\.json\)\. Pass a directory that"):
        open_dataset(directory)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tfrecord").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"a\.tfrecord: is a file, not a directory\. Pass a directory that was written by"
    ):
        open_dataset(tmp_path / "a.tfrecord")


def test_unfinished_conversion(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    with pytest.raises(UserError, match=r"out: the conversion is unfinished\. Run the same convert command again\."):
        open_dataset(tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"name": "x", "classes": 3}', b'{"name": "x", "classes": [], "splits": []}', b"\xff"],
)
def test_damaged_description(out: Path, content: bytes) -> None:
    (out / "convert.json").write_bytes(content)
    with pytest.raises(
        UserError, match=r"convert\.json: is damaged \(.*\)\. Copy the dataset again, or convert again\.$"
    ):
        open_dataset(out)


# --- Lists of record numbers ---------------------------------------------------------------------------------------


def test_lists_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("3\n1\n# two of them\n")
    pq.write_table(pa.table({"record": [9, 0, 4]}), tmp_path / "some.parquet")
    assert read_numbers(str(tmp_path / "some.txt"), 10).tolist() == [3, 1]
    assert read_numbers(str(tmp_path / "some.parquet"), 10).tolist() == [9, 0, 4]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "1\n10\n", r"a\.txt: record 10 does not exist\. Record numbers must be 0 to 9\."),
        ("a.txt", "-1\n", r"a\.txt: record -1 does not exist"),
        ("a.txt", "1\n2\n1\n", r"a\.txt: a record number occurs twice\."),
        ("a.txt", "cat.1.jpg\n", r"a\.txt: not a list of record numbers: .* a text file with one number per line"),
        (
            "a.txt",
            "1 2\n3 4\n",
            r"a\.txt: has 2 x 2 values of type int64\. The file must have record numbers \(whole numbers\), one per"
            r" row\.",
        ),
        ("a.parquet", "1\n", r"a\.parquet: not a list of record numbers"),
        ("none.txt", None, r"none\.txt: not a list of record numbers"),
    ],
)
def test_wrong_lists_of_numbers(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_numbers(str(tmp_path / name), 10)


def test_column_of_another_type(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "a.parquet")
    message = (
        r"a\.parquet: has 1 values of type object\. The file must have record numbers \(whole numbers\), one per row\."
    )
    with pytest.raises(UserError, match=message):
        read_numbers(str(tmp_path / "a.parquet"), 10)
