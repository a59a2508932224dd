"""The keyword arguments of `tfrecord_tools.convert`, for editors and type checkers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from tfrecord_tools.base.files import StrPath


class ConvertSettings(TypedDict, total=False):
    """The fields of `convert.ConvertConfig` except `src` and `dry_run`, with the names of the flags."""

    out: StrPath
    classes: Sequence[str]
    label_regex: str
    group_regex: str
    split: Sequence[str]
    exclude: Sequence[str]
    zip_encoding: str
    manifest: StrPath
    path_column: str
    label_column: str
    split_column: str
    group_column: str
    label_columns: Sequence[str]
    manifest_encoding: str
    new_classes: Sequence[str]
    validation_fraction: float
    test_fraction: float
    seed: int
    shards: int
    shard_bytes: int
    max_bad: float
    duplicates: str
    near_duplicates: str
    near_distance: int
    on_bad_image: str
    verify: str
    max_pixels: int
    store: str
    resize: int
    resize_mode: str
    upscale: bool
    quality: int
    depth_range: str
    strip_metadata: bool
    engine: str
    workers: int
    beam_options: str
    dask: str
    overwrite: bool
    update: bool
    restart: bool
    relabel: StrPath
    decisions: StrPath
