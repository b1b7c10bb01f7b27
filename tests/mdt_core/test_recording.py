"""Recorded launches: what a GPU replays is what it would have done. Without one, nothing is recorded."""

from dataclasses import replace

import pytest
import torch

from mdt_core.acceleration.cuda_graphs import CudaGraph, recorded
from mdt_core.runs import Run
from mdt_core.training.loop import train
from tests.helpers.tiny_training import CONFIG, EightImages, small_model

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="records the launches of an Nvidia GPU")


def test_nothing_is_recorded_where_there_is_no_gpu(tmp_path):
    """Catches a recipe for a GPU that a laptop cannot begin with."""
    assert recorded(len, torch.device("cpu")) is len
    config = replace(CONFIG, cuda_graphs=True, steps=2)
    assert train(small_model(), EightImages(), config, Run(tmp_path)).model.pos_embed.isfinite().all()


@needs_gpu
def test_a_function_that_changes_something_changes_it_once_a_call():
    """Catches a first run that is thrown away, a recording that counts as one, and results that are overwritten."""
    device = torch.device("cuda", 0)
    total = torch.zeros((), device=device)

    def add(number: float | torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        total.add_(number * values.sum())
        return total

    call = CudaGraph(add, device)
    seen = [call(float(n), torch.ones(size, device=device)) for n in (1, 2, 3) for size in (4, 5)]
    assert [each.item() for each in seen[2:]] == [17.0, 27.0, 39.0, 54.0]  # the first of each size was not copied
    assert len(call.recorded) == 2


@needs_gpu
@pytest.mark.parametrize("optimizer", ["adan", "adamw"])
def test_recorded_steps_train_as_others_do(tmp_path, optimizer):
    """Catches a learning rate, a step count or a batch that a recording remembers of its first step."""
    settings = {"steps": 12, "warmup_steps": 4, "decay": 0.5, "optimizer": optimizer}
    trained = []
    for graphs in (False, True):
        config = replace(CONFIG, cuda_graphs=graphs, **settings)
        run = Run(tmp_path / str(graphs))
        average = train(small_model(), EightImages(), config, run).model
        trained.append((average.state_dict(), [row["loss"] for row in run.metrics]))
    (weights, losses), (replayed, other_losses) = trained
    torch.testing.assert_close(losses, other_losses, rtol=1e-3, atol=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(replayed[name], weight, rtol=1e-2, atol=2e-4)
