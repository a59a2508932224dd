"""Images for the benchmark of the audit: changed photographs, drawn strangers, their features."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from tfrecord_tools.base import workers
from tfrecord_tools.base.options import arguments
from tfrecord_tools.decoding import decoder

BATCH = 32
CROP = 0.875
Change = Callable[[Image.Image], Image.Image]


@dataclasses.dataclass(frozen=True)
class Photos:
    """Photographs in folders split/class/image, sorted by path, as `convert` reads them.

    Attributes:
        paths: The files.
        labels: i64[n], index of the class in `classes`.
        splits: i8[n], index of the split.
        classes: Class names.
        split_names: Names of the splits.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    splits: np.ndarray
    classes: tuple[str, ...]
    split_names: tuple[str, ...]


def find_photos(directory: Path) -> Photos:
    """List the photographs below a directory with folders split/class/image."""
    paths = sorted(path for path in directory.glob("*/*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    splits = sorted({path.parts[-3] for path in paths})
    classes = sorted({path.parts[-2] for path in paths})
    return Photos(
        tuple(paths),
        np.array([classes.index(path.parts[-2]) for path in paths], np.int64),
        np.array([splits.index(path.parts[-3]) for path in paths], np.int8),
        tuple(classes),
        tuple(splits),
    )


def extract(images: Sequence[Callable[[], bytes]], backbone: str, kwargs: str, weights: str, size: int) -> np.ndarray:
    """Return the pooled features f32[n c] of encoded images.

    Args:
        images: Functions that return the bytes of one image each.
        backbone: Name of a network of `trainers.backbones`.
        kwargs: Options of the network, such as "alpha=0.25".
        weights: Weights file without top.
        size: Height and width of the network's input in pixels.
    """
    import tensorflow as tf

    from trainers.models import networks
    from trainers.recipes import ModelConfig

    config = ModelConfig(backbone=backbone, backbone_kwargs=arguments(kwargs or ""), weights=weights, image_size=size)
    extractor, _ = networks.split(networks.build(config, 2).model)
    compute = tf.function(lambda batch: extractor(batch, training=False))
    rows = [compute(tf.constant(batch)).numpy() for batch in _batches(images, size)]
    return np.concatenate(rows)[: len(images)]


def _batches(images: Sequence[Callable[[], bytes]], size: int) -> Iterator[np.ndarray]:
    """Yield pixels u8[b h w 3] of one shape: the last batch is filled up with its last image."""
    with ThreadPoolExecutor(workers.default_workers()) as pool:
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            pixels = list(pool.map(lambda read: decoder.decode(read(), size, CROP), part))
            yield np.stack(pixels + [pixels[-1]] * (BATCH - len(pixels)))


def encoded(image: Image.Image, format: str = "JPEG", quality: int = 90) -> bytes:
    """Return the bytes of an image in a format."""
    buffer = io.BytesIO()
    image.save(buffer, format, quality=quality)
    return buffer.getvalue()


def _scaled(share: float) -> Change:
    return lambda image: image.resize([max(8, round(side * share)) for side in image.size], Image.Resampling.BICUBIC)


def _cropped(image: Image.Image) -> Image.Image:
    """Cut 5 % off each side, so that width and height lose 10 %."""
    width, height = image.size
    return image.crop((round(width * 0.05), round(height * 0.05), round(width * 0.95), round(height * 0.95)))


def _lettered(image: Image.Image) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    size = max(10, image.height // 12)
    draw.text((image.width // 20, image.height - 2 * size), "www.example.org", "white", ImageFont.load_default(size))
    return image


def _turned(image: Image.Image) -> Image.Image:
    return image.rotate(2, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))


# Twelve changes of a photograph: a function of the image, the format and the quality of the new file.
CHANGES: dict[str, tuple[Change, str, int]] = {
    "rescaled to 50 %": (_scaled(0.5), "JPEG", 90),
    "rescaled to 25 %": (_scaled(0.25), "JPEG", 90),
    "JPEG quality 30": (lambda image: image, "JPEG", 30),
    "brightness + 30 %": (lambda image: ImageEnhance.Brightness(image).enhance(1.3), "JPEG", 90),
    "gray": (lambda image: ImageOps.grayscale(image).convert("RGB"), "JPEG", 90),
    "mirrored": (ImageOps.mirror, "JPEG", 90),
    "cropped by 10 %": (_cropped, "JPEG", 90),
    "border": (lambda image: ImageOps.expand(image, max(4, image.width // 20), "white"), "JPEG", 90),
    "text": (_lettered, "JPEG", 90),
    "rotated by 2 degrees": (_turned, "JPEG", 90),
    "blurred": (lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 250)), "JPEG", 90),
    "WebP": (lambda image: image, "WEBP", 80),
}


def changed(data: bytes, name: str) -> bytes:
    """Return the bytes of a photograph after one of `CHANGES`."""
    change, format, quality = CHANGES[name]
    with Image.open(io.BytesIO(data)) as image:
        return encoded(change(ImageOps.exif_transpose(image).convert("RGB")), format, quality)


def strangers(seed: int = 0) -> list[bytes]:
    """Draw 40 images that do not belong to any class. Three groups of 8, 5 and 4 images are nearly equal."""
    random = np.random.default_rng(seed)
    single = [_logo, _page, _gradient, _noise]
    drawn = [single[number % 4](random) for number in range(23)]
    for count, draw in ((8, _placeholder), (5, _logo), (4, _page)):
        first = draw(random)
        drawn += [_nearly(first, random) for _ in range(count)]
    return [encoded(image, quality=int(random.integers(70, 95))) for image in drawn]


def _nearly(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the image at another size and brightness, as if it were downloaded from elsewhere."""
    width, height = image.size
    scale = random.uniform(0.7, 1.3)
    image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    return ImageEnhance.Brightness(image).enhance(random.uniform(0.95, 1.05))


def _color(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = random.integers(0, 256, 3)
    return int(red), int(green), int(blue)


def _canvas(random: np.random.Generator, color: tuple[int, int, int] | str) -> Image.Image:
    return Image.new("RGB", (int(random.integers(200, 500)), int(random.integers(200, 500))), color)


def _placeholder(random: np.random.Generator) -> Image.Image:
    image = _canvas(random, (235, 235, 235))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(image.width // 12)
    draw.text((image.width // 8, image.height // 2), "image unavailable", (120, 120, 120), font)
    return image


def _logo(random: np.random.Generator) -> Image.Image:
    image = _canvas(random, _color(random))
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(2, 6))):
        x, y = random.integers(0, image.width), random.integers(0, image.height)
        shape = (int(x), int(y), int(x + random.integers(30, 200)), int(y + random.integers(30, 200)))
        if random.random() < 0.5:
            draw.ellipse(shape, fill=_color(random))
        else:
            draw.rectangle(shape, fill=_color(random))
    letters = "".join(random.choice(list("ABCDEFGHKLMNOPRSTUVWXYZ"), 4))
    draw.text((20, 20), letters, _color(random), ImageFont.load_default(image.width // 5))
    return image


def _page(random: np.random.Generator) -> Image.Image:
    image = _canvas(random, "white")
    draw, size = ImageDraw.Draw(image), int(random.integers(10, 20))
    for top in range(10, image.height - size, size + 4):
        words = ["".join(random.choice(list("abcdefghilmnoprstu"), random.integers(2, 9))) for _ in range(12)]
        draw.text((10, top), " ".join(words), "black", ImageFont.load_default(size))
    return image


def _gradient(random: np.random.Generator) -> Image.Image:
    width, height = int(random.integers(200, 500)), int(random.integers(200, 500))
    first, second = np.array(_color(random)), np.array(_color(random))
    slope = np.linspace(0, 1, width)[None, :, None] * random.random() + np.linspace(0, 1, height)[:, None, None]
    return Image.fromarray(np.clip(first + (second - first) * slope / 2, 0, 255).astype(np.uint8))


def _noise(random: np.random.Generator) -> Image.Image:
    cells = random.integers(0, 256, (int(random.integers(4, 200)), int(random.integers(4, 200)), 3), np.uint8)
    return Image.fromarray(cells).resize((300, 300), Image.Resampling.NEAREST)
