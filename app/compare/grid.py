"""A comparison as text and as a picture: values in a field of the page, and the sheet that is saved."""

import html
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

from app.common.comparison import AXES, Comparison, Side
from app.common.stage import caption, image
from app.engine.request import Request
from app.engine.settings import SAMPLING, SEED, Number
from mdt_core.pipeline.labelled_grid import LabelledGrid

CELL = 128  # pixels; a model with larger images keeps their size up to twice this
TYPED = {"seed": SEED} | {key: setting for key, setting in SAMPLING.items() if isinstance(setting, Number)}


def parse_values(axis: str, text: str) -> tuple[float | int, ...]:
    """Numbers separated by commas or blanks, each once. ValueError where one cannot be read."""
    read = int if isinstance(TYPED[axis].step, int) else float
    try:
        return tuple(dict.fromkeys(read(word) for word in text.replace(",", " ").split()))
    except ValueError as error:
        kind = "whole numbers" if read is int else "numbers"
        raise ValueError(f"{AXES[axis]}: give {kind} separated by commas, not {text[:60]!r}.") from error


def join_values(values: Iterable[float | int]) -> str:
    """The text that `parse_values` reads as these values, to the last digit."""
    return ", ".join(f"{value:g}" if float(f"{value:g}") == value else repr(value) for value in values)


def value_texts(side: Side, labels: Mapping[int, str]) -> list[str]:
    """What stands beside the rows or above the columns: each value with its setting's name."""
    return [text_of(side.axis, value, labels) for value in side.values]


def text_of(axis: str, value: object, labels: Mapping[int, str]) -> str:
    """A value as people read it."""
    forms = {
        "class": lambda label: caption(label, labels),
        "seed": "seed {}".format,
        "guidance_scale": "scale {:g}".format,
        "guidance_power": "power {:g}".format,
        "num_inference_steps": "{} steps".format,
    }
    return forms.get(axis, str)(value)


def empty_grid(comparison: Comparison, labels: Mapping[int, str], image_size: int) -> LabelledGrid:
    """Rows and columns with their values, what all cells share below, and a place for each of the pictures."""
    rows, columns = comparison.rows, comparison.columns
    side = min(max(CELL, image_size), 2 * CELL)
    return LabelledGrid(
        [[None] * len(columns.values)] * len(rows.values),
        (side, side),
        row_labels=value_texts(rows, labels),
        column_labels=value_texts(columns, labels),
        footer=[footer(comparison, labels)],
        widen=True,
        resample=Image.Resampling.BICUBIC,
    )


def footer(comparison: Comparison, labels: Mapping[int, str]) -> str:
    """The settings that all cells share."""
    base = comparison.base
    shared = {"model": base.model, "class": base.class_labels[0], "seed": base.seeds[0]}
    shared |= {key: getattr(base, key) for key in SAMPLING if key in AXES}
    texts = [
        text_of(axis, value, labels)
        for axis, value in shared.items()
        if axis not in (comparison.rows.axis, comparison.columns.axis)
    ]
    if base.first_timestep != Request.first_timestep:
        texts.append(f"steps from timestep {base.first_timestep}")
    if base.guidance_kind != Request.guidance_kind:
        texts.append(f"guided by {base.guidance_kind}")
    low, high = base.guidance.guidance_low, base.guidance.guidance_high
    if (low, high) != (Request.guidance_low, Request.guidance_high):
        texts.append(f"guided from {high} to {low}")
    return " · ".join(texts if base.skip_unconditional else [*texts, "no pass skipped"])


def sheet(comparison: Comparison, labels: Mapping[int, str], cells: Sequence[Sequence[str | None]], done: bool) -> str:
    """The grid on the page, as HTML. `cells`: addresses of pictures; when it is done each is a button."""
    rows, columns = value_texts(comparison.rows, labels), value_texts(comparison.columns, labels)
    parts = ["<span></span>", *(f'<span class="column">{html.escape(text)}</span>' for text in columns)]
    for number, (row, line) in enumerate(zip(rows, cells, strict=True)):
        parts.append(f'<span class="row">{html.escape(row)}</span>')
        for column, (text, source) in enumerate(zip(columns, line, strict=True)):
            said = f"{row}, {text}"
            if source is None:
                parts.append('<span class="cell"></span>')
            elif done:
                button = f'data-row="{number}" data-column="{column}" title="Open in Generate"'
                parts.append(f'<button class="cell" {button}>{image(source, f"{said}: open in Generate")}</button>')
            else:
                parts.append(f'<span class="cell">{image(source, said)}</span>')
    size = f"--columns: {len(columns)}; --rows: {len(rows)}"
    group = 'role="group" aria-label="Grid" tabindex="0"'  # it scrolls sideways where it is wider than the page
    return f'<div class="compare-sheet" {group} style="{size}">{"".join(parts)}</div>'
