"""How a student is distilled: the configuration, and recipes that are rows of it.

A run folder holds its configuration as config.json, beside the weights. `--list` prints the recipes.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from train.command import aligned


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """What is distilled into how many steps. ValueError where a value makes no sense."""

    model: str = "assets/models/avatars"  # the teacher, by its own `sampling_defaults`
    teacher_steps: int = 12  # of its sampler; a multiple of the student's
    student_steps: int = 4
    num_images: int = 6_400  # trajectories of the teacher
    rank: int = 32  # of the addition to each layer
    strength: float = 1.2  # that the finished addition is multiplied by: regression falls short of what it is held to
    steps: int = 1_300
    minutes: float | None = None  # train for so long, however many steps that makes; None: by `steps`
    batch_size: int = 64  # rows, each a step of a trajectory
    learning_rate: float = 1e-3  # falls linearly to 0
    ema_decay: float = 0.99
    seed: int = 0
    log_every: int = 100
    save_every: int = 100
    keep_checkpoints: int = 1
    expect: str = ""  # what to expect of it, and by whose figures

    def __post_init__(self) -> None:
        whole = ("teacher_steps", "student_steps", "num_images", "rank", "steps", "batch_size")
        for name in (*whole, "log_every", "save_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.teacher_steps % self.student_steps:
            raise ValueError(
                f"teacher_steps must be a multiple of student_steps, {self.student_steps}, not {self.teacher_steps}"
            )
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, not {self.minutes}")
        for name in ("learning_rate", "strength"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.ema_decay <= 1:
            raise ValueError(f"ema_decay must be 0 to 1, not {self.ema_decay}")

    def describe(self) -> dict:
        """What config.json holds."""
        return asdict(self)


RECIPES = {"avatars": DistillConfig(expect="four plain steps for 24 evaluations, as shipped: an hour of two CPU cores")}


def table(recipes: Mapping[str, DistillConfig]) -> str:
    """The recipes, for --list."""
    head = ["recipe", "model", "steps", "trajectories", "expect"]
    rows = [
        [name, c.model, f"{c.teacher_steps} to {c.student_steps}", f"{c.num_images:,}", c.expect]
        for name, c in recipes.items()
    ]
    return "\n".join(aligned([head, *rows]))
