"""The options of commands that read a dataset: where copies of records from a bucket are kept."""

from __future__ import annotations

from tfrecord_tools.base.options import Option

CACHE_DIR = Option(
    "cache_dir",
    "path",
    "Directory on this machine for copies of records, if the dataset is in a bucket (s3://, gs://, https://), and for"
    " the positions of the records of large datasets. Several commands may use the same directory at the same time."
    " Default: ~/.cache/tfrecord_tools; for the positions, the directory of the dataset.",
)
CACHE_BYTES = Option(
    "cache_bytes",
    "integer",
    "Largest size of the records in the cache directory (--cache_dir), in bytes. Records that are needed last are"
    " removed first. Default: 80 % of the free disk space.",
)
OPTIONS = (CACHE_DIR, CACHE_BYTES)
