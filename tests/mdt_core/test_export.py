"""An exported folder: what plain diffusers opens and draws where nothing of ours can be imported.

Would catch: code that still needs this package, a picture that differs by one level from ours, a warning that the user
of diffusers would see, and two exported models that disturb each other in one process.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors import safe_open

from mdt_core import MDT, DiT, MDTPipeline, MDTv2
from mdt_core.__main__ import main
from mdt_core.lora import LORA_FILE
from mdt_core.pipeline.open import open_pipeline
from tests.helpers.forked import python
from tests.helpers.hub import serve_hub
from tests.helpers.tiny import NAMES, random_lora, tiny_pipeline, with_adapter, write_run

ROOT = Path(__file__).parents[2]
METHODS = {"DiT": "repaint", "MDT": "mdt", "MDTv2": "mdt"}
GENERATE = {"class_labels": ["dog", None, {"cat": 0.6, "dog": 0.4}], "seeds": [5, 6, 7], "num_inference_steps": 3}
# settings that the MDT carries
OWN = {"sampler": "ddim", "num_inference_steps": 3, "guidance_scale": 2.5, "guidance_kind": "both"}
DEFAULT = {"class_labels": [2], "seeds": [4]}
INPAINT = {"class_labels": [1], "seeds": [7], "num_inference_steps": 4}

# Opens every model before the first draws: diffusers runs the code of each under the same module names.
PLAIN = f"""
import sys
from pathlib import Path
class NothingOfOurs:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mdt_core", "train", "app", "tests"):
            raise ImportError(name)
sys.meta_path.insert(0, NothingOfOurs())
import numpy as np
from diffusers import DiffusionPipeline
from diffusers.utils import logging
logging.disable_progress_bar()
image, mask = np.load("image.npy"), np.load("mask.npy")
pipes = [DiffusionPipeline.from_pretrained(source, trust_remote_code=True) for source in sys.argv[1:]]
drawn = {{}}
for number, pipe in enumerate(pipes):
    method = {METHODS}[type(pipe.transformer).__name__]
    *_, last = pipe.optimize(dtype="float32").stream(**{GENERATE})
    drawn[f"generated {{number}}"] = np.stack(last.images)
    drawn[f"preview {{number}}"] = np.stack(last.preview)
    drawn[f"by default {{number}}"] = np.stack(pipe(**{DEFAULT}).images)
    drawn[f"inpainted {{number}}"] = np.stack(pipe.inpaint(image, mask, method=method, **{INPAINT}).images)
    if (Path(sys.argv[1 + number]) / "pytorch_lora_weights.safetensors").exists():
        pipe.load_lora_weights(sys.argv[1 + number])
        drawn[f"distilled {{number}}"] = np.stack(pipe(**{DEFAULT}, distilled=True).images)
    pipe.save_pretrained(f"saved {{number}}")
np.savez("drawn.npz", **drawn)
"""


def tiny(kind: type) -> MDTPipeline:
    """A pipeline of each class; its autoencoder is the same."""
    pipe = tiny_pipeline()
    if kind is MDTv2:
        pipe.transformer = with_adapter(pipe.transformer, [1])
        return pipe
    sizes = {"hidden_size": 32, "depth": 4, "num_heads": 2, "num_classes": len(NAMES)}
    model = kind(sample_size=8, in_channels=8, decoder_layers=0 if kind is DiT else 2, **sizes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    own = OWN if kind is MDT else None
    return MDTPipeline(model, pipe.vae, id2label=NAMES, guidance_channels=None, sampling_defaults=own)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """A saved pipeline of each class."""
    folder = tmp_path_factory.mktemp("saved")
    for kind in (DiT, MDT, MDTv2):
        pipe = tiny(kind)
        if kind is MDTv2:
            pipe.lora = random_lora(pipe.transformer)
        pipe.fit_preview()
        pipe.save_pretrained(folder / kind.__name__)
    return {kind: folder / kind for kind in METHODS}


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory) -> dict[str, Path]:
    """What `export` makes of each."""
    folder = tmp_path_factory.mktemp("exported")
    for kind, source in saved.items():
        main(["export", str(source), str(folder / kind)])
    return {kind: folder / kind for kind in saved}


def picture_and_mask() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    mask = np.zeros((30, 50), bool)
    mask[8:20, 15:32] = True
    return image, mask


def drawn_by_us(source: Path, number: int) -> dict[str, np.ndarray]:
    pipe = MDTPipeline.from_pretrained(source)
    *_, last = pipe.stream(**GENERATE)
    inpainted = pipe.inpaint(*picture_and_mask(), method=METHODS[type(pipe.transformer).__name__], **INPAINT).images
    by_default = pipe(**DEFAULT).images
    made = {"generated": last.images, "by default": by_default, "preview": last.preview, "inpainted": inpainted}
    if pipe.lora is not None:
        made["distilled"] = pipe(**DEFAULT, distilled=True).images
    return {f"{name} {number}": np.stack(images) for name, images in made.items()}


def drawn_by_diffusers(cwd: Path, *sources: object, **variables: str) -> dict[str, np.ndarray]:
    """What plain diffusers draws in a folder of its own; it has nothing to warn of."""
    for name, array in zip(("image", "mask"), picture_and_mask(), strict=True):
        np.save(cwd / f"{name}.npy", array)
    cache = {"HF_HOME": str(cwd / "hub"), "HF_MODULES_CACHE": str(cwd / "modules")}
    done = python("-c", PLAIN, *sources, cwd=cwd, **cache, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    return dict(np.load(cwd / "drawn.npz"))


def assert_same(made: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert made.keys() == expected.keys()
    assert [name for name in made if not np.array_equal(made[name], expected[name])] == []


# --- opened elsewhere ---------------------------------------------------------------------------------------


@pytest.mark.forked
def test_plain_diffusers_draws_our_pictures(saved, exported, tmp_path):
    """Every class; MDTv2's folder once more at the end, which runs its code a second time."""
    expected = {}
    for number, kind in enumerate(["MDTv2", "DiT", "MDT", "MDTv2"]):
        expected |= drawn_by_us(saved[kind], number)
    folders = [exported[kind] for kind in ("MDTv2", "DiT", "MDT", "MDTv2")]
    assert_same(drawn_by_diffusers(tmp_path, *folders), expected)
    for number, kind in enumerate(["MDTv2", "DiT", "MDT"]):  # what diffusers saved of it, we open
        assert_same(drawn_by_us(tmp_path / f"saved {number}", 0), drawn_by_us(saved[kind], 0))


@pytest.mark.forked
def test_plain_diffusers_opens_it_from_the_hub(saved, exported, tmp_path):
    """Catches a file that the hub's download leaves out: of code it fetches one file a component."""
    folder = exported["MDTv2"]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with serve_hub({"me/tiny": files}) as (variables, fetched):
        made = drawn_by_diffusers(tmp_path, "me/tiny", **variables, HF_HUB_DISABLE_PROGRESS_BARS="1")
    expected = drawn_by_us(saved["MDTv2"], 0)
    del expected["distilled 0"]  # which plain diffusers reads from a folder alone
    assert_same(made, expected)
    assert sorted(name for name in fetched if name.endswith(".py")) == ["pipeline.py", "transformer/transformer.py"]


@pytest.mark.parametrize("kind", METHODS)
def test_we_open_it_with_our_own_code(saved, exported, kind):
    """Catches a folder of ours that asks us for `trust_remote_code`, and code of a folder that we would run."""
    for path in exported[kind].rglob("*.py"):
        assert "mdt_core." not in path.read_text("utf-8")
    pipe = MDTPipeline.from_pretrained(exported[kind])
    assert type(pipe) is MDTPipeline and type(pipe.transformer).__module__ == "mdt_core"
    assert_same(drawn_by_us(exported[kind], 0), drawn_by_us(saved[kind], 0))


def test_saved_again_by_us_it_is_an_ordinary_folder(exported, tmp_path):
    MDTPipeline.from_pretrained(exported["MDTv2"]).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert (index["_class_name"], index["transformer"]) == ("MDTPipeline", ["mdt_core", "MDTv2"])


# --- what is written ----------------------------------------------------------------------------------------


def test_the_code_reads_like_ours(exported):
    """Catches a name that nothing defines, and code that a copy left without layout or licence."""
    command = [sys.executable, "-m", "ruff", "--config", str(ROOT / "pyproject.toml")]
    for path in sorted(exported["MDTv2"].rglob("*.py")):
        code = path.read_text("utf-8")
        assert "Licensed under the Apache License, Version 2.0" in code.partition("import")[0]
        code = re.sub(r"(?<=\S) {2,}# ", "  # ", code)  # a table's shapes stand in a column
        for check in (["check"], ["format", "--check"]):
            arguments = [*command[:3], *check, *command[3:], "-"]
            done = subprocess.run(arguments, input=code, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout


def test_a_checkpoint_is_exported_with_its_runs_pipeline(tmp_path):
    run = write_run(tmp_path / "run", steps=(1, 2))
    main(["export", str(run.checkpoints[1]), str(tmp_path / "out")])
    opened, expected = MDTPipeline.from_pretrained(tmp_path / "out"), open_pipeline(run.checkpoints[1])
    for ours, theirs in zip(opened.transformer.parameters(), expected.transformer.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert opened.id2label == expected.id2label


def test_what_was_published_in_float16_stays_so(tmp_path):
    """Catches a folder twice as large as the one it was made of, and weights that lose digits."""
    pipe = tiny_pipeline()
    pipe.transformer.half().float()
    pipe.save_pretrained(tmp_path / "source")
    main(["export", str(tmp_path / "source"), str(tmp_path / "out")])
    kinds = {}
    for part in ("transformer", "vae"):
        with safe_open(tmp_path / "out" / part / "diffusion_pytorch_model.safetensors", "pt") as file:
            kinds[part] = {file.get_tensor(name).dtype for name in file.keys()} - {torch.int64}  # noqa: SIM118
    assert kinds == {"transformer": {torch.float16}, "vae": {torch.float32}}
    assert_same(drawn_by_us(tmp_path / "out", 0), drawn_by_us(tmp_path / "source", 0))


def test_a_model_without_a_card_gets_one_and_a_card_is_kept(exported, tmp_path):
    card = (exported["MDTv2"] / "README.md").read_text()
    for fact in (
        "32 x 32 pixels",
        "3 classes: cat, dog, sea lion",
        "25 steps of dpm++",
        "guidance by class, scale 3.8",
        "Licence",
    ):
        assert fact in " ".join(card.split())
    assert f'from_pretrained("{exported["MDTv2"]}", trust_remote_code=True)' in card
    assert "3 steps of ddim, guidance by both, scale 2.5, power 4" in (exported["MDT"] / "README.md").read_text()
    assert 'method="repaint"' in (exported["DiT"] / "README.md").read_text()
    tiny_pipeline().save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "README.md").write_text("# Cats\n")
    main(["export", str(tmp_path / "own"), str(tmp_path / "out")])
    assert (tmp_path / "out" / "README.md").read_text() == "# Cats\n"


# --- to the hub ---------------------------------------------------------------------------------------------


class Hub:
    """A stand-in for the functions of huggingface_hub that write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, token: str | None = "hf_token"):
        self.repositories: dict[str, set[str]] = {}
        self.error: Exception | None = None
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
        monkeypatch.setattr(huggingface_hub, "create_repo", self.create_repo)
        monkeypatch.setattr(huggingface_hub, "upload_folder", self.upload_folder)

    def create_repo(self, repo_id: str, exist_ok: bool) -> huggingface_hub.RepoUrl:
        if self.error:
            raise self.error
        assert exist_ok
        self.repositories.setdefault(repo_id, set())
        return huggingface_hub.RepoUrl(f"https://hub.test/{repo_id}", endpoint="https://hub.test")

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
        files = {path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()}
        self.repositories[repo_id] |= files


def test_pushed_it_lies_on_the_hub_and_its_address_is_said(saved, tmp_path, monkeypatch, capsys):
    hub = Hub(monkeypatch)
    main(["export", str(saved["MDTv2"]), str(tmp_path / "out"), "--push", "me/tiny"])
    assert capsys.readouterr().out.splitlines()[-1] == "https://hub.test/me/tiny"
    files = {"README.md", "model_index.json", "pipeline.py", LORA_FILE, "transformer/transformer.py"}
    for part in ("transformer", "vae"):
        files |= {f"{part}/config.json", f"{part}/diffusion_pytorch_model.safetensors"}
    assert hub.repositories == {"me/tiny": files}
    assert 'from_pretrained("me/tiny", trust_remote_code=True)' in (tmp_path / "out" / "README.md").read_text()


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_without_a_token_nothing_is_begun(saved, tmp_path, monkeypatch, capsys):
    Hub(monkeypatch, token=None)
    line = refused(capsys, "export", saved["DiT"], tmp_path / "out", "--push", "me/tiny")
    assert "hf auth login" in line and not (tmp_path / "out").exists()


def test_an_id_that_cannot_be_one_is_refused_at_once(saved, tmp_path, monkeypatch, capsys):
    Hub(monkeypatch)
    assert "me/my/tiny" in refused(capsys, "export", saved["DiT"], tmp_path / "out", "--push", "me/my/tiny")
    assert not (tmp_path / "out").exists()


def test_a_hub_that_does_not_take_it_leaves_the_folder(saved, tmp_path, monkeypatch, capsys):
    Hub(monkeypatch).error = OSError("no network")
    line = refused(capsys, "export", saved["DiT"], tmp_path / "out", "--push", "me/tiny")
    assert f"{tmp_path / 'out'} is written, but me/tiny did not take it (no network)" in line
    assert (tmp_path / "out" / "pipeline.py").is_file()


def test_a_folder_that_holds_something_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "not an empty folder" in refused(capsys, "export", "no/model", tmp_path)


def test_a_model_that_is_none_leaves_nothing(tmp_path, capsys):
    assert "nowhere: no such file" in refused(capsys, "export", "nowhere", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
