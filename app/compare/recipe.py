"""How a grid was made: its recipe, kept in its PNG and read back."""

from collections.abc import Mapping
from typing import Any

from app.common.recipes import find_classes, name_of, settings_of, to_request
from app.compare.comparison import Comparison
from app.engine.engine import ModelInfo


def of_comparison(comparison: Comparison, info: ModelInfo) -> dict[str, Any]:
    """The recipe of a grid."""
    return {
        "kind": "compare",
        "class_labels": comparison.class_labels,
        "class_names": [name_of(label, info) for label in comparison.class_labels],
        "axis": comparison.axis,
        "values": comparison.values,
        "seed": comparison.base.seeds[0],
        **settings_of(comparison.base, info),
        "skip_unconditional": comparison.base.skip_unconditional,
    }


def to_comparison(recipe: Mapping[str, Any], info: ModelInfo) -> tuple[Comparison, list[str]]:
    """The grid that a recipe describes, and what could not be taken over. ValueError where nothing is left of it."""
    base, notes = to_request(recipe, info)
    columns = [recipe.get(name) for name in ("class_labels", "class_names", "values")]
    if not all(isinstance(column, list) for column in columns):
        raise ValueError("The recipe in this PNG is damaged: it names no classes or values.")
    labels, names, values = columns
    try:
        return Comparison(base, find_classes(labels, names, info, notes), recipe.get("axis"), tuple(values)), notes
    except TypeError as error:
        raise ValueError("The recipe in this PNG is damaged: its values cannot be used.") from error
