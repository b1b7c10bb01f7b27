"""Seconds of a step that compare: steps of several runs in turns, in one process."""

from dataclasses import replace

import torch
from accelerate import PartialState

from mdt_core import MDTTransformer
from mdt_core.acceleration.machine import cpus_alone
from mdt_core.acceleration.precision import choose_dtype
from mdt_core.bench.timing import take_turns
from mdt_core.training.config import TrainingConfig
from train.bench import Steps
from train.convergence.contenders import Contender


def timed_in_turns(contenders: list[Contender], rounds: int) -> list[Contender]:
    """The same contenders with seconds of a step that were measured side by side.

    Args:
        contenders: what is compared, on random images, but with each run's own settings. The first has its median; the
            others that, times the median ratio to it.
        rounds: steps of each that count.

    Raises:
        ValueError: a run has no checkpoint to take steps with.
    """
    device = PartialState(cpu=cpus_alone()).device
    dtype = "bfloat16" if choose_dtype("auto", device) == torch.bfloat16 else "float32"  # as training chooses
    steps = {}
    for place, contender in enumerate(contenders):
        run = contender.run
        checkpoints = list(run.checkpoints.values())
        if not checkpoints:
            raise ValueError(f"{run.folder} has no checkpoint to take steps with: leave out --in-turns")
        model = MDTTransformer.from_pretrained(checkpoints[-1] / "transformer").to(device)
        name = contender.name if contender.name not in steps else f"{contender.name} ({place})"
        steps[name] = Steps(model, TrainingConfig(**run.config["training"]), dtype)
    times = take_turns(steps, rounds, warmup=2, device=device)
    first, *_ = in_order = [times[name] for name in steps]
    return [
        replace(contender, seconds_per_step=first.median / each.ratio(first))
        for contender, each in zip(contenders, in_order, strict=True)
    ]
