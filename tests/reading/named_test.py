"""Augmentations as texts: presets with changed values, and functions of the user by name."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import REPOSITORY

from tfrecord_tools.augment_config import PRESETS, AugmentConfig
from tfrecord_tools.augmentation import named
from tfrecord_tools.augmentation.named import Augment
from tfrecord_tools.errors import UserError

STANDARD = PRESETS["standard"]


# --- Presets with changed values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("standard", STANDARD),
        ("document", PRESETS["reference"]),  # The old name.
        (" standard , horizontal_flip = False ", dataclasses.replace(STANDARD, horizontal_flip=False)),
        ("none,rotation_range=5", AugmentConfig(rotation_range=5)),
        ("none,zoom_range=(0.8, 1.2),cval=9", AugmentConfig(zoom_range=(0.8, 1.2), cval=9)),
        ("none,brightness_range=[0.5,2]", AugmentConfig(brightness_range=(0.5, 2))),
        ("strong,brightness_range=None", dataclasses.replace(PRESETS["strong"], brightness_range=None)),
        ("none,fill_mode=reflect,vertical_flip=True", AugmentConfig(fill_mode="reflect", vertical_flip=True)),
        ("none,fill_mode='wrap'", AugmentConfig(fill_mode="wrap")),
        ("document,rotation_range=0", dataclasses.replace(PRESETS["reference"], rotation_range=0)),
        ("standard,", STANDARD),
    ],
)
def test_texts_are_configs(text: str, config: AugmentConfig) -> None:
    assert named.resolve(text) == config
    assert named.resolve(named.name_of(text)) == config  # The name is such a text again.


@pytest.mark.parametrize(
    ("augment", "name"),
    [
        ("document_transfer", "reference_transfer"),
        (PRESETS["strong"], "strong"),
        ("standard,horizontal_flip=True", "standard"),  # Nothing is changed.
        ("standard,rotation_range=5,horizontal_flip=False", "standard,rotation_range=5,horizontal_flip=False"),
        ("standard,horizontal_flip=False,rotation_range=5.0", "standard,rotation_range=5,horizontal_flip=False"),
        (AugmentConfig(rotation_range=90), "none,rotation_range=90"),
        (AugmentConfig(zoom_range=(0.8, 1.25)), "none,zoom_range=(0.8,1.25)"),
        # The nearest preset is named.
        ("none,rotation_range=15,width_shift_range=.1,height_shift_range=.1,zoom_range=.15",
         "standard,horizontal_flip=False"),
        (dataclasses.replace(PRESETS["strong"], contrast_range=None, fill_mode="wrap"),
         "strong,fill_mode=wrap,contrast_range=None"),
    ],
)  # fmt: skip
def test_equal_augmentations_have_one_name(augment: Augment, name: str) -> None:
    assert named.name_of(augment) == name
    assert named.settings_of(name) == named.settings_of(augment)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (
            "standards",
            "--augment=standards: must be the name of a preset (none, reference, reference_transfer, standard, strong),"
            " a preset with changed values (for example standard,horizontal_flip=False,rotation_range=5), or a function"
            " of yours (MODULE:FUNCTION or FILE.py:FUNCTION). Did you mean standard?",
        ),
        ("", "--augment=: must be the name of a preset (none, "),
        (
            "rotation_range=5,horizontal_flip=True",
            "--augment=rotation_range=5,horizontal_flip=True: must begin with a preset, as in"
            " none,rotation_range=5,horizontal_flip=True. The presets are none, reference, reference_transfer,"
            " standard, strong.",
        ),
        (
            "standard,rotation_ranges=5",
            "--augment=standard,rotation_ranges=5: there is no setting 'rotation_ranges'. Did you mean rotation_range?"
            " The settings are rotation_range, width_shift_range, height_shift_range, shear_range, zoom_range,"
            " horizontal_flip, vertical_flip, fill_mode, cval, channel_shift_range, brightness_range, contrast_range,"
            " saturation_range, erasing, erasing_area.",
        ),
        (
            "standard,rotation_range",
            "--augment=standard,rotation_range: after the preset, there must be SETTING=VALUE pairs, separated by"
            " commas, as in standard,horizontal_flip=False,zoom_range=(0.8,1.2). Each setting may occur once.",
        ),
        ("standard,cval=1,cval=2", "--augment=standard,cval=1,cval=2: after the preset, there must be SETTING=VALUE"),
        ("standard,strong", "--augment=standard,strong: after the preset, there must be SETTING=VALUE pairs"),
        (
            "standard,rotation_range=200",
            "--augment=standard,rotation_range=200: rotation_range=200: must be degrees from 0 to 180.",
        ),
        ("none,horizontal_flip=no", "--augment=none,horizontal_flip=no: horizontal_flip=no: must be True or False."),
        (
            "none,rotation_range=True",
            "--augment=none,rotation_range=True: rotation_range=True: must be degrees from 0 to 180.",
        ),
        ("none,fill_mode=mirror", "--augment=none,fill_mode=mirror: fill_mode='mirror': must be one of nearest, "),
        (
            "none,brightness_range=0.5",
            "--augment=none,brightness_range=0.5: brightness_range=0.5: must be two numbers from 0 to 5. The first"
            " number must not be larger than the second.",
        ),
        (
            "none,erasing_area=None",
            "--augment=none,erasing_area=None: erasing_area=None: must be two numbers from 0 to 1.",
        ),
        (5, "--augment=5: must be the name of a preset (none, "),
    ],
)
def test_errors_name_what_is_allowed(augment: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        named.resolve(augment, "--augment=")
    assert str(error.value).startswith(message)


# --- Functions -----------------------------------------------------------------------------------------------------

CODE = """
import dataclasses
from beside_augment import SHARE

@dataclasses.dataclass
class Holder:
    share: int = SHARE

    def halved(self, images, keys):
        return images // self.share

def halved(images, keys):
    return images // Holder().share

holder = Holder()
number = 3
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with a file of functions and a module that it imports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_augment.py").write_text("SHARE = 2\n")
    (tmp_path / "mine_augment.py").write_text(CODE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("beside_augment", "mine_augment", "broken_augment"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("text", ["mine_augment:halved", "mine_augment.py:halved", "mine_augment.py:holder.halved"])
def test_functions_by_name(text: str, place: Path) -> None:
    function: Any = named.resolve(text)
    assert function(8, None) == 4
    assert named.name_of(text) == text
    settings = named.settings_of(text)
    assert settings["function"] == text
    assert len(settings["sha256"]) == 64
    assert str(place) not in sys.path


def test_a_file_in_another_directory_finds_modules_beside_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    function: Any = named.resolve(f"{place}/mine_augment.py:halved")
    assert function(8, None) == 4


def test_a_changed_file_is_read_again_and_has_another_hash(place: Path) -> None:
    text = "mine_augment.py:halved"
    before = named.settings_of(text)
    (place / "mine_augment.py").write_text("def halved(images, keys):\n    return images // 4\n")
    function: Any = named.resolve(text)
    assert function(8, None) == 2
    assert named.settings_of(text) != before


def flipped(images: Any, keys: Any, axis: Any = 1) -> Any:
    return images


class Callable:
    def __call__(self, images: Any, keys: Any) -> Any:
        return images


def test_names_of_functions() -> None:
    assert named.name_of(flipped) == f"{__name__}:flipped"
    assert named.name_of(functools.partial(flipped, axis=2)) == f"{__name__}:flipped(axis=2)"
    assert named.name_of(Callable()) == f"{__name__}:Callable"


def made(share: int) -> Any:
    return lambda images, keys: images // share


def test_settings_of_functions_have_all_their_values() -> None:
    sha256 = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()  # The hash of the file, as for networks.
    for text in (f"{__name__}:flipped", f"{__file__}:flipped"):
        assert named.settings_of(text) == {"function": text, "sha256": sha256}
    assert named.settings_of(flipped) == {"function": f"{__name__}:flipped", "sha256": sha256}
    inner = functools.partial(flipped, axis=(1, 0.5))
    assert named.settings_of(functools.partial(inner)) == {
        "function": f"{__name__}:flipped(axis=(1, 0.5))",
        "sha256": sha256,
    }


@pytest.mark.parametrize("function", [made(1), Callable(), Callable().__call__, functools.partial(made(1))])
def test_functions_with_other_values_have_no_settings(function: Any) -> None:
    with pytest.raises(UserError, match=r"^augment=<.*>: must be a function at the top level .* functools\.partial"):
        named.settings_of(function)


def test_partial_functions_have_plain_values() -> None:
    with pytest.raises(UserError, match=r"^augment=functools.partial\(...\): the value array.* is a ndarray. Only num"):
        named.settings_of(functools.partial(flipped, axis=[np.zeros(3)]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "missing_augment:f",
            "--augment=missing_augment:f: there is no module 'missing_augment', neither in PLACE nor among the"
            " installed packages. Pass MODULE:FUNCTION or FILE.py:FUNCTION.",
        ),
        (
            "missing.py:f",
            "--augment=missing.py:f: missing.py does not exist. Pass MODULE:FUNCTION or FILE.py:FUNCTION.",
        ),
        (
            "mine_augment.py:halve",
            "--augment=mine_augment.py:halve: mine_augment.py has no function 'halve'. Did you mean halved?",
        ),
        (
            "mine_augment:xyz",
            "--augment=mine_augment:xyz: mine_augment has no function 'xyz'. The functions of the module are halved.",
        ),
        (
            "beside_augment:f",
            "--augment=beside_augment:f: beside_augment has no function 'f'. The module has no functions.",
        ),
        (
            "mine_augment:number",
            "--augment=mine_augment:number: is not a function. It must take images and keys, and return images.",
        ),
        ("broken_augment:f", "--augment=broken_augment:f: broken_augment fails: ZeroDivisionError: division by zero."),
        ("~nobody-here/x.py:f", "--augment=~nobody-here/x.py: user 'nobody-here' does not exist."),
    ],
)
def test_errors_of_functions(text: str, message: str, place: Path) -> None:
    (place / "broken_augment.py").write_text("1 / 0\n")
    with pytest.raises(UserError) as error:
        named.resolve(text, "--augment=")
    assert str(error.value).replace(str(place), "PLACE").startswith(message)


def test_names_need_no_tensorflow() -> None:
    code = (
        "import sys; from tfrecord_tools.augmentation import named, mirrored_names;"
        " named.name_of('standard,cval=3'); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
