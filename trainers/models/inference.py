"""A model as a function of images, for where nothing is trained."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

# Parameters. Constants take 17 times their bytes of memory (VGG16: 1.0 GB, ResNet50: 1.6 GB), and large layers gain
# little by it: VGG16 nothing, ResNet50 a fifth; MobileNetV2 0.12 GB and a half, EfficientNetB0 0.26 GB and 0.4.
_MOST_CONSTANTS = 10_000_000


def compiled(model: keras.Model, jit_compile: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
    """Makes a function of a model, traced once for all sizes of batches, without what Keras's `predict` adds.

    On processors, weights of small models are constants of the graph: in variables, oneDNN would lay them out anew in
    every call, and nothing computed of them alone could be computed ahead. MobileNetV2 at 160 px answers 1.5 times as
    fast so, with the same bits.

    Args:
        model: u8[b h w 3] -> f[b c]. Its weights are taken as they are now.
        jit_compile: Whether XLA compiles it, which has its own ways with variables.

    Returns:
        u8[b h w 3] -> f32[b c].
    """
    fixed = not jit_compile and not tf.config.list_physical_devices("GPU") and model.count_params() <= _MOST_CONSTANTS
    trainable, others = (
        [weight.numpy() for weight in weights] if fixed else []
        for weights in (model.trainable_variables, model.non_trainable_variables)
    )

    def call(images: tf.Tensor) -> tf.Tensor:
        if fixed:  # Made in here: a tensor from without would be one of the graph's inputs, as variable as they are.
            constants = [[tf.constant(value) for value in values] for values in (trainable, others)]
            outputs, _ = model.stateless_call(*constants, images, training=False)
        else:
            outputs = model(images, training=False)
        return tf.cast(outputs, tf.float32)

    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)]
    return tf.function(call, input_signature=signature, jit_compile=jit_compile, autograph=False)
