"""What the Training progress tab shows, as HTML: the samples of one or two runs and their curves, at every step.

It is sent once, with a list of what changes from step to step: the picture of each run, the cursor's place, some words.
The browser goes through that list by itself (progress.js).
"""

import html
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from app.common.images import window
from app.common.stage import duration, figure
from app.engine.logs import Curve
from app.engine.runs import RunSnapshot
from app.engine.sheets import SampleSheet
from app.progress.curves import Limits, chart, limits_of, share
from app.progress.steps import all_steps, at_or_below

PANEL, STAGE = 574, 336  # pixels across and down that a run has on a page of 1280 x 800
LABEL, GAP = 24, 8  # pixels of a class's name, and between two classes
CURVES = {  # field of RunSnapshot -> its title on the page and on its axis, and what it says
    "loss": ("Loss", "Loss", "how wrong the model's guesses are; only runs of one kind count it alike"),
    "kid": ("KID (lower is better)", "KID", "how far the pictures drawn are from real ones"),
}

Uri = Callable[[SampleSheet], str]  # where the browser finds a sheet


def view(runs: Sequence[RunSnapshot], position: int, uri: Uri) -> str:
    """All that there is to see of these runs; the browser begins at their step number `position`."""
    steps = all_steps(runs)
    ends = [float(curve.steps[i]) for run in runs for curve in (run.loss, run.kid) if curve for i in (0, -1)]
    drawn = ends + steps
    limits = limits_of(drawn) if drawn else None
    changes = [changes_at(runs, step, limits, uri) for step in steps]
    panels = "".join(panel(run, number) for number, run in enumerate(runs))
    graphs = [
        graph(field, [getattr(run, field) for run in runs], limits)
        for field in CURVES
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
        for field in CURVES:
            value = getattr(run, field).at(step)
            words[f"{field}-{number}"] = "–" if value is None else f"{value:.4f}"
    return {"step": step, "label": f"Step {step:,}", "x": share(step, limits), "sheets": sheets, "words": words}


def caption(shown: int | None, step: int) -> str:
    """Which step a run shows, and why another one where it does."""
    if shown is None:
        return f"nothing drawn up to step {step:,} yet"
    return f"step <b>{shown:,}</b>" + ("" if shown == step else f", the last drawn up to {step:,}")


def panel(run: RunSnapshot, number: int) -> str:
    """A run's heading and the places of its samples, which all show cuttings of one picture."""
    name = html.escape(run.name)
    heading = f'<h2 class="run-{number}">{name}</h2>'
    heading += f'<span title="kind and size of the model">{html.escape(run.model)}</span>'
    if run.problem:
        problem = f'<p class="problem">{html.escape(run.problem)}</p>'
        return f'<section class="run"><header>{heading}</header>{problem}</section>'
    heading += f'<span data-words="at-{number}"></span><span class="state">{state(run)}</span>'
    notes = "".join(f'<p class="problem">{html.escape(note)}</p>' for note in run.notes)
    if not run.sheets:
        notes += '<p class="waiting">The first pictures come later in the training.</p>'
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
    sheet = run.sheets[max(run.sheets)]
    names, classes, rows = classes_of(run, sheet), sheet.columns, sheet.rows
    columns = columns_for(classes, rows)
    bands = math.ceil(classes / columns)
    figures = "".join(
        figure("".join(tile(column, row, classes, rows) for row in range(rows)), name, title=name)
        for column, name in enumerate(names)
    )
    grid = f"--columns: {columns}; --bands: {bands}; --rows: {rows}; --classes: {classes}"
    return f'<div class="tiles" style="{grid}; --sheet: var(--sheet-{number})">{figures}</div>'


def classes_of(run: RunSnapshot, sheet: SampleSheet) -> Sequence[str]:
    """A name for every column of a sheet."""
    return run.classes if len(run.classes) == sheet.columns else [f"class {i}" for i in range(sheet.columns)]


def tile(column: int, row: int, columns: int, rows: int) -> str:
    """A window onto one cell of the sheet, which is `columns` x `rows` windows large."""
    return f'<i style="{window(column, row, columns, rows)}"></i>'


def columns_for(classes: int, rows: int) -> int:
    """The number of classes side by side that makes their square tiles largest in the place they have."""

    def side(columns: int) -> float:
        return min(PANEL / columns - GAP, (STAGE / math.ceil(classes / columns) - LABEL) / rows)

    return max(range(1, classes + 1), key=side)


def graph(field: str, curves: Sequence[Curve], limits: Limits) -> str:
    """A curve under its title, with the values at the step shown, and what it says."""
    title, short, meaning = CURVES[field]
    numbers = [number for number, curve in enumerate(curves) if curve]
    values = "".join(f'<span class="run-{number}" data-words="{field}-{number}"></span>' for number in numbers)
    drawing = chart(short, curves, limits, dots=field == "kid")
    note = f'<p class="note">{meaning}</p>'
    return f'<section class="graph"><header><h2>{title}</h2>{values}</header>{note}{drawing}</section>'
