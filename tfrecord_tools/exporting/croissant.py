"""Croissant: metadata in JSON-LD that describe the files, columns and classes of a dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrecord_tools.exporting.pictures import filled_splits
from tfrecord_tools.records import Dataset

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_CHUNK = 1 << 20
_FILES = "parquet-files"
_PARQUET = "application/x-parquet"
_TYPES = {"Image": "sc:ImageObject", "ClassLabel": "sc:Integer", "Value": "sc:Text"}


def text(data: Dataset, directory: Path, columns: Mapping[str, str]) -> str:
    """Return the metadata.

    Args:
        data: The dataset that was exported.
        directory: The directory of the Parquet files. The metadata are beside it.
        columns: Column -> kind of its feature: Image, ClassLabel or Value.
    """
    paths = sorted(directory.iterdir())
    splits = [{"splits/name": split, "splits/images": count} for split, count in filled_splits(data).items()]
    classes = [{"classes/label": label, "classes/name": name} for label, name in enumerate(data.class_names)]
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": data.name,
        "description": f"Images of {len(classes)} classes in {len(splits)} splits.",
        "version": "1.0.0",
        "distribution": [*map(_file_object, paths), _file_set([f"{directory.name}/{path.name}" for path in paths])],
        "recordSet": [
            _table("splits", {"name": "sc:Text", "images": "sc:Integer"}, splits, "cr:Split"),
            _table("classes", {"label": "sc:Integer", "name": "sc:Text"}, classes, "sc:Enumeration"),
            {"@type": "cr:RecordSet", "@id": "images", "name": "images", "field": list(_fields(columns))},
        ],
    }
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def _file_object(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "contentUrl": f"{path.parent.name}/{path.name}",
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": _PARQUET,
        "sha256": digest.hexdigest(),
    }


def _file_set(paths: Sequence[str]) -> dict[str, Any]:
    """Describe all files together. Without `containedIn`, its patterns are relative to the metadata."""
    return {"@type": "cr:FileSet", "@id": _FILES, "name": _FILES, "encodingFormat": _PARQUET, "includes": list(paths)}


def _table(name: str, fields: Mapping[str, str], rows: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "dataType": kind,
        "key": {"@id": f"{name}/{next(iter(fields))}"},
        "field": [_field(name, field, of) for field, of in fields.items()],
        "data": list(rows),
    }


def _field(table: str, name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": f"{table}/{name}", "name": f"{table}/{name}", "dataType": kind, **more}


def _fields(columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the fields of the images. The split comes from the name of the file."""
    split = {"extract": {"fileProperty": "filename"}, "transform": {"regex": "^([a-z]+)"}}
    yield _field(
        "images", "split", "sc:Text", source={"fileSet": {"@id": _FILES}, **split},
        references={"field": {"@id": "splits/name"}},
    )  # fmt: skip
    for name, kind in columns.items():
        source: dict[str, Any] = {"fileSet": {"@id": _FILES}, "extract": {"column": name}}
        more: dict[str, Any] = {}
        if kind == "Image":
            source["transform"] = {"jsonPath": "bytes"}
        elif kind == "ClassLabel":
            more["references"] = {"field": {"@id": "classes/label"}}
        yield _field("images", name, _TYPES[kind], source=source, **more)
