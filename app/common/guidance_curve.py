"""The guidance curve: the weight over the steps of a run."""

from functools import lru_cache
from itertools import groupby

from app.common.charts import ACCENT, GREY, GRID, GROUND, new_axes, to_svg
from mdt_core.diffusion import NUM_TIMESTEPS
from mdt_core.guidance import SKIP_TOLERANCE, Guidance
from mdt_core.samplers import sampling_timesteps

MAX_DOTS = 60  # of more steps, none is marked


@lru_cache(maxsize=256)  # a slider goes back and forth, and every page begins alike
def guidance_curve(
    sampler: str,
    num_inference_steps: int,
    guidance: Guidance,
    skip: bool = True,
    guided: bool = True,
    first_timestep: int = NUM_TIMESTEPS - 1,
) -> str:
    """The curve as SVG, a dot per step; hollow dots on a shaded ground are steps of one pass alone.

    `guided`: whether any image has a class, or is guided without one. Else there is nothing to guide to: the curve is
    flat, and no pass is left out, for a step has only one.

    ValueError where the sampler does not take so many steps.
    """
    timesteps = sampling_timesteps(sampler, num_inference_steps, first_timestep)
    weights = [guidance.weight(t) if guided else 1.0 for t in timesteps]
    skipped = [guided and not guidance.is_on(t, SKIP_TOLERANCE if skip else 0) for t in timesteps]
    steps, top = range(len(weights)), max(guidance.guidance_scale, 2)  # a scale of 1 is a flat line at the bottom
    note = "" if guided else "no class: not guided"
    if any(skipped):
        note = f"{sum(skipped)} of {len(weights)} steps need no guidance"

    axes = new_axes(400, 112, left=42, right=18, top=8, bottom=22)
    last = max(steps[-1], 1)
    axes.set(xlim=(0, last), ylim=(1, top), ylabel="guidance weight")
    axes.set_xticks([0, last / 2, last], ["noise", note, "image"])
    axes.set_yticks([1, top], ["1", f"{top:g}"])
    axes.tick_params(length=0, pad=5)
    axes.spines["left"].set(visible=True, color=GRID)
    for is_skipped, stretch in groupby(steps, key=skipped.__getitem__):
        stretch = list(stretch)
        if is_skipped:
            axes.axvspan(stretch[0] - 0.5, stretch[-1] + 0.5, color=GREY, alpha=0.16, linewidth=0)
    axes.fill_between(steps, 1, weights, color=ACCENT, alpha=0.1, linewidth=0)
    axes.plot(steps, weights, color=ACCENT, linewidth=1.8, gid="weights", clip_on=False)
    if len(weights) <= MAX_DOTS:
        dots = {"marker": "o", "linestyle": "", "markersize": 4.4, "clip_on": False}
        with_pass, without = ([i for i in steps if skipped[i] == left_out] for left_out in (False, True))
        axes.plot(with_pass, [weights[i] for i in with_pass], color=ACCENT, gid="guided", **dots)
        axes.plot(without, [weights[i] for i in without], color=GREY, markerfacecolor=GROUND, gid="skipped", **dots)
    return to_svg(axes, "Guidance weight over the steps")
