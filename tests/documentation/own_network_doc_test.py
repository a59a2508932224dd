"""The code in docs/howto/own_network.md runs as the page describes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from image_sources import REPOSITORY, converted, with_splits

from tfrecord_tools.errors import UserError
from trainers.models import networks
from trainers.recipes import ModelConfig

PAGE = (REPOSITORY / "docs/howto/own_network.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with the functions of the page in nets.py, and the dataset."""
    (tmp_path / "nets.py").write_text("\n".join(BLOCKS[:2]))
    converted(with_splits(tmp_path / "cat_dog_img"), tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


def test_the_functions_of_the_page_make_networks(place: Path) -> None:
    config = ModelConfig(backbone="nets.py:build", backbone_kwargs={"depth": 4}, image_size=64)
    classifier = networks.build(config, 3)
    assert classifier.base.output_shape == (None, 16, 32)
    with pytest.raises(UserError, match="vit has no last stage"):
        classifier.set_trainable("last_stage")
    classifier.set_trainable("attention1|last")
    trained = {layer.name for layer in classifier.base.layers if layer.trainable_weights}
    assert trained == {"attention1", "last"}
    for classes, loss in ((2, "binary_focal_crossentropy"), (3, "categorical_focal_crossentropy")):
        whole = networks.build(ModelConfig(model="nets.py:classifier", image_size=64), classes)
        assert whole.compiled is not None
        assert whole.compiled.loss.name == loss


def test_the_calls_of_the_page_run(place: Path) -> None:
    names: dict[str, object] = {}
    for block in BLOCKS[2:]:
        exec(block, names)
    assert (place / "ours.keras").exists()
    assert (place / "runs/vit/report.html").exists()
