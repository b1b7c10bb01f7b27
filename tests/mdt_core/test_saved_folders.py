"""A model folder names the package, never a file of it, and opens whatever files the package has.

Would catch: a folder that stops opening when a class moves to another file, folders saved before that no longer open,
and a folder that tells where the machine that wrote it kept its files.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import mdt_core
from mdt_core import MDTPipeline

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "assets" / "models" / "avatars"
SETTINGS = {"class_labels": ["dylan"], "seeds": [3], "num_inference_steps": 2}


def drawn(folder: Path) -> np.ndarray:
    return np.asarray(MDTPipeline.from_pretrained(folder)(**SETTINGS).images[0])


@pytest.fixture(scope="module")
def shipped() -> np.ndarray:
    return drawn(SHIPPED)


def test_the_shipped_and_a_newly_saved_folder_name_the_package(tmp_path, shipped):
    MDTPipeline.from_pretrained(SHIPPED).save_pretrained(tmp_path / "new")
    for folder in (SHIPPED, tmp_path / "new"):
        assert json.loads((folder / "model_index.json").read_text())["transformer"] == ["mdt_core", "MDTv2"]
    assert np.array_equal(drawn(tmp_path / "new"), shipped)


def test_the_shipped_model_draws_with_its_weights_for_few_steps(shipped):
    """Catches a preset that was written into the folder without the file that it needs."""
    pipe = MDTPipeline.from_pretrained(SHIPPED)
    fast = pipe.sampling_presets["fast"]
    made = pipe("dylan", seeds=3, **fast.arguments)
    assert made.evaluations == fast.evaluations == 4
    assert not np.array_equal(made.images[0], pipe("dylan", seeds=3, **fast.but(distilled=False).arguments).images[0])


def test_a_folder_saved_before_still_opens(tmp_path, shipped):
    shutil.copytree(SHIPPED, tmp_path / "old")
    index = tmp_path / "old" / "model_index.json"
    index.write_text(index.read_text().replace('"mdt_core"', '"mdt_core.transformer"'))
    assert np.array_equal(drawn(tmp_path / "old"), shipped)


def test_no_folder_tells_where_it_was_made(tmp_path):
    MDTPipeline.from_pretrained(SHIPPED).save_pretrained(tmp_path)
    configs = [path for folder in (tmp_path, ROOT / "assets") for path in folder.rglob("*.json")]
    assert [path for path in configs if "_name_or_path" in path.read_text("utf-8")] == []


@pytest.mark.parametrize("name", ["DiT", "MDT", "MDTv2", "MDTTransformer", "MDTPipeline"])
def test_the_classes_are_the_packages(name):
    assert getattr(mdt_core, name).__module__ == "mdt_core"
