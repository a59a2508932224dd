"""The files beside the shards: what TensorFlow Datasets reads, what was rejected, what was done."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL

import tfrecord_tools
from tfrecord_tools import files
from tfrecord_tools.plan import Plan

CONVERT_JSON = "convert.json"
VERSION = "1.0.0"  # TensorFlow Datasets asks for one; a dataset of ours is told apart by its digest.
_FEATURES = "tensorflow_datasets.core.features"
_IMAGE_FEATURE = {
    "image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}},
    "pythonClassName": f"{_FEATURES}.image_feature.Image",
}


def write(directory: Path, plan: Plan, report: Mapping[str, Any]) -> None:
    """Writes all of them, each whole or not at all; `report` is what else `convert.json` says."""
    contents = {
        "features.json": _json(_features(plan)),
        "dataset_info.json": _json(_dataset_info(plan)),
        "label.labels.txt": "".join(f"{name}\n" for name in plan.class_names),
        "rejected.csv": _rejected(plan),
        CONVERT_JSON: _json({**summary(plan), **report}),
    }
    for name, text in contents.items():
        with files.atomic(directory / name) as file:
            file.write(text.encode())


def read(directory: Path) -> dict[str, Any]:
    """Returns what `convert.json` says of the dataset in `directory`."""
    contents: dict[str, Any] = json.loads((directory / CONVERT_JSON).read_text("utf-8"))
    return contents


def summary(plan: Plan) -> dict[str, Any]:
    """What `convert.json` says: nothing in it differs between two runs of the same command."""
    counts = plan.counts()
    return {
        "digest": plan.digest,
        "name": plan.name,
        "config": plan.config,
        "classes": [
            {"label": label, "name": name, **{split: int(row[label]) for split, row in counts.items()}}
            for label, name in enumerate(plan.class_names)
        ],
        "splits": {
            split: {"records": int(row.sum()), "shards": sum(s.split == split for s in plan.shards)}
            for split, row in counts.items()
        },
        "records": len(plan.numbers),
        "bytes": plan.bytes,
        "rejected": sum(r.done != "repaired" for r in plan.rejected),
        "versions": {
            "tfrecord_tools": tfrecord_tools.__version__,
            "pillow": PIL.__version__,  # Decides what is sound.
            "pyarrow": importlib.metadata.version("pyarrow"),  # Decides the bytes of the index.
        },
    }


def _features(plan: Plan) -> dict[str, Any]:
    """The `FeaturesDict` of `tfds.features`, as its `to_json` gives it."""
    features = {
        "image": _raw_feature(plan.config["resize"]) if plan.config.get("store") == "raw" else _IMAGE_FEATURE,
        "image/filename": {"text": {}, "pythonClassName": f"{_FEATURES}.text_feature.Text"},
        "label": {
            "classLabel": {"numClasses": str(len(plan.class_names))},
            "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
        },
    }
    return {
        "featuresDict": {"features": features},
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
    }


def _raw_feature(side: int) -> dict[str, Any]:
    tensor = {"shape": {"dimensions": [str(side), str(side), "3"]}, "dtype": "uint8", "encoding": "bytes"}
    return {"tensor": tensor, "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor"}


def _dataset_info(plan: Plan) -> dict[str, Any]:
    """The protobuf `DatasetInfo` of TensorFlow Datasets as JSON; its int64 are strings."""
    splits = [
        {
            "name": split,
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "numBytes": str(int(sum(plan.lengths[s.start : s.stop].sum() for s in plan.shards if s.split == split))),
            "shardLengths": [str(s.stop - s.start) for s in plan.shards if s.split == split],
        }
        for split in plan.counts()
    ]
    items = [{"featureKey": "image"}, {"featureKey": "label"}]
    return {
        "fileFormat": "tfrecord",
        "name": plan.name,
        "version": VERSION,
        "supervisedKeys": {"tuple": {"items": items}},
        "splits": splits,
    }


def _rejected(plan: Plan) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason", "done"])
    writer.writerows([r.path, r.reason, r.done] for r in plan.rejected)
    return text.getvalue()


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
