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
    data = noise._Data([logits.T.copy(), np.random.default_rng(1).normal(size=(classes, 200))], truth)
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
    np.testing.assert_allclose(fitted.posterior.sum(1), 1)
    np.testing.assert_allclose(fitted.probabilities.sum(1), 1)
    assert fitted.low <= (labels != truth).sum() <= fitted.high


def test_a_label_is_doubted_in_the_direction_of_the_errors_only():
    """If only class 0 is mislabeled, a doubtful image with the label 0 is right."""
    truth, logits = drawn(2, 3_000)
    labels = truth.copy()
    wrong = np.flatnonzero(truth == 0)[::4]
    labels[wrong] = 1
    doubts = noise.wrong(noise.fit([logits], labels).posterior, labels)
    assert doubts[labels == 0].mean() < 0.01
    assert doubts[wrong].mean() > 0.9
