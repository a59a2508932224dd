"""Tests of show: its report, and the printed code, which is run."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from foreign_records import example, sequence, write
from image_sources import REPOSITORY, converted, flip, image, run, with_splits
from PIL import Image

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import schema
from tfrecord_tools.show import ShowConfig, show
from tfrecord_tools.verify import VerifyConfig, verify

FISH = ["tench", "goldfish", "great white shark"]


def report(path: Path, **settings: Any) -> list[str]:
    """Return the printed lines."""
    lines: list[str] = []
    show(ShowConfig(path=str(path), **settings), lines.append)
    return lines


def row(lines: Sequence[str], name: str) -> str:
    """Return the cells after a name in a table, joined by " | "."""
    (line,) = [line for line in lines if line.startswith(f"  {name}  ")]
    return re.sub(" {2,}", " | ", line.removeprefix(f"  {name}").strip())


def code(lines: Sequence[str]) -> str:
    return "\n".join(lines[lines.index("To read them:") + 1 :])


def read(lines: Sequence[str]) -> list[Any]:
    """Run the printed code, and return its elements as numpy arrays."""
    names: dict[str, Any] = {}
    exec(code(lines), names)
    return list(names["data"].as_numpy_iterator())


def fish(number: int, kind: str = "JPEG") -> dict[str, Any]:
    """Return an example of ImageNet in the format of the Model Garden, with labels from 1 and their names."""
    return {
        "image/encoded": image(number, kind, size=(20 + number, 30)),
        "image/class/label": number % 3 + 1,
        "image/class/text": FISH[number % 3].encode(),
        "image/height": 30,
    }


# --- The report ----------------------------------------------------------------------------------------------------


def test_report_of_a_converted_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    converted(with_splits(tmp_path / "pets"), Path("out"), shards=3)
    lines = report(Path("out"))
    size = {path.name: path.stat().st_size for path in Path("out").glob("*.tfrecord*")}
    first, second, validation = sorted(size)
    records = [sum(1 for _ in tf.data.TFRecordDataset(f"out/{name}")) for name in (first, second)]
    assert lines[0] == f"out: 16 records in 3 files, {sum(size.values()):,} bytes"
    assert row(lines, "pets-train.tfrecord-?????-of-00002") == f"10 | {size[first] + size[second]:,} | none"
    assert row(lines, f"  {first}") == f"{records[0]} | {size[first]:,}"
    assert row(lines, f"  {second}") == f"{records[1]} | {size[second]:,}"
    assert row(lines, validation) == f"6 | {size[validation]:,} | none"
    assert "16 records: tf.train.Example" in lines
    assert row(lines, "image") == "bytes | 1 | 12 JPEG, 4 PNG, all can be decoded, 12 x 9 px"
    assert row(lines, "image/filename").startswith('bytes | 1 | 18..23 bytes, 16 distinct: "')
    assert row(lines, "label") == "int64 | 1 | 0..1, 2 distinct: 0, 1"
    assert "2 classes of label: 0 cats, 1 dogs" in lines
    assert "# The same code reads: pets-validation.tfrecord-00000-of-00001" in lines
    stored = [record["image"].tobytes() for record in read(lines)]
    files = [path.read_bytes() for path in (tmp_path / "pets/train").rglob("*.*")]
    assert sorted(stored) == sorted(tf.io.decode_image(data, channels=3).numpy().tobytes() for data in files)


def test_report_of_the_model_gardens_imagenet(tmp_path: Path) -> None:
    for shard in range(9):
        numbers = range(10 * shard, 10 * shard + 10)
        write(tmp_path / f"train-0000{shard}-of-00010", (example(fish(i, "PNG" if i % 4 else "JPEG")) for i in numbers))
    lines = report(tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert lines[0] == f"{tmp_path}: 90 records in 9 files, {sum(sizes):,} bytes"
    assert row(lines, "train-?????-of-00010") == f"(1 missing) | 90 | {sum(sizes):,} | none"
    assert row(lines, "  each of 9 files") == f"10 | {min(sizes):,}..{max(sizes):,}"
    assert row(lines, "image/encoded") == "bytes | 1 | 67 PNG, 23 JPEG, all can be decoded, 20..109 x 30 px"
    assert row(lines, "image/class/label") == "int64 | 1 | 1..3, 3 distinct: 1, 2, 3"
    assert row(lines, "image/class/text").startswith('bytes | 1 | 5..17 bytes, 3 distinct: "tench", "goldfish", "gr')
    assert row(lines, "image/height") == "int64 | 1 | 30"
    assert all(len(line) <= 100 for line in lines[3 : lines.index("To read them:")])
    elements = read(lines)
    assert [record["image/class/text"].decode() for record in elements] == [FISH[i % 3] for i in range(90)]
    for number, record in enumerate(elements):
        if number % 4:  # TensorFlow decodes JPEGs a little differently.
            pixels = np.asarray(Image.open(io.BytesIO(fish(number, "PNG")["image/encoded"])))
            assert np.array_equal(record["image/encoded"], pixels)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-5, 3, 3], "int64 | 1 | -5..3, 2 distinct: -5, 3"),
        ([7, 7], "int64 | 1 | 7"),
        ([*range(10_000, 10_009)], "int64 | 1 | 10,000..10,008, 9 distinct: 10000, 10001, 10002, 10003, …"),
        ([[*range(2000)]], "int64 | 2,000 | 0..1,999: 0, 1, 2, 3, …"),  # The number of distinct values is not counted.
        ([[1, 2], [1, 2, 3]], "int64 | 2..3 | 1..3, 3 distinct: 1, 2, 3"),
        ([0.5, -0.25], "float | 1 | -0.25..0.5: -0.25, 0.5"),
        ([[1e-9, math.nan], [3e9, math.nan]], "float | 2 | 1e-09..3e+09, 2 NaN: 1e-09, 3e+09"),
        ([math.nan], "float | 1 | 1 NaN"),
        ([1, None], "int64 | 1 | 1 | 1"),  # The number after the length: records without the feature.
        ([1, []], "int64 | 0..1 | 1"),
        ([[], []], "int64 | 0"),
        ([b"cat", b"dog", b"cat"], 'bytes | 1 | 3 bytes, 2 distinct: "cat", "dog"'),
        ([b'say "\n"'], 'bytes | 1 | 7 bytes: "say \\"\\n\\""'),
        (["кот".encode()], 'bytes | 1 | 6 bytes: "кот"'),
        ([b"a text of more characters"], 'bytes | 1 | 25 bytes: "a text of more characte…"'),
        ([b"long" * 100, b"l"], 'bytes | 1 | 1..400 bytes: "longlonglonglonglonglon…", "l"'),
        ([bytes(784)], "bytes | 1 | 784 bytes: b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'…"),
        ([b""], 'bytes | 1 | 0 bytes: ""'),
        ([image(1), image(2)[:99], image(3)], "bytes | 1 | 3 JPEG, 2 can be decoded, 12 x 9 px"),
        (
            [image(1), image(2, "PNG"), b"none"],
            "bytes | 1 | 1 JPEG, 1 PNG, 1 not images, all can be decoded, 12 x 9 px",
        ),
        (
            [image(1, "GIF"), image(2, "WEBP", (9, 99))],
            "bytes | 1 | 1 GIF, 1 WEBP, all can be decoded, 9..12 x 9..99 px",
        ),
        ([[image(1, "BMP"), image(2, "BMP")]], "bytes | 2 | 2 BMP, all can be decoded, 12 x 9 px"),
        ([image(1)[:9]], "bytes | 1 | 1 JPEG, 0 can be decoded"),
        ([b"GIF89a is old", b"text", b"more"], 'bytes | 1 | 4..13 bytes, 3 distinct: "GIF89a is old", "text", "more"'),
    ],
)
def test_values(tmp_path: Path, values: list[Any], expected: str) -> None:
    path = write(tmp_path / "a.tfrecord", (example({"other": 1, "k": value}) for value in values))
    assert row(report(path), "k") == expected


def test_feature_without_a_list_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"k": None, "other": 1})])
    assert not [line for line in report(path) if line.startswith("  k ")]


def test_classes_of_a_feature_in_a_directory_of_tensorflow_datasets(tmp_path: Path) -> None:
    path = write(tmp_path / "pets-train.tfrecord-00000-of-00001", [example({"objects/label": [1, 0], "label": 0})])
    (tmp_path / "label.labels.txt").write_text("\n".join(f"class {i}" for i in range(1000)))
    (tmp_path / "objects-label.labels.txt").write_text("\n".join(["кошки", "щенки", ""]))
    for lines in (report(tmp_path), report(path)):
        (line,) = [line for line in lines if "classes of label" in line]
        assert line.startswith("1,000 classes of label: 0 class 0, 1 class 1, 2 class 2")
        assert (line[-1], len(line)) == ("…", 100)
        assert "2 classes of objects/label: 0 кошки, 1 щенки" in lines


def test_values_come_from_all_files(tmp_path: Path) -> None:
    for shard in range(4):
        write(tmp_path / f"a-0000{shard}-of-00004", (example({"shard": shard, "i": i}) for i in range(100)))
    lines = report(tmp_path, records=10)
    assert "400 records: tf.train.Example; values of 10 records are shown" in lines
    assert row(lines, "shard") == "int64 | 1 | 0..3, 4 distinct: 0, 1, 2, 3"
    assert row(lines, "i") == "int64 | 1 | 0..2, 3 distinct: 0, 1, 2"
    assert (
        row(report(tmp_path, records=2), "shard") == "int64 | 1 | 1..3, 2 distinct: 1, 3"
    )  # Fewer records than files.


def test_single_file_of_a_set_has_no_missing_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a-00000-of-00002", [example({"k": 1})])
    assert "missing" not in "".join(report(path))
    assert "a-00000-of-00002  (1 missing)" in "".join(report(tmp_path))


# --- What are no examples ------------------------------------------------------------------------------------------

STEPS = sequence({"id": 1}, {"rgb": [b"1", b"2"]})
OTHER = b"\x08\x01"


@pytest.mark.parametrize(
    ("records", "line"),
    [
        ([b"\x08\x01\x12\x03abc", b"any bytes"], "2 records: not a tf.train.Example"),
        ([OTHER, STEPS], "2 records: 1 not a tf.train.Example, 1 tf.train.SequenceExample"),
        ([example({"k": 1}), OTHER], "2 records: 1 tf.train.Example, 1 not a tf.train.Example"),
        ([b""], "1 record: tf.train.Example"),  # An example without features.
        ([sequence({}, {"steps": []})], "1 record: tf.train.SequenceExample"),  # An example without features.
    ],
)
def test_records_of_other_types_are_read_serialized(tmp_path: Path, records: list[bytes], line: str) -> None:
    path = write(tmp_path / "a.tfrecord", records)
    lines = report(path)
    assert line in lines
    assert row(lines, "a.tfrecord") == f"{len(records)} | {path.stat().st_size} | none"
    assert lines[-1] == "data = tf.data.TFRecordDataset(files)  # Serialized records."
    assert read(lines) == records


def test_file_without_records(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [])
    lines = report(path)
    assert lines[:4] == [f"{path}: 0 records in 1 file, 0 bytes", "", "  files       records  bytes  compression",
                         "  a.tfrecord        0      0  none"]  # fmt: skip
    assert "looked at" not in "".join(lines)
    assert read(lines) == []


# --- Series --------------------------------------------------------------------------------------------------------


def clip(number: int) -> bytes:
    """Return a SequenceExample with a label and a list of video frames."""
    frames = [image(10 * number + step, "PNG") for step in range(2 + number % 3)]
    return sequence({"label": number % 2}, {"frames": frames, "speed": [0.5] * number, "path": [[1, 2]] * number})


def test_report_of_series(tmp_path: Path) -> None:
    lines = report(write(tmp_path / "a.tfrecord", map(clip, range(12))))
    assert "12 records: tf.train.SequenceExample" in lines
    assert row(lines, "feature") == "type | steps | length | missing in | values"
    assert row(lines, "label") == "int64 | 1 | 0..1, 2 distinct: 0, 1"
    assert row(lines, "frames") == "bytes | 2..4 | 1 | 36 PNG, all can be decoded, 12 x 9 px"
    assert (
        row(lines, "speed") == "float | 1..11 | 1 | 1 | 0.5"
    )  # The number after the length: records without the feature.
    assert row(lines, "path") == "int64 | 1..11 | 2 | 1 | 1..2, 2 distinct: 1, 2"
    assert '    # Encoded images: tf.io.decode_image(steps["frames"][0], channels=3, expand_animations=False)' in lines
    elements = read(lines)
    assert [example["label"] for example, _ in elements] == [number % 2 for number in range(12)]
    assert [len(steps["frames"]) for _, steps in elements] == [2 + number % 3 for number in range(12)]
    assert [steps["path"].shape for _, steps in elements] == [(number, 2) for number in range(12)]


def numbers(steps: Any) -> Any:
    """Return ragged steps, which are an array of arrays."""
    if isinstance(steps, np.ndarray):
        return [numbers(step) for step in steps]
    return steps.item() if isinstance(steps, np.generic) else steps


@pytest.mark.parametrize(
    ("records", "specification", "expected"),
    [
        ([[1, 2], [3]], "FixedLenSequenceFeature([], tf.int64, allow_missing=True)", [[1, 2], [3]]),
        ([[1, 2], []], "FixedLenSequenceFeature([], tf.int64, allow_missing=True)", [[1, 2], []]),
        ([[0.5], None], "FixedLenSequenceFeature([], tf.float32, allow_missing=True)", [[0.5], []]),
        ([[[1, 2]], [[3, 4], [5, 6]]], "FixedLenSequenceFeature([2], tf.int64, allow", [[[1, 2]], [[3, 4], [5, 6]]]),
        ([[[1], [2, 3]], [[4]]], "RaggedFeature(tf.int64)", [[[1], [2, 3]], [[4]]]),
        ([[[1], []], [[2]]], "RaggedFeature(tf.int64)", [[[1], []], [[2]]]),
        ([[b"a", None], [b"b"]], "RaggedFeature(tf.string)", [[[b"a"], []], [[b"b"]]]),
        ([[1, b"a"], [2]], "", []),  # A feature with several types.
        ([[1], [b"a"]], "", []),
    ],
)
@pytest.mark.parametrize("looked", [1, 1000])
def test_code_reads_series(
    tmp_path: Path, looked: int, records: list[Any], specification: str, expected: list[Any]
) -> None:
    stored = [sequence({"i": 1}, {"other": [1]} | ({"k": steps} if steps is not None else {})) for steps in records]
    lines = report(write(tmp_path / "a.tfrecord", stored), records=looked)
    assert (f'"k": tf.io.{specification}' if specification else '# "k" has several types.') in code(lines)
    elements = [steps for _, steps in read(lines)]
    assert [numbers(steps["k"]) for steps in elements if "k" in steps] == expected
    assert [numbers(steps["other"]) for steps in elements] == [[1], [1]]


def test_code_reads_series_among_examples(tmp_path: Path) -> None:
    """A SequenceExample without lists has the same bytes as an Example."""
    lines = report(write(tmp_path / "a.tfrecord", [clip(1), example({"label": 1}), sequence({}, {"frames": [b"x"]})]))
    assert "3 records: 2 tf.train.SequenceExample, 1 tf.train.Example" in lines
    assert [len(steps["frames"]) for _, steps in read(lines)] == [3, 0, 1]


@pytest.mark.parametrize("parts", [({"i": 1}, {"k": []}), ({}, {"k": [1]})])
def test_code_reads_series_of_one_part(tmp_path: Path, parts: tuple[dict[str, Any], dict[str, list[Any]]]) -> None:
    assert len(read(report(write(tmp_path / "a.tfrecord", [sequence(*parts)] * 2)))) == 2


# --- The code ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "specification", "expected"),
    [
        ([1, -2], "FixedLenFeature([], tf.int64)", [1, -2]),
        ([0.5], "FixedLenFeature([], tf.float32)", [0.5]),
        ([b"x"], "FixedLenFeature([], tf.string)", [b"x"]),
        ([[1, 2, 3], [4, 5, 6]], "FixedLenFeature([3], tf.int64)", [[1, 2, 3], [4, 5, 6]]),
        ([[1, 2, 3], [4]], "RaggedFeature(tf.int64)", [[1, 2, 3], [4]]),
        ([[0.5], [1.5, 2.5]], "RaggedFeature(tf.float32)", [[0.5], [1.5, 2.5]]),
        ([b"x", None], "RaggedFeature(tf.string)", [[b"x"], []]),
        ([[], []], "RaggedFeature(tf.int64)", [[], []]),  # A FixedLenFeature would raise an error.
        ([[image(1, "PNG"), image(2, "PNG")]], "FixedLenFeature([2], tf.string)", [[image(1, "PNG"), image(2, "PNG")]]),
        ([image(1, "PNG"), None], "RaggedFeature(tf.string)", [[image(1, "PNG")], []]),  # It stays encoded.
    ],
)
@pytest.mark.parametrize("name", ["k", 'a "name"\n', "кошки"])
def test_code_reads_features(
    tmp_path: Path, name: str, values: list[Any], specification: str, expected: list[Any]
) -> None:
    path = write(tmp_path / "a.tfrecord", (example({name: value, "other": 1}) for value in values))
    lines = report(path)
    assert f": tf.io.{specification}," in code(lines)
    assert [
        record[name].tolist() if hasattr(record[name], "tolist") else record[name] for record in read(lines)
    ] == expected


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "JPEG"])
def test_code_decodes_images(tmp_path: Path, kind: str) -> None:
    data = image(1, kind, size=(12, 9))
    (record,) = read(report(write(tmp_path / "a.tfrecord", [example({"image": data})])))
    assert record["image"].shape == (9, 12, 3)
    if kind != "JPEG":  # Decoders disagree on such an image.
        assert np.abs(record["image"].astype(int) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).max() <= 4


def test_code_decodes_the_first_frame_and_gray_as_three_channels(tmp_path: Path) -> None:
    animation = io.BytesIO()
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    records = [animation.getvalue(), image(1, "PNG", size=(8, 6), mode="L")]
    path = write(tmp_path / "a.tfrecord", (example({"image": data}) for data in records))
    first, second = (record["image"] for record in read(report(path)))
    assert first.shape == second.shape == (6, 8, 3)
    assert first[0, 0].tolist() == [255, 0, 0]


def test_code_does_not_decode_damaged_images(tmp_path: Path) -> None:
    images = [image(i, "PNG") for i in range(5)]
    images[1], images[3] = images[1][:200], b"no image"
    path = write(tmp_path / "a.tfrecord", (example({"image": data, "i": i}) for i, data in enumerate(images)))
    lines = report(path)
    assert row(lines, "image") == "bytes | 1 | 4 PNG, 1 not images, 3 can be decoded, 12 x 9 px"
    assert [record["i"] for record in read(lines)] == [0, 2, 4]


LATE = [  # The value in the last of 60 records (the others hold 1), and its specification.
    (None, "RaggedFeature(tf.int64)"),
    ([], "RaggedFeature(tf.int64)"),
    ([1, 2], "RaggedFeature(tf.int64)"),
    (b"x", ""),  # A feature with several types.
]


@pytest.mark.parametrize("compression", ["", "GZIP"])
@pytest.mark.parametrize(("last", "specification"), LATE)
def test_code_reads_records_outside_the_sample(tmp_path: Path, compression: str, last: Any, specification: str) -> None:
    values: list[dict[str, Any]] = [{"k": 1, "image": image(1, "PNG")} for _ in range(60)]
    values[-1] = {"k": last, "image": image(1, "PNG"), "late": b"x"}
    lines = report(write(tmp_path / "a.tfrecord", map(example, values), compression), records=20)
    assert "60 records: tf.train.Example; values of 20 records are shown" in lines
    assert (f'"k": tf.io.{specification},' if specification else '# "k" has several types.') in code(lines)
    assert row(lines, "late") == "bytes | 1 | 59"
    elements = read(lines)
    assert [record["late"].tolist() for record in elements] == [[]] * 59 + [[b"x"]]


def test_code_skips_damaged_images_outside_the_sample(tmp_path: Path) -> None:
    images = [image(1, "PNG")] * 9 + [image(1, "PNG")[:200], b"", image(2, "PNG")]
    lines = report(write(tmp_path / "a.tfrecord", (example({"image": data}) for data in images)), records=4)
    assert "# Skip images that do not decode. 4 of 12 records were tried." in lines
    assert len(read(lines)) == 10
    all_tried = report(write(tmp_path / "b.tfrecord", [example({"image": image(1, "PNG")})] * 4), records=4)
    assert "ignore_errors" not in "".join(all_tried)


def test_images_that_tensorflow_does_not_decode(tmp_path: Path) -> None:
    records = [example({"image": image(1, "BMP", mode=mode)}) for mode in ("1", "L", "P", "RGB")]
    lines = report(write(tmp_path / "a.tfrecord", records))
    assert row(lines, "image") == "bytes | 1 | 4 BMP, 3 can be decoded, 12 x 9 px"
    assert len(read(lines)) == 3


def test_code_omits_features_with_several_types(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"k": 1, "other": 3}), example({"k": b"x", "other": 4})])
    lines = report(path)
    assert [line for line in lines if line.startswith("  k ")] == [
        '  k        bytes       1           1  1 bytes: "x"',
        "  k        int64       1           1  1",
    ]
    assert '    # "k" has several types.' in lines
    assert read(lines) == [{"other": 3}, {"other": 4}]


@pytest.mark.parametrize("kind", ["GZIP", "ZLIB"])
def test_code_decompresses(tmp_path: Path, kind: str) -> None:
    for shard in range(2):
        write(tmp_path / f"a-0000{shard}-of-00002", [example({"k": shard})], kind)
    lines = report(tmp_path)
    assert row(lines, "a-?????-of-00002").endswith(kind)
    assert read(lines) == [{"k": 0}, {"k": 1}]


@pytest.mark.parametrize(
    ("files", "elements"),
    [
        ({"a-00000-of-00002": 0, "a-00001-of-00002": 1, "b-00000-of-00001": 2}, [0, 1]),  # This group is larger.
        ({"a1.tfrec": 0, "a2.tfrec": 1, "a3.tfrec.txt": None}, [0, 1]),
        (
            {"a1.tfrec": 0, "a2.tfrec": 1, "a-b.tfrec": None},
            [0, 1],
        ),  # A damaged file that the pattern a*.tfrec matches.
        ({"single.tfrecords": 5}, [5]),
    ],
)
@pytest.mark.parametrize("directory", ["plain", "a[1] *?", 'кошки "x"'])
def test_code_finds_exactly_the_files(
    tmp_path: Path, directory: str, files: dict[str, int | None], elements: list[int]
) -> None:
    for name, number in files.items():
        write(tmp_path / directory / name, [example({"k": number or 0})])
        if number is None:
            flip(tmp_path / directory / name, 3, 0xFF)
    lines: list[str] = []
    with pytest.raises(UserError, match=r"a-b\.tfrec") if "a-b.tfrec" in files else contextlib.nullcontext():
        show(ShowConfig(path=str(tmp_path / directory)), lines.append)
    assert read(lines) == [{"k": number} for number in elements]


def test_code_reads_the_largest_group_and_names_similar_groups(tmp_path: Path) -> None:
    write(tmp_path / "test-00000-of-00001", [example({"image": b"x"}) for _ in range(3)])
    write(tmp_path / "train-00000-of-00001", [example({"image": b"x", "label": i}) for i in range(7)])
    write(tmp_path / "validation-00000-of-00001", [example({"image": b"x", "label": i}) for i in range(5)])
    write(tmp_path / "zipped.tfrecord", [example({"image": b"x", "label": 1})], "GZIP")
    lines = report(tmp_path)
    assert row(lines, "label") == "int64 | 1 | 3 | 0..6, 7 distinct: 0, 1, 2, 3, …"
    assert "# The same code reads: validation-00000-of-00001" in lines
    assert [record["label"] for record in read(lines)] == list(range(7))


# --- The contact sheet ---------------------------------------------------------------------------------------------


def colored(color: str, size: tuple[int, int] = (40, 20)) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, color).save(encoded, "PNG")
    return encoded.getvalue()


def sheet_of(tmp_path: Path, records: Sequence[dict[str, Any]]) -> Image.Image:
    path = write(tmp_path / "a.tfrecord", map(example, records))
    assert report(path, grid=str(tmp_path / "grid.png"))[-1].startswith(f"\n{tmp_path / 'grid.png'}: ")
    with Image.open(tmp_path / "grid.png") as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
        sheet.load()
        return sheet


def captions(sheet: Image.Image) -> Iterator[np.ndarray]:
    """Yield the pixels below each of the six images in the first row."""
    for column in range(6):
        left = 14 + 174 * column
        yield np.asarray(sheet.crop((left, 43 + 160, left + 160, 43 + 190)))


def test_sheet_shows_the_first_images_and_their_labels(tmp_path: Path) -> None:
    colors = ["red", "lime", "blue", "yellow", "cyan"] * 6
    records = [{"image": colored(color), "label": i // 2, "note": b"x"} for i, color in enumerate(colors)]
    sheet = sheet_of(tmp_path, [{"label": 0}, *records])  # The first record has no image.
    assert sheet.size == (14 + 6 * 174, 43 + 4 * 204)  # 24 of the 30 images.
    for number in range(24):
        middle = 14 + 174 * (number % 6) + 80, 43 + 204 * (number // 6) + 80
        assert sheet.getpixel(middle) == Image.new("RGB", (1, 1), colors[number]).getpixel((0, 0))
    zero, again, one, *_ = captions(sheet)
    assert zero.min() == 0  # The labels are black on white.
    assert np.array_equal(zero, again)
    assert not np.array_equal(zero, one)


def test_sheet_writes_the_names_of_classes(tmp_path: Path) -> None:
    records = [{"image": colored("red"), "label": i} for i in (0, 1)]
    numbers = list(captions(sheet_of(tmp_path, records)))
    (tmp_path / "label.labels.txt").write_text("cats\ndogs\n")
    names = list(captions(sheet_of(tmp_path, records)))
    text = list(captions(sheet_of(tmp_path, [{"image": colored("red"), "class/text": b"0 cats"}])))
    assert not np.array_equal(numbers[0], names[0])
    assert np.array_equal(text[0], names[0])


@pytest.mark.parametrize(
    "record",
    [
        {"image": colored("red", (1, 3000))},  # An image so narrow that its width would be rounded to zero.
        {"image": colored("red", (1, 1))},
        {"image": colored("red"), "label": [1] * 50, "class": b"\xff\n" * 500},
        {"image": colored("red"), "class": b"wide " * 100},
        {"image": image(1, "PNG", mode="I;16")},
        {"image": image(1, "PNG", mode="LA"), "label": [0.5, math.nan]},
    ],
)
def test_sheet_of_strange_records(tmp_path: Path, record: dict[str, Any]) -> None:
    sheet = sheet_of(tmp_path, [record])
    assert sheet.size == (14 + 6 * 174, 43 + 204)
    assert (np.asarray(sheet.crop((14, 43, 174, 203))) != 0xEE).any()  # The image.
    assert (np.asarray(sheet.crop((175, 43, sheet.width, 247))) == 255).all()  # The caption is not too wide.


def test_sheet_without_images_is_an_error_after_the_report(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"k": 1})])
    lines: list[str] = []
    with pytest.raises(UserError, match=r"^--grid=g\.png: there is no image in 1 record\. Remove --grid\.$"):
        show(ShowConfig(path=str(path), grid="g.png"), lines.append)
    assert row(lines, "k") == "int64 | 1 | 1"


def test_sheet_without_images_in_the_first_records(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"k": 1})] * 3)
    message = r"^--grid=g\.png: there is no image in the first 2 records\. Remove --grid, or use a larger --records\.$"
    with pytest.raises(UserError, match=message):
        show(ShowConfig(path=str(path), grid="g.png", records=2), lambda line: None)


# --- Mistakes and damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"records": 0}, r"--records=0: must be at least 1"),
        ({"grid": "grid.jpg"}, r"--grid=grid\.jpg: must be the name of a PNG file, for example grid\.png"),
        ({"grid": "no/such/a.png"}, r"--grid=no/such/a\.png: No such file or directory\. Choose a file that can"),
    ],
)
def test_errors_name_the_flag(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.tfrecord", [example({"image": image(1)})])
    with pytest.raises(UserError, match=message):
        report(path, **settings)


def test_damage_is_reported_after_the_valid_records(tmp_path: Path) -> None:
    records = [example({"k": i}) for i in range(5)]
    offset = len(schema.frame(records[0]))
    for shard in range(2):
        write(tmp_path / f"a-0000{shard}-of-00003", records)
    flip(tmp_path / "a-00000-of-00003", offset + 14)
    flip(tmp_path / "a-00001-of-00003", 3 * offset + 2)
    (tmp_path / "a-00002-of-00003").write_bytes(image("any"))
    lines: list[str] = []
    with pytest.raises(UserError) as caught:
        show(ShowConfig(path=str(tmp_path)), lines.append)
    first, *damage, last = str(caught.value).splitlines()
    assert first == f"{tmp_path} is damaged:"
    assert damage[0].startswith(f"  {tmp_path}/a-00002-of-00003: is not a TFRecord file: the file is a JPEG image. ")
    assert damage[1:] == [
        f"  {tmp_path}/a-00000-of-00003: record 1 (counted from 0) at byte {offset}: the checksum of its data is"
        " wrong; the record is left out",
        f"  {tmp_path}/a-00001-of-00003: record 3 (counted from 0) at byte {3 * offset}: the checksum of its length is"
        " wrong; the rest of the file cannot be read",
    ]
    assert last.startswith("The report shows everything that can be read. ")
    assert row(lines, "  a-00000-of-00003").startswith("4 | ")
    assert row(lines, "  a-00001-of-00003").startswith("3 | ")
    assert row(lines, "k") == "int64 | 1 | 0..4, 5 distinct: 0, 2, 3, 4, …"


def test_long_list_of_damage_is_cut(tmp_path: Path) -> None:
    records = [example({"k": i}) for i in range(30)]
    path = write(tmp_path / "a.tfrecord", records)
    for number in range(25):
        flip(path, number * len(schema.frame(records[0])) + 14)
    with pytest.raises(UserError) as caught:
        report(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 13
    assert lines[-2] == "  and 15 more"


# --- The command ---------------------------------------------------------------------------------------------------


def test_command_does_not_import_tensorflow(tmp_path: Path) -> None:
    write(tmp_path / "a-00000-of-00001", [example(fish(0))])
    program = (
        "import runpy, sys\n"
        "sys.argv[0] = 'show'\n"
        "try:\n"
        "    runpy.run_module('tfrecord_tools.show', run_name='__main__')\n"
        "finally:\n"
        "    print('imported:', [m for m in ('tensorflow', 'keras', 'pyarrow') if m in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), "--grid", str(tmp_path / "grid.png")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path}: 1 record in 1 file, ")
    assert f"{tmp_path / 'grid.png'}: 1 image" in done.stdout
    assert done.stdout.endswith("imported: []\n")
    assert (tmp_path / "grid.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: 0 arguments were given. Give one TFRecord file, one directory or one URL, for example: python -m"),
        (
            ["a", "b"],
            "error: 2 arguments were given. Give one TFRecord file, one directory or one URL, for example: python -m",
        ),
        (["missing"], "error: missing: does not exist. Expected a TFRecord file, "),
        (
            ["above"],
            "error: above: no TFRecord file directly in this directory. Pass a directory that contains TFRecord files:"
            " above/train.",
        ),
        (
            ["image.jpg"],
            "error: image.jpg: is not a TFRecord file: the file is a JPEG image. Expected a TFRecord file, ",
        ),
        (["cut.tfrecord", "--records=5"], "error: cut.tfrecord is damaged:\n  cut.tfrecord: record 0 "),
    ],
)
def test_mistakes_at_the_command_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "image.jpg").write_bytes(image("any"))
    path = write(tmp_path / "cut.tfrecord", [example({"k": 1})])
    path.write_bytes(path.read_bytes()[:-1])
    write(tmp_path / "above/train/0.tfrec", [example({"k": 1})])
    done = run("tfrecord_tools.show", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(message)


def test_closed_output_is_not_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", [example({f"feature {i}": i for i in range(3000)})])
    command = f"{sys.executable} -m tfrecord_tools.show {tmp_path} | head -1"
    done = subprocess.run(command, shell=True, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_the_number_of_decisions_is_shown(tmp_path: Path) -> None:
    src = with_splits(tmp_path / "pets")
    converted(src, tmp_path / "plain")
    assert not any("about single images" in line for line in report(tmp_path / "plain"))
    rows = {"cats/000.jpg": "label,dogs", "cats/001.jpg": "drop,", "dogs/000.jpg": "drop,", "dogs/001.jpg": "keep,"}
    hashes = {name: hashlib.sha256((src / "train" / name).read_bytes()).hexdigest() for name in rows}
    table = ["sha256,decision,label", *(f"{hashes[name]},{what}" for name, what in rows.items())]
    (tmp_path / "d.csv").write_text("\n".join(table))
    out = tmp_path / "out"
    converted(src, out, decisions=str(tmp_path / "d.csv"))
    lines = report(out)
    assert "4 decisions about single images in convert.json: 1 label, 2 drop, 1 keep" in lines
    assert len(read(lines)) == 8  # The printed code still reads the training records.
    assert verify(VerifyConfig(directory=str(out), workers=1), log=lambda line: None) == []
    (out / "convert.json").write_text("[]")
    with pytest.raises(UserError, match=r"convert\.json: is damaged .* the decisions in it cannot be read"):
        report(out)
