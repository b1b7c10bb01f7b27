"""What `python -m mdt_core.bench` measures: every row sets up its work, takes turns, and compares the results too."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

import mdt_core
from mdt_core.acceleration.precision import choose_dtype
from mdt_core.bench.reference import ReferenceModel, guided_reference
from mdt_core.bench.timing import Timing, take_turns
from mdt_core.masking import draw_keep
from mdt_core.samplers import generators, initial_latents, sample
from mdt_core.transformer import MDTTransformer

SHIPPED = Path(__file__).parents[2] / "assets" / "models" / "avatars"
KEPT = 152 / 256  # of the tokens, in a masked pass: the middle of training's range, in steps of 8
NEEDS_GPU = "not measured: needs a GPU"


@dataclass(frozen=True)
class Setting:
    """How to measure."""

    device: str = "cpu"
    repeats: int = 3


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    seconds: float | None = None  # median
    spread: float | None = None  # half of slowest minus fastest, over the median
    ratio: float | None = None  # how many times as long the other took: the reference, unless `against` says
    against: str | None = "reference"
    other_seconds: float | None = None
    error: float | None = None  # of the outputs: root mean square of the difference over that of the other's
    largest: float | None = None  # difference of one number, in standard deviations of the other's
    peak_mib: int | None = None  # memory that the work added for a moment
    other_peak_mib: int | None = None
    note: str | None = None

    @classmethod
    def of(cls, name: str, ours: Timing, theirs: Timing | None = None, **rest) -> "Row":
        """A row of what was measured; `rest`: its other fields."""
        numbers = {"seconds": ours.median, "spread": ours.spread, "peak_mib": ours.peak_mib}
        if theirs is None:
            rest["against"] = None
        else:
            numbers |= {"ratio": ours.ratio(theirs), "other_seconds": theirs.median, "other_peak_mib": theirs.peak_mib}
        return cls(name, **numbers, **rest)

    def json(self) -> dict:
        """What was measured, without the empty fields."""
        return {
            key: round(value, 7) if isinstance(value, float) else value
            for key, value in asdict(self).items()
            if value is not None
        }


def random_model(name: str, device: str, sample_size: int = 32, in_channels: int = 4) -> MDTTransformer:
    """A model whose every weight is random: a freshly initialised one puts out zeros, whatever is computed."""
    torch.manual_seed(0)
    model = mdt_core.create_model(name, sample_size, in_channels=in_channels).eval().to(device)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key != "pos_embed" or parameter.requires_grad:
                parameter.normal_(std=0.02)
    return model


def errors(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """What a row says of two results that should be equal."""
    difference = ours.double() - theirs.double()
    relative, largest = difference.norm() / theirs.double().norm(), difference.abs().max() / theirs.double().std()
    return {"error": relative.item(), "largest": largest.item()}


def dtypes(device: str) -> list[str]:
    """float32, and bfloat16 where that is what a device's "auto" chooses."""
    return ["float32"] + ["bfloat16"] * (choose_dtype("auto", torch.device(device)) == torch.bfloat16)


# --- rows ----------------------------------------------------------------------------------------------------


def forward(name: str) -> Callable[[Setting], Iterator[Row]]:
    """One forward pass of two images."""

    @torch.no_grad()
    def rows(setting: Setting) -> Iterator[Row]:
        model = random_model(name, setting.device)
        reference = ReferenceModel(model)
        x = torch.randn(2, 4, 32, 32, device=setting.device)
        batch = x, torch.tensor([7, 613], device=setting.device), torch.tensor([3, 999], device=setting.device)
        difference = errors(model(*batch), reference(*batch))
        work = {"ours": lambda: model(*batch), "reference": lambda: reference(*batch)}
        times = take_turns(work, setting.repeats, warmup=0, device=setting.device)
        yield Row.of(f"forward {name}, 2 images", times["ours"], times["reference"], **difference)

    return rows


@torch.no_grad()
def sampling(setting: Setting) -> Iterator[Row]:
    """50 guided steps of S/2, one image: as published, and with each means of saving time added to the one before."""
    model, label = random_model("MDTv2-S/2", setting.device), torch.tensor([3], device=setting.device)

    def reference() -> Tensor:
        latents = initial_latents(generators([0]), (4, 32, 32)).to(setting.device)
        denoise = guided_reference(ReferenceModel(model), label)
        *_, last = sample(denoise, latents, sampler="ddim", num_inference_steps=50)
        return last.x_t

    def ours(pipe: mdt_core.MDTPipeline, skip_tolerance: float, steps: int = 50) -> Tensor:
        settings = {"sampler": "ddim", "num_inference_steps": steps, "skip_tolerance": skip_tolerance}
        return cast(Tensor, pipe(3, seeds=0, output_type="latent", **settings).images)

    work = {"reference": reference}
    for dtype in dtypes(setting.device):
        plain, compiled = (
            mdt_core.MDTPipeline(random_model("MDTv2-S/2", setting.device), AutoencoderTiny()).optimize(how, dtype)
            for how in (False, True)
        )
        ours(compiled, 0.01, steps=4)  # compiles for both batch sizes
        work |= {
            f"both branches always, {dtype}": partial(ours, plain, 0.0),
            f"skipping at 1e-2, {dtype}": partial(ours, plain, 0.01),
            f"skipping at 1e-2, compiled, {dtype}": partial(ours, compiled, 0.01),
        }
    results = {}
    times = take_turns(
        {name: lambda name=name, call=call: results.update({name: call()}) for name, call in work.items()},
        setting.repeats,
        warmup=0,
        device=setting.device,
    )
    for name in list(work)[1:]:
        difference = errors(results[name], results["reference"])
        yield Row.of(f"50 guided steps S/2, 1 image: {name}", times[name], times["reference"], **difference)


def many_steps(images: int) -> Callable[[Setting], Iterator[Row]]:
    """The paper's setting, 250 ancestral steps of XL/2. Nothing for a CPU."""

    @torch.no_grad()
    def rows(setting: Setting) -> Iterator[Row]:
        name = f"250 guided steps XL/2, {images} image{'s' * (images > 1)}"
        if setting.device == "cpu":
            yield Row(name, note=NEEDS_GPU)
            return
        pipe = mdt_core.MDTPipeline(random_model("MDTv2-XL/2", setting.device), AutoencoderTiny())
        pipe.optimize()
        call = {"class_labels": 3, "seeds": list(range(images)), "sampler": "ddpm", "output_type": "latent"}
        work = {"ours": lambda: pipe(**call, num_inference_steps=250, skip_tolerance=0.0)}
        pipe(**call, num_inference_steps=4)
        times = take_turns(work, setting.repeats, warmup=0, device=setting.device)
        yield Row.of(name, times["ours"], note="bfloat16; latents, without the decoder")

    return rows


@torch.no_grad()
def shipped(setting: Setting) -> Iterator[Row]:
    """The model in this repository: 25 steps to four pictures, and to the first preview."""
    pipe = mdt_core.MDTPipeline.from_pretrained(SHIPPED).to(setting.device)
    pipe.sampling_defaults = None  # as published, as the reference is
    labels, seeds = [0, 1, 2, 3], [0, 1, 2, 3]
    classes = torch.tensor(labels, device=setting.device)
    channels = pipe.config.guidance_channels or pipe.latent_shape[0]
    results = {}

    def reference() -> None:
        denoise = guided_reference(ReferenceModel(pipe.transformer), classes, channels=channels)
        *_, last = sample(denoise, initial_latents(generators(seeds), pipe.latent_shape).to(setting.device))
        pipe.decode_images(last.x_t)
        results["reference"] = last.x_t

    def ours(dtype: str, tolerance: float) -> None:
        *_, last = pipe.optimize(dtype=dtype).stream(labels, seeds=seeds, skip_tolerance=tolerance)
        results[dtype, tolerance] = last.x_t

    names = {
        (dtype, tolerance): f"{name}, {dtype}"
        for dtype in dtypes(setting.device)
        for tolerance, name in ((0.0, "both branches always"), (0.01, "skipping at 1e-2"))
    }
    work = {name: partial(ours, *how) for how, name in names.items()}
    work |= {"reference": reference, "preview": lambda: next(pipe.optimize().stream(0, seeds=0)).preview}
    times = take_turns(work, 2 * setting.repeats, device=setting.device)
    for how, name in names.items():
        difference = errors(results[how], results["reference"])
        yield Row.of(f"shipped model, 25 steps, 4 pictures: {name}", times[name], times["reference"], **difference)
    yield Row.of("shipped model, warm: time to first preview", times["preview"])


def masked(name: str, images: int) -> Callable[[Setting], Iterator[Row]]:
    """A training pass, forward and backward, with 40% of the tokens hidden from the encoder, against a full one."""

    def rows(setting: Setting) -> Iterator[Row]:
        model = random_model(name, setting.device).train()
        x = torch.randn(images, 4, 32, 32, device=setting.device)
        batch = x, torch.arange(images, device=setting.device), torch.arange(images, device=setting.device)
        keep = draw_keep(torch.rand(images, 256, device=setting.device), round(256 * KEPT))

        def train_pass(keep: Tensor | None) -> None:
            model.zero_grad(set_to_none=True)
            model(*batch, keep=keep).square().mean().backward()

        work = {"masked": lambda: train_pass(keep), "full": lambda: train_pass(None)}
        times = take_turns(work, setting.repeats, device=setting.device)
        cost = times["full"].ratio(times["masked"])
        note = f"the masked pass costs {cost:.2f} of the full one"
        title = f"masked pass {name}, forward and backward, batch {images}"
        yield Row.of(title, times["masked"], times["full"], against="full pass", note=note)

    return rows


COLD = """
import json, sys, time
start = time.perf_counter()
import mdt_core
pipe = mdt_core.MDTPipeline.from_pretrained(sys.argv[1]).to(sys.argv[2]).optimize()
opened = time.perf_counter()
steps = pipe.stream(0, seeds=0)
next(steps).preview
preview = time.perf_counter()
*_, last = steps
print(json.dumps([opened - start, preview - start, time.perf_counter() - start]))
"""


def cold(setting: Setting) -> Iterator[Row]:
    """The shipped model in a fresh process: imports, opening, first preview, first picture."""
    command = [sys.executable, "-c", COLD, str(SHIPPED), setting.device]
    runs = []
    for _ in range(max(1, setting.repeats - 1)):
        done = subprocess.run(command, cwd=SHIPPED.parents[2], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
    for name, seconds in zip(("model open", "first preview", "first picture"), zip(*runs, strict=True), strict=True):
        yield Row.of(f"shipped model, cold start: {name}", Timing(seconds, None))


ROWS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "forward-s": forward("MDTv2-S/2"),
    "forward-b": forward("MDTv2-B/2"),
    "forward-xl": forward("MDTv2-XL/2"),
    "sampling": sampling,
    "sampling-xl": many_steps(1),
    "sampling-xl-64": many_steps(64),
    "shipped": shipped,
    "masked-s": masked("MDTv2-S/2", 4),
    "masked-xl": masked("MDTv2-XL/2", 1),
    "cold": cold,
}
