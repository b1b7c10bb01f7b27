"""`python -m train.bench`: how fast a training step and its parts are, against the published computation.

The reference step is the plain model of mdt_core/bench/reference.py under the same loss, then `clip_grad_norm_`,
adan-pytorch tensor by tensor, and an average of its own, all in float32; both sides train on the same images, noise and
hidden tokens. They take turns in one process (mdt_core/bench/timing.py). The last line is one JSON object.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import adan_pytorch
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mdt_core.acceleration.cuda_graphs import recorded
from mdt_core.bench.command import main as run_bench
from mdt_core.bench.reference import ReferenceModel
from mdt_core.bench.rows import NEEDS_GPU, Row, Setting, dtypes, errors, masked, random_model
from mdt_core.bench.timing import take_turns
from mdt_core.diffusion import Diffusion
from mdt_core.losses import training_terms
from mdt_core.training.config import TrainingConfig
from mdt_core.training.draws import Draws, Pass, passes_of_step
from mdt_core.training.ema import EMA
from mdt_core.training.loop import make_optimizer, make_training_step, prepare_blocks
from mdt_core.training.optimizers import Adan
from mdt_core.transformer import MDTTransformer
from train.config import RECIPES, Recipe
from train.latents.dataset import Latents

# --- the step ------------------------------------------------------------------------------------------------


@dataclass
class RandomLatents:
    """Noise in place of images, for a step of which only the time counts."""

    mean: Tensor
    num_classes: int

    def __len__(self) -> int:
        return len(self.mean)

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation and label of each, as a data set gives them."""
        return self.mean[indices], torch.full_like(self.mean[indices], 0.1), torch.tensor(indices) % self.num_classes


class Steps:
    """Steps of `train`, without its log and its files; each call takes the next one.

    It stands in for the accelerator: accelerate's has one precision for a process, and here two take turns in it.
    """

    def __init__(self, model: MDTTransformer, config: TrainingConfig, dtype: str = "float32"):
        self.model, self.config, self.lower, self.done = model.train(), config, dtype == "bfloat16", 0
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.gradients: Tensor | None = None  # of the first step, before they are clipped
        self.ema = EMA(model, config.ema_decay)
        self.training_step = self.make_step()
        seeded = torch.Generator().manual_seed(0)  # both sides see the same images
        shape = (model.config.in_channels, *2 * [model.config.sample_size])
        images = torch.randn(config.batch_size, *shape, generator=seeded)
        self.data = RandomLatents(images, max(1, model.config.num_classes))

    def make_step(self) -> Callable[..., object]:
        """The step as a function of learning rate, steps done and the fields of every pass."""
        prepare_blocks(self.model, self.config)
        step = make_training_step(self.model, self.ema, make_optimizer(self.model, self.config), self.config, self)
        return recorded(step, self.model.device) if self.config.cuda_graphs else step

    def __call__(self) -> None:
        shape, device = tuple(self.data.mean.shape), self.model.device
        draws = Draws.of_step(self.done, self.config, shape, self.model.num_tokens, device)
        passes = passes_of_step(self.data, list(range(shape[0])), draws, self.config, self.model.config.num_classes)
        self.training_step(self.config.learning_rate, float(self.done + 1), *chain(*passes))
        self.done += 1

    # --- what a step asks of an accelerator --------------------------------------------------------------------

    def no_sync(self, model: torch.nn.Module) -> AbstractContextManager:
        """Nothing: there is one process."""
        return nullcontext()

    def autocast(self) -> AbstractContextManager:
        """Products in bfloat16, where that was asked for."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.lower)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients."""
        loss.backward()
        if self.done == 0:
            self.gradients = torch.cat([p.grad.flatten() for p in self.weights if p.grad is not None])


class PublishedSteps(Steps):
    """The same steps with the plain model, `clip_grad_norm_`, adan-pytorch, and an average tensor by tensor."""

    def make_step(self) -> Callable[..., object]:
        """The step as the published code takes it."""
        model, diffusion, size = ReferenceModel(self.model), Diffusion(), len(Pass._fields)
        optimizer = adan_pytorch.Adan(self.weights, lr=self.config.learning_rate)

        def training_step(rate: float, steps_done: float, *fields: Tensor | None) -> None:
            for start in range(0, len(fields), size):
                terms = training_terms(model, diffusion, *fields[start : start + size], self.config.min_snr_gamma)
                self.backward(terms["loss"].mean())
            torch.nn.utils.clip_grad_norm_(self.weights, self.config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average_one_by_one(self.ema.model, self.model)

        return training_step


@torch.no_grad()
def average_one_by_one(average: torch.nn.Module, model: torch.nn.Module) -> None:
    """The average of weights as published code updates it."""
    for a, p in zip(average.parameters(), model.parameters(), strict=True):
        a.mul_(0.9999).add_(p, alpha=1e-4)


def step(name: str, images: dict[str, int | None], compiled: bool = False) -> Callable[[Setting], Iterator[Row]]:
    """A whole training step of so many images on each kind of device; None: nothing there."""

    def rows(setting: Setting) -> Iterator[Row]:
        count = images[setting.device]
        title = f"training step {name}{', compiled' * compiled}"
        if count is None:
            yield Row(title, note=NEEDS_GPU)
            return
        config = TrainingConfig(batch_size=count, learning_rate=1e-4, compile=compiled)
        model = random_model(name, setting.device)
        sides: dict[str, Steps] = {"reference": PublishedSteps(deepcopy(model), config)}
        sides |= {dtype: Steps(deepcopy(model), config, dtype) for dtype in dtypes(setting.device)}
        times = take_turns(sides, setting.repeats, device=setting.device)
        for dtype in list(sides)[1:]:
            difference = errors(sides[dtype].gradients, sides["reference"].gradients)
            row = f"{title}, batch {count}, {dtype}"
            yield Row.of(row, times[dtype], times["reference"], **difference)

    return rows


def recorded_step(setting: Setting) -> Iterator[Row]:
    """A step of the shipped model's recipe. Nothing for a CPU."""
    recipe = RECIPES["avatars-gpu"]
    if setting.device == "cpu":
        yield Row(f"recorded training step {recipe.model}", note=NEEDS_GPU)
    else:
        yield compare_recorded(recipe, setting)


def compare_recorded(recipe: Recipe, setting: Setting) -> Row:
    """A recipe's step with its launches recorded as a CUDA graph, against the same step launched as it is.

    The error is that of the weights after three steps: the first runs as it is, the second is recorded and replayed,
    the third replayed.
    """
    channels, side, _ = recipe.data_shape
    model, dtype = random_model(recipe.model, setting.device, side, channels), dtypes(setting.device)[-1]
    config = replace(recipe.training, mask_ratio=(0.4, 0.4))  # each number of kept tokens would be recorded anew
    sides = {
        "recorded": Steps(deepcopy(model), replace(config, cuda_graphs=True), dtype),
        "launched": Steps(deepcopy(model), replace(config, cuda_graphs=False), dtype),
    }
    for _ in range(3):
        sides["recorded"](), sides["launched"]()
    difference = errors(*(torch.cat([p.detach().flatten() for p in steps.weights]) for steps in sides.values()))
    times = take_turns(sides, 4 * setting.repeats, device=setting.device)
    title = f"recorded training step {recipe.model}, batch {config.batch_size}, {dtype}"
    return Row.of(title, times["recorded"], times["launched"], against="launched", **difference)


def versions(setting: Setting) -> Iterator[Row]:
    """A step of each version as the avatars recipes take it: what the masked pass and version 2's parts cost."""
    recipes = {name: RECIPES[name] for name in ("avatars-dit", "avatars-mdt", "avatars")}
    sides = {
        name: Steps(random_model(recipe.model, setting.device, 16), recipe.training, dtypes(setting.device)[-1])
        for name, recipe in recipes.items()
    }
    times = take_turns(sides, 4 * setting.repeats, warmup=2, device=setting.device)
    for name, recipe in list(recipes.items())[1:]:
        title = f"training step {name}, {recipe.model}, batch {recipe.training.batch_size}"
        yield Row.of(title, times[name], times["avatars-dit"], against="avatars-dit")


# --- its parts -----------------------------------------------------------------------------------------------


def optimizer(setting: Setting) -> Iterator[Row]:
    """Adan on the parameters of S/2, with and without the clip, and the time that moving as many bytes takes."""
    model = random_model("MDTv2-S/2", setting.device)
    shapes = [p.shape for p in model.parameters() if p.requires_grad]

    def weights() -> list[torch.nn.Parameter]:
        parameters = [torch.nn.Parameter(torch.randn(shape, device=setting.device)) for shape in shapes]
        for p in parameters:
            p.grad = torch.randn_like(p)
        return parameters

    clipped, plain, published = weights(), weights(), weights()
    theirs = adan_pytorch.Adan(published, lr=1e-4)
    flat = torch.cat([p.detach().flatten() for p in plain])
    other = torch.empty_like(flat)

    def clip_and_step() -> None:
        torch.nn.utils.clip_grad_norm_(published, 1.0)
        theirs.step()

    work = {
        "clipped": Adan(clipped, lr=1e-4, max_grad_norm=1.0).step,
        "plain": Adan(plain, lr=1e-4).step,
        "theirs": theirs.step,
        "theirs, clipped": clip_and_step,
        "copy": lambda: other.copy_(flat),
    }
    times = take_turns(work, 2 * setting.repeats, device=setting.device)
    floor = 5.5 * times["copy"].median  # six reads and five writes of each weight; a copy is one of each
    for ours, reference, name in (("plain", "theirs", "Adan"), ("clipped", "theirs, clipped", "Adan with its clip")):
        note = f"copying as many bytes: {floor:.3f} s, {times[ours].median / floor:.1f}x"
        yield Row.of(f"{name}, S/2", times[ours], times[reference], against="adan-pytorch", note=note)


def average(setting: Setting) -> Iterator[Row]:
    """The average's update, S/2."""
    model = random_model("MDTv2-S/2", setting.device)
    ema, theirs, taken = EMA(model, 0.9999), deepcopy(model), torch.ones((), device=setting.device)
    work = {
        "ours": lambda: ema.update(model, 10**6, taken),
        "one by one": lambda: average_one_by_one(theirs, model),
    }
    times = take_turns(work, 2 * setting.repeats, device=setting.device)
    yield Row.of("average of weights, S/2", times["ours"], times["one by one"], against="tensor by tensor")


def data(setting: Setting) -> Iterator[Row]:
    """256 images at random from a set of 2,048 latents (4, 32, 32), against a slice of the file for each."""
    names = [f"train-{number:05d}-of-00004.safetensors" for number in range(4)]
    indices = torch.randint(2048, (256,), generator=torch.Generator().manual_seed(0)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            moments = {"mean": torch.randn(512, 4, 32, 32), "std": torch.rand(512, 4, 32, 32)}
            meta = {"id2label": json.dumps({0: "nothing"})}
            save_file({**moments, "labels": torch.zeros(512, dtype=torch.int64)}, Path(folder) / name, metadata=meta)
        latents, files = Latents(folder), [safe_open(Path(folder) / name, framework="pt") for name in names]

        def slices() -> list[Tensor]:
            where = [divmod(index, 512) for index in indices]
            read = lambda key: torch.cat([files[f].get_slice(key)[row : row + 1] for f, row in where])  # noqa: E731
            return [read(key) for key in ("mean", "std", "labels")]

        same = all(torch.equal(a, b) for a, b in zip(latents.batch(indices), slices(), strict=True))
        work = {"ours": lambda: latents.batch(indices), "slices": slices}
        times = take_turns(work, 4 * setting.repeats)
        error = 0.0 if same else float("inf")
        yield Row.of("reading 256 latents", times["ours"], times["slices"], against="a slice each", error=error)


STEP_S = "MDTv2-S/2", {"cpu": 4, "cuda": 256}
ROWS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "adan": optimizer,
    "average": average,
    "data": data,
    "masked-s": masked("MDTv2-S/2", 4),
    "step-s": step(*STEP_S),
    "step-s-compiled": step(*STEP_S, compiled=True),
    "step-recorded": recorded_step,
    "step-versions": versions,
    "step-xl": step("MDTv2-XL/2", {"cpu": None, "cuda": 64}),
}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    run_bench(arguments, ROWS, "python -m train.bench", __doc__.splitlines()[0])


if __name__ == "__main__":
    main()
