"""Any source opens: the models that a page offers, and the checkpoints of runs among them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from gradio_client import Client

from app.engine.engine import Engine
from app.engine.model_info import describe_pipeline, version_of, weights_of
from app.engine.models import Models, checkpoint_name, find_models, name_of
from app.engine.request import Request
from app.ui import build, launch
from mdt_core.pipeline.open import is_checkpoint, open_pipeline
from mdt_core.runs import Run
from mdt_core.weights.hub import expand
from tests.helpers.stand_in import StandInPipeline
from tests.helpers.tiny import NAMES, tiny_pipeline, write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "runs" / "first", steps=(1, 2))


def weights(run: Run, step: int) -> Path:
    return run.checkpoints[step] / "transformer" / "diffusion_pytorch_model.safetensors"


def test_a_checkpoint_opens_with_its_own_weights_and_the_rest_of_its_run(run: Run) -> None:
    """Catches the run's initial weights in place of the checkpoint's, and lost class names or previews."""
    pipe = open_pipeline(run.checkpoints[2])
    expected = tiny_pipeline(seed=2).transformer.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in pipe.transformer.state_dict().items())
    assert pipe.id2label == NAMES
    assert pipe.config.preview_weights is not None
    assert not pipe.transformer.training
    assert open_pipeline(run.folder / "pipeline").id2label == NAMES  # a pipeline folder opens as before


def test_weights_are_told_apart(run: Run) -> None:
    one, other = (open_pipeline(run.checkpoints[step]) for step in (1, 2))
    assert weights_of(one) == weights_of(open_pipeline(run.checkpoints[1])) != weights_of(other)
    before = weights_of(one)
    with torch.no_grad():
        one.vae.decoder.layers[-1].bias += 1e-3
    assert weights_of(one) != before


def test_a_page_is_told_a_models_presets_as_far_as_it_can_show_them() -> None:
    """Catches presets that stay in the pipeline, and a scale beyond the slider's end."""
    pipe = tiny_pipeline()
    own = {"guidance_scale": 12, "guidance_low": 200, "presets": {"fast": {"num_inference_steps": 4}}}
    pipe.sampling_defaults = own
    info = describe_pipeline("tiny", pipe, "cpu", "float32")
    balanced = {"sampler": "dpm++", "num_inference_steps": 25, "guidance_scale": 10, "guidance_power": 4.0}
    balanced |= {"guidance_kind": "class", "guidance_high": 999, "guidance_low": 200, "first_timestep": 999}
    balanced |= {"distilled": False}
    slow = balanced | {"sampler": "ddpm", "num_inference_steps": 250}
    assert info.presets == {"fast": balanced | {"num_inference_steps": 4}, "balanced": balanced, "slow": slow}
    assert info.sampling_defaults == balanced


@pytest.mark.parametrize("harm", ["cut short", "empty", "no config", "a key less", "another model's", "no pipeline"])
def test_a_broken_checkpoint_is_refused_in_one_sentence(run: Run, harm: str) -> None:
    """Catches a traceback of a reader's, and weights that stay at random because a file does not have them."""
    file = weights(run, 1)
    match harm:
        case "cut short":
            file.write_bytes(file.read_bytes()[:-100])
        case "empty":
            file.write_bytes(b"")
        case "no config":
            (file.parent / "config.json").unlink()
        case "a key less":
            from safetensors.torch import load_file, save_file

            state = load_file(file)
            state.popitem()
            save_file(state, file, metadata={"format": "pt"})
        case "another model's":
            config = json.loads((file.parent / "config.json").read_text())
            (file.parent / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
        case "no pipeline":
            shutil.rmtree(run.folder / "pipeline")
    with pytest.raises(ValueError, match="checkpoint") as caught:
        open_pipeline(run.checkpoints[1])
    assert "\n" not in str(caught.value)


def test_the_models_are_those_given_and_the_checkpoints_there_are_now(run: Run) -> None:
    """Catches a list made once at start, a half-made or unopenable checkpoint in it, and a path taken for a name."""
    models = Models({"given": "A"}, [run.folder.parent, Path("nowhere")])
    assert list(models) == ["given", "first @ 2", "first @ 1"]
    write_run(run.folder.with_name("second"), steps=(7,))
    (run.folder / "checkpoints" / ".step_00000009.partial" / "transformer").mkdir(parents=True)
    (run.folder / "checkpoints" / "step_00000008").mkdir()
    assert list(models) == ["given", "first @ 2", "first @ 1", "second @ 7"]
    assert Path(models["second @ 7"]).name == "step_00000007"
    shutil.rmtree(run.folder)
    assert list(models) == ["given", "second @ 7"]
    for name in ("first @ 2", "../runs/second @ 7", "second", str(run.folder), "", "A"):
        assert name not in models


def test_of_two_folders_the_first_that_has_a_run_counts(tmp_path: Path) -> None:
    """Catches a shipped run that hides a visitor's own of the same name."""
    folders = [tmp_path / "mine", tmp_path / "shipped"]
    for folder in folders:
        write_run(folder / "avatars", steps=(1,))
    assert Path(Models({}, folders)["avatars @ 1"]).is_relative_to(tmp_path / "mine")


def test_a_link_out_of_the_runs_is_no_model(run: Run, tmp_path: Path) -> None:
    """Catches models that are found by a looser rule than the runs on the Training progress tab."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "link").symlink_to(run.folder)
    assert list(Models({}, [tmp_path / "shared"])) == []


def test_a_model_is_called_by_the_end_of_its_location(tmp_path: Path) -> None:
    """Catches a checkpoint given on the command line that is called like every other, `step_00000001`."""
    assert name_of("runs/avatars/checkpoints/step_00007000") == checkpoint_name("avatars", 7000) == "avatars @ 7000"
    assert name_of("some/folder/") == name_of("hub/folder") == name_of("~nobody-of-this-name/folder") == "folder"
    shipped = tmp_path / "avatars"
    shipped.mkdir()
    (shipped / "model_index.json").write_text("{}")
    assert find_models(str(shipped), tmp_path) == {"avatars": str(shipped)}
    assert list(find_models("mine", tmp_path)) == ["mine", "avatars"]


def test_the_home_of_nobody_is_a_place_where_nothing_is() -> None:
    """Catches a RuntimeError of pathlib's on a mistyped `~name`, and a `~` that is not the visitor's home."""
    assert expand("~") == Path.home()
    assert not is_checkpoint("~nobody-of-this-name/x")
    assert version_of("~nobody-of-this-name/x") == version_of("nowhere")
    with pytest.raises(ValueError, match="~nobody-of-this-name/x: no such file or folder"):
        open_pipeline("~nobody-of-this-name/x")


def test_the_engine_draws_with_a_checkpoint_by_name(run: Run) -> None:
    """Catches an engine that keeps the weights of the model before."""
    engine = Engine(Models({"start": str(run.folder / "pipeline")}, [run.folder.parent]), device="cpu")
    found = []
    for name in engine.models:
        *_, last = engine.run((Request(name, (0,), (0,), num_inference_steps=2),))
        found.append(last.images[0].tobytes())
    assert len(set(found)) == 3
    assert engine.describe("first @ 2").name == "first @ 2"
    with pytest.raises(ValueError, match=r"no model 'first @ 3': choose one of start, first @ 2, first @ 1\."):
        engine.describe("first @ 3")


@pytest.mark.parametrize("name", [None, 3, ["a"], {"a": 1}, "nobody"])
def test_a_strange_name_in_a_recipe_falls_back(name: object) -> None:
    """Catches a crash on a list where a name should be: recipes come from strangers."""
    assert Engine({"a": "A"}, device="cpu", load=lambda _: StandInPipeline()).find(name, "a") == "a"


def test_clients_reach_checkpoints_by_name_and_nothing_else(run: Run, tmp_path: Path) -> None:
    """Catches an API that opens whatever path a client names as a model."""
    engine = Engine(Models({"shapes": "A"}, [run.folder.parent]), device="cpu", load=lambda _: StandInPipeline())
    demo = build(engine, run.folder.parent)
    _, url, _ = launch(demo, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        client = Client(url, verbose=False, download_files=tmp_path / "results")
        assert client.predict(0, num_inference_steps=1, model="first @ 1", api_name="/generate")
        for name in (str(run.checkpoints[1]), "../runs/first", "first @ 1/../../.."):
            with pytest.raises(Exception, match="There is no model"):
                client.predict(0, num_inference_steps=1, model=name, api_name="/generate")
    finally:
        demo.close()
