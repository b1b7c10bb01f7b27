"""Inpainting in latents: hold what is known, let the sampler make the rest.

Three methods, one loop (that of `samplers`):

    blend     after every step the known cells are replaced by the picture, noised to the level the state then has
              (Lugmayr et al. 2022, RePaint, arXiv:2201.09865, algorithm 1 without resampling).
    repaint   and stretches of the trajectory are run several times, with noise added in between, so that the new part
              can adapt to the known one (algorithm 1).
    mdt       in the early steps the encoder sees the known tokens alone, while the side-interpolator predicts the
              hidden ones: MDT's masked pass with the user's mask in place of a random one (Gao et al. 2023,
              arXiv:2303.14389v1, appendix). And the noise of the known cells is not drawn but predicted, by the model
              asked anew at that level: so known and new part belong to one noisy picture (Moufad et al. 2025, DInG,
              arXiv:2512.18365, algorithm 1; the new part is not drawn again here).

Soft edges are thresholds over time, never mixed latents, which make halos: a cell of hardness 0.4 is held down to 40%
of the timesteps and free from there on (Levin & Fried 2023, Differential Diffusion, arXiv:2306.00950).

Letters: N images, C latent channels, (h, w) latent cells, S side of the model's square in pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mdt_core.diffusion import NUM_TIMESTEPS, Diffusion
from mdt_core.masking import cells_to_tokens
from mdt_core.samplers import Step, noise_like, sample, sampling_timesteps


@dataclass(frozen=True)
class Method:
    """How the known part reaches the new one. A row of METHODS, or `dataclasses.replace` of one."""

    # The trajectory, where the caller names no other.
    num_inference_steps: int = 50  # repeats come on top
    sampler: str = "ddpm"
    first_timestep: int = NUM_TIMESTEPS - 1  # where its steps begin
    # What is done on the way.
    repeats: int = 1  # how often a stretch of steps is run
    jump: int = 1  # steps of a stretch
    window: tuple[float, float] = (0.6, 0.95)  # where stretches are repeated: 0 is noise, 1 the end
    handover: int = NUM_TIMESTEPS  # timesteps from here up run the masked pass; 1000: none
    predicted: bool = False  # the noise of known cells is what the model predicts there: one more call after a step
    ring: float = 1.0  # soft cells are held at least down to this part of the timesteps; 1: as their hardness says

    @property
    def masked_pass(self) -> bool:
        """Whether the model needs a side-interpolator."""
        return self.handover < NUM_TIMESTEPS

    def calls(self, num_inference_steps: int) -> int:
        """Of the model, for a whole trajectory of so many steps."""
        steps = len(resampling_order(0, num_inference_steps, self))
        return 2 * steps - 1 if self.predicted else steps

    def trajectory(self, **chosen: Any) -> dict[str, Any]:
        """Sampler and steps, as `samplers.sample` takes them: what is chosen, not None, or else the method's own."""
        own = {name: getattr(self, name) for name in ("sampler", "num_inference_steps", "first_timestep")}
        return {name: value if chosen.get(name) is None else chosen[name] for name, value in own.items()}


# Chosen by measurement (train/RESULTS.md, Inpainting). "mdt" predicts the noise of the known cells and draws none: so
# the solver of few steps suits it, from where pictures are decided. It holds the soft cells of the ring until hardly
# any noise is left, and leaves the masked pass at timestep 700: below that the full pass, whose encoder sees the new
# part too, predicts the noise clearly better.
METHODS = {
    "blend": Method(),
    "repaint": Method(repeats=2, window=(0.25, 0.98)),
    "mdt": Method(25, "dpm++", first_timestep=800, handover=700, predicted=True, ring=0.05),
}

DEFAULT_SCALE = 2.0  # of guidance: lower than for generation, for the known part guides too (train/RESULTS.md)

MASKED_CONTENTS = ("auto", "fill", "original", "noise")


def inpaint(
    denoise: Callable[..., Tensor],
    known: Tensor,
    hardness: Tensor,
    *,
    generators: list[torch.Generator],
    method: str | Method = "mdt",
    sampler: str | None = None,
    num_inference_steps: int | None = None,
    first_timestep: int | None = None,
    strength: float = 1.0,
    patch_size: int = 1,
    content: Tensor | None = None,
) -> Iterator[Step]:
    """Repaint the cells of positive hardness, step by step.

    Args:
        denoise: `denoise(x_t, t) -> (N, 2C, h, w)`; for a method with a masked pass also `denoise(x_t, t, keep=keep)`,
            and for one that predicts noise `denoise(x_t, t, guided=False)`, as `guidance.Guided` is.
        known: (1 or N, C, h, w), the picture's latents.
        hardness: (h, w) in [0, 1]. 1: repainted from the start; 0: never; between: below that part of the timesteps,
            or below the method's `ring`, if that is less.
        generators: one per image.
        method: a key of METHODS, or a `Method` of one's own.
        sampler: a key of `samplers.SAMPLERS`; by default the method's.
        num_inference_steps: of the whole trajectory; repeats come on top, a lower strength takes away. By default the
            method's.
        first_timestep: where the steps begin, see `samplers.sampling_timesteps`; by default the method's.
        strength: in (0, 1], the part of the trajectory that is run. Below 1 it starts from the noised `content`.
        patch_size: cells along a token's side, for the masked pass.
        content: (1 or N, C, h, w), what the trajectory starts from; by default `known`.

    Returns:
        An iterator over the steps. In the last one the cells of hardness 0 are exactly those of `known`.

    Raises:
        ValueError: if an argument is out of its range.
    """
    method = find_method(method)
    trajectory = method.trajectory(
        sampler=sampler, num_inference_steps=num_inference_steps, first_timestep=first_timestep
    )
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be more than 0 and at most 1, not {strength}")
    timesteps = sampling_timesteps(**trajectory)
    start = len(timesteps) - max(1, round(strength * len(timesteps)))
    known, content = (x.expand(len(generators), -1, -1, -1) for x in (known, known if content is None else content))
    hardness = torch.where(hardness < 1, hardness.clamp(max=method.ring), hardness).to(known.device)

    def free(level: int | None) -> Tensor:
        """(h, w) bool: the cells that are the sampler's at a timestep."""
        return hardness * NUM_TIMESTEPS > (level or 0)

    def noised(x_0: Tensor, level: int | None) -> Tensor:
        return x_0 if level is None else Diffusion().diffuse(x_0, noise_like(x_0, generators), None, level)

    def hold(x: Tensor, level: int | None) -> Tensor:
        """The known cells, at the level that the state has after the step."""
        if level is None or not method.predicted:
            return torch.where(free(level), x, noised(known, level))
        epsilon = denoise(x, level, guided=False)[:, : x.shape[1]].float()
        return torch.where(free(level), x, Diffusion().diffuse(known, epsilon, None, level))

    def denoise_masked(x_t: Tensor, t: int) -> Tensor:
        """The masked pass down to the hand-over, with the tokens kept that no free cell touches."""
        keep = (~cells_to_tokens(free(t), patch_size)).nonzero().flatten()
        if t < method.handover or not len(keep):
            return denoise(x_t, t)
        return denoise(x_t, t, keep=keep.expand(len(x_t), -1))

    return sample(
        denoise_masked,
        noised(content, timesteps[start]),
        **trajectory,
        generators=generators,
        hook=hold,
        order=resampling_order(start, len(timesteps), method),
    )


def find_method(method: str | Method) -> Method:
    """The row of a method; ValueError if there is none of that name."""
    if isinstance(method, Method):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f'no inpainting method is called "{method}": choose one of {", ".join(METHODS)}')
    return METHODS[method]


# RePaint, section 4.2
def resampling_order(start: int, num_inference_steps: int, method: Method) -> list[int]:
    """Positions `start`..N-1 in the order to run them: inside the window each stretch of `jump` steps `repeats` times.

    The last step is never repeated: noise added to a clean state would be thrown away.
    """
    n, order = num_inference_steps, []
    first, last = method.window[0] * n, min(method.window[1] * n, n - 1)
    for begin in range(start, n, method.jump):
        stretch = range(begin, min(begin + method.jump, n))
        order += [*stretch] * (method.repeats if first <= begin and stretch.stop <= last else 1)
    return order


def choose_content(masked_content: str, strength: float) -> str:
    """What the hole starts from: as named, or of "auto" the one that suits the strength.

    "fill": its blurred surroundings, so that the old object does not leak through the autoencoder; "original": the old
    object, which a strength below 1 means to keep a part of; "noise": latents of pure noise.

    Raises:
        ValueError: if there is no such masked content, or noise is to be started from half-way.
    """
    if masked_content not in MASKED_CONTENTS:
        raise ValueError(f'the masked content is one of {", ".join(MASKED_CONTENTS)}, not "{masked_content}"')
    if masked_content == "noise" and strength < 1:
        raise ValueError('a hole of "noise" takes the whole trajectory: strength 1, or another masked content')
    if masked_content == "auto":
        return "fill" if strength == 1 else "original"
    return masked_content


def starting_latents(
    masked_content: str,
    encode: Callable[[Tensor], Tensor],
    pixels: Tensor,
    hole: Tensor,
    hardness: Tensor,
    generators: list[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """The picture's latents to hold, and those to start from: `known` and `content` of `inpaint`.

    Args:
        masked_content: "fill", "original" or "noise", see `choose_content`.
        encode: pixels (1, 3, S, S) in [-1, 1] -> latents (1, C, h, w).
        pixels: (1, 3, S, S).
        hole: (S, S) bool.
        hardness: (h, w), as for `inpaint`.
        generators: one per image.
    """
    known = encode(pixels if masked_content == "original" else fill(pixels, hole))
    if masked_content != "noise":
        return known, known
    known = known.expand(len(generators), -1, -1, -1)
    return known, torch.where(hardness.to(known.device) > 0, noise_like(known, generators), known)


# Pull-push (Gortler et al. 1996, The Lumigraph, section 3.4)
def fill(pixels: Tensor, hole: Tensor) -> Tensor:
    """Fill a hole with its blurred surroundings, so that the old content cannot leak through an autoencoder.

    Args:
        pixels: (N, C, H, W).
        hole: (H, W) bool.

    Returns:
        (N, C, H, W), unchanged outside the hole.
    """
    return torch.where(hole, _pull_push(pixels * ~hole, (~hole).float().expand(1, 1, -1, -1)), pixels)


def _pull_push(weighted: Tensor, weight: Tensor) -> Tensor:
    """Weighted values and their weights -> values everywhere: those of half the resolution where there is no weight."""
    values = weighted / weight.clamp(min=1e-6)
    if weight.min() > 0 or weight.numel() == 1:
        return values
    halves = (F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (weighted, weight))
    coarse = F.interpolate(_pull_push(*halves), size=weight.shape[-2:], mode="bilinear")
    return torch.where(weight > 0, values, coarse)
