"""The files next to the shards: convert.json, CSV files, and metadata for TensorFlow Datasets."""

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
VERSION = "1.0.0"  # TensorFlow Datasets needs a version. The digest identifies a dataset.
_FEATURES = "tensorflow_datasets.core.features"
_IMAGE_FEATURE = {
    "image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}},
    "pythonClassName": f"{_FEATURES}.image_feature.Image",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """The facts about a converted or adopted dataset that `write` stores.

    Attributes:
        name: Name of the dataset: the start of the file names of its shards.
        class_names: Class names. A label is an index into this tuple.
        config: The settings that the output depends on.
        digest: Digest in hexadecimal.
        counts: Split -> i64[classes], records of each class.
        shards: Split -> i64[shards], records in each file, including those left out of the dataset.
        split_bytes: Split -> total bytes of the serialized examples.
        rejected: Files that were left out or repaired, with reasons.
        keys: Names of the features in the examples.
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
    """Write all these files, each atomically.

    Args:
        directory: Directory of the dataset, with the index in it.
        described: The dataset.
        report: Further keys of `convert.json`.
    """
    tabular.write_csv(directory / "rejected.csv", _REJECTED_COLUMNS, map(dataclasses.asdict, described.rejected))
    changed = (dict(zip(CHANGED_COLUMNS, row)) for row in changed_rows(directory / index.FILE_NAME))
    tabular.write_csv(directory / CHANGED, CHANGED_COLUMNS, changed)
    contents = {
        **tfds_files(described),
        CONVERT_JSON: _json({**summary(described), **report}),  # Written last: this file marks a complete dataset.
    }
    for name, text in contents.items():
        with files.atomic(directory / name) as file:
            file.write(text.encode())


def tfds_files(described: Description, file_format: str = "tfrecord") -> dict[str, str]:
    """Return name -> text of the files that TensorFlow Datasets reads.

    Args:
        described: The dataset. Only names, keys, config, shards and bytes are used.
        file_format: TensorFlow Datasets' name of the format of the shards.
    """
    return {
        "features.json": _json(_features(described)),
        "dataset_info.json": _json(_dataset_info(described, file_format)),
        labels_file(described.keys): "".join(f"{name}\n" for name in stored_names(described)),
    }


def changed_rows(index_path: Path) -> Iterator[list[str]]:
    """Yield the rows of `changed.csv`: all records that are not stored byte for byte."""
    columns = ["path", "source_type", "type", "changes", "findings"]
    for group in range(index.groups(index_path)):
        table = index.read_group(index_path, group, columns)
        changed = np.array(list(map(bool, table.column("changes").to_pylist())), bool)
        for row in table.take(np.flatnonzero(changed)).to_pylist():
            *values, kinds = (row[name] for name in columns)
            yield [*values, findings.lost(filter(None, kinds.split(",")))]


def summary(described: Description) -> ConvertJson:
    """Return the content of `convert.json`, which is the same for two runs of the same command."""
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
    import PIL  # Imported here: modules that only import this one do not need Pillow.

    versions: Versions = {
        "tfrecord_tools": tfrecord_tools.__version__,
        "pillow": PIL.__version__,  # Pillow decides which images are valid.
        "pyarrow": importlib.metadata.version("pyarrow"),  # The bytes of the index depend on it.
    }
    return cast(ConvertJson, {**first, "versions": versions})


def labels_file(keys: Keys) -> str:
    """Return TensorFlow Datasets' name of the file with the class names."""
    return f"{keys.label.replace('/', '.')}.labels.txt"


def stored_names(described: Description) -> list[str]:
    """Return a name for each stored label. Labels below that of the first class are `(unused N)`."""
    return [f"(unused {label})" for label in range(described.keys.label_offset)] + list(described.class_names)


def _features(described: Description) -> dict[str, Any]:
    """Return the `FeaturesDict` of `tfds.features`, as its `to_json` writes it."""
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


def _dataset_info(described: Description, file_format: str) -> dict[str, Any]:
    """Return the protobuf `DatasetInfo` of TensorFlow Datasets as JSON, with int64 values as strings."""
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
        "fileFormat": file_format,
        "name": described.name,
        "version": VERSION,
        "supervisedKeys": {"tuple": {"items": items}},
        "splits": splits,
    }


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
