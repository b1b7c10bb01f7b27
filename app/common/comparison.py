"""A comparison: classes down, one setting across, every cell at the same seed; and its recipe, kept in a PNG."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from operator import itemgetter
from typing import Any

from app.common.recipes import find_classes, name_of, settings_of, to_request
from app.engine.model_info import ModelInfo
from app.engine.request import Request

MAX_CELLS = 64


@dataclass(frozen=True)
class Axis:
    """A setting that can vary across the columns."""

    name: str  # as the page says it
    read: type  # of one value
    default: str  # values to begin with


AXES = {
    "guidance_scale": Axis("Guidance scale", float, "1, 2, 4, 6, 8"),
    "guidance_power": Axis("Guidance power", float, "0.01, 1, 2, 4, 8"),
    "num_inference_steps": Axis("Steps", int, "5, 10, 25, 50"),
    "sampler": Axis("Sampler", str, "dpm++, ddim, ddpm"),
    "model": Axis("Model or checkpoint", str, ""),  # the page knows which there are
}


@dataclass(frozen=True)
class Comparison:
    """Raises ValueError where a value does not suit its axis, or the grid is empty or too large."""

    base: Request  # one image: the model, the seed and the settings that do not vary
    class_labels: tuple[int | None, ...]  # rows
    axis: str  # a key of AXES
    values: tuple[float | int | str, ...]  # columns

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise ValueError(f"A grid can vary {', '.join(AXES)}, not {self.axis!r}.")
        if not self.class_labels or not self.values:
            raise ValueError("A comparison needs at least one class and one value.")
        if len(self.class_labels) * len(self.values) > MAX_CELLS:
            raise ValueError(
                f"{len(self.class_labels)} classes times {len(self.values)} values are too many: "
                f"at most {MAX_CELLS} cells fit on a sheet."
            )
        self.requests()  # checks every value

    def requests(self, labels: Mapping[int, str] | None = None) -> list[Request]:
        """One request per cell, in the order of `cells`; `labels`: names of the rows' classes, for other models."""
        rows = [
            {"class_labels": (label,), "class_names": None if labels is None else (labels.get(label),)}
            for label in self.class_labels
        ]
        return [replace(self.base, **rows[row], **{self.axis: self.values[column]}) for row, column in self.cells()]

    def cells(self) -> list[tuple[int, int]]:
        """(row, column) in the order they are drawn: row by row, but models one after the other, each loaded once."""
        cells = list(product(range(len(self.class_labels)), range(len(self.values))))
        return sorted(cells, key=itemgetter(1)) if self.axis == "model" else cells


def to_recipe(comparison: Comparison, info: ModelInfo) -> dict[str, Any]:
    """The recipe of a comparison."""
    return {
        "kind": "compare",
        "class_labels": comparison.class_labels,
        "class_names": [name_of(label, info) for label in comparison.class_labels],
        "axis": comparison.axis,
        "values": comparison.values,
        "seed": comparison.base.seeds[0],
        **settings_of(comparison.base, info),
    }


def from_recipe(recipe: Mapping[str, Any], info: ModelInfo) -> tuple[Comparison, list[str]]:
    """The comparison of a recipe, and what could not be taken over. ValueError where nothing is left of it."""
    base, notes = to_request(recipe, info)
    columns = [recipe.get(name) for name in ("class_labels", "class_names", "values")]
    if not all(isinstance(column, list) for column in columns):
        raise ValueError("The recipe in this picture is damaged: it names no classes or values.")
    labels, names, values = columns
    try:
        return Comparison(base, find_classes(labels, names, info, notes), recipe.get("axis"), tuple(values)), notes
    except TypeError as error:
        raise ValueError("The recipe in this picture is damaged: its values cannot be used.") from error
