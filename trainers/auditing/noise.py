"""Estimate how many labels are wrong, from the outputs of several models.

Each model has computed logits for records that it was not trained on. `fit` estimates two things from these outputs and
the given labels:

* T, a matrix of error rates. T[t, y] is the probability that a record of the true class t has the given label y.
* The probability of each true class for each record. It is computed from the outputs in four steps. The outputs of each
  model are multiplied by a scale, and added up. With few classes, the sum times a k x k matrix, the mixing matrix, is
  added to the sum. A bias is added for each class. A softmax turns the result into probabilities.

All these parameters are fitted together, so that the given labels become as likely as possible (maximum likelihood,
with priors). From T and the probabilities of the true classes follows the probability that a given label is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainers.auditing import folding
from trainers.auditing.heads import softmax

# "Few classes" means at most this number. With more classes, T has only one error rate per class, because the records
# are too few to fit k * k error rates.
_FULL_CLASSES = 30
_RIDGE = 20.0  # Strength of the prior of the mixing matrix. The prior is a normal distribution around 0.
# Prior of T, as pseudo-counts. Each class starts with this many records with a right label, and this many with a wrong
# label.
_RIGHT, _WRONG = 1.0, 0.05
# Fits start from each of these error rates, because the likelihood may have several maxima.
_STARTS = (0.02, 0.25)
_MOST_WRONG = 0.6  # Highest error rate of a class, if there are many classes.
# Maximum numbers of L-BFGS iterations: for the first fit from each start, for continuing the best fits, and for each
# fit in `_interval`.
_TRIED, _FINISHED, _PROFILED = 50, 200, 30
_TOLERANCE = 1e-7  # A fit ends when the relative change of the loss is smaller than this.
# Maximum number of records in a fit. This number is enough for the few parameters. All other records are judged, too.
_MOST_FITTED = 20_000
_MOST_NUMBERS = 20_000_000  # Maximum of (records x classes) in a fit. With 1,000 classes, a fit takes minutes and 1 GB.
_SINGLE: type = np.float32  # Type of the outputs if there are many classes. It halves the memory and the time.
_STEPS = 15  # `_interval` multiplies the error rates by this number of factors from 0 to 2, and by a few more.
# Fits start from each of these scales of the outputs. The small one suits classes that are hard to tell apart, the
# large one suits classes that are easy to tell apart.
_SCALES = (2.0, 30.0)
_SAME = 0.05  # If the losses of two fits differ by less than this, both probably approach the same optimum.
# A fit is given up if its loss after the first iterations is higher than the best loss by more than this.
_NEARLY_TRIED = 20.0
# An optimum is kept if its loss is higher than the best loss by at most this number. It is half of the 95 % quantile of
# chi-squared with two degrees of freedom.
_DROP_OPTIMA = 3.0
# `_interval` keeps a factor if its loss is higher than the best loss by at most this number. It is half of the 95 %
# quantile of chi-squared with one degree of freedom.
_DROP = 1.92
# The model is simple, so `_interval` widens its result. The first number is a share of the wrong labels. The other two
# are shares of the records without a clear class, because such records may have wrong labels. One is for the lower end
# of the interval, one for the upper end.
_MODEL_ERROR, _AMBIGUOUS_LOW, _AMBIGUOUS_HIGH = 0.03, 0.2, 0.3
# Share of the records that may look like another class although their label is right. It lowers the lower end of the
# interval. The digits of scikit-learn have such records.
_UNUSUAL = 0.005
_SMALLEST = 1e-6  # Smaller error rates are raised to this number, so that no logarithm is infinite.


@dataclasses.dataclass(frozen=True)
class Noise:
    """The result of `fit`.

    Attributes:
        matrix: f64[k k], T: the probability of each given label (column) for each true class (row).
        low, high: 95 % interval of the number of wrong labels. If a person has decided a label, it is treated as right.
            If the interval was not computed, both numbers are 0.
        deviations: Standard deviation of the outputs of each model. The outputs are divided by it.
        optima: Weight, parameters and T of each fit that explains the labels well. The weights sum to 1.
    """

    matrix: np.ndarray
    low: float
    high: float
    deviations: Sequence[float]
    optima: Sequence[tuple[float, np.ndarray, np.ndarray]]

    def judge(
        self, outputs: Sequence[np.ndarray], labels: np.ndarray, decided: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the probability of each true class for some records.

        Args:
            outputs: Logits of each image model, f32[m k] each.
            labels: i64[m], given labels.
            decided: bool[m], whether the given label is known to be right.

        Returns:
            Two arrays f64[m k] with the probability of each true class. The first uses only the outputs. The second
            also uses the given label.
        """
        data = _Data(_scaled(outputs, self.deviations, np.float64), labels, decided)
        probabilities, posterior = np.zeros((2, data.classes, len(labels)))
        for share, parameters, matrix in self.optima:
            own = _softmax(_logits(data, parameters)[1])
            probabilities += share * own
            posterior += share * _posterior(own, matrix, data)
        return probabilities.T, posterior.T


@dataclasses.dataclass(frozen=True)
class _Data:
    """The n records of a fit.

    The arrays have the shape [classes, records], because sums over a few classes then take a third of the time.

    Attributes:
        outputs: Scaled outputs of the models, [k n] each. All computations have their dtype.
        labels: i64[n], given labels.
        decided: bool[n], whether the given label is known to be right.
    """

    outputs: Sequence[np.ndarray]
    labels: np.ndarray
    decided: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.outputs[0].shape[0])

    @property
    def full(self) -> bool:
        """Whether there are few classes: T then has k * k parameters, and there is a mixing matrix."""
        return self.classes <= _FULL_CLASSES

    @property
    def size(self) -> int:
        """Number of parameters that do not belong to T: the scales, the biases and the mixing matrix.

        They come first in the parameter vector, and those of T follow.
        """
        return len(self.outputs) + self.classes + (self.classes**2 if self.full else 0)


def fit(
    outputs: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    judged: np.ndarray | None = None,
    decided: np.ndarray | None = None,
    interval: bool = False,
) -> Noise:
    """Fit T and the probabilities of the true classes to the given labels.

    Args:
        outputs: Logits of each model, f32[n k], for records that the model has not seen.
        labels: i64[n], given labels.
        judged: bool[n], the records that are used. The interval is for the number of wrong labels among them. If None,
            all records are used.
        decided: bool[n], whether the given label is known to be right. If None, no label is known to be right.
        interval: Whether to compute `Noise.low` and `Noise.high`. This takes as long as the fit.
    """
    classes = outputs[0].shape[1]
    decided = np.zeros(len(labels), bool) if decided is None else decided
    rows = np.arange(len(labels)) if judged is None else np.flatnonzero(judged)
    used = rows[folding.subset(labels[rows], min(_MOST_FITTED, _MOST_NUMBERS // classes))]
    chosen = [output[used] for output in outputs]
    deviations = [max(float(_centered(output).std(dtype=np.float64)), 1e-12) for output in chosen]
    kind = np.float64 if classes <= _FULL_CLASSES else _SINGLE
    data = _Data(_scaled(chosen, deviations, kind), labels[used], decided[used])
    found = _optima(data)
    optima = [optimum.x for optimum in found]
    shares = np.exp(found[0].fun - np.array([optimum.fun for optimum in found]))
    shares /= shares.sum()
    matrices = [_matrix(data, optimum[data.size :]) for optimum in optima]
    scale = len(rows) / len(used)
    intervals = [_interval(data, optimum, 1 / scale) for optimum in optima] if interval else [(0.0, 0.0)]
    low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    return Noise(
        matrix=np.asarray(sum(share * matrix for share, matrix in zip(shares, matrices))),
        low=low * scale,
        high=min(high * scale, float((~decided[rows]).sum())),
        deviations=deviations,
        optima=list(zip(shares.tolist(), optima, matrices)),
    )


def _centered(output: np.ndarray) -> np.ndarray:
    """Subtract the mean logit of each record. This does not change its softmax."""
    return np.asarray(output - output.mean(1, keepdims=True))


def _scaled(outputs: Sequence[np.ndarray], deviations: Sequence[float], kind: type) -> list[np.ndarray]:
    """Return centered outputs [m k], divided by the deviation of their model, as [k m]."""
    return [
        np.ascontiguousarray(_centered(output.astype(kind)).T) / kind(deviation)
        for output, deviation in zip(outputs, deviations)
    ]


def _optima(data: _Data) -> list[Any]:
    """Return the results of `minimize`: the best optimum, then other optima that fit nearly as well.

    If labels contradict their images, there are two explanations: the labels are wrong, or the images look like several
    classes. Each explanation may be an optimum. So `Noise.judge` returns the mean over the optima, weighted by
    likelihood.
    """
    matrices = [_spread(np.full(data.classes, rate)) for rate in _STARTS]
    if data.full:
        matrices.append(_confusion(data))
    starts = [_start(data, matrix, scale) for scale in _SCALES for matrix in matrices]
    tried = sorted((_minimize(_loss, start, data, _TRIED) for start in starts), key=lambda fitted: float(fitted.fun))
    optima = [tried[0]]
    for fitted in tried[1:]:
        if optima[-1].fun + _SAME < fitted.fun < tried[0].fun + _NEARLY_TRIED:
            optima.append(fitted)
    finished = [_minimize(_loss, fitted.x, data, _FINISHED) for fitted in optima]
    best = min(float(fitted.fun) for fitted in finished)
    near = [fitted for fitted in finished if fitted.fun <= best + _DROP_OPTIMA]
    return sorted(near, key=lambda fitted: float(fitted.fun))


def _minimize(loss: Callable[..., Any], start: np.ndarray, data: _Data, iterations: int, *more: Any) -> Any:
    from scipy.optimize import minimize  # Imported late, because the import changes the warning filters.

    options = {"maxiter": iterations, "ftol": _TOLERANCE}
    return minimize(loss, start, (data, *more), "L-BFGS-B", jac=True, options=options)


def wrong(posterior: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the probability f64[n] that each given label is wrong."""
    return np.asarray(np.clip(1 - posterior[np.arange(len(labels)), labels], 0, 1))


def _start(data: _Data, matrix: np.ndarray, scale: float) -> np.ndarray:
    """Return the parameters at the start of a fit, made from a first guess of T and of the scale."""
    first = np.zeros(data.size)
    first[: len(data.outputs)] = scale / len(data.outputs)
    rates = 1 - np.diag(matrix)
    own = np.log(matrix).ravel() if data.full else np.log(rates / (_MOST_WRONG - rates))
    return np.concatenate([first, own])


def _confusion(data: _Data) -> np.ndarray:
    """Return T under the assumption that the most likely class of each record is its true class."""
    counts = np.full((data.classes, data.classes), 0.1)
    likeliest = np.where(data.decided, data.labels, np.argmax(sum(data.outputs), axis=0))
    np.add.at(counts, (likeliest, data.labels), 1)
    return np.asarray(counts / counts.sum(1, keepdims=True))


def _matrix(data: _Data, parameters: np.ndarray) -> np.ndarray:
    """Return T for its parameters."""
    classes = data.classes
    if data.full:
        return softmax(parameters.reshape(classes, classes))
    return _spread(_rates(parameters))


def _rates(parameters: np.ndarray) -> np.ndarray:
    """Return the error rate of each class, f64[k]. Used if T has one error rate per class."""
    return np.asarray(_MOST_WRONG / (1 + np.exp(-np.clip(parameters, -100, 100))))


def _spread(rates: np.ndarray) -> np.ndarray:
    """Return T for error rates f64[k]. The errors of a class are spread evenly over all other classes."""
    classes = len(rates)
    matrix = np.repeat(rates[:, None] / (classes - 1), classes, axis=1)
    np.fill_diagonal(matrix, 1 - rates)
    return matrix


def _logits(data: _Data, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted sum of the models' outputs, and the logits of the true classes, both [k n]."""
    models, classes = len(data.outputs), data.classes
    parameters = parameters.astype(data.outputs[0].dtype)
    total = sum(scale * output for scale, output in zip(parameters[:models], data.outputs))
    logits = total + parameters[models : models + classes, None]
    if data.full:
        logits = logits + parameters[models + classes : data.size].reshape(classes, classes).T @ total
    return np.asarray(total), np.asarray(logits)


def _joint(probabilities: np.ndarray, matrix: np.ndarray, data: _Data) -> np.ndarray:
    """Return the joint probability of each true class and the given label, [k n].

    A decided label is the true class. So the probability of all other classes is 0.
    """
    joint = matrix.astype(probabilities.dtype)[:, data.labels]
    joint *= probabilities
    rows = np.flatnonzero(data.decided)
    right = np.maximum(joint[data.labels[rows], rows], _tiny(joint))
    joint[:, rows] = 0
    joint[data.labels[rows], rows] = right
    return joint


def _posterior(probabilities: np.ndarray, matrix: np.ndarray, data: _Data) -> np.ndarray:
    """Return the probability of each true class if the given label is known, [k n]."""
    joint = _joint(probabilities, matrix, data)
    joint /= joint.sum(0)
    return joint


def _tiny(values: np.ndarray) -> Any:
    """Return the smallest positive number of the dtype of `values`. It prevents divisions by 0."""
    return np.finfo(values.dtype).tiny


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the classes, [k n]. Each column sums to 1."""
    powers = logits - logits.max(0)
    np.exp(powers, out=powers)
    powers /= powers.sum(0)
    return np.asarray(powers)


def _loss(parameters: np.ndarray, data: _Data) -> tuple[float, np.ndarray]:
    """Return the loss (the negative logarithm of likelihood times prior), and the gradient of the loss."""
    matrix = _matrix(data, parameters[data.size :])
    value, gradient, joint = _fixed_loss(parameters[: data.size], data, matrix)
    if data.full:
        prior = np.full_like(matrix, _WRONG / (data.classes - 1))
        np.fill_diagonal(prior, _RIGHT)
        counts = prior + [np.bincount(data.labels, row, data.classes) for row in joint]  # True class x given label.
        value -= float((prior * np.log(matrix + 1e-300)).sum())
        own = (matrix * counts.sum(1, keepdims=True) - counts).ravel()
    else:
        rates = _rates(parameters[data.size :])  # 1 - diagonal of T would round small rates to 0.
        right = np.bincount(data.labels, joint[data.labels, np.arange(len(data.labels))], data.classes)
        failed = joint.sum(1, dtype=np.float64) - right + _WRONG
        value -= float((_WRONG * np.log(rates) + _RIGHT * np.log(1 - rates)).sum())
        own = -(failed / rates - (right + _RIGHT) / (1 - rates)) * rates * (1 - rates / _MOST_WRONG)
    return value, np.concatenate([gradient, own]).astype(np.float64)


def _fixed_loss(parameters: np.ndarray, data: _Data, matrix: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the loss and the gradient for a fixed T, and the probabilities of `_posterior`, [k n]."""
    models, classes = len(data.outputs), data.classes
    total, logits = _logits(data, parameters)
    probabilities = _softmax(logits)
    joint = _joint(probabilities, matrix, data)
    evidence = joint.sum(0) + _tiny(joint)
    joint /= evidence
    residual = np.subtract(probabilities, joint, out=probabilities)
    bias = parameters[models : models + classes]
    value = -float(np.log(evidence).sum(dtype=np.float64)) + 0.5 * float((bias**2).sum())
    gradient = [residual.sum(1) + bias]
    back = residual
    if data.full:
        mixing = parameters[models + classes :].reshape(classes, classes)
        back = residual + mixing @ residual
        value += 0.5 * _RIDGE * float((mixing**2).sum())
        gradient.append((total @ residual.T + _RIDGE * mixing).ravel())
    scales = np.array([np.einsum("ij,ij->i", back, output).sum(dtype=np.float64) for output in data.outputs])
    return value, np.concatenate([scales, *gradient]), joint


def _interval(data: _Data, parameters: np.ndarray, sampled: float) -> tuple[float, float]:
    """Return the 95 % interval of the number of wrong labels in `data`.

    All error rates in T are multiplied by a factor, and the other parameters are fitted again. This is done for several
    factors. The factors that explain the labels nearly as well as the best factor are kept (profile likelihood). The
    interval covers the numbers of wrong labels for all kept factors. It is widened, because these numbers also vary by
    chance.

    Args:
        data: The records of the fit.
        parameters: The fitted parameters.
        sampled: Share of all records that the fit uses. With a smaller share, the interval is wider.
    """
    # A small number is added, because an error rate of 0 would stay 0 with every factor.
    errors = _matrix(data, parameters[data.size :]) + 1 / len(data.labels)
    np.fill_diagonal(errors, 0)
    rate = float(errors.sum(1).mean())
    most = 0.95 / max(float(errors.sum(1).max()), _SMALLEST)
    factors = np.unique([*np.linspace(0, 2, _STEPS), 1.0, *(share / rate for share in (0.005, 0.01, 0.02))])
    factors = factors[factors <= most]
    values, counts, deviations = np.array([_profiled(data, parameters, errors * factor) for factor in factors]).T
    likely = values <= values.min() + _DROP
    likely |= np.r_[likely[1:], False] | np.r_[False, likely[:-1]]  # The limit lies between two factors: keep both.
    undecided = ~data.decided
    ambiguous = float((1 - _softmax(_logits(data, parameters)[1]).max(0))[undecided].sum())
    chance = np.sqrt(4 * deviations**2 + (_MODEL_ERROR * counts) ** 2 + 4 * (1 - sampled) * counts)
    low = counts - np.sqrt(chance**2 + (_AMBIGUOUS_LOW * ambiguous) ** 2 + (_UNUSUAL * undecided.sum()) ** 2)
    high = counts + chance + _AMBIGUOUS_HIGH * ambiguous
    return max(0.0, float(low[likely].min())), float(high[likely].max())


def _profiled(data: _Data, parameters: np.ndarray, errors: np.ndarray) -> tuple[float, float, float]:
    """Return the loss, the expected number of wrong labels and its standard deviation.

    Args:
        data: The records of the fit.
        parameters: The parameters at the start of the fit.
        errors: f64[k k], the error rates in T. The diagonal is not used.
    """
    matrix = np.clip(errors, _SMALLEST, None)
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, 1 - matrix.sum(1))
    fitted = _minimize(lambda *given: _fixed_loss(*given)[:2], parameters[: data.size], data, _PROFILED, matrix)
    doubts = wrong(_posterior(_softmax(_logits(data, fitted.x)[1]), matrix, data).T, data.labels)
    return float(fitted.fun), float(doubts.sum()), float(np.sqrt((doubts * (1 - doubts)).sum()))
