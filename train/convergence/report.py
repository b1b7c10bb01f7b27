"""What was measured of several contenders -> tables in Markdown, and a chart."""

import math
from pathlib import Path

import numpy as np

from train.convergence.contenders import FIGURES, Contender, find_contender, reach
from train.evaluate.charts import Line, Panel, save_chart


def write_report(contenders: list[Contender], baseline: str, out: Path) -> str:
    """Write `out/report.md` and `out/convergence.png`; the text of the former."""
    text = report(contenders, baseline)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(text)
    save_chart(panels(contenders, baseline), out / "convergence.png")
    return text


def report(contenders: list[Contender], baseline: str) -> str:
    """Markdown: what each needs to reach the baseline's last figures, then the figures at each milestone."""
    base = find_contender(contenders, baseline)
    figures = [figure for figure in FIGURES if all(np.isfinite(c.figures[figure]).all() for c in contenders)]
    tables = [_reach_table(contenders, base, figure) for figure in figures]
    tables += [_milestone_table(contenders, figure) for figure in figures]
    return "\n\n".join(tables) + "\n"


def _reach_table(contenders: list[Contender], base: Contender, figure: str) -> str:
    head = [f"to {FIGURES[figure]} {base.mean(figure)[-1]:.4g}", "seeds", "steps", "of the baseline's"]
    rows = []
    for c in contenders:
        needed, name, second = reach(c, base, figure), f"{c.name}, {c.model}", f"{c.seconds_per_step:.3g}"
        if not math.isfinite(needed.steps):
            rows.append([name, c.seeds, f"not within {c.steps[-1]:,}", "", second, "", ""])
            continue
        between = f" ({needed.earliest:,.0f} to {needed.latest:,.0f})" if needed.earliest < needed.latest else ""
        steps = [f"{needed.steps:,.0f}{between}", f"{needed.share_of_steps:.2f}"]
        rows.append([name, c.seeds, *steps, second, f"{needed.seconds:,.0f}", f"{needed.share_of_time:.2f}"])
    return _markdown([*head, "seconds a step", "seconds", "of the baseline's"], rows)


def _milestone_table(contenders: list[Contender], figure: str) -> str:
    steps = sorted({step for contender in contenders for step in contender.steps})
    rows = []
    for c in contenders:
        spread = c.figures[figure].std(0, ddof=1) if c.seeds > 1 else [0.0] * len(c.steps)
        cells = {
            step: f"{value:.4g}" + (f" ± {deviation:.2g}" if deviation else "")
            for step, value, deviation in zip(c.steps, c.mean(figure), spread, strict=True)
        }
        rows.append([c.name, *(cells.get(step, "") for step in steps)])
    return _markdown([f"{FIGURES[figure]} at step", *(f"{step:,}" for step in steps)], rows)


def _markdown(head: list, rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def panels(contenders: list[Contender], baseline: str) -> list[Panel]:
    """KID and validation loss against steps and against seconds; seeds averaged, their range shaded."""
    base = find_contender(contenders, baseline)
    units = {"steps": lambda c: 1.0, "seconds of training": lambda c: c.seconds_per_step}
    panels = []
    for figure in ("kid_efflite0", "validation_loss"):
        values = np.concatenate([c.figures[figure].ravel() for c in contenders])
        for label, unit in units.items():
            lines = [_line(c, figure, unit(c)) for c in contenders if math.isfinite(unit(c))]
            if lines and np.isfinite(values).all():
                level, positive = float(base.mean(figure)[-1]), bool((values > 0).all())
                panels.append(Panel(label, FIGURES[figure], lines, level, log_x=True, log_y=positive))
    return panels


def _line(contender: Contender, figure: str, unit: float) -> Line:
    values, mean = contender.figures[figure], contender.mean(figure).tolist()
    low, high = (values.min(0).tolist(), values.max(0).tolist()) if contender.seeds > 1 else ((), ())
    return Line(contender.name, [step * unit for step in contender.steps], mean, low, high)
