"""The guidance curve: the weight over the steps of a run, as an SVG that follows the page's colours."""

from itertools import groupby
from operator import itemgetter

from app.engine.request import guidance_weights, skips

WIDTH, HEIGHT = 400, 112  # of the drawing's own coordinates
LEFT, RIGHT, TOP, BOTTOM = 30, 392, 10, 86  # of the axes


def guidance_curve(
    sampler: str,
    num_inference_steps: int,
    guidance_scale: float,
    guidance_power: float,
    skip: bool = True,
    guided: bool = True,
) -> str:
    """The curve with a dot per step; hollow dots on a shaded ground are steps without an unconditional pass.

    `guided`: whether any image has a class. Without one there is nothing to guide to: the curve is flat, and no pass is
    left out, for a step has only one.

    ValueError as for a request with these values.
    """
    weights = guidance_weights(sampler, num_inference_steps, guidance_scale if guided else 1.0, guidance_power)
    skipped = [guided and skip and skips(weight) for weight in weights]
    span = max(len(weights) - 1, 1)
    top = max(guidance_scale, 2)  # a scale of 1 is a flat line at the bottom

    def x(index: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * min(max(index, 0), span) / span, 1)

    def y(weight: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (weight - 1) / (top - 1), 1)

    points = " ".join(f"{x(i)},{y(weight)}" for i, weight in enumerate(weights))
    stretches = [(skip, [i for i, _ in group]) for skip, group in groupby(enumerate(skipped), key=itemgetter(1))]
    ground = "".join(
        f'<path class="skipped" d="M{x(steps[0] - 0.5)} {TOP}H{x(steps[-1] + 0.5)}V{BOTTOM}H{x(steps[0] - 0.5)}Z"/>'
        for skip, steps in stretches
        if skip
    )
    dots = "".join(
        f'<circle class="{"hollow" if skip else "dot"}" cx="{x(i)}" cy="{y(weight)}" r="2.2"/>'
        for i, (weight, skip) in enumerate(zip(weights, skipped, strict=True))
        if len(weights) <= 60
    )
    said = "" if guided else "no class: not guided"
    if any(skipped):
        said = f"{sum(skipped)} of {len(weights)} steps skip the unconditional pass"
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Guidance weight over the steps">'
        f'{ground}<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>'
        f'<polygon class="area" points="{LEFT},{BOTTOM} {points} {x(len(weights) - 1)},{BOTTOM}"/>'
        f'<polyline class="line" points="{points}"/>{dots}'
        f'<text x="{LEFT - 5}" y="{y(top) + 4}" text-anchor="end">{top:g}</text>'
        f'<text x="{LEFT - 5}" y="{y(1) + 4}" text-anchor="end">1</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 9}">noise</text>'
        f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 9}" text-anchor="middle">{said}</text>'
        f'<text x="{RIGHT}" y="{HEIGHT - 9}" text-anchor="end">image</text></svg>'
    )
