"""Linear heads on features, and their outputs for records that they were not fitted to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

# The inverse strength of the regularization, times the number of features. On 2,002 photographs of two classes with 5 %
# and 30 % of wrong labels, the areas under the ROC curve fall from 0.997 and 0.987 to 0.991 and 0.866 with 13.
_C_TIMES_FEATURES = 0.4
_MOST_TRAINING = 50_000  # Records. A linear head does not get better with more, and memory stays bounded.
_BLOCK = 8_192  # Rows of features in memory at once.
_ITERATIONS = 60


@dataclasses.dataclass(frozen=True)
class Head:
    """A linear classifier on standardized features.

    Attributes:
        mean: f32[c].
        deviation: f32[c].
        parameters: f64[c * k + k], weights and biases.
    """

    mean: np.ndarray
    deviation: np.ndarray
    parameters: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return f64[m k] for features f32[m c]."""
        weights, bias = _split(self.parameters, len(self.mean))
        standardized = (features - self.mean) / self.deviation
        return np.asarray(standardized @ weights.astype(np.float32) + bias, np.float64)


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    classes: int,
    noise: np.ndarray | None = None,
    heads: list[Head] | None = None,
) -> tuple[np.ndarray, list[Head]]:
    """Fit a head for each fold to all other folds, and return the logits of the fold's records.

    Args:
        features: f32[n c], may be mapped from disk.
        labels: i64[n], given labels.
        folds: i64[n].
        classes: Number of classes, k.
        noise: f64[k k], probability of each given label (column) for each true label (row). The heads then predict the
            true label ("forward correction", Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss
            Correction Approach", CVPR 2017). None: the labels are taken as true.
        heads: Heads of an earlier call, from which the fits start.

    Returns:
        Logits f64[n k], and the heads.
    """
    logits, fitted = np.zeros((len(labels), classes)), []
    for fold in range(int(folds.max()) + 1):
        rows = np.flatnonzero(folds != fold)
        rows = rows[:: -(-len(rows) // _MOST_TRAINING)]
        start = None if heads is None else heads[fold].parameters
        head = _fit(np.asarray(features[rows], np.float32), labels[rows], classes, noise, start)
        for own in _blocks(np.flatnonzero(folds == fold)):
            logits[own] = head.logits(np.asarray(features[own], np.float32))
        fitted.append(head)
    return logits, fitted


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[first : first + _BLOCK] for first in range(0, len(rows), _BLOCK))


def _fit(
    features: np.ndarray, labels: np.ndarray, classes: int, noise: np.ndarray | None, start: np.ndarray | None
) -> Head:
    """Fit a head by L-BFGS."""
    from scipy.optimize import minimize  # Imported here, because the import changes the filters of warnings.

    mean, deviation = features.mean(0), features.std(0)
    deviation[deviation < 1e-6] = 1.0  # A constant feature.
    features = (features - mean) / deviation
    width = features.shape[1]
    likelihoods = (np.eye(classes) if noise is None else noise)[:, labels].T.astype(np.float32)
    strength = _C_TIMES_FEATURES / width

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = _split(parameters.astype(np.float32), width)
        probabilities = softmax(features @ weights + bias)
        joint = probabilities * likelihoods
        total = joint.sum(1) + np.float32(1e-30)
        gradient = strength * (probabilities - joint / total[:, None])
        value = 0.5 * float((weights.astype(np.float64) ** 2).sum()) - strength * float(np.log(total).sum(dtype=float))
        return value, np.concatenate([(features.T @ gradient + weights).ravel(), gradient.sum(0)]).astype(np.float64)

    first = np.zeros((width + 1) * classes) if start is None else start
    fitted = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS, "ftol": 1e-7})
    return Head(mean, deviation, fitted.x)


def _split(parameters: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    classes = len(parameters) // (width + 1)
    return parameters[: width * classes].reshape(width, classes), parameters[width * classes :]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities of the same shape and type; rows sum to 1."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))
