"""What the Training progress tab shows, as HTML: the samples of one or two runs and their curves, at every step.

It is sent once, with a list of what changes from step to step: the picture of each run, the cursor's place, some words.
The browser goes through that list by itself (progress.js).
"""

import html
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from app.common.stage import duration, figure
from app.engine.runs import Points, RunSnapshot, SampleSheet
from app.progress.curves import Limits, curve, limits_of, share
from app.progress.steps import all_steps, at_or_below, value_at

PANEL, STAGE = 574, 336  # pixels across and down that a run has on a page of 1280 x 800
LABEL, GAP = 24, 8  # pixels of a class's name, and between two classes
CURVES = {"Loss": "loss", "KID": "kid"}  # title -> field of RunSnapshot

Uri = Callable[[SampleSheet], str]  # where the browser finds a sheet


def view(runs: Sequence[RunSnapshot], position: int, uri: Uri) -> str:
    """All that there is to see of these runs; the browser begins at their step number `position`."""
    steps = all_steps(runs)
    drawn = [step for run in runs for step, _ in (*run.loss, *run.kid)] + steps
    limits = limits_of(drawn) if drawn else None
    changes = [changes_at(runs, step, limits, uri) for step in steps]
    panels = "".join(panel(run, number) for number, run in enumerate(runs))
    graphs = [
        graph(title, field, [getattr(run, field) for run in runs], limits)
        for title, field in CURVES.items()
        if any(getattr(run, field) for run in runs)
    ]
    kind, data = "runs-view single" if len(runs) == 1 else "runs-view", html.escape(json.dumps(changes))
    return (
        f'<div class="{kind}" data-position="{position}" data-steps="{data}">'
        f'<div class="runs">{panels}</div><div class="graphs">{"".join(graphs)}</div></div>'
    )


def changes_at(runs: Sequence[RunSnapshot], step: int, limits: Limits, uri: Uri) -> dict[str, Any]:
    """What is to be seen at a step. A run without samples there shows its nearest ones before."""
    sheets, words = [], {}
    for number, run in enumerate(runs):
        shown = at_or_below(run.sheets, step)
        sheets.append(None if shown is None else uri(run.sheets[shown]))
        words[f"at-{number}"] = caption(shown, step)
        for field in CURVES.values():
            value = value_at(getattr(run, field), step)
            words[f"{field}-{number}"] = "–" if value is None else f"{value:.4f}"
    return {"step": step, "label": f"Step {step:,}", "x": share(step, limits), "sheets": sheets, "words": words}


def caption(shown: int | None, step: int) -> str:
    """Which step a run shows, and why another one where it does."""
    if shown is None:
        return f"no samples up to step {step:,} yet"
    return f"step <b>{shown:,}</b>" + ("" if shown == step else f", the nearest up to {step:,}")


def panel(run: RunSnapshot, number: int) -> str:
    """A run's heading and the places of its samples, which all show cuttings of one picture."""
    name = html.escape(run.name)
    heading = f'<h2 class="run-{number}">{name}</h2><span>{html.escape(run.model)}</span>'
    if run.problem:
        problem = f'<p class="problem">{html.escape(run.problem)}</p>'
        return f'<section class="run"><header>{heading}</header>{problem}</section>'
    heading += f'<span data-words="at-{number}"></span><span class="state">{state(run)}</span>'
    notes = "".join(f'<p class="problem">{html.escape(note)}</p>' for note in run.notes)
    if not run.sheets:
        notes += '<p class="waiting">The first samples come at a later step of the training.</p>'
    return f'<section class="run"><header>{heading}</header>{tiles(run, number)}{notes}</section>'


def state(run: RunSnapshot) -> str:
    """How far the training is, and whether it goes on."""
    if run.live:
        left = f" · {duration(run.seconds_left)} left" if run.seconds_left else ""
        return f'<i class="live" title="{run.speed:.0f} images/s"></i>training: {run.steps:,} of {run.total:,}{left}'
    return f"{run.steps:,} of {run.total:,} steps" if run.steps < run.total else f"{run.steps:,} steps, complete"


def tiles(run: RunSnapshot, number: int) -> str:
    """One figure per class; all of them are windows onto the sheet in --sheet-NUMBER."""
    if not run.sheets:
        return ""
    names, rows = classes_of(run, run.sheets[max(run.sheets)].size), run.rows
    classes = len(names)
    columns = columns_for(classes, rows)
    bands = math.ceil(classes / columns)
    figures = "".join(
        figure("".join(tile(column, row, classes, rows) for row in range(rows)), name, title=name)
        for column, name in enumerate(names)
    )
    grid = f"--columns: {columns}; --bands: {bands}; --rows: {rows}; --classes: {classes}"
    return f'<div class="tiles" style="{grid}; --sheet: var(--sheet-{number})">{figures}</div>'


def classes_of(run: RunSnapshot, size: tuple[int, int]) -> Sequence[str]:
    """A name for every column of a sheet of this width and height."""
    classes = max(1, round(size[0] * run.rows / size[1]))
    return run.classes if len(run.classes) == classes else [f"class {i}" for i in range(classes)]


def tile(column: int, row: int, columns: int, rows: int) -> str:
    """A window onto one cell of the sheet, which is `columns` x `rows` windows large."""
    x, y = 100 * column / max(columns - 1, 1), 100 * row / max(rows - 1, 1)
    return f'<i style="background-position: {x:.4g}% {y:.4g}%"></i>'


def columns_for(classes: int, rows: int) -> int:
    """The number of classes side by side that makes their square tiles largest in the place they have."""

    def side(columns: int) -> float:
        return min(PANEL / columns - GAP, (STAGE / math.ceil(classes / columns) - LABEL) / rows)

    return max(range(1, classes + 1), key=side)


def graph(title: str, field: str, lines: Sequence[Points], limits: Limits) -> str:
    """A curve under its title, with the values at the step shown."""
    values = "".join(
        f'<span class="run-{number}" data-words="{field}-{number}"></span>' for number, line in enumerate(lines) if line
    )
    drawing = curve(title, lines, limits, dots=field == "kid")
    return f'<section class="graph"><header><h2>{title}</h2>{values}</header>{drawing}</section>'
