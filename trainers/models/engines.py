"""Choose the program that computes a network for inference: TensorFlow, or OpenVINO on CPUs.

This module does not import TensorFlow or OpenVINO before a network is compiled.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrecord_tools.base.options import Option
from tfrecord_tools.errors import UserError, one_line

if TYPE_CHECKING:
    import keras

AUTO, TENSORFLOW, OPENVINO = "auto", "tensorflow", "openvino"
ENGINES = (AUTO, TENSORFLOW, OPENVINO)
OPTION = Option(
    "engine",
    "text",
    "Program that computes the network for inference. tensorflow: TensorFlow; openvino: OpenVINO, which is faster for"
    " small networks on CPUs and changes the last digits of the results (pip install 'tfrecord-tools[openvino]');"
    " auto: tensorflow.",
    default=AUTO,
    choices=ENGINES,
)
# Largest difference from TensorFlow, as a share of the largest output. Measured on photographs: 4e-5 for MobileNetV2.
TOLERANCE = 1e-3
# Images in a request of OpenVINO. On two CPU cores, two requests of 4 images are faster than one request of 8.
_REQUEST = 4


def check(engine: str) -> None:
    """Raise UserError if an engine does not exist, or its package is not installed."""
    if engine not in ENGINES:
        raise UserError(f"--engine={engine}: must be one of {', '.join(ENGINES)}.")
    if engine == OPENVINO and not version():
        raise UserError(
            "--engine=openvino: OpenVINO is not installed. Run pip install 'tfrecord-tools[openvino]', or remove"
            " --engine."
        )


def setting(engine: str) -> dict[str, str]:
    """Return the entry of settings.json for an engine. {} for TensorFlow, so that older runs continue."""
    return {"engine": engine} if engine == OPENVINO else {}


def key(engine: str) -> dict[str, str]:
    """Return the part of the key of features for an engine. {} for TensorFlow, as in earlier releases."""
    return {"engine": f"openvino {version()}"} if engine == OPENVINO else {}


def versions(engine: str) -> dict[str, str]:
    """Return name -> version of the engine, for the environment of a run. {} for TensorFlow."""
    return {OPENVINO: version()} if engine == OPENVINO else {}


def version() -> str:
    """Return the version of OpenVINO; "" if it is not installed."""
    try:
        return importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        return ""


def compiled(
    model: keras.Model, engine: str = AUTO, jit_compile: bool = False, source: str = "the model"
) -> Callable[[Any], Any]:
    """Compile a model for inference.

    Args:
        model: Model u8[b h w 3] -> f[b c]. Later changes of its weights may not be seen.
        engine: One of `ENGINES`.
        jit_compile: Whether TensorFlow compiles the function with XLA.
        source: The flag that names the model, with its value, for errors.

    Returns:
        A function u8[b h w 3] -> f32[b c]. The result is a tensor of TensorFlow or an array.

    Raises:
        UserError: OpenVINO is not installed, cannot convert the model, or computes other outputs than TensorFlow. Or
            there is a GPU.
    """
    check(engine)
    if engine == OPENVINO:
        _check_device()
        return _OpenVino(model, source)
    from trainers.models import inference  # Here, since it imports TensorFlow.

    return inference.compiled(model, jit_compile)


def _check_device() -> None:
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        raise UserError("--engine=openvino: computes on CPUs only, but this machine has a GPU. Remove --engine.")


class _OpenVino:
    """A model that OpenVINO computes, in requests of a fixed size. Several threads may call it.

    The first call converts the model. So nothing is converted if all features are read from disk.
    """

    def __init__(self, model: keras.Model, source: str) -> None:
        self._model, self._source = model, source
        self._shape = (_REQUEST, *model.input_shape[1:])
        self._queue: Any = None
        self._lock = threading.Lock()  # The requests of two calls would wait for each other anyway.

    def __call__(self, images: Any) -> np.ndarray:
        """Return f32[b c] for images u8[b h w 3].

        Raises:
            UserError: As in `compiled`, in the first call.
        """
        pixels = np.asarray(images)
        with self._lock:
            if self._queue is None:
                queue = self._converted()
                self._check(queue)
                self._queue = queue
            return self._computed(self._queue, pixels)

    def _converted(self) -> Any:
        """Return the requests of the converted model."""
        import tensorflow as tf

        def call(pixels: tf.Tensor) -> tf.Tensor:
            return tf.cast(self._model(pixels, training=False), tf.float32)

        traced = tf.function(call, autograph=False).get_concrete_function(tf.TensorSpec(self._shape, tf.uint8))
        try:
            import openvino

            network = openvino.convert_model(traced)
            # Without the first property, processors with bfloat16 would compute in bfloat16.
            properties = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
            queue = openvino.AsyncInferQueue(openvino.compile_model(network, "CPU", properties))
        except Exception as error:
            raise UserError(
                f"--engine=openvino: OpenVINO cannot convert {self._source}: {one_line(error)}. Pass"
                " --engine=tensorflow."
            ) from error
        queue.set_callback(_keep_output)
        return queue

    def _computed(self, queue: Any, pixels: np.ndarray) -> np.ndarray:
        requests = -(-len(pixels) // _REQUEST)
        outputs = np.empty((requests * _REQUEST, self._model.output_shape[-1]), np.float32)
        for start in range(0, len(pixels), _REQUEST):
            part = np.zeros(self._shape, np.uint8)
            given = pixels[start : start + _REQUEST]
            part[: len(given)] = given
            queue.start_async([part], userdata=outputs[start : start + _REQUEST])
        queue.wait_all()
        return outputs[: len(pixels)]

    def _check(self, queue: Any) -> None:
        """Raise UserError if the outputs for random pixels differ from those of TensorFlow."""
        pixels = np.random.default_rng(0).integers(0, 256, (2, *self._shape[1:]), np.uint8)
        expected = np.asarray(self._model(pixels, training=False)).astype(np.float32)
        difference = float(np.abs(self._computed(queue, pixels) - expected).max())
        allowed = TOLERANCE * float(np.abs(expected).max())
        if np.isfinite(expected).all() and not difference <= allowed:
            raise UserError(
                f"--engine=openvino: OpenVINO computes other outputs than TensorFlow for {self._source}: the difference"
                f" is {difference:.2g}, and at most {allowed:.2g} is allowed. Pass --engine=tensorflow."
            )


def _keep_output(request: Any, outputs: np.ndarray) -> None:
    outputs[:] = request.get_output_tensor(0).data
