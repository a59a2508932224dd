"""Tests of the plan, which is a pure function: no file is touched here."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest

from tfrecord_tools.conversion import shards as shards_module
from tfrecord_tools.conversion.plan import Plan, make_plan
from tfrecord_tools.conversion.plan_config import PlanConfig, divided
from tfrecord_tools.conversion.rejected import check_rejected
from tfrecord_tools.conversion.rows import Rows
from tfrecord_tools.conversion.shards import MAX_SHARD_BYTES, MIN_SHARD_BYTES
from tfrecord_tools.conversion.survey import FACT, Facts
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import schema
from tfrecord_tools.layout.dataset_files import Rejected, Shard, dataset_name
from tfrecord_tools.layout.duplicates import Duplicates
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.sources.base import SPAN
from tfrecord_tools.sources.directory import Directory
from tfrecord_tools.sources.scan import TO_BE_SPLIT, Sources

NO_DUPLICATES = Duplicates(
    counts={"copies": 0, "leaks": 0, "conflicts": 0}, files=0, examples={"copies": [], "leaks": [], "conflicts": []}
)


def made(
    paths: list[str],
    *,
    contents: list[str] | None = None,
    sizes: list[int] | None = None,
    bad: dict[int, str] | None = None,
    rejected: tuple[Rejected, ...] = (),
) -> tuple[Sources, Facts]:
    """Sources and facts of files that do not exist: class and, of three parts, split come from the path."""
    parts = [path.split("/") for path in paths]
    names = sorted({part[-2] for part in parts})
    has_splits = len(parts[0]) == 3
    lengths = np.array(sizes or [100] * len(paths), np.int64)
    table = np.zeros(len(paths), FACT)
    table["size"] = table["bytes"] = lengths
    table["type"] = table["source_type"] = 1
    table["height"], table["width"] = 10, 20
    for i, content in enumerate(contents or paths):
        table["source_sha256"][i] = table["sha256"][i] = np.frombuffer(
            hashlib.sha256(content.encode()).digest(), np.uint8
        )
    sources = Sources(
        root="src",
        store=Directory("src"),
        spans=np.zeros(len(paths), SPAN),
        groups=np.zeros(len(paths), np.uint64),
        class_names=tuple(names),
        paths=paths,
        labels=np.array([names.index(part[-2]) for part in parts], np.int32),
        splits=np.array([SPLITS.index(part[0]) if has_splits else TO_BE_SPLIT for part in parts], np.int8),
        sizes=lengths,
        mtimes_ns=np.zeros(len(paths), np.int64),
        has_splits=has_splits,
        rejected=rejected,
        left_out={},
    )
    return sources, Facts(table=table, reasons=bad or {}, repaired={})


def many(count: int, prefix: str = "") -> list[str]:
    """Paths of `count` files of each of two classes."""
    return [f"{prefix}{name}/{i:05d}.jpg" for name in ("cats", "dogs") for i in range(count)]


def decide(paths: list[str], config: PlanConfig = PlanConfig(), name: str = "pets", **made_of: Any) -> Plan:
    return make_plan(*made(paths, **made_of), config, name, config.plan_settings())


def as_values(decided: Plan) -> dict[str, Any]:
    rows = {key: column.tolist() for key, column in vars(decided.rows).items()}
    return {key: value for key, value in vars(decided).items() if key != "rows"} | rows


def sides(decided: Plan, paths: list[str]) -> dict[str, str]:
    return {paths[number]: SPLITS[split] for number, split in zip(decided.rows.numbers, decided.rows.splits)}


# --- The whole value -----------------------------------------------------------------------------------------------


def test_whole_plan() -> None:
    paths = [
        "train/cats/1.jpg",
        "train/cats/2.jpg",
        "train/dogs/1.jpg",
        "validation/cats/1.jpg",
        "validation/dogs/é.jpg",
    ]
    sources, facts = made(paths, sizes=[100, 200, 300, 400, 500], bad={1: "empty file"})
    config = PlanConfig(seed=3, shards=3, max_bad=0.5)
    decided = make_plan(sources, facts, config, "pets", config.plan_settings())
    lengths = {
        number: len(schema.encode_example(b"x" * int(facts.table["size"][number]), paths[number], label))
        for number, label in ((0, 0), (2, 1), (3, 0), (4, 1))
    }
    assert sorted(decided.rows.numbers[:2].tolist()) == [0, 2]
    assert sorted(decided.rows.numbers[2:].tolist()) == [3, 4]
    values = as_values(decided)
    order = values.pop("numbers")
    hashes = facts.table["source_sha256"][:, :8].copy().view("<u8")[:, 0]
    assert len(values.pop("digest")) == 64
    assert values == {
        "name": "pets",
        "class_names": ("cats", "dogs"),
        "config": {
            "validation_fraction": None,
            "test_fraction": None,
            "seed": 3,
            "shards": 3,
            "shard_bytes": None,
            "duplicates": "keep",
            "name": "pets",
            "format_version": 4,
        },
        "labels": [sources.labels[i] for i in order],
        "groups": [0] * 4,
        "hashes": [int(hashes[i]) for i in order],
        "previous": [-1] * 4,
        "splits": [0, 0, 1, 1],
        "lengths": [lengths[i] for i in order],
        "shards": (Shard("train", 0, 1, 0, 2), Shard("validation", 0, 2, 2, 3), Shard("validation", 1, 2, 3, 4)),
        "rejected": (Rejected(path="train/cats/2.jpg", reason="empty file"),),
        "duplicates": NO_DUPLICATES,
        "group_leaks": 0,
    }
    assert decided.bytes == sum(lengths.values()) + 4 * 16
    assert {split: row.tolist() for split, row in decided.counts().items()} == {"train": [1, 1], "validation": [1, 1]}


def test_same_input_same_plan() -> None:
    assert as_values(decide(many(50))) == as_values(decide(many(50)))


def test_shard_names_are_tensorflow_datasets() -> None:
    assert Shard("train", 3, 12, 0, 1).file_name("pets") == "pets-train.tfrecord-00003-of-00012"


# --- Splits --------------------------------------------------------------------------------------------------------


def test_most_images_keep_their_side_when_others_come() -> None:
    """Only those near the border between two splits may change it; none does in an update (see update_test)."""
    few, lot = many(1000), many(1100)
    before, after = sides(decide(few), few), sides(decide(lot), lot)
    assert sum(after[path] != before[path] for path in few) <= 20  # Of 2,000.


def test_an_image_keeps_its_side_when_it_is_renamed() -> None:
    paths = many(100)
    renamed = [path.replace("cats/", "cats/new") for path in paths]
    before = sides(decide(paths), paths)
    after = sides(decide(renamed, contents=paths), renamed)
    assert list(before.values()) == [after[path.replace("cats/", "cats/new")] for path in before]


def test_duplicates_share_a_side_and_keep_the_order_of_their_paths() -> None:
    paths = many(200)
    contents = [f"content {i % 40}" for i in range(len(paths))]
    decided = decide(paths, contents=contents)
    side = sides(decided, paths)
    for content in set(contents):
        assert len({side[path] for path, c in zip(paths, contents) if c == content}) == 1
    rows = [(contents[number], number) for number in decided.rows.numbers.tolist()]
    assert rows == sorted(rows, key=lambda row: (rows.index(next(r for r in rows if r[0] == row[0])), row[1]))


def test_no_validation_at_all() -> None:
    decided = decide(many(10), PlanConfig(validation_fraction=0.0))
    assert list(decided.counts()) == ["train"]


def test_validation_only_grows_with_its_fraction() -> None:
    paths = many(500)
    small = sides(decide(paths, PlanConfig(validation_fraction=0.1)), paths)
    large = sides(decide(paths, PlanConfig(validation_fraction=0.3)), paths)
    assert {p for p, s in small.items() if s == "validation"} < {p for p, s in large.items() if s == "validation"}


def test_side_and_place_are_independent() -> None:
    """Else the validation split would be the start of some order that is used elsewhere."""
    decided = decide(many(2000), PlanConfig(validation_fraction=0.5))
    first = (decided.rows.numbers[decided.rows.splits == 0][:500] < 2000).mean()
    assert abs(first - 0.5) < 0.12


def test_splits_of_the_source_are_kept() -> None:
    paths = [*many(3, "train/"), *many(2, "test/")]
    decided = decide(paths)
    assert sides(decided, paths) == {path: path.split("/")[0] for path in paths}
    assert decided.rows.splits.tolist() == [0] * 6 + [2] * 4


@pytest.mark.parametrize("flag", ["validation_fraction", "test_fraction"])
def test_fractions_for_a_source_with_splits_are_refused(flag: str) -> None:
    settings: dict[str, Any] = {flag: 0.2}
    with pytest.raises(UserError, match=rf"--{flag}=0\.2: src has splits of its own, .* Remove the flag\."):
        decide(many(3, "train/"), PlanConfig(**settings))


def test_a_train_split_alone_is_divided_if_asked() -> None:
    sources, facts = made(many(10, "train/"))
    assert divided(sources, PlanConfig()) is sources
    config = PlanConfig(validation_fraction=0.2)
    decided = make_plan(divided(sources, config), facts, config, "pets", config.plan_settings())
    assert {split: row.tolist() for split, row in decided.counts().items()} == {"train": [8, 8], "validation": [2, 2]}
    with pytest.raises(UserError, match=r"--validation_fraction=0\.2: src has splits of its own"):
        divided(made([*many(3, "train/"), *many(3, "test/")])[0], config)


def test_classes_are_mixed() -> None:
    labels = decide(many(500), PlanConfig(validation_fraction=0.0)).rows.labels
    assert 0.4 < labels[:200].mean() < 0.6
    assert 0.4 < np.mean(labels[1:] == labels[:-1]) < 0.6


def test_seed_changes_the_order() -> None:
    config = PlanConfig(validation_fraction=0.0)
    one, two = (decide(many(50), dataclasses.replace(config, seed=seed)).rows.numbers.tolist() for seed in (0, 1))
    assert one != two
    assert sorted(one) == sorted(two)


# --- Classes that lack images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "config", "bad", "message"),
    [
        (
            ["cats/1", "cats/2", "dogs/1", "dogs/2"],
            PlanConfig(validation_fraction=0.0, max_bad=1.0),
            {2: "empty file", 3: "empty file"},  # All dogs are bad.
            "the class 'dogs' has no valid image in the train split (0 in all splits)."
            " Add images of this class, or list the other classes in --classes to leave it out.",
        ),
        (
            ["train/cats/1", "validation/cats/2", "validation/dogs/3"],  # Nothing to learn dogs from.
            PlanConfig(),
            {},
            "the class 'dogs' has no valid image in the train split (1 in all splits)."
            " Add images of this class, or list the other classes in --classes to leave it out.",
        ),
        (
            ["test/cats/1", "test/dogs/2", "validation/cats/1", "validation/dogs/1"],
            PlanConfig(max_bad=1.0),
            {0: "empty file", 1: "empty file", 2: "empty file", 3: "empty file"},
            "src: none of 4 files can be a record: test/cats/1: empty file. Is --src right?",
        ),
    ],
)
def test_empty_class(paths: list[str], config: PlanConfig, bad: dict[int, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        decide(paths, config, bad=bad)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "paths",
    [
        ["train/cats/1", "train/dogs/2", "validation/cats/3"],  # The user's own split may lack a class ...
        ["validation/cats/1", "test/dogs/2"],  # ... and without train there is nothing to learn anyway.
    ],
)
def test_own_splits_may_lack_a_class(paths: list[str]) -> None:
    assert len(decide(paths).rows.numbers) == len(paths)


# --- Rejected files ------------------------------------------------------------------------------------------------


def test_rejected_are_all_named_in_the_order_of_paths() -> None:
    loose = (Rejected(path="a.txt", reason="not inside a class directory"), Rejected(path="z.txt", reason="likewise"))
    decided = decide(many(50), PlanConfig(max_bad=0.5), bad={60: "empty file", 0: "a GIF image"}, rejected=loose)
    assert [r.path for r in decided.rejected] == ["a.txt", "cats/00000.jpg", "dogs/00010.jpg", "z.txt"]
    assert [r.reason for r in decided.rejected][1:3] == ["a GIF image", "empty file"]
    assert len(decided.rows.numbers) == 98
    assert not {0, 60} & set(decided.rows.numbers.tolist())


@pytest.mark.parametrize(
    ("bad", "total", "max_bad", "fine"),
    [
        (0, 10, 0.0, True),
        (1, 10, 0.0, False),
        (5, 100, 0.05, True),  # Exactly as many as allowed.
        (6, 100, 0.05, False),
        (10, 10, 1.0, True),
    ],
)
def test_max_bad(bad: int, total: int, max_bad: float, fine: bool) -> None:
    rejected = [Rejected(path=f"{i}.jpg", reason="empty file") for i in range(bad)]
    if fine:
        check_rejected(rejected, total, max_bad)
        return
    with pytest.raises(UserError) as caught:
        check_rejected(rejected, total, max_bad)
    message = str(caught.value)
    assert message.startswith(f"{bad} of {total} files cannot be records, more than --max_bad={max_bad:g} allows:\n")
    assert message.count("empty file") == min(3, bad)
    assert "Is --src right?" in message
    assert message.endswith("Repair or remove the files, or allow more with --max_bad.")


def test_loose_files_count_as_bad() -> None:
    loose = tuple(Rejected(path=f"{i}.txt", reason="not inside a class directory") for i in range(2))
    with pytest.raises(UserError, match=r"^2 of 22 files"):
        decide(many(10), rejected=loose)


# --- Shards --------------------------------------------------------------------------------------------------------

CUTS = [
    ([10], 1, [0, 1]),
    ([10, 10, 10, 10], 2, [0, 2, 4]),
    ([10, 10, 10, 10], 4, [0, 1, 2, 3, 4]),
    ([10] * 7, 3, [0, 3, 5, 7]),
    ([1000, 1, 1, 1], 2, [0, 1, 4]),  # A giant first ...
    ([1, 1, 1, 1000], 2, [0, 3, 4]),  # ... and last: none is left empty.
    ([1, 1, 1000, 1, 1], 3, [0, 3, 4, 5]),
    ([1000, 1, 1, 1], 4, [0, 1, 2, 3, 4]),
    ([1, 1000], 2, [0, 1, 2]),
]


@pytest.mark.parametrize(("sizes", "shards", "cuts"), CUTS)
def test_cuts(sizes: list[int], shards: int, cuts: list[int]) -> None:
    assert shards_module._cuts(np.array(sizes), shards).tolist() == cuts


def test_cuts_are_never_empty_and_never_far_off() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = rng.integers(16, rng.integers(17, 100_000), rng.integers(1, 60))
        shards = int(rng.integers(1, len(sizes) + 1))
        cuts = shards_module._cuts(sizes, shards)
        assert (cuts[0], cuts[-1], len(cuts)) == (0, len(sizes), shards + 1)
        assert (np.diff(cuts) > 0).all()
        parts = np.add.reduceat(sizes, cuts[:-1])
        assert parts.max() <= sizes.sum() / shards + 2 * sizes.max()


@pytest.mark.parametrize("shards", [2, 3, 7, 20, 40])
def test_shards_are_exactly_as_many_as_asked(shards: int) -> None:
    decided = decide(many(40), PlanConfig(shards=shards, validation_fraction=0.3))
    assert len(decided.shards) == shards
    for split in ("train", "validation"):
        own = [shard for shard in decided.shards if shard.split == split]
        assert [shard.number for shard in own] == list(range(len(own)))
        assert {shard.of for shard in own} == {len(own)}


def test_the_next_shard_goes_where_they_are_largest() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        records = rng.integers(1, 30, rng.integers(1, 4))
        sizes = records * rng.integers(1, 5, len(records))  # Ties are frequent: of equals the first split has it.
        shards = int(rng.integers(len(records), records.sum() + 1))
        expected = np.ones(len(records), np.int64)
        while expected.sum() < shards:
            expected[np.argmax(np.where(expected < records, sizes / expected, -1))] += 1
        found = shards_module._counts(sizes, records, 0, PlanConfig(shards=shards), False)
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("config", [PlanConfig(), PlanConfig(shards=9), PlanConfig(shard_bytes=1024)])
def test_shards_cover_every_row_once_within_one_split(config: PlanConfig) -> None:
    decided = decide(many(40), config, sizes=list(range(10, 90)))
    assert [shard.start for shard in decided.shards] == [0, *(shard.stop for shard in decided.shards[:-1])]
    assert decided.shards[-1].stop == 80
    for shard in decided.shards:
        assert shard.start < shard.stop
        assert {SPLITS[s] for s in decided.rows.splits[shard.start : shard.stop]} == {shard.split}


def test_shards_follow_the_bytes_of_the_splits() -> None:
    paths = [*many(10, "train/"), *many(10, "validation/")]
    decided = decide(paths, PlanConfig(shards=10), sizes=[9000] * 20 + [1000] * 20)
    assert [shard.split for shard in decided.shards] == ["train"] * 9 + ["validation"]


@pytest.mark.parametrize(
    ("total", "shards"),
    [
        (1 << 20, 1),  # Less than the least: one shard.
        (MIN_SHARD_BYTES * 3 + 1000, 4),
        (MIN_SHARD_BYTES * 64, 64),
        (MIN_SHARD_BYTES * 128, 64),  # A 64th each ...
        (MAX_SHARD_BYTES * 64, 64),
        (MAX_SHARD_BYTES * 128, 128),  # ... up to the most.
    ],
)
def test_default_shards_by_bytes(total: int, shards: int) -> None:
    paths = many(200, "train/")
    size = total // len(paths) - 60  # What is around the image takes somewhat more than 60 bytes.
    counts = len(decide(paths, sizes=[size] * len(paths)).shards)
    assert shards <= counts <= shards + 1


def test_shard_bytes_is_aimed_at() -> None:
    decided = decide(many(100, "train/"), PlanConfig(shard_bytes=10_000), sizes=[900] * 200)
    bytes_of = [int((decided.rows.lengths[s.start : s.stop] + 16).sum()) for s in decided.shards]
    assert len(bytes_of) == -(-sum(bytes_of) // 10_000)
    assert max(bytes_of) <= 10_000 + 2 * 1000


def test_never_more_shards_than_records() -> None:
    assert len(decide(many(2, "train/"), PlanConfig(shard_bytes=1024), sizes=[100_000] * 4).shards) == 4


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (1, r"--shards=1: there are 2 splits, and each needs a shard\."),
        (30, r"--shards=30: there are only 20 records\. Pass a smaller number\."),
    ],
)
def test_shards_that_cannot_be(shards: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decide([*many(5, "train/"), *many(5, "validation/")], PlanConfig(shards=shards))


def test_as_many_shards_as_records_can_always_be_had() -> None:
    """However the bytes lie: 4 records and 4 shards, of which one record is nearly all bytes."""
    paths = [*many(1, "train/"), *many(1, "validation/")]
    assert len(decide(paths, PlanConfig(shards=4), sizes=[10, 10, 10, 1_000_000]).shards) == 4


# --- Digest --------------------------------------------------------------------------------------------------------


def test_digest_changes_with_all_that_matters() -> None:
    paths = many(50)
    sources, facts = made(paths)
    config = PlanConfig()
    other_content = [*paths[:-1], "other"]
    renamed = [*paths[:-1], "dogs/zzz.jpg"]
    relabelled = dataclasses.replace(sources, labels=1 - sources.labels)
    swapped = dataclasses.replace(sources, class_names=("dogs", "cats"))
    plans = {
        "as it is": make_plan(sources, facts, config, "pets", config.plan_settings()),
        "seed": decide(paths, PlanConfig(seed=1)),
        "validation": decide(paths, PlanConfig(validation_fraction=0.3)),
        "test": decide(paths, PlanConfig(test_fraction=0.3)),
        "shards": decide(paths, PlanConfig(shards=5)),
        "shard bytes": decide(paths, PlanConfig(shard_bytes=1024)),
        "name": decide(paths, name="animals"),
        "one more": decide([*paths, "dogs/new.jpg"]),
        "one fewer": decide(paths[:-1]),
        "content": decide(paths, contents=other_content),
        "path": decide(renamed, contents=paths),
        "size": decide(paths, sizes=[100] * 99 + [101]),
        "labels": make_plan(relabelled, facts, config, "pets", config.plan_settings()),
        "class names": make_plan(swapped, facts, config, "pets", config.plan_settings()),
        "bad": decide(paths, bad={3: "empty file"}),
        "reason": decide(paths, bad={3: "a GIF image"}),
        "loose": decide(paths, rejected=(Rejected(path="x", reason="not inside a class directory"),)),
    }
    digests = {name: decided.digest for name, decided in plans.items() if name != "size"}
    assert len(set(digests.values())) == len(digests)


def test_digest_does_not_change_with_what_does_not_matter() -> None:
    sources, facts = made(many(50))
    expected = make_plan(sources, facts, PlanConfig(), "pets", {}).digest
    moved = dataclasses.replace(sources, root="/elsewhere", mtimes_ns=sources.mtimes_ns + 5, left_out={"birds": 3})
    touched = Facts(table=facts.table.copy(), reasons={}, repaired={})
    touched.table["mtime_ns"] += 5
    assert make_plan(moved, touched, PlanConfig(max_bad=0.5), "pets", {}).digest == expected


# --- Config and names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_fraction": 1.5}, r"--validation_fraction=1\.5: must be a fraction from 0 to 1\."),
        ({"validation_fraction": -0.1}, r"--validation_fraction=-0\.1: must be a fraction from"),
        ({"validation_fraction": float("nan")}, r"--validation_fraction=nan: must be a fraction from"),
        ({"test_fraction": 2}, r"--test_fraction=2: must be a fraction from"),
        ({"max_bad": 5}, r"--max_bad=5: must be a fraction from 0 to 1"),  # Per cent were meant.
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, r"leave no training images\. .* below 1\."),
        (
            {"test_fraction": 0.8},
            r"--validation_fraction=0\.2 and --test_fraction=0\.8 leave no training images",
        ),  # The default.
        ({"duplicates": "merge"}, r"--duplicates=merge: must be one of keep, drop, fail\."),
        (
            {"shards": 2, "shard_bytes": 2000},
            r"--shards and --shard_bytes exclude each other\. Pass only one of them\.",
        ),
        ({"shards": 0}, r"--shards=0: must be at least 1\."),
        ({"shard_bytes": 150}, r"--shard_bytes=150: must be a number of bytes, at least 1,024\."),  # MiB were meant.
    ],
)
def test_config_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PlanConfig(**settings)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("cat_dog_img", "cat_dog_img"),
        ("Cats & Dogs (2)", "cats_dogs_2"),
        ("2024-photos", "images_2024_photos"),  # TensorFlow Datasets wants a letter first.
        ("кошки", "images"),
        ("_x_", "x"),
        ("", "images"),
        ("ß", "images"),
    ],
)
def test_dataset_name(source: str, name: str) -> None:
    assert dataset_name(source) == name


def test_counts_of_more_classes_than_a_byte_holds() -> None:
    classes = 130
    splits = np.repeat(np.array([0, 1, 2], np.int8), classes)
    labels = np.tile(np.arange(classes, dtype=np.int32), 3)
    nothing = np.zeros(3 * classes, np.int64)
    decided = Plan(
        name="many",
        class_names=tuple(map(str, range(classes))),
        config={},
        rows=Rows(
            numbers=nothing,
            labels=labels,
            splits=splits,
            groups=nothing,
            hashes=nothing,
            lengths=nothing,
            previous=nothing,
        ),
        shards=(),
        rejected=(),
        duplicates=NO_DUPLICATES,
        group_leaks=0,
        digest="",
    )
    assert {split: row.tolist() for split, row in decided.counts().items()} == {
        split: [1] * classes for split in ("train", "validation", "test")
    }
