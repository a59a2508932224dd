"""LiteRT files have the metadata and the class names that MediaPipe Tasks and ML Kit read."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from flatbuffers import number_types
from judged_runs import judged_pair
from PIL import Image

import trainers
from trainers.exporting.export_model import ModelExportConfig, export

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None,
    reason="ai_edge_litert is not installed (pip install 'tfrecord-tools[litert]')",
)
QUANTIZED = ("none", "float16", "int8")
CLASSES = {"two": ("greens", "reds"), "three": ("greens", "reds", "blues")}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return a function from the name of the classes and the quantization to the directory of an export."""
    made: dict[str, tuple[Path, Path]] = {}

    def directory(classes: str, quantize: str) -> Path:
        if classes not in made:
            made[classes] = judged_pair(tmp_path_factory.mktemp(classes), CLASSES[classes])
        tfrecords, run = made[classes]
        out = run / f"export/litert-{quantize}"
        if not out.exists():
            config: dict[str, Any] = {"format": "litert", "quantize": quantize, "tolerance": 0.5, "out": str(out)}
            export(ModelExportConfig(run=str(run), tfrecords=str(tfrecords), **config))
        return out

    return directory


# --- A reader that knows the published schema ------------------------------------------------------------------------


class Reader:
    """A table of a flatbuffer. The numbers of its fields are those of the file `metadata_schema.fbs`."""

    def __init__(self, buffer: bytes, position: int):
        self.table = flatbuffers.table.Table(bytearray(buffer), position)

    @classmethod
    def root(cls, buffer: bytes) -> Reader:
        return cls(buffer, flatbuffers.encode.Get(number_types.UOffsetTFlags.packer_type, buffer, 0))

    def _offset(self, slot: int) -> int:
        return int(self.table.Offset(4 + 2 * slot))

    def text(self, slot: int) -> str:
        offset = self._offset(slot)
        return self.table.String(offset + self.table.Pos).decode() if offset else ""

    def byte(self, slot: int) -> int:
        offset = self._offset(slot)
        return int(self.table.Get(number_types.Int8Flags, offset + self.table.Pos)) if offset else 0

    def child(self, slot: int) -> Reader:
        return Reader(self.table.Bytes, self.table.Indirect(self._offset(slot) + self.table.Pos))

    def children(self, slot: int) -> list[Reader]:
        offset = self._offset(slot)
        if not offset:
            return []
        start = self.table.Vector(offset)
        return [
            Reader(self.table.Bytes, self.table.Indirect(start + 4 * i)) for i in range(self.table.VectorLen(offset))
        ]

    def floats(self, slot: int) -> list[float]:
        values: list[float] = self.table.GetVectorAsNumpy(number_types.Float32Flags, self._offset(slot)).tolist()
        return values


def metadata_of(path: Path) -> bytes:
    """Return the metadata in a .tflite file: the buffer with the name TFLITE_METADATA."""
    from ai_edge_litert import schema_py_generated as schema

    data = path.read_bytes()
    assert data[4:8] == b"TFL3"
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    (buffer,) = [entry.buffer for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    return bytes(model.buffers[buffer].data)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("quantize", QUANTIZED)
def test_metadata_name_the_classes_and_the_kind_of_input(
    classes: str, quantize: str, exported: Callable[[str, str], Path]
) -> None:
    file = exported(classes, quantize) / "model.tflite"
    data = metadata_of(file)
    assert data[4:8] == b"M001"
    model = Reader.root(data)
    assert (model.text(0), model.text(7)) == ("finetune on src", "1.0.0")  # name, min_parser_version
    (graph,) = model.children(3)  # subgraph_metadata
    (pixels,), (probabilities,) = graph.children(2), graph.children(3)  # input and output tensors
    assert pixels.text(0) == "pixels"
    assert pixels.text(1) == (
        "RGB, 0 to 255, not scaled. Crop the center of the image: the largest region with the aspect ratio of this"
        " tensor. Crop it again to 0.875 times its height and width. Resize the result to the size of this tensor."
    )
    content = pixels.child(3)
    assert content.byte(0) == 2  # ContentProperties.ImageProperties
    assert content.child(1).byte(0) == 1  # ColorSpaceType.RGB
    (unit,) = pixels.children(4)  # process_units
    assert unit.byte(0) == 1  # ProcessUnitOptions.NormalizationOptions
    assert (unit.child(1).floats(0), unit.child(1).floats(1)) == ([0.0], [1.0])  # mean, std
    assert (pixels.child(5).floats(0), pixels.child(5).floats(1)) == ([255.0], [0.0])  # stats: max, min
    (labels,) = probabilities.children(6)  # associated_files
    assert (labels.text(0), labels.byte(2)) == ("labels.txt", 2)  # name, AssociatedFileType.TENSOR_AXIS_LABELS
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.getinfo("labels.txt").compress_type == zipfile.ZIP_STORED  # MediaPipe maps it into memory.
        assert archive.read("labels.txt") == (file.parent / "labels.txt").read_bytes()
        assert archive.read("labels.txt").decode().split() == sorted(CLASSES[classes])


# Runs in an environment of its own, because MediaPipe needs other versions of packages. The region is that of the
# documentation.
MEDIAPIPE = """
import json, sys
import mediapipe as mp
from mediapipe.tasks.python import BaseOptions, vision
from mediapipe.tasks.python.components.containers.rect import RectF
from mediapipe.tasks.python.vision.core.image_processing_options import ImageProcessingOptions

answers = []
for model in sys.argv[2:]:
    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model))
    with vision.ImageClassifier.create_from_options(options) as classifier:
        image = mp.Image.create_from_file(sys.argv[1])
        side = 0.875 * min(image.width, image.height)
        left, top = (1 - side / image.width) / 2, (1 - side / image.height) / 2
        region = ImageProcessingOptions(region_of_interest=RectF(left=left, top=top, right=1 - left, bottom=1 - top))
        for how in (None, region):
            found = classifier.classify(image, how).classifications[0].categories
            answers.append({one.category_name: one.score for one in found})
print(json.dumps(answers))
"""


def rings() -> Image.Image:
    """Return a picture that is red in the middle and green at the sides, so that the crop matters."""
    y, x = np.mgrid[0:120, 0:240]
    distance = np.maximum(abs(x - 119.5), abs(y - 59.5)) / 60
    red, green = np.clip(200 - 80 * distance, 0, 255), np.clip(40 + 80 * distance, 0, 255)
    return Image.fromarray(np.stack([red, green, np.full_like(red, 60)], -1).astype(np.uint8))


@pytest.mark.parametrize("classes", CLASSES)
def test_mediapipe_gives_names_and_the_probabilities_of_predict(
    classes: str, exported: Callable[[str, str], Path], tmp_path: Path
) -> None:
    python = os.environ.get("TFRECORD_TOOLS_MEDIAPIPE")
    if not python:
        pytest.skip("TFRECORD_TOOLS_MEDIAPIPE is not set: it names a Python with the package mediapipe")
    path = tmp_path / "photo.png"
    rings().save(path)
    models = [str(exported(classes, quantize) / "model.tflite") for quantize in QUANTIZED]
    done = subprocess.run([python, "-c", MEDIAPIPE, str(path), *models], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    directory = Path(models[0]).parents[2]
    (directory / "metrics.json").write_text("{}")  # The mark of a finished training.
    run = trainers.load(directory)
    (predicted,) = run.predict(path).probabilities
    for whole, cropped in zip(answers[::2], answers[1::2], strict=True):
        assert set(whole) == set(run.classes)
        np.testing.assert_allclose([cropped[name] for name in run.classes], predicted, atol=0.02)
        assert abs(whole["reds"] - cropped["reds"]) > 0.3  # Without the region, MediaPipe stretches the whole picture.
