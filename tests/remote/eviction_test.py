"""Tests of the choice of what leaves a full cache."""

from __future__ import annotations

import numpy as np
import pytest

from tfrecord_tools.remote import eviction

CACHED = np.array([50, 10, 90, 30])  # Number of reads before each of four records of 10 bytes in the cache.


@pytest.mark.parametrize(
    ("distance", "missing", "spare", "removed"),
    [
        ([5], [10], 0, [2]),  # The record that is needed last.
        ([5], [-3], 0, []),  # There is room.
        ([5, 20], [10, 20], 0, [2, 0]),
        ([5, 60], [10, 20], 0, [2]),  # The second record would need one that is needed earlier than itself.
        ([95], [10], 0, []),  # The record itself is needed last.
        ([5], [10], 15, [2, 0, 3]),  # More room than is needed, for the next time.
        ([40], [10], 100, [2, 0]),  # Nothing is removed that is needed earlier.
        ([1, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 60], 0, [2, 0, 3, 1]),  # All that is there.
    ],
)
def test_what_is_needed_last_is_removed(
    distance: list[int], missing: list[int], spare: int, removed: list[int]
) -> None:
    sizes = np.full(len(CACHED), 10)
    found = eviction.choose(np.array(distance), np.array(missing), CACHED, sizes, spare)
    assert found.tolist() == removed
