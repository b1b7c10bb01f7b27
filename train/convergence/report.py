"""From evaluated milestones to a claim: how many steps and seconds a recipe needs to get where the baseline ends.

A figure (KID, validation loss) at the milestones s_1 < s_2 < ... reaches a target between the first two milestones
that enclose it, at the step that is interpolated linearly in log s. Seconds are steps times the median seconds of a
step over the run's log: training alone, without sampling and saving, and blind to the minutes in which the machine was
busy elsewhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mdt_core.runs import Run
from train.evaluate.plots import Line, Panel, draw_panels

# What makes a recipe, of a run's configuration; and what of its training does not.
TELLING = ("model", "latents", "vae", "decoder_layers", "without", "repeats", "unconditional", "init_from")
INCIDENTAL = {"seed", "accumulation", "compile", "recompute", "peak_tflops"}
INCIDENTAL |= {"log_every", "save_every", "keep_checkpoints", "max_bad_steps"}
# What may not differ between evaluations that are compared.
SETTINGS = ("num_images", "reference", "first_seed", "num_inference_steps", "guidance_scale", "guidance_power")
SETTINGS += ("validation_images",)
VALIDATION_IMAGES = 1024  # of the loss, in evaluations that do not say
FIGURES = {
    "kid_efflite0": "KID-EffLite0",
    "validation_loss": "validation loss",
    "validation_loss_min_snr": "validation loss, min-SNR weighted",
}
BAR_STEPS, BAR_SECONDS = 1 / 3, 1 / 2  # share of the baseline's that MDTv2 may need


@dataclass(frozen=True)
class Contender:
    """A recipe's runs, one a seed, where all of them have been evaluated."""

    name: str  # of its first run
    model: str
    steps: tuple[int, ...]  # (M,) ascending
    figures: dict[str, np.ndarray]  # figure -> (runs, M)
    kid_error: float  # of the last milestone's mean KID: from its samples, as one run has it
    seconds_per_step: float  # nan where the log does not say

    @property
    def seeds(self) -> int:
        return len(self.figures["kid_efflite0"])

    def mean(self, figure: str) -> np.ndarray:
        """(M,), over the seeds."""
        return self.figures[figure].mean(0)


def in_full(evaluation: dict) -> dict:
    """A row of evaluation.jsonl with the settings that it leaves unsaid."""
    return {"validation_images": VALIDATION_IMAGES} | evaluation


def contenders(runs: Sequence[Run]) -> list[Contender]:
    """Runs of one configuration, but for seed and bookkeeping, are one contender; in the order of the runs.

    Raises:
        ValueError: a run has no evaluation, the seeds of a recipe have no evaluated step in common, or evaluations
            differ in their settings.
    """
    rows = [in_full(row) for run in runs for row in run.evaluations]
    if len({repr([row.get(word) for word in SETTINGS]) for row in rows}) > 1:
        raise ValueError(f"the runs were evaluated with different {', '.join(SETTINGS)}: evaluate all of them alike")
    groups: dict[str, list[Run]] = {}
    for run in runs:
        config = [run.config.get(word) or None for word in TELLING]
        training = {word: value for word, value in run.config.get("training", {}).items() if word not in INCIDENTAL}
        if not training.get("decay"):
            training.pop("steps", None)  # a constant learning rate does not know how long the run will be
        groups.setdefault(repr([config, sorted(training.items())]), []).append(run)
    found = [_contender(group) for group in groups.values()]
    if len({one.name for one in found}) < len(found):
        raise ValueError(f"two contenders have one name: rename a folder ({', '.join(str(r.folder) for r in runs)})")
    return found


def _contender(runs: list[Run]) -> Contender:
    rows = [{row["step"]: row for row in run.evaluations} for run in runs]
    steps = sorted(set.intersection(*(set(found) for found in rows)))
    if not steps:
        names = ", ".join(str(run.folder) for run in runs)
        raise ValueError(
            f"{names}: no evaluated step in common; run `python -m train.convergence evaluate` on them first"
        )
    return Contender(
        name=runs[0].name,
        model=runs[0].config.get("model", "?"),
        steps=tuple(steps),
        figures={word: np.array([[found[s].get(word, math.nan) for s in steps] for found in rows]) for word in FIGURES},
        kid_error=float(np.mean([found[steps[-1]]["kid_error"] for found in rows])) / math.sqrt(len(runs)),
        seconds_per_step=float(np.mean([seconds_per_step(run) for run in runs])),
    )


def seconds_per_step(run: Run) -> float:
    """Median over the run's log, nan without one."""
    rates = [row["images_per_second"] for row in run.metrics if row.get("images_per_second")]
    return run.config["training"]["batch_size"] / float(np.median(rates)) if rates else math.nan


def steps_to_reach(steps: Sequence[int], values: Sequence[float], target: float) -> float:
    """Where a falling figure first is at `target` or below.

    Returns:
        The step, interpolated; the first milestone where that is there already; infinity where no milestone is.
    """
    for i, value in enumerate(values):
        if value > target:
            continue
        if i == 0:
            return float(steps[0])
        share = (values[i - 1] - target) / (values[i - 1] - value)
        return float(steps[i - 1] * (steps[i] / steps[i - 1]) ** share)
    return math.inf


# --- the report ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reach:
    """What a contender needs to get where the baseline ends; infinite where it did not get there."""

    steps: float
    earliest: float  # steps to the target plus its error
    latest: float  # steps to the target minus its error
    seconds: float
    share_of_steps: float  # of the baseline's
    share_of_time: float


def reach(one: Contender, base: Contender, figure: str) -> Reach:
    """When `one` first has the last mean of a figure (a key of FIGURES) that `base` has; the base: at its last step."""
    target, error = base.mean(figure)[-1], base.kid_error if figure == "kid_efflite0" else 0.0
    steps, earliest, latest = (
        base.steps[-1] if one is base else steps_to_reach(one.steps, one.mean(figure), t)
        for t in (target, target + error, target - error)
    )
    share = steps / base.steps[-1]
    slower = one.seconds_per_step / base.seconds_per_step
    return Reach(steps, earliest, latest, steps * one.seconds_per_step, share, share * slower)


def report(found: list[Contender], baseline: str) -> str:
    """Markdown: what each needs to reach the baseline's last figures, then the figures at each milestone."""
    base = find_baseline(found, baseline)
    known = [figure for figure in FIGURES if all(np.isfinite(one.figures[figure]).all() for one in found)]
    parts = [_reach_table(found, base, known[0]), _verdict(found, base)]
    parts += [_reach_table(found, base, figure) for figure in known[1:]]
    parts += [_milestone_table(found, figure) for figure in known]
    return "\n\n".join(part for part in parts if part) + "\n"


def find_baseline(found: list[Contender], name: str) -> Contender:
    """The contender of that name; ValueError if there is none."""
    for contender in found:
        if contender.name == name:
            return contender
    raise ValueError(f"no contender is called {name!r}: choose one of {', '.join(c.name for c in found)}")


def _reach_table(found: list[Contender], base: Contender, figure: str) -> str:
    head = [f"to {FIGURES[figure]} {base.mean(figure)[-1]:.4g}", "seeds", "steps", "of the baseline's"]
    rows = []
    for one in found:
        got, name = reach(one, base, figure), f"{one.name}, {one.model}"
        if not math.isfinite(got.steps):
            rows.append([name, one.seeds, f"not within {one.steps[-1]:,}", "", f"{one.seconds_per_step:.3g}", "", ""])
            continue
        span = f" ({got.earliest:,.0f} to {got.latest:,.0f})" if got.earliest < got.latest else ""
        steps = [f"{got.steps:,.0f}{span}", f"{got.share_of_steps:.2f}"]
        time = [f"{one.seconds_per_step:.3g}", f"{got.seconds:,.0f}", f"{got.share_of_time:.2f}"]
        rows.append([name, one.seeds, *steps, *time])
    return _markdown([*head, "seconds a step", "seconds", "of the baseline's"], rows)


def _verdict(found: list[Contender], base: Contender) -> str:
    """Whether each MDTv2 meets the bar, in words."""
    lines = []
    for one in found:
        if one.model.startswith("MDTv2") and one is not base:
            got = reach(one, base, "kid_efflite0")
            met = got.share_of_steps <= BAR_STEPS and got.share_of_time <= BAR_SECONDS
            bar = f"a third of the steps and half of the time of {base.name}"
            lines.append(f"The bar for {one.name}, {bar}, is {'met' if met else 'not met'}.")
    return "\n".join(lines)


def _milestone_table(found: list[Contender], figure: str) -> str:
    steps = sorted({step for one in found for step in one.steps})
    rows = []
    for one in found:
        spread = one.figures[figure].std(0, ddof=1) if one.seeds > 1 else [0.0] * len(one.steps)
        cells = {
            step: f"{value:.4g}" + (f" ± {deviation:.2g}" if deviation else "")
            for step, value, deviation in zip(one.steps, one.mean(figure), spread, strict=True)
        }
        rows.append([one.name, *(cells.get(step, "") for step in steps)])
    return _markdown([f"{FIGURES[figure]} at step", *(f"{step:,}" for step in steps)], rows)


def _markdown(head: list, rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plot(found: list[Contender], baseline: str) -> Image.Image:
    """KID and validation loss against steps and against seconds; seeds averaged, their range shaded."""
    base = find_baseline(found, baseline)
    units = {"steps": lambda one: 1.0, "seconds of training": lambda one: one.seconds_per_step}
    panels = []
    for figure in ("kid_efflite0", "validation_loss"):
        values = np.concatenate([one.figures[figure].ravel() for one in found])
        for label, unit in units.items():
            lines = [_line(one, figure, unit(one)) for one in found if math.isfinite(unit(one))]
            if lines and np.isfinite(values).all():
                level, positive = float(base.mean(figure)[-1]), bool((values > 0).all())
                panels.append(Panel(label, FIGURES[figure], lines, level, log_x=True, log_y=positive))
    return draw_panels(panels)


def _line(one: Contender, figure: str, unit: float) -> Line:
    values = one.figures[figure]
    low, high = (values.min(0).tolist(), values.max(0).tolist()) if one.seeds > 1 else ((), ())
    return Line(one.name, [step * unit for step in one.steps], one.mean(figure).tolist(), low, high)
