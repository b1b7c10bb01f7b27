"""The programs of train/ tell what was wrong with a call in one line."""

import re
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import train.latents.__main__ as latents_command
from mdt_core.runs import Run
from train import run_recipe
from train.autoencoder import decoder
from train.autoencoder import training as autoencoder_training
from train.autoencoder.config import AUTOENCODERS, DECODERS
from train.command import use_machine
from train.config import RECIPES
from train.distill import training as distill_training
from train.distill.config import RECIPES as STUDENTS
from train.settings import check_same_run, find_recipe

ROOT = Path(__file__).parents[2]

CALLS = {
    "autoencoder": "avatars --output-dir made --set data=nowhere",
    "avatars": "made --size many",
    "convergence": "report nowhere --baseline dit --out made",
    "autoencoder.decoder": "avatars --output-dir made --set model=nowhere",
    "evaluate": "--floor",
    "export": "nowhere --out made",
    "inpainting": "--model nowhere --methods magic",
    "inpainting ": "--model nowhere --device abacus",
    "neighbours ": "--samples nowhere --training nowhere --out made.png --device abacus",
    "evaluate ": "--model nowhere --device abacus --grid made.png",
    "convergence ": "evaluate nowhere --device abacus",
    "latents": "nowhere --vae nowhere --out made",
    "neighbours": "--samples nowhere --training nowhere --out made.png --rows 0",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_ends_with_one_line_and_status_2(name, tmp_path, monkeypatch, capsys):
    """Catches a traceback, a usage text in front of the reason, and a status that says that the work failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *CALLS[name].split()])
    name = name.strip()
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"train.{name}", run_name="__main__")
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith(f"python -m train.{name}: ") and said.count("\n") == 1


@pytest.mark.parametrize("name", ["autoencoder", "autoencoder.decoder", "distill"])
def test_what_runs_in_one_process_says_so(name, tmp_path, monkeypatch, capsys):
    """Catches a launcher's processes that all train into one folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys, "argv", [name, "avatars", "--output-dir", "made"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"train.{name}", run_name="__main__")
    assert end.value.code == 2 and "one process alone" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


KINDS = {
    "diffusion": (asdict(RECIPES["avatars"]) | {"classes": ["cat"]}, run_recipe.FIXED),
    "autoencoder": (AUTOENCODERS["avatars"].describe(), autoencoder_training.FIXED),
    "decoder": (DECODERS["avatars"].describe(), decoder.FIXED),
    "student": (STUDENTS["avatars"].describe(), distill_training.FIXED),
}


@pytest.mark.parametrize("there", KINDS)
@pytest.mark.parametrize("here", KINDS)
def test_a_run_goes_on_with_its_own_kind_of_training_alone(there, here, tmp_path):
    """Catches a configuration that is written over another training's, and advice to delete its checkpoint."""
    run, (config, fixed) = Run(tmp_path), KINDS[here]
    run.write_config(KINDS[there][0])
    run.write_checkpoint(1, lambda folder: (folder / "optimizer.safetensors").touch())
    if there == here:
        return check_same_run(run, config, fixed)
    with pytest.raises(ValueError, match="another kind of training"):
        check_same_run(run, config, fixed)


def test_a_run_of_averaged_weights_alone_does_not_go_on(tmp_path):
    """Catches a training that begins anew in a run that was made to be looked at."""
    config, fixed = KINDS["diffusion"]
    Run(tmp_path).write_config(config)
    Run(tmp_path).write_checkpoint(1, lambda folder: (folder / "transformer").mkdir())
    with pytest.raises(ValueError, match="holds averaged weights alone"):
        check_same_run(Run(tmp_path), config, fixed)


@pytest.mark.parametrize(("gpu", "precision"), [(True, "high"), (False, "highest")])
def test_a_gpu_multiplies_by_tf32_and_a_cpu_as_ever(gpu, precision, monkeypatch):
    """Catches samples that take a GPU several times as long as training's, and figures of a CPU that change."""
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    try:
        torch.set_float32_matmul_precision("highest")
        use_machine()
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    "wrong", ["--size=0", "--size=--", "--batch-size=0", "--workers=-1", "--balance=nan", "--balance=2"]
)
def test_a_number_out_of_range_is_named_before_the_work(wrong, capsys, monkeypatch):
    """Catches a traceback, or hours of work with a setting that means nothing."""
    monkeypatch.setattr(sys, "argv", ["train.latents", "nowhere", "--vae", "nowhere", "--out", "nowhere", wrong])
    with pytest.raises(SystemExit, match="2"):
        latents_command.main()
    assert f"argument {wrong.partition('=')[0]}: " in capsys.readouterr().err


def test_no_program_takes_a_number_that_it_does_not_check():
    """Catches a plain int or float on any command line: NaN, or a batch of 0 images, would pass."""
    for path in (*ROOT.glob("mdt_core/bench/*.py"), *ROOT.glob("train/**/*.py"), ROOT / "app.py"):
        assert not re.search(r"\btype=(int|float)\b", path.read_text("utf-8")), path


@pytest.mark.parametrize(
    "setting", ["learning_rate=-1e-3", "learning_rate=1e999", "weight_decay=-1", "min_snr_gamma=0", "max_bad_steps=-1"]
)
def test_a_setting_that_means_nothing_is_refused(setting):
    """Catches hours of training uphill, or with weights of NaN."""
    with pytest.raises(ValueError, match=setting.partition("=")[0]):
        find_recipe(RECIPES, "avatars", [setting])
