"""Tests of sample: layout, determinism, interruptions, and colors that are equal in both classes."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfrecord_tools import sample
from tfrecord_tools.errors import UserError


def drawn(out: Path, images: int, seed: int = 0) -> dict[str, bytes]:
    """Draw a dataset, and return path -> bytes of its files."""
    sample.draw_sample(out, images=images, seed=seed)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def ten_images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return drawn(tmp_path_factory.mktemp("sample") / "out", 10)


def test_same_arguments_give_the_same_bytes(tmp_path: Path, ten_images: dict[str, bytes]) -> None:
    assert drawn(tmp_path / "again", 10) == ten_images


def test_all_images_and_seeds_differ(tmp_path: Path, ten_images: dict[str, bytes]) -> None:
    other = drawn(tmp_path / "other", 10, seed=1)
    assert other.keys() == ten_images.keys()
    assert len({*other.values(), *ten_images.values()}) == 20


def test_an_image_does_not_depend_on_the_number_of_images(ten_images: dict[str, bytes]) -> None:
    assert sample.draw_jpeg(0, "dog", 0) == ten_images["train/dogs/dog.0.jpg"]


def test_layout(ten_images: dict[str, bytes]) -> None:
    cats = [f"train/cats/cat.{i}.jpg" for i in (0, 1, 2)] + [f"validation/cats/cat.{i}.jpg" for i in (3, 4)]
    assert sorted(ten_images) == sorted(cats + [path.replace("cat", "dog") for path in cats])


@pytest.mark.parametrize(("images", "counts"), [(4, (1, 1, 1, 1)), (7, (3, 2, 1, 1)), (600, (210, 210, 90, 90))])
def test_counts(images: int, counts: tuple[int, ...]) -> None:
    directories = Counter(path.rpartition("/")[0] for _, _, path in sample.plan_files(images))
    assert directories == dict(zip(("train/cats", "train/dogs", "validation/cats", "validation/dogs"), counts))


def test_images_decode_and_their_sizes_vary(ten_images: dict[str, bytes]) -> None:
    images = [Image.open(io.BytesIO(data)) for data in ten_images.values()]
    assert {(image.format, image.load() and image.mode) for image in images} == {("JPEG", "RGB")}
    assert len({image.size for image in images}) >= 8
    assert all(120 <= side <= 400 for image in images for side in image.size)


@pytest.mark.parametrize("species", sample.SPECIES)
@pytest.mark.parametrize("size", [(120, 200), (201, 121), (1, 1)])
def test_animal_has_the_given_size(species: str, size: tuple[int, int]) -> None:
    image = sample.draw_animal(np.random.default_rng(0), species, size)
    assert (image.size, image.mode) == (size, "RGB")


def test_colors_do_not_reveal_the_class() -> None:
    rngs = [np.random.default_rng([0, index]) for index in range(240)]
    drawings = (sample.draw_animal(rng, sample.SPECIES[index % 2], (32, 32)) for index, rng in enumerate(rngs))
    colors = np.stack([np.asarray(drawing).mean((0, 1)) for drawing in drawings])
    cat, dog = colors[:120:2].mean(0), colors[1:120:2].mean(0)
    dog_predicted = np.linalg.norm(colors[120:] - dog, axis=1) < np.linalg.norm(colors[120:] - cat, axis=1)
    assert np.mean(dog_predicted == np.tile([False, True], 60)) <= 0.6


def test_existing_directory_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match=r"--out=.*: exists\. .* remove this one: rm -r "):
        sample.draw_sample(tmp_path, images=4)
    assert (tmp_path / "mine").read_text() == "precious"


def test_killed_run_leaves_no_dataset_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ten_images: dict[str, bytes]
) -> None:
    def draw_three(seed: int, species: str, index: int) -> bytes:
        if index == 3:
            raise KeyboardInterrupt
        return b"image"

    with monkeypatch.context() as context:
        context.setattr(sample, "draw_jpeg", draw_three)
        with pytest.raises(KeyboardInterrupt):
            sample.draw_sample(tmp_path / "out", images=12)
    assert [path.name for path in tmp_path.iterdir()] == [".out.drawing"]
    assert drawn(tmp_path / "out", 10) == ten_images
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out=.*file/out: Not a directory\. Choose a directory"):
        sample.draw_sample(tmp_path / "file" / "out", images=4)


@pytest.mark.parametrize(
    ("images", "seed", "message"),
    [(3, 0, r"images=3: must be at least 4"), (4, -1, r"seed=-1: must be a whole number, at least 0")],
)
def test_numbers_out_of_range_are_errors(tmp_path: Path, images: int, seed: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sample.draw_sample(tmp_path / "out", images=images, seed=seed)


def test_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tfrecord_tools.sample", f"--out={tmp_path / 'new' / 'out'}", "--images=4"]
    root = Path(sample.__file__).parents[1]
    first, second = (subprocess.run(command, cwd=root, capture_output=True, text=True, check=False) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 1)
    assert "out: 4 drawings" in first.stdout
    assert second.stderr.startswith("error: --out=")
    assert "Traceback" not in second.stderr
