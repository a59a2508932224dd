"""Divide records into folds, so that each record can be judged by a model that has not seen it.

A unit is a set of records that must stay in one fold, such as copies of an image.
"""

from __future__ import annotations

import numpy as np

from tfrecord_tools import order

# Constants in the hashes of `assign` and of `subset`, so that the hashes are independent of each other, of the
# converter's split and of `hold_out`.
_PURPOSE = 3
_SUBSET = 4


def assign(units: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Assign each record to a fold. The numbers of units of a class in two folds differ by at most one.

    Args:
        units: u64[n]. Records with equal values form a unit, which stays in one fold.
        labels: i64[n]. The label of the first record of a unit is the class of the unit.
        count: Number of folds. If there are fewer units, each unit is a fold.
        seed: Another seed gives other folds.

    Returns:
        i64[n], the number of each record's fold, from 0.
    """
    names, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    by_hash = np.argsort(order.hash64(seed, _PURPOSE, names), kind="stable")
    by_class = by_hash[np.argsort(labels[first][by_hash], kind="stable")]
    folds = np.empty(len(names), np.int64)
    folds[by_class] = np.arange(len(names)) % count  # The classes are dealt one after the other, like cards.
    return folds[inverse.reshape(-1)]


def joined(units: np.ndarray, pairs: np.ndarray, similarities: np.ndarray, most: int) -> np.ndarray:
    """Join the units of near-duplicates. The most similar near-duplicates are joined first.

    In a chain of near-duplicates, each picture looks like the next one, but the two ends look different. Without a
    limit, a chain could put most records into one unit.

    Args:
        units: u64[n]. Records with equal values always stay together, even if there are more than `most` of them.
        pairs: i64[m 2], rows of near-duplicates.
        similarities: f64[m], in 0..1.
        most: Two units are not joined if they have more records than this in total.

    Returns:
        i64[n], equal for records of the same unit.
    """
    _, rows = np.unique(units, return_inverse=True)
    rows = rows.reshape(-1)
    sizes = np.bincount(rows).tolist()
    roots = list(range(len(sizes)))

    def root(unit: int) -> int:
        while roots[unit] != unit:
            roots[unit] = roots[roots[unit]]
            unit = roots[unit]
        return unit

    for left, right in _strongest(rows[pairs], similarities, len(sizes)).tolist():
        smaller, larger = sorted((root(left), root(right)), key=sizes.__getitem__)
        if smaller != larger and sizes[smaller] + sizes[larger] <= most:
            roots[smaller] = larger
            sizes[larger] += sizes[smaller]
    return np.array([root(unit) for unit in range(len(roots))])[rows]


def _strongest(edges: np.ndarray, similarities: np.ndarray, count: int) -> np.ndarray:
    """Return the edges of the spanning forest with the largest similarities, the most similar first.

    The forest has fewer edges than nodes. The graph may have hundreds of edges per node.

    Args:
        edges: i64[m 2], numbers of nodes.
        similarities: f64[m], in 0..1.
        count: Number of nodes.
    """
    from scipy.sparse import coo_array, csgraph  # Imported late, because the import changes the warning filters.

    by_similarity = np.argsort(-similarities, kind="stable")
    edges, similarities = np.sort(edges, axis=1)[by_similarity], similarities[by_similarity]
    _, first = np.unique(edges[:, 0] * count + edges[:, 1], return_index=True)  # A sparse matrix adds equal edges up.
    first = first[edges[first, 0] != edges[first, 1]]
    lengths = 2 - similarities[first]  # Always above 0, because a sparse matrix leaves out edges of length 0.
    graph = coo_array((lengths, (edges[first, 0], edges[first, 1])), shape=(count, count))
    tree = csgraph.minimum_spanning_tree(graph).tocoo()
    by_length = np.argsort(tree.data, kind="stable")
    return np.stack([tree.row, tree.col], axis=1)[by_length].astype(np.int64)


def subset(labels: np.ndarray, most: int) -> np.ndarray:
    """Choose records at random: the same share of each class, and at least one record of each class.

    Args:
        labels: i64[n].
        most: Number of records to choose. Shares are rounded up, so at most one more record per class is chosen. If
            there are not more than `most` records, all are chosen.

    Returns:
        i64[m], rows in ascending order. The same labels give the same rows.
    """
    count = len(labels)
    if count <= most:
        return np.arange(count)
    by_hash = np.argsort(order.hash64(_SUBSET, np.arange(count)), kind="stable")
    by_class = by_hash[np.argsort(labels[by_hash], kind="stable")]
    sizes = np.bincount(labels)
    positions = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # Positions within each class.
    return np.sort(by_class[positions < np.ceil(sizes * (most / count))[labels[by_class]]])
