"""Read the dataset that `convert --update` updates, and take over its settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tfrecord_tools.base import files
from tfrecord_tools.conversion.bucket_objects import PATIENCE
from tfrecord_tools.conversion.plan import FORMAT_VERSION
from tfrecord_tools.conversion.previous import Previous
from tfrecord_tools.conversion.survey import FACT, TYPES, change_bits
from tfrecord_tools.errors import UserError
from tfrecord_tools.images.preparation import ImageConfig
from tfrecord_tools.layout import dataset_files, findings, index
from tfrecord_tools.layout.dataset_files import shard_name
from tfrecord_tools.layout.split_names import SPLITS
from tfrecord_tools.remote import opening, whole
from tfrecord_tools.remote import store as stores
from tfrecord_tools.remote.interface import SHORT, Missing, Object

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
        flag: "--update" if the dataset is replaced, "--update_from" if a new one is written.
    """

    previous: Previous
    facts: np.ndarray
    config: dict[str, Any]
    digest: str
    verified: str
    relabeled: bool
    flag: str = "--update"

    @property
    def without_update(self) -> str:
        """Advice for messages: how a user converts all images again, without an update."""
        return "convert again with --overwrite" if self.flag == "--update" else f"convert without {self.flag}"

    def known(self, paths: Sequence[str]) -> np.ndarray:
        """Return the facts of these paths, FACT[len(paths)]; zeros where a path is new."""
        rows = self.previous.rows(paths)
        known = np.zeros(len(paths), FACT)
        known[rows >= 0] = self.facts[rows[rows >= 0]]
        return known


def local_copy(address: str, directory: Path) -> tuple[Path, Mapping[str, Object]]:
    """Return a directory on this machine with the small files of a dataset, and the dataset's objects.

    Args:
        address: Directory or URL of the dataset.
        directory: Directory for copies of both files, if the dataset is in a bucket. Copies of an earlier call are used
            again if both objects are the same versions.

    Returns:
        The directory, which holds `convert.json` and `records.parquet`; and file name -> version of the objects in the
        bucket, or nothing for a directory. All that is read later must be these versions.

    Raises:
        UserError: There is no dataset in the bucket, or the bucket cannot be read.
    """
    if not files.is_url(address):
        return Path(address), {}
    store = stores.open_store(address, SHORT)
    try:
        store.head(dataset_files.CONVERT_JSON)
        objects = opening.objects_of(store)
    except Missing as error:
        raise UserError(
            f"--update_from={address}: there is no dataset. Pass the URL of a dataset that convert has written."
        ) from error
    directory.mkdir(parents=True, exist_ok=True)
    copied = [objects[name] for name in (index.FILE_NAME, dataset_files.CONVERT_JSON)]
    versions, noted = directory / "versions.json", json.dumps([dataclasses.asdict(found) for found in copied]).encode()
    if not versions.exists() or versions.read_bytes() != noted:
        versions.unlink(missing_ok=True)
        for found in copied:
            with files.atomic(directory / found.path) as file:
                whole.fetch(stores.open_store(address, PATIENCE), found, file)
        with files.atomic(versions) as file:
            file.write(noted)
    return directory, objects


def read(directory: Path, address: str = "", flag: str = "--update") -> Base:
    """Read a dataset that is updated.

    Args:
        directory: Directory with `convert.json` and `records.parquet` of the dataset.
        address: Directory or URL of the dataset, for messages. "": `directory`.
        flag: "--update" to replace the dataset, or "--update_from" to write a new one.

    Raises:
        UserError: The dataset does not exist, was adopted, or has another format version.
    """
    address = address or str(directory)
    without_update = (
        "Convert again with --overwrite instead of --update" if flag == "--update" else f"Convert without {flag}"
    )
    if not (directory / dataset_files.CONVERT_JSON).exists():
        if flag == "--update":
            raise UserError(f"{flag}: there is no dataset in {address} to update. Remove {flag} to create one.")
        raise UserError(
            f"{flag}={address}: there is no dataset. Pass the directory or the URL of a dataset that convert has"
            " written."
        )
    facts = dataset_files.read(directory)
    if facts["config"].get("adopted"):
        raise UserError(
            f"{flag}: {address} was adopted, not converted, so another tool wrote its records. Adopt them again"
            " with python -m tfrecord_tools.adopt --overwrite."
        )
    if facts["config"].get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{flag}: {address} has format version {facts['config'].get('format_version')}, but this version of the"
            f" tool writes format version {FORMAT_VERSION}. {without_update}."
        )
    table = index.read(directory / index.FILE_NAME, _COLUMNS)
    splits = np.array([SPLITS.index(name) for name in table.column("split").to_pylist()], np.int8)
    shards = {
        (SPLITS.index(split), number): shard_name(facts["name"], split, number, entry["shards"])
        for split, entry in facts["splits"].items()
        for number in range(entry["shards"])
    }
    rows = _facts(table)
    relabeled = "relabelled" in facts and "decisions" not in facts
    previous = Previous(
        address=address,
        class_names=tuple(c["name"] for c in facts["classes"]),
        paths=table.column("path").to_pylist(),
        source_sha256=rows["source_sha256"],
        labels=table.column("label").to_numpy().astype(np.int32),
        splits=splits,
        shards=table.column("shard").to_numpy(),
        files=shards,
    )
    return Base(previous, rows, facts["config"], facts["digest"], facts["images"]["verified"], relabeled, flag)


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
                f"{base.flag}: --{field.name} was {old!r} for {base.previous.address} and is {given!r} now. Remove"
                f" --{field.name}, or {base.without_update}."
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
