"""Write a classifier in other formats, and run the written files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrecord_tools.base import graphs
from tfrecord_tools.decoding.reference import decode_pixels
from trainers.exporting import upright
from trainers.models import inference
from trainers.models.model_file import ModelInfo
from trainers.results import predictions, views


def with_names(model: keras.Model, info: ModelInfo) -> keras.Model:
    """Return a model with a named input and output, and with a probability for each class.

    A model of two classes has one output. The probability of the first class is added.

    Returns:
        A model that shares the weights of `model`. It maps pixels u8[b h w 3] to
        {"probabilities": f32[b classes]}.
    """
    pixels = keras.Input(info.geometry.shape, dtype="uint8", name="pixels")
    probabilities = model(pixels)
    if len(info.classes) == 2:
        probabilities = keras.layers.Concatenate()([1 - probabilities, probabilities])
    return keras.Model(pixels, {"probabilities": probabilities})


def write_saved_model(model: keras.Model, info: ModelInfo, directory: Path) -> None:
    """Write a SavedModel with three signatures.

    `serving_default`: image_bytes string[b], JPEG, PNG, GIF or BMP as in a record -> probabilities f32[b classes],
        label i64[b], class string[b]. Images are decoded as in training, and JPEGs are turned upright by their EXIF
        orientation. The caller must first prepare images that are not as in a record, as `images.prepare` does: replace
        transparent pixels by white, convert 16-bit, CMYK, WebP and TIFF images, and apply --resize and --store of the
        dataset. If one image cannot
        be decoded, its whole batch fails.
    `pixels`: pixels u8[b h w 3] -> the same outputs.
    `classes`: no input -> classes string[classes], in the order of the labels.

    Args:
        model: A model from `with_names`.
        info: Description of the model.
        directory: Directory to write.
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
    """Write a .tflite file: pixels u8[1 h w 3] -> probabilities f32[1 classes].

    It uses only LiteRT's own operations. The batch size is 1, because hardware delegates of phones need fixed shapes.
    The file has the class names and metadata, see `litert_metadata`.

    Args:
        model: A model from `with_names`.
        info: Description of the model.
        path: File to write.
        quantize: "none", "float16" (only weights) or "int8" (weights and activations).
        calibration: Images u8[h w 3] that give the ranges of activations. Only for "int8".
    """
    ops = tf.lite.OpsSet.TFLITE_BUILTINS_INT8 if quantize == "int8" else tf.lite.OpsSet.TFLITE_BUILTINS
    # Keras's default also allows TensorFlow's operations, which need TensorFlow's runtime.
    target: dict[str, Any] = {"supported_ops": [ops]}
    options: dict[str, Any] = {"target_spec": target}
    if quantize != "none":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        target["supported_types"] = [tf.float16]
    if quantize == "int8":
        options["representative_dataset"] = lambda: ({"pixels": image[None]} for image in calibration)
    model.export(path, format="litert", input_signature=[_pixels(info, batch=1)], verbose=False, **options)
    from trainers.exporting import litert_metadata  # Imported here, since its packages are an extra.

    litert_metadata.add(path, info)


def write_onnx(model: keras.Model, info: ModelInfo, path: Path) -> None:
    """Write an .onnx file: pixels u8[b h w 3] -> probabilities f32[b classes].

    Args:
        model: A model from `with_names`.
        info: Description of the model.
        path: File to write.
    """
    for layer in _layers(model):
        # The converter turns tensors of this layer into inputs of the model, and arrays into constants.
        if isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    model.export(path, format="onnx", input_signature=[_pixels(info)], verbose=False)


def answers_of_saved_model(directory: Path, encoded: list[bytes], pixels: np.ndarray) -> list[np.ndarray]:
    """Run both image signatures of a SavedModel. Return the probabilities f32[n classes] of each."""
    signatures = tf.saved_model.load(str(directory)).signatures

    def run(signature: str, **inputs: Any) -> np.ndarray:
        return signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})["probabilities"]

    return [
        _in_batches(lambda part: run("serving_default", image_bytes=encoded[part]), len(encoded)),
        _in_batches(lambda part: run("pixels", pixels=pixels[part]), len(pixels)),
    ]


def answers_of_litert(path: Path, pixels: np.ndarray) -> list[np.ndarray]:
    """Run a .tflite file with LiteRT's runtime. Return the probabilities f32[n classes]."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path)).get_signature_runner()
    return [_in_batches(lambda part: run(pixels=pixels[part])["probabilities"], len(pixels), step=1)]


def answers_of_onnx(path: Path, pixels: np.ndarray) -> list[np.ndarray]:
    """Run an .onnx file with ONNX Runtime. Return the probabilities f32[n classes]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [_in_batches(lambda part: session.run(["probabilities"], {"pixels": pixels[part]})[0], len(pixels))]


def answers_of_keras(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Run a loaded Keras model. Return the probabilities f32[n classes]."""
    predict = inference.compiled(model)
    return _in_batches(lambda part: views.both_classes(predict(pixels[part]).numpy()), len(pixels))


def decoded(encoded: tf.Tensor | list[bytes], info: ModelInfo) -> tf.Tensor:
    """Decode images string[n] to u8[n h w 3] as in training, and turn JPEGs upright by EXIF.

    Images in records have no orientation, because `convert` has turned them upright. Images of adopted records were not
    turned in training, so they are not turned here.

    `tf.map_fn` is not used: inside a function, TensorFlow may run both branches of a condition (tensorflow#60805), and
    the wrong branch of `decode_pixels` fails. A `tf.data.Dataset` runs only the chosen branch.
    """

    def decode(image: tf.Tensor) -> tf.Tensor:
        return upright.decoded(image, info.geometry) if info.images else decode_pixels(image, info.geometry)

    data = tf.data.Dataset.from_tensor_slices(encoded).map(graphs.plain(decode), tf.data.AUTOTUNE)
    return data.batch(tf.size(encoded, tf.int64)).get_single_element()


def as_png(raw: bytes, raw_size: int) -> bytes:
    """Encode raw pixels u8[h w 3] as PNG, without loss."""
    return tf.io.encode_png(tf.reshape(tf.io.decode_raw(raw, tf.uint8), [raw_size, raw_size, 3])).numpy()


def drawn(count: int) -> list[bytes]:
    """Draw JPEGs and PNGs of large soft spots in various sizes. Every call draws the same images.

    A network has different outputs for images with different soft spots. For images with noise in single pixels, its
    outputs are almost the same.
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
    return tf.TensorSpec([batch, *info.geometry.shape], tf.uint8, "pixels")


def _layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    for inner in getattr(layer, "layers", ()):
        yield inner
        yield from _layers(inner)


def _in_batches(run: Callable[[slice], Any], count: int, step: int = predictions.BATCH_SIZE) -> np.ndarray:
    return np.concatenate([np.asarray(run(slice(start, start + step))) for start in range(0, count, step)])
