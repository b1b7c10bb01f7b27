"""The settings of a teaching, what the page calls them and what they may be."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from app.engine.settings import SEED, Number, Switch
from train.teach.plan import MINUTES, TeachPlan

TEACHING: Mapping[str, Any] = {
    "minutes": Number(
        "number of minutes",
        "Minutes",
        "minutes",
        "How long it learns on this machine. It can be stopped at any time, and keeps what it has learnt.",
        1,
        240,
    ),
    "mirror": Switch(
        "choice to mirror",
        "Learn mirror images, too",
        "mirror",
        "Learn each picture also as in a mirror: off for letters, and for whatever has a left and a right.",
    ),
    "steps": Number(
        "number of steps",
        "Steps",
        "steps",
        "How often it looks at a batch of pictures; 0: as often as the minutes allow.",
        0,
        100_000,
    ),
    "batch_size": Number("batch size", "Pictures a step", "batch", "Seen before each change.", 1, 256),
    "learning_rate": Number(
        "learning rate",
        "Learning rate",
        "rate",
        "How far a step changes the model: more learns faster, until it runs off.",
        1e-5,
        1e-2,
        1e-5,
    ),
    "seed": SEED,
    "keep_old": Switch(
        "choice to keep the old classes",
        "Keep the old classes",
        "keep",
        "They stay as they are. Off: the new model has your classes alone.",
    ),
}

DEFAULTS: Mapping[str, Any] = {
    **{field.name: field.default for field in fields(TeachPlan) if field.name in TEACHING},
    "minutes": round(MINUTES),
    "steps": 0,  # for None: on the page a number has to stand
}
