"""Tests of the audit on drawn features with planted errors."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import planted_records
import pytest
from PIL import Image, ImageDraw
from planted_records import planted

from tfrecord_tools.errors import UserError
from tfrecord_tools.images import appearance
from tfrecord_tools.layout import near_duplicates
from trainers.auditing import neighbors, scoring
from trainers.auditing.issues import KINDS, Issue
from trainers.auditing.scoring import Audit


def of_kind(audit: Audit, kind: str) -> list[Issue]:
    return [issue for issue in audit.issues if issue.kind == kind]


@pytest.fixture(scope="module")
def whole() -> tuple[planted_records.Planted, Audit]:
    """Return 600 records of three classes with 30 wrong labels, and their audit."""
    records = planted(classes=3)
    return records, scoring.audit(records.inputs)


def test_wrong_labels_are_ranked_first_with_the_right_label(whole):
    records, audit = whole
    first = of_kind(audit, "label")[:30]
    found = {issue.record for issue in first} & set(records.flipped.tolist())
    assert len(found) >= 29
    assert [issue.rank for issue in first] == list(range(1, 31))
    right = [issue.proposed == records.truth[issue.record] for issue in first if issue.record in found]
    assert np.mean(right) >= 0.95
    assert first[0].score > 0.9
    given, proposed = (
        records.inputs.class_names[label] for label in (records.inputs.labels[first[0].record], first[0].proposed)
    )
    assert first[0].reason.startswith(f"The label is {given}. Compared with other images, {proposed} is more likely. ")


def test_ranks_are_counted_within_each_kind(whole):
    _, audit = whole
    for kind in KINDS:
        assert [issue.rank for issue in of_kind(audit, kind)] == list(range(1, len(of_kind(audit, kind)) + 1))
    assert all(0 <= issue.score <= 1 for issue in audit.issues)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("flips", [0.0, 0.01, 0.05, 0.2])
def test_the_interval_holds_the_number_of_wrong_labels(classes, flips):
    held = 0
    for seed in range(3):
        records = planted(classes=classes, flips=flips, seed=seed)
        estimate = scoring.audit(records.inputs).estimate
        assert estimate.low <= estimate.wrong <= estimate.high
        held += estimate.low <= len(records.flipped) <= estimate.high
    assert held >= 2  # An interval of 95 % may fail once.


def test_only_one_class_is_mislabeled():
    """Errors in one direction are the hardest: the model could learn them instead."""
    records = planted(flips=0.0)
    wrong = np.flatnonzero(records.truth == 0)[:90]  # Nearly a third of the class.
    labels = records.inputs.labels.copy()
    labels[wrong] = 1
    audit = scoring.audit(dataclasses.replace(records.inputs, labels=labels))
    assert len({issue.record for issue in of_kind(audit, "label")[:90]} & set(wrong.tolist())) >= 85
    assert audit.estimate.class_wrong[1] > 10 * audit.estimate.class_wrong[0]
    assert "class1" in audit.estimate.sentence(records.inputs.class_names)


def test_strangers_are_off_topic_even_in_groups():
    records = planted(count=500)
    random = np.random.default_rng(1)
    values = records.inputs.features.copy()
    single = random.choice(500, 8, replace=False)
    values[single] = random.gamma(0.3, 8.0, (8, planted_records.WIDTH))
    group = np.setdiff1d(np.arange(500), single)[:40]  # More than the 30 neighbors that are compared.
    values[group] = random.gamma(0.3, 8.0, planted_records.WIDTH) + random.normal(0, 0.01, (40, planted_records.WIDTH))
    audit = scoring.audit(dataclasses.replace(records.inputs, features=np.maximum(values, 0).astype(np.float32)))
    found = [issue.record for issue in of_kind(audit, "off_topic")][:48]
    assert len(set(found) & {*single.tolist(), *group.tolist()}) >= 46
    twins = {issue.record for issue in of_kind(audit, "near_duplicate")}
    assert len(twins & set(group.tolist())) >= 39


def test_every_record_with_a_copy_in_another_split_is_in_the_list():
    """Otherwise, a training that leaves out doubtful images would still see copies of validation images."""
    records = planted()
    copies = [5, 17, 40, 80, 90]  # The last two are validation records.
    features, splits = records.inputs.features.copy(), records.inputs.splits.copy()
    features[copies] = features[5]
    splits[copies[3:]] = 1
    labels = records.inputs.labels.copy()
    labels[copies] = 0
    audit = scoring.audit(dataclasses.replace(records.inputs, features=features, splits=splits, labels=labels))
    listed = [issue for issue in of_kind(audit, "near_duplicate") if issue.record in copies]
    assert all(0.5 <= issue.score < 0.75 for issue in listed)
    assert {row for issue in listed for row in (issue.record, issue.twin)} == set(copies)
    assert len({issue.record for issue in listed}) == len(listed) < len(copies)


def test_near_duplicates_across_labels_come_first():
    records = planted(count=400, flips=0.0)
    inputs = records.inputs
    same = np.flatnonzero(inputs.labels == 0)[:6]
    other = int(np.flatnonzero(inputs.labels == 1)[0])
    values, splits, contents = inputs.features.copy(), inputs.splits.copy(), inputs.contents.copy()
    facts = inputs.facts.copy()
    values[same[1]] = values[same[0]] * 1.01  # Equal features.
    facts["phash"][same[2:4]] = 0x0123456789ABCDEF, 0x0123456789ABCDEE  # Hashes that differ in one bit.
    splits[same[3]] = 1
    contents[max(same[4], other)] = min(same[4], other)  # The same bytes with two labels.
    audit = scoring.audit(dataclasses.replace(inputs, features=values, facts=facts, splits=splits, contents=contents))
    first, second, third = of_kind(audit, "near_duplicate")[:3]
    assert {first.record, first.twin} == {int(same[4]), other}
    assert first.reason.startswith("The same file is in the dataset twice. They have different labels: class")
    assert {second.record, second.twin} == {int(same[2]), int(same[3])}
    found = "The same picture is probably in the dataset twice."
    assert second.reason == f"{found} They are in different splits: validation and train."
    assert {third.record, third.twin} == {int(same[0]), int(same[1])}
    assert third.reason == f"{found} Both are in the split train."
    assert first.score >= 0.75 > second.score >= 0.5 > third.score


def test_pictures_that_are_only_similar_are_not_called_the_same():
    inputs = planted(count=400, flips=0.0).inputs
    one, other = np.flatnonzero(inputs.labels == 0)[:2].tolist()
    threshold = neighbors.find(inputs.features, inputs.labels).threshold
    drawn = inputs.features[other].copy()
    for share in np.linspace(0, 1, 200):
        inputs.features[other] = (1 - share) * inputs.features[one] + share * drawn
        if neighbors.cosines(inputs.features, np.array([[one, other]]))[0] < 0.7 * threshold + 0.3:
            break
    (issue,) = (issue for issue in of_kind(scoring.audit(inputs), "near_duplicate") if issue.twin == one)
    assert issue.record == other
    assert issue.reason == "Two pictures are very similar, but may be different. Both are in the split train."


def small_objects(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw ellipses and boxes on white, many of them alike: pixels f32[n 1024], and facts."""
    random = np.random.default_rng(3)
    images = []
    for number in range(count):
        image = Image.new("L", (64, 64), 255)
        left, top = random.integers(14, 20, 2)
        right, bottom = random.integers(44, 50, 2)
        box, level, draw = (
            (int(left), int(top), int(right), int(bottom)),
            int(random.integers(0, 160)),
            ImageDraw.Draw(image),
        )
        if number % 2:
            draw.ellipse(box, fill=level)
        else:
            draw.rounded_rectangle(box, radius=10, fill=level)
        images.append(image)
    pixels = [np.asarray(image.resize((32, 32)), np.float32).reshape(-1) for image in images]
    return np.stack(pixels), appearance.facts([appearance.of_image(image) for image in images])


def test_alike_objects_on_a_plain_background_are_not_near_duplicates():
    """The hashes of different drawings are near to each other, so they prove nothing."""
    pixels, facts = small_objects(240)
    pixels[201], facts[201] = pixels[200], facts[200]  # One real pair, with different labels.
    inputs = dataclasses.replace(planted(count=240, flips=0.0).inputs, features=pixels, facts=facts)
    audit = scoring.audit(dataclasses.replace(inputs, labels=np.arange(240) % 2))
    near = len(near_duplicates.pairs(facts["phash"], near_duplicates.DEFAULT_DISTANCE))
    across = [{issue.record, issue.twin} for issue in of_kind(audit, "near_duplicate") if issue.score >= 0.75]
    assert near > 240
    assert {200, 201} in across
    assert len(across) <= 3


def test_a_pair_by_hash_is_ranked_by_its_similarity():
    inputs = planted(count=100, flips=0.0).inputs
    facts = inputs.facts.copy()
    facts["phash"][[4, 9]] = 0x0123456789ABCDEF
    audit = scoring.audit(dataclasses.replace(inputs, facts=facts, labels=np.arange(100) % 2))
    roots = np.sqrt(inputs.features[[4, 9]].astype(np.float64))
    cosine = roots[0] @ roots[1] / np.linalg.norm(roots[0]) / np.linalg.norm(roots[1])
    (issue,) = of_kind(audit, "near_duplicate")
    assert issue.score == pytest.approx(0.75 + 0.24 * cosine, abs=1e-5)


def test_a_group_in_rare_conditions_is_listed_as_a_group():
    records = planted(count=600, flips=0.0)
    group = np.flatnonzero(records.inputs.labels == 0)[:8]
    random = np.random.default_rng(3)
    values = records.inputs.features.copy()
    values[group] += random.gamma(0.5, 4.0, planted_records.WIDTH) + random.normal(0, 1.5, (8, planted_records.WIDTH))
    audit = scoring.audit(dataclasses.replace(records.inputs, features=np.maximum(values, 0)))
    found = of_kind(audit, "rare")[:8]
    assert {issue.record for issue in found} == set(group.tolist())
    assert found[0].score > 0.4
    count = int((records.inputs.labels == 0).sum())
    assert (
        found[0].reason
        == f"This is one of 8 similar images. They are unlike the {count - 8} other images of the class class0."
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("brightness", 3, "very dark (brightness 3 of 255)"),
        ("brightness", 250, "very bright (brightness 250 of 255)"),
        ("contrast", 1, "almost without contrast (standard deviation 1.0 gray levels)"),
        ("sharpness", 0.02, "blurry (sharpness 0.02)"),
        ("flat_share", 0.9, "mostly of one brightness (90% of the area)"),
    ],
)
def test_images_of_low_quality(name, value, words):
    records = planted(count=200)
    facts = records.inputs.facts.copy()
    facts[name][7] = value
    audit = scoring.audit(dataclasses.replace(records.inputs, facts=facts))
    first = of_kind(audit, "low_quality")[0]
    assert (first.record, first.reason) == (7, f"Compared with the other images, this image is {words}.")
    assert first.score > 0.5


def test_unknown_facts_are_no_issues():
    records = planted(count=200)
    facts = np.full(200, np.array((0, *[np.nan] * 4, False), records.inputs.facts.dtype))
    audit = scoring.audit(dataclasses.replace(records.inputs, facts=facts))
    assert of_kind(audit, "low_quality") == []


def test_records_of_a_group_do_not_judge_each_other():
    """Ten copies with the same wrong label would confirm each other."""
    records = planted(count=400, flips=0.0)
    wrong = np.flatnonzero(records.inputs.labels == 0)[:10]
    labels, units, values = records.inputs.labels.copy(), records.inputs.units.copy(), records.inputs.features.copy()
    labels[wrong], units[wrong] = 1, units[wrong[0]]
    values[wrong] = values[wrong[0]] + np.random.default_rng(0).normal(0, 0.3, (10, planted_records.WIDTH))
    audit = scoring.audit(dataclasses.replace(records.inputs, labels=labels, units=units, features=values))
    assert len({issue.record for issue in of_kind(audit, "label")[:10]} & set(wrong.tolist())) >= 9


def test_a_class_with_one_record_is_not_judged():
    records = planted(count=300, classes=3, flips=0.0)
    labels = np.where(records.inputs.labels == 2, 0, records.inputs.labels)
    labels[5] = 2
    audit = scoring.audit(dataclasses.replace(records.inputs, labels=labels))
    assert 5 not in {issue.record for issue in of_kind(audit, "label")}
    assert audit.estimate.records == 299


def test_classes_that_cannot_be_judged_do_not_count():
    """200 classes of one image contradict every model, because no model has seen them."""
    records = planted(count=2_000, classes=20, flips=0.05)
    inputs, random = records.inputs, np.random.default_rng(1)
    single = planted(count=200, classes=2, flips=0.0, labels=20 + np.arange(200)).inputs
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(inputs, name), getattr(single, name)])
        for name in ("labels", "splits", "facts", "height", "width", "decided")
    }
    values = random.gamma(1.0, 1.5, (200, planted_records.WIDTH)).astype(np.float32)
    both = dataclasses.replace(
        inputs,
        **columns,
        features=np.concatenate([inputs.features, values]),
        units=np.arange(2_200, dtype=np.uint64),
        contents=np.arange(2_200),
        class_names=[f"class{number}" for number in range(220)],
        paths=[f"{number}.jpg" for number in range(2_200)],
    )
    estimate = scoring.audit(both).estimate
    assert estimate.records == 2_000
    assert estimate.low <= len(records.flipped) <= estimate.high
    assert estimate.high < 1.5 * len(records.flipped)
    assert estimate.class_records == (*np.bincount(inputs.labels).tolist(), *[0] * 200)
    assert estimate.class_wrong[20:] == (0,) * 200


def test_decided_records_give_their_places_to_others(whole):
    """The best ranks of an earlier audit must not use up the places of the list."""
    records, before = whole
    for kind in ("label", "off_topic"):
        first = [issue.record for issue in of_kind(before, kind)[:50]]
        after = scoring.audit(dataclasses.replace(records.inputs, decided=np.isin(np.arange(600), first)))
        rest = of_kind(after, kind)
        assert not {issue.record for issue in rest} & set(first)
        assert [issue.rank for issue in rest] == list(range(1, len(rest) + 1))
        assert len(rest) >= 50
        if kind == "off_topic":  # The ranking does not depend on decisions.
            after = scoring.audit(records.inputs)
            assert [issue.record for issue in of_kind(after, kind)] == [issue.record for issue in of_kind(before, kind)]


def test_labels_that_were_kept_as_right_are_not_estimated_as_wrong(whole):
    records, before = whole
    kept = np.isin(np.arange(600), [issue.record for issue in of_kind(before, "label") if issue.score > 0.1])
    estimate = scoring.audit(dataclasses.replace(records.inputs, decided=kept)).estimate
    assert before.estimate.wrong > 20
    assert (estimate.records, estimate.low) == (600, 0)
    assert estimate.wrong < 2
    assert estimate.high < before.estimate.high / 2


def test_if_all_records_are_decided_nothing_is_listed():
    records = planted(count=100)
    audit = scoring.audit(dataclasses.replace(records.inputs, decided=np.ones(100, bool)))
    assert audit.issues == ()
    assert (audit.estimate.low, audit.estimate.wrong, audit.estimate.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("decided", "listed", "reason"),
    [
        ([], [(9, 4)], "the later record is listed"),
        ([9], [(4, 9)], "the record that is not decided is listed"),
        ([4], [(9, 4)], "the twin is decided"),
        ([4, 9], [], "both are decided"),
    ],
)
def test_a_pair_is_listed_unless_both_are_decided(decided, listed, reason):
    inputs = planted(count=100, flips=0.0).inputs
    facts, splits = inputs.facts.copy(), inputs.splits.copy()
    facts["phash"][[4, 9]] = 0x0123456789ABCDEF
    splits[9] = 1
    known = np.isin(np.arange(100), decided)
    audit = scoring.audit(dataclasses.replace(inputs, facts=facts, splits=splits, decided=known))
    found = [(issue.record, issue.twin) for issue in of_kind(audit, "near_duplicate")]
    assert found == listed, reason


@pytest.mark.parametrize("kept", [(4, 9), (9, 4), (20, 9)], ids=str)
def test_a_kept_pair_is_not_listed_and_its_labels_are_doubted_as_before(kept):
    """Records 4 and 20 have the same bytes, so they share the decision. Other pairs stay listed."""
    records = planted(count=100, flips=0.1)
    inputs = records.inputs
    facts, contents = inputs.facts.copy(), np.arange(100)
    facts["phash"][[4, 9]] = 0x0123456789ABCDEF
    facts["phash"][[30, 31]] = 0xFEDCBA9876543210
    contents[[4, 20]] = 4
    inputs = dataclasses.replace(inputs, facts=facts, contents=contents)
    before = scoring.audit(inputs)
    after = scoring.audit(dataclasses.replace(inputs, kept_pairs=contents[[kept]]))

    def pairs(audit: Audit) -> set[tuple[int, ...]]:
        return {tuple(sorted((issue.record, issue.twin or 0))) for issue in of_kind(audit, "near_duplicate")}

    assert (4, 9) in pairs(before)
    assert pairs(after) >= {(30, 31), (4, 20)}
    assert (4, 9) not in pairs(after)
    assert of_kind(after, "label") == of_kind(before, "label")
    assert after.estimate == before.estimate


def test_a_chain_of_near_duplicates_does_not_become_one_unit():
    """Each hash of the chain differs in four bits from the next one, so its 80 records are connected."""
    inputs = planted(count=300, flips=0.0).inputs
    facts = inputs.facts.copy()
    facts["phash"] = np.random.default_rng(0).integers(1, 2**64, 300, np.uint64)
    bits = [1 << number for number in range(64)]
    chain = [sum(bits[(start + step) % 64] for step in range(24)) for start in range(0, 64, 2)]
    facts["phash"][:80] = np.array(chain, np.uint64)[np.arange(80) % 32]
    audit = scoring.audit(dataclasses.replace(inputs, facts=facts))
    assert audit.notes == (
        "note: more than 60 images form a chain, in which each image is a near-duplicate of the next one. The chain"
        " was cut between its least similar images, so some images are compared with near-duplicates of themselves.",
    )
    assert audit.estimate.records == 300


def test_a_large_group_stays_together_and_is_noted():
    inputs = planted(count=300, flips=0.0).inputs
    units = np.where(np.arange(300) < 200, 0, inputs.units)
    audit = scoring.audit(dataclasses.replace(inputs, units=units))
    assert audit.notes == (
        "note: 200 of 300 images are copies of each other or belong to one group. These images are compared only"
        " with the other 100 images.",
    )
    assert scoring.audit(inputs).notes == ()


def test_more_folds_than_images_give_no_false_notes():
    inputs = planted(count=12, flips=0.0).inputs
    assert scoring.audit(inputs, folds=20).notes == ()
    facts = inputs.facts.copy()
    facts["phash"][[4, 9]] = 0x0123456789ABCDEF
    assert scoring.audit(dataclasses.replace(inputs, facts=facts), folds=20).notes == (
        "note: 2 of 12 images are copies of each other or belong to one group. These images are compared only with"
        " the other 10 images.",
    )


def test_the_seed_changes_the_folds_only():
    records = planted(count=300)
    one, same, other = (scoring.audit(records.inputs, seed=seed) for seed in (0, 0, 1))
    assert one.issues == same.issues
    np.testing.assert_array_equal(one.probabilities, same.probabilities)
    assert (one.probabilities != other.probabilities).any()


def test_many_classes():
    """With more than 30 classes, the errors have one rate per class."""
    records = planted(count=1600, classes=40, flips=0.05)
    audit = scoring.audit(records.inputs)
    first = {issue.record for issue in of_kind(audit, "label")[:80]}
    assert len(first & set(records.flipped.tolist())) >= 70


@pytest.mark.parametrize(
    ("rows", "change", "message"),
    [
        (slice(0, 9), {}, "has 9 valid records. An audit needs at least 10. Convert more images."),
        (
            slice(0, 50),
            {"labels": np.zeros(50, np.int64)},
            "all records have the same label. An audit compares the images of at least two classes. Convert images of"
            " other classes, too.",
        ),
        (
            slice(0, 50),
            {"units": np.zeros(50, np.uint64)},
            "all records belong to one group. An audit compares each group with other groups, so at least two groups"
            " are needed. Convert the images again with smaller groups: python -m tfrecord_tools.convert"
            " --group_regex=PATTERN.",
        ),
        (
            slice(0, 20),
            {"labels": np.arange(20)},
            "fewer than two classes have images in several groups. An audit compares an image with images of the same"
            " class in other groups. Convert more images, or use smaller groups.",
        ),
    ],
)
def test_too_little_data_is_an_error(rows, change, message):
    inputs = planted(count=50).inputs
    columns = {name: value[rows] for name, value in vars(inputs).items() if isinstance(value, np.ndarray)}
    columns |= {"class_names": [str(number) for number in range(20)], "paths": inputs.paths[rows]}
    with pytest.raises(UserError) as error:
        scoring.audit(dataclasses.replace(inputs, **columns | change))
    assert str(error.value) == f"--tfrecords=out: {message}"


def test_features_without_information_give_no_error():
    records = planted(count=60, flips=0.0)
    values = np.zeros_like(records.inputs.features)
    values[0, 0] = 1
    audit = scoring.audit(dataclasses.replace(records.inputs, features=values))
    assert np.isfinite(audit.probabilities).all()
