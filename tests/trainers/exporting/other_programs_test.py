"""The documented ways to resize a photograph without TensorFlow give the classes that `predict` gives."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import REPOSITORY
from judged_runs import judged_pair
from PIL import Image, ImageOps
from real_data import path_from

import trainers
from tfrecord_tools.decoding.geometry import Geometry
from trainers.models.model_file import ModelInfo
from trainers.results import image_files, predictions, views
from trainers.run import Run

AGREEMENT = 0.995  # Share of the photographs with the same class, as the documentation says.
PAGE = REPOSITORY / "docs/howto/other_programs.md"
Resize = Callable[[Path, tuple[int, int], str, float], np.ndarray]


def documented() -> dict[str, Any]:
    """Return the functions of the page."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        exec(block, names)
    return names


NAMES = documented()


def as_on_android(path: Path, input_size: tuple[int, int], fit: str, crop: float) -> np.ndarray:
    """Resize as the documented calls of Android do, in a simulation: no device was at hand.

    `inSampleSize` lets libjpeg decode at 1/2, 1/4 or 1/8, as Pillow's `draft` does. A bitmap that is drawn with a
    matrix and a filter gets each pixel from the four nearest ones, as by Pillow's `transform`.
    """
    opened = Image.open(path)
    orientation, is_jpeg = NAMES["orientation_of"](opened), opened.format == "JPEG"
    stored_size = input_size[::-1] if orientation >= 5 else input_size
    (left, top, width, height), size, scale = NAMES["plan"](opened.size, stored_size, fit, crop)
    if is_jpeg:
        opened.draft("RGB", (opened.width // scale, opened.height // scale))
    image = opened.convert("RGB") if is_jpeg else opened.convert("RGB").reduce(scale)
    steps = (width / scale / size[0], 0, left / scale, 0, height / scale / size[1], top / scale)
    small = image.transform(size, Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR)
    return np.asarray(NAMES["finished"](np.asarray(small), orientation, input_size))


def printed(path: Path, input_size: tuple[int, int], fit: str, crop: float) -> np.ndarray:
    """Resize as the program does that a training prints."""
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    return np.asarray(ImageOps.fit(photo, input_size, Image.Resampling.BILINEAR, bleed=(1 - crop) / 2))


def with_nearest(path: Path, input_size: tuple[int, int], fit: str, crop: float) -> np.ndarray:
    """Resize as Keras's `load_img` does by default, which the page warns of."""
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    return np.asarray(ImageOps.fit(photo, input_size, Image.Resampling.NEAREST, bleed=(1 - crop) / 2))


def fitted(run: Run, path: Path, resize: Resize) -> np.ndarray:
    geometry = run.info.geometry
    return resize(path, (geometry.width, geometry.height), geometry.fit, geometry.crop)


def agreement(run: Run, files: list[Path], resize: Resize) -> float:
    """Return the share of files that get the same class from `resize` as from `predict`."""
    pixels = np.stack([fitted(run, path, resize) for path in files])
    answers = views.both_classes(run.model.predict(pixels, verbose=0))
    labels = predictions.decide(answers, run.info.threshold)
    return float(np.mean(labels == run.predict(files).predicted))


WAYS: dict[str, Resize] = {
    **{name: NAMES[name] for name in ("with_pillow", "with_opencv", "with_pytorch")},
    "as_on_android": as_on_android,
}
NEEDS = {"with_opencv": "cv2", "with_pytorch": "torch"}


def way(name: str) -> Resize:
    """Return a way to resize; skip the test if its package is missing."""
    package = NEEDS.get(name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return WAYS[name]


# --- Drawn images ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[Path]]:
    """Return a run that knows colors, and images with stripes of both colors."""
    place = tmp_path_factory.mktemp("drawn")
    _, run = judged_pair(place)
    (run / "metrics.json").write_text("{}")  # The mark of a finished training.
    return trainers.load(run), [striped(place / f"{seed}.{'png' if seed % 2 else 'jpg'}", seed) for seed in range(200)]


def striped(path: Path, seed: int) -> Path:
    """Draw fine red and green stripes, with a little more of one of the colors, in any orientation."""
    random = np.random.default_rng(seed)
    width, height = [(320, 200), (400, 300), (250, 250), (47, 40)][seed // 2 % 4]
    period = random.integers(2, 9)
    stripes = np.where((np.arange(width) + random.integers(0, period)) % period < period / 2, 40.0, -40.0)
    tilt = random.uniform(-60, 60) + stripes - stripes.mean()
    colors = np.stack([130 + tilt, 130 - tilt, np.full(width, 60.0)], -1)[None].repeat(height, 0)
    pixels = np.clip(colors + random.normal(0, 10, colors.shape), 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = seed % 8 + 1
    options: dict[str, Any] = {} if seed % 2 else {"subsampling": 0, "exif": exif}
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("name", WAYS)
def test_drawn_images_get_the_same_class(name: str, drawn: tuple[Run, list[Path]]) -> None:
    assert agreement(*drawn, way(name)) >= AGREEMENT


def test_single_pixels_do_not_give_the_same_class(drawn: tuple[Run, list[Path]]) -> None:
    """The images are hard: some stripes are at the distance of the pixels that are used."""
    assert agreement(*drawn, with_nearest) < 0.98


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(
    "geometry",
    [Geometry.of(24, 0.875), Geometry.of((16, 40), 0.75), Geometry.of((40, 16), fit="pad"), Geometry.of((20, 30))],
    ids=str,
)
def test_pixels_are_nearly_those_of_predict(name: str, geometry: Geometry, tmp_path: Path) -> None:
    """Also in inputs that are not square, with padding, and for images in any orientation."""
    resize = way(name)
    info = ModelInfo(classes=("a", "b"), image_size=geometry.image_size, crop=geometry.crop, fit=geometry.fit)
    for orientation in range(1, 9):
        path = soft(tmp_path / f"{orientation}.jpg", orientation)
        pixels = resize(path, (geometry.width, geometry.height), geometry.fit, geometry.crop)
        expected = np.asarray(image_files.decode_file(path.read_bytes(), info))
        assert pixels.shape == geometry.shape
        assert np.abs(pixels.astype(int) - expected).mean() < 3  # The part may begin a pixel later after a turn.


def soft(path: Path, orientation: int) -> Path:
    """Draw soft spots without symmetry, and mark them with an orientation."""
    spots = np.random.default_rng(0).integers(0, 256, (3, 5, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(spots).resize((250, 130), Image.Resampling.BICUBIC).save(path, quality=95, exif=exif)
    return path


# --- Photographs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[Path]]:
    """Return a run that knows cats and dogs, and the photographs of the validation split."""
    photographs, weights = Path(path_from("TFRECORD_TOOLS_PHOTOS")), path_from("TFRECORD_TOOLS_WEIGHTS")
    place = tmp_path_factory.mktemp("photographs")
    for module, *flags in [
        ("tfrecord_tools.convert", f"--src={photographs}", f"--out={place / 'out'}"),
        (
            *("trainers.finetune", f"--tfrecords={place / 'out'}", f"--run={place / 'run'}", "--image_size=160"),
            *("--backbone=MobileNet", "--backbone_kwargs=alpha=0.25", f"--weights={weights}"),
        ),
    ]:
        subprocess.run([sys.executable, "-m", module, *flags], check=True, capture_output=True)
    return trainers.load(place / "run"), sorted((photographs / "validation").rglob("*.jpg"))


@pytest.mark.photos
@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_photographs_get_the_same_class(name: str, trained: tuple[Run, list[Path]]) -> None:
    share = agreement(*trained, way(name))
    assert share >= AGREEMENT, f"{share:.2%} of {len(trained[1])} photographs"


@pytest.mark.photos
@pytest.mark.slow
def test_the_printed_program_gives_nearly_the_same_classes(trained: tuple[Run, list[Path]]) -> None:
    """It is short: it does not decode at a smaller scale, and its crop begins between two pixels."""
    assert agreement(*trained, printed) >= 0.98
