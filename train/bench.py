"""`python -m train.bench`: how fast a training step and its parts are, against the published computation.

The reference step is the plain model of mdt_core/bench/reference.py under the same loss, then `clip_grad_norm_`,
adan-pytorch tensor by tensor, and an average of its own, all in float32; both sides train on the same images, noise and
hidden tokens. They take turns in one process (mdt_core/bench/timing.py). The last line is one JSON object.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import adan_pytorch
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mdt_core.bench.command import main as run_bench
from mdt_core.bench.reference import Reference
from mdt_core.bench.rows import Row, Setting, dtypes, errors, masked, random_model
from mdt_core.bench.timing import take_turns
from mdt_core.diffusion import Diffusion
from mdt_core.losses import training_terms
from mdt_core.training.config import TrainingConfig
from mdt_core.training.draws import Draws, passes_of_step
from mdt_core.training.ema import EMA
from mdt_core.training.loop import make_optimizer, prepare_blocks
from mdt_core.training.optimizers import Adan
from mdt_core.transformer import MDTTransformer
from train.config import RECIPES
from train.latents.dataset import Latents

# --- the step ------------------------------------------------------------------------------------------------


@dataclass
class RandomLatents:
    """Images of nothing, for a step that only takes its time."""

    mean: Tensor
    num_classes: int

    def __len__(self) -> int:
        return len(self.mean)

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        return self.mean[indices], torch.full_like(self.mean[indices], 0.1), torch.tensor(indices) % self.num_classes


class Training:
    """Steps of `train`, without its log and its files. `published` takes them with the plain model and optimizer."""

    def __init__(self, model: MDTTransformer, config: TrainingConfig, published: bool, autocast: bool = False):
        self.model, self.config, self.published, self.autocast = model.train(), config, published, autocast
        prepare_blocks(model, config)
        self.call = Reference(model) if published else model
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = adan_pytorch.Adan(self.weights, lr=1e-4) if published else make_optimizer(model, config)
        self.ema, self.diffusion, self.done = EMA(model, config.ema_decay), Diffusion(), 0
        seeded = torch.Generator().manual_seed(0)  # both sides see the same images
        shape = (model.config.in_channels, *2 * [model.config.sample_size])
        images = torch.randn(config.batch_size, *shape, generator=seeded)
        self.data = RandomLatents(images, max(1, model.config.num_classes))

    def backward(self) -> None:
        """Gradients of the full and the masked pass of the next step."""
        device, shape = self.weights[0].device, self.data.mean.shape
        draws = Draws.of_step(self.done, self.config, tuple(shape), self.model.num_tokens, device)
        null = self.model.config.num_classes
        for one in passes_of_step(self.data, list(range(len(self.data))), draws, self.config, null):
            with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
                loss = training_terms(self.call, self.diffusion, *one, self.config.min_snr_gamma)["loss"].mean()
            loss.backward()

    def __call__(self) -> None:
        self.backward()
        if self.published:
            torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        if self.published:
            average_one_by_one(self.ema.model, self.model)
        else:
            self.ema.update(self.model, self.done, self.optimizer.taken)


@torch.no_grad()
def average_one_by_one(average: torch.nn.Module, model: torch.nn.Module) -> None:
    for a, p in zip(average.parameters(), model.parameters(), strict=True):
        a.mul_(0.9999).add_(p, alpha=1e-4)


def step(name: str, images: dict[str, int | None], bars: dict[str, str], compiled: bool = False):
    """A whole training step of so many images on each kind of device; None: nothing there."""

    def rows(setting: Setting) -> Iterator[Row]:
        count = images[setting.device]
        title = f"training step {name}{', compiled' * compiled}"
        if count is None:
            yield Row(title, note="not measured: needs a GPU")
            return
        config = TrainingConfig(batch_size=count, learning_rate=1e-4, compile=compiled)
        model = random_model(name, setting.device)
        sides = {"reference": Training(deepcopy(model), config, published=True)}
        for dtype in dtypes(setting.device):
            sides[dtype] = Training(deepcopy(model), config, published=False, autocast=dtype == "bfloat16")
        gradients = {}
        for side, training in sides.items():
            training.backward()
            gradients[side] = torch.cat([p.grad.flatten() for p in training.weights])
            training.optimizer.zero_grad(set_to_none=True)
        times = take_turns(sides, setting.repeats, device=setting.device)
        for dtype in list(sides)[1:]:
            off = errors(gradients[dtype], gradients["reference"])
            row = f"{title}, batch {count}, {dtype}"
            yield Row.of(row, times[dtype], times["reference"], **off, note=f"bar: {bars[setting.device]}")

    return rows


def versions(setting: Setting) -> Iterator[Row]:
    """A step of each version as the avatars recipes take it: what the masked pass and version 2's parts cost."""
    recipes = {name: RECIPES[name] for name in ("avatars-dit", "avatars-mdt", "avatars")}
    lower = dtypes(setting.device)[-1] == "bfloat16"
    sides = {
        name: Training(random_model(recipe.model, setting.device, 16), recipe.training, False, autocast=lower)
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
        made = [torch.nn.Parameter(torch.randn(shape, device=setting.device)) for shape in shapes]
        for p in made:
            p.grad = torch.randn_like(p)
        return made

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
    bar = "bar: ratio at least 4" if setting.device == "cpu" else "bar: at most 3x the floor"
    for ours, reference, name in (("plain", "theirs", "Adan"), ("clipped", "theirs, clipped", "Adan with its clip")):
        note = f"{bar}; copying as many bytes: {floor:.3f} s, {times[ours].median / floor:.1f}x"
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
        off = 0.0 if same else float("inf")
        yield Row.of("reading 256 latents", times["ours"], times["slices"], against="a slice each", error=off)


STEP_S = "MDTv2-S/2", {"cpu": 4, "cuda": 256}, {"cpu": "ratio at least 1.3", "cuda": "0.055 s, ratio 3"}
ROWS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "adan": optimizer,
    "average": average,
    "data": data,
    "masked-s": masked("MDTv2-S/2", 4),
    "step-s": step(*STEP_S),
    "step-s-compiled": step(*STEP_S, compiled=True),
    "step-versions": versions,
    "step-xl": step("MDTv2-XL/2", {"cpu": None, "cuda": 64}, {"cuda": "0.225 s, a quarter of 256 images"}),
}


def main(arguments: list[str] | None = None) -> None:
    run_bench(arguments, ROWS, "python -m train.bench", __doc__.splitlines()[0])


if __name__ == "__main__":
    main()
