"""Seconds of a step that compare: steps of several runs in turns, in one process."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from accelerate import PartialState

from mdt_core import MDTTransformer
from mdt_core.acceleration.machine import cpus_alone
from mdt_core.acceleration.precision import choose_dtype
from mdt_core.bench.timing import take_turns
from mdt_core.runs import Run
from mdt_core.training.config import TrainingConfig
from train.bench import Steps
from train.convergence.contenders import Contender


def timed_in_turns(contenders: list[Contender], runs: Mapping[str, Run], rounds: int) -> list[Contender]:
    """The same contenders with seconds of a step that were measured side by side.

    Args:
        contenders: what is compared. The first has its median; the others that, times the median ratio to it.
        runs: name -> run. Random images, but each run's own settings.
        rounds: steps of each that count.

    Raises:
        ValueError: a run has no checkpoint to take steps with.
    """
    device = PartialState(cpu=cpus_alone()).device
    dtype = "bfloat16" if choose_dtype("auto", device) == torch.bfloat16 else "float32"  # as training chooses
    steps = {}
    for contender in contenders:
        run = runs[contender.name]
        checkpoints = list(run.checkpoints.values())
        if not checkpoints:
            raise ValueError(f"{run.folder} has no checkpoint to take steps with: leave out --in-turns")
        model = MDTTransformer.from_pretrained(checkpoints[-1] / "transformer").to(device)
        steps[contender.name] = Steps(model, TrainingConfig(**run.config["training"]), dtype)
    times = take_turns(steps, rounds, warmup=2, device=device)
    first = times[contenders[0].name]
    return [replace(c, seconds_per_step=first.median / times[c.name].ratio(first)) for c in contenders]
