"""Finding a model: a path, a folder of published files, or an id on the hub, from which only what is needed comes."""

from pathlib import Path

import pytest

from mdt_core.weights.hub import resolve
from tests.helpers.forked import python
from tests.helpers.hub import serve_hub

ROOT = Path(__file__).parents[2]


def test_a_local_folder_holds_either_form(tmp_path):
    with pytest.raises(ValueError, match=r"holds neither a model_index.json nor a .pt"):
        resolve(tmp_path)
    (tmp_path / "mdt_xl2_v1_ckpt.pt").touch()
    assert resolve(tmp_path) == tmp_path / "mdt_xl2_v1_ckpt.pt"
    (tmp_path / "mdt_xl2_v2_ckpt.pt").touch()
    assert resolve(str(tmp_path)) == tmp_path / "mdt_xl2_v2_ckpt.pt"
    (tmp_path / "mdt_v2_small.safetensors").touch()
    with pytest.raises(ValueError, match=r"mdt_v2_small.safetensors, mdt_xl2_v2_ckpt.pt; name one"):
        resolve(tmp_path)
    (tmp_path / "model_index.json").touch()
    assert resolve(tmp_path) == tmp_path
    assert resolve(tmp_path / "mdt_xl2_v1_ckpt.pt") == tmp_path / "mdt_xl2_v1_ckpt.pt"


@pytest.mark.parametrize("model", ["no-such-folder", "./a/b", "/no/such/file.pt", "a//b", ""])
def test_neither_a_path_nor_a_hub_id(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError):
        resolve(model)


def test_a_mistyped_path_is_not_looked_up(tmp_path, monkeypatch):
    """Catches a request for the hub's "assets/models" where a folder of that name lies here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mdt_core.weights.hub.download", None)  # a request would fail otherwise
    (tmp_path / "assets" / "models").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"^assets/models/avatarz: no such file or folder$"):
        resolve("assets/models/avatarz")


def test_a_hub_out_of_reach_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"^shgao/MDT-XL2: no such local folder, and the hub did not give it"):
        resolve("shgao/MDT-XL2")


@pytest.mark.forked
def test_hub_ids_through_the_real_client(tmp_path):
    """Catches 5.8 GB where 3 were meant, a file that cannot be picked, and an unknown id without a sentence."""
    repositories = {
        "shgao/MDT-XL2": {"mdt_xl2_v1_ckpt.pt": b"one", "mdt_xl2_v2_ckpt.pt": b"two", "README.md": b"# MDT"},
        "someone/avatars": {"model_index.json": b"{}", "vae/config.json": b"{}", "big.bin": b"not asked for"},
    }
    code = """
import sys
from mdt_core.weights.hub import resolve
for model in sys.argv[1:]:
    try:
        print(resolve(model))
    except ValueError as error:
        print(error)
"""
    ids = ["shgao/MDT-XL2", "someone/avatars", "no/body", "shgao/MDT-XL2/other.pt", "shgao/MDT-XL2/mdt_xl2_v1_ckpt.pt"]
    with serve_hub(repositories) as (variables, fetched):
        done = python("-c", code, *ids, HF_HOME=str(tmp_path), **variables)
    v2, folder, unknown, no_file, v1 = done.stdout.splitlines()
    assert Path(v2).read_bytes() == b"two" and Path(v1).read_bytes() == b"one"
    assert {path.name for path in Path(folder).rglob("*") if path.is_file()} == {"model_index.json", "config.json"}
    assert unknown.startswith("no/body: no such local folder, and the hub did not give it")
    assert no_file == "shgao/MDT-XL2: holds no file other.pt on the hub"
    assert fetched.index("mdt_xl2_v1_ckpt.pt") > fetched.index("mdt_xl2_v2_ckpt.pt")
    assert set(fetched) & {"README.md", "big.bin"} == set()
