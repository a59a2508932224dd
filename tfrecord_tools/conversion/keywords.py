"""List and check the keyword arguments of `tfrecord_tools.convert`."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from tfrecord_tools.base import options
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.base.options import Kind, Option


class ConvertSettings(TypedDict, total=False):
    """The fields of `convert.ConvertConfig` except `src` and `dry_run`, with the names of the flags."""

    out: StrPath
    work_dir: StrPath
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
    update_from: StrPath
    restart: bool
    relabel: StrPath
    decisions: StrPath


_REPEATED = ("split", "exclude")  # A comma in these does not separate values.
_EXAMPLES = {"depth_range": "'0,4095' or 'auto'"}
_KINDS: Mapping[Any, Kind] = {
    bool: "switch",
    int: "integer",
    float: "number",
    str: "text",
    StrPath: "path",
    Sequence[str]: "names",
}


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments of `tfrecord_tools.convert`, and convert them to the types that the flags have.

    Args:
        given: Name -> value, with `src`. None stands for an argument that is not given.

    Raises:
        TypeError: There is no argument of this name.
        UserError: A value has another type.
    """
    kinds = {name: _KINDS[hint] for name, hint in typing.get_type_hints(ConvertSettings).items()}
    kinds |= {"src": "path", **dict.fromkeys(_REPEATED, "texts")}
    table = [Option(name, kind, "", example=_EXAMPLES.get(name, "")) for name, kind in kinds.items()]
    return options.checked(table, given)
