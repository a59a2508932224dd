"""Draw a sample dataset of cats and dogs, to try the other commands without a download.

    python -m tfrecord_tools.sample --out=cat_dog_img --images=600 --seed=0

This command writes JPEG drawings of different sizes, 70 % for training and 30 % for validation::

    cat_dog_img/train/{cats,dogs}/cat.0.jpg ...
    cat_dog_img/validation/{cats,dogs}/cat.210.jpg ...

The classes differ in shape only: ears, muzzle, nose, pupils, whiskers, tail. Colors, patterns, poses, sizes,
backgrounds, light and noise have the same distribution in both classes, so that a model has to look at the animal.

In the code, shapes are f64[n, 2] with x to the right and y downwards. The origin is the center of the head, and the
head is 2 units wide.
"""

from __future__ import annotations

import colorsys
import dataclasses
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from absl import flags
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from tfrecord_tools.base import command, files, usage
from tfrecord_tools.errors import UserError

Color = tuple[int, int, int]
Points = NDArray[np.float64]
T = TypeVar("T")
SPECIES = ("cat", "dog")
VALIDATION_SHARE = 0.3
MIN_IMAGES = 4
SUPERSAMPLING = 2
TOP, FEET = -2.3, 2.85  # y of the tips of a cat's ears, and of the feet.

FURS = ((226, 146, 72), (58, 52, 54), (142, 144, 152), (240, 234, 226), (136, 92, 60), (198, 158, 110))
IRISES = ((126, 176, 86), (222, 170, 62), (104, 164, 208), (140, 92, 50))
NOSES = ((52, 42, 44), (94, 62, 58), (214, 128, 132))
GREENS = ((92, 148, 84), (70, 124, 88), (128, 166, 80), (150, 176, 110))
BLACK, WHITE, PINK = (28, 24, 28), (252, 250, 246), (238, 134, 146)


def pick(rng: Generator, choices: Sequence[T]) -> T:
    """Return one of `choices`, with equal probabilities."""
    return choices[int(rng.integers(len(choices)))]


def mix(first: Color, second: Color, share: float) -> Color:
    """Return the color between `first` (`share` = 0) and `second` (`share` = 1)."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second))
    return red, green, blue


def any_hue(rng: Generator, saturation: float = 0.25, value: float = 0.85) -> Color:
    """Return a color of random hue, with saturation and value (0..1) near the given ones."""
    hsv = rng.random(), saturation + rng.uniform(-0.15, 0.15), value + rng.uniform(-0.13, 0.13)
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(*hsv))
    return red, green, blue


def oval(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    """Return the outline of an ellipse around (x, y), f64[32, 2]. The first 17 points are the lower half."""
    angles = np.arange(0, 2 * np.pi, np.pi / 16)
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def rounded(corners: ArrayLike, rounds: int = 3) -> Points:
    """Round the corners of a closed outline, f64[n, 2], with Chaikin's algorithm.

    A corner that is given twice stays sharper.
    """
    points = np.asarray(corners, dtype=np.float64)
    for _ in range(rounds):
        step = np.roll(points, -1, axis=0) - points
        points = np.stack([points + 0.25 * step, points + 0.75 * step], axis=1).reshape(-1, 2)
    return points


def symmetric(right_half: Sequence[tuple[float, float]]) -> Points:
    """Return a rounded, symmetric outline from the points of its right half, from top to bottom."""
    return rounded([*right_half, *((-x, y) for x, y in reversed(right_half))])


CAT_HEAD = symmetric([(0.3, -0.9), (0.82, -0.66), (1.06, 0.02), (1.02, 0.56), (0.6, 0.9), (0.2, 0.98)])
CAT_EAR = rounded([(0.1, -0.7), (0.46, -1.2), (0.9, -1.78), (0.9, -1.78), (1.06, -1.0), (1.04, -0.2), (0.5, -0.4)])
CAT_NOSE = rounded([(-0.16, 0.25), (0.16, 0.25), (0, 0.43)], 2)
CAT_TAIL = rounded([(0, 0.2), (1, 0.3), (1.2, -0.3), (1, -1.4), (1.7, -1), (1.6, -1.7), (0.7, -2), (0.9, 0), (0, -0.2)])
DOG_HEAD = symmetric([(0.3, -0.94), (0.8, -0.78), (0.96, -0.1), (0.86, 0.5), (0.56, 0.96), (0.2, 1.08)])
DOG_HANGING_EAR = rounded([(0.44, -0.9), (1, -0.92), (1.4, -0.2), (1.5, 0.6), (1.2, 0.96), (0.88, 0.6), (0.7, -0.3)])
DOG_BUTTON_EAR = rounded([(0.34, -0.9), (0.6, -1.3), (1.1, -1.2), (1.4, -0.7), (1.3, -0.4), (1, -0.6), (0.7, -0.7)])
DOG_MUZZLE = symmetric([(0.16, 0.0), (0.42, 0.2), (0.56, 0.7), (0.4, 0.98), (0.12, 0.96)])
DOG_TONGUE = rounded([(-0.2, 0.7), (0.2, 0.7), (0.22, 1.2), (0, 1.36), (-0.22, 1.2)])
DOG_TAIL = rounded([(0, 0.25), (0.7, 0.15), (1.2, -0.4), (1.2, -1.5), (1.0, -1.5), (0.7, -0.6), (0.4, -0.3), (0, -0.2)])
SHOULDERS = symmetric([(0.2, 0.4), (0.72, 0.7), (1.2, 1.7), (1.3, 4.5), (0.3, 4.5)])
BODY = symmetric([(0.3, 0.5), (0.8, 0.8), (0.94, 1.5), (1.16, 2.1), (1.06, 2.6), (0.4, 2.75)])
HAUNCH = rounded([(0.9, 1.6), (1.3, 1.8), (1.46, 2.4), (1.2, 2.75), (0.7, 2.7), (0.48, 2.2), (0.6, 1.75)])
LEG = np.array([(0.06, 1.76), (0.12, 2.56), (0.58, 2.56), (0.64, 1.76)])
SPOT, STRIPE = oval(0, 0, 0.22, 0.17), rounded([(0, -0.55), (0, -0.55), (0.15, 0), (0, 0.55), (-0.15, 0)])
BALL, BALL_BAND = oval(0, 0, 1, 1), np.concatenate([oval(0, 0.1, 0.94, 0.6)[:17], oval(0, 0.1, 0.94, 0.2)[16::-1]])
BOX = np.array([(-1, -0.8), (1, -0.8), (1, 0.9), (-1, 0.9)])


class Look(NamedTuple):
    """Colors of an animal's coat. They do not depend on the species."""

    fur: Color
    marking: Color  # Spots and stripes, sometimes ears.
    pale: Color  # Muzzle, chest and paws.
    line: Color  # Outlines and shade.


def choose_look(rng: Generator) -> Look:
    """Return random colors of a coat."""
    fur = mix(pick(rng, FURS), pick(rng, FURS), rng.uniform(0, 0.3))
    marking = mix(fur, BLACK if sum(fur) > 330 else WHITE, rng.uniform(0.3, 0.6))
    return Look(fur, marking, pale=mix(fur, WHITE, pick(rng, (0.15, 0.5, 0.8))), line=mix(fur, BLACK, 0.7))


@dataclasses.dataclass(frozen=True, eq=False)
class Pen:
    """Draw shapes on a canvas, with an origin, a rotation and a scale of its own."""

    canvas: Image.Image  # RGB.
    coat: Image.Image  # Fur with its pattern, of the size of the canvas. Parts of the animal are cut from it.
    look: Look
    matrix: Points  # f64[2, 2]; canvas pixels are matrix @ point + origin.
    origin: Points  # f64[2], in canvas pixels.

    def at(self, x: float, y: float, degrees: float = 0.0, scale: float = 1.0) -> Pen:
        """Return a pen with its origin at (x, y) of this pen, rotated clockwise and scaled."""
        cos, sin = scale * np.cos(np.deg2rad(degrees)), scale * np.sin(np.deg2rad(degrees))
        matrix = self.matrix @ [(cos, -sin), (sin, cos)]
        return dataclasses.replace(self, matrix=matrix, origin=self.place([(x, y)])[0])

    def sides(self) -> Iterator[Pen]:
        """Yield a pen for the right side, and a mirrored pen for the left side."""
        yield self
        yield dataclasses.replace(self, matrix=self.matrix * (-1, 1))

    def place(self, points: ArrayLike) -> Points:
        """Return the pixels of points on the canvas."""
        return np.asarray(points) @ self.matrix.T + self.origin

    def fill(self, points: ArrayLike, color: Color, opacity: int = 255) -> None:
        """Fill a shape, without an outline."""
        ImageDraw.Draw(self.canvas, "RGBA").polygon(self.place(points).ravel().tolist(), (*color, opacity))

    def stroke(self, points: ArrayLike, width: float = 0.055, color: Color | None = None) -> None:
        """Draw an open line, by default in the color of outlines."""
        pixels = max(1, round(width * float(np.hypot(*self.matrix[0]))))
        ImageDraw.Draw(self.canvas).line(self.place(points).ravel().tolist(), color or self.look.line, pixels)

    def shape(self, points: Points, color: Color | None = None, closed: bool = True) -> None:
        """Draw a shape, by default of fur, with a shaded side and an outline."""
        outline = self.place(points)
        left, top = outline.min(axis=0).astype(int).tolist()
        width, height = (np.ptp(outline, axis=0) + 3).astype(int).tolist()
        box = (left, top, left + width, top + height)
        inside, shade = Image.new("L", (width, height)), Image.new("L", (width, height))
        outline -= (left, top)
        ImageDraw.Draw(inside).polygon(outline.ravel().tolist(), 255)
        ImageDraw.Draw(shade).polygon(outline.ravel().tolist(), 60)
        outline -= np.array([0.06, 0.13]) * min(width, height)  # The light comes from above.
        ImageDraw.Draw(shade).polygon(outline.ravel().tolist(), 0)
        self.canvas.paste(color or self.coat.crop(box), box, inside)
        self.canvas.paste(self.look.line, box, shade)
        self.stroke(np.concatenate([points, points[:2]]) if closed else points)


def paint_coat(rng: Generator, coat: Pen) -> None:
    """Paint spots, stripes or nothing on the fur."""
    mark = pick(rng, (SPOT, STRIPE, None))
    for x, y in np.mgrid[-2.6:2.6:0.42, -2.5:2.9:0.75].reshape(2, -1).T + rng.uniform(-0.2, 0.2, (104, 2)):
        if mark is not None:
            coat.at(x, y, rng.uniform(-15, 15), rng.uniform(0.5, 1.2)).fill(mark, coat.look.marking)


def draw_cat_head(rng: Generator, head: Pen, turn: float) -> None:
    """Draw pointed ears, slit pupils, a small triangular nose and whiskers.

    Args:
        rng: Source of random numbers.
        head: Pen at the center of the head.
        turn: Direction in which the cat looks, -1..1.
    """
    ears, iris = pick(rng, (head.look.marking, None, None)), pick(rng, IRISES)
    for side in head.sides():
        side.shape(CAT_EAR, ears)
        side.fill(0.58 * CAT_EAR + (0.3, -0.32), mix(PINK, head.look.line, 0.2))
    head.shape(CAT_HEAD)
    muzzle = head.at(0.24 * turn, 0.02)
    for side in muzzle.sides():
        side.fill(oval(0.17, 0.48, 0.25, 0.2), head.look.pale)
        draw_eye(side.at(0.42, -0.08, 14), 0.29, 0.075, iris)
        for rise in (-0.16, 0.02, 0.2):
            whisker = [(0.3, 0.4 + rise / 3), (0.8, 0.34 + rise), (1.35, 0.42 + 1.4 * rise)]
            side.stroke(whisker, 0.065)
            side.stroke(whisker, 0.03, WHITE)
    draw_mouth(muzzle, 0.48, 0.26)
    muzzle.fill(CAT_NOSE, pick(rng, NOSES))


def draw_dog_head(rng: Generator, head: Pen, turn: float) -> None:
    """Draw hanging ears, round pupils, a long muzzle and a big oval nose.

    Args:
        rng: Source of random numbers.
        head: Pen at the center of the head.
        turn: Direction in which the dog looks, -1..1.
    """
    ears, iris = pick(rng, (head.look.marking, None, None)), pick(rng, IRISES)
    head.shape(DOG_HEAD)
    muzzle = head.at(0.24 * turn, 0)
    for side in muzzle.sides():
        draw_eye(side.at(0.36, -0.16), 0.24, 0.16, iris)
    if rng.random() < 0.5:
        muzzle.shape(DOG_TONGUE, PINK)
    muzzle.shape(DOG_MUZZLE, head.look.pale)
    draw_mouth(muzzle, 0.66, 0.32)
    muzzle.fill(oval(0, 0.32, 0.26, 0.19), pick(rng, NOSES))
    muzzle.fill(oval(-0.08, 0.24, 0.07, 0.04), PINK)
    shape = pick(rng, (DOG_HANGING_EAR, DOG_BUTTON_EAR))
    for side in head.sides():
        side.shape(shape, ears)


def draw_eye(pen: Pen, width: float, pupil: float, iris: Color) -> None:
    """Draw an eye. `width` and `pupil` are half widths."""
    pen.shape(oval(0, 0, width, 0.25), iris)
    pen.fill(oval(0, 0.01, pupil, 0.18), BLACK)
    pen.fill(oval(0.03, -0.08, 0.055, 0.055), WHITE)


def draw_mouth(pen: Pen, y: float, width: float) -> None:
    """Draw two arcs of the given width that meet at height `y`, below a nose."""
    for side in pen.sides():
        side.stroke(oval(width / 2, y, width / 2, 0.12)[:17])


def draw_body(pen: Pen, species: str, sits: bool) -> None:
    """Draw a sitting animal from the front, or only its shoulders, without the head."""
    if sits:
        pen.at(0.75, 2.3).shape(CAT_TAIL if species == "cat" else DOG_TAIL)
    pen.shape(BODY if sits else SHOULDERS)
    pen.fill(oval(0, 1.6, 0.46, 0.6), pen.look.pale)
    for limb, foot in ((HAUNCH, 1.0), (LEG, 0.38)) if sits else ():
        for side in pen.sides():
            side.shape(limb, closed=limb is HAUNCH)
            side.shape(oval(foot, 2.66, 0.35, 0.22), pen.look.pale)
            for toe in (foot - 0.1, foot + 0.1):
                side.stroke([(toe, 2.68), (toe, 2.82)])


def blend(size: tuple[int, int], corners: ArrayLike) -> Image.Image:
    """Return a gradient of four colors or floats: top left, top right, bottom left, bottom right."""
    small = Image.fromarray(np.reshape(corners, (2, 2, -1)).squeeze())
    return small.resize(size, Image.Resampling.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))  # Between the pixel centers.


def paint_studio(rng: Generator, size: tuple[int, int], value: float = 0.85) -> Image.Image:
    """Return a smooth background of four blended colors."""
    return blend(size, np.array([any_hue(rng, value=value) for _ in range(4)], np.uint8))


def paint_bokeh(rng: Generator, size: tuple[int, int]) -> Image.Image:
    """Return blurred discs of light on a dark background."""
    lights = paint_studio(rng, (size[0] // 6 + 1, size[1] // 6 + 1), value=0.65)
    for x, y in rng.uniform((0, 0), lights.size, size=(int(rng.integers(8, 26)), 2)):
        ImageDraw.Draw(lights).circle((x, y), lights.width * rng.uniform(0.03, 0.12), any_hue(rng))
    return lights.filter(ImageFilter.GaussianBlur(rng.uniform(1, 4))).resize(size, Image.Resampling.BICUBIC)


def paint_meadow(rng: Generator, size: tuple[int, int]) -> Image.Image:
    """Return sky, a hill, and grass with flowers."""
    width, height = size
    sky, green, horizon = any_hue(rng), pick(rng, GREENS), height * rng.uniform(0.4, 0.8)
    meadow = blend(size, np.array([sky, sky, mix(sky, WHITE, 0.7), mix(sky, WHITE, 0.6)], np.uint8))
    draw = ImageDraw.Draw(meadow)
    draw.circle((width * rng.random(), horizon + 0.6 * width), 0.7 * width, mix(green, sky, 0.4))
    draw.rectangle((0, horizon, width, height), green)
    for x, y in rng.uniform((0, horizon), size, size=(90, 2)):
        blade = [(x, y), (x + 0.03 * height * rng.uniform(-1, 1), y - 0.06 * height), (x + 0.012 * height, y)]
        draw.polygon(blade, mix(green, pick(rng, (WHITE, BLACK)), rng.uniform(0, 0.25)))
    for x, y in rng.uniform((0, horizon), size, size=(int(rng.integers(25)), 2)):
        draw.circle((x, y), width / 90, any_hue(rng, 0.5))
    return meadow


def develop(rng: Generator, image: Image.Image) -> Image.Image:
    """Change light and camera: brightness, a gradient across the image, noise."""
    light = blend(image.size, (rng.uniform(0.88, 1.08, size=4) * rng.uniform(0.8, 1.1)).astype(np.float32))
    noise = rng.normal(0, 6 * rng.random() ** 2, (image.height, image.width, 1))
    pixels = np.asarray(image) * np.asarray(light)[:, :, None] + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_animal(rng: Generator, species: str, size: tuple[int, int]) -> Image.Image:
    """Draw a "cat" or "dog" in a scene.

    Args:
        rng: Source of random numbers. Generators with the same state give the same image.
        species: "cat" or "dog".
        size: Width and height in pixels.

    Returns:
        An RGB image.
    """
    width, height = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    look, sits = choose_look(rng), rng.random() < 0.5
    extent = min(width, height) * rng.uniform(0.75, 0.98)
    bottom = FEET if sits else rng.uniform(1.5, 2.8)
    x = width / 2 + rng.uniform(-0.5, 0.5) * (width - extent)
    y = height - rng.uniform(0, 0.8) * (height - extent) * sits
    canvas = pick(rng, (paint_studio, paint_bokeh, paint_meadow))(rng, (width, height))
    coat = Image.new("RGB", canvas.size, look.fur)
    ground = Pen(canvas, coat, look, np.diag([pick(rng, (-1, 1)), 1]) * extent / (bottom - TOP), np.array([x, y]))
    for _ in range(int(rng.integers(3))):
        toy = ground.at(rng.uniform(-3, 3), rng.uniform(-0.9, -0.3), rng.uniform(-15, 15), 0.5)
        shape, band = pick(rng, ((BALL, BALL_BAND), (BOX, BOX * (0.15, 1))))
        toy.shape(shape, pick(rng, (*FURS, any_hue(rng, 0.5))))
        toy.fill(band, any_hue(rng))
    pen = ground.at(0, 0, rng.uniform(-8, 8)).at(0, -bottom)
    paint_coat(rng, dataclasses.replace(pen, canvas=coat))
    ground.fill(oval(0, -0.1, 1.8, 0.3), BLACK, opacity=90)
    draw_body(pen, species, sits)
    draw_head = draw_cat_head if species == "cat" else draw_dog_head
    draw_head(
        rng, pen.at(0, 0.1, rng.uniform(-7, 7), 1.4), rng.uniform(-1, 1)
    )  # A big head makes the animal look young.
    return develop(rng, canvas.reduce(SUPERSAMPLING))


def draw_jpeg(seed: int, species: str, index: int) -> bytes:
    """Return the JPEG file of one image. The same arguments give the same bytes."""
    rng = np.random.default_rng([seed, SPECIES.index(species), index])
    long = int(rng.integers(150, 401))
    short = round(long * rng.uniform(0.8, 1))
    image = draw_animal(rng, species, pick(rng, ((long, short), (short, long))))
    image.save(data := io.BytesIO(), "JPEG", quality=int(rng.integers(70, 96)))
    return data.getvalue()


def plan_files(images: int) -> list[tuple[str, int, str]]:
    """Return (species, index in the species, path) of each of `images` images.

    Half of the images are cats. If the number is odd, there is one more cat.
    """
    plan = []
    for label, species in enumerate(SPECIES):
        count = (images + 1 - label) // 2
        train = count - max(1, round(VALIDATION_SHARE * count))
        for index in range(count):
            split = "train" if index < train else "validation"
            plan.append((species, index, f"{split}/{species}s/{species}.{index}.jpg"))
    return plan


def draw_sample(out: str | os.PathLike[str], *, images: int = 600, seed: int = 0) -> None:
    """Write a dataset of drawings. If it fails, `out` does not exist.

    Args:
        out: Directory to create; missing parents are created, too.
        images: Number of images in both classes and both splits together, at least 4.
        seed: Seed of the drawings, at least 0.

    Raises:
        UserError: `out` exists or cannot be written, or a number is out of its range.
    """
    if images < MIN_IMAGES:
        raise UserError(f"--images={images}: must be at least {MIN_IMAGES}, one per class and split.")
    if seed < 0:
        raise UserError(f"--seed={seed}: must be a whole number, at least 0.")
    files.check_local("out", out)
    out = Path(out)
    if os.path.lexists(out):
        raise UserError(f"--out={out}: exists. Choose another directory, or remove this one: rm -r {out}")
    partial = out.with_name(f".{out.name}.drawing")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # A killed run may have left it.
        for species, index, path in plan_files(images):
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_bytes(draw_jpeg(seed, species, index))
        partial.rename(out)
    except OSError as error:
        raise UserError(f"--out={out}: {error.strerror}. Choose a directory that can be written.") from error


def define_flags() -> None:
    usage.define_path("out", None, "Directory to create. The directory must not exist yet. Required.", required=True)
    flags.DEFINE_integer("images", 600, f"Number of images, at least {MIN_IMAGES}. Half of the images show cats.")
    flags.DEFINE_integer("seed", 0, "Seed of the drawings, at least 0. The same seed gives the same files.")


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    draw_sample(flags.FLAGS.out, images=flags.FLAGS.images, seed=flags.FLAGS.seed)
    print(f"{flags.FLAGS.out}: {flags.FLAGS.images} drawings of cats and dogs, in train/ and validation/")


if __name__ == "__main__":
    define_flags()
    command.run(main)
