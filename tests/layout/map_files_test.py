"""Tests of record maps: equal to the index, made once, never stale, and never read half-written."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import contents, converted, frame, with_splits

from tfrecord_tools.errors import CorruptRecord, UserError
from tfrecord_tools.layout import index, map_files, record_map
from tfrecord_tools.records import Records, open_dataset
from tfrecord_tools.transfer import TransferConfig, transfer
from tfrecord_tools.verify import VerifyConfig, verify

MAP = ".records-train.map"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of 14 training and 6 validation records in eight shards. `out` is a copy to change."""
    place = tmp_path_factory.mktemp("maps")
    converted(with_splits(place / "pets", train=7), place / "out", shards=8)
    return place / "out"


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.fixture
def as_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make the splits of these tests large enough for a file."""
    monkeypatch.setattr(map_files, "IN_MEMORY", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rewrite_index(out: Path, change: Callable[[pa.Table], pa.Table], one_group: bool = False) -> None:
    """Change the rows of the index, and keep one row group per shard, or join all of them."""
    path = out / index.FILE_NAME
    file = pq.ParquetFile(path)
    groups = [change(file.read_row_group(number)) for number in range(file.num_row_groups)]
    with pq.ParquetWriter(path, file.schema_arrow) as writer:
        for table in [pa.concat_tables(groups)] if one_group else groups:
            writer.write_table(table, row_group_size=max(1, len(table)))


def with_labels(table: pa.Table, label: int, rows: Sequence[int] | None = None) -> pa.Table:
    """Set the labels of some training rows (None: of all)."""
    labels = table.column("label").to_numpy().copy()
    labels[slice(None) if rows is None else [row for row in rows if row < len(labels)]] = label
    column = table.schema.get_field_index("label")
    return table.set_column(column, table.schema.field("label"), pa.array(labels))


def facts(records: Records) -> dict[str, object]:
    """Return what the records report about themselves and their content."""
    return {
        "records": [records[number] for number in range(len(records))],
        "labels": records.labels.tolist(),
        "rows": records.rows.tolist(),
        "places": (records.places[0], records.places[1].tolist()),
        "paths": list(records.paths),
        "identity": records.identity,
        "repr": repr(records),
        "frames": [frame(records, number) for number in range(len(records))],
    }


# --- Content -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_group", [False, True], ids=["a row group per shard", "one row group"])
@pytest.mark.parametrize("left_out", [[], [0], [0, 1], [1, 2, 9]], ids=str)
def test_a_map_equals_the_index(
    out: Path, as_large: None, monkeypatch: pytest.MonkeyPatch, left_out: list[int], one_group: bool
) -> None:
    rewrite_index(out, lambda table: with_labels(table, index.LEFT_OUT, left_out), one_group)
    monkeypatch.setattr(index, "_BLOCK_ROWS", 3)
    table = pq.read_table(out / index.FILE_NAME).to_pylist()
    for split in ("train", "validation"):
        rows = enumerate(row for row in table if row["split"] == split)
        kept = [row | {"row": number} for number, row in rows if row["label"] != index.LEFT_OUT]
        columns = {name: [row[name] for row in kept] for name in ("row", "shard", "offset", "length", "label", "path")}
        records = open_dataset(out).records(split)
        assert (out / f".records-{split}.map").exists()
        assert (records.labels.tolist(), records.rows.tolist()) == (columns["label"], columns["row"])
        shards, sizes, offsets = records._frames(np.arange(len(records)))
        assert [*zip(shards, sizes, offsets)] == [records._frame(number) for number in range(len(records))]
        assert (shards.tolist(), offsets.tolist()) == (columns["shard"], columns["offset"])
        numbers = np.full(records._map.rows, -1)
        numbers[columns["row"]] = np.arange(len(records))
        assert records._map.numbers_of(np.arange(len(numbers))).tolist() == numbers.tolist()
        assert sizes.tolist() == [length + 16 for length in columns["length"]]
        assert [records[number]["path"] for number in range(len(records))] == list(records.paths) == columns["path"]
        chosen = np.array([len(records) // 2, 0, len(records) - 1, 0])
        assert list(records.select(chosen).paths) == [columns["path"][number] for number in chosen]


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_row_groups_with_rows_of_several_splits(out: Path, rows: int) -> None:
    """Another tool may write the index again. A group then has rows of two splits."""
    table = pq.read_table(out / index.FILE_NAME)
    pq.write_table(table, out / index.FILE_NAME, row_group_size=rows)
    for split in ("train", "validation"):
        records = open_dataset(out).records(split)
        for number in range(len(records)):
            assert list(records.select([number]).paths) == [records[number]["path"]]


@pytest.mark.parametrize("splits", [("train",), ("validation",), ("train", "validation"), ("validation", "train")])
def test_small_and_large_splits_are_equal(out: Path, splits: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite_index(out, lambda table: with_labels(table, index.LEFT_OUT, [1]))
    small = open_dataset(out).records(*splits)
    assert not list(out.glob(".records*"))
    monkeypatch.setattr(map_files, "IN_MEMORY", 0)
    large = open_dataset(out).records(*splits)
    assert len(list(out.glob(".records*"))) == len(splits)
    assert facts(small) == facts(large) == facts(pickle.loads(pickle.dumps(large)))
    for records in (small, large):
        numbers = records._map.numbers_of(np.arange(records._map.rows))
        assert numbers[records.rows].tolist() == list(range(len(records)))
        assert np.count_nonzero(numbers < 0) == records._map.rows - len(records) > 0
    chosen = np.array([3, 0, len(small) - 1])
    assert facts(small.select(chosen)) == facts(large.select(chosen))
    assert facts(small.hold_out(0.3)[1]) == facts(large.hold_out(0.3)[1])


def test_a_shard_without_records(out: Path) -> None:
    path, shards = out / index.FILE_NAME, open_dataset(out).shards["train"]
    with_records = record_map.in_memory(path, "train", shards)
    more = record_map.in_memory(path, "train", shards + 2)
    assert more.shard_sizes.tolist() == [*with_records.shard_sizes.tolist(), 0, 0]
    rewrite_index(out, lambda table: table.set_column(1, "shard", pa.array(table.column("shard").to_numpy() * 2)))
    spread = record_map.in_memory(path, "train", 2 * shards)
    assert spread.shard_sizes[::2].tolist() == with_records.shard_sizes.tolist()
    assert not spread.shard_sizes[1::2].any()
    numbers = np.arange(len(spread))
    assert (spread.frames(numbers).shards == 2 * with_records.frames(numbers).shards).all()
    assert (spread.frames(numbers).offsets == with_records.frames(numbers).offsets).all()


def test_labels_cannot_be_written(out: Path) -> None:
    records = open_dataset(out).records("train")
    for one in (records, records.select(np.arange(3)), open_dataset(out).records("train", "validation")):
        with pytest.raises(ValueError, match="read-only"):
            one.labels[0] = 1


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.slice(0, len(table) - 1) if table.column("shard")[0].as_py() < 3 else table,
        lambda table: table.slice(1),
        lambda table: table.take(list(range(len(table)))[::-1]),
        lambda table: table.set_column(1, "shard", pa.array(np.full(len(table), 99, np.int32))),
    ],
    ids=["the last record of a shard", "the first record of a shard", "the order", "the shard"],
)
def test_an_index_of_other_records_is_an_error(out: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    rewrite_index(out, change)
    with pytest.raises(UserError) as caught:
        open_dataset(out).records("train")
    assert "opy or convert it again." in str(caught.value)


def test_the_message_about_an_index_of_other_records(out: Path) -> None:
    rewrite_index(out, lambda table: table.slice(1))
    with pytest.raises(UserError) as caught:
        open_dataset(out).records("train")
    assert str(caught.value) == (
        f"{out / index.FILE_NAME}: cannot be read (its rows are not those of the shards, one record after the"
        " other). The dataset is incomplete or damaged. Copy or convert it again."
    )


# --- Made once, never stale ------------------------------------------------------------------------------------------


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the splits that are read from the index."""
    read: list[str] = []
    original = index.SplitRows.__init__

    def noting(self: index.SplitRows, path: Path, split: str) -> None:
        read.append(split)
        original(self, path, split)

    monkeypatch.setattr(index.SplitRows, "__init__", noting)
    return read


def test_the_index_is_read_once(out: Path, as_large: None, builds: list[str]) -> None:
    first = facts(open_dataset(out).records("train"))
    assert facts(open_dataset(out).records("train")) == first
    assert builds == ["train"]


def touch(out: Path) -> None:
    os.utime(out / index.FILE_NAME)


def relabel(out: Path) -> None:
    rewrite_index(out, lambda table: with_labels(table, 0))


def relabel_with_old_time(out: Path) -> None:
    """The size and the time stay. The hashes have other compressed sizes, so the end of the index differs."""
    before = os.stat(out / index.FILE_NAME)
    relabel(out)
    os.utime(out / index.FILE_NAME, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_digest(out: Path) -> None:
    path = out / "convert.json"
    path.write_text(path.read_text().replace(open_dataset(out).digest, "0" * 64))


def cut(out: Path) -> None:
    os.truncate(out / MAP, os.path.getsize(out / MAP) - 8)


def cut_within_a_value(out: Path) -> None:
    os.truncate(out / MAP, os.path.getsize(out / MAP) - 3)


def cut_within_the_header(out: Path) -> None:
    os.truncate(out / MAP, 64)


def empty(out: Path) -> None:
    os.truncate(out / MAP, 0)


def lengthen(out: Path) -> None:
    with open(out / MAP, "ab") as file:
        file.write(bytes(8))


def overwrite(position: int) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        with open(out / MAP, "r+b") as file:
            file.seek(position)
            file.write(b"\xff" * 8)

    return change


@pytest.mark.parametrize(
    "change",
    [
        touch,
        relabel,
        relabel_with_old_time,
        other_digest,
        cut,
        cut_within_a_value,
        cut_within_the_header,
        empty,
        lengthen,
    ]
    + [overwrite(8 * position) for position in (0, 1, 2, 3, 4, 5, 9, 512, 513, 520)],
)
def test_a_stale_or_damaged_map_is_made_again(
    out: Path, as_large: None, builds: list[str], change: Callable[[Path], None]
) -> None:
    open_dataset(out).records("train")
    change(out)
    again = facts(open_dataset(out).records("train"))
    assert builds == ["train", "train"]
    (out / MAP).unlink()
    assert facts(open_dataset(out).records("train")) == again
    assert [path.name for path in out.glob(".*")] == [MAP]


def test_files_of_killed_processes_are_not_read_and_removed(out: Path, as_large: None) -> None:
    expected = facts(open_dataset(out).records("train"))
    (out / MAP).unlink()
    child = os.fork()
    if not child:
        record_map._checksum = lambda *_: os._exit(7)  # At the end of `build`, when all positions are written.
        open_dataset(out).records("train")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert sorted(path.suffix for path in out.glob(".*")) == [".lock", ".tmp"]
    assert facts(open_dataset(out).records("train")) == expected
    assert [path.name for path in out.glob(".*")] == [MAP]


def test_a_failed_write_leaves_nothing(out: Path, as_large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(map_files.files, "sync", full)
        assert len(open_dataset(out).records("train")) == 14  # In the memory of this process.
    assert not list(out.glob(".*"))
    assert len(open_dataset(out).records("train")) == 14
    assert (out / MAP).exists()


def open_and_report(out: Path, start: multiprocessing.synchronize.Event, done: multiprocessing.Queue[object]) -> None:
    map_files.IN_MEMORY = 0
    built: list[int] = []
    build = record_map.build
    record_map.build = lambda *given: (built.append(1), build(*given))  # type: ignore[assignment]
    start.wait()
    records = open_dataset(out).records("train")
    done.put((len(built), records.labels.tolist(), [records[number]["path"] for number in range(len(records))]))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("locks", [True, False], ids=["with locks", "without waiting"])
def test_several_processes_at_once(out: Path, locks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = open_dataset(out).records("train")
    monkeypatch.setattr(map_files, "_LONGEST", 60.0 if locks else -1.0)
    context = multiprocessing.get_context("fork")
    start, done = context.Event(), context.Queue()
    processes = [context.Process(target=open_and_report, args=(out, start, done)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    reports = [done.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    for _, labels, paths in reports:
        assert (labels, paths) == (expected.labels.tolist(), list(expected.paths))
    builds = sum(built for built, _, _ in reports)
    assert builds == 1 if locks else builds >= 1
    assert {path.name for path in out.glob(".*") if path.suffix != ".lock"} == {MAP}


def test_a_long_wait_is_reported(
    out: Path, as_large: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(map_files, "_REPORTED", -1.0)
    monkeypatch.setattr(map_files, "_LONGEST", 0.2)
    with map_files.files.lock(out / f"{MAP}.lock", "in use"):
        assert len(open_dataset(out).records("train")) == 14
    assert caplog.messages == [f"{out}: waiting for another process that makes the map of the records."]
    assert (out / MAP).exists()


# --- Directories -----------------------------------------------------------------------------------------------------


def refuse(monkeypatch: pytest.MonkeyPatch, *directories: Path) -> None:
    """Make directories read-only, also for the superuser."""
    hold = map_files.files.hold

    def refusing(path: Path) -> object:
        if path.parent in directories:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return hold(path)

    monkeypatch.setattr(map_files.files, "hold", refusing)


def test_the_cache_directory_of_the_user(
    out: Path, tmp_path: Path, as_large: None, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, out)
    expected = contents(out)
    first = facts(open_dataset(out).records("train"))
    assert facts(open_dataset(out).records("train")) == first
    assert builds == ["train"]
    assert contents(out) == expected
    (name,) = (path.name for path in (tmp_path / "cache/tfrecord_tools").iterdir())
    assert name.endswith("-train.map")
    other = Path(shutil.copytree(out, tmp_path / "other"))
    refuse(monkeypatch, out, other)
    open_dataset(other).records("train")
    assert len(list((tmp_path / "cache/tfrecord_tools").iterdir())) == 2


def test_a_given_cache_directory(out: Path, tmp_path: Path, as_large: None, builds: list[str]) -> None:
    for _ in range(2):
        records = open_dataset(out, cache_dir=tmp_path / "fast/maps").records("train", "validation")
    assert builds == ["train", "validation"]
    assert not list(out.glob(".*"))
    assert len(list((tmp_path / "fast/maps").iterdir())) == 2
    assert facts(pickle.loads(pickle.dumps(records))) == facts(records)
    assert builds == ["train", "validation"]


def test_no_directory_can_be_written(
    out: Path, tmp_path: Path, as_large: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = facts(open_dataset(out).records("train"))
    (out / MAP).unlink()
    refuse(monkeypatch, out, tmp_path / "cache/tfrecord_tools")
    assert facts(open_dataset(out).records("train")) == expected
    path = next(map_files.Source(out / index.FILE_NAME, "train", 1, "").paths())
    (message,) = caplog.messages
    assert message.startswith(
        f"{out / index.FILE_NAME}: no directory for a map of the records can be written"
        f" ({path}: Read-only file system; "
    )
    assert message.endswith("), so each process needs 0 MB of its own. Pass a directory on a local disk as cache_dir.")


def test_no_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(map_files.files.os.path, "expanduser", lambda path: path)
    assert map_files.files.cache_directory() is None
    source = map_files.Source(tmp_path / index.FILE_NAME, "train", 1, "")
    assert list(source.paths()) == [tmp_path / MAP]


# --- Processes -------------------------------------------------------------------------------------------------------


def test_pickled_records_have_the_path_only(out: Path, as_large: None, builds: list[str]) -> None:
    records = open_dataset(out).records("train")
    assert records.labels.sum() == 7
    data = pickle.dumps(records)
    assert len(data) < 2500
    assert facts(pickle.loads(data)) == facts(records)
    assert builds == ["train"]
    (out / MAP).unlink()
    assert facts(pickle.loads(data)) == facts(records)
    assert builds == ["train", "train"]
    touch(out)
    message = rf"^{out / index.FILE_NAME}: has changed since the records were pickled\. Open the dataset again\.$"
    with pytest.raises(UserError, match=message):
        pickle.loads(data)


def test_an_open_map_survives_its_replacement(out: Path, as_large: None) -> None:
    records = open_dataset(out).records("train")
    expected = facts(records)
    relabel(out)
    assert set(open_dataset(out).records("train").labels.tolist()) == {0}
    assert records.labels.tolist() == expected["labels"]
    shutil.rmtree(out)
    assert records.labels.tolist() == expected["labels"]


def test_a_forked_process_shares_the_map(out: Path, as_large: None) -> None:
    records = open_dataset(out).records("train")
    expected = records.serialized_batch(range(14))
    child = os.fork()
    if not child:
        os._exit(records.serialized_batch(range(14)) != expected)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- Shards ----------------------------------------------------------------------------------------------------------


def test_the_lengths_of_the_shards_are_checked_by_one_process(out: Path, as_large: None) -> None:
    records = open_dataset(out).records("train")
    shard, _, length = frame(records, 13)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    again = open_dataset(out).records("train")  # The lengths were right less than a minute ago.
    with pytest.raises(CorruptRecord, match=rf"^{shard}: the record at byte [\d,]+ is corrupt: train record 13, "):
        again.serialized(13)
    os.utime(out / MAP, (0, 0))
    message = rf"^{shard}: has {len(whole) - 1:,} bytes and should have {len(whole):,}\. The dataset is incomplete\."
    for _ in range(2):  # A check that fails is not remembered.
        with pytest.raises(UserError, match=message):
            open_dataset(out).records("train")
    shard.unlink()
    for _ in range(2):
        with pytest.raises(UserError, match=rf"^{shard}: does not exist\. The dataset is incomplete\."):
            open_dataset(out).records("train")
        os.utime(out / MAP)  # Missing shards are noticed within the minute, too.
    assert length > 0


def test_a_new_map_does_not_stand_for_a_check(out: Path, as_large: None) -> None:
    next(out.glob("*-train.tfrecord-00001-*")).unlink()
    for _ in range(2):
        with pytest.raises(UserError, match=r"does not exist\. The dataset is incomplete\."):
            open_dataset(out).records("train")
    assert (out / MAP).exists()


# --- Other commands --------------------------------------------------------------------------------------------------


def test_other_commands_ignore_maps(out: Path, tmp_path: Path, as_large: None) -> None:
    expected = contents(out)
    for split in ("train", "validation"):
        open_dataset(out).records(split)
    assert verify(VerifyConfig(directory=str(out), decode=False, workers=1), log=lambda line: None) == []
    for _ in range(2):
        transfer(TransferConfig(source=str(out), destination=str(tmp_path / "copy")), log=lambda line: None)
        assert {name: data for name, data in contents(tmp_path / "copy").items() if name[0] != "."} == expected
        open_dataset(tmp_path / "copy").records("train")
