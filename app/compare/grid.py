"""A comparison as text and as a picture: its values in a field of the page, and the grid that is drawn cell by cell."""

import csv
from collections.abc import Iterable, Mapping

from PIL import Image

from app.common.comparison import AXES, Comparison
from app.common.stage import caption
from mdt_core.pipeline.labelled_grid import LabelledGrid

CELL = 128  # pixels; a model with larger images keeps their size up to twice this


def parse_values(axis: str, text: str) -> tuple[float | int | str, ...]:
    """Values separated by commas (or blanks, but for models), each once. ValueError where one cannot be read.

    A model's name that has a comma itself stands in double quotes, as in a CSV file.
    """
    read = AXES[axis].read
    try:
        if axis == "model":
            words = [word for row in csv.reader(text.splitlines(), skipinitialspace=True) for word in row]
        else:
            words = text.replace(",", " ").split()
        return tuple(dict.fromkeys(read(word.strip()) for word in words if word.strip()))
    except (ValueError, csv.Error) as error:
        kind = {int: "whole numbers", float: "numbers"}.get(read, "names")
        raise ValueError(f"The values for {AXES[axis].name.lower()} must be {kind} separated by commas.") from error


def join_values(values: Iterable[float | int | str]) -> str:
    """The text that `parse_values` reads as these values, to the last digit."""
    return ", ".join(map(exact_text, values))


def exact_text(value: float | int | str) -> str:
    """A value as `parse_values` reads it back."""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"' if set(value) & set(',"') else value
    return value_text(value) if float(value_text(value)) == value else repr(value)


def value_text(value: float | int | str) -> str:
    """A column's value as people write it: a float in six digits."""
    return value if isinstance(value, str) else f"{value:g}"


def empty_grid(comparison: Comparison, labels: Mapping[int, str], image_size: int) -> LabelledGrid:
    """Class names at the left, values on top, the other settings below, and a place for each of the pictures."""
    rows, columns = len(comparison.class_labels), len(comparison.values)
    side = min(max(CELL, image_size), 2 * CELL)
    return LabelledGrid(
        [[None] * columns] * rows,
        (side, side),
        row_labels=[caption(label, labels) for label in comparison.class_labels],
        column_labels=[value_text(value) for value in comparison.values],
        title=AXES[comparison.axis].name,
        footer=[footer(comparison)],
        widen=True,
        resample=Image.Resampling.BICUBIC,
    )


def footer(comparison: Comparison) -> str:
    """The settings that all cells share."""
    base = comparison.base
    settings = {
        "model": base.model,
        "seed": f"seed {base.seeds[0]}",
        "num_inference_steps": f"{base.num_inference_steps} steps",
        "sampler": base.sampler,
        "guidance_scale": f"scale {base.guidance_scale:g}",
        "guidance_power": f"power {base.guidance_power:g}",
    }
    if not base.skip_unconditional:
        settings["skip_unconditional"] = "no pass skipped"
    return " · ".join(text for setting, text in settings.items() if setting != comparison.axis)
