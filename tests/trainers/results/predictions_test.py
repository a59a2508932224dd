"""Predictions belong to their records and files, and suspects are wrong labels."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
from image_sources import converted
from judged_runs import judged_pair, photos, read_csv, run_of

from tfrecord_tools import dataset
from tfrecord_tools.decoding import decoder
from tfrecord_tools.errors import UserError
from trainers.models import model_file
from trainers.results import class_map, predictions, views
from trainers.results.predictions import Predictions

TWO = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.4, 0.6]], np.float32)


def predicted(
    probabilities: np.ndarray, labels: list[int] | None, classes: tuple[str, ...] = ("a", "b")
) -> Predictions:
    return Predictions(
        classes=classes,
        probabilities=probabilities,
        predicted=predictions.decide(probabilities, 0.5),
        paths=[f"{i}.jpg" for i in range(len(probabilities))],
        labels=None if labels is None else np.array(labels),
        records=None if labels is None else np.arange(10, 10 + len(labels)),
        sha256=None if labels is None else np.repeat(np.arange(len(labels), dtype=np.uint8)[:, None], 32, axis=1),
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return judged_pair(tmp_path_factory.mktemp("judged"))


def test_predictions_belong_to_their_records(pair):
    out, run = pair
    model, info = model_file.load(run / "model.keras")
    records = dataset.open(out).records("test")
    chosen = records.select(np.array([7, 30, 2]))
    result = predictions.of_records(views.predictor(model), info, chosen)
    assert result.records is not None
    assert result.labels is not None
    assert result.records.tolist() == [7, 30, 2]
    for i, number in enumerate(result.records.tolist()):
        record = records[number]
        assert result.paths[i] == record["path"]
        assert result.labels[i] == record["label"]
        pixels = decoder.decode(record["image"], info.image_size, info.crop)
        (p,) = np.asarray(model(pixels[None]))[0]
        np.testing.assert_allclose(result.probabilities[i], [1 - p, p], atol=1e-6)


def test_classes_in_another_order_are_matched_by_name(pair, tmp_path):
    out, run = pair
    turned = run_of(tmp_path / "turned", out, ("reds", "greens"))
    results = []
    for directory in (run, turned):
        model, info = model_file.load(directory / "model.keras")
        data = dataset.open(out)
        records = data.records("test")
        counts = np.bincount(records.labels)
        match = class_map.match(info.classes, data.class_names, counts, {}, "--tfrecords=out")
        results.append(predictions.of_records(views.predictor(model), info, records, match.labels_of))
    first, second = results
    assert predictions.summary(first)["accuracy"] > 0.8
    assert predictions.summary(second)["accuracy"] == predictions.summary(first)["accuracy"]
    assert first.labels is not None
    assert second.labels is not None
    assert [first.classes[i] for i in first.labels] == [second.classes[i] for i in second.labels]
    np.testing.assert_allclose(first.probabilities, second.probabilities[:, ::-1], atol=1e-6)


def test_table_of_predictions(tmp_path):
    predictions.write(tmp_path, predicted(TWO, [0, 0, 1, 1], ("a,b", 'c"d')))
    rows = read_csv(tmp_path / "predictions.csv")
    assert list(rows[0]) == ["record", "path", "label", "prediction", "p_a,b", 'p_c"d']
    assert list(rows[1].values()) == ["11", "1.jpg", "a,b", 'c"d', "0.2", "0.8"]
    assert rows[2]["prediction"] == 'c"d'  # The threshold itself counts as the second class.
    back = np.array([[float(row["p_a,b"]), float(row['p_c"d'])] for row in rows], np.float32)
    np.testing.assert_array_equal(back, TWO)  # All digits are written.


def test_tables_of_several_splits_have_a_column_for_the_split(tmp_path):
    of_both = dataclasses.replace(predicted(TWO, [0, 0, 1, 1]), splits=["train", "validation", "train", "train"])
    predictions.write(tmp_path, of_both)
    rows = read_csv(tmp_path / "predictions.csv")
    assert list(rows[0]) == ["split", "record", "path", "label", "prediction", "p_a", "p_b"]
    assert [row["split"] for row in rows] == of_both.splits
    assert {row["record"]: row["split"] for row in read_csv(tmp_path / "suspects.csv")}["11"] == "validation"


@pytest.mark.parametrize("splits", [None, ["train", "validation", "train", "train"]])
def test_predictions_are_read_as_they_were_written(splits, tmp_path):
    given = dataclasses.replace(predicted(TWO, [0, 0, 1, 1], ("a,b", "p_c")), splits=splits)
    predictions.write(tmp_path, given)
    back = predictions.read(tmp_path)
    assert (back.classes, list(back.paths)) == (given.classes, given.paths)
    assert back.splits == (splits and tuple(splits))
    for name in ("probabilities", "predicted", "labels", "records"):
        np.testing.assert_array_equal(getattr(back, name), getattr(given, name))
        assert getattr(back, name).dtype == getattr(given, name).dtype


@pytest.mark.parametrize("damage", [None, "", "record,path\n1,a\n", "record,path,label,prediction,p_a\n1,b,a,c,0.5\n"])
def test_a_damaged_table_of_predictions_is_reported(damage, tmp_path):
    if damage is not None:
        (tmp_path / "predictions.csv").write_text(damage)
    with pytest.raises(UserError) as error:
        predictions.read(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/predictions.csv: is missing or damaged (")


def test_files_have_no_record_and_no_label():
    assert list(predictions.table(predicted(TWO[:1], None))) == [
        {"record": "", "path": "0.jpg", "label": "", "prediction": "a", "p_a": "0.9", "p_b": "0.1"}
    ]


def test_most_doubtful_labels_come_first(tmp_path):
    three = np.array([[0.4, 0.35, 0.25], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9], [0.34, 0.33, 0.33]], np.float32)
    predictions.write(tmp_path, predicted(three, [1, 0, 2, 2], ("a", "b", "c")))
    rows = read_csv(tmp_path / "suspects.csv")
    assert [(row["rank"], row["path"], row["predicted_label"], row["given_label"]) for row in rows] == [
        ("1", "1.jpg", "b", "a"),  # 0.8 against 0.1.
        ("2", "0.jpg", "a", "b"),  # 0.4 against 0.35.
        ("3", "3.jpg", "a", "c"),  # 0.34 against 0.33: more doubtful than the next, although 0.33 is not the lowest.
        ("4", "2.jpg", "c", "c"),  # The prediction agrees with the label.
    ]
    assert (rows[0]["p_predicted"], rows[0]["p_given"], rows[0]["record"]) == ("0.8", "0.1", "11")
    assert {row["decision"] for row in rows} == {""}
    assert rows[0]["sha256"] == "01" * 32


def test_suspects_agree_with_the_table_at_the_threshold(tmp_path):
    predictions.write(tmp_path, predicted(TWO, [0, 1, 0, 1]))
    labels = {row["path"]: row["predicted_label"] for row in read_csv(tmp_path / "suspects.csv")}
    assert labels == {row["path"]: row["prediction"] for row in read_csv(tmp_path / "predictions.csv")}
    assert labels["2.jpg"] == "b"  # The threshold itself counts as the second class.


@pytest.mark.parametrize("flag", ["relabel", "decisions"])
def test_suspects_correct_wrong_labels(pair, tmp_path, flag):
    """Convert, predict, use the first lines of suspects.csv, and convert again."""
    _, run = pair
    model, info = model_file.load(run / "model.keras")
    source = photos(
        tmp_path / "src", {f"{split}/{c}": n for split, n in (("train", 2), ("validation", 30)) for c in info.classes}
    )
    wrong = []
    for color, other in (("greens", "reds"), ("reds", "greens")):  # 3 of 30 are in the wrong directory.
        for number in range(3):
            path = source / f"validation/{color}/{number:03d}.jpg"
            path.rename(source / f"validation/{other}/wrong{number}.jpg")
            wrong.append(f"validation/{other}/wrong{number}.jpg")
    converted(source, tmp_path / "out")
    found = predictions.of_records(views.predictor(model), info, dataset.open(tmp_path / "out").records("validation"))
    predictions.write(tmp_path, found)
    suspects = read_csv(tmp_path / "suspects.csv")
    assert len({row["path"] for row in suspects[:6]} & set(wrong)) >= 5
    kept = [row | {"decision": "label"} for row in suspects if row["path"] in wrong]
    if flag == "relabel":  # Earlier releases had no such columns.
        kept = [{name: value for name, value in row.items() if name not in ("decision", "sha256")} for row in kept]
    with open(tmp_path / "corrections.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    facts = converted(source, tmp_path / "mended", **{flag: str(tmp_path / "corrections.csv")})
    assert sum(way["images"] for way in facts["relabelled"]) == 6
    records = dataset.open(tmp_path / "mended").records("validation")
    labels = dict(zip(records.paths, records.labels.tolist()))
    assert [labels[path] for path in wrong] == [0, 0, 0, 1, 1, 1]


def test_summary_is_that_of_keras(pair):
    out, run = pair
    model, info = model_file.load(run / "model.keras")
    records = dataset.open(out).records("test")
    summary = predictions.summary(predictions.of_records(views.predictor(model), info, records))
    model.compile(loss="binary_crossentropy", metrics=["accuracy"])
    batches = dataset.eval_batches(records, batch_size=7, image_size=info.image_size, crop=info.crop)
    by_keras = model.evaluate(batches, verbose=0, return_dict=True)
    assert summary["accuracy"] == pytest.approx(by_keras["accuracy"])
    assert summary["loss"] == pytest.approx(by_keras["loss"], rel=1e-5)
    low, high = summary["accuracy_interval"]
    assert low < summary["accuracy"] < high
    assert 0.8 < summary["auc"] <= 1


def test_summary_shows_weak_classes():
    """Five of six images are of class a, and all are predicted as a, except one."""
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.3, 0.7], [0.8, 0.2]], np.float32)
    metrics = predictions.summary(predicted(probabilities, [0, 0, 0, 0, 0, 1]))
    assert metrics["majority_accuracy"] == pytest.approx(5 / 6)
    assert metrics["recall"] == {"a": pytest.approx(4 / 5), "b": 0.0}
    assert metrics["precision"] == {"a": pytest.approx(4 / 5), "b": 0.0}
    assert metrics["balanced_accuracy"] == pytest.approx(0.4)
    assert metrics["macro_f1"] == pytest.approx(0.4)
    assert predictions.by_class_line(metrics) == (
        "balanced accuracy 0.4000, macro F1 0.4000, lowest recall 0.0000 (b). Always guessing the largest class:"
        " accuracy 0.8333"
    )
    assert "top_5_accuracy" not in metrics


def test_classes_without_images_have_no_rates():
    probabilities = np.eye(3, dtype=np.float32)[[0, 1, 1]]
    metrics = predictions.summary(predicted(probabilities, [0, 1, 1], ("a", "b", "c")))
    assert metrics["recall"] == {"a": 1.0, "b": 1.0, "c": None}
    assert metrics["precision"]["c"] is None
    assert metrics["balanced_accuracy"] == metrics["macro_f1"] == 1.0


def test_ten_classes_have_a_top_5_accuracy():
    """The class of the first image is the fifth likeliest, that of the second the sixth."""
    ranks = np.arange(10, 0, -1, dtype=np.float32)[None] / 55
    classes = tuple("abcdefghij")
    metrics = predictions.summary(predicted(np.repeat(ranks, 2, axis=0), [4, 5], classes))
    assert metrics["top_5_accuracy"] == 0.5


def test_a_class_without_images_does_not_count_in_means():
    """The model predicts c once, but there are no images of c."""
    probabilities = np.eye(3, dtype=np.float32)[[0, 1, 2]]
    metrics = predictions.summary(predicted(probabilities, [0, 1, 1], ("a", "b", "c")))
    assert metrics["recall"] == {"a": 1.0, "b": 0.5, "c": None}
    assert metrics["precision"] == {"a": 1.0, "b": 1.0, "c": None}
    assert metrics["balanced_accuracy"] == 0.75
    assert metrics["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_parts_are_joined():
    parts = [predicted(TWO[:0], None), predicted(TWO[:1], [0]), predicted(TWO[1:], [1, 0, 1])]
    whole = predictions.joined(parts)
    np.testing.assert_array_equal(whole.probabilities, TWO)
    assert whole.truth.tolist() == [0, 1, 0, 1]
    assert whole.records is not None
    assert whole.records.tolist() == [10, 10, 11, 12]
    assert whole.paths == ["0.jpg", "0.jpg", "1.jpg", "2.jpg"]
    assert len(predictions.joined(parts[:1])) == 0


def test_a_label_that_is_not_a_class_of_the_model_is_shown():
    one = dataclasses.replace(predicted(TWO[:1], None), given=["owls"])
    assert [row["label"] for row in predictions.table(one)] == ["owls"]


def test_images_of_one_class_have_no_auc():
    assert "auc" not in predictions.summary(predicted(TWO, [0, 0, 0, 0]))
