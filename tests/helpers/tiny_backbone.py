"""A backbone with weights for tests that train. Training takes half of the time of MobileNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from image_sources import save_fitted

MODEL: dict[str, Any] = {
    "backbone": "CNN",
    "backbone_kwargs": {"filters": (8, 8, 16), "batch_norm": True, "padding": "same"},
    "image_size": 32,
}
FLAGS = (
    f"--backbone={MODEL['backbone']}",
    "--backbone_kwargs=" + ",".join(f"{name}={value!r}" for name, value in MODEL["backbone_kwargs"].items()),
    f"--image_size={MODEL['image_size']}",
)


def save_weights(path: Path) -> None:
    """Write random weights of the backbone that give different features per image."""
    import keras  # Imported here, because a module that only needs the flags should not load it.

    from trainers.models import networks

    keras.utils.set_random_seed(0)
    base = networks.cnn((MODEL["image_size"], MODEL["image_size"], 3), **MODEL["backbone_kwargs"])
    save_fitted(base, path, lowest=0)
