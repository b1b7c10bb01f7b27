"""The training loop: one function read straight down. Step, log, sample, save, stop?

One step (arXiv 2303.14389, section 3.2 and figure 3): the same images at the same timesteps go through the
model twice, in a full pass and in a masked pass with its own noise, and the two losses are summed.

The same command resumes bit-equal on the CPU, for what a step draws hangs on (seed, step) alone (draws.py). The host
never waits for the device but to log, sample or save: a gradient that is not finite is left out on the device, and
told of when the log is read.
"""

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from itertools import chain
from time import perf_counter

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, fsdp2_prepare_model
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from mdt_core.acceleration.compiled_blocks import compile_blocks
from mdt_core.acceleration.cuda_graphs import recorded
from mdt_core.acceleration.machine import cpus_alone
from mdt_core.diffusion import Diffusion
from mdt_core.layers import Block
from mdt_core.losses import TERMS, training_terms
from mdt_core.runs import Run
from mdt_core.training.checkpoints import Checkpoint, resume
from mdt_core.training.config import TrainingConfig, TrainingError, learning_rate
from mdt_core.training.draws import Draws, LatentData, Pass, batch_indices, passes_of_step
from mdt_core.training.ema import EMA
from mdt_core.training.flops import peak_flops, step_flops
from mdt_core.training.meter import Clock, Meter, Watch
from mdt_core.training.optimizers import AdamW, Adan
from mdt_core.transformer import MDTTransformer

# How long processes wait for each other: while the main one writes files, draws or judges. NCCL's own is 10 minutes.
PROCESS_TIMEOUT = timedelta(hours=2)


def train(
    model: MDTTransformer,
    data: LatentData,
    config: TrainingConfig,
    run: Run,
    *,
    sample_steps: set[int] = frozenset(),
    draw_samples: Callable[[MDTTransformer, int], object] | None = None,
    accelerator: Accelerator | None = None,
) -> EMA:
    """Train `model` until `config.steps`, resuming from the run's last checkpoint if there is one.

    Args:
        model: on any device, freshly initialised or to be fine-tuned.
        data: the encoded images.
        config: the recipe.
        run: where everything is written.
        sample_steps: after how many steps `draw_samples(averaged model, step)` makes a PIL picture. The averaged
            weights of these steps are kept.
        accelerator: processes and precision, "no" or "bf16"; by default float32 on what the launcher set up.

    Returns:
        The averaged weights.

    Raises:
        TrainingError: the gradient stayed not finite, a checkpoint does not fit the model, or the disk is full.
        ValueError: the batch does not divide among the processes, or the precision is another one.
    """
    accelerator = accelerator or Accelerator(
        cpu=cpus_alone(), mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_TIMEOUT)]
    )
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise ValueError(f'training takes mixed_precision "no" or "bf16", not "{accelerator.mixed_precision}"')
    local = config.images_of_process(accelerator.num_processes)
    device, settings = accelerator.device, model.config
    model.to(device).train()
    peak = peak_flops(device, config.peak_tflops)
    seconds_at_peak = step_flops(model, config) / (peak * accelerator.num_processes) if peak else None  # of a step
    ema = EMA(model, config.ema_decay)
    prepare_blocks(model, config)
    if accelerator.is_fsdp2:  # each process holds a part of the weights, and so of their averages and moments
        # Autocast alone lowers precision, as without FSDP: this policy would lower the stream and the gradients' sums.
        accelerator.state.fsdp_plugin.mixed_precision_policy = None
        fsdp2_prepare_model(accelerator, model), fsdp2_prepare_model(accelerator, ema.model)
    optimizer = make_optimizer(model, config)
    first = resume(run, model, ema, optimizer)
    parallel = model if accelerator.is_fsdp2 else accelerator.prepare(model)
    take = step_of(parallel, optimizer, ema, model, config, accelerator)
    if config.cuda_graphs and accelerator.num_processes == 1:  # what processes tell each other is not recorded
        take = recorded(take, device)
    shape = (config.batch_size, settings.in_channels, settings.sample_size, settings.sample_size)
    draws_of = partial(Draws.of_step, config=config, shape=shape, num_tokens=model.num_tokens, device=device)
    indices_of = partial(batch_indices, batch_size=config.batch_size, size=len(data), seed=config.seed)
    mine = slice(accelerator.process_index * local, (accelerator.process_index + 1) * local)
    meter, watch, clock = Meter(), Watch(), Clock(run.seconds_until(first))
    bar = tqdm(initial=first, total=config.steps, unit="step", disable=not accelerator.is_main_process)
    tell = bar.write if accelerator.is_main_process else lambda text: None
    with StopSignal() as stop, bar:
        for step in range(first, config.steps):
            draws = draws_of(step).part(mine)
            passes = passes_of_step(data, indices_of(step)[mine], draws, config, settings.num_classes)
            seen = take(learning_rate(step, config), float(step + 1), *chain(*passes))
            for number, one in enumerate(passes):
                meter.add_pass(one, {term: seen[f"{term} {number}"] for term in TERMS})
            meter.add("gradient_norm", seen["gradient_norm"])
            watch.norms[step] = seen["gradient_norm"]

            done, clock.steps = step + 1, clock.steps + 1
            bar.update()
            stopping = stop.requested(accelerator)
            milestone = done in sample_steps or done == config.steps
            saving = done % config.save_every == 0 or milestone or stopping
            logging = done % config.log_every == 0 or done == config.steps
            if logging or saving:
                for bad in watch.read():
                    tell(
                        f"step {bad}: gradient not finite, left out; timesteps {draws_of(bad).timesteps.tolist()}, "
                        f"images {indices_of(bad)}"
                    )
                if watch.in_a_row > config.max_bad_steps:
                    raise TrainingError(
                        f"the gradient was not finite in {watch.in_a_row} steps in a row, up to step {step}: lower "
                        f"the learning rate, then start again from the last checkpoint in {run.folder}"
                    )
            if logging:
                row = {"step": done, **meter.read(partial(accelerator.reduce, reduction="sum"))}
                seconds, steps_per_second = clock.read()
                row |= {"learning_rate": learning_rate(step, config), "seconds": seconds}
                row["images_per_second"] = config.batch_size * steps_per_second
                if seconds_at_peak is not None:
                    row["mfu"] = seconds_at_peak * steps_per_second
                accelerator.log(row, step=done)
                if accelerator.is_main_process:
                    with explain_write_errors(run):
                        run.log(row)
                    bar.set_postfix(loss=f"{row.get('loss', math.nan):.4f}", images_s=f"{row['images_per_second']:.1f}")
            if not saving:
                continue
            with clock.stopped(), explain_write_errors(run):
                now = Checkpoint.of(model, ema, optimizer)
                if accelerator.is_main_process:
                    if done in sample_steps and draw_samples is not None:
                        run.write_sample(done, draw_samples(now.average.to(device), done))
                    run.write_checkpoint(done, now.write)
                    run.prune_checkpoints(config.keep_checkpoints, milestones=sample_steps)
                del now  # of sharded weights it is a whole copy
                accelerator.wait_for_everyone()
            if stopping:
                tell(f"stopped after step {done}, saved; the same command goes on from here")
                break
    return ema


def step_of(
    parallel: Callable[..., Tensor],
    optimizer: Adan | AdamW,
    ema: EMA,
    model: MDTTransformer,
    config: TrainingConfig,
    accelerator: Accelerator,
) -> Callable[..., dict[str, Tensor]]:
    """One step as a function of numbers and tensors alone, so that a GPU's launches can be recorded.

    Its arguments are the learning rate, the number of steps with this one, and the fields of each `Pass`. It gives
    the terms of each pass's loss, (N,), by name and the pass's number, and "gradient_norm".
    """
    diffusion, size = Diffusion(), len(Pass._fields)

    def take(rate: float | Tensor, done: float | Tensor, *fields: Tensor | None) -> dict[str, Tensor]:
        passes, seen = [Pass(*fields[i : i + size]) for i in range(0, len(fields), size)], {}
        for group in optimizer.param_groups:
            group["lr"] = rate
        for number, one in enumerate(passes):
            last = number + 1 == len(passes)
            with nullcontext() if last else accelerator.no_sync(parallel):  # one exchange a step
                with accelerator.autocast():
                    terms = training_terms(parallel, diffusion, *one, config.min_snr_gamma)
                accelerator.backward(terms["loss"].mean() / config.accumulation)
            seen |= {f"{term} {number}": terms[term].detach() for term in TERMS}
        optimizer.step()  # clips; takes no step where the gradient is not finite
        optimizer.zero_grad(set_to_none=True)
        ema.update(model, done, optimizer.taken)
        return seen | {"gradient_norm": optimizer.grad_norm}

    return take


def make_optimizer(model: MDTTransformer, config: TrainingConfig) -> Adan | AdamW:
    """The optimizer of the recipe over the model's trainable weights."""
    family = {"adan": Adan, "adamw": AdamW}
    if config.optimizer not in family:
        raise ValueError(f'optimizer must be "adan" or "adamw", not {config.optimizer!r}')
    parameters = [p for p in model.parameters() if p.requires_grad]
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw" and parameters[0].is_cuda:
        settings["capturable"] = config.cuda_graphs  # its rate may be a tensor
    return family[config.optimizer](parameters, **settings, max_grad_norm=config.max_grad_norm)


def prepare_blocks(model: MDTTransformer, config: TrainingConfig) -> None:
    """Let the model's blocks be compiled and recompute their activations, in place; no weight changes its name."""
    if config.compile:
        compile_blocks(model)
    if config.recompute:  # around what is compiled, for torch.compile leaves out a function that calls `checkpoint`
        for block in model.modules():
            if isinstance(block, Block):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


@contextmanager
def explain_write_errors(run: Run) -> Iterator[None]:
    """A file that cannot be written ends the training with one sentence; what is there stays whole."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{run.folder} cannot be written ({error}): make room, "
            "then the same command goes on from the last checkpoint"
        ) from error


class StopSignal:
    """Turns SIGTERM and Ctrl+C, while it is entered, into a question that the loop asks after every step.

    Many processes must agree, and agreeing makes them wait for each other: they do so after every tenth step, or after
    each one where it takes long, for a launcher soon kills who does not stop.
    """

    AGREE_EVERY, LONG = 10, 1.0  # steps, and seconds of one

    def __enter__(self) -> "StopSignal":
        self.received, self.agreed, self.steps, self.every = False, perf_counter(), 0, 1
        self.before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number, frame) -> None:
        self.received = True

    def requested(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; called by all of them after each step."""
        if accelerator.num_processes == 1:
            return self.received
        self.steps += 1
        if self.steps < self.every:
            return False
        before, self.agreed = self.agreed, perf_counter()
        mine = torch.tensor([self.received, (self.agreed - before) / self.steps], device=accelerator.device)
        received, seconds = accelerator.reduce(mine, "sum").tolist()
        # Of sums, which are the same in every process: so all of them ask again after the same step.
        self.every = 1 if seconds > self.LONG * accelerator.num_processes else self.AGREE_EVERY
        self.steps = 0
        return received > 0
