"""Find the settings that suit a model: sampler, steps, where they begin, and guidance, by the offline judge.

    python -m train.tune assets/models/avatars --reference avatars-128:test --out runs/tune
    python -m train.tune assets/models/avatars --reference avatars-128:test --out runs/tune --write

For each number of steps one setting after the other is varied, with few pictures a row: the value of the lowest KID
stays, and round again until none is better. Each number begins with the best of the one before. Of each the best rows
are drawn again with many pictures, and the presets are chosen among these: `fast` and `balanced` have the lowest KID
within so many model evaluations a picture, `slow` the lowest of all. --write puts them into the model's folder; those
found for a run's checkpoint go into the run's, and are what its checkpoints and exports begin with.

Every row draws the same seeds and classes. It is appended to `rows.jsonl` when it is measured, and its pictures are
kept: the same command goes on where it was stopped, and one with other values takes over the rows that it needs.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mdt_core.acceleration.machine import choose_device
from mdt_core.command.parser import number
from mdt_core.fingerprint import fingerprint
from mdt_core.guidance import KINDS
from mdt_core.pipeline.settings import SamplingSettings
from mdt_core.runs import append_row, model_index_of, read_json, read_rows, write_whole
from mdt_core.samplers import SAMPLERS
from train.command import Parser
from train.evaluate import features, samples, sources
from train.evaluate.charts import Line, Panel, save_chart
from train.evaluate.judging import (
    JUDGES,
    ReferenceStatistics,
    figure_name,
    figures,
    float64_device,
    open_judge,
    open_reference,
    table,
)

DEFAULTS = SamplingSettings()
Change = dict[str, Any]  # fields of `SamplingSettings` -> values that are tried together
Row = dict[str, Any]


def build_parser() -> Parser:
    parser = Parser(prog="python -m train.tune", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a pipeline, its folder or hub id, or RUN/checkpoints/step_XXXXXXXX")
    parser.add_argument("--reference", metavar="SOURCE", required=True, help=f"the real images; {sources.HELP}")
    parser.add_argument("--judge", choices=JUDGES, default="efflite0", help="the network that looks")
    parser.add_argument("--out", type=Path, default=Path("runs/tune"), help="for rows, pictures and the chart")
    whole, positive = number(int, 1), number(float, 0)
    parser.add_argument("--steps", type=whole, nargs="+", default=[6, 10, 25], help="one search each (6 10 25)")
    parser.add_argument("--sampler", nargs="+", choices=SAMPLERS, default=["dpm++", "ddim"])
    parser.add_argument("--scale", type=positive, nargs="+", default=[1.5, 2, 2.5, 3, 4])
    parser.add_argument("--power", type=positive, nargs="+", default=[0, 0.5, 1, 2, 4])
    parser.add_argument("--guidance", nargs="+", choices=KINDS, default=KINDS, help="what the weak branch lacks")
    interval = "timesteps that are guided (0-999 0-600 0-800 200-999)"
    parser.add_argument("--interval", nargs="+", type=parse_interval, default=INTERVALS, help=interval, metavar="T-T")
    first = "where the steps begin (999 900 800)"
    parser.add_argument("--first-timestep", type=number(int, 1, 999), nargs="+", default=[999, 900, 800], help=first)
    parser.add_argument("--coarse", type=whole, default=480, help="pictures of a row of the search (480)")
    parser.add_argument("--fine", type=whole, default=2500, help="pictures of a row that is chosen from (2500)")
    parser.add_argument("--finalists", type=whole, default=2, help="rows of each number of steps drawn again (2)")
    parser.add_argument("--fast", type=whole, default=12, help="most model evaluations of the preset fast (12)")
    parser.add_argument("--balanced", type=whole, default=20, help="of balanced (20)")
    parser.add_argument("--write", action="store_true", help="put the chosen settings into the model's folder")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="seed of the first picture (0)")
    parser.add_argument("--batch-size", type=whole, default=32, help="changes the speed, not the pictures")
    sources.add_source_options(parser.add_argument)
    return parser


def parse_interval(text: str) -> tuple[int, int]:
    """`200-800` -> (200, 800)."""
    low, _, high = text.partition("-")
    settings = SamplingSettings(guidance_low=int(low), guidance_high=int(high))
    return settings.guidance_low, settings.guidance_high


INTERVALS = [(0, 999), (0, 600), (0, 800), (200, 999)]


# ---- the search


def axes_of(args: argparse.Namespace, masked_pass: bool) -> list[list[Change]]:
    """What is varied, one setting after the other, and the values of each. `masked_pass`: whether the model has one."""
    kinds = args.guidance if masked_pass else ["class"]
    return [
        [{"first_timestep": first} for first in args.first_timestep],
        [{"guidance_scale": scale} for scale in args.scale],
        [{"guidance_power": power} for power in args.power],
        [{"guidance_low": low, "guidance_high": high} for low, high in args.interval],
        [{"guidance_kind": kind} for kind in kinds],
        [{"sampler": sampler} for sampler in args.sampler],
    ]


def search(
    start: SamplingSettings, axes: Sequence[Sequence[Change]], distance: Callable[[SamplingSettings], float]
) -> SamplingSettings:
    """The settings of the least distance that no change of a single axis betters, from `start` on."""
    best, before = start, None
    while best != before:
        before = best
        for changes in axes:
            best = min([best, *(replace(best, **change) for change in changes)], key=distance)
    return best


# ---- rows


@dataclass(frozen=True)
class Rows:
    """Settings -> figures, each measured once and kept in `folder/rows.jsonl`, its pictures beside it."""

    folder: Path
    pipe: Any  # an `mdt_core.MDTPipeline`
    judge: features.Judge
    reference: ReferenceStatistics
    of: Row  # what a row says of the model, the reference and the seeds: rows of others are left alone
    batch_size: int

    def __call__(self, settings: SamplingSettings, num_images: int) -> Row:
        """The row of these settings, from the file or measured now."""
        asked = self.of | settings.arguments | {"num_images": num_images}
        for row in read_rows(self.folder / "rows.jsonl"):
            if asked.items() <= row.items():
                return row
        row = asked | {"evaluations": settings.evaluations} | self._measure(settings, num_images)
        append_row(self.folder / "rows.jsonl", row)
        print(table([shown(row)]), flush=True)
        return row

    def _measure(self, settings: SamplingSettings, num_images: int) -> dict[str, float]:
        """Draw the pictures that are not there yet, and judge all."""
        whose = {name: self.of[name] for name in ("weights", "first_seed")}
        sampling = samples.Sampling(**settings.arguments, **whose, num_images=num_images)
        folder = self.folder / "pictures" / f"{self.of['weights']}-{self.of['first_seed']}" / named(settings)
        samples.claim(folder, sampling)
        batches = samples.share(samples.missing(folder, num_images), self.batch_size, 0, 1)
        samples.draw(self.pipe, sampling, folder, batches)
        drawn = samples.pack(folder, sampling, self.pipe.num_classes, tuple(self.pipe.id2label.values()))
        seen = features.extract(self.judge, drawn.images, name=named(settings))
        return figures(self.reference, seen, self.judge, float64_device(self.pipe.device))


def named(s: SamplingSettings) -> str:
    """A name for settings, which names a folder too."""
    start = "" if s.first_timestep == DEFAULTS.first_timestep else f"-from-{s.first_timestep}"
    weights = "-distilled" if s.distilled else ""
    steps, interval = f"{s.sampler}-{s.num_inference_steps}{start}{weights}", f"{s.guidance_low}-{s.guidance_high}"
    return f"{steps}_{s.guidance_kind}-{s.guidance_scale:g}_power-{s.guidance_power:g}_{interval}"


def settings_of(row: Row) -> SamplingSettings:
    """The settings that a row was measured with."""
    return SamplingSettings(**{field.name: row[field.name] for field in fields(SamplingSettings)})


def shown(row: Row) -> Row:
    """A row for `judging.table`: the settings by their name, and the figures, each of which has its judge's."""
    values = {name: value for name, value in row.items() if isinstance(value, float) and not hasattr(DEFAULTS, name)}
    return {
        "images": f"{row['num_images']} of {named(settings_of(row))}",
        "evaluations": float(row["evaluations"]),
    } | values


# ---- the choice


def front(rows: Iterable[Row], kid: str) -> list[Row]:
    """The rows that no other equals or betters at as few evaluations or fewer; by evaluations. `kid`: the figure."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["evaluations"], row[kid])):
        if not best or row[kid] < best[-1][kid]:
            best.append(row)
    return best


def choose(rows: Sequence[Row], kid: str, limits: dict[str, float]) -> dict[str, Row]:
    """The row of the lowest KID for each preset, among those of at most so many evaluations.

    Raises:
        ValueError: none is within a preset's limit.
    """
    chosen = {}
    for preset, limit in limits.items():
        within = [row for row in rows if row["evaluations"] <= limit]
        if not within:
            raise ValueError(f"no row is within {limit:g} evaluations, for the preset {preset}: try fewer --steps")
        chosen[preset] = min(within, key=lambda row: row[kid])
    return chosen


def panels(coarse: Sequence[Row], fine: Sequence[Row], kid: str) -> list[Panel]:
    """The fronts of both counts of pictures: KID with its error, precision and recall, against evaluations."""
    fronts = {f"{rows[0]['num_images']:,} pictures": front(rows, kid) for rows in (coarse, fine) if rows}
    drawn = []
    for figure in (kid, *(kid.replace("KID", word) for word in ("precision", "recall"))):
        lines = []
        for name, rows in fronts.items():
            x, y = ([row[key] for row in rows] for key in ("evaluations", figure))
            errors = [row[f"{kid} error"] if figure == kid else 0 for row in rows]
            low, high = ([value + sign * error for value, error in zip(y, errors, strict=True)] for sign in (-1, 1))
            lines.append(Line(name, x, y, low, high, [f"{row['num_inference_steps']} steps" for row in rows]))
        drawn.append(Panel("model evaluations a picture", figure, lines))
    return drawn


def write_presets(index: Path, presets: dict[str, SamplingSettings]) -> None:
    """Put presets into a pipeline's `sampling_defaults`: balanced whole, of the others what differs from it."""
    balanced = presets["balanced"]
    others = {name: balanced.changes_of(presets[name]) for name in ("fast", "slow")}
    config = read_json(index) | {"sampling_defaults": balanced.arguments | {"presets": others}}
    write_whole(index, lambda path: path.write_text(json.dumps(config, indent=2) + "\n", "utf-8"))


# ---- the command


def run(args: argparse.Namespace) -> None:
    """Search, draw the finalists again, choose, report, write."""
    index = model_index_of(Path(args.model)) if args.write else None
    sources.locate(args.reference, args.data)  # before anything is drawn
    device = choose_device(args.device)
    pipe, judge = samples.load_pipeline(args.model, device), open_judge(args.judge, device)
    of = {"weights": samples.weights_fingerprint(pipe), "reference": args.reference, "first_seed": args.seed}
    reference = open_reference(args.reference, judge, args.data, args.size)
    if reference.features is None:
        raise ValueError(f"{args.reference} holds statistics without images: there is no KID to go by")
    of |= {"judge": judge.name, "reference_features": fingerprint(reference.features.pooled)}
    row, kid = Rows(args.out, pipe, judge, reference, of, args.batch_size), figure_name("KID", judge)

    coarse: dict[SamplingSettings, Row] = {}
    fine: list[Row] = []
    best, axes = pipe.sampling_defaults, axes_of(args, "side_interpolator" in pipe.transformer.parts)

    def distance(settings: SamplingSettings) -> float:
        coarse[settings] = row(settings, args.coarse)
        return coarse[settings][kid]

    for steps in args.steps:
        best = search(best.but(num_inference_steps=steps), axes, distance)
        tried = sorted((s for s in coarse if s.num_inference_steps == steps), key=distance)
        fine += [row(settings, args.fine) for settings in tried[: args.finalists]]
    fine += [row(settings, args.fine) for settings in set(pipe.sampling_presets.values()) if settings.distilled]

    chosen = choose(fine, kid, {"fast": args.fast, "balanced": args.balanced, "slow": math.inf})
    print(table([shown(each) for each in (*front(coarse.values(), kid), *fine)]))
    save_chart(panels(list(coarse.values()), fine, kid), args.out / "front.png")
    print(args.out / "front.png")
    if index is not None:
        write_presets(index, {name: settings_of(each) for name, each in chosen.items()})
    print(json.dumps(chosen))


if __name__ == "__main__":
    build_parser().run(run)
