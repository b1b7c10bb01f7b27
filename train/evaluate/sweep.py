"""A sweep: the same images at several values of one setting, and what that trades."""

import math
from collections.abc import Callable, Mapping

from train.evaluate.charts import Line, Panel

# Word on the command line -> setting that it sweeps over, and its type.
SWEEPS: Mapping[str, tuple[str, Callable]] = {
    "scale": ("guidance_scale", float),
    "power": ("guidance_power", float),
    "steps": ("num_inference_steps", int),
}


def parse_sweep(sweep: str) -> tuple[str, list[float]]:
    """`scale=1:4:0.25` -> the word and its values, both ends included."""
    try:
        word, _, span = sweep.partition("=")
        first, last, step = map(float, span.split(":"))
        values = [first + i * step for i in range(math.floor((last - first) / step + 1e-9) + 1)]
        convert = SWEEPS[word][1]
        if step <= 0 or not values or any(convert(value) != value for value in values):
            raise ValueError
    except (KeyError, ValueError, ArithmeticError):
        raise ValueError(f"--sweep {sweep} is not WORD=FIRST:LAST:STEP with a WORD of {', '.join(SWEEPS)}") from None
    return word, [convert(round(value, 9)) for value in values]


def sweep_panels(reports: list[dict], word: str) -> list[Panel]:
    """Distances against precision and against recall, a point for each value of a setting: the trade that it makes.

    Args:
        reports: one for each value, as `train.evaluate` gives them.
        word: of SWEEPS.

    Raises:
        ValueError: the reference had no images, so there is neither KID nor precision nor recall.
    """
    figure = {name.split("-")[0]: name for name in reports[0] if not name.endswith("error")}
    if "recall" not in figure:
        raise ValueError("the reference is statistics without images: no precision and recall to plot against")
    values = [f"{report[SWEEPS[word][0]]:g}" for report in reports]
    panels = []
    for distance in ("KID", "FID" if "FID" in figure else "FD"):
        for share in ("precision", "recall"):
            x, y = ([report[figure[name]] for report in reports] for name in (share, distance))
            panels.append(Panel(figure[share], figure[distance], [Line(word, x, y, words=values)]))
    return panels
