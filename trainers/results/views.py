"""Test-time augmentation: the probabilities of an image are the mean over several views of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrecord_tools import errors
from tfrecord_tools.augmentation.mirrored_names import change_when_mirrored
from tfrecord_tools.base import words
from tfrecord_tools.base.options import Option
from tfrecord_tools.decoding import decoder
from tfrecord_tools.decoding.geometry import Box
from trainers.models import engines

if TYPE_CHECKING:
    import keras

MIRROR, CROPS = "mirror", "crops"
KINDS = (MIRROR, CROPS)
_CORNER = 0.875  # Height and width of a corner, as a share of those of the model's input.

OPTION = Option(
    "tta",
    "names",
    "Test-time augmentation: the model gets several views of each image, and the mean of the probabilities is used."
    " mirror: 2 views, the image and its left-right mirror image; crops: 5 views, the image and its four corners;"
    " mirror,crops: 10 views, the 5 views of crops and their mirror images. Default: only the image.",
    choices=KINDS,
)


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A function u8[b h w 3] -> f32[b classes]: the probabilities of all classes.

    Attributes:
        compute: Compiled model u8[b h w 3] -> f32[b 1] or f32[b classes].
        tta: Some of `KINDS`. Empty: the model sees each image once, as it is.
    """

    compute: Callable[[Any], Any]
    tta: tuple[str, ...] = ()

    def __call__(self, pixels: Any) -> np.ndarray:
        if not self.tta:
            return both_classes(np.asarray(self.compute(pixels)))
        outputs = [np.asarray(self.compute(view)) for view in views(np.asarray(pixels), self.tta)]
        return both_classes(np.stack(outputs).mean(axis=0, dtype=np.float64).astype(np.float32))


def predictor(model: keras.Model, tta: Sequence[str] = (), engine: str = engines.AUTO) -> Predictor:
    """Compile a model to a function that computes probabilities.

    Args:
        model: Model u8[b h w 3] -> f32[b 1] or f32[b classes].
        tta: Some of `KINDS`.
        engine: One of `engines.ENGINES`.
    """
    return of_compiled(engines.compiled(model, engine), tta)


def of_compiled(compute: Callable[[Any], Any], tta: Sequence[str] = ()) -> Predictor:
    """Return a function that computes probabilities with a compiled model.

    See `Predictor` for the arguments.
    """
    return Predictor(compute, tuple(kind for kind in KINDS if kind in tta))


def both_classes(output: np.ndarray) -> np.ndarray:
    """Return probabilities of all classes.

    Args:
        output: Output of a model: f32[n classes], or f32[n 1] with the probability of the second of two classes.

    Returns:
        f32[n classes].
    """
    return np.concatenate([1 - output, output], 1) if output.shape[1] == 1 else output


def views(pixels: np.ndarray, tta: Sequence[str]) -> Iterator[np.ndarray]:
    """Yield the views of images, each u8[b h w 3].

    The first view is the images themselves. "crops" adds the four corners: 0.875 h high and 0.875 w wide, enlarged to
    the full size. "mirror" adds the left-right mirror image of each of these views.

    Args:
        pixels: u8[b h w 3], decoded images.
        tta: Some of `KINDS`.
    """
    for view in (pixels, *(_corners(pixels) if CROPS in tta else ())):
        yield view
        if MIRROR in tta:
            yield view[:, :, ::-1]


def count(tta: Sequence[str]) -> int:
    """Return the number of views of each image."""
    return (5 if CROPS in tta else 1) * (2 if MIRROR in tta else 1)


def named(tta: Sequence[str]) -> str:
    """Return the number of views and their kinds: `2 views (mirror)`."""
    return f"{words.number(count(tta), 'view')} ({', '.join(tta)})"


def notes(tta: Sequence[str], classes: Sequence[str]) -> Iterator[str]:
    """Yield lines for the user: the cost of the views, and class names that mirroring may change."""
    if not tta:
        return
    times = {2: "twice"}.get(count(tta), f"{count(tta)} times")
    yield f"tta: {named(tta)}: the model computes each image {times}"
    changing = change_when_mirrored(classes) if MIRROR in tta else []
    if changing:
        yield (
            f"note: --tta={','.join(tta)} mirrors images, but the names of these classes suggest that a mirrored"
            f" image is of another class: {errors.named(changing)}. If this is true, leave out {MIRROR}"
        )


def _corners(pixels: np.ndarray) -> Iterator[np.ndarray]:
    height, width = pixels.shape[1:3]
    rows, columns = (max(1, round(_CORNER * side)) for side in (height, width))
    for top in (0, height - rows):
        for left in (0, width - columns):
            corner = Box(top, left, rows, columns)
            yield np.stack([decoder.resized(image, (height, width), corner) for image in pixels])
