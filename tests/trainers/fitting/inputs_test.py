"""Tests of the input of a training."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import converted, tree

from tfrecord_tools import dataset
from tfrecord_tools.base import tabular
from tfrecord_tools.errors import UserError
from tfrecord_tools.records import Dataset, Records
from trainers import recipes
from trainers.auditing import issues
from trainers.auditing.issues import ListedIssue
from trainers.fitting import inputs

COUNTS = {"ants": 12, "bees": 6, "cats": 2}
FOUR = [*COUNTS, "dogs"]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    workspace = tmp_path_factory.mktemp("inputs")
    converted(tree(workspace / "src", {f"train/{name}": count for name, count in COUNTS.items()}), workspace / "out")
    return workspace / "out"


def test_training_images_of_one_class_are_reported(out, tmp_path):
    data = dataset.open(out)
    (tmp_path / "numbers").write_text("\n".join(map(str, np.flatnonzero(data.records("train").labels == 0))))
    with pytest.raises(UserError) as error:
        inputs.split(data, recipes.TrainConfig(tfrecords=str(out), records=str(tmp_path / "numbers")))
    assert re.fullmatch(
        rf"--tfrecords={out}: all \d+ training images are of one class, 'ants'\. Training needs images of at least two"
        r" classes\.",
        str(error.value),
    )


def test_classes_without_training_images_are_named(out, tmp_path, capsys):
    data = dataset.open(out)
    (tmp_path / "numbers").write_text("\n".join(map(str, np.flatnonzero(data.records("train").labels != 2))))
    inputs.split(data, recipes.TrainConfig(tfrecords=str(out), records=str(tmp_path / "numbers")))
    out = capsys.readouterr().out
    assert "classes without training images (1 of 3): cats\n" in out
    assert "classes without validation images (1 of 3): cats\n" in out


def test_targets_have_the_shape_of_the_output():
    labels = np.array([0, 1, 1])
    np.testing.assert_array_equal(inputs.targets(labels, 2), [[0.0], [1.0], [1.0]])
    np.testing.assert_array_equal(inputs.targets(labels, 3), [[1, 0, 0], [0, 1, 0], [0, 1, 0]])


def test_class_weights_balance_the_classes(out):
    records = dataset.open(out).records("train")
    recipe = recipes.Recipe(model=recipes.ModelConfig(), phases=(), class_weights="balanced")
    weighted = inputs.weighing(records, recipe, FOUR)
    # There are no images of the fourth class. The weight of a blended image is the mean of its classes' weights.
    values = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0.25, 0.75, 0, 0]], np.float32)
    _, targets, weights = weighted("images", values)
    np.testing.assert_array_equal(targets, values)
    np.testing.assert_allclose(weights, [20 / 48, 20 / 24, 20 / 8, 1, 0.25 * 20 / 48 + 0.75 * 20 / 24], rtol=1e-6)
    assert len(inputs.weighing(records, recipes.finetune(), FOUR)("images", values)) == 2


def test_class_weights_by_hand(out):
    records = dataset.open(out).records("train")
    given = {"dogs": 0.0, "cats": 2.5, "bees": 1, "ants": 0.5}  # In any order.
    recipe = recipes.Recipe(model=recipes.ModelConfig(), phases=(), class_weights=given, label_smoothing=0.1)
    values = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0.25, 0.75, 0, 0]], np.float32)
    _, _, weights = inputs.weighing(records, recipe, FOUR)("images", values)
    np.testing.assert_allclose(weights, [0.5, 1, 2.5, 0, 0.25 * 0.5 + 0.75])
    same = {name: 20 / (3 * count) for name, count in COUNTS.items()}
    by_hand, balanced = (
        inputs.class_weights(records, dataclasses.replace(recipe, class_weights=weights), list(COUNTS))
        for weights in (same, "balanced")
    )
    np.testing.assert_array_equal(by_hand, balanced)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"ants": 1, "bee": 2, "cats": 1},
            "--class_weights=ants:1,bee:2,cats:1: 'bee' is not a class of the dataset. The classes are ants, bees,"
            " cats. Did you mean bees?",
        ),
        (
            {"ants": 1.5},
            "--class_weights=ants:1.5: there is no weight for bees, cats. The classes are ants, bees, cats. Pass a"
            " weight for each class.",
        ),
    ],
)
def test_class_weights_must_be_of_the_classes(given, message, out):
    recipe = recipes.Recipe(model=recipes.ModelConfig(), phases=(), class_weights=given)
    with pytest.raises(UserError) as error:
        inputs.class_weights(dataset.open(out).records("train"), recipe, list(COUNTS))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"a": -1.0, "b": 1},
            "--class_weights=a:-1,b:1: the weight of a is -1. A weight must be 0 or a number above 0.",
        ),
        ({"a": math.nan}, "--class_weights=a:nan: the weight of a is nan. A weight must be 0 or a number above 0."),
        ({"a": math.inf}, "--class_weights=a:inf: the weight of a is inf. A weight must be 0 or a number above 0."),
        (
            {"a": 0, "b": 0.0},
            "--class_weights=a:0,b:0: no weight is above 0, so the model would learn nothing. Pass a weight above 0.",
        ),
    ],
)
def test_class_weights_must_be_numbers_from_0(given, message):
    with pytest.raises(UserError) as error:
        recipes.Recipe(model=recipes.ModelConfig(), phases=(), class_weights=given)
    assert str(error.value) == message


def test_class_weights_of_two_classes(tmp_path):
    src = tree(tmp_path / "src", {"train/cats": 6, "train/dogs": 2})
    converted(src, tmp_path / "out")
    records = dataset.open(tmp_path / "out").records("train")
    recipe = recipes.Recipe(model=recipes.ModelConfig(), phases=(), class_weights="balanced", label_smoothing=0.2)
    _, targets, weights = inputs.weighing(records, recipe, ["cats", "dogs"])(
        "images", np.array([[0.0], [1.0]], np.float32)
    )
    np.testing.assert_allclose(targets, [[0.1], [0.9]])
    np.testing.assert_allclose(weights, [8 / 12, 8 / 4])  # Label smoothing does not change the weights.


def test_smoothed_targets_add_up_to_one():
    np.testing.assert_allclose(inputs.smoothed(np.array([[0.0], [1.0]], np.float32), 0.1), [[0.05], [0.95]])
    np.testing.assert_allclose(inputs.smoothed(np.array([[0, 1, 0, 0]], np.float32), 0.2), [[0.05, 0.85, 0.05, 0.05]])


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
def test_mixed_batches_have_mixed_targets(option, out):
    records = dataset.open(out).records("train")
    config = recipes.TrainConfig(tfrecords=str(out))
    model = recipes.ModelConfig(image_size=16)

    def batches(**settings: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        recipe = recipes.Recipe(model=model, phases=(), batch_size=10, augment="none", **settings)
        stream = inputs.train_batches(records, recipe, config, None, list(COUNTS))(1)
        return list(itertools.islice(stream.as_numpy_iterator(), 3))

    for (images, targets), (plain_images, plain) in zip(batches(**{option: 0.5}), batches()):
        assert images.dtype == np.uint8
        assert set(np.unique(plain)) == {0.0, 1.0}
        np.testing.assert_allclose(targets.sum(1), 1.0, rtol=1e-5)
        unchanged = (images == plain_images).all((1, 2, 3))
        assert 0 < unchanged.sum() < 10
        np.testing.assert_array_equal(targets[unchanged], plain[unchanged])
    assert any(((targets > 0) & (targets < 1)).any() for _, targets in batches(**{option: 1.0}))


def test_batch_is_described_by_its_records(out):
    records = dataset.open(out).records("train")
    config = recipes.TrainConfig(tfrecords=str(out), seed=3)
    recipe = recipes.Recipe(model=recipes.ModelConfig(image_size=16), phases=(), batch_size=4, augment="none")
    stream = dataset.train_batches(records, batch_size=4, image_size=16, seed=3, start_step=7, with_numbers=True)
    _, _, numbers = next(iter(stream))
    batch = inputs.batch_numbers(records, recipe, config, 7)
    np.testing.assert_array_equal(batch, numbers)
    expected = ", ".join(f"{number} ({records.paths[number]})" for number in numbers.numpy())
    assert inputs.describe_records(records, batch) == expected


def sha256(records: Records, number: int) -> str:
    return records.source_sha256[number].tobytes().hex()


def doubtful(directory: Path, data: Dataset, rows: Sequence[tuple[str, str, str]], score: float = 0.9) -> str:
    """Write an audit with open issues: kind, hash of the record, hash of the twin."""
    directory.mkdir()
    listed = [
        ListedIssue(
            kind=kind, rank=1, score=score, split="", record=0, path="", sha256=record, given_label="",
            proposed_label="", twin="", twin_sha256=twin, reason="",
        )
        for kind, record, twin in rows
    ]  # fmt: skip
    issues.write(directory, listed)
    (directory / "audit.json").write_text(json.dumps({"digest": data.digest}))
    return str(directory)


def test_both_sides_of_near_duplicates_are_left_out(tmp_path):
    src = tree(
        tmp_path / "src", {f"{split}/{name}": 6 for split in ("train", "validation") for name in ("ants", "bees")}
    )
    converted(src, tmp_path / "out")
    data = dataset.open(tmp_path / "out")
    train, validation = data.records("train"), data.records("validation")
    ant, bee = (int(np.flatnonzero(train.labels == label)[0]) for label in (0, 1))
    leak = int(np.flatnonzero(train.labels == 0)[3])
    rows = [
        ("near_duplicate", sha256(validation, 2), sha256(train, leak)),  # The training record is the twin.
        ("near_duplicate", sha256(train, bee), sha256(train, ant)),  # Contradictory labels.
    ]
    config = recipes.TrainConfig(
        tfrecords=str(tmp_path / "out"),
        audit=doubtful(tmp_path / "audit", data, rows),
        drop_issues=["near_duplicate"],
    )
    splits = inputs.split(data, config, log=lambda line: None)
    assert sorted(set(range(12)) - set(splits.train.rows.tolist())) == sorted([ant, bee, leak])
    assert len(splits.validation) == 12


def test_held_out_images_do_not_depend_on_the_dropped_issues(tmp_path):
    """Accuracies with and without --drop_issues are measured on the same images, doubtful ones included."""
    converted(tree(tmp_path / "src", {f"train/{name}": 30 for name in ("ants", "bees")}), tmp_path / "out")
    data = dataset.open(tmp_path / "out")
    config = recipes.TrainConfig(tfrecords=str(tmp_path / "out"))
    whole = inputs.split(data, config, log=lambda line: None)
    train = data.records("train")
    doubted = [int(whole.validation.rows[0]), *whole.train.rows[[1, 5, 7]].tolist()]
    audit = doubtful(tmp_path / "audit", data, [("label", sha256(train, number), "") for number in doubted])
    lines: list[str] = []
    splits = inputs.split(data, dataclasses.replace(config, audit=audit, drop_issues=["label"]), log=lines.append)
    assert splits.validation.rows.tolist() == whole.validation.rows.tolist()
    assert sorted(splits.train.rows.tolist()) == sorted(set(whole.train.rows.tolist()) - set(doubted))
    assert lines[0].startswith(f"no validation split: {len(whole.validation)} of 60 training images are held out")
    assert lines[1].startswith(
        f"--drop_issues=label: leaves out 3 of {len(whole.train)} training records, because of their issues in "
    )


def with_pairs(directory: Path, data: Dataset, pairs: Sequence[tuple[str, str]]) -> recipes.TrainConfig:
    """Write an audit with near-duplicates, and return settings that leave them out."""
    audit = doubtful(directory, data, [])
    issues.write_pairs(directory, *zip(*pairs))
    return recipes.TrainConfig(tfrecords=str(data.directory), audit=audit, drop_issues=["near_duplicate"])


def test_near_duplicates_of_held_out_images_are_left_out(tmp_path):
    """The audit knows only the splits of the dataset, and not which images a training holds out."""
    converted(tree(tmp_path / "src", {f"train/{name}": 30 for name in ("ants", "bees")}), tmp_path / "out")
    data = dataset.open(tmp_path / "out")
    train = data.records("train")
    whole = inputs.split(data, recipes.TrainConfig(tfrecords=str(tmp_path / "out")), log=lambda line: None)
    rest, held_out = whole.train.rows, whole.validation.rows
    pairs = [(rest[0], held_out[0]), (held_out[1], rest[1]), (rest[2], rest[3]), (rest[4], held_out[0])]
    config = with_pairs(tmp_path / "audit", data, [(sha256(train, int(a)), sha256(train, int(b))) for a, b in pairs])
    splits = inputs.split(data, config, log=lambda line: None)
    assert set(rest.tolist()) - set(splits.train.rows.tolist()) == set(rest[[0, 1, 4]].tolist())
    assert splits.validation.rows.tolist() == held_out.tolist()


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """Return a dataset with two splits, and a table of folds next to it."""
    root = tmp_path_factory.mktemp("both")
    converted(
        tree(root / "src", {f"{split}/{name}": 4 for split in ("train", "validation") for name in ("ants", "bees")}),
        root / "out",
    )
    rows = [
        {"split": split, "record": number, "fold": number % 4 + 1}
        for split in ("train", "validation")
        for number in range(8)
    ]
    tabular.write_csv(root / "folds.csv", ["split", "record", "fold"], rows[:-1])  # A record may be left out.
    return root


def fold_of(both: Path, fold: int | None, **values: Any) -> recipes.TrainConfig:
    return recipes.TrainConfig(tfrecords=str(both / "out"), records=str(both / "folds.csv"), fold=fold, **values)


def test_a_fold_is_validated_on_and_the_others_are_trained_on(both):
    data, lines = dataset.open(both / "out"), list[str]()
    splits = inputs.split(data, fold_of(both, 2), log=lines.append)
    assert [*zip(*splits.validation.places)] == [(name, row) for name in ("train", "validation") for row in (1, 5)]
    assert (len(splits.train), splits.train.split, splits.validation_name) == (11, "train+validation", "fold 2 of 4")
    assert not set(splits.train.paths) & set(splits.validation.paths)
    assert [records.split for records in splits.whole] == ["train", "validation"]
    assert [len(records) for records in splits.whole] == [8, 8]
    assert lines[0] == f"--records={both}/folds.csv --fold=2: fold 2 of 4, records of train+validation"
    assert inputs.split(data, recipes.TrainConfig(tfrecords=str(both / "out"))).whole == ()


def test_dropped_issues_are_dropped_from_the_other_folds_only(both, tmp_path):
    data = dataset.open(both / "out")
    train, validation = data.records("train"), data.records("validation")
    rows = [("label", sha256(train, 1), ""), ("label", sha256(train, 2), ""), ("label", sha256(validation, 3), "")]
    config = fold_of(both, 2, audit=doubtful(tmp_path / "audit", data, rows), drop_issues=["label"])
    splits = inputs.split(data, config, log=lambda line: None)
    assert (len(splits.train), len(splits.validation)) == (9, 4)


def test_near_duplicates_of_the_fold_are_left_out_and_those_of_other_folds_stay(both, tmp_path):
    data = dataset.open(both / "out")
    train, validation = data.records("train"), data.records("validation")
    pairs = [
        (sha256(train, 1), sha256(train, 2)),  # Fold 2 and fold 3.
        (sha256(validation, 3), sha256(validation, 5)),  # Fold 4 and fold 2.
        (sha256(train, 3), sha256(validation, 4)),  # In different splits, but both are in the training.
    ]
    config = with_pairs(tmp_path / "audit", data, pairs)
    config = dataclasses.replace(config, records=str(both / "folds.csv"), fold=2)
    splits = inputs.split(data, config, log=lambda line: None)
    missing = {*zip(["train"] * 8 + ["validation"] * 7, [*range(8), *range(7)])}
    missing -= {place for part in (splits.train, splits.validation) for place in zip(*part.places)}
    assert missing == {("train", 2), ("validation", 3)}


def test_near_duplicates_of_test_images_are_left_out(tmp_path):
    counts = {f"{split}/{name}": 6 for split in ("train", "validation", "test") for name in ("ants", "bees")}
    converted(tree(tmp_path / "src", counts), tmp_path / "out")
    data = dataset.open(tmp_path / "out")
    train, test = data.records("train"), data.records("test")
    splits = inputs.split(data, with_pairs(tmp_path / "audit", data, [(sha256(train, 4), sha256(test, 2))]))
    assert set(range(12)) - set(splits.train.rows.tolist()) == {4}


def test_an_audit_of_an_older_version_has_the_listed_pairs(both, tmp_path):
    data = dataset.open(both / "out")
    train = data.records("train")
    rows = [("near_duplicate", sha256(train, 1), sha256(train, 2))]
    audit = doubtful(tmp_path / "audit", data, rows, score=0.49)
    splits = inputs.split(data, fold_of(both, 2, audit=audit, drop_issues=["near_duplicate"]))
    assert len(splits.train) == 10


@pytest.mark.parametrize(
    ("fold", "records", "message"),
    [
        (
            9,
            "folds.csv",
            "--fold=9: there are no records to validate on. The folds in {root}/folds.csv are 1, 2, 3, 4. Pass the"
            " number of one of these folds. The file must have at least two folds.",
        ),
        (None, "folds.csv", "--records={root}/folds.csv: is a table of folds, and --fold is missing. Pass the number"),
        (1, "numbers.txt", "--records={root}/numbers.txt: has no column 'split'. With --fold, the file must be a"),
        (1, None, "--fold=1: --records is missing. Pass the file of folds, such as the folds.csv that python -m"),
    ],
)
def test_wrong_folds_are_reported(fold, records, message, both):
    (both / "numbers.txt").write_text("0\n1\n")
    flags = {"records": records and str(both / records), "fold": fold}
    with pytest.raises(UserError) as error:
        inputs.split(dataset.open(both / "out"), recipes.TrainConfig(tfrecords=str(both / "out"), **flags))
    assert str(error.value).startswith(message.format(root=both))
