"""The student's training: plain regression, each of its steps to where the teacher is after several.

The steps of a deterministic sampler are affine in epsilon. So there is one epsilon that leads from a state of the
teacher's trajectory to a later one in a single step, and the student is held to it at that state (as in progressive
distillation, arXiv:2202.00512, but along whole trajectories of any solver, guidance among them).
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import SchedulerMixin
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from mdt_core import MDTPipeline, MDTTransformer
from mdt_core.diffusion import Diffusion
from mdt_core.lora import LORA_FILE, LoRA
from mdt_core.pipeline.settings import SamplingSettings
from mdt_core.runs import Run, write_whole
from mdt_core.samplers import find_sampler, sampling_timesteps
from mdt_core.training.checkpoints import save_tensors
from mdt_core.training.draws import batch_indices
from mdt_core.training.ema import EMA
from mdt_core.training.loop import explain_write_errors
from mdt_core.training.optimizers import Adan, load_optimizer_tensors, optimizer_tensors
from mdt_core.training.step_timing import seconds_per_step
from train.distill.config import DistillConfig
from train.distill.trajectories import Trajectories, draw_trajectories
from train.export import write_pipeline
from train.run_steps import choose_training_device, run_steps
from train.settings import check_same_run

# Of the configuration: what a run keeps from its start to its end.
FIXED = ("model", "teacher_steps", "student_steps", "rank", "num_images")
HELD_OUT = 32  # trajectories, the last ones, that the error is measured on


def distill(config: DistillConfig, run: Run) -> None:
    """Distil into a run folder, or go on there; at the end its `pipeline` holds the model with its addition.

    Raises:
        ValueError: the model cannot be opened, draws noise in its steps or by a student, or the folder holds another
            run.
        TrainingError: the last checkpoint cannot be read, or a file not be written.
    """
    check_same_run(run, config.describe(), FIXED)
    pipe = MDTPipeline.from_pretrained(config.model).to(choose_training_device())
    teacher = pipe.sampling_defaults.but(num_inference_steps=config.teacher_steps)
    if teacher.distilled:
        raise ValueError(f"{config.model} draws by a student unless told otherwise: name a model that draws by itself")
    student = teacher.but(num_inference_steps=config.student_steps, guidance_scale=1.0, distilled=True)
    if find_sampler(student.sampler, student.num_inference_steps).stochastic:
        raise ValueError(f"{student.sampler} draws noise in every step: a student can follow dpm++ and ddim alone")
    precision = run.config.get("precision") or seconds_per_step(pipe.transformer, config.batch_size)[1]
    run.write_config(config.describe() | {"precision": str(precision).removeprefix("torch.")})

    # Where the teacher is, and what leads there.
    trajectories = draw_trajectories(pipe, teacher, student, config.num_images, run.folder / "trajectories")
    rows = Rows.of(trajectories, student).to(pipe.device)

    # The addition to the layers of the full pass, and its training.
    torch.manual_seed(config.seed)
    model = pipe.transformer.requires_grad_(False)
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    state = State(LoRA(model, [name for name in linear if not name.startswith("sideblocks")], config.rank), config)
    step = StudentStep(config, state, model, rows, getattr(torch, run.config["precision"]))
    if run_steps(state, config, run, step, step.measure):
        lora = state.ema.model
        torch._foreach_mul_(list(lora.up), config.strength)
        with explain_write_errors(run):
            write_whole(run.folder / LORA_FILE, lora.save)
            write_student(pipe, run, student)


def write_student(pipe: MDTPipeline, run: Run, student: SamplingSettings) -> None:
    """Write the run's pipeline: the model with its addition, and the preset "fast" that draws with it."""
    pipe.load_lora_weights(run.folder)
    entries, fast = pipe.config.sampling_defaults or {}, pipe.sampling_defaults.changes_of(student)
    pipe.sampling_defaults = {**entries, "presets": {**entries.get("presets", {}), "fast": fast}}
    write_pipeline(pipe, run.folder / "pipeline")


@dataclass(frozen=True)
class Rows:
    """The steps of all trajectories, those of one trajectory after those of another."""

    x_t: Tensor  # (R, C, h, w), where the step begins
    timesteps: Tensor  # (R,)
    labels: Tensor  # (R,)
    epsilon: Tensor  # (R, C, h, w), what leads to its end
    reach: Tensor  # (R,), how far the end moves with epsilon

    @classmethod
    def of(cls, trajectories: Trajectories, student: SamplingSettings) -> "Rows":
        """What the student is held to at each of its steps."""
        states, timesteps = trajectories.states.float(), sampling_timesteps(**student.trajectory)
        epsilons, reaches = targets(states, student)
        count = len(timesteps)
        return cls(
            states[:, :-1].flatten(0, 1),
            torch.tensor(timesteps).repeat(len(states)),
            trajectories.labels.repeat_interleave(count),
            epsilons.flatten(0, 1),
            reaches.repeat(len(states)),
        )

    def to(self, device: torch.device) -> "Rows":
        """The same on a device."""
        return Rows(*(tensor.to(device) for tensor in vars(self).values()))

    def part(self, rows: slice | list[int]) -> "Rows":
        """Some of them."""
        return Rows(*(tensor[rows] for tensor in vars(self).values()))

    def error(self, epsilon: Tensor) -> Tensor:
        """Mean square distance (R,) between the ends that epsilon (R, C, h, w) leads to and the teacher's."""
        return self.reach.square() * (epsilon - self.epsilon).square().flatten(1).mean(1)


def targets(states: Tensor, student: SamplingSettings) -> tuple[Tensor, Tensor]:
    """The epsilon of every step that ends where the teacher is.

    Args:
        states: (N, S + 1, C, h, w) of a trajectory at the S timesteps of the student, and clean.
        student: its deterministic sampler and its S steps.

    Returns:
        epsilon (N, S, C, h, w), and the number (S,) by which the end of each step moves with epsilon.
    """
    timesteps = sampling_timesteps(**student.trajectory)
    scheduler = find_sampler(student.sampler, student.num_inference_steps).make(timesteps)
    epsilons, reaches = [], []
    for index, t in enumerate(timesteps):
        x_t, end, last = states[:, index], states[:, index + 1], t == timesteps[-1]
        at_zero, at_one = (
            advance(deepcopy(scheduler), x_t, t, torch.full_like(x_t, value), last) for value in (0.0, 1.0)
        )
        reach = (at_one - at_zero).flatten()[0]
        epsilons.append((end - at_zero) / reach)
        reaches.append(reach)
        advance(scheduler, x_t, t, epsilons[-1], last)  # a multistep solver remembers it
    return torch.stack(epsilons, dim=1), torch.stack(reaches)


def advance(scheduler: SchedulerMixin, x_t: Tensor, t: int, epsilon: Tensor, last: bool) -> Tensor:
    """Where a step leads, as in `samplers.sample`: the last one to the clean latents that epsilon implies."""
    if last:
        return Diffusion().predict_x0(x_t, torch.full((len(x_t),), t), epsilon)
    return scheduler.step(epsilon, t, x_t, return_dict=False)[0]


class State:
    """The addition, its average and the optimizer."""

    def __init__(self, lora: LoRA, config: DistillConfig):
        self.lora, self.ema = lora, EMA(lora, config.ema_decay)
        self.optimizer = Adan(lora.parameters(), config.learning_rate, max_grad_norm=1.0, compile=False)

    def save(self, folder: Path) -> None:
        """Fill a checkpoint's folder."""
        save_tensors(self.ema.model.state_dict(), folder / "ema.safetensors")
        save_tensors(self.lora.state_dict(), folder / "raw.safetensors")
        save_tensors(optimizer_tensors(self.optimizer), folder / "optimizer.safetensors")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, in place."""
        self.ema.model.load_state_dict(load_file(folder / "ema.safetensors"))
        self.lora.load_state_dict(load_file(folder / "raw.safetensors"))
        load_optimizer_tensors(self.optimizer, load_file(folder / "optimizer.safetensors"))


class StudentStep:
    """One step: call it with its number and how much of the training is over; it gives the means to log."""

    def __init__(self, config: DistillConfig, state: State, model: MDTTransformer, rows: Rows, dtype: torch.dtype):
        held_out = min(HELD_OUT, len(rows.labels) // config.student_steps // 2) * config.student_steps
        self.rows, self.held_out = rows.part(slice(-held_out)), rows.part(slice(-held_out, None))
        self.config, self.state, self.model, self.dtype = config, state, model, dtype
        with torch.no_grad():
            self.before = self.held_out.error(self.predict(self.held_out, {})).mean()

    def __call__(self, number: int, progress: float) -> dict[str, Tensor]:
        config, state = self.config, self.state
        batch = self.rows.part(batch_indices(number, config.batch_size, len(self.rows.labels), config.seed))
        loss = batch.error(self.predict(batch, state.lora.weights(self.model))).mean() / self.before
        loss.backward()
        state.optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - progress)
        state.optimizer.step()  # clips; takes no step where the gradient is not finite
        state.optimizer.zero_grad(set_to_none=True)
        state.ema.update(state.lora, float(number + 1), state.optimizer.taken)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The averaged student's error on trajectories that it does not learn from; without an addition it is 1."""
        epsilon = self.predict(self.held_out, self.state.ema.model.weights(self.model))
        return {"held_out": (self.held_out.error(epsilon).mean() / self.before).item()}

    def predict(self, rows: Rows, weights: dict[str, Tensor]) -> Tensor:
        """The model's epsilon (R, C, h, w) with some weights in place of its own."""
        inputs = rows.x_t, rows.timesteps, rows.labels
        with torch.autocast(rows.x_t.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return functional_call(self.model, weights, inputs).chunk(2, dim=1)[0].float()
