"""The training loop: one function read straight down. Log, sample, save, stop?, step.

One step (arXiv 2303.14389, section 3.2 and figure 3): the same images at the same timesteps go through the
model twice, in a full pass and in a masked pass with its own noise, and the two losses are summed.

All randomness of step k is drawn from (seed, k) alone, for the global batch, of which every process takes its
part. So there is no random state to save: the same command resumes where it stopped, and the number of
processes changes nothing but the order of floating-point sums.
"""

import math
import random
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from mdt_core.diffusion import NUM_TIMESTEPS, Diffusion
from mdt_core.losses import training_terms
from mdt_core.masking import draw_keep
from mdt_core.optim import EMA, Adan, load_optimizer_tensors, optimizer_tensors
from mdt_core.runs import Run
from mdt_core.transformer import MDTTransformer


class LatentData(Protocol):
    """Encoded images: what training reads."""

    def __len__(self) -> int: ...

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean and standard deviation (N, C, h, w) in latent units, and class labels (N,)."""
        ...


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. The defaults are the paper's MDTv2 at any size."""

    steps: int = 400_000
    batch_size: int = 256  # images per step, over all processes
    optimizer: str = "adan"  # or "adamw"
    learning_rate: float = 3e-4
    warmup_steps: int = 0  # linear from 0
    decay: float = 0.0  # share of the steps, the last ones, in which the learning rate falls linearly to 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # global norm
    ema_decay: float = 0.9999
    label_dropout: float = 0.1  # share of labels replaced by the null class
    mask_ratio: tuple[float, float] | None = (0.3, 0.5)  # share of hidden tokens, drawn per step; None: no masked pass
    min_snr_gamma: float | None = 5.0
    accumulation: int = 1  # micro-batches a process splits its part into
    seed: int = 0
    log_every: int = 50
    save_every: int = 5_000
    keep_checkpoints: int = 2
    max_bad_steps: int = 10  # steps in a row whose loss is not finite, before the run gives up


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, and the last checkpoint is whole."""


# --- what a step draws ---------------------------------------------------------------------------------------


def _seed_of(name: str) -> int:
    """A seed that is the same in every process and on every machine, as Python's `hash` is not."""
    return random.Random(name).getrandbits(48)


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(_seed_of(f"{seed}/epoch {epoch}")))


def batch_indices(step: int, batch_size: int, size: int, seed: int) -> list[int]:
    """Images of a step: a window onto an endless row of shuffled epochs."""
    first = step * batch_size
    return [int(_epoch_order(seed, k // size, size)[k % size]) for k in range(first, first + batch_size)]


@dataclass(frozen=True)
class Draws:
    """The random numbers of one step, for the global batch or a part of it. B images, T tokens, K kept ones."""

    timesteps: Tensor  # (B,)
    drop_label: Tensor  # (B,) bool
    posterior: Tensor  # (B, C, h, w), standard normal
    noise: Tensor  # (B, C, h, w)
    masked_noise: Tensor  # (B, C, h, w), of the masked pass
    keep: Tensor | None  # (B, K)

    @classmethod
    def of_step(cls, step: int, config: TrainingConfig, shape: tuple[int, ...], num_tokens: int, device) -> "Draws":
        """Draw for step `step` and latents of `shape` (B, C, h, w)."""
        b = shape[0]
        seed = _seed_of(f"{config.seed}/step {step}")
        g = torch.Generator(device).manual_seed(seed)
        normal = lambda: torch.randn(shape, generator=g, device=device)  # noqa: E731
        timesteps = torch.randint(NUM_TIMESTEPS, (b,), generator=g, device=device)
        drop_label = torch.rand(b, generator=g, device=device) < config.label_dropout
        posterior, noise, masked_noise = normal(), normal(), normal()
        keep = None
        if config.mask_ratio is not None:
            ratio = random.Random(seed).uniform(*config.mask_ratio)  # on the host: no synchronisation for a length
            order = torch.rand(b, num_tokens, generator=g, device=device)
            keep = draw_keep(order, max(1, round(num_tokens * (1 - ratio))))
        return cls(timesteps, drop_label, posterior, noise, masked_noise, keep)

    def part(self, rows: slice) -> "Draws":
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Draws(**{name: None if value is None else value[rows] for name, value in values.items()})


# --- learning rate, optimizer --------------------------------------------------------------------------------


def make_optimizer(model: MDTTransformer, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of the recipe over the model's trainable weights."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adan":
        return Adan(parameters, **settings)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **settings)
    raise ValueError(f'optimizer must be "adan" or "adamw", not {config.optimizer!r}')


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The learning rate of step `step` (from 0)."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    falling = config.steps * config.decay
    decay = min(1.0, (config.steps - step) / falling) if falling else 1.0
    return config.learning_rate * warmup * decay


# --- one step ------------------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """One pass through the model: the arguments of `training_terms` after model and diffusion."""

    x_0: Tensor
    timesteps: Tensor
    class_labels: Tensor
    noise: Tensor
    keep: Tensor | None  # None: the full pass


def passes_of_step(
    data: LatentData, indices: list[int], draws: Draws, config: TrainingConfig, null_class: int
) -> list[Pass]:
    """A process's images of a step, in micro-batches, each in a full pass and, where tokens are hidden, a masked one.

    Args:
        indices: of the process's images.
        draws: of the same images.
        null_class: stands for a dropped label.
    """
    passes, size = [], len(indices) // config.accumulation
    for start in range(0, len(indices), size):
        rows = slice(start, start + size)
        d = draws.part(rows)
        mean, std, labels = (x.to(d.noise.device) for x in data.batch(indices[rows]))
        x_0 = mean + std * d.posterior
        labels = torch.where(d.drop_label, null_class, labels)
        passes.append(Pass(x_0, d.timesteps, labels, d.noise, None))
        if d.keep is not None:
            passes.append(Pass(x_0, d.timesteps, labels, d.masked_noise, d.keep))
    return passes


class Meter:
    """Means of what was added since it was last read, kept on the device until then."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, where: Tensor | None = None) -> None:
        values = values.detach().float()
        weights = torch.ones_like(values) if where is None else where.float()
        self.sums[name] = self.sums.get(name, 0) + (values * weights).sum()
        self.counts[name] = self.counts.get(name, 0) + weights.sum()

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        names = sorted(self.sums)
        totals = torch.stack([torch.stack([self.sums[n], self.counts[n]]) for n in names])
        sums, counts = accelerator.reduce(totals, "sum").T.tolist()
        self.__init__()
        return {n: s / c for n, s, c in zip(names, sums, counts, strict=True) if c}


# --- the loop ------------------------------------------------------------------------------------------------


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
        accelerator: by default one in float32 as the launcher set it up.

    Returns:
        The averaged weights.

    Raises:
        TrainingError: the loss stayed not finite, or a checkpoint does not fit the model.
    """
    accelerator = accelerator or Accelerator()
    if config.batch_size % (accelerator.num_processes * config.accumulation):
        raise ValueError(
            f"batch_size {config.batch_size} does not divide among {accelerator.num_processes} processes "
            f"x {config.accumulation} micro-batches"
        )
    device, settings = accelerator.device, model.config
    model.to(device).train()
    ema, optimizer, diffusion = EMA(model, config.ema_decay), make_optimizer(model, config), Diffusion()
    first = resume(run, model, ema, optimizer)
    parallel = accelerator.prepare(model)
    shape = (config.batch_size, settings.in_channels, settings.sample_size, settings.sample_size)
    local = config.batch_size // accelerator.num_processes
    mine = slice(accelerator.process_index * local, (accelerator.process_index + 1) * local)
    meter, bad_steps, clock = Meter(), 0, time.perf_counter()
    bar = tqdm(initial=first, total=config.steps, unit="step", disable=not accelerator.is_main_process)
    with StopSignal() as stop, bar:
        for step in range(first, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config)
            indices = batch_indices(step, config.batch_size, len(data), config.seed)
            draws = Draws.of_step(step, config, shape, model.num_tokens, device)
            passes = passes_of_step(data, indices[mine], draws.part(mine), config, settings.num_classes)
            for number, one in enumerate(passes, start=1):
                with nullcontext() if number == len(passes) else accelerator.no_sync(parallel):  # one exchange a step
                    terms = training_terms(parallel, diffusion, *one, config.min_snr_gamma)
                    accelerator.backward(terms["loss"].mean() / config.accumulation)
                record(meter, one, terms)
            norm = accelerator.clip_grad_norm_(parallel.parameters(), config.max_grad_norm)
            if torch.isfinite(norm):
                bad_steps = 0
                optimizer.step()
                ema.update(model, step + 1)
                meter.add("gradient_norm", norm)
            else:
                bad_steps += 1
                meter = Meter()
                bar.write(f"step {step}: gradient not finite, skipped; timesteps {draws.timesteps.tolist()}")
                if bad_steps > config.max_bad_steps:
                    raise TrainingError(
                        f"the gradient was not finite in {bad_steps} steps in a row, up to step {step}: lower the "
                        f"learning rate, then start again from the last checkpoint in {run.folder}"
                    )
            optimizer.zero_grad(set_to_none=True)

            done = step + 1
            bar.update()
            if (done % config.log_every == 0 or done == config.steps) and meter.sums:
                row = {"step": done, **meter.read(accelerator), "learning_rate": learning_rate(step, config)}
                seconds, clock = time.perf_counter() - clock, time.perf_counter()
                row["images_per_second"] = config.batch_size * min(config.log_every, done - first) / seconds
                if accelerator.is_main_process:
                    run.log(row)
                    bar.set_postfix(loss=f"{row['loss']:.4f}", images_s=f"{row['images_per_second']:.1f}")
            if done in sample_steps and draw_samples is not None and accelerator.is_main_process:
                run.write_sample(done, draw_samples(ema.model, done))
                clock = time.perf_counter()
            stopping = stop.requested(accelerator)
            milestone = done in sample_steps or done == config.steps
            if accelerator.is_main_process and (done % config.save_every == 0 or milestone or stopping):
                run.write_checkpoint(done, Checkpoint(model, ema, optimizer).write)
                run.prune_checkpoints(config.keep_checkpoints, milestones=sample_steps)
            accelerator.wait_for_everyone()
            if stopping:
                bar.write(f"stopped after step {done}, saved; the same command goes on from here")
                break
    return ema


def record(meter: Meter, one: Pass, terms: dict[str, Tensor]) -> None:
    """Add a pass's terms: the full pass under plain names and by quarter of the timesteps, the masked one apart."""
    if one.keep is not None:
        meter.add("masked_loss", terms["loss"])
        return
    for term, values in terms.items():
        meter.add(term, values)
    quarter = one.timesteps * 4 // NUM_TIMESTEPS
    for q in range(4):
        meter.add(f"loss_q{q + 1}", terms["loss"], where=quarter == q)


class StopSignal:
    """Turns SIGTERM and Ctrl+C, while it is entered, into a question that the loop asks after every step."""

    def __enter__(self) -> "StopSignal":
        self.received = False
        self.before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number, frame) -> None:
        self.received = True

    def requested(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop."""
        if accelerator.num_processes == 1:
            return self.received
        flag = torch.tensor(float(self.received), device=accelerator.device)
        return bool(accelerator.reduce(flag, "sum") > 0)


# --- checkpoints ---------------------------------------------------------------------------------------------


@dataclass
class Checkpoint:
    """What a checkpoint holds. The averaged weights are a diffusers folder; the rest serves to resume."""

    model: MDTTransformer
    ema: EMA
    optimizer: torch.optim.Optimizer

    def write(self, folder: Path) -> None:
        self.ema.model.save_pretrained(folder / "transformer")
        save_file(_contiguous(self.model.state_dict()), folder / "raw.safetensors")
        save_file(_contiguous(optimizer_tensors(self.optimizer)), folder / "optimizer.safetensors")

    def read(self, folder: Path) -> None:
        average = type(self.model).from_pretrained(folder / "transformer")
        self.ema.model.load_state_dict(average.state_dict())
        self.model.load_state_dict(load_file(folder / "raw.safetensors"))
        load_optimizer_tensors(self.optimizer, load_file(folder / "optimizer.safetensors"))


def resume(run: Run, model: MDTTransformer, ema: EMA, optimizer: torch.optim.Optimizer) -> int:
    """Load the run's last checkpoint into model, average and optimizer; the number of steps it has done."""
    whole = {step: folder for step, folder in run.checkpoints.items() if (folder / "optimizer.safetensors").exists()}
    if not whole:
        return 0
    step, folder = max(whole.items())
    try:
        Checkpoint(model, ema, optimizer).read(folder)
    except Exception as error:
        raise TrainingError(
            f"{folder} cannot be resumed ({error}): delete that folder to go on from the one before, "
            "or choose another --output-dir"
        ) from error
    return step


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def exponential_steps(total: int, first: int = 1, per_doubling: int = 1) -> set[int]:
    """Steps at equal distances on a logarithmic axis, the last one included: 1, 2, 4, ... total."""
    count = int(math.log2(total / first) * per_doubling)
    return {round(first * 2 ** (i / per_doubling)) for i in range(count + 1)} | {total}
