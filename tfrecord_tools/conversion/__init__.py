"""From sources to shards: survey, plan, write, commit; on this machine, on Beam or on Dask."""
