"""The augmentation as a Keras layer, for any model or pipeline."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfrecord_tools.augment_config import AugmentConfig
from tfrecord_tools.augmentation.augment import augment, keys_of
from tfrecord_tools.errors import UserError


@keras.saving.register_keras_serializable(package="tfrecord_tools")
class RandomAugment(keras.layers.Layer):
    """Keras layer that changes images randomly during training: geometry, colors and erased rectangles.

    RandomAugment(rotation_range=90, width_shift_range=0.2, horizontal_flip=True)(images, training=True)

    Images must be [b h w c] or [h w c], with c = 1 or 3 and a known height and width. They must be uint8, or floats in
    0..`scale`, which are rounded to 256 levels. The result has the shape and dtype of the input, for any dtype policy.

    With the argument `keys`, i64[b] (or i64[] for one image), the same image and key give the same result. Without
    `keys`, a `keras.random.SeedGenerator` draws new keys in each call, and the result depends on the earlier calls.
    """

    def __init__(
        self,
        config: AugmentConfig | None = None,
        *,
        seed: int | None = None,
        scale: float = 255.0,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = False,
        **settings: Any,
    ):
        """Make the layer from an `AugmentConfig`, or from its attributes as keywords.

        Args:
            config: The random changes.
            seed: Seed of the generator that draws keys if the call has none. None: a random seed.
            scale: Value of white in float images. Default: 255.
            name: Name of the layer.
            dtype: Has no effect.
            trainable: Has no effect.
            **settings: Attributes of `AugmentConfig`, instead of `config`.

        Raises:
            UserError: Both `config` and `settings` are given, or a value is out of its range.
        """
        super().__init__(name=name, dtype=dtype, trainable=trainable, autocast=False)
        if config is not None and settings:
            raise UserError(f"RandomAugment: use either config or {', '.join(settings)}, not both.")
        self.config = config or AugmentConfig(**settings)
        if not scale > 0:
            raise UserError(f"scale={scale}: must be above 0. scale is the value of white in float images.")
        self.scale = float(scale)
        self.seed = seed
        self._generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, keys: Any = None, training: bool | None = None) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        if not training or not self.config:
            return images
        batch = images if images.shape.rank == 4 else images[None]
        if keys is None:
            keys = keys_of(self._generator.next(), tf.shape(batch)[0])
        elif images.shape.rank == 3:
            keys = tf.reshape(keys, [1])
        changed = self._from_uint8(augment(self._to_uint8(batch), keys, self.config), images.dtype)
        return changed if images.shape.rank == 4 else changed[0]

    def _to_uint8(self, images: tf.Tensor) -> tf.Tensor:
        if images.dtype == tf.uint8:
            return images
        return tf.saturate_cast(tf.round(tf.cast(images, tf.float32) * (255.0 / self.scale)), tf.uint8)

    def _from_uint8(self, images: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        if dtype == tf.uint8:
            return images
        return tf.cast(tf.cast(images, tf.float32) * (self.scale / 255.0), dtype)

    def compute_output_shape(self, images_shape: Any, keys_shape: Any = None) -> Any:
        return images_shape

    def compute_output_spec(self, images: Any, keys: Any = None, training: bool | None = None) -> keras.KerasTensor:
        return keras.KerasTensor(images.shape, images.dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "scale": self.scale,
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RandomAugment:
        return cls(**(config | {"config": AugmentConfig(**config["config"])}))
