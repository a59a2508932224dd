"""Choose what leaves a full cache: the records that are needed last (Belady 1966)."""

from __future__ import annotations

import numpy as np


def choose(
    distance: np.ndarray, missing: np.ndarray, victim_distance: np.ndarray, victim_bytes: np.ndarray, spare: int
) -> np.ndarray:
    """Return the indexes of records to remove, i64[m].

    Each of them is needed later than all records that are fetched instead.

    Args:
        distance: i64[k], number of reads before each record to fetch, in ascending order. At least one record.
        missing: i64[k], bytes that must become free to fetch this record and the ones before it. It may be negative.
        victim_distance: i64[n], number of reads before each record in the cache.
        victim_bytes: i64[n], their bytes.
        spare: Bytes that are made free beyond that, so that the choice is made less often.
    """
    far_first = np.argsort(-victim_distance, kind="stable")
    distances, gained = victim_distance[far_first], np.cumsum(victim_bytes[far_first])
    # The j-th record to fetch needs the first `count[j]` victims.
    count = np.minimum(np.searchsorted(gained, np.maximum(missing, 0)) + 1, len(distances))
    fetched = np.flatnonzero((distances[count - 1] > distance) | (missing <= 0))
    if not len(fetched) or missing[fetched[-1]] <= 0:
        return far_first[:0]
    last = fetched[-1]
    most = int(np.searchsorted(gained, missing[last] + spare)) + 1
    return far_first[:most][distances[:most] > distance[last]]
