"""How a student is distilled: the configuration, and recipes that are rows of it.

A run folder holds its configuration as config.json, beside the weights. `--list` prints the recipes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from train.budget import StepsConfig
from train.command import aligned


@dataclass(frozen=True, kw_only=True)
class DistillConfig(StepsConfig):
    """What is distilled into how many steps. ValueError where a value makes no sense."""

    model: str = "assets/models/avatars"  # the teacher, by its own `sampling_defaults`
    teacher_steps: int = 12  # of its sampler; a multiple of the student's
    student_steps: int = 4
    num_images: int = 6_400  # trajectories of the teacher
    rank: int = 32  # of the addition to each layer
    strength: float = 1.2  # that the finished addition is multiplied by: regression falls short of what it is held to
    steps: int = 1_300
    batch_size: int = 64  # rows, each a step of a trajectory
    ema_decay: float = 0.99
    log_every: int = 100
    save_every: int = 100
    keep_checkpoints: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("teacher_steps", "student_steps", "num_images", "rank")
        self.check_amounts("strength")
        if self.teacher_steps % self.student_steps:
            raise ValueError(
                f"teacher_steps must be a multiple of student_steps, {self.student_steps}, not {self.teacher_steps}"
            )


RECIPES = {"avatars": DistillConfig(expect="four plain steps for 24 evaluations, as shipped: an hour of two CPU cores")}


def table(recipes: Mapping[str, DistillConfig]) -> str:
    """The recipes, for --list."""
    head = ["recipe", "model", "steps", "trajectories", "expect"]
    rows = [
        [name, c.model, f"{c.teacher_steps} to {c.student_steps}", f"{c.num_images:,}", c.expect]
        for name, c in recipes.items()
    ]
    return "\n".join(aligned([head, *rows]))
