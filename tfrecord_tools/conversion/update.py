"""The dataset that `convert --update` starts from."""

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
    "changes", "findings", "lowest", "highest",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Base:
    """A dataset with what is known of its images: facts, survey.FACT[n], size and mtime left out.

    `verified` says how they were proven: "full" or "header"; `relabelled`, whether some have other labels than in the
    source.
    """

    previous: Previous
    facts: np.ndarray
    config: dict[str, Any]
    digest: str
    verified: str
    relabelled: bool

    def known(self, paths: Sequence[str]) -> np.ndarray:
        """Returns FACT[len(paths)], zeros where a path is new."""
        rows = self.previous.rows(paths)
        known = np.zeros(len(paths), FACT)
        known[rows >= 0] = self.facts[rows[rows >= 0]]
        return known


def read(directory: Path) -> Base:
    """Reads the dataset in `directory`.

    Raises:
        UserError: There is none, or another version of this tool made it in another way.
    """
    if not (directory / dataset_files.CONVERT_JSON).exists():
        raise UserError(f"--update: there is no dataset in {directory} to update. Leave the flag out to make one.")
    facts = dataset_files.read(directory)
    if facts["config"].get("adopted"):
        raise UserError(
            f"--update: {directory} was adopted, not converted: its records are somebody else's. Adopt them again with"
            " python -m tfrecord_tools.adopt --overwrite."
        )
    if facts["config"].get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{directory} was made by another version of this tool, in format {facts['config'].get('format_version')};"
            f" this one writes {FORMAT_VERSION}. Convert it anew with --overwrite."
        )
    table = index.read(directory / index.FILE_NAME, _COLUMNS)
    splits = np.array([SPLITS.index(name) for name in table.column("split").to_pylist()], np.int8)
    files = {
        (SPLITS.index(split), number): shard_name(facts["name"], split, number, of["shards"])
        for split, of in facts["splits"].items()
        for number in range(of["shards"])
    }
    rows = _facts(table)
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
    return Base(previous, rows, facts["config"], facts["digest"], facts["images"]["verified"], "relabelled" in facts)


def inherit_settings(config: Config, base: Base, explicit: Collection[str] = ()) -> Config:
    """Returns the config with the settings of the dataset where it has defaults, except those that are `explicit`.

    Raises:
        UserError: A setting is given, and another one than then: new records would be of another form than the old.
    """
    inherited = {}
    for field in dataclasses.fields(config):
        if field.name not in base.config:
            continue
        given, old = getattr(config, field.name), base.config[field.name]
        if given != old and (given != field.default or field.name in explicit):
            raise UserError(
                f"--update: --{field.name} was {old!r} for {base.previous.directory} and is {given!r} now."
                " Leave the flag out, or convert anew with --overwrite."
            )
        inherited[field.name] = old
    if base.config["repair"] and config.on_bad_image == "skip":
        inherited["on_bad_image"] = "repair"
    return dataclasses.replace(config, **inherited)


def _facts(table: Any) -> np.ndarray:
    rows = np.zeros(len(table), FACT)
    for name in ("bytes", "height", "width", "lowest", "highest"):
        rows[name] = table.column(name).to_numpy()
    for name in ("sha256", "source_sha256"):
        rows[name] = index.hashes(table, name)
    for name in ("type", "source_type"):
        rows[name] = [TYPES.index(value) for value in table.column(name).to_pylist()]
    rows["changes"] = [change_bits(filter(None, value.split(","))) for value in table.column("changes").to_pylist()]
    rows["findings"] = [findings.bits(filter(None, value.split(","))) for value in table.column("findings").to_pylist()]
    return rows
