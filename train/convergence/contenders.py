"""Runs of one recipe as a contender, and when it gets where the baseline ends.

A figure (KID, validation loss) at the milestones s_1 < s_2 < ... reaches a target between the first two milestones
that enclose it, at the step that is interpolated linearly in log s. Seconds are steps times the median seconds of a
step over the run's log: training alone, without sampling and saving, and blind to the minutes in which the machine was
busy elsewhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mdt_core.runs import Run

# What makes a recipe, of a run's configuration; and what of its training does not.
RECIPE_KEYS = ("model", "latents", "vae", "decoder_layers", "without", "repeats", "unconditional", "init_from")
INCIDENTAL = {"seed", "accumulation", "compile", "recompute", "peak_tflops"}
INCIDENTAL |= {"log_every", "save_every", "keep_checkpoints", "keep_sampled", "max_bad_steps", "cuda_graphs"}
# What may not differ between evaluations that are compared.
SETTINGS = ("num_images", "reference", "first_seed", "num_inference_steps", "guidance_scale", "guidance_power")
SETTINGS += ("validation_images",)
VALIDATION_IMAGES = 1024  # of the loss, in evaluations that do not say
FIGURES = {
    "kid_efflite0": "KID-EffLite0",
    "validation_loss": "validation loss",
    "validation_loss_min_snr": "validation loss, min-SNR weighted",
}


@dataclass(frozen=True)
class Contender:
    """A recipe's runs, one a seed, at the steps where all of them have been evaluated."""

    name: str  # of its first run
    model: str
    steps: tuple[int, ...]  # (M,) ascending
    figures: dict[str, np.ndarray]  # figure -> (runs, M)
    kid_error: float  # of the last milestone's mean KID: from its samples, as one run has it
    seconds_per_step: float  # nan where the log does not say
    run: Run  # the first

    @property
    def seeds(self) -> int:
        return len(self.figures["kid_efflite0"])

    def mean(self, figure: str) -> np.ndarray:
        """(M,), over the seeds."""
        return self.figures[figure].mean(0)


def in_full(evaluation: dict) -> dict:
    """A row of evaluation.jsonl with the settings that it leaves unsaid."""
    return {"validation_images": VALIDATION_IMAGES} | evaluation


def contenders_of(runs: Sequence[Run]) -> list[Contender]:
    """Runs of one recipe, whatever their seed and bookkeeping, are one contender; in the order of the runs.

    Raises:
        ValueError: a run has no evaluation, the seeds of a recipe have no evaluated step in common, or evaluations
            differ in their settings.
    """
    rows = [in_full(row) for run in runs for row in run.evaluations]
    if len({repr([row.get(word) for word in SETTINGS]) for row in rows}) > 1:
        raise ValueError(f"the runs were evaluated with different {', '.join(SETTINGS)}: evaluate all of them alike")
    by_recipe: dict[str, list[Run]] = {}
    for run in runs:
        by_recipe.setdefault(_recipe(run.config), []).append(run)
    contenders = [_contender(seeds) for seeds in by_recipe.values()]
    if len({contender.name for contender in contenders}) < len(contenders):
        raise ValueError(f"two contenders have one name: rename a folder ({', '.join(str(r.folder) for r in runs)})")
    return contenders


def _recipe(config: dict) -> str:
    """The same for two configurations of one recipe, and for no others."""
    training = {word: value for word, value in config.get("training", {}).items() if word not in INCIDENTAL}
    if not training.get("decay"):
        training.pop("steps", None)  # a constant learning rate does not know how long the run will be
    return repr([[config.get(word) or None for word in RECIPE_KEYS], sorted(training.items())])


def _contender(runs: list[Run]) -> Contender:
    rows = [{row["step"]: row for row in run.evaluations} for run in runs]
    steps = sorted(set.intersection(*(set(by_step) for by_step in rows)))
    if not steps:
        names = ", ".join(str(run.folder) for run in runs)
        raise ValueError(f"{names}: no evaluated step in common; run `python -m train.convergence evaluate` first")
    return Contender(
        name=runs[0].name,
        model=runs[0].config.get("model", "?"),
        steps=tuple(steps),
        figures={word: np.array([[seed[s].get(word, math.nan) for s in steps] for seed in rows]) for word in FIGURES},
        kid_error=float(np.mean([seed[steps[-1]]["kid_error"] for seed in rows])) / math.sqrt(len(runs)),
        seconds_per_step=float(np.mean([seconds_per_step(run) for run in runs])),
        run=runs[0],
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


@dataclass(frozen=True)
class Reach:
    """What a contender needs to get where the baseline ends; infinite where it did not get there."""

    steps: float
    earliest: float  # steps to the target plus its error
    latest: float  # steps to the target minus its error
    seconds: float
    share_of_steps: float  # of the baseline's
    share_of_time: float


def reach(contender: Contender, baseline: Contender, figure: str) -> Reach:
    """When a contender first has the figure (a key of FIGURES) that the baseline has last; of itself: its last step."""
    target = baseline.mean(figure)[-1]
    error = baseline.kid_error if figure == "kid_efflite0" else 0.0
    steps, earliest, latest = (
        baseline.steps[-1] if contender is baseline else steps_to_reach(contender.steps, contender.mean(figure), t)
        for t in (target, target + error, target - error)
    )
    share = steps / baseline.steps[-1]
    slower = contender.seconds_per_step / baseline.seconds_per_step
    return Reach(steps, earliest, latest, steps * contender.seconds_per_step, share, share * slower)


def find_contender(contenders: list[Contender], name: str) -> Contender:
    """The contender of that name; ValueError if there is none."""
    for contender in contenders:
        if contender.name == name:
            return contender
    raise ValueError(f"no contender is called {name!r}: choose one of {', '.join(c.name for c in contenders)}")
