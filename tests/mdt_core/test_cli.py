"""python -m mdt_core: what the commands write, and how a wrong call ends: one line, exit status 2, no traceback."""

import json
import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image, JpegImagePlugin
from safetensors import SafetensorError

from app.common import recipes
from app.common.stage import caption
from app.engine.model_info import describe_pipeline
from mdt_core import MDTPipeline, MDTv2
from mdt_core.__main__ import main
from mdt_core.inpainting import MASKED_CONTENTS, METHODS
from mdt_core.pipeline.canvas import AREAS
from mdt_core.samplers import SAMPLERS
from tests.helpers.forked import python

ROOT = Path(__file__).parents[2]
NAMES = {0: "circle", 1: "square", 2: "star"}


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    AutoencoderKL(
        block_out_channels=[8, 8], norm_num_groups=4, mid_block_add_attention=False, **blocks
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model() -> MDTv2:
    torch.manual_seed(0)
    model = MDTv2(sample_size=8, hidden_size=32, depth=4, num_heads=2, num_classes=3, decoder_layers=2)
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.1)  # zero as initialised: every class alike
    torch.nn.init.normal_(model.y_embedder.embedding_table.weight)
    torch.nn.init.normal_(model.final_layer.adaLN_modulation[1].weight, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def pipeline(model, vae, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    MDTPipeline(model, AutoencoderKL.from_pretrained(vae), id2label=NAMES).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bomb(tmp_path_factory) -> Path:
    """A small file of a picture that is too large."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.png"
    Image.new("1", (14_000, 14_000)).save(path)
    return path


def run(*arguments) -> None:
    main([str(argument) for argument in arguments])


def refused(capsys, *arguments) -> str:
    """The one line that a wrong call ends with."""
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


# --- what the commands do -----------------------------------------------------------------------------------


def test_generate_writes_what_the_pipeline_makes(pipeline, tmp_path, capsys):
    """Catches a flag that does not arrive at the pipeline: each is set to something that is not its default."""
    out = tmp_path / "star.png"
    flags = ["--seed", 7, "--steps", 3, "--sampler", "ddim", "--scale", 2.5, "--power", 0.5]
    flags += ["--guidance", "mask", "--interval", 0, 700, "--first-timestep", 900]
    run("generate", "--model", pipeline, "--class", "star", *flags, "--out", out)
    said = capsys.readouterr()
    settings = {"guidance_scale": 2.5, "guidance_power": 0.5, "num_inference_steps": 3, "sampler": "ddim"}
    settings |= {"guidance_kind": "mask", "guidance_low": 0, "guidance_high": 700, "first_timestep": 900}
    expected = MDTPipeline.from_pretrained(pipeline).optimize()(class_labels=[2], seeds=[7], **settings).images[0]
    assert Image.open(out).tobytes() == expected.tobytes()
    assert f"{out}: star, seed 7; 5 model evaluations, 1 skipped" in said.out
    assert "3/3" in said.err  # the progress bar


def test_a_model_is_drawn_with_its_own_settings_unless_others_are_chosen(pipeline, tmp_path, capsys):
    """Catches a default of the command line that stands before the one that the model carries."""
    own = {"sampler": "ddim", "num_inference_steps": 3, "guidance_scale": 2.5, "guidance_power": 0.5}
    fast = {"num_inference_steps": 2, "guidance_scale": 1.5}
    saved = MDTPipeline.from_pretrained(pipeline)
    MDTPipeline(
        saved.transformer, saved.vae, id2label=NAMES, sampling_defaults=own | {"presets": {"fast": fast}}
    ).save_pretrained(tmp_path / "own")
    run("info", "--model", tmp_path / "own")
    assert "3 steps of ddim, guidance by class, scale 2.5, power 0.5, timesteps 0 to 999" in capsys.readouterr().out
    for flags, chosen in [
        ([], {}),
        (["--steps", 2, "--power", 1], {"num_inference_steps": 2, "guidance_power": 1.0}),
        (["--preset", "fast", "--scale", 2], fast | {"guidance_scale": 2.0}),
    ]:
        out = tmp_path / "star.png"
        run("generate", "--model", tmp_path / "own", "--class", "star", "--seed", 7, *flags, "--out", out)
        expected = saved.optimize()(class_labels=[2], seeds=[7], **own | chosen).images[0]
        assert Image.open(out).tobytes() == expected.tobytes()


def test_a_class_goes_by_name_by_index_or_not_at_all(pipeline, tmp_path):
    pictures = {}
    labels = {"name": "square", "index": "1", "mix": "square:2", "other mix": "square:0.5,star:0.5"}
    for name, label in {"none": [], **{name: ["--class", label] for name, label in labels.items()}}.items():
        run("generate", "--model", pipeline, *label, "--steps", 2, "--out", tmp_path / f"{name}.png")
        pictures[name] = Image.open(tmp_path / f"{name}.png").tobytes()
    assert pictures["name"] == pictures["index"] == pictures["mix"]
    assert len(set(pictures.values())) == 3


def test_inpaint_keeps_the_picture_outside_the_mask(pipeline, tmp_path):
    """Catches a flag that does not arrive, another output size, and known pixels that went through the model."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    mask = np.zeros((30, 50), np.uint8)
    mask[10:18, 20:30] = 255
    Image.fromarray(noise).save(tmp_path / "in.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    pictures = ["--image", tmp_path / "in.png", "--mask", tmp_path / "mask.png", "--out", tmp_path / "out.png"]
    how = [
        "--method",
        "repaint",
        "--strength",
        0.5,
        "--area",
        "masked",
        "--masked-content",
        "fill",
        "--grow",
        2,
        "--feather",
        1,
        "--sampler",
        "ddpm",
    ]
    run("inpaint", "--model", pipeline, *pictures, "--class", 1, "--seed", 3, "--steps", 4, "--scale", 2, *how)
    made = np.asarray(Image.open(tmp_path / "out.png"))
    grown = np.zeros((30, 50), bool)
    grown[8:20, 18:32] = True
    assert made.shape == noise.shape and np.array_equal(made[~grown], noise[~grown])
    assert (made[mask > 0] != noise[mask > 0]).mean() > 0.5

    chosen = {"method": "repaint", "strength": 0.5, "grow": 2, "feather": 1, "sampler": "ddpm"}
    chosen |= {"area": "masked", "masked_content": "fill"}
    settings = {"seeds": [3], "num_inference_steps": 4, "guidance_scale": 2.0, **chosen}
    expected = MDTPipeline.from_pretrained(pipeline).optimize().inpaint(noise, mask > 0, [1], **settings).images[0]
    assert np.array_equal(made, np.asarray(expected))


def test_convert_makes_a_pipeline_of_a_published_file(tmp_path, vae, capsys):
    """Catches a conversion that loses the weights, the names of ImageNet's classes, or the preview's fit."""
    model = MDTv2(sample_size=8, hidden_size=32, depth=4, num_heads=2, num_classes=1000, decoder_layers=2)
    torch.save({"ema": model.state_dict()}, tmp_path / "mdt_v2.pt")
    run("convert", tmp_path / "mdt_v2.pt", tmp_path / "out", "--vae", vae)
    assert "MDTv2" in capsys.readouterr().out
    pipe = MDTPipeline.from_pretrained(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(pipe.transformer.parameters(), model.parameters(), strict=True))
    assert (pipe.id2label[0], pipe.id2label[207], pipe.id2label[999]) == ("tench", "golden retriever", "toilet tissue")
    assert json.loads((tmp_path / "out" / "model_index.json").read_text())["preview_weights"]
    assert list((tmp_path / "out" / "transformer").glob("*.safetensors"))


@pytest.mark.parametrize("error", [SafetensorError("I/O error: File too large"), torch.OutOfMemoryError("no memory")])
def test_a_conversion_that_fails_says_so_and_leaves_nothing(tmp_path, vae, capsys, monkeypatch, error):
    """Catches a traceback where the disk is full, and half a model that stands in the way of the next try."""
    model = MDTv2(sample_size=8, hidden_size=32, depth=4, num_heads=2, num_classes=1000, decoder_layers=2)
    torch.save({"ema": model.state_dict()}, tmp_path / "mdt_v2.pt")

    def save(self, folder):
        folder.mkdir()
        (folder / "model_index.json").touch()
        raise error

    monkeypatch.setattr(MDTPipeline, "save_pretrained", save)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        run("convert", tmp_path / "mdt_v2.pt", out, "--vae", vae)
    assert end.value.code == 2 and not out.exists()
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"convert: {error}")  # after a progress bar


def test_convert_takes_v1s_decoder_from_the_caller(tmp_path, vae, capsys):
    from mdt_core import MDT

    sizes = {"sample_size": 8, "hidden_size": 32, "depth": 4, "num_heads": 2, "num_classes": 3}
    torch.save(MDT(**sizes, decoder_layers=2).state_dict(), tmp_path / "v1.pt")
    run("convert", tmp_path / "v1.pt", tmp_path / "out", "--vae", vae, "--decoder-layers", 3)
    assert MDTPipeline.from_pretrained(tmp_path / "out").transformer.config.decoder_layers == 3


def test_info_of_a_pipeline_and_of_bare_weights(pipeline, model, tmp_path, capsys):
    run("info", "--model", pipeline)
    told = capsys.readouterr().out
    for fact in ("MDTv2", f"{sum(p.numel() for p in model.parameters()):,}", "4 x 8 x 8", "16 px", "circle, square"):
        assert fact in told
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    run("info", "--model", tmp_path / "weights.pt")
    told = capsys.readouterr().out
    assert "4, 2 of them decoder; width 32, 2 heads" in told and "no autoencoder" in told


def test_names_of_imagenet_pick_one_class_each():
    """Catches the two cranes: a name that stands twice could only ever mean the first."""
    names = json.loads((ROOT / "mdt_core" / "pipeline" / "imagenet_classes.json").read_text())
    assert [int(index) for index in names] == list(range(1000))
    assert len({name.casefold() for name in names.values()}) == 1000
    assert (names["0"], names["207"], names["388"]) == ("tench", "golden retriever", "giant panda")


# --- help ---------------------------------------------------------------------------------------------------

HELP = """
import sys
from mdt_core.__main__ import main
try:
    main([*sys.argv[1:], "--help"])
finally:
    print(*{name.partition(".")[0] for name in sys.modules})
"""


def help_of(*command: str) -> tuple[str, set[str]]:
    """What is printed, and the packages that were imported for it."""
    done = subprocess.run([sys.executable, "-c", HELP, *command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, imported = done.stdout.splitlines()
    return " ".join(" ".join(lines).split()), set(imported.split())


@pytest.mark.parametrize("out", ["/proc/x.png", "a.hdf", "a.xbm"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(out, tmp_path, capsys):
    """Catches an error that comes after the picture is made. No model is there: it would be told of first else."""
    assert f"--out {tmp_path / out}: " in refused(capsys, "generate", "--model", "no such", "--out", tmp_path / out)


def test_a_jpeg_is_saved_as_suits_pictures(pipeline, tmp_path):
    """Catches PIL's own quality of 75 with a quarter of the colours."""
    run("generate", "--model", pipeline, "--steps", 1, "--out", tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert JpegImagePlugin.get_sampling(image) == 0 and max(image.quantization[0]) < 20


@pytest.mark.parametrize(("name", "label"), [("a.png", "star"), ("a.jpg", "star:3,circle:1"), ("a.webp", None)])
def test_the_app_makes_the_same_picture_from_a_file_of_the_command(pipeline, tmp_path, name, label):
    """Catches a file that does not say how it was made, or not what the model chose by itself."""
    picked = () if label is None else ("--class", label)
    run("generate", "--model", pipeline, *picked, "--seed", 7, "--steps", 3, "--scale", 2.5, "--out", tmp_path / name)
    info = describe_pipeline(pipeline.name, MDTPipeline.from_pretrained(pipeline), "cpu", "auto")
    request, notes = recipes.to_request(recipes.read(tmp_path / name), info)
    assert notes == [] and request.seeds == (7,)
    assert (request.num_inference_steps, request.guidance_scale, request.guidance_power) == (3, 2.5, 4.0)
    assert (
        caption(request.class_labels[0], info.labels)
        == {
            "star": "star",
            "star:3,circle:1": "star 75% + circle 25%",
            None: "no class",
        }[label]
    )


def test_damaged_weights_are_no_black_picture(model, vae, tmp_path, capsys):
    """Catches exit status 0 and a black file."""
    damaged = deepcopy(model)
    damaged.final_layer.linear.bias.data.fill_(torch.nan)
    MDTPipeline(damaged, AutoencoderKL.from_pretrained(vae)).save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit, match="2"):
        run("generate", "--model", tmp_path / "model", "--steps", 1, "--out", tmp_path / "a.png")
    *_, line = capsys.readouterr().err.splitlines()  # after the progress bar
    assert "the model's latents are not finite" in line and not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("command", [(), ("generate",), ("inpaint",), ("convert",), ("info",)])
def test_help_waits_for_no_library(command):
    """Catches an import at the top of the command line that takes seconds: that of torch, mostly."""
    assert help_of(*command)[1] & {"torch", "diffusers", "numpy", "PIL", "huggingface_hub", "tqdm"} == set()


def test_help_names_what_can_be_chosen():
    """Catches a sampler, method, area or start of the hole that help does not know: it cannot import their tables."""
    told, _ = help_of("inpaint")
    for names in (SAMPLERS, METHODS, AREAS, MASKED_CONTENTS):
        assert set(names) <= set(re.split("[ ,:]+", told))


# --- how a wrong call ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--class", "starr"], "did you mean star"),
        (["--class", "3"], "class 3 is out of range"),
        (["--steps", "0"], "step"),
        (["--steps", "many"], "invalid int value: 'many'"),
        (["--seed", "-1"], "seed"),
        (["--sampler", "euler"], "euler"),
        (["--scale", "nan"], "scale"),
        (["--power", "-1"], "power"),
        (["--device", "tpu"], "the device 'tpu' cannot be used here"),
        (["--out", "nowhere/out.png"], "folder nowhere does not exist"),
        (["--out", "out.mp3"], "image format"),
        (["--out", "out.psd"], "image format"),  # which Pillow can read, not write
        (["--model", "nowhere"], "nowhere: no such file or folder"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_generate_refuses_in_one_line(pipeline, tmp_path, capsys, monkeypatch, flags, reason):
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, "generate", "--model", pipeline, "--class", "star", "--out", "out.png", *flags)
    assert line.startswith("python -m mdt_core") and reason in line
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--image", "nowhere.png"], "nowhere.png: no such file"),
        (["--image", "broken.png"], "broken.png: not a picture"),
        (["--image", "bomb.png"], "bomb.png: too large, at most"),
        (["--area", "half"], "whole, crop, masked"),
        (["--masked-content", "grey"], "auto, fill, original, noise"),
        (["--mask", "small.png"], "mask"),
        (["--mask", "black.png"], "mask"),
        (["--method", "magic"], "magic"),
        (["--strength", "0"], "strength"),
        (["--grow", "-1"], "grow"),
        (["--feather", "soft"], "invalid int value: 'soft'"),
        (["--mask", "white.png"], "white.png: no such file"),
    ],
)
def test_inpaint_refuses_in_one_line(pipeline, bomb, tmp_path, capsys, monkeypatch, flags, reason):
    monkeypatch.chdir(tmp_path)
    for name, size, shade in [("in", 64, 90), ("spot", 64, 0), ("black", 64, 0), ("small", 8, 255)]:
        Image.new("L", (size, size), shade).save(f"{name}.png")
    spot = Image.open("spot.png")
    spot.paste(255, (28, 28, 36, 36))
    spot.save("spot.png")
    Path("broken.png").write_bytes(b"no picture")
    shutil.copy(bomb, "bomb.png")
    pictures = ["--image", "in.png", "--mask", "spot.png", "--out", "out.png", "--class", "star"]
    assert reason in refused(capsys, "inpaint", "--model", pipeline, *pictures, "--steps", 2, *flags)
    assert not (tmp_path / "out.png").exists()


def test_convert_refuses_in_one_line(pipeline, model, vae, tmp_path, capsys):
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, reason in [
        ([tmp_path / "nothing.pt", tmp_path / "out"], "nothing.pt"),
        ([tmp_path / "broken.pt", tmp_path / "out"], "broken.pt: not readable"),
        ([tmp_path / "weights.pt", tmp_path / "full", "--vae", vae], "not an empty folder"),
        ([tmp_path / "weights.pt", tmp_path / "out", "--vae", tmp_path / "full"], "autoencoder"),
        ([tmp_path / "weights.pt", tmp_path / "out", "--vae", vae, "--decoder-layers", 1], "has 2 decoder blocks"),
        ([pipeline, tmp_path / "out"], "pipeline folder already"),
    ]:
        assert reason in refused(capsys, "convert", *arguments)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["paint"], ["convert"], ["inpaint"], ["generate", "--class", "star"]])
def test_incomplete_calls_are_refused_in_one_line(capsys, arguments):
    assert "see python -m mdt_core" in refused(capsys, *arguments)


@pytest.mark.forked
def test_the_command_as_typed(pipeline, tmp_path):
    """Catches a traceback, a warning or a bar beside the one line, as a person would see it in the terminal."""
    command = ["-m", "mdt_core", "generate", "--model", pipeline, "--class", "starr"]
    done = python(*command, "--out", tmp_path / "a.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "python -m mdt_core generate: no class is called 'starr': did you mean star?" + os.linesep
