"""The loop of every training but the diffusion model's: step, log, save, stop?

The run folder is like the diffusion model's: config.json, metrics.jsonl, checkpoints/step_*/. The same command resumes,
bit-equal on a CPU unless the length is in minutes, for what a step draws depends on (seed, step) alone.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from mdt_core.acceleration.precision import choose_dtype
from mdt_core.runs import Run
from mdt_core.training.checkpoints import load_last, write_checkpoint
from mdt_core.training.draws import seed_of
from mdt_core.training.loop import explain_write_errors
from mdt_core.training.stop_signal import StopSignal
from train.budget import Budget, StepsConfig


class Resumable(Protocol):
    """Everything that a step changes."""

    def save(self, folder: Path) -> None:
        """Fill a checkpoint's folder."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, in place."""
        ...


def run_steps(
    state: Resumable,
    config: StepsConfig,
    run: Run,
    step: Callable[[int, float], dict[str, Tensor]],
    measure: Callable[[], dict[str, float]],
) -> bool:
    """Take the steps that are left.

    Args:
        state: as before the first step; the run's last checkpoint is loaded into it.
        config: how long, and how often to log and to save.
        run: where everything is written.
        step: takes one, from its number (from 0) and how much of the training is over (0 to 1); gives means to log.
        measure: what is logged besides, of the state as it is.

    Returns:
        Whether the training is complete; it is not where the process was asked to stop.
    """
    first = load_last(run, state.load)
    budget = Budget(config.steps, config.minutes, first, run.seconds_until(first))
    bar = tqdm(initial=first, total=budget.total, desc=run.name, unit="step")
    with StopSignal() as stop, bar:
        for number in budget:
            # Step.
            means = step(number, budget.progress)
            bar.update()

            # What is due? What is saved is also logged: the seconds until then are read from the log.
            done, stopping = number + 1, stop.received
            last = budget.is_over(done)
            saving = done % config.save_every == 0 or last or stopping
            logging = done % config.log_every == 0 or saving

            # Log.
            if logging:
                figures = measure() | {name: value.item() for name, value in means.items()}
                row = {"step": done, **figures, "seconds": round(budget.seconds, 1)}
                bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()})
                with explain_write_errors(run):
                    run.log(row)

            # Save.
            if saving:
                with explain_write_errors(run):
                    write_checkpoint(run, done, state.save)
                    run.prune_checkpoints(config.keep_checkpoints)

            # Stop?
            if stopping and not last:
                bar.write(f"stopped after step {done}, saved; the same command goes on from here")
                return False
    return True


def step_generators(seed: int, step: int, device: torch.device) -> tuple[torch.Generator, torch.Generator]:
    """For what a step draws on the host, and on the device. From (seed, step) alone: there is no state to save."""
    host, other = (seed_of(f"{seed}/step {step}/{place}") for place in ("host", "device"))
    return torch.Generator().manual_seed(host), torch.Generator(device).manual_seed(other)


def choose_training_device() -> torch.device:
    """A GPU of Nvidia's where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> AbstractContextManager:
    """Products in bfloat16 where the device is fast at that."""
    dtype = choose_dtype("auto", device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
