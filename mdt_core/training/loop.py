"""The training loop, one function read straight down: draw, step, report, log, save, done?

One step (arXiv 2303.14389, section 3.2 and figure 3): the same images at the same timesteps go through the model
twice, in a full pass and in a masked pass with its own noise, and the two losses are summed.

The same command resumes bit-equal on the CPU, because what a step draws depends on (seed, step) alone (draws.py). The
host waits for the device only to log and to save. A step whose gradient is not finite is skipped on the device, and
reported the next time the host waits.
"""

import errno
import math
import re
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from itertools import chain

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, KwargsHandler
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
from mdt_core.training.checkpoints import TrainingState, resume, write_checkpoint
from mdt_core.training.config import TrainingConfig, TrainingError, learning_rate
from mdt_core.training.draws import Draws, LatentData, Pass, batch_indices, passes_of_step
from mdt_core.training.ema import EMA
from mdt_core.training.flops import seconds_at_peak
from mdt_core.training.meter import AverageMeter, SkippedSteps, StepTimer
from mdt_core.training.optimizers import AdamW, Adan
from mdt_core.training.sharding import shard_models
from mdt_core.training.stop_signal import StopSignal
from mdt_core.transformer import MDTTransformer

# How long processes wait for the main one while it writes files, draws or judges. NCCL's own limit is 10 minutes.
PROCESS_TIMEOUT = timedelta(hours=2)


def train(
    model: MDTTransformer,
    data: LatentData,
    config: TrainingConfig,
    run: Run,
    *,
    sample_steps: Set[int] = frozenset(),
    draw_samples: Callable[[MDTTransformer, int], object] | None = None,
    accelerator: Accelerator | None = None,
) -> EMA:
    """Train `model` until `config.steps`, resuming from the run's last checkpoint if there is one.

    Args:
        model: on any device, freshly initialised or to be fine-tuned.
        data: the encoded images.
        config: the recipe.
        run: where everything is written.
        sample_steps: after how many steps samples are drawn. By `config` the averaged weights of these are kept.
        draw_samples: (averaged model, step) -> a PIL picture of samples; None: none are drawn.
        accelerator: processes and precision, "no" or "bf16"; by default float32 on what the launcher set up.

    Returns:
        The averaged weights.

    Raises:
        TrainingError: gradient or weights are not finite, no checkpoint can be resumed, or the disk is full.
        ValueError: the batch does not divide among the processes, or the precision is another one.
    """
    # Processes and precision; the part of each batch that is this process's.
    if accelerator is None:
        handlers = process_handlers(config, "side_interpolator" in model.parts)
        accelerator = Accelerator(cpu=cpus_alone(), mixed_precision="no", kwargs_handlers=handlers)
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise ValueError(f'training takes mixed_precision "no" or "bf16", not "{accelerator.mixed_precision}"')
    device, num_processes, is_main = accelerator.device, accelerator.num_processes, accelerator.is_main_process
    local_size = config.images_of_process(num_processes)
    local = slice(accelerator.process_index * local_size, (accelerator.process_index + 1) * local_size)

    # Model, EMA and optimizer, as the last checkpoint left them.
    model.to(device).train()
    peak_seconds = seconds_at_peak(model, config, device, num_processes)
    ema = EMA(model, config.ema_decay)
    prepare_blocks(model, config)
    if accelerator.is_fsdp2:
        shard_models(accelerator, model, ema.model)
    optimizer = make_optimizer(model, config)
    first = resume(run, model, ema, optimizer)
    parallel = model if accelerator.is_fsdp2 else accelerator.prepare(model)
    training_step = make_training_step(parallel, ema, optimizer, config, accelerator)
    if config.cuda_graphs and num_processes == 1:  # an exchange between processes is not recorded
        training_step = recorded(training_step, device)

    # What a step draws: a function of its number alone.
    channels, side, null_class = model.config.in_channels, model.config.sample_size, model.config.num_classes
    shape = (config.batch_size, channels, side, side)
    draws_of = partial(Draws.of_step, config=config, shape=shape, num_tokens=model.num_tokens, device=device)
    indices_of = partial(batch_indices, batch_size=config.batch_size, size=len(data), seed=config.seed)

    # Train.
    meter, skipped = AverageMeter(), SkippedSteps()
    timer = StepTimer(config.batch_size, peak_seconds, seconds_before=run.seconds_until(first))
    bar = tqdm(initial=first, total=config.steps, unit="step", disable=not is_main)
    report = bar.write if is_main else lambda text: None
    with StopSignal() as stop, bar:
        for step in range(first, config.steps):
            # Draw this step's images, timesteps, noise and hidden tokens.
            draws = draws_of(step).part(local)
            passes = passes_of_step(data, indices_of(step)[local], draws, config, null_class)

            # Step.
            rate, done = learning_rate(step, config), step + 1
            outputs = training_step(rate, float(done), *chain(*passes))
            meter.add_step(passes, outputs)
            skipped.norms[step] = outputs["gradient_norm"]
            timer.steps += 1
            bar.update()

            # What is due?
            stopping = stop.requested(accelerator)
            last, sampling = done == config.steps, done in sample_steps
            logging = done % config.log_every == 0 or last
            saving = done % config.save_every == 0 or sampling or last or stopping

            # Report skipped steps.
            if logging or saving:
                for bad in skipped.read():
                    timesteps, images = draws_of(bad).timesteps.tolist(), indices_of(bad)
                    report(f"step {bad}: gradient not finite, left out; timesteps {timesteps}, images {images}")
                if skipped.in_a_row > config.max_bad_steps:
                    raise TrainingError(
                        f"the gradient was not finite in {skipped.in_a_row} steps in a row, up to step {step}: lower "
                        f"the learning rate, then start again from the last checkpoint in {run.folder}"
                    )

            # Log.
            if logging:
                means = meter.read(partial(accelerator.reduce, reduction="sum"))
                row = {"step": done, **means, "learning_rate": rate, **timer.read()}
                accelerator.log(row, step=done)
                bar.set_postfix(loss=f"{row.get('loss', math.nan):.4f}", images_s=f"{row['images_per_second']:.1f}")
                if is_main:
                    with explain_write_errors(run):
                        run.log(row)

            # Save, and draw samples.
            if saving:
                with timer.paused(), explain_write_errors(run):
                    state = TrainingState.gather(model, ema, optimizer)
                    if is_main:
                        if sampling and draw_samples is not None:
                            run.write_sample(done, draw_samples(state.ema.to(device), done))
                        write_checkpoint(run, done, state.save)
                        milestones = sample_steps if config.keep_sampled else ()
                        run.prune_checkpoints(config.keep_checkpoints, milestones)
                    del state  # of sharded weights it is a whole copy
                    accelerator.wait_for_everyone()

            # Done?
            if stopping:
                report(f"stopped after step {done}, saved; the same command goes on from here")
                break
    return ema


def make_training_step(
    model: Callable[..., Tensor],
    ema: EMA,
    optimizer: Adan | AdamW,
    config: TrainingConfig,
    accelerator: Accelerator,
) -> Callable[..., dict[str, Tensor]]:
    """One step as a function of numbers and tensors alone, so that a GPU's launches can be recorded.

    Args:
        model: as the accelerator prepared it.
        ema: moves towards the model after every step.
        optimizer: of the model's weights.
        config: the recipe.
        accelerator: the processes, and the precision of the forward pass.

    Returns:
        `training_step(rate, steps_done, *fields)` of the learning rate, the number of steps done with this one, and
        the fields of each `Pass`, one pass after the other. It gives "gradient_norm" and, for the pass of each number,
        the terms of its loss: "loss 0" (N,), ...
    """
    diffusion, size = Diffusion(), len(Pass._fields)

    def training_step(rate: float | Tensor, steps_done: float | Tensor, *fields: Tensor | None) -> dict[str, Tensor]:
        for group in optimizer.param_groups:
            group["lr"] = rate
        passes, outputs = [Pass(*fields[i : i + size]) for i in range(0, len(fields), size)], {}
        for number, inputs in enumerate(passes):
            last = number + 1 == len(passes)
            with nullcontext() if last else accelerator.no_sync(model):  # one exchange of gradients a step
                with accelerator.autocast():
                    terms = training_terms(model, diffusion, *inputs, config.min_snr_gamma, config.noise_power)
                accelerator.backward(terms["loss"].mean() / config.accumulation)
            outputs |= {f"{term} {number}": terms[term].detach() for term in TERMS}
        optimizer.step()  # clips the gradient; skips the step where it is not finite
        optimizer.zero_grad(set_to_none=True)
        ema.update(model, steps_done, optimizer.taken)
        return outputs | {"gradient_norm": optimizer.grad_norm}

    return training_step


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


def process_handlers(config: TrainingConfig, masked_pass: bool) -> list[KwargsHandler]:
    """What an `Accelerator` is told of several processes. `masked_pass`: whether the model is made for one."""
    # Where it is never run, some weights are in no pass, and the processes must agree on that.
    unused = masked_pass and config.mask_ratio is None
    return [
        DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=unused),
        InitProcessGroupKwargs(timeout=PROCESS_TIMEOUT),
    ]


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
        code = getattr(error, "errno", None) or next(map(int, re.findall(r"os error (\d+)", str(error))), None)
        cure = "make room" if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "see to that"
        raise TrainingError(
            f"{run.folder} cannot be written ({error}): {cure}, then the same command goes on from the last checkpoint"
        ) from error
