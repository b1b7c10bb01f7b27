"""What the Compare tab says of a comparison: its values as a field of text, and the sheet it is drawn on."""

import csv
from collections.abc import Iterable

from PIL import Image, ImageDraw, ImageFont

from app.common.comparison import AXES, Comparison
from app.common.paper import EMPTY, FAINT, INK, PAPER, font
from app.common.stage import caption

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


class Sheet:
    """The picture of a comparison: class names at the left, values on top, the other settings below."""

    def __init__(self, comparison: Comparison, labels: dict[int, str], image_size: int):
        self.cells = comparison.cells()
        self.cell = min(max(CELL, image_size), 2 * CELL)
        self.font, self.bold = font(14), font(15)
        names = [caption(label, labels) for label in comparison.class_labels]
        self.left = 24 + max(round(self.font.getlength(name)) for name in names)
        self.top, self.gap = 66, 6
        headings = [round(self.font.getlength(value_text(value))) for value in comparison.values]
        self.pitch = max(self.cell + self.gap, max(headings) + 12)  # from one column to the next
        width = self.left + len(comparison.values) * self.pitch + 12
        height = self.top + len(names) * (self.cell + self.gap) + 36
        below = footer(comparison)
        self.image = Image.new("RGB", (max(width, 24 + round(self.font.getlength(below))), height), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._text(self.left, 12, AXES[comparison.axis].name, INK, self.bold)
        for column, value in enumerate(comparison.values):
            self._text(self._corner(0, column)[0] + self.cell // 2, 40, value_text(value), INK, anchor="ma")
        for row, name in enumerate(names):
            self._text(12, self._corner(row, 0)[1] + self.cell // 2, name, INK, anchor="lm")
        self._text(12, height - 26, below, FAINT)
        for cell in self.cells:
            x, y = self._corner(*cell)
            self._draw.rectangle((x, y, x + self.cell - 1, y + self.cell - 1), fill=EMPTY)

    def paste(self, job: int, image: Image.Image) -> None:
        """Put a picture into a cell."""
        scaled = image.convert("RGB").resize((self.cell, self.cell), Image.Resampling.BICUBIC)
        self.image.paste(scaled, self._corner(*self.cells[job]))

    def _corner(self, row: int, column: int) -> tuple[int, int]:
        return self.left + column * self.pitch, self.top + row * (self.cell + self.gap)

    def _text(
        self, x: int, y: int, text: str, fill: str, font: ImageFont.FreeTypeFont | None = None, anchor: str = "la"
    ):
        self._draw.text((x, y), text, fill=fill, font=font or self.font, anchor=anchor)


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
