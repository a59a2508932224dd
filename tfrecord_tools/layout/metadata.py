"""The files beside the shards: what TensorFlow Datasets reads, what was rejected, what was done."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

import tfrecord_tools
from tfrecord_tools.base import files, tabular
from tfrecord_tools.layout import findings, index, schema
from tfrecord_tools.layout.dataset_files import (
    CONVERT_JSON,
    ConvertJson,
    Counts,
    Rejected,
    Report,
    Versions,
    class_entry,
)
from tfrecord_tools.layout.schema import Keys

CHANGED = "changed.csv"
_REJECTED_COLUMNS = ("path", "reason", "done")
CHANGED_COLUMNS = ("path", "found", "stored", "changes", "lost")
VERSION = "1.0.0"  # TensorFlow Datasets asks for one; a dataset of ours is told apart by its digest.
_FEATURES = "tensorflow_datasets.core.features"
_IMAGE_FEATURE = {
    "image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}},
    "pythonClassName": f"{_FEATURES}.image_feature.Image",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What these files say of a dataset, converted or adopted.

    Attributes:
        name: As in `Plan`; likewise the next three.
        class_names: A label is an index into it.
        config: What the output depends on.
        digest: Hex.
        counts: Split -> i64[classes], records of each class.
        shards: Split -> i64[shards], records that are in each file, be they left out of the dataset or not.
        split_bytes: Split -> bytes of their serialized examples.
        rejected: What was left out, and why.
        keys: Under which names the examples hold what.
    """

    name: str
    class_names: tuple[str, ...]
    config: Mapping[str, Any]
    digest: str
    counts: Mapping[str, np.ndarray]
    shards: Mapping[str, np.ndarray]
    split_bytes: Mapping[str, int]
    rejected: Sequence[Rejected]
    keys: Keys = schema.OURS


def write(directory: Path, described: Description, report: Report) -> None:
    """Writes all of them, each whole or not at all.

    Args:
        directory: Where to; the index is there already.
        described: The dataset.
        report: What else `convert.json` says.
    """
    tabular.write_csv(directory / "rejected.csv", _REJECTED_COLUMNS, map(dataclasses.asdict, described.rejected))
    changed = (dict(zip(CHANGED_COLUMNS, row)) for row in changed_rows(directory / index.FILE_NAME))
    tabular.write_csv(directory / CHANGED, CHANGED_COLUMNS, changed)
    contents = {
        "features.json": _json(_features(described)),
        "dataset_info.json": _json(_dataset_info(described)),
        labels_file(described.keys): "".join(f"{name}\n" for name in stored_names(described)),
        CONVERT_JSON: _json({**summary(described), **report}),  # Last: readers take a directory with it for whole.
    }
    for name, text in contents.items():
        with files.atomic(directory / name) as file:
            file.write(text.encode())


def changed_rows(index_path: Path) -> Iterator[list[str]]:
    """Yields the rows of `changed.csv`: of each record whose bytes are not those of its file, in the index's order."""
    columns = ["path", "source_type", "type", "changes", "findings"]
    for group in range(index.groups(index_path)):
        table = index.read_group(index_path, group, columns)
        changed = np.array(list(map(bool, table.column("changes").to_pylist())), bool)
        for row in table.take(np.flatnonzero(changed)).to_pylist():
            *known, kinds = (row[name] for name in columns)
            yield [*known, findings.lost(filter(None, kinds.split(",")))]


def summary(described: Description) -> ConvertJson:
    """What `convert.json` says: nothing in it differs between two runs of the same command."""
    counts, records = described.counts, sum(int(row.sum()) for row in described.counts.values())
    frames = sum(int(shards.sum()) for shards in described.shards.values()) * schema.FRAME_BYTES
    first: Counts = {
        "digest": described.digest,
        "name": described.name,
        "config": dict(described.config),
        "classes": [
            class_entry(label, name, {split: int(row[label]) for split, row in counts.items()})
            for label, name in enumerate(described.class_names)
        ],
        "splits": {
            split: {"records": int(row.sum()), "shards": len(described.shards[split])} for split, row in counts.items()
        },
        "records": records,
        "bytes": sum(described.split_bytes.values()) + frames,
        "rejected": sum(r.done != "repaired" for r in described.rejected),
    }
    if described.keys != schema.OURS:
        keys = described.keys
        first["keys"] = {
            "image": keys.image,
            "label": keys.label,
            "path": keys.path,
            "label_offset": keys.label_offset,
        }
    import PIL  # Here: what only reads this module needs no Pillow.

    versions: Versions = {
        "tfrecord_tools": tfrecord_tools.__version__,
        "pillow": PIL.__version__,  # Decides which images are valid.
        "pyarrow": importlib.metadata.version("pyarrow"),  # Decides the bytes of the index.
    }
    return cast(ConvertJson, {**first, "versions": versions})


def labels_file(keys: Keys) -> str:
    """The name that TensorFlow Datasets gives to the file of the labels' names."""
    return f"{keys.label.replace('/', '.')}.labels.txt"


def stored_names(described: Description) -> list[str]:
    """A name for each label as it is stored: those below the first class have none, but count."""
    return [f"(unused {label})" for label in range(described.keys.label_offset)] + list(described.class_names)


def _features(described: Description) -> dict[str, Any]:
    """The `FeaturesDict` of `tfds.features`, as its `to_json` gives it."""
    config, keys = described.config, described.keys
    features = {keys.image: _raw_feature(config["resize"]) if config.get("store") == "raw" else _IMAGE_FEATURE}
    if keys.path:
        features[keys.path] = {"text": {}, "pythonClassName": f"{_FEATURES}.text_feature.Text"}
    features[keys.label] = {
        "classLabel": {"numClasses": str(len(stored_names(described)))},
        "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
    }
    return {
        "featuresDict": {"features": features},
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
    }


def _raw_feature(side: int) -> dict[str, Any]:
    tensor = {"shape": {"dimensions": [str(side), str(side), "3"]}, "dtype": "uint8", "encoding": "bytes"}
    return {"tensor": tensor, "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor"}


def _dataset_info(described: Description) -> dict[str, Any]:
    """The protobuf `DatasetInfo` of TensorFlow Datasets as JSON; its int64 are strings."""
    splits = [
        {
            "name": split,
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "numBytes": str(described.split_bytes[split]),
            "shardLengths": [str(length) for length in shards],
        }
        for split, shards in described.shards.items()
    ]
    items = [{"featureKey": described.keys.image}, {"featureKey": described.keys.label}]
    return {
        "fileFormat": "tfrecord",
        "name": described.name,
        "version": VERSION,
        "supervisedKeys": {"tuple": {"items": items}},
        "splits": splits,
    }


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
