"""Describe the dataset that a `Plan` creates, for the metadata files."""

from __future__ import annotations

import numpy as np

from tfrecord_tools.conversion.plan import Plan
from tfrecord_tools.layout.metadata import Description


def describe(plan: Plan) -> Description:
    """Return the description of the dataset that this plan creates, for its metadata files."""
    counts = plan.counts()
    shards = {split: [s for s in plan.shards if s.split == split] for split in counts}
    return Description(
        name=plan.name,
        class_names=plan.class_names,
        config=plan.config,
        digest=plan.digest,
        counts=counts,
        shards={split: np.array([s.stop - s.start for s in cut]) for split, cut in shards.items()},
        split_bytes={split: int(plan.rows.lengths[cut[0].start : cut[-1].stop].sum()) for split, cut in shards.items()},
        rejected=plan.rejected,
    )
