"""Tiny networks of a user: a vision transformer, a network of branches, and whole models."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("own_nets")
class Positions(keras.layers.Layer):
    """Add a class token and position embeddings to patches, f[b n c] -> f[b n+1 c]."""

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal", name="token")
        self.positions = self.add_weight(shape=(1, shape[1] + 1, shape[2]), initializer="random_normal", name="all")

    def call(self, patches: Any) -> Any:
        token = keras.ops.broadcast_to(self.token, (keras.ops.shape(patches)[0], 1, patches.shape[-1]))
        return keras.ops.concatenate([token, patches], 1) + self.positions


@keras.saving.register_keras_serializable("own_nets")
class Block(keras.layers.Layer):
    """A block of a transformer, with a path that is dropped by Keras's global random numbers."""

    def __init__(self, heads: int, dropout: float, path: float = 0.2, **more: Any) -> None:
        super().__init__(**more)
        self.arguments = {"heads": heads, "dropout": dropout, "path": path}
        self.norm = keras.layers.LayerNormalization(name="pre_norm")
        self.attention = keras.layers.MultiHeadAttention(heads, 4, dropout=dropout, name="attention")
        self.mlp = keras.layers.Dense(8, activation="gelu", name="mlp")
        self.dropout = keras.layers.Dropout(dropout, name="drop")

    def build(self, shape: Any) -> None:
        self.norm.build(shape)
        self.attention.build(shape, shape)
        self.mlp.build(shape)

    def call(self, x: Any, training: bool = False) -> Any:
        y = self.norm(x)
        y = self.dropout(self.mlp(self.attention(y, y, training=training)), training=training)
        if training:
            kept = keras.random.uniform((keras.ops.shape(x)[0], 1, 1)) >= self.arguments["path"]
            y = y * keras.ops.cast(kept, y.dtype)
        return x + y

    def compute_output_shape(self, shape: Any) -> Any:
        return shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | self.arguments


def vit(input_shape: tuple[int, int, int], depth: int = 2, dropout: float = 0.1) -> keras.Model:
    """Return a vision transformer as KerasHub has them: images -> f[b n c]."""
    images = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 127.5, -1)(images)
    x = keras.layers.Conv2D(8, 8, strides=8, name="patches")(x)
    x = Positions(name="positions")(keras.layers.Reshape((-1, 8))(x))
    for i in range(depth):
        x = Block(2, dropout, name=f"block{i}")(x)
    return keras.Model(images, keras.layers.LayerNormalization(name="norm")(x), name="vit")


def branches(input_shape: tuple[int, int, int], width: int = 4) -> keras.Model:
    """Return a network with a shared layer, nested models and two branches: images -> f[b h w c]."""
    images = keras.Input(input_shape)
    stem = keras.Sequential(
        [keras.layers.Conv2D(width, 3, strides=2, padding="same", name="stem_conv"), keras.layers.BatchNormalization()],
        name="stem",
    )
    x = stem(images)
    inner = keras.Input(x.shape[1:])
    y = keras.layers.Conv2D(width, 3, padding="same", name="inner_conv")(inner)
    y = keras.layers.BatchNormalization(name="inner_norm")(y)
    nested = keras.Model(inner, keras.layers.SpatialDropout2D(0.2, name="inner_drop")(y), name="nested")
    shared = keras.layers.Conv2D(width, 1, name="shared")
    left = keras.layers.MaxPooling2D()(shared(nested(x)))
    right = keras.layers.AveragePooling2D(2)(shared(x))
    x = keras.layers.Concatenate()([left, right])
    x = keras.layers.Dropout(0.2, name="last_drop")(keras.layers.Conv2D(width, 3, padding="same", name="last")(x))
    return keras.Model(images, x, name="branches")


def classifier(input_shape: tuple[int, int, int], classes: int, compiled: bool = False) -> keras.Model:
    """Return a whole classifier of pixels, perhaps with its own loss and optimizer."""
    count = 1 if classes == 2 else classes
    model = keras.Sequential(
        [
            keras.Input(input_shape, dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(count, activation="sigmoid" if count == 1 else "softmax"),
        ]
    )
    if compiled:
        loss = keras.losses.BinaryFocalCrossentropy() if count == 1 else keras.losses.CategoricalFocalCrossentropy()
        model.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-2, 20), use_ema=True), loss)
    return model


def compiled(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Return `classifier` with its own loss and optimizer."""
    return classifier(input_shape, classes, compiled=True)
