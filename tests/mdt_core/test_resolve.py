"""Finding a model: a path, a folder of published files, or an id on the hub, from which only what is needed comes."""

import json
import os
import subprocess
import sys
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from mdt_core.weights.hub import resolve

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


class Hub(BaseHTTPRequestHandler):
    """A stand-in for the hub: the three answers that `snapshot_download` asks for. It notes the files fetched."""

    files: ClassVar[dict[str, dict[str, bytes]]] = {
        "shgao/MDT-XL2": {"mdt_xl2_v1_ckpt.pt": b"one", "mdt_xl2_v2_ckpt.pt": b"two", "README.md": b"# MDT"},
        "someone/avatars": {"model_index.json": b"{}", "vae/config.json": b"{}", "big.bin": b"not asked for"},
    }
    fetched: ClassVar[list[str]] = []

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        for repository, files in self.files.items():
            if path == f"api/models/{repository}/revision/main":
                siblings = [{"rfilename": name} for name in files]
                return self.answer({"id": repository, "sha": "0" * 40, "siblings": siblings})
            if path == f"api/models/{repository}/tree/{'0' * 40}":
                entries = files.items()
                return self.answer([{"type": "file", "path": n, "size": len(c), "oid": n} for n, c in entries])
            name = path.removeprefix(f"{repository}/resolve/{'0' * 40}/")
            if name in files:
                self.fetched.append(name)
                return self.answer(files[name])
        self.send_error(404)

    do_HEAD = do_GET

    def answer(self, content):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{zlib.crc32(body)}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_hub_ids_through_the_real_client(tmp_path):
    """Catches 5.8 GB where 3 were meant, a file that cannot be picked, and an unknown id without a sentence."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
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
    variables = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    variables |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        command = [sys.executable, "-c", code, *ids]
        done = subprocess.run(
            command, env=os.environ | variables, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
    finally:
        server.shutdown()
    v2, folder, unknown, no_file, v1 = done.stdout.splitlines()
    assert Path(v2).read_bytes() == b"two" and Path(v1).read_bytes() == b"one"
    assert {path.name for path in Path(folder).rglob("*") if path.is_file()} == {"model_index.json", "config.json"}
    assert unknown.startswith("no/body: no such local folder, and the hub did not give it")
    assert no_file == "shgao/MDT-XL2: holds no file other.pt on the hub"
    assert Hub.fetched.index("mdt_xl2_v1_ckpt.pt") > Hub.fetched.index("mdt_xl2_v2_ckpt.pt")
    assert set(Hub.fetched) & {"README.md", "big.bin"} == set()
