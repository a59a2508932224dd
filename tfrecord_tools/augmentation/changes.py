"""Return the function that changes a batch of images, from an `AugmentConfig` or the user's function."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfrecord_tools.augment_config import AugmentConfig
from tfrecord_tools.augmentation import named
from tfrecord_tools.augmentation.augment import augment as augmented
from tfrecord_tools.augmentation.functions import AugmentFunction
from tfrecord_tools.augmentation.named import Augment
from tfrecord_tools.errors import UserError, one_line

Shape = tuple[int, int, int, int]  # Images per batch, height, width, channels.
Change = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
# Operations with a state. They draw random numbers that do not depend on a key, or they change variables, as the seeds
# of Keras do.
_WITH_STATE = re.compile(
    r"Random|Rng|Stateful(?!PartitionedCall)|Assign\w*Variable|(Parameterized)?TruncatedNormal|Multinomial"
    r"|SampleDistortedBoundingBox"
)


def of(augment: Augment, shape: Shape, jit: bool = True, prefix: str = "augment=") -> Change:
    """Return the function that changes the images of a batch at random; the keys decide how.

    Args:
        augment: The augmentation, as in `named.resolve`.
        shape: Shape of the images.
        jit: Compile an `AugmentConfig` with XLA, which gives the same result. Functions are not compiled.
        prefix: Text before the value in messages.

    Returns:
        Function (images u8[b h w 3], keys i64[b]) -> images u8[b h w 3].

    Raises:
        UserError: There is no such augmentation, or a function of the user fails, returns other images, or draws random
            numbers that do not depend on the keys.
    """
    chosen = named.resolve(augment, prefix)
    if isinstance(chosen, AugmentConfig):
        config = chosen
        return lambda images, keys: augmented(images, keys, config, jit)
    return _traced(chosen, shape, f"{prefix}{named.name_of(augment)}")


def _traced(function: AugmentFunction, shape: Shape, shown: str) -> Change:
    """Trace a function of the user, with AutoGraph as in `tf.data.Dataset.map`, and check the graph."""
    images, keys = tf.TensorSpec(shape, tf.uint8, "images"), tf.TensorSpec(shape[:1], tf.int64, "keys")

    def change(images: tf.Tensor, keys: tf.Tensor) -> Any:
        return function(images, keys)

    try:
        graph = tf.function(change).get_concrete_function(images, keys)
    except Exception as error:  # The user's code can raise anything.
        raise UserError(
            f"{shown}: fails for images {_kind(images)} and keys {_kind(keys)}: {type(error).__name__}:"
            f" {one_line(error, 'all')}. The function must take (images, keys) and return images. For a layer of Keras"
            " or a function of images alone, write a function that calls it (docs/pipeline.md has an example)."
        ) from error
    result = graph.structured_outputs
    if not tf.is_tensor(result) and not isinstance(result, tf.TensorSpec):
        raise UserError(f"{shown}: must return one tensor of images {_kind(images)}. The function returns {result!r}.")
    if result.dtype != tf.uint8 or not result.shape.is_compatible_with(shape):
        raise UserError(
            f"{shown}: must return images {_kind(images)} with values 0 to 255, like the images that it gets. The"
            f" function returns a tensor {_kind(result)}. For floats, use tf.saturate_cast(images, tf.uint8) at the"
            " end."
        )
    if operation := _operation_with_state(graph):
        raise UserError(
            f"{shown}: uses the operation {operation}, so the random numbers of the function do not depend only on the"
            " keys (one whole number per image). An interrupted training could then not be continued exactly. Use the"
            " keys as seeds of tf.random.stateless_uniform or of tf.image.stateless_random_... (docs/pipeline.md has an"
            " example)."
        )
    return lambda images, keys: tf.ensure_shape(graph(images, keys), shape)


def _operation_with_state(graph: Any) -> str | None:
    """Return an operation of a graph, or of a function that it calls, that is in `_WITH_STATE`."""
    definition = graph.graph.as_graph_def()
    nodes = [*definition.node, *(node for one in definition.library.function for node in one.node_def)]
    return next((node.op for node in nodes if _WITH_STATE.match(node.op)), None)


def _kind(tensor: Any) -> str:
    """Return type and shape of a tensor, as in "of type uint8 and shape (32, 160, 160, 3)"."""
    known = tensor.shape.rank is not None
    return f"of type {tensor.dtype.name} and {f'shape {tuple(tensor.shape)}' if known else 'unknown shape'}"
