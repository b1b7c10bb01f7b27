"""A comparison: one setting varies across the columns, another one down the rows; and its recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from app.common.recipes import class_of, find_class, find_classes, find_label, settings_of, to_request
from app.engine.model_info import ModelInfo
from app.engine.request import Label, Request
from app.engine.settings import MAX_IMAGES

MAX_CELLS = 64

AXES = {  # what can vary -> how the page calls it
    "class": "Class",
    "seed": "Seed",
    "guidance_scale": "Guidance scale",
    "guidance_power": "Guidance power",
    "num_inference_steps": "Steps",
    "sampler": "Sampler",
    "model": "Model or checkpoint",
}
Cell = tuple[int, int]  # row and column


@dataclass(frozen=True)
class Side:
    """What varies along one side of the grid: a key of AXES, and its values, each of which is drawn."""

    axis: str
    values: tuple[Any, ...]

    def setting(self, index: int) -> dict[str, Any]:
        """The fields of a request that one of the values sets."""
        value = self.values[index]
        return {"class": {"class_labels": (value,)}, "seed": {"seeds": (value,)}}.get(self.axis, {self.axis: value})


@dataclass(frozen=True)
class Comparison:
    """Raises ValueError, which names the setting, where a value does not suit, or the grid is empty or too large."""

    base: Request  # one image: what does not vary
    columns: Side
    rows: Side

    def __post_init__(self) -> None:
        for place, side in (("Columns", self.columns), ("Rows", self.rows)):
            if not isinstance(side.axis, str) or side.axis not in AXES:
                raise ValueError(f"{place}: a grid can vary {', '.join(AXES)}, not {side.axis!r}.")
            if not side.values:
                raise ValueError(f"{place}: give at least one value for the {AXES[side.axis].lower()}.")
        if self.columns.axis == self.rows.axis:
            raise ValueError(f"Columns and rows both vary the {AXES[self.rows.axis].lower()}: choose another for one.")
        rows, columns = len(self.rows.values), len(self.columns.values)
        if rows * columns > MAX_CELLS:
            raise ValueError(f"{rows} rows of {columns} are too many: at most {MAX_CELLS} cells fit on a sheet.")
        self.batches()  # checks every value

    def request(self, row: int, column: int) -> Request:
        """What draws one cell."""
        return replace(self.base, **self.rows.setting(row), **self.columns.setting(column))

    def batches(self, labels: Mapping[int, str] | None = None) -> list[tuple[Request, list[Cell]]]:
        """What to ask of the engine: cells that differ by class and seed alone are drawn together.

        Row by row, but models one after the other, each opened once. `labels`: names of the classes, for models that
        number theirs differently.
        """
        alike: dict[Request, list[Cell]] = {}
        for cell in product(range(len(self.rows.values)), range(len(self.columns.values))):
            settings = replace(self.request(*cell), class_labels=(None,), seeds=(0,))
            alike.setdefault(settings, []).append(cell)
        models = list(dict.fromkeys(settings.model for settings in alike))
        ordered = sorted(alike.items(), key=lambda item: models.index(item[0].model))
        return [
            (self._together(cells[i : i + MAX_IMAGES], labels), cells[i : i + MAX_IMAGES])
            for _, cells in ordered
            for i in range(0, len(cells), MAX_IMAGES)
        ]

    def _together(self, cells: list[Cell], labels: Mapping[int, str] | None) -> Request:
        requests = [self.request(*cell) for cell in cells]
        classes = tuple(request.class_labels[0] for request in requests)
        names = None if labels is None else tuple(names_of(label, labels) for label in classes)
        seeds = tuple(request.seeds[0] for request in requests)
        return replace(requests[0], class_labels=classes, class_names=names, seeds=seeds)


def names_of(label: Label, labels: Mapping[int, str]) -> Any:
    """A class's name, of a mix those of its classes; None for no class."""
    if isinstance(label, tuple):
        return tuple(names_of(each, labels) for each, _ in label)
    return labels.get(label)


# --- recipes -------------------------------------------------------------------------------------------------


def to_recipe(comparison: Comparison, info: ModelInfo) -> dict[str, Any]:
    """The recipe of a comparison."""
    sides = {"columns": comparison.columns, "rows": comparison.rows}
    return {
        "kind": "compare",
        **{
            name: {"axis": side.axis, "values": [class_of(value, info) for value in side.values]}
            if side.axis == "class"
            else {"axis": side.axis, "values": side.values}
            for name, side in sides.items()
        },
        **class_of(comparison.base.class_labels[0], info),
        "seed": comparison.base.seeds[0],
        **settings_of(comparison.base, info),
    }


def from_recipe(recipe: Mapping[str, Any], info: ModelInfo) -> tuple[Comparison, list[str]]:
    """The comparison of a recipe, and what could not be taken over. ValueError where nothing is left of it."""
    base, notes = to_request(recipe, info)
    try:
        if "columns" in recipe:
            base = replace(base, class_labels=(find_class(recipe, info, notes),))
            columns, rows = (_side(recipe[name], info, notes) for name in ("columns", "rows"))
        else:  # as before there were two: classes down, one setting across
            labels = find_classes(recipe["class_labels"], recipe["class_names"], info, notes)
            columns, rows = Side(recipe["axis"], tuple(recipe["values"])), Side("class", labels)
        return Comparison(base, columns, rows), notes
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("The recipe in this picture is damaged: its rows or columns cannot be used.") from error


def _side(side: Mapping[str, Any], info: ModelInfo, notes: list[str]) -> Side:
    axis, values = side["axis"], side["values"]
    if not isinstance(values, list) or len(values) > MAX_CELLS:
        raise TypeError
    if axis != "class":
        return Side(axis, tuple(values))
    labels = []
    for value in values:
        noted = len(notes)
        label = find_label(value, info, notes)
        if label is not None or len(notes) == noted:  # else there is no such class here
            labels.append(label)
    return Side(axis, tuple(labels))
