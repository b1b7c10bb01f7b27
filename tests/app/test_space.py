"""`make space`: what goes to a Space, what is said where it cannot go, and that the app starts from that alone."""

import os
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.utils import filter_repo_objects

from app import space
from tests.helpers.forked import python

ROOT = Path(__file__).parents[2]


class Hub:
    """The part of huggingface_hub.HfApi that is used, without a network."""

    def __init__(self) -> None:
        self.created, self.sent, self.deleted = [], set(), set()
        self.there = ["README.md", "app/old.py", "notes.txt"]  # on the Space before

    def create_repo(self, repo_id: str, **options: object) -> RepoUrl:
        self.created.append((repo_id, options))
        return RepoUrl(f"{HfApi().endpoint}/spaces/{repo_id}")

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: list, delete_patterns: list, **_: object
    ) -> None:
        """As the package does it; patterns are read by the package itself."""
        paths = [path for top in folder_path.glob("[!.]*") for path in (top, *top.rglob("*")) if path.is_file()]
        files = [path.relative_to(folder_path).as_posix() for path in paths]
        self.sent = set(filter_repo_objects(files, allow_patterns=allow_patterns))
        self.deleted = set(filter_repo_objects(self.there, allow_patterns=delete_patterns)) - self.sent


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(space, "HfApi", lambda: hub)
    monkeypatch.setattr(space, "get_token", lambda: "token")
    return hub


def test_a_space_gets_what_the_app_needs_and_nothing_else(hub: Hub, capsys: pytest.CaptureFixture) -> None:
    """Catches a Space without its model or examples, one with tests and training, hardware chosen for its owner, and
    code of an older version that stays. What the owner put beside it stays, too.
    """
    space.main(["me/mdt-studio"])
    assert hub.created == [("me/mdt-studio", {"repo_type": "space", "space_sdk": "gradio", "exist_ok": True})]
    assert {"app.py", "requirements.txt", "README.md", "LICENSE"} <= hub.sent
    assert {
        "app/ui.py",
        "mdt_core/__init__.py",
        "app/page/style.css",
        "assets/models/avatars/model_index.json",
    } <= hub.sent
    assert {name.split("/")[0] for name in hub.sent} == set(space.NEEDED)
    assert not any("__pycache__" in name or name.endswith((".pyc", ".pyi")) for name in hub.sent)
    assert hub.deleted == {"app/old.py"}
    assert re.fullmatch(r"The app builds at \S+/spaces/me/mdt-studio\n", capsys.readouterr().out)


def said(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        space.main(arguments)
    text = capsys.readouterr().err
    assert end.value.code == 2 and text.count("\n") == 1
    return text


def test_what_cannot_be_done_is_told_in_one_line(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Catches the traceback of a library, and a question to the hub without a token."""
    assert "REPO_ID" in said(capsys)
    monkeypatch.setattr(hub, "create_repo", HfApi().create_repo)
    assert "the hub did not take a b" in said(capsys, "a b")
    monkeypatch.setattr(space, "get_token", lambda: None)
    assert "the hub does not know you: say `hf auth login`" in said(capsys, "me/mdt-studio")
    assert hub.sent == set()


START = """
import runpy, sys
from contextlib import suppress
from pathlib import Path
sys.path.insert(0, "")
with suppress(SystemExit):
    runpy.run_path("app.py")["main"](["--help"])
import mdt_core
from app.engine.engine import Engine
from app.engine.models import MODELS, SHIPPED_RUNS, Models, find_models
from app.ui import build
models = Models(find_models(str(MODELS / "avatars")), runs=(Path("runs"), SHIPPED_RUNS))
build(Engine(models, device="cpu"), Path("runs"))
print("built from", mdt_core.__file__, len(models))
"""


@pytest.mark.forked
def test_the_app_starts_from_what_a_space_gets(tmp_path: Path) -> None:
    """Catches a module, style sheet or file that lies outside what is uploaded."""
    for name in space.needed_files():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(ROOT / name, tmp_path / name)
        except OSError:  # another file system
            shutil.copy(ROOT / name, tmp_path / name)
    done = python("-c", START, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--root-path" in done.stdout
    assert f"built from {tmp_path}/mdt_core/__init__.py" in done.stdout
