"""The training command from latents to a pipeline folder, and what it says to a wrong call."""

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import load_file

from mdt_core import MDTPipeline, MDTTransformer, create_model
from mdt_core.pipeline.open import open_pipeline
from mdt_core.pipeline.settings import SamplingSettings
from mdt_core.presets import SIZES, Size
from mdt_core.runs import Run, pipeline_of
from mdt_core.training import flops
from mdt_core.training.config import TrainingConfig
from mdt_core.weights.hub import open_autoencoder
from tests.helpers.forked import start_together
from tests.helpers.tiny import NAMES, tiny_pipeline
from train import avatars
from train.__main__ import main
from train.autoencoder.model import small_autoencoder
from train.config import RECIPES
from train.costs import ModelCosts, table
from train.export import assemble, export, export_run
from train.latents.encode import encode
from train.latents.images import DrawnImages
from train.run_recipe import make_accelerator
from train.tune import write_presets

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def a_process_of_its_own():
    """accelerate keeps its settings as long as the process lives, and a command starts in a new one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def settings(tmp_path) -> list[str]:
    """Latents of 48 random images of three classes, and settings for a very short run on them."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (48, 3, 32, 32), np.uint8), np.arange(48) % 3
    avatars.save(tmp_path, "train", avatars.Split(images, labels, np.arange(48), names=("cat", "dog", "hen")))
    vae = small_autoencoder(8, 8, latent_channels=8, block=4)
    vae.save_pretrained(tmp_path / "vae")
    encode(DrawnImages(tmp_path, "train"), vae, tmp_path / "latents")
    paths = [f"latents={tmp_path / 'latents'}", f"vae={tmp_path / 'vae'}"]
    return [*paths, "batch_size=4", "log_every=1", "save_every=2", "sample_steps=3"]


@pytest.fixture
def tiny_sizes(monkeypatch):
    """For a test whose subject is not the size of the model or of its files."""
    monkeypatch.setitem(SIZES, "XS", Size(4, 48, 2, 2))


@pytest.mark.slow
def test_the_command_makes_a_pipeline_and_the_same_command_resumes(settings, tmp_path, capsys):
    """Catches a run that starts over, a preview or class names that do not reach the model, a folder left half made,
    and settings tuned for the run that are gone at its end."""
    run = Run(tmp_path / "run")
    main(["avatars", "--output-dir", str(run.folder), "--set", *settings, "steps=3"])
    first = [row["images_per_second"] for row in run.metrics]
    (run.folder / "pipeline" / "README.md").write_text("a card")
    tuned = replace(SamplingSettings(), num_inference_steps=7)
    write_presets(run.folder / "pipeline" / "model_index.json", dict.fromkeys(("fast", "balanced", "slow"), tuned))
    main(["avatars", "--output-dir", str(run.folder), "--set", *settings, "steps=5"])
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4, 5]
    assert [row["images_per_second"] for row in run.metrics][:3] == first  # not run again
    assert list(run.checkpoints) == [4, 5]
    assert Image.open(run.samples[5]).size == (3 * 32, 2 * 32)  # a column per class
    assert run.config["training"]["steps"] == 5 and run.config["classes"] == ["cat", "dog", "hen"]

    assert (run.folder / "pipeline" / "README.md").read_text() == "a card"
    assert "block_out_channels" not in json.loads((run.folder / "pipeline" / "vae" / "config.json").read_text())
    pipe = MDTPipeline.from_pretrained(run.folder / "pipeline")
    assert pipe.id2label == {0: "cat", 1: "dog", 2: "hen"} and pipe.image_size == 32
    assert pipe.config.preview_weights is not None and pipe.config.guidance_channels is None
    assert pipe.sampling_defaults == tuned
    assert all(file.stat().st_size < 10_000_000 for file in (run.folder / "pipeline").rglob("*") if file.is_file())


@pytest.mark.slow
def test_a_run_grows_a_smaller_runs_model_and_is_stored_in_half(settings, tmp_path):
    """Catches a larger model that starts over, and 16 bits on the disk that the pipeline then computes with."""
    small, large = Run(tmp_path / "small"), Run(tmp_path / "large")
    settings += ["label_dropout=0.0"]
    main(["avatars", "--output-dir", str(small.folder), "--set", *settings, "steps=1"])
    grown = ["--init-from", str(small.folder / "pipeline"), "--set", *settings, "model='MDTv2-XS256/2'", "steps=1"]
    main(["avatars", "--output-dir", str(large.folder), *grown, "learning_rate=1e-9"])
    latents, told = torch.randn(2, 8, 8, 8), (torch.tensor([10, 500]), torch.tensor([0, 2]))
    with torch.no_grad():
        expected, got = (open_pipeline(run.folder / "pipeline").transformer(latents, *told) for run in (small, large))
    assert (got - expected).std() < 0.15 * expected.std()  # a fresh stream is far from mean zero

    export(large, str(tmp_path / "vae"), tmp_path / "half", half=True)
    stored = load_file(next((tmp_path / "half" / "transformer").glob("*-00001-of-*.safetensors")))
    assert {weight.dtype for weight in stored.values() if weight.is_floating_point()} == {torch.float16}
    pipe = MDTPipeline.from_pretrained(tmp_path / "half")
    assert pipe.transformer.dtype == pipe.vae.dtype == torch.float32
    with torch.no_grad():
        assert (pipe.transformer(latents, *told) - got).std() < 2e-3 * got.std()


@pytest.mark.forked
def test_two_processes_on_a_cpu_share_one_run(settings, tmp_path):
    """As a launcher starts them. Catches processes that do not find each other: each then trains the whole run."""
    run = Run(tmp_path / "run")
    command = ["avatars-dit", "--output-dir", str(run.folder), "--set", *settings, "steps=2"]
    done = [child.wait() for child in start_together(main, command)]
    assert [each.returncode for each in done] == [0, 0], done
    assert sum(each.stdout.count("48 images, 3 classes") for each in done) == 1  # told by the main process
    assert [row["step"] for row in run.metrics] == [1, 2] and 2 in run.checkpoints


def test_processes_are_patient_and_look_for_unused_weights_only_where_there_are_some(tmp_path):
    """Catches a main process that the others give up on while it writes, and a search after every step for nothing."""
    for name, unused in (("avatars", False), ("avatars-dit", False), ("avatars-mdt-no-mask", True)):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = make_accelerator(RECIPES[name], Run(tmp_path))
        assert accelerator.ddp_handler.find_unused_parameters is unused
        assert accelerator.init_handler.timeout >= timedelta(hours=1)


def test_a_preview_is_fitted_to_a_few_pictures_where_the_autoencoder_is():
    """A class is every 30th image. Catches hundreds decoded while the other processes wait, and all of one class."""
    asked = []

    class Data:
        def __len__(self) -> int:
            return 960

        def batch(self, indices: list[int]) -> tuple[torch.Tensor]:
            asked.extend(indices)
            return (torch.randn(len(indices), 8, 8, 8),)

    tiny = tiny_pipeline()
    pipe = assemble(tiny.transformer.to("meta"), tiny.vae, NAMES, Data())
    assert len(set(asked)) == len(asked) == 32 and len({index % 30 for index in asked}) > 10
    assert len(pipe.config.preview_weights[0]) == 9


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["avatar"], "avatars-gpu"),
        (["avatars", "--set", "stepps=3"], "stepps"),
        (["avatars", "--set", "latents=nowhere"], "train.latents"),
        (["avatars", "--stepps"], "unrecognized arguments: --stepps"),
    ],
)
def test_a_wrong_command_ends_with_one_line(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([arguments[0], "--output-dir", str(tmp_path / "run"), *arguments[1:]])
    said = capsys.readouterr().err
    assert end.value.code == 2 and message in said and said.count("\n") == 1


@pytest.mark.usefixtures("tiny_sizes")
def test_a_run_of_another_model_is_left_as_it_is(settings, tmp_path, capsys):
    """Catches a slip of the recipe's name that overwrites what a finished run says of itself."""
    run = Run(tmp_path / "run")
    main(["avatars-dit", "--output-dir", str(run.folder), "--set", *settings, "steps=2"])
    before = run.config
    with pytest.raises(SystemExit) as end:
        main(["avatars", "--output-dir", str(run.folder), "--set", *settings, "steps=2"])
    assert end.value.code == 2 and "model DiT-XS/2 there and MDTv2-XS/2 here" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["avatars-dit", "--output-dir", str(run.folder), "--set", *settings, "optimizer=adan"])
    assert "optimizer adamw there and adan here" in capsys.readouterr().err
    renamed = tmp_path / "renamed"
    split = avatars.load(tmp_path, "train")
    avatars.save(renamed, "train", avatars.Split(split.images, split.labels, split.seeds, names=("v", "w", "x")))
    encode(DrawnImages(renamed, "train"), open_autoencoder(tmp_path / "vae"), renamed)
    with pytest.raises(SystemExit):
        main(["avatars-dit", "--output-dir", str(run.folder), "--set", *settings, f"latents={renamed}", "steps=3"])
    assert "classes ['cat', 'dog', 'hen'] there and ['v', 'w', 'x'] here" in capsys.readouterr().err
    assert run.config == before


@pytest.mark.usefixtures("tiny_sizes")
def test_a_run_goes_on_with_latents_of_its_own_autoencoder_and_not_with_fewer_steps(settings, tmp_path, capsys):
    """Catches a model that learns another space half-way, and a call that does nothing and says so to nobody."""
    run = ["avatars-dit", "--output-dir", str(tmp_path / "run"), "--set", *settings]
    main([*run, "steps=3"])
    before = Run(tmp_path / "run").config
    with pytest.raises(SystemExit) as end:
        main([*run, "steps=2"])
    said = capsys.readouterr().err
    assert end.value.code == 2 and "has taken 3 steps, 2 are asked for: go on with --set steps=3 or more" in said
    other = tmp_path / "other"
    small_autoencoder(8, 8, latent_channels=8, block=4).save_pretrained(other)
    encode(DrawnImages(tmp_path, "train"), open_autoencoder(other), other)
    with pytest.raises(SystemExit):
        main([*run, "steps=4", f"latents={other}", f"vae={other}"])
    assert re.search("holds another run, encoder [0-9a-f]{16} there and [0-9a-f]{16} here", capsys.readouterr().err)
    assert Run(tmp_path / "run").config == before


def test_latents_of_another_autoencoder_are_refused(settings, tmp_path, capsys):
    """Catches a run whose samples are decoded by an autoencoder that knows nothing of its latents."""
    small_autoencoder(8, 8, latent_channels=8, block=4).save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit):
        main(["avatars", "--output-dir", str(tmp_path / "run"), "--set", *settings, f"vae={tmp_path / 'other'}"])
    assert "was encoded by another autoencoder than" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_shared_out_is_refused_before_a_folder_is_written(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["avatars", "--output-dir", str(tmp_path / "run"), "--set", *settings, "accumulation=3"])
    assert end.value.code == 2 and "batch_size 4 does not divide among 1 processes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("tiny_sizes")
def test_a_checkpoint_opens_as_a_pipeline_while_its_run_is_being_trained(settings, tmp_path, monkeypatch):
    """Catches a run folder without autoencoder or class names before its end, and a start that resets them."""
    run = Run(tmp_path / "run")
    monkeypatch.setattr("train.run_recipe.export", lambda *_: None)  # the run never comes to its end
    main(["avatars", "--output-dir", str(run.folder), "--set", *settings, "steps=2"])
    transformer, rest = pipeline_of(run.checkpoints[2])
    pipe = MDTPipeline.from_pretrained(rest, transformer=MDTTransformer.from_pretrained(transformer))
    assert pipe.id2label == {0: "cat", 1: "dog", 2: "hen"} and pipe.config.preview_weights is not None
    for folder in (run.folder, run.folder / "checkpoints" / "step_00000009"):
        with pytest.raises(ValueError, match="no checkpoint"):
            pipeline_of(folder)


@pytest.mark.usefixtures("tiny_sizes")
def test_without_classes_and_from_another_runs_weights(settings, tmp_path):
    """Catches an unconditional run whose samples or pipeline need a class, and weights that are not those asked for."""
    first, second = Run(tmp_path / "first"), Run(tmp_path / "second")
    main(["avatars", "--output-dir", str(first.folder), "--set", *settings, "steps=2"])
    start = ["--init-from", str(first.folder / "pipeline")]
    more = ["unconditional=True", "tensorboard=True", "learning_rate=0", "steps=1"]
    main(["avatars", "--output-dir", str(second.folder), *start, "--set", *settings, *more])
    assert second.config["classes"] == ["no class"] and second.config["init_from"] == start[1]
    assert Image.open(second.samples[1]).size == (32, 2 * 32)
    assert any((second.folder / "tensorboard").rglob("events*"))

    theirs, ours = (MDTPipeline.from_pretrained(run.folder / "pipeline") for run in (first, second))
    assert ours.num_classes == 0 and len(ours([None], num_inference_steps=1, seeds=[0]).images) == 1
    first.folder.rename(tmp_path / "gone")  # to go on takes no more than the run itself
    main(["avatars", "--output-dir", str(second.folder), *start, "--set", *settings, *more, "steps=2"])
    assert list(second.checkpoints)[-1] == 2
    for key, value in ours.transformer.state_dict().items():
        of_table = theirs.transformer.state_dict()[key][-len(value) :]  # of the class table, the null class's row
        assert torch.equal(value, of_table), key


def test_the_list_says_what_a_recipe_costs():
    """Against SPEED.md's figures: catches a masked pass left out of the hours, or GMACs that are FLOPs."""
    head, row, *_ = table({"mdtv2-s2": RECIPES["mdtv2-s2"]}).splitlines()
    cells = dict(zip(re.split(r"  +", head), re.split(r"  +", row), strict=True))
    assert cells["weights"] == "38.5 M" and cells["GMAC"] == "6.74"
    hours = 6 * (6.735e9 + 5.86e9) * 256 * 400_000 / (0.4 * 989e12) / 3600
    assert float(cells["hours"]) == pytest.approx(hours, rel=0.1)  # the masked pass got cheaper since


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if "l2" not in name])  # XL/2 differs from B/2 by sizes alone
def test_costs_are_those_of_the_model(name):
    """The formulas against what torch counts: catches a part that they miss, or count where a recipe leaves it out."""
    recipe = RECIPES[name]
    channels, side, classes = recipe.data_shape
    with torch.device("meta"):
        model = create_model(recipe.model, side, classes, recipe.decoder_layers, channels, recipe.without)
    costs = ModelCosts(recipe)
    assert costs.parameters() == sum(parameter.numel() for parameter in model.parameters())
    assert costs.forward_macs() == flops.forward_macs(model)
    assert costs.step_flops(recipe.training) == flops.step_flops(model, recipe.training)


def test_the_list_and_the_help_wait_for_no_library():
    """Catches an import, or a model that is built, for a table: half a minute before a word."""
    for option in ("--list", "--help"):
        code = f"import sys; from train.__main__ import main\ntry: main(['{option}'])\nfinally: print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0 and "avatars-gpu" in done.stdout, done.stderr
        assert not {"torch", "numpy", "accelerate", "diffusers"} & set(done.stdout.splitlines()[-1].split())


def test_the_recipe_that_says_as_shipped_is_what_was_run():
    """Catches a recipe that makes another model than the one we ship, as one without the repeats would."""
    shipped = Run(ROOT / "assets" / "progress" / "avatars-shipped").config
    recipe = json.loads(json.dumps(asdict(RECIPES["avatars-gpu"])))
    for each in (shipped, recipe):
        each["training"] = TrainingConfig(**each["training"] | {"save_every": 1})  # what a kill costs, and no weight
    assert {key: recipe[key] for key in shipped if key != "classes"} == {
        key: value for key, value in shipped.items() if key != "classes"
    }


@pytest.mark.usefixtures("tiny_sizes")
def test_settings_given_apart_all_count(settings, tmp_path):
    """Catches a --set that makes an earlier one forgotten, and a source of weights that it takes the place of."""
    run, start = Run(tmp_path / "run"), tmp_path / "start"
    create_model("DiT-XS/2", 8, 3, in_channels=8).save_pretrained(start)
    apart = ["--set", *settings, "--init-from", str(start), "--set", "steps=1", "--set", "learning_rate=0"]
    main(["avatars-dit", "--output-dir", str(run.folder), *apart])
    assert run.config["init_from"] == str(start) and run.config["training"]["batch_size"] == 4
    trained, begun = (MDTTransformer.from_pretrained(path) for path in (run.checkpoints[1] / "transformer", start))
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), begun.parameters(), strict=True))


def test_a_run_is_shipped_small_and_its_checkpoint_still_opens(settings, tmp_path):
    """Catches a shipped run without what its checkpoint is opened with, an autoencoder that warns when it is opened,
    and optimizer states that nobody needs."""
    run = Run(tmp_path / "run")
    main(["avatars-dit", "--output-dir", str(run.folder), "--set", *settings, "steps=2"])
    run.write_evaluation({"step": 2, "kid_efflite0": 0.5})
    vae = run.folder / "pipeline" / "vae"
    AutoencoderTiny.from_pretrained(vae).save_pretrained(vae)  # it writes what it then warns of
    export_run(run, tmp_path / "small", [2])
    small = Run(tmp_path / "small")
    assert small.config == run.config and small.evaluations == run.evaluations
    assert [path.name for path in small.samples.values()] == [path.name for path in run.samples.values()]
    assert [path.name for path in small.checkpoints[2].iterdir()] == ["transformer"]
    opened, whole = (open_pipeline(each.checkpoints[2]) for each in (small, run))
    assert opened.id2label == {0: "cat", 1: "dog", 2: "hen"} and opened.transformer.dtype == torch.float32
    for key, value in whole.transformer.state_dict().items():
        assert torch.allclose(opened.transformer.state_dict()[key], value, rtol=1e-3, atol=1e-7), key
    weights = [sum(file.stat().st_size for file in each.checkpoints[2].rglob("*.safetensors")) for each in (small, run)]
    assert weights[0] < 0.2 * weights[1]  # of raw and averaged weights and the optimizer's, the averaged ones in half
    kept = small.folder / vae.relative_to(run.folder) / "config.json"
    assert "block_out_channels" not in json.loads(kept.read_text())
    with pytest.raises(ValueError, match="not at"):
        export_run(run, tmp_path / "other", [7])

    before = sorted(tmp_path.rglob("*"))
    for out, words in ((tmp_path, "replace the run"), (run.folder, "replace the run"), (tmp_path / "vae", "something")):
        with pytest.raises(ValueError, match=words):
            export_run(run, out)
        with pytest.raises(ValueError, match=words):
            export(run, str(tmp_path / "vae"), out)
    with pytest.raises(ValueError, match="holds no run"):
        export_run(Run(tmp_path / "typo"), small.folder)
    with pytest.raises(ValueError, match="something"):  # another run that can go on
        export_run(small, run.folder)
    assert sorted(tmp_path.rglob("*")) == before

    export_run(run, tmp_path / "short", until=1)
    short = Run(tmp_path / "short")
    assert [row["step"] for row in short.metrics] == [1] and not short.samples and not short.evaluations
    assert short.config["training"]["steps"] == 1 and short.config["excerpt_of"] == 2  # complete, not being trained
