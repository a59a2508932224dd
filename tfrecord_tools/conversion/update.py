"""Read the dataset that `convert --update` updates, and take over its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tfrecord_tools.conversion.plan import FORMAT_VERSION
from tfrecord_tools.conversion.previous import Previous
from tfrecord_tools.conversion.survey import FACT, TYPES, change_bits
from tfrecord_tools.errors import UserError
from tfrecord_tools.images.preparation import ImageConfig
from tfrecord_tools.layout import dataset_files, findings, index
from tfrecord_tools.layout.dataset_files import shard_name
from tfrecord_tools.layout.split_names import SPLITS

Config = TypeVar("Config", bound=ImageConfig)
_COLUMNS = (
    "split", "shard", "label", "path", "sha256", "bytes", "type", "height", "width", "source_sha256", "source_type",
    "changes", "findings", "lowest", "highest", *index.LOOK,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Base:
    """The dataset that is updated.

    Attributes:
        previous: The records.
        facts: survey.FACT[n], the facts of the images, without size and mtime.
        config: The settings in convert.json.
        digest: The digest of the plan.
        verified: How the images were verified: "full" or "header".
        relabeled: Whether some labels differ from those of the source, but convert.json does not list which ones.
            Earlier releases wrote such datasets.
    """

    previous: Previous
    facts: np.ndarray
    config: dict[str, Any]
    digest: str
    verified: str
    relabeled: bool

    def known(self, paths: Sequence[str]) -> np.ndarray:
        """Return the facts of these paths, FACT[len(paths)]; zeros where a path is new."""
        rows = self.previous.rows(paths)
        known = np.zeros(len(paths), FACT)
        known[rows >= 0] = self.facts[rows[rows >= 0]]
        return known


def read(directory: Path) -> Base:
    """Read the dataset in `directory`.

    Raises:
        UserError: The dataset does not exist, was adopted, or has another format version.
    """
    if not (directory / dataset_files.CONVERT_JSON).exists():
        raise UserError(f"--update: there is no dataset in {directory} to update. Remove --update to create one.")
    facts = dataset_files.read(directory)
    if facts["config"].get("adopted"):
        raise UserError(
            f"--update: {directory} was adopted, not converted, so another tool wrote its records. Adopt them again"
            " with python -m tfrecord_tools.adopt --overwrite."
        )
    if facts["config"].get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"--update: {directory} has format version {facts['config'].get('format_version')}, but this version of the"
            f" tool writes format version {FORMAT_VERSION}. Convert again with --overwrite instead of --update."
        )
    table = index.read(directory / index.FILE_NAME, _COLUMNS)
    splits = np.array([SPLITS.index(name) for name in table.column("split").to_pylist()], np.int8)
    files = {
        (SPLITS.index(split), number): shard_name(facts["name"], split, number, entry["shards"])
        for split, entry in facts["splits"].items()
        for number in range(entry["shards"])
    }
    rows = _facts(table)
    relabeled = "relabelled" in facts and "decisions" not in facts
    previous = Previous(
        directory=directory,
        class_names=tuple(c["name"] for c in facts["classes"]),
        paths=table.column("path").to_pylist(),
        source_sha256=rows["source_sha256"],
        labels=table.column("label").to_numpy().astype(np.int32),
        splits=splits,
        shards=table.column("shard").to_numpy(),
        files=files,
    )
    return Base(previous, rows, facts["config"], facts["digest"], facts["images"]["verified"], relabeled)


def inherit_settings(config: Config, base: Base, explicit: Collection[str] = ()) -> Config:
    """Replace default settings with those of the dataset, so that all records have the same settings.

    Args:
        config: The settings of this run.
        base: The dataset that is updated.
        explicit: Names of the settings that the user gave, including settings with the default value.

    Returns:
        The settings for the update.

    Raises:
        UserError: The user gave a setting that differs from the dataset's.
    """
    inherited = {}
    settings = {"near_duplicates": "keep"} | base.config  # convert.json does not have the default "keep".
    for field in dataclasses.fields(config):
        if field.name not in settings:
            continue
        given, old = getattr(config, field.name), settings[field.name]
        if given != old and (given != field.default or field.name in explicit):
            raise UserError(
                f"--update: --{field.name} was {old!r} for {base.previous.directory} and is {given!r} now. Remove"
                f" --{field.name}, or convert again with --overwrite."
            )
        inherited[field.name] = old
    if base.config["repair"] and config.on_bad_image == "skip":
        inherited["on_bad_image"] = "repair"
    return dataclasses.replace(config, **inherited)


def _facts(table: Any) -> np.ndarray:
    rows = np.zeros(len(table), FACT)
    for name in ("bytes", "height", "width", "lowest", "highest", *index.LOOK[:-1]):
        rows[name] = table.column(name).to_numpy()
    rows["gray"] = table.column("gray").fill_null(False).to_numpy()
    for name in ("sha256", "source_sha256"):
        rows[name] = index.hashes(table, name)
    for name in ("type", "source_type"):
        rows[name] = [TYPES.index(value) for value in table.column(name).to_pylist()]
    rows["changes"] = [change_bits(filter(None, value.split(","))) for value in table.column("changes").to_pylist()]
    rows["findings"] = [findings.bits(filter(None, value.split(","))) for value in table.column("findings").to_pylist()]
    return rows
