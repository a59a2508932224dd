"""Find records that are unlike the others: off-topic images, rare groups, and images of low quality."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from trainers.auditing.neighbors import Neighbors

# A value that is this many robust standard deviations above the median gets the score 0.5 (Iglewicz and Hoaglin, 1993).
_UNUSUAL = 3.5
_NORMAL_MAD = 1.4826  # Standard deviation of a normal distribution with a median absolute deviation of 1.
_GROUP_NEIGHBORS = 5  # A record can only be connected with this number of its nearest neighbors.
_SMALLEST_GROUP = 3  # Minimum number of records in a group.
_LARGEST_GROUP = 0.05  # Maximum size of a group, as a share of the records of its class.


def unusual(values: np.ndarray, least_spread: float) -> np.ndarray:
    """Score how unusually large each value is, f64[n] in 0..1.

    A value that is 3.5 robust standard deviations above the median gets the score 0.5. A value at the median or less
    gets 0.

    Args:
        values: f64[n]. For NaN, the score is 0.
        least_spread: A smaller standard deviation is replaced by this number. It has the unit of the values.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return np.zeros(len(values))
    middle = np.median(known)
    spread = max(_NORMAL_MAD * float(np.median(np.abs(known - middle))), least_spread)
    distance = np.clip(np.nan_to_num((values - middle) / spread), 0, None)
    return np.asarray(distance / (distance + _UNUSUAL))


def off_topic(near: Neighbors) -> np.ndarray:
    """Return scores f64[n]: how far each record is from its nearest neighbors.

    The distance is the mean of 1 - cosine over up to 30 neighbors. Near-duplicates are not neighbors. Otherwise several
    off-topic images that are nearly equal would be close to each other, and would not be found. A record without any
    neighbor gets 0, and is not used for the scores of the others.
    """
    known = np.isfinite(near.similarities)
    distances = np.where(known, 1 - near.similarities.astype(np.float64), 0).sum(1)
    counts = known.sum(1)
    return unusual(np.where(counts, distances / np.maximum(counts, 1), np.nan), least_spread=0.01)


@dataclasses.dataclass(frozen=True)
class Group:
    """Similar records that are far from the rest of their class.

    Attributes:
        rows: i64[m], the records.
        score: 0..1. 0.5 means that the group is 3.5 robust standard deviations farther away than usual.
    """

    rows: np.ndarray
    score: float


def rare_groups(near: Neighbors, labels: np.ndarray) -> list[Group]:
    """Return groups of similar records that are far from the rest of their class, the worst first.

    Two records of a class are connected if each is among the five nearest neighbors (of this class) of the other. A
    group is a connected part of a class with at least three records, and with at most 5 % of the records of the class.
    For each record, the distance to the nearest record of its class outside of its part is scored. The score of a group
    is the mean of the scores of its records.
    """
    same = (near.rows >= 0) & (labels[near.rows] == labels[:, None])
    parts = _parts(near, same)
    distances = _distances(near, same, parts)
    scores = np.zeros(len(labels))
    for rows in _grouped(labels, np.arange(len(labels))):
        scores[rows] = unusual(distances[rows], least_spread=0.01)
    sizes, most = np.bincount(parts)[parts], _LARGEST_GROUP * np.bincount(labels)[labels]
    members = np.flatnonzero((sizes >= _SMALLEST_GROUP) & (sizes <= most))
    groups = [Group(rows, float(scores[rows].mean())) for rows in _grouped(parts, members)]
    return sorted(groups, key=lambda group: -group.score)


def _grouped(values: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Divide rows i64[m] into parts with equal values. If the rows ascend, those of each part ascend, too."""
    ordered = rows[np.argsort(values[rows], kind="stable")]
    parts = np.split(ordered, np.flatnonzero(np.diff(values[ordered])) + 1)
    return [part for part in parts if len(part)]


def _parts(near: Neighbors, same: np.ndarray) -> np.ndarray:
    """Return the number of the connected part that each record belongs to, i64[n].

    Args:
        near: The nearest records.
        same: bool[n COUNT], whether a neighbor has the class of the record.
    """
    from scipy.sparse import csgraph, csr_matrix  # Imported late, because the import changes the warning filters.

    left, position = np.nonzero(same & (np.cumsum(same, axis=1) <= _GROUP_NEIGHBORS))
    shape = (len(same), len(same))
    edges = csr_matrix((np.ones(len(left), np.int8), (left, near.rows[left, position])), shape)
    return np.asarray(csgraph.connected_components(edges.multiply(edges.T), directed=False)[1])


def _distances(near: Neighbors, same: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the distance f64[n] of each record to the nearest record of its class outside of its part.

    If all known neighbors of the same class are in the part, the distance to the farthest of them is returned, because
    all other records of the class are at least as far away. If no neighbor has the same class, the distance is NaN.
    """
    outside = same & (parts[near.rows] != parts[:, None])
    nearest = np.where(outside, near.similarities, -1).max(1)
    farthest = np.where(same, near.similarities, 1).min(1)
    similarities = np.where(outside.any(1), nearest, np.where(same.any(1), farthest, np.nan))
    return np.asarray(1 - similarities.astype(np.float64))


# For each bad quality: the words for it, the name of the fact, the sign that makes bad values large, and `least_spread`
# of `unusual`.
_QUALITIES = (
    ("very dark (brightness {value:.0f} of 255)", "brightness", -1, 8.0),
    ("very bright (brightness {value:.0f} of 255)", "brightness", 1, 8.0),
    ("almost without contrast (standard deviation {value:.1f} gray levels)", "contrast", -1, 4.0),
    ("blurry (sharpness {value:.2f})", "sharpness", -1, 0.05),
    ("mostly of one brightness ({value:.0%} of the area)", "flat_share", 1, 0.1),
    ("small (shorter side {value:.0f} px)", "shorter_side", -1, 8.0),
)


def low_quality(facts: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """Return scores f64[n], and a text about the worst quality of each record.

    Args:
        facts: brightness, contrast, sharpness, flat_share and shorter_side, f64[n] each. NaN means unknown.
    """
    scores = np.stack(
        [unusual(sign * facts[name].astype(np.float64), least) for _, name, sign, least in _QUALITIES], axis=1
    )
    worst = scores.argmax(1)
    texts = [(text, facts[name]) for text, name, _, _ in _QUALITIES]
    words = [
        texts[quality][0].format(value=float(texts[quality][1][row])) if scores[row, quality] > 0 else ""
        for row, quality in enumerate(worst.tolist())
    ]
    return scores.max(1), words
