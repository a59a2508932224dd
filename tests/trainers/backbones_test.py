"""Tests of the names and arguments of backbones, which are checked before TensorFlow is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tfrecord_tools.errors import UserError
from trainers import recipes


def test_training_options_do_not_import_tensorflow():
    modules = "sys, trainers.training_options, trainers.finetune"
    code = f"import {modules}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vgg16",
            "--backbone=vgg16: is not a known backbone. Did you mean VGG16 or VGG19? python -m trainers.finetune --help"
            " lists all 41 backbones. FORMS",
        ),
        (
            "ResNet5",
            "--backbone=ResNet5: is not a known backbone. Did you mean ResNet50 or ResNet152 or ResNet50V2?"
            " python -m trainers.finetune --help lists all 41 backbones. FORMS",
        ),
        (
            "AlexNet",
            "--backbone=AlexNet: is not a known backbone. Did you mean MobileNet? python -m trainers.finetune --help"
            " lists all 41 backbones. FORMS",
        ),
        (
            "???",
            "--backbone=???: is not a known backbone. python -m trainers.finetune --help lists all 41 backbones. FORMS",
        ),
    ],
)
def test_unknown_backbone_is_rejected_with_suggestions(name, message):
    with pytest.raises(UserError) as error:
        recipes.finetune(backbone=name)
    forms = "For another network, pass MODULE:FUNCTION, FILE.py:FUNCTION, FILE.keras or keras_hub:PRESET."
    assert str(error.value) == message.replace("FORMS", forms)
