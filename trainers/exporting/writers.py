"""The formats in which a classifier leaves Keras: how each is written, and what the written one answers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrecord_tools.decoding.reference import decode_pixels
from trainers.models import inference
from trainers.models.model_file import ModelInfo
from trainers.results import predictions


def with_names(model: keras.Model, info: ModelInfo) -> keras.Model:
    """Names a model's input and output, and gives two classes a probability each, as more have.

    Returns:
        pixels u8[b h w 3] -> {"probabilities": f32[b classes]}, on the weights of `model`.
    """
    pixels = keras.Input((info.image_size, info.image_size, 3), dtype="uint8", name="pixels")
    probabilities = model(pixels)
    if len(info.classes) == 2:
        probabilities = keras.layers.Concatenate()([1 - probabilities, probabilities])
    return keras.Model(pixels, {"probabilities": probabilities})


def write_saved_model(model: keras.Model, info: ModelInfo, directory: Path) -> None:
    """Writes a SavedModel with three signatures.

    `serving_default`: image_bytes string[b], JPEG, PNG, GIF or BMP, as a record holds them -> probabilities
        f32[b classes], label i64[b], class string[b]. They are decoded as in training; what `images.prepare` makes of
        a file before that must have been done: EXIF orientation, transparency on white, 16 bits, CMYK, WebP, TIFF,
        --resize and --store of the dataset. One image that cannot be decoded fails its whole batch.
    `pixels`: pixels u8[b h w 3] -> the same.
    `classes`: nothing -> classes string[classes], in the order of the labels.

    Args:
        model: As `with_names` returns it.
        info: How it is used.
        directory: Where to.
    """

    def from_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = model(pixels, training=False)["probabilities"]
        if len(info.classes) == 2:
            label = tf.cast(probabilities[:, 1] >= info.threshold, tf.int64)
        else:
            label = tf.argmax(probabilities, 1)
        return {"probabilities": probabilities, "label": label, "class": tf.gather(info.classes, label)}

    def from_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return from_pixels(decoded(image_bytes, info))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", from_bytes, [tf.TensorSpec([None], tf.string, "image_bytes")])
    archive.add_endpoint("pixels", from_pixels, [_pixels(info)])
    archive.add_endpoint("classes", lambda: {"classes": tf.constant(info.classes)}, [])
    archive.write_out(directory, verbose=False)


def write_litert(
    model: keras.Model, info: ModelInfo, path: Path, quantize: str, calibration: Iterable[np.ndarray] = ()
) -> None:
    """Writes a .tflite file: pixels u8[1 h w 3] -> probabilities f32[1 classes], of LiteRT's own operations alone.

    The batch is of one: the delegates of telephones want all shapes fixed.

    Args:
        model: As `with_names` returns it.
        info: How it is used.
        path: The file.
        quantize: "none", "float16" (weights alone) or "int8" (weights and activations).
        calibration: Images u8[h w 3] that the ranges of activations are taken from; for "int8" alone.
    """
    ops = tf.lite.OpsSet.TFLITE_BUILTINS_INT8 if quantize == "int8" else tf.lite.OpsSet.TFLITE_BUILTINS
    target: dict[str, Any] = {"supported_ops": [ops]}  # Keras's default lets in TensorFlow's, which need its runtime.
    options: dict[str, Any] = {"target_spec": target}
    if quantize != "none":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        target["supported_types"] = [tf.float16]
    if quantize == "int8":
        options["representative_dataset"] = lambda: ({"pixels": image[None]} for image in calibration)
    model.export(path, format="litert", input_signature=[_pixels(info, batch=1)], verbose=False, **options)


def write_onnx(model: keras.Model, info: ModelInfo, path: Path) -> None:
    """Writes an .onnx file: pixels u8[b h w 3] -> probabilities f32[b classes].

    Args:
        model: As `with_names` returns it.
        info: How it is used.
        path: The file.
    """
    for layer in _layers(model):
        if isinstance(layer, keras.layers.Normalization):  # Its tensors would become inputs, arrays become constants.
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    model.export(path, format="onnx", input_signature=[_pixels(info)], verbose=False)


def answers_of_saved_model(directory: Path, encoded: list[bytes], pixels: np.ndarray) -> list[np.ndarray]:
    """Asks both signatures of a SavedModel; returns the probabilities of each, f32[n classes]."""
    signatures = tf.saved_model.load(str(directory)).signatures

    def ask(signature: str, **inputs: Any) -> np.ndarray:
        return signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})["probabilities"]

    return [
        _joined(lambda at: ask("serving_default", image_bytes=encoded[at]), len(encoded)),
        _joined(lambda at: ask("pixels", pixels=pixels[at]), len(pixels)),
    ]


def answers_of_litert(path: Path, pixels: np.ndarray) -> list[np.ndarray]:
    """Asks a .tflite file in LiteRT's own runtime; returns the probabilities, f32[n classes]."""
    from ai_edge_litert.interpreter import Interpreter

    ask = Interpreter(str(path)).get_signature_runner()
    return [_joined(lambda at: ask(pixels=pixels[at])["probabilities"], len(pixels), step=1)]


def answers_of_onnx(path: Path, pixels: np.ndarray) -> list[np.ndarray]:
    """Asks an .onnx file in ONNX Runtime; returns the probabilities, f32[n classes]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [_joined(lambda at: session.run(["probabilities"], {"pixels": pixels[at]})[0], len(pixels))]


def answers_of_keras(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Asks a model as it was loaded; returns the probabilities, f32[n classes]."""
    predict = inference.compiled(model)
    return _joined(lambda at: predictions.both_classes(predict(pixels[at]).numpy()), len(pixels))


def decoded(encoded: tf.Tensor | list[bytes], info: ModelInfo) -> tf.Tensor:
    """Decodes images, string[n], as in training, to u8[n h w 3].

    In a dataset, as there, and not by `tf.map_fn`: in functions, but not in datasets, TensorFlow's optimizer makes
    branches run that are not taken (tensorflow#60805), and those of `decode_pixels` would fail.
    """
    decode = functools.partial(decode_pixels, image_size=info.image_size, crop=info.crop)
    data = tf.data.Dataset.from_tensor_slices(encoded).map(decode, tf.data.AUTOTUNE)
    return data.batch(tf.size(encoded, tf.int64)).get_single_element()


def as_png(raw: bytes, raw_size: int) -> bytes:
    """Encodes raw pixels, u8[h w 3], without loss."""
    return tf.io.encode_png(tf.reshape(tf.io.decode_raw(raw, tf.uint8), [raw_size, raw_size, 3])).numpy()


def drawn(count: int) -> list[bytes]:
    """Draws JPEGs and PNGs of large soft spots, of other sizes each, always the same.

    Soft ones, since networks tell those apart; noise from pixel to pixel looks the same to them whatever it is.
    """
    random = np.random.default_rng(0)
    encoded = []
    for number in range(count):
        spots = random.integers(0, 256, (*random.integers(2, 8, 2), 3))
        image = tf.image.resize(spots, random.integers(50, 500, 2), "bicubic")
        image = tf.saturate_cast(tf.round(image), tf.uint8)
        encoded.append((tf.io.encode_png if number % 4 == 0 else tf.io.encode_jpeg)(image).numpy())
    return encoded


def _pixels(info: ModelInfo, batch: int | None = None) -> tf.TensorSpec:
    return tf.TensorSpec([batch, info.image_size, info.image_size, 3], tf.uint8, "pixels")


def _layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    for inner in getattr(layer, "layers", ()):
        yield inner
        yield from _layers(inner)


def _joined(ask: Callable[[slice], Any], count: int, step: int = predictions.BATCH_SIZE) -> np.ndarray:
    return np.concatenate([np.asarray(ask(slice(start, start + step))) for start in range(0, count, step)])
