"""Unusual records, and groups of them, from given neighbors."""

from __future__ import annotations

import time

import numpy as np

from trainers.auditing import outliers
from trainers.auditing.neighbors import COUNT, Neighbors


def given(rows: np.ndarray, similarities: np.ndarray) -> Neighbors:
    """Return neighbors without near-duplicates; the columns after the given ones are empty."""
    empty = ((0, 0), (0, COUNT - rows.shape[1]))
    return Neighbors(
        np.pad(rows, empty, constant_values=-1),
        np.pad(similarities.astype(np.float32), empty, constant_values=np.nan),
        np.zeros((0, 2), np.int64),
        np.zeros(0, np.float32),
        0.99,
    )


def test_a_record_without_neighbors_does_not_count_for_the_others():
    """As many records have no neighbor as have one: a distance of 0 would move the median."""
    similarities = np.full((40, 1), 0.5)
    similarities[0] = 0.1
    rows = np.roll(np.arange(40), 1)[:, None]
    similarities[20:], rows[20:] = np.nan, -1
    scores = outliers.off_topic(given(rows, similarities))
    assert (scores[20:] == 0).all()
    assert (scores[1:20] == 0).all()
    assert scores[0] > 0.9


def drawn(groups: int, lonely: int, label_of_lonely: int) -> tuple[Neighbors, np.ndarray]:
    """Draw triples of similar records of a class, each 0.3 from a record that is in no group, and others.

    The first triple is far: at the distance 0.9. Lonely records have neighbors of another class only.
    """
    first = 3 * np.repeat(np.arange(groups), 3)
    own = np.arange(3 * groups)
    rows = np.stack([first + (own + 1) % 3, first + (own + 2) % 3, np.roll(own, -3)], axis=1)
    similarities = np.tile([0.95, 0.95, 0.7], (3 * groups, 1))
    similarities[:3, 2] = 0.1
    labels = np.zeros(3 * groups + lonely, np.int64)
    labels[3 * groups :] = label_of_lonely
    rows = np.concatenate([rows, np.tile([0, 1, 2], (lonely, 1))])
    similarities = np.concatenate([similarities, np.full((lonely, 3), 0.2)])
    return given(rows, similarities), labels


def test_a_far_group_is_found_even_if_most_records_of_the_class_have_no_neighbor_of_it():
    near, _ = drawn(30, 0, 0)
    lonely = np.full((200, COUNT), -1)
    near = Neighbors(
        np.concatenate([near.rows, lonely]),
        np.concatenate([near.similarities, np.full(lonely.shape, np.nan, np.float32)]),
        near.pairs,
        near.pair_similarities,
        near.threshold,
    )
    found = outliers.rare_groups(near, np.zeros(290, np.int64))
    assert found[0].rows.tolist() == [0, 1, 2]
    assert found[0].score > 0.8
    assert all(group.score == 0 for group in found[1:])


def test_groups_have_at_least_three_records_and_at_most_a_twentieth_of_the_class():
    near, labels = drawn(30, 5, 1)
    assert {len(group.rows) for group in outliers.rare_groups(near, labels)} == {3}
    near, labels = drawn(19, 0, 0)  # 57 records: a twentieth is less than three.
    assert outliers.rare_groups(near, labels) == []


def test_many_groups_take_little_time():
    near, labels = drawn(50_000, 1_000, 1)
    began = time.process_time()
    found = outliers.rare_groups(near, labels)
    assert time.process_time() - began < 20  # A loop over all records for each group takes minutes.
    assert len(found) == 50_000
    assert found[0].rows.tolist() == [0, 1, 2]
