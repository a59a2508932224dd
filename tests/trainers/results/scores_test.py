"""Each score equals its definition."""

from __future__ import annotations

import numpy as np
import pytest

from trainers.results import scores


@pytest.fixture(scope="module")
def two() -> tuple[np.ndarray, np.ndarray]:
    """Return labels and scores of 200 images. Many scores are equal."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    return labels, (random.integers(0, 20, 200) / 20 * 0.6 + labels * 0.2).astype(np.float32)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (567, 602, 0.9202, 0.9579),
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(right, count, low, high):
    interval = scores.wilson(right, count)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_interval_contains_the_truth_in_95_percent_of_cases():
    random = np.random.default_rng(0)
    intervals = [scores.wilson(int(random.binomial(500, 0.9)), 500) for _ in range(2000)]
    assert np.mean([interval.low <= 0.9 <= interval.high for interval in intervals]) == pytest.approx(0.95, abs=0.02)


def test_a_paired_interval_is_that_of_bonett_and_price():
    differences = np.repeat([1.0, -1.0, 0.0], [12, 5, 183])  # Only one of the two is right: 12 and 5 times.
    first, second = 13 / 202, 6 / 202
    half = 1.959964 * np.sqrt((first + second - (first - second) ** 2) / 202)
    interval = scores.paired(differences, np.arange(200), np.arange(200) % 5)
    assert (interval.low, interval.high) == pytest.approx((first - second - half, first - second + half))


def test_equal_models_have_a_short_interval():
    interval = scores.paired(np.zeros(1000), np.arange(1000), np.arange(1000) % 5)
    assert interval.low == -interval.high
    assert 0.002 < interval.high < 0.004


@pytest.mark.parametrize(("size", "noise"), [(1, 0.0), (10, 0.0), (1, 0.02), (1, 0.06)])
def test_a_paired_interval_contains_the_truth_in_95_percent_of_cases(size, noise):
    """Records of a unit have equal results, and a training of a fold may turn out well or badly."""
    random = np.random.default_rng(0)
    units, hits = np.arange(1000) // size, 0
    folds = units % 5
    for _ in range(1000):
        luck = random.normal(0, noise, 5)[folds[::size]]
        drawn = random.random(1000 // size)
        chosen = np.where(drawn < 0.2 + luck, 1.0, np.where(drawn > 0.9, -1.0, 0.0))
        interval = scores.paired(chosen[units], units, folds)
        hits += interval.low <= 0.1 <= interval.high
    assert 0.93 <= hits / 1000 <= 0.985  # If the trainings are equally good, the interval is a little too long.


def test_design_effect_is_the_size_of_equal_units():
    random = np.random.default_rng(0)
    values = random.random(500).repeat(8)
    assert scores.design_effect(values, np.arange(500).repeat(8)) == pytest.approx(8, rel=0.01)
    assert scores.design_effect(values, np.arange(4000)) == 1.0
    assert scores.design_effect(random.random(4000), random.permutation(500).repeat(8)) == pytest.approx(1, abs=0.15)
    for few in (np.zeros(0), np.ones(5)):  # No variance.
        assert scores.design_effect(few, np.arange(len(few))) == 1.0
    assert scores.design_effect(np.array([0.0, 1.0]), np.array([3, 3])) == 1.0  # One unit has no variance.


def test_interval_over_folds_has_the_corrected_variance():
    folds = np.array([0.96, 0.97, 0.955, 0.98, 0.965])
    interval = scores.corrected(folds)
    half = (
        2.776445 * folds.std(ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    )  # A validation fold is a quarter of its training folds.
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((folds.mean() - half, folds.mean() + half))
    assert scores.corrected(folds[:1]) is None


def test_confusion_and_rates():
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    counts = scores.confusion(labels, predicted, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    rates = scores.per_class(counts)
    assert rates.count.tolist() == [3, 2, 1, 0]
    np.testing.assert_allclose(rates.recall, [2 / 3, 1, 0, np.nan])
    np.testing.assert_allclose(rates.precision, [2 / 3, 2 / 3, np.nan, np.nan])
    np.testing.assert_allclose(rates.f1, [2 / 3, 0.8, 0, np.nan])


def test_roc_is_the_share_of_pairs_in_the_right_order(two):
    labels, values = two
    curve = scores.roc(labels, values)
    above, below = values[labels == 1][:, None], values[labels == 0][None]
    assert curve.area == pytest.approx(np.mean((above > below) + 0.5 * (above == below)))
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    for threshold in np.unique(values):
        point = np.mean(values[labels == 0] >= threshold), np.mean(values[labels == 1] >= threshold)
        assert point in list(zip(curve.x, curve.y))


def test_precision_recall(two):
    labels, values = two
    curve = scores.precision_recall(labels, values)
    area, before = 0.0, 0.0
    for threshold in np.unique(values)[::-1]:
        positive = values >= threshold
        recall, precision = labels[positive].sum() / labels.sum(), labels[positive].mean()
        area, before = area + (recall - before) * precision, recall
        assert any(np.allclose((recall, precision), point) for point in zip(curve.x, curve.y))
    assert curve.area == pytest.approx(area)


def test_perfect_and_reversed_scores():
    labels, values = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9], np.float32)
    assert (scores.roc(labels, values).area, scores.roc(labels, -values).area) == (1, 0)
    assert scores.precision_recall(labels, values).area == 1


def test_best_threshold_has_the_highest_accuracy(two):
    labels, values = two
    best = scores.best_threshold(labels, values)
    assert np.mean((values >= best.value) == labels) == pytest.approx(best.accuracy)
    assert best.accuracy == max(np.mean((values >= value) == labels) for value in np.linspace(0, 1, 1001))


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (
            [0, 0, 0, 1],
            [1.0, 0.2, 0.2, 0.2],
        ),  # Predicting class 0 always would be best, but no threshold below 1 excludes a score of 1.
        (
            [1, 1, 1, 0],
            [0.0, 0.9, 0.9, 0.9],
        ),  # Predicting class 1 always would be best, but no threshold above 0 includes a score of 0.
    ],
)
def test_best_threshold_has_its_accuracy(labels, values):
    labels, values = np.array(labels), np.array(values, np.float32)
    best = scores.best_threshold(labels, values)
    assert 0 < best.value < 1
    assert best.accuracy == np.mean((values >= best.value) == labels)


def test_joint_intervals_are_wider():
    alone, together = scores.wilson(30, 100), scores.wilson(30, 100, 100)
    assert (together.low, together.high) == pytest.approx((0.1760, 0.4625), abs=2e-2)
    assert together.low < alone.low < alone.high < together.high


def test_best_threshold_is_the_nearest_to_a_half_if_several_are_equal():
    labels = np.array([0, 0, 1, 1])
    assert scores.best_threshold(labels, np.array([0.2, 0.3, 0.7, 0.9])).value == pytest.approx(0.5)
    assert scores.best_threshold(1 - labels, np.array([0.2, 0.3, 0.7, 0.9])).accuracy == 0.5


def test_reliability_and_its_error():
    confidence = np.array([0.55, 0.55, 0.95, 0.95, 1.0], np.float32)
    reliability = scores.reliability(confidence, np.array([True, False, True, True, False]))
    assert reliability.count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 3]
    np.testing.assert_allclose(reliability.accuracy[[5, 9]], [1 / 2, 2 / 3])
    assert np.isnan(reliability.accuracy[0])
    assert reliability.error == pytest.approx((2 * abs(0.55 - 0.5) + 3 * abs(2.9 / 3 - 2 / 3)) / 5)


def test_cross_entropy_of_a_confident_mistake_is_finite():
    probabilities = np.array([[0.5, 0.5], [1, 0]], np.float32)
    assert scores.cross_entropy(np.array([0, 1]), probabilities) == pytest.approx((np.log(2) - np.log(1e-7)) / 2)
