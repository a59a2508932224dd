"""Add metadata to a LiteRT file, from which MediaPipe Tasks and ML Kit read the class names.

The metadata describe the input as RGB pixels. They are a flatbuffer, which is stored in one of the model's buffers.
The tables have the fields, in their order, and the constants of `metadata_schema.fbs` (file identifier M001, version
1.1.0) in https://github.com/tensorflow/tflite-support. The class names are a file in a zip archive that is appended to
the model, so `unzip model.tflite` extracts them.
"""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfrecord_tools.decoding.geometry import FILL, Geometry
from trainers.models.model_file import ModelInfo

_LABELS = "labels.txt"  # Same name as the file next to the model.
_NAME = "TFLITE_METADATA"
_MODEL_IDENTIFIER, _METADATA_IDENTIFIER = b"TFL3", b"M001"
_PARSER_VERSION = "1.0.0"  # Readers of this version know all fields that are written here.
_RGB = np.int8(1)  # ColorSpaceType
_IMAGE_PROPERTIES = np.uint8(2)  # ContentProperties
_NORMALIZATION_OPTIONS = np.uint8(1)  # ProcessUnitOptions
_TENSOR_AXIS_LABELS = np.int8(2)  # AssociatedFileType


@dataclasses.dataclass(frozen=True)
class _Table:
    """A table of a flatbuffer, with its fields in the order of the schema.

    A field that is None is left out. Another field is a text, another table, a list of tables, f32[n], an i8 or a u8.
    """

    fields: tuple[Any, ...]


def _table(*fields: Any) -> _Table:
    return _Table(fields)


def add(path: Path, info: ModelInfo) -> None:
    """Add the metadata and the class names to a .tflite file from `writers.write_litert`.

    Args:
        path: The file.
        info: Description of the model.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(metadata(info), np.uint8)
    entry.name, entry.buffer = _NAME, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(path.stat().st_size + buffer.data.size + 1024)
    builder.Finish(model.Pack(builder), _MODEL_IDENTIFIER)
    path.write_bytes(builder.Output())
    with zipfile.ZipFile(path, "a") as archive:  # Readers map the file into memory, so it is not compressed.
        labels = "".join(f"{name}\n" for name in info.classes)
        archive.writestr(zipfile.ZipInfo(_LABELS), labels.encode())  # Without the time, so that bytes are reproducible.


def metadata(info: ModelInfo) -> bytes:
    """Return the metadata of a model pixels u8[1 h w 3] -> probabilities f32[1 classes], as a flatbuffer."""
    pixels = _table(
        "pixels",
        f"RGB, 0 to 255, not scaled. {_fitting(info.geometry)}",
        None,  # dimension_names
        _table(_IMAGE_PROPERTIES, _table(_RGB)),  # content
        [_table(_NORMALIZATION_OPTIONS, _table(_floats(0), _floats(1)))],  # process_units: mean, standard deviation
        _table(_floats(255), _floats(0)),  # stats: max, min
    )
    labels = _table(_LABELS, "The class names, one per line.", _TENSOR_AXIS_LABELS)
    probabilities = _table(
        "probabilities", "The probability of each class.", None, None, None, _table(_floats(1), _floats(0)), [labels]
    )
    model = _table(
        f"{info.trainer} on {info.dataset_name}".strip(),
        f"Classifies images. {info.dataset_digest}".strip(),
        None,  # version
        [_table(None, None, [pixels], [probabilities])],  # subgraph_metadata
        None,  # author
        None,  # license
        None,  # associated_files
        _PARSER_VERSION,
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, model), _METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _fitting(geometry: Geometry) -> str:
    """Return sentences that say how an image is resized to the input."""
    if geometry.fit == "pad":
        return (
            f"Resize the image to fit into this tensor with its aspect ratio, and fill the rest with the gray {FILL}."
        )
    if geometry.fit == "stretch":
        return "Stretch the whole image to the size of this tensor."
    return (
        "Crop the center of the image: the largest region with the aspect ratio of this tensor. Crop it again to"
        f" {geometry.crop:g} times its height and width. Resize the result to the size of this tensor."
    )


def _floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _write(builder: flatbuffers.Builder, value: Any) -> int:
    """Write a text, a table, a list of tables or f32[n], and return its offset."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, np.ndarray):
        return int(builder.CreateNumpyVector(value))
    return _write_list(builder, value) if isinstance(value, list) else _write_table(builder, value)


def _write_list(builder: flatbuffers.Builder, tables: list[_Table]) -> int:
    offsets = [_write_table(builder, table) for table in tables]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _write_table(builder: flatbuffers.Builder, table: _Table) -> int:
    # Parts are written first, because flatbuffers cannot nest a table that is not finished.
    parts = [
        None if field is None or isinstance(field, np.integer) else _write(builder, field) for field in table.fields
    ]
    builder.StartObject(len(table.fields))
    for slot, (field, part) in enumerate(zip(table.fields, parts, strict=True)):
        if part is not None:
            builder.PrependUOffsetTRelativeSlot(slot, part, 0)
        elif isinstance(field, np.int8):
            builder.PrependInt8Slot(slot, int(field), 0)
        elif isinstance(field, np.uint8):
            builder.PrependUint8Slot(slot, int(field), 0)
    return int(builder.EndObject())
