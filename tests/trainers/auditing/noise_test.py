"""The model of wrong labels: its gradient, and the errors that it recovers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad

from trainers.auditing import noise


def drawn(classes: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return true classes i64[n], and logits f64[n k] that are right for most of them."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, count)
    logits = random.normal(size=(count, classes))
    logits[np.arange(count), truth] += 5
    return truth, logits


@pytest.mark.parametrize("classes", [2, 4, 35])  # Above 30 classes, the errors of a class have one rate.
def test_the_gradient_is_that_of_the_loss(classes):
    truth, logits = drawn(classes, 200)
    outputs = [logits.T.copy(), np.random.default_rng(1).normal(size=(classes, 200))]
    data = noise._Data(outputs, truth, np.arange(200) % 3 == 0)  # A third of the labels is decided.
    start = noise._start(data, noise._spread(np.full(classes, 0.1)), 2.0)
    start += np.random.default_rng(2).normal(0, 0.1, len(start))
    error = check_grad(
        lambda flat: noise._loss(flat, data)[0], lambda flat: noise._loss(flat, data)[1], start, epsilon=1e-6
    )
    assert error < 1e-2 * np.linalg.norm(noise._loss(start, data)[1])


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ({}, "no label is wrong"),
        ({(0, 1): 0.2}, "only one class is mislabeled, in one direction"),
        ({(0, 1): 0.1, (1, 2): 0.1, (2, 0): 0.1}, "each class is mislabeled as the next one"),
        ({(0, 1): 0.1, (0, 2): 0.1, (1, 0): 0.05, (1, 2): 0.05}, "two classes have different rates"),
    ],
)
def test_the_matrix_is_recovered(errors, reason):
    truth, logits = drawn(3, 3_000)
    matrix = np.eye(3)
    for (true, given), rate in errors.items():
        matrix[true, given] = rate
        matrix[true, true] -= rate
    random = np.random.default_rng(3)
    labels = np.array([random.choice(3, p=matrix[true]) for true in truth])
    fitted = noise.fit([logits], labels, interval=True)
    np.testing.assert_allclose(fitted.matrix, matrix, atol=0.04, err_msg=reason)
    for chances in fitted.judge([logits], labels, np.zeros(3_000, bool)):
        np.testing.assert_allclose(chances.sum(1), 1)
    assert fitted.low <= (labels != truth).sum() <= fitted.high


def test_a_label_is_doubted_in_the_direction_of_the_errors_only():
    """If only class 0 is mislabeled, a doubtful image with the label 0 is right."""
    truth, logits = drawn(2, 3_000)
    labels = truth.copy()
    wrong = np.flatnonzero(truth == 0)[::4]
    labels[wrong] = 1
    posterior = noise.fit([logits], labels).judge([logits], labels, np.zeros(3_000, bool))[1]
    doubts = noise.wrong(posterior, labels)
    assert doubts[labels == 0].mean() < 0.01
    assert doubts[wrong].mean() > 0.9


def test_many_records_are_represented_by_all_classes(monkeypatch):
    """Labels that alternate, as in datasets in file order, must not leave one class only."""
    monkeypatch.setattr(noise, "_MOST_FITTED", 500)
    truth, logits = np.arange(4_000) % 2, np.random.default_rng(0).normal(size=(4_000, 2))
    logits[np.arange(4_000), truth] += 5
    labels = truth.copy()
    labels[:400] = 1 - labels[:400]
    fitted = noise.fit([logits], labels, interval=True)
    np.testing.assert_allclose(fitted.matrix, [[0.9, 0.1], [0.1, 0.9]], atol=0.04)
    assert fitted.low <= 400 <= fitted.high


def test_decided_labels_are_right():
    """If all doubtful labels are kept as right, the estimate counts none. Some images remain ambiguous."""
    truth, logits = drawn(3, 2_000)
    labels = truth.copy()
    labels[:100] = (labels[:100] + 1) % 3
    none, decided = np.zeros(2_000, bool), np.arange(2_000) < 100
    before, after = (noise.fit([logits], labels, decided=known, interval=True) for known in (none, decided))
    assert before.low <= 100 <= before.high
    assert (after.low, after.high < before.high / 2) == (0, True)
    doubts = noise.wrong(after.judge([logits], labels, decided)[1], labels)
    assert (doubts[decided] == 0).all()
    assert doubts.sum() < 10


def test_if_all_labels_are_decided_no_label_may_be_wrong():
    truth, logits = drawn(2, 200)
    fitted = noise.fit([logits], truth, decided=np.ones(200, bool), interval=True)
    assert (fitted.low, fitted.high) == (0, 0)


def test_many_classes_are_fitted_with_half_of_the_precision(monkeypatch):
    truth, logits = drawn(35, 3_000)
    labels = np.where(np.arange(3_000) < 300, (truth + 1) % 35, truth)
    single = noise.fit([logits], labels, interval=True)
    monkeypatch.setattr(noise, "_SINGLE", np.float64)
    double = noise.fit([logits], labels, interval=True)
    np.testing.assert_allclose(single.matrix, double.matrix, atol=2e-3)
    np.testing.assert_allclose([single.low, single.high], [double.low, double.high], rtol=0.01)
