"""What `pip install .` installs: mdt_core alone, and all that it needs to draw.

Would catch: a file that lies outside the package (the names of ImageNet's classes did), a package of the clone that is
installed along, a command that starts only where the clone is, and ranges that drift from requirements.txt.
"""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdt_core import MDTPipeline, MDTv2
from tests.helpers.forked import python
from tests.helpers.tiny import tiny_pipeline

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Run outside the clone: the installed command, as pip would make it, and a published file of ImageNet's 1000 classes.
USE = """
import sys
from importlib.metadata import entry_points
from pathlib import Path
import mdt_core
(command,) = entry_points(group="console_scripts", name="mdt")
main = command.load()
model, published = sys.argv[1:]
main(["info", "--model", model])
main(["generate", "--model", model, "--class", "dog", "--seed", "5", "--steps", "2", "--out", "dog.png"])
print(type(mdt_core.load_official(published)).__name__)
print(mdt_core.MDTPipeline.from_pretrained(published, vae=Path(model) / "vae").id2label[207])
print(Path(mdt_core.__file__).parent)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built without a network from a copy: a build leaves folders beside its sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "mdt_core", source / "mdt_core", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    build = f"import setuptools.build_meta as backend; backend.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def outside(installed: Path, cwd: Path, *arguments: object) -> subprocess.CompletedProcess:
    """Python where only the unpacked wheel is to be found."""
    return python(*arguments, cwd=cwd, PYTHONPATH=str(installed))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = {Path(name) for name in archive.namelist()}
    (info,) = {file.parts[0] for file in files} - {"mdt_core"}
    assert info.startswith("mdt_studio-") and info.endswith(".dist-info")
    assert {Path("mdt_core/py.typed"), Path("mdt_core/pipeline/imagenet_classes.json")} <= files
    assert Path(info, "licenses", "LICENSE") in files
    sources = {path.relative_to(ROOT) for path in (ROOT / "mdt_core").rglob("*.py")}
    assert {file for file in files if file.suffix == ".py"} == sources


@pytest.mark.forked
def test_it_draws_where_the_clone_is_not(installed, tmp_path):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "model")
    sizes = {"sample_size": 8, "in_channels": 8, "hidden_size": 32, "depth": 4, "num_heads": 2, "decoder_layers": 2}
    torch.save(MDTv2(**sizes, num_classes=1000).state_dict(), tmp_path / "mdt_v2.pt")
    (tmp_path / "elsewhere").mkdir()
    done = outside(installed, tmp_path / "elsewhere", "-c", USE, tmp_path / "model", tmp_path / "mdt_v2.pt")
    assert done.returncode == 0, done.stderr
    *told, kind, name, home = done.stdout.splitlines()
    assert "MDTv2" in told[0] and (kind, name) == ("MDTv2", "golden retriever")
    assert Path(home) == installed / "mdt_core"
    settings = {"class_labels": ["dog"], "seeds": [5], "num_inference_steps": 2}
    expected = MDTPipeline.from_pretrained(tmp_path / "model")(**settings).images[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "elsewhere" / "dog.png")), np.asarray(expected))


@pytest.mark.forked
def test_without_the_clones_model_one_must_be_named(installed, tmp_path):
    """Catches a default that lies in the clone alone: "assets/models/avatars: no such file"."""
    done = outside(installed, tmp_path, "-m", "mdt_core", "info")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("python -m mdt_core info: the following arguments are required: --model")
    assert len(done.stderr.splitlines()) == 1


def listed(name: str) -> set[str]:
    lines = (line.partition(" #")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


def test_the_ranges_are_those_of_the_requirements():
    extras = PROJECT["optional-dependencies"]
    assert {*PROJECT["dependencies"], *extras["app"]} == listed("requirements.txt")
    assert set(extras["train"]) <= listed("requirements-dev.txt")
