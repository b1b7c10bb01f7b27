"""The convergence experiment: the loss that tells models apart, rows that resume, and the claim made of them."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file

from mdt_core import MDTv2
from mdt_core.bench.timing import Timing
from mdt_core.diffusion import Diffusion
from mdt_core.runs import Run
from tests.helpers.commands import run_command
from tests.helpers.fast_judge import FastJudge
from train.convergence import contenders, milestones, step_times
from train.convergence.report import report
from train.convergence.validation import ValidationDraws, validation_losses
from train.evaluate import features, samples
from train.evaluate.sources import ImageSet


class SixImages:
    """Six latents with a spread; image i is of class i."""

    def __len__(self):
        return 6

    def batch(self, indices):
        mean = torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        return mean[indices], torch.full((len(indices), 4, 4, 4), 0.1), torch.tensor(indices)


class Knowing:
    """A denoiser that is off by a known amount: the noise plus `error`."""

    def __init__(self, draws, error):
        self.draws, self.error = draws, error

    def __call__(self, x_t, timesteps, class_labels, keep=None):
        assert keep is None
        rows = [int((self.draws.timesteps == t).nonzero()[0, 0]) for t in timesteps]  # all different here
        assert torch.equal(class_labels, self.draws.class_labels[rows])
        return torch.cat([self.draws.noise[rows] + self.error, torch.zeros_like(x_t)], 1)


def test_validation_loss_of_a_known_error():
    """An error of 0.3 everywhere is a loss of 0.09, whatever the batches. Would catch draws that differ between two
    calls, labels or noise out of step with the latents, and a min-SNR weight of other timesteps."""
    draws = ValidationDraws.of(SixImages(), per_image=4)
    model = Knowing(ValidationDraws.of(SixImages(), per_image=4), error=0.3)
    batches = [range(0, 5), range(5, 24)]
    plain, weighted = validation_losses(model, draws, batches, "cpu")
    assert len(draws) == len(plain) == 24
    torch.testing.assert_close(plain, torch.full((24,), 0.09), atol=1e-5, rtol=0)
    snr = Diffusion().alphas_cumprod / (1 - Diffusion().alphas_cumprod)
    weight = (torch.minimum(snr, torch.tensor(5.0)) / snr)[draws.timesteps]
    torch.testing.assert_close(weighted, (0.09 * weight).float(), atol=1e-5, rtol=1e-4)
    shares = [validation_losses(model, draws, [batch], "cpu") for batch in batches]
    torch.testing.assert_close(torch.cat(shares, 1)[0], plain)


def test_validation_draws_cover_images_and_timesteps_evenly():
    """Would catch timesteps drawn at chance, which move the loss more than a model does, and images left out."""
    draws = ValidationDraws.of(SixImages(), num_images=3, per_image=100)
    assert draws.class_labels.bincount().tolist() == [100, 0, 100, 0, 100]  # images 0, 2 and 4 of six
    assert (draws.timesteps // 100).bincount().tolist() == [30] * 10
    spread = (draws.x_0 - SixImages().batch([0])[0])[:100].std()
    assert spread == pytest.approx(0.1, rel=0.05)  # posteriors are drawn from, too
    assert not ValidationDraws.of(SixImages(), labelled=False).class_labels.any()  # the null class of no classes


# ---- rows


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of two milestones and one other checkpoint, with everything that it points at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "EffLite0", FastJudge)
    mean = torch.randn(7, 4, 4, 4)
    shard = {"mean": mean, "std": torch.zeros_like(mean), "labels": torch.arange(7) % 3}
    (tmp_path / "latents").mkdir()
    names = {"id2label": '{"0": "cat", "1": "dog", "2": "owl"}'}
    save_file(shard, tmp_path / "latents/validation-00000-of-00001.safetensors", metadata=names)
    widths = {"encoder_block_out_channels": (8,), "decoder_block_out_channels": (8,)}
    blocks = {"num_encoder_blocks": (1,), "num_decoder_blocks": (1,)}
    AutoencoderTiny(in_channels=12, out_channels=12, latent_channels=4, **widths, **blocks).save_pretrained("vae")
    rng = np.random.default_rng(0)
    samples.write(tmp_path / "real.npz", ImageSet(rng.integers(0, 256, (20, 8, 8, 3), np.uint8)))

    run = Run(tmp_path / "runs/tiny")
    run.write_config({"model": "MDTv2", "latents": "latents", "vae": "vae", "training": {"batch_size": 4}})
    for step in (50, 75, 100):
        torch.manual_seed(step)
        shape = {"sample_size": 4, "patch_size": 2, "num_classes": 3, "hidden_size": 32, "depth": 4, "num_heads": 2}
        model = MDTv2(**shape, decoder_layers=2)
        torch.nn.init.normal_(model.get_parameter("final_layer.linear.weight"))  # an untrained one predicts nothing
        run.write_checkpoint(step, lambda folder, model=model: model.save_pretrained(folder / "transformer"))
        if step != 75:
            run.write_sample(step, Image.new("RGB", (8, 8)))
    return run


EVALUATE = "evaluate runs/tiny --num-images 6 --steps 3 --reference real.npz --device cpu"


def test_milestones_are_evaluated_once(run, monkeypatch):
    """Would catch checkpoints that are no milestones, work that is done again, and figures that hang on the batch."""
    run_command("train.convergence", EVALUATE.split())
    first = run.evaluations
    assert [row["step"] for row in first] == [50, 100]
    assert first[0].keys() >= {"kid_efflite0", "kid_error", "validation_loss", "num_images", "guidance_scale"}
    assert first[0]["validation_loss"] != first[1]["validation_loss"]
    assert not list(run.folder.glob(".*"))  # the samples were only on the way

    monkeypatch.setattr(milestones, "validation_losses", None)
    run_command("train.convergence", EVALUATE.split())  # draws nothing, so nothing fails
    monkeypatch.undo()
    monkeypatch.chdir(run.folder.parents[1])
    monkeypatch.setattr(features, "EffLite0", FastJudge)
    (run.folder / "evaluation.jsonl").unlink()
    run_command("train.convergence", [*EVALUATE.split(), "--batch-size", "5", "--at", "100"])
    (again,) = run.evaluations
    assert again.keys() == first[1].keys()
    for word, value in again.items():
        assert value == (first[1][word] if isinstance(value, str) else pytest.approx(first[1][word], rel=1e-4))


def test_other_settings_are_another_evaluation(run):
    """Would catch KIDs of 6 and of 5 images, or with and without guidance, in one curve."""
    run_command("train.convergence", [*EVALUATE.split(), "--at", "50"])
    run_command("train.convergence", [*EVALUATE.replace("6", "5").split(), "--at", "100"])
    with pytest.raises(ValueError, match="different num_images"):
        contenders.contenders_of([run])
    run_command("train.convergence", EVALUATE.replace("6", "5").split())
    assert [row["num_images"] for row in run.evaluations] == [5, 5]


def test_another_number_of_validation_images_is_another_evaluation(run):
    """Would catch losses of different images in one curve; rows that do not say are of the default's number."""
    run_command("train.convergence", [*EVALUATE.split(), "--at", "50"])
    run_command("train.convergence", [*EVALUATE.split(), "--at", "100", "--validation-images", "2"])
    assert [row["validation_images"] for row in run.evaluations] == [1024, 2]
    with pytest.raises(ValueError, match="validation_images: evaluate all of them alike"):
        contenders.contenders_of([run])
    for row in run.evaluations:
        if row["step"] == 50:
            del row["validation_images"]
            (run.folder / "evaluation.jsonl").write_text(json.dumps(row) + "\n")
    run_command("train.convergence", [*EVALUATE.split(), "--at", "100"])
    assert len(run.evaluations) == 2 and len(contenders.contenders_of([run])) == 1


def test_a_missing_step_ends_with_one_line(run, capsys):
    with pytest.raises(SystemExit):
        run_command("train.convergence", [*EVALUATE.split(), "--at", "60"])
    assert "not of [60]" in capsys.readouterr().err.splitlines()[-1]


# ---- the claim


def log_run(folder, model, kid, loss, rate, seed=0, steps=(100, 200, 400, 800), without=(), **training):
    """A run whose KID and loss are functions of the step."""
    run = Run(folder)
    config = {"batch_size": 32, "seed": seed, "decay": 0.0, "steps": 800} | training
    run.write_config({"model": model, "without": without, "expect": str(folder), "training": config})
    for i, step in enumerate(steps):
        run.log({"step": step, "images_per_second": rate if i else rate / 9})  # once the machine was busy
        row = {"kid_efflite0": kid(step), "kid_error": 0.01, "validation_loss": loss(step)}
        run.write_evaluation({"step": step} | row | {"validation_loss_min_snr": loss(step), "num_images": 400})
    return run


def falling(first, slope):
    """A figure that falls by `slope` with each doubling after step 100."""
    return lambda step: first - slope * math.log2(step / 100)


@pytest.mark.parametrize(
    ("values", "target", "expected"),
    [
        ((4, 3, 2, 1), 2.5, 100 * 2**1.5),
        ((4, 3, 2, 1), 1, 800),
        ((4, 3, 2, 1), 5, 100),
        ((4, 3, 2, 1), 0.9, math.inf),
        ((4, 2, 3, 1), 2.5, 100 * 2**0.75),
    ],
)
def test_steps_to_reach(values, target, expected):
    """Would catch interpolation that is linear in steps, and the last crossing in place of the first."""
    assert contenders.steps_to_reach((100, 200, 400, 800), values, target) == pytest.approx(expected)


def test_the_claim(tmp_path):
    """MDTv2 falls twice as fast and takes 1.5 times as long for a step: DiT's last figure, 1.7, is reached after
    100 * 2^1.5 = 283 of 800 steps, in 0.53 of the time. Would catch shares turned over, and seconds of a mean that one
    busy minute moves."""
    dit = log_run(tmp_path / "dit", "DiT-XS/4", falling(2, 0.1), falling(0.5, 0.1), 60)
    mdt = log_run(tmp_path / "mdt", "MDTv2-XS/4", falling(2, 0.2), falling(0.5, 0.05), 40)
    found = contenders.contenders_of([mdt, dit])
    got = contenders.reach(found[0], found[1], "kid_efflite0")
    assert got.steps == pytest.approx(283, abs=0.5)
    assert got.share_of_steps == pytest.approx(0.354, abs=1e-3)
    assert got.share_of_time == pytest.approx(0.530, abs=1e-3)
    assert got.seconds == pytest.approx(283 * 32 / 40, rel=1e-2)
    assert got.earliest == pytest.approx(100 * 2**1.45) and got.latest == pytest.approx(100 * 2**1.55)
    text = report(found, "dit")
    assert "| mdt, MDTv2-XS/4 | 1 | 283 (273 to 293) | 0.35 | 0.8 | 226 | 0.53 |" in text
    assert "not within 800" in text  # the validation loss, which falls more slowly


def test_seeds_are_averaged(tmp_path):
    """Would catch recipes told apart by their names, and seeds of different recipes mixed."""
    one = log_run(tmp_path / "a", "MDTv2", falling(2, 0.1), falling(1, 0.1), 40)
    other = log_run(tmp_path / "b", "MDTv2", falling(3, 0.1), falling(1, 0.1), 40, seed=1, steps=(100, 200, 400))
    adamw = log_run(tmp_path / "c", "MDTv2", falling(3, 0.1), falling(1, 0.1), 40, optimizer="adamw")
    less = log_run(tmp_path / "d", "MDTv2", falling(3, 0.1), falling(1, 0.1), 40, without=("relative_bias",))
    found = contenders.contenders_of([one, other, adamw, less])
    assert [(c.name, c.seeds) for c in found] == [("a", 2), ("c", 1), ("d", 1)]
    assert [c.steps for c in found[:2]] == [(100, 200, 400), (100, 200, 400, 800)]
    np.testing.assert_allclose(found[0].mean("kid_efflite0"), [2.5, 2.4, 2.3])
    assert found[0].kid_error == pytest.approx(0.01 / math.sqrt(2))
    assert "2.5 ± 0.71" in report(found, "c")
    namesake = log_run(tmp_path / "elsewhere" / "c", "MDTv2", falling(3, 0.1), falling(1, 0.1), 40)
    with pytest.raises(ValueError, match="one name: rename"):
        contenders.contenders_of([adamw, namesake])


def test_shares_of_the_classes_make_a_recipe(tmp_path):
    """Would catch an average of runs that read their classes differently often."""
    plain = log_run(tmp_path / "a", "MDTv2", falling(2, 0.1), falling(1, 0.1), 40)
    more = log_run(tmp_path / "b", "MDTv2", falling(3, 0.1), falling(1, 0.1), 40)
    more.write_config(more.config | {"repeats": {"thumbs": 6}})
    plain.write_config(plain.config | {"repeats": {}})  # as a run says that does not
    none = log_run(tmp_path / "c", "MDTv2", falling(3, 0.1), falling(1, 0.1), 40, seed=1)
    assert [(c.name, c.seeds) for c in contenders.contenders_of([plain, more, none])] == [("a", 2), ("b", 1)]


def test_the_report_is_written(tmp_path, capsys):
    log_run(tmp_path / "dit", "DiT-XS/4", falling(2, 0.1), falling(0.5, 0.1), 60)
    log_run(tmp_path / "mdt", "MDTv2-XS/4", falling(2, 0.2), falling(0.5, 0.05), 40)
    call = f"report {tmp_path}/mdt {tmp_path}/dit --baseline dit --out {tmp_path}/out"
    run_command("train.convergence", call.split())
    assert (tmp_path / "out/report.md").read_text() in capsys.readouterr().out
    assert Image.open(tmp_path / "out/convergence.png").width > 800
    wrong_calls = (
        (call.replace("dit --out", "dat --out"), "mdt, dit"),
        (f"{call} x".replace("/mdt", ""), ""),
        (f"{call} --in-turns 3", "mdt has no checkpoint"),
    )
    for wrong, message in wrong_calls:
        with pytest.raises(SystemExit):
            run_command("train.convergence", wrong.split())
        assert message in capsys.readouterr().err


def test_seconds_of_a_step_in_turns(run, monkeypatch, capsys):
    """A second run, twice as slow in most rounds, though its log says the opposite. Would catch seconds from the logs,
    a ratio of medians (here 2.5) or one turned over, and a step that cannot be taken with the run's own settings."""
    slow = Run(run.folder.with_name("slow"))
    slow.write_config(run.config | {"training": {"batch_size": 4, "optimizer": "adamw", "mask_ratio": None}})
    shutil.copytree(run.folder / "checkpoints", slow.folder / "checkpoints")
    for each, rate in ((run, 1), (slow, 100)):
        each.log({"step": 50, "images_per_second": rate})
        figures = {"kid_efflite0": 1.0, "kid_error": 0.1, "validation_loss": 0.1, "validation_loss_min_snr": 0.1}
        each.write_evaluation({"step": 50} | figures)

    def take_turns(work, repeats, warmup, device):
        for step in work.values():
            step()
        assert repeats == 3
        return {"tiny": Timing((1.0, 3.0, 2.0), None), "slow": Timing((2.0, 6.0, 5.0), None)}

    monkeypatch.setattr(step_times, "take_turns", take_turns)
    run_command(
        "train.convergence", f"report {run.folder} {slow.folder} --baseline tiny --out out --in-turns 3".split()
    )
    rows = capsys.readouterr().out.splitlines()
    assert "| tiny, MDTv2 | 1 | 50 | 1.00 | 2 | 100 | 1.00 |" in rows
    assert "| slow, MDTv2 | 1 | 50 (50 to inf) | 1.00 | 4 | 200 | 2.00 |" in rows
