"""Names and arguments of backbones, and recipes: all that is checked before TensorFlow is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tfrecord_tools.errors import UserError
from trainers import backbones, recipes


def test_nothing_here_imports_tensorflow():
    modules = "sys, trainers.training_flags, trainers.finetune"
    code = f"import {modules}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vgg16",
            "--backbone=vgg16: unknown; did you mean VGG16 or VGG19? python -m trainers.finetune --help lists all 41.",
        ),
        (
            "ResNet5",
            "--backbone=ResNet5: unknown; did you mean ResNet50 or ResNet152 or ResNet50V2?"
            " python -m trainers.finetune --help lists all 41.",
        ),
        (
            "AlexNet",
            "--backbone=AlexNet: unknown; did you mean MobileNet? python -m trainers.finetune --help lists all 41.",
        ),
        ("???", "--backbone=???: unknown; nothing comes near it. python -m trainers.finetune --help lists all 41."),
    ],
)
def test_an_unknown_backbone_is_refused_and_near_ones_are_named(name, message):
    with pytest.raises(UserError) as error:
        recipes.finetune(backbone=name)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "kwargs"),
    [
        ("", {}),
        ("alpha=0.25", {"alpha": 0.25}),
        ("alpha=0.25, minimalistic=True", {"alpha": 0.25, "minimalistic": True}),
        ("shape=(1, 2),name='a,b'", {"shape": (1, 2), "name": "a,b"}),  # Commas within values.
    ],
)
def test_parse_kwargs(text, kwargs):
    assert backbones.parse_kwargs("backbone_kwargs", text) == kwargs


@pytest.mark.parametrize(
    "text",
    [
        "alpha",  # no value
        "alpha=",  # empty value
        "alpha=a",  # no literal
        "alpha=print(1)",  # nothing is called
        "0.25",  # no name
        "**{'alpha': 1}",  # no name either
        "alpha=1,alpha=2",  # twice
        "alpha=1) or (1",  # not one call
    ],
)
def test_parse_kwargs_refuses(text):
    with pytest.raises(UserError) as error:
        backbones.parse_kwargs("backbone_kwargs", text)
    assert str(error.value).startswith(
        f"--backbone_kwargs={text}: not understood; name=value pairs with Python literals are"
    )
