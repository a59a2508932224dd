"""Tests of the plan, a pure function that reads no files."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest

from tfrecord_tools.conversion import shards as shards_module
from tfrecord_tools.conversion.decide import Decided
from tfrecord_tools.conversion.near import NearDuplicates
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
    counts={"copies": 0, "leaks": 0, "conflicts": 0},
    files=0,
    examples={"copies": [], "leaks": [], "conflicts": []},
    sizes={"copies": [], "leaks": [], "conflicts": []},
)


def simulated(
    paths: list[str],
    *,
    contents: list[str] | None = None,
    sizes: list[int] | None = None,
    bad: dict[int, str] | None = None,
    rejected: tuple[Rejected, ...] = (),
) -> tuple[Sources, Facts]:
    """Return sources and facts of files that need not exist: paths are [split/]class/name."""
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
    """Return paths of `count` files in each of two classes."""
    return [f"{prefix}{name}/{i:05d}.jpg" for name in ("cats", "dogs") for i in range(count)]


def decide(paths: list[str], config: PlanConfig = PlanConfig(), name: str = "pets", **options: Any) -> Plan:
    return make_plan(*simulated(paths, **options), config, name, config.plan_settings())


def as_values(plan: Plan) -> dict[str, Any]:
    rows = {key: column.tolist() for key, column in vars(plan.rows).items()}
    return {key: value for key, value in vars(plan).items() if key not in ("rows", "decided")} | rows


def split_of(plan: Plan, paths: list[str]) -> dict[str, str]:
    return {paths[number]: SPLITS[split] for number, split in zip(plan.rows.numbers, plan.rows.splits)}


# --- The whole value -----------------------------------------------------------------------------------------------


def test_complete_plan() -> None:
    paths = [
        "train/cats/1.jpg",
        "train/cats/2.jpg",
        "train/dogs/1.jpg",
        "validation/cats/1.jpg",
        "validation/dogs/é.jpg",
    ]
    sources, facts = simulated(paths, sizes=[100, 200, 300, 400, 500], bad={1: "empty file"})
    config = PlanConfig(seed=3, shards=3, max_bad=0.5)
    plan = make_plan(sources, facts, config, "pets", config.plan_settings())
    lengths = {
        number: len(schema.encode_example(b"x" * int(facts.table["size"][number]), paths[number], label))
        for number, label in ((0, 0), (2, 1), (3, 0), (4, 1))
    }
    assert sorted(plan.rows.numbers[:2].tolist()) == [0, 2]
    assert sorted(plan.rows.numbers[2:].tolist()) == [3, 4]
    values = as_values(plan)
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
        "near_duplicates": NearDuplicates(images=NO_DUPLICATES, groups=0, chains=0, longest=0, kept=0),
        "group_leaks": 0,
    }
    assert plan.bytes == sum(lengths.values()) + 4 * 16
    assert {split: row.tolist() for split, row in plan.counts().items()} == {"train": [1, 1], "validation": [1, 1]}


def test_plan_is_reproducible() -> None:
    assert as_values(decide(many(50))) == as_values(decide(many(50)))


def test_shard_names_follow_tensorflow_datasets() -> None:
    assert Shard("train", 3, 12, 0, 1).file_name("pets") == "pets-train.tfrecord-00003-of-00012"


# --- Splits --------------------------------------------------------------------------------------------------------


def test_most_images_keep_their_split_when_images_are_added() -> None:
    """Only images near the border of two splits may move; in an update none does (see update_test)."""
    few, lot = many(1000), many(1100)
    before, after = split_of(decide(few), few), split_of(decide(lot), lot)
    assert sum(after[path] != before[path] for path in few) <= 20  # At most 20 of 2,000.


def test_renamed_image_keeps_its_split() -> None:
    paths = many(100)
    renamed = [path.replace("cats/", "cats/new") for path in paths]
    before = split_of(decide(paths), paths)
    after = split_of(decide(renamed, contents=paths), renamed)
    assert list(before.values()) == [after[path.replace("cats/", "cats/new")] for path in before]


def test_duplicates_share_a_split_in_the_order_of_their_paths() -> None:
    paths = many(200)
    contents = [f"content {i % 40}" for i in range(len(paths))]
    plan = decide(paths, contents=contents)
    side = split_of(plan, paths)
    for content in set(contents):
        assert len({side[path] for path, c in zip(paths, contents) if c == content}) == 1
    rows = [(contents[number], number) for number in plan.rows.numbers.tolist()]
    assert rows == sorted(rows, key=lambda row: (rows.index(next(r for r in rows if r[0] == row[0])), row[1]))


def test_validation_fraction_0_makes_no_validation_split() -> None:
    plan = decide(many(10), PlanConfig(validation_fraction=0.0))
    assert list(plan.counts()) == ["train"]


def test_validation_only_grows_with_its_fraction() -> None:
    paths = many(500)
    small = split_of(decide(paths, PlanConfig(validation_fraction=0.1)), paths)
    large = split_of(decide(paths, PlanConfig(validation_fraction=0.3)), paths)
    assert {p for p, s in small.items() if s == "validation"} < {p for p, s in large.items() if s == "validation"}


def test_split_and_position_are_independent() -> None:
    """The validation split must not be the beginning of an order that is used elsewhere."""
    plan = decide(many(2000), PlanConfig(validation_fraction=0.5))
    first = (plan.rows.numbers[plan.rows.splits == 0][:500] < 2000).mean()
    assert abs(first - 0.5) < 0.12


def test_splits_of_the_source_are_kept() -> None:
    paths = [*many(3, "train/"), *many(2, "test/")]
    plan = decide(paths)
    assert split_of(plan, paths) == {path: path.split("/")[0] for path in paths}
    assert plan.rows.splits.tolist() == [0] * 6 + [2] * 4


@pytest.mark.parametrize("flag", ["validation_fraction", "test_fraction"])
def test_fractions_for_a_source_with_splits_are_refused(flag: str) -> None:
    settings: dict[str, Any] = {flag: 0.2}
    with pytest.raises(UserError, match=rf"--{flag}=0\.2: src has its own splits, which are kept\. Remove --{flag}\."):
        decide(many(3, "train/"), PlanConfig(**settings))


def test_fraction_divides_a_source_with_train_only() -> None:
    sources, facts = simulated(many(10, "train/"))
    assert divided(sources, PlanConfig()) is sources
    config = PlanConfig(validation_fraction=0.2)
    plan = make_plan(divided(sources, config), facts, config, "pets", config.plan_settings())
    assert {split: row.tolist() for split, row in plan.counts().items()} == {"train": [8, 8], "validation": [2, 2]}
    with pytest.raises(UserError, match=r"--validation_fraction=0\.2: src has its own splits"):
        divided(simulated([*many(3, "train/"), *many(3, "test/")])[0], config)


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
            {2: "empty file", 3: "empty file"},  # All images of dogs are bad.
            "the class 'dogs' has no valid image in the train split (0 in all splits)."
            " Add images of this class, or list the other classes in --classes to leave it out.",
        ),
        (
            ["train/cats/1", "validation/cats/2", "validation/dogs/3"],  # Dogs have no training image.
            PlanConfig(),
            {},
            "the class 'dogs' has no valid image in the train split (1 in all splits)."
            " Add images of this class, or list the other classes in --classes to leave it out.",
        ),
        (
            ["test/cats/1", "test/dogs/2", "validation/cats/1", "validation/dogs/1"],
            PlanConfig(max_bad=1.0),
            {0: "empty file", 1: "empty file", 2: "empty file", 3: "empty file"},
            "src: none of 4 files can be converted. The first one is test/cats/1: empty file. Is --src right?",
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
        ["train/cats/1", "train/dogs/2", "validation/cats/3"],  # A source's own split may lack a class.
        ["validation/cats/1", "test/dogs/2"],  # The source's own splits may lack train.
    ],
)
def test_own_splits_may_lack_a_class(paths: list[str]) -> None:
    assert len(decide(paths).rows.numbers) == len(paths)


# --- Rejected files ------------------------------------------------------------------------------------------------


def test_rejected_files_are_sorted_by_path() -> None:
    loose = (Rejected(path="a.txt", reason="not inside a class directory"), Rejected(path="z.txt", reason="likewise"))
    plan = decide(many(50), PlanConfig(max_bad=0.5), bad={60: "empty file", 0: "a GIF image"}, rejected=loose)
    assert [r.path for r in plan.rejected] == ["a.txt", "cats/00000.jpg", "dogs/00010.jpg", "z.txt"]
    assert [r.reason for r in plan.rejected][1:3] == ["a GIF image", "empty file"]
    assert len(plan.rows.numbers) == 98
    assert not {0, 60} & set(plan.rows.numbers.tolist())


@pytest.mark.parametrize(
    ("bad", "total", "max_bad", "fine"),
    [
        (0, 10, 0.0, True),
        (1, 10, 0.0, False),
        (5, 100, 0.05, True),  # The limit itself is allowed.
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
    assert message.startswith(
        f"{bad} of {total} files cannot be converted. This is more than --max_bad={max_bad:g} allows:\n"
    )
    assert message.count("empty file") == min(3, bad)
    assert "Is --src right?" in message
    assert message.endswith("Repair or remove the files, or pass a larger --max_bad.")


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
    ([1000, 1, 1, 1], 2, [0, 1, 4]),  # A very large record first.
    ([1, 1, 1, 1000], 2, [0, 3, 4]),  # A very large record last: no shard is empty.
    ([1, 1, 1000, 1, 1], 3, [0, 3, 4, 5]),
    ([1000, 1, 1, 1], 4, [0, 1, 2, 3, 4]),
    ([1, 1000], 2, [0, 1, 2]),
]


@pytest.mark.parametrize(("sizes", "shards", "cuts"), CUTS)
def test_cuts(sizes: list[int], shards: int, cuts: list[int]) -> None:
    assert shards_module._cuts(np.array(sizes), shards).tolist() == cuts


def test_shards_are_never_empty_and_about_equal() -> None:
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
def test_number_of_shards_is_exact(shards: int) -> None:
    plan = decide(many(40), PlanConfig(shards=shards, validation_fraction=0.3))
    assert len(plan.shards) == shards
    for split in ("train", "validation"):
        own = [shard for shard in plan.shards if shard.split == split]
        assert [shard.number for shard in own] == list(range(len(own)))
        assert {shard.of for shard in own} == {len(own)}


def test_next_shard_goes_to_the_split_with_the_largest_shards() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        records = rng.integers(1, 30, rng.integers(1, 4))
        sizes = records * rng.integers(1, 5, len(records))  # Ties are frequent; the first of equal splits wins.
        shards = int(rng.integers(len(records), records.sum() + 1))
        expected = np.ones(len(records), np.int64)
        while expected.sum() < shards:
            expected[np.argmax(np.where(expected < records, sizes / expected, -1))] += 1
        found = shards_module._counts(sizes, records, 0, PlanConfig(shards=shards), False)
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("config", [PlanConfig(), PlanConfig(shards=9), PlanConfig(shard_bytes=1024)])
def test_shards_cover_every_row_once_within_one_split(config: PlanConfig) -> None:
    plan = decide(many(40), config, sizes=list(range(10, 90)))
    assert [shard.start for shard in plan.shards] == [0, *(shard.stop for shard in plan.shards[:-1])]
    assert plan.shards[-1].stop == 80
    for shard in plan.shards:
        assert shard.start < shard.stop
        assert {SPLITS[s] for s in plan.rows.splits[shard.start : shard.stop]} == {shard.split}


def test_shards_follow_the_bytes_of_the_splits() -> None:
    paths = [*many(10, "train/"), *many(10, "validation/")]
    plan = decide(paths, PlanConfig(shards=10), sizes=[9000] * 20 + [1000] * 20)
    assert [shard.split for shard in plan.shards] == ["train"] * 9 + ["validation"]


@pytest.mark.parametrize(
    ("total", "shards"),
    [
        (1 << 20, 1),  # Below the minimum there is one shard.
        (MIN_SHARD_BYTES * 3 + 1000, 4),
        (MIN_SHARD_BYTES * 64, 64),
        (MIN_SHARD_BYTES * 128, 64),  # A shard is a 64th of the total.
        (MAX_SHARD_BYTES * 64, 64),
        (MAX_SHARD_BYTES * 128, 128),  # Shards reach the largest size.
    ],
)
def test_default_shards_by_bytes(total: int, shards: int) -> None:
    paths = many(200, "train/")
    size = total // len(paths) - 60  # A record needs a little more than 60 bytes besides the image.
    counts = len(decide(paths, sizes=[size] * len(paths)).shards)
    assert shards <= counts <= shards + 1


def test_shards_are_close_to_shard_bytes() -> None:
    plan = decide(many(100, "train/"), PlanConfig(shard_bytes=10_000), sizes=[900] * 200)
    bytes_of = [int((plan.rows.lengths[s.start : s.stop] + 16).sum()) for s in plan.shards]
    assert len(bytes_of) == -(-sum(bytes_of) // 10_000)
    assert max(bytes_of) <= 10_000 + 2 * 1000


def test_shards_do_not_outnumber_records() -> None:
    assert len(decide(many(2, "train/"), PlanConfig(shard_bytes=1024), sizes=[100_000] * 4).shards) == 4


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (1, r"--shards=1: there are 2 splits, and each split needs a shard\. Pass at least 2\."),
        (30, r"--shards=30: there are only 20 records\. Pass a smaller number of shards\."),
    ],
)
def test_impossible_numbers_of_shards_are_refused(shards: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decide([*many(5, "train/"), *many(5, "validation/")], PlanConfig(shards=shards))


def test_there_may_be_as_many_shards_as_records() -> None:
    """4 records fit into 4 shards even if one record has nearly all bytes."""
    paths = [*many(1, "train/"), *many(1, "validation/")]
    assert len(decide(paths, PlanConfig(shards=4), sizes=[10, 10, 10, 1_000_000]).shards) == 4


# --- Digest --------------------------------------------------------------------------------------------------------


def test_digest_depends_on_the_output() -> None:
    paths = many(50)
    sources, facts = simulated(paths)
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
    digests = {name: plan.digest for name, plan in plans.items() if name != "size"}
    assert len(set(digests.values())) == len(digests)


def test_digest_does_not_depend_on_other_settings() -> None:
    sources, facts = simulated(many(50))
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
        ({"max_bad": 5}, r"--max_bad=5: must be a fraction from 0 to 1"),  # A mistake for 5 percent.
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, r"leave no training images\. .* below 1\."),
        (
            {"test_fraction": 0.8},
            r"--validation_fraction=0\.2 and --test_fraction=0\.8 leave no training images",
        ),  # The validation fraction is the default.
        ({"duplicates": "merge"}, r"--duplicates=merge: must be one of keep, drop, fail\."),
        (
            {"shards": 2, "shard_bytes": 2000},
            r"--shards and --shard_bytes cannot be combined\. Pass only one of them\.",
        ),
        ({"shards": 0}, r"--shards=0: must be at least 1\."),
        (
            {"shard_bytes": 150},
            r"--shard_bytes=150: must be a number of" r" bytes, at least 1,024\.",
        ),  # A mistake for 150 MiB.
    ],
)
def test_invalid_config_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PlanConfig(**settings)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("cat_dog_img", "cat_dog_img"),
        ("Cats & Dogs (2)", "cats_dogs_2"),
        ("2024-photos", "images_2024_photos"),  # TensorFlow Datasets requires a letter first.
        ("кошки", "images"),
        ("_x_", "x"),
        ("", "images"),
        ("ß", "images"),
    ],
)
def test_dataset_name(source: str, name: str) -> None:
    assert dataset_name(source) == name


def test_counts_of_more_than_256_classes() -> None:
    classes = 130
    splits = np.repeat(np.array([0, 1, 2], np.int8), classes)
    labels = np.tile(np.arange(classes, dtype=np.int32), 3)
    nothing = np.zeros(3 * classes, np.int64)
    plan = Plan(
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
        decided=Decided(class_names=(), labels=labels, dropped=nothing[:0], kept=nothing[:0], paired=nothing[:0]),
        duplicates=NO_DUPLICATES,
        near_duplicates=NearDuplicates(images=NO_DUPLICATES, groups=0, chains=0, longest=0, kept=0),
        group_leaks=0,
        digest="",
    )
    assert {split: row.tolist() for split, row in plan.counts().items()} == {
        split: [1] * classes for split in ("train", "validation", "test")
    }
