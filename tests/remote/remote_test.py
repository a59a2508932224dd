"""Tests of datasets in a bucket: the same batches as from files, also with faults."""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_network import FAULTS, BadNetwork, at_random
from image_sources import REPOSITORY
from s3_bucket import Bucket

from tfrecord_tools import dataset
from tfrecord_tools.base import files
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import schema
from tfrecord_tools.order import Balanced, Blocks, Order, Shuffled
from tfrecord_tools.records import Records, open_dataset
from tfrecord_tools.remote import fetching, opening, part, shards, threads
from tfrecord_tools.remote.interface import Patience
from tfrecord_tools.remote.shards import RemoteShards

pytestmark = pytest.mark.usefixtures("no_fsync")


def opened(url: str, cache: Path, share: float = 0.2, split: str = "train") -> Records:
    """Open a split with a cache for a share of the training records."""
    size = 240 * (3_700 + 4_096)
    return open_dataset(url, cache_dir=cache, cache_bytes=int(share * size)).records(split)


def in_bucket(records: Records) -> RemoteShards:
    assert records.remote is not None
    return records.remote


def read_all(records: Records, order: Order, epochs: int = 2, batch: int = 16) -> list[list[bytes]]:
    read: list[list[bytes]] = []
    read_into(read, records, order, epochs, batch)
    return read


def read_into(read: list[list[bytes]], records: Records, order: Order, epochs: int = 2, batch: int = 16) -> None:
    """Append the batches to a list, so that a test has them after an error, too."""
    reading = records.plan(order)
    for position in range(0, epochs * len(records), batch):
        with reading(position):
            read.append(records.serialized_batch(order[np.arange(position, position + batch)]))


ORDERS = {
    "shuffled": lambda records: Shuffled(len(records), 1),
    "blocks": lambda records: Blocks(len(records), 1, 8, 3),
    "balanced": lambda records: Balanced(records.labels, 1),
}


@pytest.mark.parametrize("share", [0.1, 0.3, 3])
@pytest.mark.parametrize("name", ORDERS)
def test_records_equal_those_of_files(pets: Path, tmp_path: Path, name: str, share: float) -> None:
    remote, local = opened(f"file://{pets}", tmp_path / "cache", share), open_dataset(pets).records("train")
    order = ORDERS[name](local)
    assert read_all(remote, order) == read_all(local, order)
    traffic = in_bucket(remote).traffic
    size = int(local._frames(np.arange(240)).sizes.sum())
    if share > 1:
        assert traffic.bytes == size  # Everything is fetched once.
        assert traffic.found + traffic.missed == 480
    else:
        assert traffic.bytes < 2 * size
        # A record that is removed from the cache after it was found, and before it was read, is looked for again.
        assert traffic.found + traffic.missed >= 480


def test_batches_equal_those_of_files(url: str, pets: Path, tmp_path: Path) -> None:
    """The same pixels, also in evaluation, with several threads, and from the middle with an empty cache."""
    settings: dict[str, Any] = {
        "batch_size": 8,
        "image_size": 16,
        "seed": 3,
        "with_numbers": True,
        "augment": "standard",
    }
    batches = []
    for records, start in (
        (open_dataset(pets).records("train"), 0),
        (opened(url, tmp_path / "one"), 0),
        (opened(url, tmp_path / "two"), 40),
    ):
        data = dataset.train_batches(records, endless=True, start_step=start, parallel=3, **settings)
        batches.append([[np.asarray(part) for part in batch] for batch in data.take(80 - start).as_numpy_iterator()])
    assert all((a == b).all() for left, right in zip(batches[0], batches[1], strict=True) for a, b in zip(left, right))
    assert all(
        (a == b).all() for left, right in zip(batches[0][40:], batches[2], strict=True) for a, b in zip(left, right)
    )
    evaluated = [
        np.concatenate([images for images, _ in dataset.eval_batches(records, batch_size=16, image_size=8)])
        for records in (open_dataset(pets).records("validation"), opened(url, tmp_path / "one", split="validation"))
    ]
    assert (evaluated[0] == evaluated[1]).all()


def test_single_records_several_splits_and_a_pickle(url: str, pets: Path, tmp_path: Path) -> None:
    data, files = open_dataset(url, cache_dir=tmp_path / "cache"), open_dataset(pets)
    assert data.location == url
    assert repr(data.class_names) == repr(files.class_names)
    remote, local = data.records("validation", "train"), files.records("validation", "train")
    for number in (0, 39, 40, 279):
        assert remote[number] == local[number]
    again = pickle.loads(pickle.dumps(remote))
    assert again.__getitems__([250, 3, 77, 3]) == local.__getitems__([250, 3, 77, 3])
    part_of = remote.select(np.array([200, 1, 100]))
    assert [part_of[i]["path"] for i in range(3)] == [local[i]["path"] for i in (200, 1, 100)]
    assert data.file("label.labels.txt").read_bytes() == (pets / "label.labels.txt").read_bytes()


def test_records_are_read_after_a_fork(url: str, pets: Path, tmp_path: Path) -> None:
    remote, local = opened(url, tmp_path / "cache"), open_dataset(pets).records("train")
    assert remote[0] == local[0]  # The parent has used its client.
    receiving, sending = os.pipe()
    if os.fork() == 0:
        signal.alarm(30)
        try:
            os.write(
                sending,
                b"equal" if remote.__getitems__(list(range(50))) == local.__getitems__(list(range(50))) else b"other",
            )
        finally:
            os._exit(0)
    os.close(sending)
    assert os.read(receiving, 10) == b"equal"
    os.wait()
    assert remote[60] == local[60]


# --- Faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 105))])
def test_faults_change_nothing(url: str, pets: Path, tmp_path: Path, network: BadNetwork, seed: int) -> None:
    network.fault = at_random(seed)
    remote, local = opened(url, tmp_path / "cache"), open_dataset(pets).records("train")
    order = ORDERS[list(ORDERS)[seed % 3]](local)
    assert read_all(remote, order, epochs=1) == read_all(local, order, epochs=1)
    assert network.faults[""] < network.faults.total()


@pytest.mark.parametrize("fault", [*FAULTS[:-1], pytest.param(FAULTS[-1], marks=pytest.mark.slow)])
def test_every_tenth_request_fails(url: str, pets: Path, tmp_path: Path, network: BadNetwork, fault: str) -> None:
    """The first requests are for convert.json and the index, which have no checksums of their own."""
    network.fault = lambda number: fault if number % 10 in (0, 1) else ""
    remote, local = opened(url, tmp_path / "cache"), open_dataset(pets).records("train")
    order = Shuffled(len(local), 0)
    assert read_all(remote, order, epochs=1) == read_all(local, order, epochs=1)
    assert (remote.labels == local.labels).all()
    assert network.faults[fault] > 10


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        ("down", 2),  # The server dies and comes back.
        ("silent", 2),
        pytest.param("silent", 10, marks=pytest.mark.slow),  # All requests hang for ten seconds.
    ],
)
def test_a_store_that_comes_back(
    url: str, pets: Path, tmp_path: Path, network: BadNetwork, fault: str, seconds: int
) -> None:
    remote, local = opened(url, tmp_path / "cache"), open_dataset(pets).records("train")
    down = threading.Event()
    network.fault = lambda number: fault if down.is_set() else ""
    order = Shuffled(len(local), 0)
    first = read_all(remote, order, epochs=1)
    down.set()
    threading.Timer(seconds, down.clear).start()
    assert [*first, *read_all(remote, Shuffled(len(local), 5), epochs=1)] == [
        *read_all(local, order, epochs=1),
        *read_all(local, Shuffled(len(local), 5), epochs=1),
    ]
    assert network.faults[fault] > 0


def test_a_store_that_stays_away_is_an_error(
    url: str, tmp_path: Path, network: BadNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "PATIENCE", Patience(connect=1, stall=1, retry=1))
    remote = opened(url, tmp_path / "cache")
    network.fault = lambda number: "down"
    message = r"images-train\.tfrecord-\d+-of-\d+: the store cannot be reached, .* run the same command again"
    with pytest.raises(UserError, match=message):
        remote[5]
    assert "the store cannot be reached" in remote.failure
    data = dataset.train_batches(remote, batch_size=4, image_size=8, seed=0)
    with pytest.raises(Exception, match="the store cannot be reached"):
        list(data)


def test_a_changed_object_is_an_error(url: str, bucket: Bucket, pets: Path, tmp_path: Path) -> None:
    remote = opened(url, tmp_path / "cache")
    for path in pets.glob("*-train.tfrecord-*"):
        bucket.put(f"pets/{path.name}", path.read_bytes()[:-1] + b"x")
    with pytest.raises(
        UserError, match=r"tfrecord-\d+-of-\d+: was changed since it was opened\. .* run the same command"
    ):
        read_all(remote, Shuffled(len(remote), 0))


def test_an_object_that_changes_under_a_reader_gives_no_batch(
    url: str, bucket: Bucket, pets: Path, tmp_path: Path
) -> None:
    """The new shards are valid, and their records have the same sizes and other images."""
    remote, local = opened(url, tmp_path / "cache", 0.1), open_dataset(pets).records("train")
    order = Shuffled(len(local), 0)
    first = read_all(remote, order, epochs=1)
    for path in pets.glob("*-train.tfrecord-*"):
        bucket.put(f"pets/{path.name}", with_other_images(path))
    second: list[list[bytes]] = []
    with pytest.raises(UserError, match=r"was changed since it was opened\. .* run the same command again\.$"):
        read_into(second, remote, Shuffled(len(local), 1))
    assert first == read_all(local, order, epochs=1)
    assert second == read_all(local, Shuffled(len(local), 1))[: len(second)]


def test_many_records_are_waited_for_in_blocks(
    url: str, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of the records of one call do not fit the cache. Only those of a block are in memory."""
    remote, local = opened(url, tmp_path / "cache", 0.02), open_dataset(pets).records("train")
    held: list[int] = []
    need = fetching.Fetcher.need

    def counting(self: fetching.Fetcher, rows: np.ndarray) -> dict[int, memoryview]:
        given = need(self, rows)
        held.append(sum(map(len, given.values())))
        return given

    monkeypatch.setattr(fetching.Fetcher, "need", counting)
    monkeypatch.setattr(shards, "_BLOCK_BYTES", 64 << 10)
    numbers = np.random.default_rng(0).permutation(240)
    assert remote.serialized_batch(numbers) == local.serialized_batch(numbers)
    assert 0 < max(held) <= 96 << 10
    assert sum(held) > 400 << 10


def test_a_read_while_the_process_ends_is_an_error(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that atexit runs may read records. They must not wait for ever."""
    remote = opened(url, tmp_path / "cache")
    ending = threading.Event()
    ending.set()
    for module in (threads, fetching):
        monkeypatch.setattr(module, "ending", ending)
    errors: list[str] = []

    def read() -> None:
        try:
            remote[7]
        except UserError as error:
            errors.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(20)
    assert errors == [f"{url}: no record can be read while the process ends. Read it earlier."]


def with_other_images(path: Path) -> bytes:
    """Return a shard in which a byte of each image is another one, with valid checksums."""
    old, new = path.read_bytes(), b""
    while len(new) < len(old):
        size = 16 + int.from_bytes(old[len(new) : len(new) + 8], "little")
        data = bytearray(schema.unframe(old[len(new) : len(new) + size]) or b"")
        data[len(data) // 2] ^= 1
        new += schema.frame(bytes(data))
    return new


def test_a_damaged_object_is_a_corrupt_record(url: str, bucket: Bucket, pets: Path, tmp_path: Path) -> None:
    local = open_dataset(pets).records("train")
    shard, _, offset = local._frame(7)
    path = Path(local._shards.paths[shard])
    data = bytearray(path.read_bytes())
    data[offset + 100] ^= 1
    bucket.put(f"pets/{path.name}", bytes(data))
    remote = opened(url, tmp_path / "cache")
    with pytest.raises(
        UserError, match=r"s3://.*tfrecord-00000-of-\d+: the record at byte .* is corrupt: train record 7"
    ):
        remote[7]
    assert in_bucket(remote).traffic.retried == 5
    assert remote.get_or_none(7) is None
    assert remote[6] == local[6]
    assert remote[8] == local[8]


@pytest.mark.parametrize("what", ["missing", "short", "index"])
def test_an_incomplete_dataset_is_refused(url: str, bucket: Bucket, tmp_path: Path, what: str) -> None:
    key = "pets/records.parquet" if what == "index" else "pets/images-train.tfrecord-00001-of-00003"
    if what == "short":
        bucket.put(key, b"1234")
    else:
        bucket.remove(key)
    message = {
        "missing": r"00001-of-00003: does not exist\. The dataset is incomplete\. Copy it to the bucket again\.",
        "short": r"00001-of-00003: has 4 bytes and should have [\d,]+\. The dataset is incomplete\.",
        "index": r"records\.parquet: does not exist",
    }[what]
    with pytest.raises(UserError, match=message):
        opened(url, tmp_path / "cache")


def test_messages_of_opening(url: str, bucket: Bucket, pets: Path, tmp_path: Path) -> None:
    for call, message in (
        (lambda: open_dataset(f"{bucket.url}/no", cache_dir=tmp_path), r"/no: is not a dataset \(it has no convert"),
        (
            lambda: open_dataset(url, cache_dir="s3://x/y"),
            r"^--cache_dir=s3://x/y: must be a directory on this machine",
        ),
        (lambda: open_dataset(url, cache_bytes=0, cache_dir=tmp_path), r"^--cache_bytes=0: must be at least 1\.$"),
        (
            lambda: open_dataset(url, cache_dir=pets / "convert.json"),
            r"^--cache_dir=.*convert\.json: .*Pass a directory",
        ),
        (lambda: open_dataset(pets, cache_bytes=9), r"^--cache_bytes=9: only datasets in a bucket use it\. Remove"),
    ):
        with pytest.raises(UserError, match=message):
            call()


# --- The cache ----------------------------------------------------------------------------------------------


def test_a_second_process_fetches_nothing_again(url: str, pets: Path, tmp_path: Path) -> None:
    first, second = opened(url, tmp_path / "cache", 3), opened(url, tmp_path / "cache", 3)
    order = Shuffled(len(first), 0)
    read_all(first, order, epochs=1)
    assert read_all(second, order) == read_all(open_dataset(pets).records("train"), order)
    assert in_bucket(second).traffic.bytes == 0


def test_a_damaged_cache_is_fetched_again(url: str, pets: Path, tmp_path: Path) -> None:
    remote, local = opened(url, tmp_path / "cache", 3), open_dataset(pets).records("train")
    order = Shuffled(len(local), 0)
    read_all(remote, order, epochs=1)
    copies = sorted((tmp_path / "cache").glob("*/train/*tfrecord*"))
    data = bytearray(copies[0].read_bytes())
    data[::1000] = bytes(len(data[::1000]))
    copies[0].write_bytes(data)
    copies[1].unlink()
    copies[2].write_bytes(copies[2].read_bytes()[:5000])
    again = opened(url, tmp_path / "cache", 3)
    assert read_all(again, order) == read_all(local, order)
    assert not again.corrupt


def test_the_budget_holds(url: str, tmp_path: Path) -> None:
    """The disk blocks of the copies stay within the budget. Old datasets make room for new ones."""
    remote = opened(url, tmp_path / "cache", 0.2)
    seen = []
    for number in range(0, 240, 8):
        read_all(remote.select(np.arange(number, number + 8)), Shuffled(8, 0), epochs=1, batch=8)
        seen.append(sum(path.stat().st_blocks * 512 for path in (tmp_path / "cache").glob("*/*/*tfrecord*")))
    assert 0 < max(seen) <= in_bucket(remote).budget
    assert max(seen) > 0.4 * in_bucket(remote).budget
    assert sum(np.diff(seen) < 0) > 0


def test_a_full_disk_ends_nothing(
    url: str, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remote, local = opened(url, tmp_path / "cache", 3), open_dataset(pets).records("train")
    written, original = [0], part.Part.write

    def limited(self: part.Part, rows: np.ndarray, data: memoryview) -> None:
        written[0] += len(rows)
        if written[0] > 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, rows, data)

    monkeypatch.setattr(part.Part, "write", limited)
    order = Shuffled(len(local), 0)
    with caplog.at_level(logging.WARNING):
        assert read_all(remote, order) == read_all(local, order)
    (line,) = [entry.getMessage() for entry in caplog.records if str(tmp_path) in entry.getMessage()]
    assert line.startswith(f"--cache_dir={tmp_path / 'cache'}: No space left on device. Records that do not fit are")


def test_a_disk_that_is_full_at_the_start(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(file: object, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    remote = opened(url, tmp_path / "cache")
    monkeypatch.setattr(files, "allocate", allocate)
    message = (
        rf"^--cache_dir={tmp_path}/cache: .*No space left on device.*\. Free some space, or pass another directory on"
    )
    with pytest.raises(UserError, match=message):
        remote[0]


READER = """
import hashlib, sys, numpy as np
from tfrecord_tools.order import Blocks, Shuffled
from tfrecord_tools.records import open_dataset
records = open_dataset(sys.argv[1], cache_dir=sys.argv[2], cache_bytes=int(sys.argv[3])).records("train")
seed, epochs, batch, block = map(int, sys.argv[4:])
order = Blocks(len(records), seed, block, 3) if block else Shuffled(len(records), seed)
reading, read = records.plan(order), hashlib.sha256()
print("ready", flush=True)
for position in range(0, epochs * len(records), batch):
    with reading(position):
        for record in records.serialized_batch(order[np.arange(position, position + batch)]):
            read.update(record)
print(records.remote.traffic.bytes, read.hexdigest(), flush=True)
"""


def reader(
    url: str, cache: Path, budget: int, seed: int, epochs: int, batch: int = 16, block: int = 0
) -> subprocess.Popen[str]:
    """Read in another process: in shuffled order, or in blocks. See `outcome` for what it prints."""
    arguments = [url, str(cache), *map(str, (budget, seed, epochs, batch, block))]
    return subprocess.Popen(
        [sys.executable, "-c", READER, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the bytes that a reader has fetched, and the hash of its records."""
    _, fetched, read = process.communicate(timeout=90)[0].split()
    assert process.returncode == 0  # Threads that fetch ahead do not disturb the end of the process.
    return int(fetched), read


def hash_of(pets: Path, order: Order, epochs: int) -> str:
    """Return the hash of the records, read from files."""
    batches = read_all(open_dataset(pets).records("train"), order, epochs)
    return hashlib.sha256(b"".join(itertools.chain.from_iterable(batches))).hexdigest()


@pytest.mark.parametrize("share", [10, 0.3])
def test_trainings_with_different_orders_share_a_cache(url: str, pets: Path, tmp_path: Path, share: float) -> None:
    """Two trainings and an evaluation run at once. If the cache is large, each record is fetched once."""
    local = open_dataset(pets).records("train")
    size, epochs = int(local._frames(np.arange(240)).sizes.sum()), 4
    remote = opened(url, tmp_path / "cache", share)
    readers = [
        reader(url, tmp_path / "cache", in_bucket(remote).budget, seed, epochs, batch, block)
        for seed, batch, block in ((0, 16, 0), (1, 10, 8))
    ]
    numbers = np.arange(240)
    for _ in range(epochs):
        reading = remote.plan()
        for start in range(0, 240, 60):
            with reading(start):
                assert remote.serialized_batch(numbers[start : start + 60]) == local.serialized_batch(
                    numbers[start : start + 60]
                )
    (shuffled, shuffled_hash), (blocks, blocks_hash) = map(outcome, readers)
    assert shuffled_hash == hash_of(pets, Shuffled(240, 0), epochs)
    assert blocks_hash == hash_of(pets, Blocks(240, 1, 8, 3), epochs)
    evaluated = in_bucket(remote).traffic.bytes
    if share > 1:
        assert shuffled + blocks + evaluated == size
    else:
        assert max(shuffled, blocks, evaluated) < 1.5 * epochs * size


def test_what_another_process_has_not_read_stays(url: str, pets: Path, tmp_path: Path) -> None:
    """A process makes no room by removing what another one has fetched ahead."""
    remote = opened(url, tmp_path / "cache", 0.3)
    own = in_bucket(remote)._run().fetchers[0].part
    ahead = np.arange(200, 220)
    with in_bucket(remote)._run().space.locked():
        own.claim(ahead)
    for row in ahead.tolist():
        frame = own.frames(np.array([row]))
        path = pets / os.path.basename(own.files.paths[int(frame.shards[0])])
        start = int(frame.offsets[0])
        own.write(np.array([row]), memoryview(path.read_bytes())[start : start + int(frame.sizes[0])])
    read_all(remote.select(np.arange(200)), Shuffled(200, 0), 2)
    assert (own.flags[ahead] == part.PRESENT).all()
    own.touch(ahead)
    own._used[ahead] -= 1000  # They were read long ago.
    read_all(remote.select(np.arange(200)), Shuffled(200, 1), 2)
    assert (own.flags[ahead] == part.ABSENT).any()


def test_one_of_two_processes_is_killed(url: str, pets: Path, tmp_path: Path) -> None:
    size = int(open_dataset(pets).records("train")._frames(np.arange(240)).sizes.sum())
    victim, survivor = (reader(url, tmp_path / "cache", size // 3, seed, 3) for seed in (1, 0))
    for process in (victim, survivor):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    victim.kill()
    victim.communicate()
    read = survivor.communicate(timeout=90)[0].split()[1]
    assert read == hash_of(pets, Shuffled(240, 0), 3)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
def test_a_killed_process_leaves_a_usable_cache(url: str, pets: Path, tmp_path: Path, delay: float) -> None:
    """A process is killed while it writes. Another process reads all records, and the budget stays exact."""
    local = open_dataset(pets).records("train")
    remote = opened(url, tmp_path / "cache", 0.5)
    victim = reader(url, tmp_path / "cache", in_bucket(remote).budget, 1, 50)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "ready\n"
    time.sleep(delay)
    victim.kill()
    victim.communicate()
    order = Shuffled(len(local), 0)
    assert read_all(remote, order) == read_all(local, order)
    running = in_bucket(remote)._run()
    own = running.fetchers[0].part
    own.rescue(np.arange(len(own.flags)))
    assert set(own.flags.tolist()) <= {part.ABSENT, part.PRESENT}
    assert running.space.filled() == own.cost(np.flatnonzero(own.flags == part.PRESENT)).sum()


def test_a_claim_of_a_dead_process_is_taken_over(url: str, pets: Path, tmp_path: Path) -> None:
    remote, local = opened(url, tmp_path / "cache", 3), open_dataset(pets).records("train")
    own = in_bucket(remote)._run().fetchers[0].part
    own.flags[:50] = 99  # No process with this number runs.
    own._filled[0] += own.cost(np.arange(50)).sum()
    assert remote.__getitems__(list(range(60))) == local.__getitems__(list(range(60)))


# --- What is kept -------------------------------------------------------------------------------------------


def best_hits(sequence: np.ndarray, capacity: int) -> int:
    """Return the hits of a cache that removes what is needed last (Belady)."""
    later = np.full(len(sequence), 1 << 40)
    last: dict[int, int] = {}
    for position in range(len(sequence) - 1, -1, -1):
        later[position] = last.get(int(sequence[position]), 1 << 40)
        last[int(sequence[position])] = position
    kept: dict[int, int] = {}
    hits = 0
    for position, record in enumerate(sequence.tolist()):
        hits += record in kept
        kept[record] = int(later[position])
        if len(kept) > capacity:
            del kept[max(kept, key=kept.__getitem__)]
    return hits


def oldest_hits(sequence: np.ndarray, capacity: int) -> int:
    kept: dict[int, None] = {}
    hits = 0
    for record in sequence.tolist():
        hits += record in kept
        kept.pop(record, None)
        kept[record] = None
        if len(kept) > capacity:
            del kept[next(iter(kept))]
    return hits


@pytest.mark.parametrize("name", ORDERS)
def test_hits_are_those_of_the_best_cache(
    pets: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly all records that the best possible cache would keep are not fetched a second time."""
    monkeypatch.setattr(fetching, "_SPARE", 1 << 40)
    monkeypatch.setattr(fetching, "_AHEAD_SHARE", 0.0)
    monkeypatch.setattr(fetching.Fetcher, "_with_neighbors", lambda self, rows: rows)
    local = open_dataset(pets).records("train")
    share = 0.3
    remote = opened(f"file://{pets}", tmp_path / "cache", share)
    own = in_bucket(remote)._run().fetchers[0].part
    cost = own.whole_cost // len(own.flags)  # The optimum is easy to compute for equal sizes only.
    monkeypatch.setattr(own, "cost", lambda rows: np.full(len(rows), cost))
    capacity = in_bucket(remote).budget // cost
    order = ORDERS[name](local)
    epochs = 6
    reading = remote.plan(order)
    for position in range(epochs * 240):
        with reading(position):
            remote.serialized_batch(order[np.array([position])])
    sequence = order[np.arange(epochs * 240)]
    fetched = in_bucket(remote).traffic.requests
    best, oldest = best_hits(sequence, capacity), oldest_hits(sequence, capacity)
    assert fetched <= 1.01 * (len(sequence) - best) + 1
    assert best > 1.2 * oldest + 10
