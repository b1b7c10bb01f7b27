"""Training: the loss falls, an interrupted run ends as an uninterrupted one, and nothing bad is kept."""

import json
import math
import os
import shutil
import signal
import weakref
from copy import deepcopy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch._dynamo.utils import counters

from mdt_core import MDTv2
from mdt_core.diffusion import Diffusion
from mdt_core.losses import training_terms
from mdt_core.runs import Run
from mdt_core.training.checkpoints import TrainingState
from mdt_core.training.config import TrainingError, exponential_steps, learning_rate
from mdt_core.training.draws import Draws, batch_indices
from mdt_core.training.flops import forward_macs
from mdt_core.training.initialize import initialize_from
from mdt_core.training.loop import prepare_blocks, train
from mdt_core.training.stop_signal import StopSignal
from tests.helpers.tiny_training import CONFIG, EightImages, equal, small_model, weights


def test_the_loss_falls_on_eight_images(tmp_path):
    """Catches a loss that trains nothing: a detached pass, a dropped gradient, an optimizer of other weights."""
    config = replace(CONFIG, steps=40, batch_size=8, learning_rate=1e-2, log_every=20, save_every=1000)
    model, run = small_model(), Run(tmp_path)
    train(model, EightImages(), config, run)
    first, last = run.metrics[0], run.metrics[-1]
    assert last["loss"] < 0.7 * first["loss"]
    assert last["masked_loss"] < 0.8 * first["masked_loss"]
    assert list(run.checkpoints) == [40]


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(tmp_path):
    """Catches random state, data order, moments, averages or the time taken that a restart loses."""
    train(small_model(), EightImages(), CONFIG, Run(tmp_path / "whole"))
    halves = Run(tmp_path / "halves")
    train(small_model(), EightImages(), replace(CONFIG, steps=3), halves)
    train(small_model(), EightImages(), CONFIG, halves)
    a, b = Run(tmp_path / "whole").checkpoints[6], halves.checkpoints[6]
    assert equal(weights(a), weights(b))
    assert (a / "raw.safetensors").read_bytes() == (b / "raw.safetensors").read_bytes()
    seconds = [row["seconds"] for row in halves.metrics]
    assert len(seconds) == 4 and seconds == sorted(seconds)  # steps 2, 3 (the last of its config), 4, 6


def test_a_run_weighs_noisy_timesteps_as_its_settings_say(tmp_path):
    """The weights begin alike and the draws are the same: catches a power that does not reach the loss."""
    for power in (0.0, 0.5):
        train(small_model(), EightImages(), replace(CONFIG, steps=1, noise_power=power), Run(tmp_path / str(power)))
    plain, weighted = (Run(tmp_path / str(power)).metrics[-1] for power in (0.0, 0.5))
    assert weighted["mse"] > 2 * plain["mse"] and weighted["vb"] == plain["vb"]


def test_accumulated_micro_batches_are_one_batch(tmp_path):
    """Catches gradients that are summed where they should be averaged, and draws that differ between the parts."""
    train(small_model(), EightImages(), CONFIG, Run(tmp_path / "one"))
    train(small_model(), EightImages(), replace(CONFIG, accumulation=2), Run(tmp_path / "two"))
    a, b = (weights(tmp_path / name / "checkpoints" / "step_00000006") for name in ("one", "two"))
    assert not equal(a, small_model().state_dict())
    for key in a:
        torch.testing.assert_close(a[key].float(), b[key].float(), rtol=0, atol=2e-3)


def test_sigterm_saves_and_leaves_and_the_same_call_goes_on(tmp_path):
    run, data = Run(tmp_path), EightImages()
    data.batch = lambda indices, batch=data.batch: os.kill(os.getpid(), signal.SIGTERM) or batch(indices)
    before = signal.getsignal(signal.SIGTERM)
    train(small_model(), data, CONFIG, run)
    assert list(run.checkpoints) == [1]
    assert signal.getsignal(signal.SIGTERM) is before
    train(small_model(), EightImages(), CONFIG, run)
    assert max(run.checkpoints) == 6


@pytest.mark.parametrize(("seconds", "steps"), [(0.1, [1, 11, 21]), (3.0, [*range(1, 31)])])
def test_many_processes_agree_to_stop_soon_enough(monkeypatch, seconds, steps):
    """Catches slow steps of which ten pass before the processes ask: a launcher kills them after 30 seconds."""
    now, asked = [0.0], []
    monkeypatch.setattr("mdt_core.training.stop_signal.perf_counter", lambda: now[0])
    other = torch.tensor([1.0, 0.0])  # another process, which was always asked to stop
    reduce = lambda mine, how: asked.append(step) or 2 * mine + other  # noqa: E731
    accelerator = SimpleNamespace(num_processes=2, device="cpu", reduce=reduce)
    with StopSignal() as stop:
        for step in range(1, 31):
            now[0] += seconds
            assert stop.requested(accelerator) is (step in steps)
    assert asked == steps


def test_a_checkpoint_is_let_go_once_it_is_written(tmp_path, monkeypatch):
    """Catches a copy of all weights and moments that is held until the next one is made beside it."""
    made, kept, gather, data = [], [], TrainingState.gather, EightImages()

    def watched(*state):
        made.append(weakref.ref(now := gather(*state)))
        return now

    monkeypatch.setattr(TrainingState, "gather", watched)
    data.batch = lambda indices, batch=data.batch: kept.append([ref() for ref in made]) or batch(indices)
    train(small_model(), data, replace(CONFIG, steps=5, save_every=2), Run(tmp_path))
    assert kept == [[], [], [None], [None], [None, None]]


def test_an_image_that_is_not_finite_is_reported_and_left_out(tmp_path, capsys):
    """Catches NaN weights saved over a good checkpoint, and a report that does not lead to the image."""
    run, poisoned = Run(tmp_path), EightImages()
    poisoned.mean[5] = torch.nan
    ema = train(small_model(), poisoned, CONFIG, run)
    batches = {step: batch_indices(step, 4, 8, seed=0) for step in range(6)}
    shape = (4, 4, 8, 8)
    reports = [line for line in capsys.readouterr().out.splitlines() if "not finite" in line]
    assert reports == [
        f"step {step}: gradient not finite, left out; "
        f"timesteps {Draws.of_step(step, CONFIG, shape, 16, 'cpu').timesteps.tolist()}, images {batches[step]}"
        for step in range(6)
        if 5 in batches[step]
    ]
    assert len(reports) == 3
    assert all(torch.isfinite(w).all() for w in ema.model.state_dict().values())
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"]) for row in run.metrics)


def test_a_gradient_that_stays_not_finite_stops_the_run_and_changes_no_weight(tmp_path):
    run, poisoned = Run(tmp_path), EightImages()
    train(small_model(), EightImages(), replace(CONFIG, steps=3), run)
    before = (run.checkpoints[3] / "raw.safetensors").read_bytes()
    poisoned.mean = torch.full_like(poisoned.mean, torch.nan)
    with pytest.raises(TrainingError, match="5 steps in a row, up to step 7"):
        train(small_model(), poisoned, replace(CONFIG, steps=20, save_every=20, log_every=8, max_bad_steps=4), run)
    assert list(run.checkpoints) == [3] and (run.checkpoints[3] / "raw.safetensors").read_bytes() == before


def test_recomputed_activations_change_nothing(tmp_path):
    """Catches a block whose recomputation draws or sees something else, or is counted as useful work."""
    train(small_model(), EightImages(), CONFIG, Run(tmp_path / "kept"))
    config, run = replace(CONFIG, recompute=True, peak_tflops=0.001), Run(tmp_path / "recomputed")
    train(small_model(), EightImages(), config, run)
    row, macs = run.metrics[-1], forward_macs(small_model()) + forward_macs(small_model(), keep=10)
    assert row["mfu"] == pytest.approx(6 * macs * row["images_per_second"] / 1e9, rel=1e-3)
    a, b = (weights(tmp_path / name / "checkpoints" / "step_00000006") for name in ("kept", "recomputed"))
    assert equal(a, b)


@pytest.mark.slow
def test_blocks_that_recompute_are_compiled_and_a_copy_has_its_own_weights(monkeypatch, compiling):
    """Catches a checkpoint inside what is compiled, which leaves the whole block out, and weights bound to its code."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plain = small_model()
    for weight in plain.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    compiled, batch = deepcopy(plain), (torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), torch.tensor([3, 4]))
    prepare_blocks(compiled, replace(CONFIG, compile=True, recompute=True))
    for model in (plain, compiled):
        model(*batch).square().mean().backward()
    assert counters["stats"]["unique_graphs"] in (1, 2, 3)  # kinds of blocks, of which there are four
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    copy = deepcopy(compiled)
    for weight in compiled.parameters():
        weight.data.zero_()
    torch.testing.assert_close(copy(*batch), plain(*batch))


@pytest.mark.parametrize("sizes", [{}, {"hidden_size": 64, "num_heads": 4}])
def test_classes_keep_their_rows_by_name(sizes, tmp_path):
    """Catches rows handed to other names by their place, all rows lost where a class is added, and no word of it."""
    source = small_model(num_classes=3)
    source.save_pretrained(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text('{"id2label": {"0": "cat", "1": "dog", "2": "owl"}}')
    model = small_model(num_classes=3, **sizes)
    told = initialize_from(model, tmp_path, {0: "owl", 1: "fox", 2: "cat"})
    assert told.endswith("; 2 classes kept, 1 added (fox), 1 dropped (dog)")
    table, old = (each.y_embedder.embedding_table.weight for each in (model, source))
    assert torch.equal(table[[0, 2, 3], :32], old[[2, 0, 3]])
    torch.testing.assert_close(table[1, :32], old[:3].mean(dim=0))


def test_a_run_can_begin_with_another_models_weights(tmp_path):
    """Catches a class table carried over to other classes, a null class lost, a size that only torch's error names."""
    source = small_model()
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    source.save_pretrained(tmp_path / "transformer")
    for classes in (8, 3):
        model = small_model(num_classes=classes)
        initialize_from(model, tmp_path)
        table, theirs = model.y_embedder.embedding_table.weight, source.y_embedder.embedding_table.weight
        assert torch.equal(table[-1], theirs[-1])
        assert torch.equal(table[:-1], theirs[:classes]) == (classes == 8)
        assert all(
            torch.equal(p, source.state_dict()[key]) for key, p in model.state_dict().items() if "y_emb" not in key
        )
    with pytest.raises(ValueError, match=r"hidden_size 32 there and 64 here.*width of a head 16 there and 32 here"):
        initialize_from(small_model(hidden_size=64), tmp_path)
    with pytest.raises(ValueError, match=r"is another model: .*skip_linear"):
        initialize_from(small_model(without=["long_shortcuts"]), tmp_path)
    with pytest.raises(ValueError, match="holds no model"):
        initialize_from(small_model(), tmp_path / "nowhere")
    published = tmp_path / "mdt_v2.safetensors"  # its decoder has another number of blocks than the model's
    save_file(small_model(depth=6, decoder_layers=4).state_dict(), published)
    with pytest.raises(ValueError, match="depth 6 there and 4 here, decoder_layers 4 there and 2 here"):
        initialize_from(small_model(), published)
    larger = small_model(hidden_size=64, num_heads=4, depth=8, decoder_layers=4)
    assert initialize_from(larger, tmp_path).startswith("grown from the 0.1M parameters of")
    assert torch.equal(larger.x_embedder.proj.weight[:32], source.x_embedder.proj.weight)


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_checkpoints": 0},
        {"log_every": 0},
        {"decay": 1.5},
        {"mask_ratio": (0.5, 0.3)},
        {"steps": -1},
        {"warmup_steps": -1},
        {"max_grad_norm": 0.0},
    ],
)
def test_a_setting_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(CONFIG, **wrong)


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    run = Run(tmp_path)
    train(small_model(), EightImages(), replace(CONFIG, steps=3), run)
    other = MDTv2(sample_size=8, hidden_size=64, depth=4, num_heads=2, decoder_layers=2, num_classes=8)
    with pytest.raises(TrainingError, match="step_00000003"):
        train(other, EightImages(), CONFIG, run)


def test_only_the_last_checkpoints_stay_and_a_half_written_one_is_no_checkpoint(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.write_checkpoint(step, lambda folder: (folder / "x").write_text("x"))
        run.prune_checkpoints(keep=2)
    assert list(run.checkpoints) == [2, 3]
    with pytest.raises(OSError):
        run.write_checkpoint(4, lambda folder: (_ for _ in ()).throw(OSError("disk full")))
    assert list(run.checkpoints) == [2, 3]


def test_what_was_just_written_is_not_pruned_for_averages_alone(tmp_path):
    """Catches a folder of later averaged weights, in which every new checkpoint is deleted as soon as it is written."""
    run = Run(tmp_path)
    run.write_checkpoint(9, lambda folder: (folder / "transformer").mkdir())
    for step in (1, 2):
        run.write_checkpoint(step, lambda folder: (folder / "optimizer.safetensors").write_text("x"))
        run.prune_checkpoints(keep=1, milestones={9})
        assert list(run.checkpoints) == [step, 9]


def test_the_averages_of_milestones_stay_and_resuming_goes_on_from_a_whole_checkpoint(tmp_path):
    run, config = Run(tmp_path), replace(CONFIG, save_every=3, keep_checkpoints=1)
    train(small_model(), EightImages(), config, run, sample_steps={1, 2, 6})
    assert list(run.checkpoints) == [1, 2, 6]
    assert [path.name for path in run.checkpoints[2].iterdir()] == ["transformer"]
    shutil.rmtree(run.checkpoints[6])
    train(small_model(), EightImages(), config, run)
    assert max(run.checkpoints) == 6


def test_a_log_line_cut_short_is_left_out_and_spoils_no_other(tmp_path):
    """Catches a reader that stops at what a kill left, and a next row written behind it on the same line."""
    run = Run(tmp_path)
    run.log({"step": 1, "loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2})[:-3])
    assert run.metrics == [{"step": 1, "loss": 0.5}]
    run.log({"step": 2, "loss": 0.4})
    assert [row["step"] for row in run.metrics] == [1, 2]


def test_evaluations_come_by_step_and_the_later_row_of_a_step_counts(tmp_path):
    run = Run(tmp_path)
    for step, kid in ((200, 0.3), (100, 0.5), (200, 0.2)):
        run.write_evaluation({"step": step, "kid_efflite0": kid})
    assert run.evaluations == [{"step": 100, "kid_efflite0": 0.5}, {"step": 200, "kid_efflite0": 0.2}]


def test_strangers_in_a_run_folder_are_no_steps(tmp_path):
    """Catches a reader that a hand-made file brings down."""
    run = Run(tmp_path)
    run.write_checkpoint(1, lambda folder: None)
    (tmp_path / "checkpoints" / "step_best").mkdir()
    (tmp_path / "metrics.jsonl").write_text('[]\n{"loss": 1}\n7\n{"step": 3}\n')
    assert list(run.checkpoints) == [1] and run.metrics == [{"step": 3}]


# --- what follows from the settings ---------------------------------------------------------------------------


def test_the_learning_rate_warms_up_and_decays():
    config = replace(CONFIG, steps=100, warmup_steps=10, decay=0.5, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[-1] == pytest.approx(0.02)
    assert all(rate == 1 for rate in rates[10:50]) and rates[75] == pytest.approx(0.5)


def test_sample_steps_are_exponential():
    assert exponential_steps(700, first=50) == {50, 100, 200, 400, 700}


# --- the loss ------------------------------------------------------------------------------------------------


def test_the_variational_term_trains_the_variance_alone():
    """Catches a vb term whose gradient reaches epsilon (iDDPM, section 3.1)."""
    output = torch.randn(2, 8, 4, 4, requires_grad=True)
    terms = training_terms(
        lambda *args, keep: output,
        Diffusion(),
        torch.randn(2, 4, 4, 4),
        torch.tensor([10, 500]),
        torch.tensor([0, 0]),
        torch.randn(2, 4, 4, 4),
    )
    terms["vb"].sum().backward()
    assert output.grad[:, :4].abs().max() == 0
    assert output.grad[:, 4:].abs().max() > 0
